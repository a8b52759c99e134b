"""Which revision is one to go back to: one that served healthy while it was watched, and can be restored?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from policies.fleet import Phase, PoolState, ReplicaState
from policies.memory import PolicyMemory, PoolMemory, RevisionMemory
from policies.revisions import (
    LONGEST_LOOK_S,
    MOST_REVISIONS,
    WITNESS_S,
    WITNESS_WAIT_S,
    RevisionSettings,
    good_revision,
    left_by_roll_back,
    witness_due,
)
from tests.builders import AT, KEY, fleet, pool, replica
from tests.builders_evidence import Examiner, working

SETTINGS = RevisionSettings()


def of(*revisions: str, after_s: float = 0.0, first: Mapping[str, Any] | None = None, **changes: Any) -> PoolState:
    """A pool with one replica of each revision; the last is its own, and all can be restored; ``first`` is ``a0``."""
    replicas = [
        working(f"a{place}", after_s, revision=name, **(first or {} if place == 0 else {}))
        for place, name in enumerate(revisions)
    ]
    return replace(pool(replicas), **{"revision": revisions[-1], "revisions": tuple(revisions), **changes})


def known_to(examiner: Examiner) -> Mapping[str, RevisionMemory]:
    return examiner.memory.pools[str(KEY)].revisions


def watched(until_s: float, *revisions: str, **first: Any) -> Mapping[str, RevisionMemory]:
    """Return what is remembered of revisions whose replicas were looked at every 15 s until then."""
    examiner = Examiner()
    examiner.over(until_s, lambda t: of(*revisions, after_s=t, first=first))
    return known_to(examiner)


def test_time_served_while_watched_adds_up() -> None:
    found = watched(600.0, "1")["1"]
    assert (found.seen_at, found.healthy_s, found.looked_at) == (AT, 600.0, AT + 600.0)
    assert found.rolled_back_at is None


def test_time_with_a_sick_replica_of_it_does_not_count() -> None:
    hung = {"steps_total": 1000.0, "output_tokens_total": 2e4, "prompt_tokens_total": 1e5}
    found = watched(600.0, "1", "2", "2", **hung, answered_requests_total=100.0)
    assert found["2"].healthy_s == 600.0
    assert found["1"].healthy_s < 100.0  # until it was noticed


@pytest.mark.parametrize("changes", [{"phase": Phase.LOADING}, {"cordoned": True}])
def test_what_does_not_serve_is_not_healthy(changes: dict[str, Any]) -> None:
    assert watched(600.0, "1", "2", **changes)["1"].healthy_s == 0.0


@pytest.mark.parametrize(("apart_s", "counted_s"), [(LONGEST_LOOK_S, LONGEST_LOOK_S), (LONGEST_LOOK_S + 1.0, 0.0)])
def test_what_was_not_watched_does_not_count(apart_s: float, counted_s: float) -> None:
    examiner = Examiner()
    for after_s in (0.0, apart_s):
        examiner.look(fleet(of("1", after_s=after_s), at=AT + after_s))
    assert known_to(examiner)["1"].healthy_s == counted_s


def test_a_clock_that_goes_back_adds_nothing() -> None:
    examiner = Examiner()
    examiner.over(600.0, lambda t: of("1", after_s=t))
    examiner.look(fleet(of("1", after_s=0.0), at=AT))
    assert known_to(examiner)["1"].healthy_s == 600.0


def test_so_many_revisions_are_kept_the_latest_seen() -> None:
    examiner = Examiner()
    for place in range(MOST_REVISIONS + 3):
        examiner.look(fleet(of(str(place), after_s=15.0 * place), at=AT + 15.0 * place))
    assert sorted(known_to(examiner), key=int) == [str(place) for place in range(3, MOST_REVISIONS + 3)]


GOOD = RevisionMemory(AT - 9000.0, SETTINGS.good_after_s, AT - 100.0)


@pytest.mark.parametrize(
    ("revisions", "restorable", "found"),
    [
        ({"1": GOOD}, ("1", "2"), "1"),
        ({"1": GOOD}, ("2",), ""),
        ({"1": GOOD}, (), ""),
        ({"1": replace(GOOD, healthy_s=SETTINGS.good_after_s - 1.0)}, ("1", "2"), ""),
        ({"1": replace(GOOD, rolled_back_at=AT - 50.0)}, ("1", "2"), ""),
        ({"2": GOOD}, ("1", "2"), ""),
        ({"0": replace(GOOD, looked_at=AT - 500.0), "1": GOOD}, ("0", "1", "2"), "1"),
        ({"0": GOOD, "1": replace(GOOD, looked_at=AT - 500.0)}, ("0", "1", "2"), "0"),
        ({}, ("1", "2"), ""),
    ],
)
def test_the_last_seen_of_those_that_were_good_and_can_be_restored_is_gone_back_to(
    revisions: dict[str, RevisionMemory], restorable: tuple[str, ...], found: str
) -> None:
    state = of("2", revisions=restorable)
    assert good_revision(state, PoolMemory(revisions=revisions), SETTINGS) == found


def test_a_revision_that_was_rolled_back_is_never_gone_back_to() -> None:
    left = left_by_roll_back(PoolMemory(revisions=watched(900.0, "1")), "1", AT + 900.0)
    examiner = Examiner(memory=PolicyMemory(pools={str(KEY): left}, decided_at=AT + 900.0))
    examiner.over(1800.0, lambda t: of("1", after_s=t))
    assert known_to(examiner)["1"].rolled_back_at == AT + 900.0
    assert good_revision(of("2", revisions=("1", "2")), examiner.memory.pools[str(KEY)], SETTINGS) == ""


def test_one_that_was_left_before_anybody_watched_it_is_noted_too() -> None:
    assert left_by_roll_back(PoolMemory(), "7", AT).revisions["7"].rolled_back_at == AT


OLD, NEW = RevisionMemory(AT - 9e3, 5e3, AT), RevisionMemory(AT - 400.0, 0.0, AT)


def awaited(*replicas: ReplicaState, ill: int = 0, failed_ago_s: float = 60.0, new: RevisionMemory = NEW) -> bool:
    """Whether a witness is due for the first of these; ``ill`` of those after it are not well either."""
    rollout = replace(pool(replicas), revision="2", revisions=("1", "2"))
    known = PoolMemory(revisions={"1": OLD, "2": new})
    well = [r for r in replicas[1 + ill :] if r.serving]
    return witness_due(rollout, known, replicas[0], well, AT - failed_ago_s, AT, SETTINGS)


def one(revision: str, name: str = "x", served_s: float = 200.0, phase: Phase = Phase.READY) -> ReplicaState:
    return replica(name, phase, since_at=AT - served_s, revision=revision)


FIRST, BEFORE = one("2", "a0"), one("1", "a1", 8e3)
"""The first of a new revision, which was well for 140 s and then was not, and one of the revision before it."""


@pytest.mark.parametrize("phase", [Phase.PENDING, Phase.LOADING, Phase.READY])
def test_the_next_of_a_revision_on_trial_is_waited_for(phase: Phase) -> None:
    assert awaited(FIRST, BEFORE, one("2", served_s=10.0, phase=phase))


def test_another_one_that_is_ill_as_well_is_no_proof_that_the_revision_is_well() -> None:
    assert awaited(FIRST, one("2", served_s=5e3), BEFORE, ill=1)


def test_nobody_is_waited_for_once_another_one_has_been_well_for_longer() -> None:
    assert awaited(FIRST, BEFORE, one("2", served_s=140.0 + WITNESS_S))
    assert not awaited(FIRST, BEFORE, one("2", served_s=141.0 + WITNESS_S))


def test_nobody_is_waited_for_where_there_is_nobody_nothing_else_serves_or_it_takes_too_long() -> None:
    coming = one("2", phase=Phase.LOADING)
    assert not awaited(FIRST, BEFORE)
    assert not awaited(FIRST, coming)
    assert awaited(FIRST, BEFORE, coming, failed_ago_s=WITNESS_WAIT_S)
    assert not awaited(FIRST, BEFORE, coming, failed_ago_s=WITNESS_WAIT_S + 1.0)


def test_nobody_is_waited_for_where_no_revision_is_on_trial() -> None:
    coming = one("2", phase=Phase.LOADING)
    assert not awaited(one("1", "a0"), BEFORE, coming)
    assert not awaited(FIRST, BEFORE, coming, new=replace(NEW, healthy_s=SETTINGS.good_after_s))
