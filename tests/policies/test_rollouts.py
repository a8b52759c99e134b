"""Is what fails put down to a revision, to starts, to memory or to what is sent: each to the right one, or to none?"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from policies.fleet import Phase, PoolState, ReplicaState
from tests.builders import AT, pool
from tests.builders_evidence import Examiner, of_pool, said_of, working

OLD_S = 1200.0
"""How long the first revision has served and was watched before anything happens: long enough to be good."""


def exited(name: str, after_s: float, times: int, reason: str = "Error", **changes: Any) -> ReplicaState:
    """A replica that has exited so many times and waits to be started again."""
    facts = {
        "since_at": AT + after_s,
        "requested_at": AT + after_s,
        "waiting_reason": "CrashLoopBackOff",
        "exit_reason": reason,
        "restarts": times,
    }
    return working(name, after_s, phase=Phase.FAILED, **{**facts, **changes})


def back(name: str, after_s: float, exited_s: float, reason: str = "Error", **changes: Any) -> ReplicaState:
    """A replica that serves again after it exited once."""
    at = AT + exited_s
    return working(name, after_s, restarts=1, requested_at=at, since_at=at + 10.0, exit_reason=reason, **changes)


def fleet_of(old: int, after_s: float, *new: ReplicaState, revision: str = "2", **changes: Any) -> PoolState:
    """Replicas of revision 1 that work, and others of the newest revision, which came at ``OLD_S``."""
    first = [working(f"a{place}", after_s, revision="1") for place in range(old)]
    facts: dict[str, Any] = {"revision_at": AT + OLD_S, "revisions": ("1", revision)}
    newest = tuple(replace(each, revision=revision) for each in new)
    return replace(pool([*first, *newest]), revision=revision, **{**facts, **changes})


def before(examiner: Examiner, count: int = 6) -> Examiner:
    """Watch the first revision until ``OLD_S``."""
    examiner.over(
        OLD_S, lambda t: replace(pool([working(f"a{i}", t, revision="1") for i in range(count)]), revision="1")
    )
    return examiner


def rollout(state: Callable[[float], PoolState], lasting_s: float = 600.0) -> set[str]:
    """Return what is believed of the pool at the end of a rollout that began at ``OLD_S``."""
    return of_pool(before(Examiner()).over(OLD_S + lasting_s, state))


# a new revision


def crashing(after_s: float) -> list[ReplicaState]:
    """Two replicas that exit at every start, one exit a minute each."""
    times = 1 + int((after_s - OLD_S) / 60.0)
    return [exited(f"b{place}", after_s, times) for place in range(2)]


def test_failures_of_the_new_revision_alone_are_put_down_to_it() -> None:
    assert rollout(lambda t: fleet_of(4, t, *crashing(t))) == {"bad-revision"}


def test_it_is_put_down_to_it_also_when_nothing_of_the_old_one_is_left() -> None:
    assert rollout(lambda t: fleet_of(0, t, *crashing(t))) == {"bad-revision"}


def test_a_revision_whose_image_does_not_come_is_one_that_fails() -> None:
    def shown(t: float) -> PoolState:
        held = {"phase": Phase.PENDING, "waiting_reason": "ImagePullBackOff", "requested_at": AT + OLD_S,
                "since_at": AT + OLD_S}  # fmt: skip
        return fleet_of(4, t, *(working(f"b{i}", t, **held) for i in range(2)))

    assert rollout(shown) == {"bad-revision"}


def test_one_failure_makes_no_pattern() -> None:
    assert rollout(lambda t: fleet_of(4, t, exited("b0", t, 1, since_at=AT + OLD_S))) == set()


def test_a_good_rollout_is_believed_to_be_nothing() -> None:
    assert rollout(lambda t: fleet_of(3, t, *(working(f"b{i}", t, since_at=AT + OLD_S) for i in range(3)))) == set()


def test_a_rollout_that_merely_takes_its_time_is_nothing() -> None:
    def shown(t: float) -> PoolState:
        loading = {"phase": Phase.LOADING, "requested_at": AT + t - 60.0, "since_at": AT + t - 60.0}
        return fleet_of(4, t, *(working(f"b{i}", t, **loading) for i in range(2)))

    assert rollout(shown) == set()


def test_failures_of_old_and_new_alike_are_not_the_revisions() -> None:
    def shown(t: float) -> PoolState:
        times = 1 + int((t - OLD_S) / 60.0)
        old = [replace(exited(f"c{i}", t, times), revision="1") for i in range(2)]
        state = fleet_of(2, t, *crashing(t))
        return replace(state, replicas=(*state.replicas, *old))

    assert rollout(shown) == {"starts-fail"}


def test_exits_of_the_old_one_since_it_came_speak_for_the_new_one() -> None:
    """Whatever makes both exit is no revision's doing, also where the old ones are up again."""

    def shown(t: float) -> PoolState:
        old = [back(f"c{i}", t, OLD_S + 60.0, revision="1") for i in range(2) if t >= OLD_S + 60.0]
        state = fleet_of(2, t, *crashing(t))
        before = [working(f"c{i}", t, revision="1") for i in range(2) if t < OLD_S + 60.0]
        return replace(state, replicas=(*state.replicas, *old, *before))

    examiner = Examiner()
    examiner.over(OLD_S, lambda t: pool([working(f"{name}{i}", t, revision="1") for name in "ac" for i in range(2)]))
    assert "bad-revision" not in of_pool(examiner.over(OLD_S + 300.0, shown))


def test_a_revision_that_has_shown_to_be_good_is_not_suspected() -> None:
    examiner = before(Examiner())

    def good(t: float) -> PoolState:
        return fleet_of(0, t, *(working(f"b{i}", t, since_at=AT + OLD_S) for i in range(6)))

    examiner.over(OLD_S + 5400.0, good)
    late = examiner.over(OLD_S + 6000.0, lambda t: fleet_of(0, t, *crashing(t), *good(t).replicas[2:]))
    assert "bad-revision" not in of_pool(late)


def test_without_another_revision_on_record_no_revision_is_suspected() -> None:
    found = Examiner().over(OLD_S + 600.0, lambda t: fleet_of(0, t, *crashing(max(t, OLD_S))))
    assert "bad-revision" not in of_pool(found)


# its cohort


def two_cohorts(t: float, new_tpot_s: float, count: int = 4, spread: float = 0.05) -> PoolState:
    """Equally many of the old revision at 50 ms and of the new one, with a little scatter, past their cold start."""
    old = [working(f"a{i}", t, revision="1", tpot_mean_s=0.05 * (1 + spread * i / count)) for i in range(count)]
    new = [
        working(f"b{i}", t, revision="2", since_at=AT + OLD_S, tpot_mean_s=new_tpot_s * (1 + spread * i / count))
        for i in range(count)
    ]
    return replace(pool([*old, *new]), revision="2", revision_at=AT + OLD_S, revisions=("1", "2"))


def test_a_new_revision_that_is_slower_as_a_cohort_is_one_that_fails() -> None:
    examiner = before(Examiner())
    found = examiner.over(OLD_S + 600.0, lambda t: two_cohorts(t, 0.15))
    assert of_pool(found) == {"bad-revision"}
    assert {"cohort", "revision", "latency"} <= set(said_of(found))


@pytest.mark.parametrize("new_tpot_s", [0.05, 0.055, 0.02])
def test_one_as_fast_or_faster_or_hardly_slower_is_none(new_tpot_s: float) -> None:
    assert rollout(lambda t: two_cohorts(t, new_tpot_s)) == set()


def test_a_difference_of_medians_within_wide_scatter_is_chance() -> None:
    """Four against four, their ranks mixed: Mann-Whitney's U is far from its end."""
    old, new = (0.02, 0.05, 0.06, 0.40), (0.03, 0.09, 0.11, 0.30)

    def shown(t: float) -> PoolState:
        state = two_cohorts(t, 0.05)
        replicas = [
            replace(r, metrics=replace(r.metrics, tpot_mean_s=tpot_s))  # type: ignore[type-var]
            for r, tpot_s in zip(state.replicas, (*old, *new), strict=True)
        ]
        return replace(state, replicas=tuple(replicas))

    assert "bad-revision" not in rollout(shown)


def test_a_cohort_that_tells_no_tpot_is_not_compared() -> None:
    assert "bad-revision" not in rollout(lambda t: two_cohorts(t, math.nan))


# starts


def test_starts_that_all_fail_without_a_rollout_are_not_a_revisions() -> None:
    def shown(t: float) -> PoolState:
        times = 1 + int((t - OLD_S) / 60.0)
        working_on = [working(f"a{i}", t, revision="1") for i in range(2, 6)]
        return pool([*(exited(f"a{i}", t, times, revision="1") for i in range(2)), *working_on])

    found = before(Examiner()).over(OLD_S + 600.0, shown)
    assert of_pool(found) == {"starts-fail"}


def test_a_start_that_succeeds_since_speaks_against_that() -> None:
    examiner = before(Examiner())

    def failing(t: float) -> PoolState:
        times = 1 + int((t - OLD_S) / 60.0)
        return pool([*(exited(f"a{i}", t, times) for i in range(2)), *(working(f"a{i}", t) for i in range(2, 6))])

    examiner.over(OLD_S + 300.0, failing)

    def well(t: float) -> PoolState:
        again = {"since_at": AT + OLD_S + 310.0, "restarts": 6, "requested_at": AT + OLD_S + 300.0}
        return pool([*(working(f"a{i}", t, **again) for i in range(2)), *(working(f"a{i}", t) for i in range(2, 6))])

    assert "starts-fail" not in of_pool(examiner.over(OLD_S + 330.0, well))


# memory, and what is sent


def serial(reason: str, every_s: float, count: int = 4, nodes: int = 6) -> Callable[[float], PoolState]:
    """Replicas that served exit one after the other, and serve again at once."""

    def shown(t: float) -> PoolState:
        replicas = []
        for place in range(6):
            exited_s = OLD_S + every_s * (place + 1)
            facts: dict[str, Any] = {"revision": "1", "node": f"n{place % nodes}"}
            if place < count and t >= exited_s:
                replicas.append(back(f"a{place}", t, exited_s, reason, **facts))
            else:
                replicas.append(working(f"a{place}", t, **facts))
        return pool(replicas)

    return shown


def test_replicas_that_exit_one_after_the_other_are_suspected_to_be_poisoned() -> None:
    assert rollout(serial("Error", 30.0), 180.0) == {"poison"}


def test_engines_that_are_killed_for_want_of_memory_are_not_poisoned() -> None:
    assert rollout(serial("OOMKilled", 30.0), 180.0) == {"out-of-memory"}


def test_one_or_two_exits_of_what_served_are_single_replicas() -> None:
    assert rollout(serial("Error", 30.0, count=1), 180.0) == set()
    assert rollout(serial("Error", 30.0, count=2), 180.0) == set()


def test_exits_at_one_instant_have_one_cause_that_is_no_request() -> None:
    assert "poison" not in rollout(serial("Error", 0.0), 180.0)


def test_failures_are_forgotten() -> None:
    examiner = before(Examiner())
    examiner.over(OLD_S + 180.0, serial("Error", 30.0))
    assert of_pool(examiner.over(OLD_S + 2400.0, serial("Error", 30.0))) == set()


def test_exits_from_before_the_first_look_are_nobodys_fault_now() -> None:
    found = Examiner().over(
        60.0, lambda t: pool([working(f"a{i}", t, restarts=7, exit_reason="Error") for i in range(6)])
    )
    assert of_pool(found) == set()
