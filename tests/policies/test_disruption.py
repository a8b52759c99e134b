"""Is what may be disturbed at once counted rightly, and is an act verified by what it was for?"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from policies.disruption import DisruptionSettings, gone, last_healthy, settled, why_no_restart, why_not_now
from policies.fleet import Phase, ReplicaState
from policies.healing_memory import ActionMemory
from policies.lead_time import LeadTime
from tests.builders import AT, KEY, MODEL, fleet, pool, replica

SETTINGS = DisruptionSettings()
LEAD = LeadTime(80.0, 100.0, 5, measured=True)


def act(started_s_ago: float = 60.0, **changes: Any) -> ActionMemory:
    started = AT - started_s_ago
    return replace(ActionMemory("old", "restart", MODEL, str(KEY), started, started + 200.0), **changes)


def outcome(one: ActionMemory, *replicas: ReplicaState, desired: int | None = None) -> tuple[bool, bool] | None:
    """Return ``(open, verified)`` after a look at the pool; None when it is forgotten."""
    kept = settled(fleet(pool(replicas, desired=desired)), [one], SETTINGS)
    return (kept[0].open, kept[0].verified) if kept else None


OLD = replica("other")
DONE, RUNNING, FAILED = (False, True), (True, False), (False, False)


def test_a_restart_is_verified_by_a_successor_that_serves() -> None:
    assert outcome(act(), OLD, replica("new", requested_at=AT - 60.0, since_at=AT)) == DONE


@pytest.mark.parametrize("phase", [Phase.PENDING, Phase.LOADING, Phase.FAILED])
def test_a_successor_that_does_not_serve_verifies_nothing(phase: Phase) -> None:
    assert outcome(act(), OLD, replica("new", phase, requested_at=AT - 60.0)) == RUNNING


def test_a_cordoned_successor_verifies_nothing() -> None:
    assert outcome(act(), OLD, replica("new", requested_at=AT - 60.0, cordoned=True)) == RUNNING


def test_a_pool_that_is_whole_without_it_verifies_the_act() -> None:
    assert outcome(act(), OLD, desired=1) == DONE
    assert outcome(act(), OLD, desired=2) == RUNNING


def test_an_unfinished_scale_up_does_not_hold_up_verification() -> None:
    successor = replica("new", requested_at=AT - 60.0, since_at=AT)
    growing = [replica(f"l{i}", Phase.LOADING, requested_at=AT - 5.0) for i in range(4)]
    assert outcome(act(), OLD, successor, *growing) == DONE


def test_as_long_as_the_old_life_is_there_nothing_is_verified() -> None:
    assert outcome(act(), replica("old"), OLD) == RUNNING


def test_a_successor_may_have_the_same_name() -> None:
    assert outcome(act(), replica("old", requested_at=AT - 59.0, since_at=AT), OLD) == DONE


def test_a_replica_from_the_future_is_an_old_one_and_the_clock_was_set_back() -> None:
    old = replica("old", requested_at=AT + 600.0)
    assert outcome(act(), old, replica("other", requested_at=AT + 500.0)) == RUNNING
    assert outcome(act(), replica("other", requested_at=AT + 500.0), desired=2) == RUNNING


def test_an_act_is_not_verified_in_the_tick_it_was_made() -> None:
    assert outcome(act(0.0), OLD, desired=1) == RUNNING


def test_past_its_deadline_an_act_has_failed() -> None:
    assert outcome(act(201.0), replica("old"), OLD) == FAILED


def test_an_act_in_a_pool_that_vanished_ends_at_its_deadline() -> None:
    state = fleet(pool(1, KEY.__class__("other", "x")))
    assert settled(state, [act(10.0)], SETTINGS)[0].open
    assert not settled(state, [act(201.0)], SETTINGS)[0].open


def test_closed_acts_are_forgotten_after_the_attempt_window() -> None:
    assert outcome(act(3600.0, open=False), OLD) == FAILED
    assert outcome(act(3601.0, open=False), OLD) is None


def test_an_open_act_outlives_the_attempt_window_until_its_deadline() -> None:
    slow = act(4000.0, deadline_at=AT + 100.0)
    assert outcome(slow, replica("old")) == RUNNING


def test_budgets_count_models_and_the_whole_fleet() -> None:
    assert why_not_now("m", [], SETTINGS) is None
    assert why_not_now("m", [("m", "a")], SETTINGS).rule == "disruption budget"  # type: ignore[union-attr]
    assert why_not_now("m", [("n", "a"), ("o", "b")], SETTINGS) is None
    full = why_not_now("m", [("n", "a"), ("o", "b"), ("p", "c")], SETTINGS)
    assert full is not None
    assert full.rule == "fleet disruption budget"


def refused(state: ReplicaState, *acts: ActionMemory, at: float = AT) -> str:
    refusal = why_no_restart(pool([state]), state, acts, LEAD, at, SETTINGS)
    return refusal.rule if refusal else ""


def test_nothing_restarts_inside_its_load_time() -> None:
    loading = replica("l", Phase.LOADING, requested_at=AT - 99.0)
    assert refused(loading) == "inside its load time"
    assert refused(replace(loading, requested_at=AT - 100.0)) == ""
    assert refused(replace(loading, requested_at=AT - 5_000.0, placed_at=AT - 99.0)) == "inside its load time"


def test_a_failed_restart_makes_the_next_one_wait_longer_each_time() -> None:
    failed = [act(700.0, open=False), act(301.0, open=False)]
    assert refused(OLD, failed[1]) == ""
    assert refused(OLD, *failed) == "cooldown"
    assert refused(OLD, *failed, at=AT + 299.0) == ""


def test_a_restart_that_helped_makes_nobody_wait() -> None:
    assert refused(OLD, act(10.0, open=False, verified=True)) == ""


def test_after_enough_attempts_only_a_human_goes_on() -> None:
    tried = [act(900.0, open=False, verified=True)] * 4
    assert refused(OLD, *tried) == "attempt cap"
    assert why_no_restart(pool([OLD]), OLD, tried, LEAD, AT, SETTINGS).final  # type: ignore[union-attr]


def test_attempts_in_another_pool_do_not_count() -> None:
    assert refused(OLD, *[act(900.0, pool="m/z/unified", open=False)] * 9) == ""


@pytest.mark.parametrize(
    ("sick", "present", "is_open"),
    [(1, 1, False), (1, 2, False), (2, 6, False), (2, 5, True), (3, 8, True), (0, 0, False)],
)
def test_the_breaker_opens_at_its_share_and_never_for_one(sick: int, present: int, is_open: bool) -> None:
    assert SETTINGS.breaker_open(sick, present) is is_open


@pytest.mark.parametrize(("present", "least", "floor"), [(10, 0, 5), (3, 0, 2), (4, 4, 4), (0, 0, 0), (1, 0, 1)])
def test_the_floor_is_the_larger_of_the_share_and_the_minimum(present: int, least: int, floor: int) -> None:
    assert SETTINGS.serving_floor(present, least) == floor


def test_what_starts_for_the_first_time_was_never_healthy_and_what_starts_again_was() -> None:
    first, again = replica("b", Phase.LOADING), replica("c", Phase.LOADING, restarts=1)
    state = fleet(pool([OLD, first, again, replica("d", Phase.FAILED)]))
    assert last_healthy(state, KEY.stage, {}) == 3


def test_what_a_lost_node_took_with_it_counts_as_long_as_it_is_remembered() -> None:
    state = fleet(pool([OLD, replica("n1", Phase.PENDING), replica("n2", Phase.PENDING)]))
    names = [KEY.replica("a1"), KEY.replica("a2"), KEY.replica("a3"), f"{KEY}x/a9", KEY.replica("other")]
    assert last_healthy(state, KEY.stage, gone(state, names[:1])) == 2
    assert last_healthy(state, KEY.stage, gone(state, names)) == 3  # never more than are there
    assert last_healthy(state, KEY.stage, gone(state, [names[3]])) == 1  # of another pool
    assert gone(state, [KEY.replica("n1")]) == {}
