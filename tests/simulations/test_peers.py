"""Do the rivals decide as their sources say, on worked examples?"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.fleet import FleetState, Phase, PoolKey, PoolState, ReplicaMetrics, ReplicaState
from policies.memory import PolicyMemory
from policies.placement import PoolSettings
from policies.profile_catalogue import profile_named
from simulations.peers.clairvoyant import Clairvoyant, ReplicaPlan, plan_ahead
from simulations.peers.hpa import Hpa, HpaSettings, rate_limited, recommended
from simulations.peers.static import Static

KEY = PoolKey("m", "p")
TARGET = 12.0
TOLERANCE = 0.1


def metrics(running: float, queued: float = 0.0) -> ReplicaMetrics:
    return ReplicaMetrics(0.0, running, queued, 0.5, 0, 0, 0, 0)


def replica(number: int, phase: Phase = Phase.READY, requests: float | None = None) -> ReplicaState:
    return ReplicaState(f"r{number}", phase, 0.0, 0.0, metrics=None if requests is None else metrics(requests))


def pool(
    *requests: float, loading: int = 0, pending: int = 0, draining: int = 0, silent: int = 0, desired: int | None = None
) -> PoolState:
    """A pool with one READY replica per figure in ``requests``, and others in the phases named."""
    phases = [Phase.LOADING] * loading + [Phase.PENDING] * pending + [Phase.READY] * silent
    replicas = [replica(i, requests=n) for i, n in enumerate(requests)]
    replicas += [replica(100 + i, phase) for i, phase in enumerate(phases)]
    replicas += [replica(200 + i, Phase.DRAINING, 99.0) for i in range(draining)]
    count = len(requests) + len(phases) if desired is None else desired
    return PoolState(KEY, tuple(replicas), desired=count, gpus_per_replica=1)


def hpa(settings: HpaSettings | None = None, least: int = 1, most: int = 64) -> Hpa:
    bounds = PoolSettings(profile=profile_named("llama-3.1-8b-l40s-tp1"), min_replicas=least, max_replicas=most)
    return Hpa({str(KEY): bounds}, {str(KEY): TARGET}, settings or HpaSettings())


class Autoscaled:
    """A pool whose every replica holds ``requests`` at each sync, and follows the HPA at once."""

    def __init__(self, autoscaler: Hpa, replicas: int) -> None:
        self.autoscaler, self.replicas, self.memory = autoscaler, replicas, PolicyMemory()

    def sync(self, at: float, requests: float) -> int:
        fleet = FleetState(at, (pool(*[requests] * self.replicas),))
        decision = self.autoscaler.decide(fleet, {}, self.memory)
        self.memory = PolicyMemory.from_json(decision.memory.to_json())
        self.replicas = decision.scaling[0].desired if decision.scaling else self.replicas
        return self.replicas


# ---- the replica calculator


def test_the_ratio_of_the_mean_to_the_target_scales_the_ready_replicas() -> None:
    # mean 20, target 12: ratio 1.667, ceil(1.667 * 3) = 5
    assert recommended(pool(10, 20, 30), TARGET, TOLERANCE) == 5


def test_waiting_requests_count_like_running_ones() -> None:
    waiting = replace(pool(10), replicas=(replace(replica(0), metrics=metrics(5, queued=19)),))
    assert recommended(waiting, TARGET, TOLERANCE) == 2


@pytest.mark.parametrize("requests", [10.9, 12.0, 13.1])
def test_a_deviation_within_the_tolerance_changes_nothing(requests: float) -> None:
    assert recommended(pool(requests, requests), TARGET, TOLERANCE) == 2


@pytest.mark.parametrize(("requests", "expected"), [(10.7, 9), (13.3, 12)])
def test_a_deviation_beyond_the_tolerance_counts(requests: float, expected: int) -> None:
    # 10.7 / 12 * 10 = 8.92 -> 9; 13.3 / 12 * 10 = 11.08 -> 12
    assert recommended(pool(*[requests] * 10), TARGET, TOLERANCE) == expected


def test_growing_takes_replicas_that_say_nothing_or_are_not_ready_as_idle() -> None:
    # 60 requests over 5: 12 each, which is the target
    assert recommended(pool(10, 20, 30, loading=2), TARGET, TOLERANCE) == 5
    assert recommended(pool(10, 20, 30, pending=2), TARGET, TOLERANCE) == 5
    # 90 requests over 4: ratio 1.875, ceil(7.5) = 8
    assert recommended(pool(20, 30, 40, loading=1), TARGET, TOLERANCE) == 8


def test_shrinking_takes_replicas_that_say_nothing_as_exactly_at_the_target() -> None:
    # (6 + 6 + 12) / 3 = 8: ratio 0.667, ceil(0.667 * 3) = 2
    assert recommended(pool(6, 6, loading=1), TARGET, TOLERANCE) == 2
    assert recommended(pool(6, 6, silent=1), TARGET, TOLERANCE) == 2


def test_shrinking_leaves_pending_replicas_out() -> None:
    assert recommended(pool(6, 6, pending=1), TARGET, TOLERANCE) == 1


def test_replicas_that_are_not_heard_never_turn_the_direction() -> None:
    # ratio 1.25 asks for more, but (15 + 15 + 0 + 0 + 0) / 5 / 12 = 0.5 would ask for fewer
    assert recommended(pool(15, 15, loading=3), TARGET, TOLERANCE) == 5
    # 66 requests over 6 replicas: 0.917 would shrink what 1.83 wants to grow
    assert recommended(pool(22, 22, 22, loading=3), TARGET, TOLERANCE) == 6


def test_the_count_never_moves_against_the_ratio() -> None:
    # Two heard replicas at 16 and one loading: 32 / 3 / 12 = 0.89 against 1.33, so it holds although 4 are desired.
    assert recommended(pool(16, 16, loading=1, desired=4), TARGET, TOLERANCE) == 4


def test_draining_replicas_are_not_there() -> None:
    assert recommended(pool(10, 20, 30, draining=3, desired=3), TARGET, TOLERANCE) == 5


def test_without_any_metric_there_is_no_answer() -> None:
    assert recommended(pool(loading=3), TARGET, TOLERANCE) is None
    assert recommended(pool(math.nan), TARGET, TOLERANCE) is None


@given(st.lists(st.floats(0, 500), min_size=1, max_size=12), st.integers(0, 4), st.integers(0, 4), st.floats(1, 60))
def test_more_requests_never_mean_fewer_replicas(
    requests: list[float], loading: int, pending: int, more: float
) -> None:
    calm = recommended(pool(*requests, loading=loading, pending=pending), TARGET, 0.0)
    busy = recommended(pool(*(n + more for n in requests), loading=loading, pending=pending), TARGET, 0.0)
    assert calm is not None
    assert busy is not None
    assert busy >= calm


# ---- behaviour over time


def test_growth_per_period_is_the_larger_of_doubling_and_four_pods() -> None:
    small, large = Autoscaled(hpa(), 3), Autoscaled(hpa(), 10)
    assert small.sync(0.0, 1000.0) == 7
    assert large.sync(0.0, 1000.0) == 20
    assert small.sync(15.0, 1000.0) == 14


def test_growth_within_one_period_counts_from_its_start() -> None:
    # 10 replicas at 0 s, 18 since 10 s: at 20 s most is 2 * 10 (the 8 were added within the last 15 s)
    assert rate_limited(40, 18, [(0.0, 10), (10.0, 18)], 20.0, HpaSettings()) == 20
    assert rate_limited(40, 18, [(0.0, 10), (10.0, 18)], 25.0, HpaSettings()) == 36


def test_replicas_taken_away_within_the_period_may_come_back() -> None:
    # 20 at the start of the period, 4 since 10 s: up to 2 * 20 is allowed again
    assert rate_limited(64, 4, [(0.0, 20), (10.0, 4)], 20.0, HpaSettings()) == 40


def test_scaling_up_is_not_stabilized() -> None:
    scaled = Autoscaled(hpa(), 4)
    assert scaled.sync(0.0, 12.0) == 4
    assert scaled.sync(15.0, 24.0) == 8


def test_scaling_down_waits_until_the_window_has_forgotten_the_peak() -> None:
    scaled = Autoscaled(hpa(), 4)
    assert scaled.sync(0.0, 24.0) == 8
    counts = [scaled.sync(at, 3.0) for at in np.arange(15.0, 316.0, 15.0)]
    assert counts[:19] == [8] * 19  # until 285 s the recommendation of 8 at 0 s is younger than 300 s
    assert counts[19] == 2  # 300 s: 8 * 3 / 12 = 2, all at once


def test_what_ran_before_the_first_look_is_a_recommendation() -> None:
    scaled = Autoscaled(hpa(), 6)
    assert [scaled.sync(at, 2.0) for at in (0.0, 150.0, 285.0)] == [6, 6, 6]
    assert scaled.sync(300.0, 2.0) == 1


def test_the_bounds_win() -> None:
    assert Autoscaled(hpa(most=5), 3).sync(0.0, 1000.0) == 5
    assert Autoscaled(hpa(least=4), 2).sync(0.0, 1.0) == 4
    assert Autoscaled(hpa(most=5), 9).sync(0.0, 1000.0) == 5


def test_a_pool_at_zero_is_switched_off() -> None:
    fleet = FleetState(0.0, (PoolState(KEY, (), desired=0, gpus_per_replica=1),))
    assert hpa().decide(fleet, {}, PolicyMemory()).scaling == ()


def test_a_longer_stabilization_of_growth_takes_the_lowest_recommendation() -> None:
    scaled = Autoscaled(hpa(HpaSettings(up_window_s=60.0)), 4)
    assert scaled.sync(0.0, 12.0) == 4
    assert [scaled.sync(at, 24.0) for at in (15.0, 30.0, 45.0)] == [4, 4, 4]
    assert scaled.sync(60.0, 24.0) == 8


def test_a_pool_without_an_autoscaler_is_left_alone() -> None:
    other = replace(pool(1000.0), key=PoolKey("m", "other"))
    assert hpa().decide(FleetState(0.0, (other,)), {}, PolicyMemory()).scaling == ()


# ---- static and clairvoyant


def test_static_asks_for_the_same_whatever_happens() -> None:
    decision = Static({KEY: 3}).decide(FleetState(0.0, (pool(500.0),)), {}, PolicyMemory())
    assert [(plan.pool, plan.desired) for plan in decision.scaling] == [(KEY, 3)]
    assert Static({KEY: 1}).decide(FleetState(0.0, (pool(500.0),)), {}, PolicyMemory()).scaling == ()


def test_a_replica_is_asked_for_a_look_ahead_before_it_is_needed() -> None:
    plan = plan_ahead(np.array([1.0] * 10 + [2.5] * 10), 0.0, 60.0, 150.0)
    assert plan.count(7 * 60.0 - 1) == 1
    assert plan.count(7 * 60.0) == 3  # needed from 600 s on, 150 s before that is 450 s, whose step begins at 420 s


def test_a_replica_is_kept_over_a_gap_shorter_than_the_look_ahead_and_given_up_over_a_longer_one() -> None:
    short = plan_ahead(np.array([2.0] * 3 + [1.0] * 2 + [2.0] * 3), 0.0, 60.0, 150.0)
    long = plan_ahead(np.array([2.0] * 3 + [1.0] * 8 + [2.0] * 3), 0.0, 60.0, 150.0)
    assert short == ReplicaPlan((0.0,), (2,))
    assert long.counts == (2, 1, 2)


@given(st.lists(st.floats(0, 30), min_size=1, max_size=40), st.floats(1, 600))
def test_the_plan_has_every_replica_a_look_ahead_before_its_need(need: list[float], look_ahead_s: float) -> None:
    plan = plan_ahead(np.array(need), 1000.0, 60.0, look_ahead_s)
    for step, needed in enumerate(need):
        at = 1000.0 + 60.0 * step
        for asked_at in (at, max(1000.0, at - look_ahead_s)):
            assert plan.count(asked_at) >= needed - 1e-6


def test_clairvoyant_follows_its_plan() -> None:
    policy = Clairvoyant({KEY: ReplicaPlan((0.0, 60.0), (2, 5))})
    fleet = FleetState(59.0, (pool(1.0, 1.0),))
    assert policy.decide(fleet, {}, PolicyMemory()).scaling == ()
    assert policy.decide(replace(fleet, at=60.0), {}, PolicyMemory()).scaling[0].desired == 5


# ---- traffic, for all of them


def test_rivals_spread_traffic_over_ready_replicas_like_a_service() -> None:
    first, second = pool(1.0, 1.0, 1.0), replace(pool(1.0, loading=2), key=PoolKey("m", "q"))
    decision = Static({}).decide(FleetState(0.0, (first, second)), {}, PolicyMemory())
    assert decision.traffic[0].weights == {KEY: 0.75, PoolKey("m", "q"): 0.25}


def test_rivals_leave_the_weights_when_nothing_is_ready_or_nothing_changes() -> None:
    idle = FleetState(0.0, (replace(pool(loading=2), weight=1.0),))
    even = FleetState(0.0, (replace(pool(1.0), weight=1.0),))
    assert Static({}).decide(idle, {}, PolicyMemory()).traffic == ()
    assert Static({}).decide(even, {}, PolicyMemory()).traffic == ()


def test_equal_inputs_give_equal_decisions() -> None:
    fleet = FleetState(0.0, (pool(10, 20, 30),))
    first, second = (hpa().decide(fleet, {}, PolicyMemory()) for _ in range(2))
    assert first == second
    assert first.input_digest == second.input_digest
    assert first.generation == 1
