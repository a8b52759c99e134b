"""Does a new revision take a pool over as a Deployment of Kubernetes lets it, and can it be stopped and undone?"""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from controller.errors import ActuationError
from policies.fleet import Phase, PoolState
from simulations.faults import Rollout
from simulations.fleet import SimulatedFleet
from simulations.outcomes import RequestStatus
from simulations.platform_settings import PlatformSettings
from simulations.revisions import (
    CrashesAfter,
    CrashesAtStart,
    Fine,
    HangsAfter,
    HasErrors,
    IsSlow,
    least_ready,
    most_at_once,
    spread,
)
from tests.builders_fleet import a_batch, a_fleet, a_key, a_pool, poisson

READY = Phase.READY


def only_pool(fleet: SimulatedFleet) -> PoolState:
    (pool,) = fleet.cluster.pools()
    return pool


def revisions(fleet: SimulatedFleet, *, ready: bool = False) -> Counter[str]:
    """Return how many replicas of each revision there are, without those that drain."""
    return Counter(
        r.revision
        for r in only_pool(fleet).replicas
        if r.phase is not Phase.DRAINING and (not ready or r.phase is READY)
    )


def rolled_out(replicas: int = 4, **behaviour: Any) -> SimulatedFleet:
    """A pool with a lead time of 100 s that is given revision 2 at 10 s."""
    fleet = a_fleet([a_pool(replicas)], drain_deadline_s=30.0)
    fleet.inject(Rollout(10.0, **behaviour))
    fleet.advance(10.0)
    return fleet


def test_a_rollout_surges_by_a_quarter_and_leaves_three_quarters_ready() -> None:
    fleet = rolled_out(8)
    # 8 desired: at most 10 at once, at least 6 READY; two of the oldest go at once.
    assert revisions(fleet) == {"1": 6, "2": 4}
    assert [r.id for r in only_pool(fleet).replicas if r.revision == "1"] == [f"main-{n}" for n in range(2, 8)]
    pool = only_pool(fleet)
    assert (pool.revision, pool.revision_at, pool.revisions, pool.desired) == ("2", 10.0, ("1", "2"), 8)
    fleet.advance(110.0)
    assert revisions(fleet) == {"1": 2, "2": 8}
    assert revisions(fleet, ready=True) == {"1": 2, "2": 4}
    fleet.advance(210.0)
    assert revisions(fleet, ready=True) == {"2": 8}


def test_at_every_instant_of_a_rollout_the_bounds_hold_and_no_request_is_lost() -> None:
    fleet = a_fleet([a_pool(5, lead_time_p90_ratio=1.4)], [a_batch(poisson(20.0, 8_000))])
    fleet.inject(Rollout(20.0))
    for at in range(20, 420):
        fleet.advance(float(at))
        assert sum(revisions(fleet).values()) <= most_at_once(5)
        assert sum(revisions(fleet, ready=True).values()) >= least_ready(5)
    assert revisions(fleet, ready=True) == {"2": 5}
    fleet.finish()
    assert fleet.outcomes.count(RequestStatus.COMPLETED) == 8_000


def test_a_single_replica_is_replaced_only_when_its_successor_is_ready() -> None:
    fleet = rolled_out(1)
    assert revisions(fleet) == {"1": 1, "2": 1}
    fleet.advance(109.0)
    assert revisions(fleet, ready=True) == {"1": 1}
    fleet.advance(110.0)
    assert revisions(fleet) == {"2": 1}


def test_a_revision_that_crashes_while_it_starts_stops_its_rollout_and_waits_in_crash_loop_back_off() -> None:
    fleet = rolled_out(behaviour=CrashesAtStart())
    fleet.advance(2_000.0)
    assert revisions(fleet) == {"1": 3, "2": 2}
    assert revisions(fleet, ready=True) == {"1": 3}
    for replica in only_pool(fleet).replicas:
        if replica.revision == "2":
            assert (replica.exit_reason, replica.restarts > 3) == ("Error", True)
            assert (replica.waiting_reason == "CrashLoopBackOff") == (replica.phase is Phase.FAILED)


def test_a_first_failed_start_is_no_crash_loop_yet() -> None:
    fleet = rolled_out(behaviour=CrashesAtStart())
    fleet.advance(71.0)  # 20 s until it loads, half of 80 s until it exits
    failed = [r for r in only_pool(fleet).replicas if r.phase is Phase.FAILED]
    assert [(r.exit_reason, r.waiting_reason, r.restarts) for r in failed] == [("Error", "", 1)] * 2


def test_going_back_drops_what_never_served_first_and_restores_the_rest() -> None:
    fleet = rolled_out(8, behaviour=CrashesAtStart())
    fleet.advance(300.0)
    assert revisions(fleet) == {"1": 6, "2": 4}
    fleet.cluster.roll_back(a_key(), "1")
    assert revisions(fleet) == {"1": 8}
    pool = only_pool(fleet)
    assert (pool.revision, pool.revision_at, pool.revisions) == ("1", 300.0, ("1", "2"))
    fleet.advance(500.0)
    assert revisions(fleet, ready=True) == {"1": 8}


def test_a_paused_rollout_goes_no_further_until_it_is_resumed() -> None:
    fleet = rolled_out(8)
    before = only_pool(fleet).version
    for _ in range(2):
        fleet.cluster.pause(a_key())
    assert (only_pool(fleet).paused, only_pool(fleet).version) == (True, before + 1)
    fleet.advance(1_000.0)
    assert revisions(fleet, ready=True) == {"1": 6, "2": 4}
    for _ in range(2):
        fleet.cluster.resume(a_key())
    assert (only_pool(fleet).paused, only_pool(fleet).version) == (False, before + 2)
    fleet.advance(2_000.0)
    assert revisions(fleet, ready=True) == {"2": 8}


def test_going_back_ends_a_pause_and_going_back_to_what_is_there_does_only_that() -> None:
    fleet = rolled_out(8)
    fleet.cluster.pause(a_key())
    fleet.cluster.roll_back(a_key(), "1")
    assert not only_pool(fleet).paused
    fleet.advance(1_000.0)
    assert revisions(fleet, ready=True) == {"1": 8}
    fleet.cluster.pause(a_key())
    fleet.cluster.roll_back(a_key(), "1")
    assert not only_pool(fleet).paused
    with pytest.raises(ActuationError, match="known: 1, 2"):
        fleet.cluster.roll_back(a_key(), "3")


def test_scaling_in_mid_rollout_gives_the_broken_revision_its_part() -> None:
    fleet = rolled_out(8, behaviour=CrashesAtStart())
    fleet.cluster.scale(a_key(), 16, only_pool(fleet).version)
    # 10 at once become 20: 12 old and 8 new; of the old only 6 are READY yet, so none may go.
    assert revisions(fleet) == {"1": 12, "2": 8}
    fleet.advance(400.0)
    assert revisions(fleet, ready=True) == {"1": 12}
    fleet.cluster.scale(a_key(), 4, only_pool(fleet).version)
    assert revisions(fleet) == {"1": 3, "2": 2}


@hypothesis_settings(max_examples=200, deadline=None)
@given(st.integers(1, 40), st.integers(0, 40), st.data())
def test_whatever_is_spread_comes_to_what_the_rollout_may_have(before: int, desired: int, data: st.DataObject) -> None:
    most = most_at_once(before)
    old = data.draw(st.integers(1, most - 1))
    new = data.draw(st.integers(1, most - old))
    result = spread({"1": old, "2": new}, "2", before, desired)
    assert min(result.values()) >= 0
    assert sum(result.values()) == most_at_once(desired)


def test_a_pool_of_one_revision_is_simply_scaled() -> None:
    assert spread({"1": 0, "2": 5}, "2", 5, 9) == {"1": 0, "2": 9}
    assert spread({"1": 0, "2": 0}, "2", 0, 3) == {"1": 0, "2": 3}
    assert spread({"1": 5, "2": 0}, "2", 5, 3) == {"1": 3, "2": 0}


def test_a_replica_that_is_replaced_in_mid_rollout_keeps_its_revision() -> None:
    fleet = rolled_out(8)
    fleet.cluster.restart(a_key(), "main-7")
    assert revisions(fleet) == {"1": 6, "2": 4}


def test_the_next_revision_is_the_next_number_or_has_the_name_given() -> None:
    fleet = a_fleet([a_pool(2, revisions=("3", "7"))])
    fleet.inject(Rollout(1.0))
    fleet.inject(Rollout(500.0, revision="blue"))
    fleet.advance(1.0)
    assert only_pool(fleet).revision == "8"
    fleet.advance(1_000.0)
    assert (only_pool(fleet).revisions, revisions(fleet)) == (("3", "7", "8", "blue"), {"blue": 2})


def test_a_rollout_without_gpus_to_spare_waits_for_the_old_to_go() -> None:
    platform = PlatformSettings.model_validate({"gpu_stock": {"test": 8}})
    fleet = a_fleet([a_pool(4)], platform=platform)
    fleet.inject(Rollout(10.0))
    fleet.advance(11.0)
    assert sorted(r.waiting_reason for r in only_pool(fleet).replicas) == ["", "", "", "", "Unschedulable"]
    fleet.advance(1_000.0)
    assert revisions(fleet, ready=True) == {"2": 4}


# What revisions do


def served(behaviour: object, until: float = 400.0) -> SimulatedFleet:
    fleet = a_fleet([a_pool(1)], [a_batch(poisson(5.0, 2_500), output_tokens=20)], scrape_interval_s=5.0)
    fleet.inject(Rollout(10.0, behaviour=behaviour))  # type: ignore[arg-type]  # any of them
    fleet.advance(until)
    return fleet


def test_a_fine_revision_serves_as_before() -> None:
    fleet = served(Fine())
    fleet.finish()
    assert fleet.outcomes.count(RequestStatus.COMPLETED) == 2_500


def test_a_revision_that_crashes_after_a_while_does_so_again_and_again() -> None:
    fleet = served(CrashesAfter(60.0))
    (replica,) = only_pool(fleet).replicas
    # READY at 110, exits at 170, back-off 10 s and 80 s of loading: READY at 260, exits at 320, back-off 20 s.
    assert (replica.restarts, replica.exit_reason, replica.phase) == (2, "Error", Phase.LOADING)
    fleet.advance(421.0)
    (replica,) = only_pool(fleet).replicas
    assert (replica.phase, replica.since_at, replica.exit_reason) == (READY, 420.0, "Error")


def test_a_slow_revision_is_slow_at_every_replica_and_in_every_life() -> None:
    fleet = served(IsSlow(4.0))
    metrics = fleet.metrics.read(fleet.clock.now()).replicas["main-1"]
    assert metrics.tpot_mean_s == pytest.approx(0.04, rel=0.02)  # and a prefill now and then


def test_a_revision_with_errors_answers_a_share_with_them() -> None:
    fleet = served(HasErrors(0.25))
    metrics = fleet.metrics.read(fleet.clock.now()).replicas["main-1"]
    assert metrics.failed_requests_total == pytest.approx(
        0.25 * (metrics.failed_requests_total + metrics.finished_requests_total), abs=2
    )


def test_a_revision_that_hangs_stops_stepping_after_a_while() -> None:
    fleet = served(HangsAfter(30.0), until=150.0)
    steps = fleet.metrics.read(fleet.clock.now()).replicas["main-1"].steps_total
    fleet.advance(300.0)
    metrics = fleet.metrics.read(fleet.clock.now()).replicas["main-1"]
    assert metrics.steps_total == steps
    assert math.isfinite(steps)
    assert metrics.queued_requests > 100
