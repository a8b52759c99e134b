"""Does the fleet start, serve, drain, hold and count as a real one would?"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.fleet import Phase, PoolState
from policies.slo import ServiceObjective
from simulations.faults import Crash, Errors, ExporterFreeze, Hang, NodeLoss, ReplicaTarget, SlowDown
from simulations.fleet import SimulatedFleet
from simulations.outcomes import RequestStatus
from simulations.pool import PoolSpec
from tests.builders_fleet import a_batch, a_fleet, a_key, a_pool, a_profile, poisson

STEP_S = 0.01  # of the test profile


def only_pool(fleet: SimulatedFleet) -> PoolState:
    (pool,) = fleet.cluster.pools()
    return pool


def phases(fleet: SimulatedFleet) -> list[Phase]:
    return [replica.phase for pool in fleet.cluster.pools() for replica in pool.replicas]


def scale(fleet: SimulatedFleet, replicas: int, retire_first: tuple[str, ...] = ()) -> None:
    fleet.cluster.scale(a_key(), replicas, only_pool(fleet).version, retire_first)


# Times of a request


def test_ttft_counts_from_the_arrival_and_tpot_over_the_tokens_after_the_first() -> None:
    fleet = a_fleet(batches=[a_batch([1.0], prompt_tokens=100, output_tokens=21)])
    fleet.finish()
    outcomes = fleet.outcomes
    prefill_s = STEP_S + 100 * 1e-6
    assert outcomes.ttft_s[0] == pytest.approx(prefill_s)
    assert outcomes.tpot_s[0] == pytest.approx(STEP_S)
    assert outcomes.e2e_s[0] == pytest.approx(prefill_s + 20 * STEP_S)
    assert outcomes.within(ServiceObjective(ttft_s=0.02, tpot_s=0.02)).all()
    assert not outcomes.within(ServiceObjective(ttft_s=0.02, tpot_s=0.005)).any()


def test_one_output_token_has_no_time_per_token() -> None:
    fleet = a_fleet(batches=[a_batch([0.0], output_tokens=1)])
    fleet.finish()
    assert fleet.outcomes.tpot_s[0] == 0.0
    assert fleet.outcomes.count(RequestStatus.COMPLETED) == 1


def test_virtual_time_begins_at_the_epoch() -> None:
    fleet = a_fleet(batches=[a_batch([5.0])], epoch_at=1_700_000_000.0)
    assert fleet.clock.now() == 1_700_000_000.0
    fleet.finish()
    assert fleet.outcomes.arrived_at[0] == 1_700_000_005.0
    assert fleet.outcomes.e2e_s[0] == pytest.approx(20 * STEP_S, rel=0.01)


def test_advancing_in_small_or_large_strides_gives_the_same_outcomes() -> None:
    def finished_at(stride_s: float) -> npt.NDArray[np.float64]:
        fleet = a_fleet([a_pool(3)], [a_batch(poisson(20.0, 400))])
        at = 0.0
        while not fleet.arrivals_over:
            at += stride_s
            fleet.advance(at)
        fleet.finish()
        return fleet.outcomes.finished_at

    assert (finished_at(0.37) == finished_at(60.0)).all()


def test_the_past_cannot_be_advanced_to() -> None:
    fleet = a_fleet()
    fleet.advance(10.0)
    with pytest.raises(ValueError, match="cannot go from 10"):
        fleet.advance(9.0)


def test_a_prompt_longer_than_the_cache_fails_at_once() -> None:
    fleet = a_fleet([a_pool(profile=a_profile(kv_cache_tokens=160))], [a_batch([1.0], prompt_tokens=400)])
    fleet.finish()
    assert fleet.outcomes.status.tolist() == [RequestStatus.FAILED]
    assert fleet.outcomes.e2e_s[0] == 0.0


# Lead time and price


def test_a_new_replica_is_pending_then_loading_then_ready_and_paid_for_from_the_start() -> None:
    fleet = a_fleet()  # lead time 100 s, a fifth of it pending; two GPUs per replica
    fleet.advance(50.0)
    scale(fleet, 2)
    assert phases(fleet) == [Phase.READY, Phase.PENDING]
    fleet.advance(69.9)
    assert phases(fleet) == [Phase.READY, Phase.PENDING]
    fleet.advance(70.0)
    assert phases(fleet) == [Phase.READY, Phase.LOADING]
    fleet.advance(149.9)
    assert phases(fleet) == [Phase.READY, Phase.LOADING]
    fleet.advance(150.0)
    assert phases(fleet) == [Phase.READY, Phase.READY]
    new = only_pool(fleet).replicas[1]
    assert (new.requested_at, new.since_at) == (50.0, 150.0)
    assert fleet.gpu_seconds() == 2 * (150.0 + 100.0)
    assert fleet.replica_seconds == 250.0
    assert fleet.cost_usd == pytest.approx(500.0 / 3600.0)


def test_lead_times_scatter_as_asked_and_do_not_depend_on_when_replicas_are_asked_for() -> None:
    def lead_times_s(at: float, seed: int) -> list[float]:
        fleet = a_fleet([a_pool(0, lead_time_s=120.0, lead_time_p90_ratio=1.3)], seed=seed)
        fleet.advance(at)
        scale(fleet, 250)
        fleet.advance(at + 400.0)
        return [replica.since_at - replica.requested_at for replica in only_pool(fleet).replicas]

    early = lead_times_s(10.0, seed=1)
    assert early == pytest.approx(lead_times_s(500.0, seed=1))
    assert early != pytest.approx(lead_times_s(10.0, seed=2))
    # standard error of the median of 250 is 1.6 % here, of the 90th percentile 2.2 %
    assert np.median(early) == pytest.approx(120.0, rel=0.05)
    assert np.quantile(early, 0.9) == pytest.approx(120.0 * 1.3, rel=0.07)


def test_replicas_beyond_the_gpu_stock_stay_pending_unpaid_until_gpus_are_given_back() -> None:
    fleet = a_fleet([a_pool(2, gpu_stock=4)])
    scale(fleet, 3)
    fleet.advance(200.0)
    assert phases(fleet) == [Phase.READY, Phase.READY, Phase.PENDING]
    assert fleet.gpu_seconds() == 200.0 * 4
    fleet.cluster.restart(only_pool(fleet).key, only_pool(fleet).replicas[0].id)
    assert phases(fleet) == [Phase.READY, Phase.PENDING, Phase.PENDING]
    fleet.advance(300.0)
    assert phases(fleet) == [Phase.READY, Phase.READY, Phase.PENDING]
    assert fleet.gpu_seconds() == 300.0 * 4


# Scaling down


def test_a_retired_replica_takes_nothing_new_finishes_what_it_has_and_goes() -> None:
    fleet = a_fleet([a_pool(2)], [a_batch([0.0, 0.0, 4.0], output_tokens=[1000, 500, 100])])
    fleet.advance(1.0)
    scale(fleet, 1)
    draining = next(r for r in only_pool(fleet).replicas if r.phase is Phase.DRAINING)
    assert draining.id == "main-1"  # both have one request; the younger goes
    fleet.advance(4.9)
    assert [r.phase for r in only_pool(fleet).replicas] == [Phase.READY, Phase.DRAINING]
    fleet.advance(5.5)
    assert [r.id for r in only_pool(fleet).replicas] == ["main-0"]
    fleet.finish()
    assert fleet.outcomes.count(RequestStatus.COMPLETED) == 3
    drained_at = fleet.outcomes.finished_at[1]
    assert drained_at == pytest.approx(500 * STEP_S, abs=0.001)
    assert fleet.gpu_seconds() == pytest.approx(2 * (fleet.clock.now() + drained_at))


def test_what_is_left_at_the_drain_deadline_is_dropped() -> None:
    fleet = a_fleet([a_pool(1)], [a_batch([0.0], output_tokens=5_000)], drain_deadline_s=30.0)
    fleet.advance(1.0)
    scale(fleet, 0)
    fleet.advance(30.9)
    assert phases(fleet) == [Phase.DRAINING]
    fleet.advance(31.0)
    assert phases(fleet) == []
    assert fleet.outcomes.status.tolist() == [RequestStatus.DROPPED_IN_FLIGHT]
    assert fleet.gpu_seconds() == pytest.approx(2 * 31.0)


def test_named_replicas_go_first_then_those_not_ready_youngest_first_then_the_least_busy() -> None:
    fleet = a_fleet([a_pool(3)], [a_batch([0.0, 0.0], output_tokens=5_000)])
    fleet.advance(1.0)
    scale(fleet, 5)
    fleet.advance(2.0)
    scale(fleet, 4, ("main-0",))
    assert [(r.id, r.phase) for r in only_pool(fleet).replicas] == [
        ("main-0", Phase.DRAINING),
        ("main-1", Phase.READY),
        ("main-2", Phase.READY),
        ("main-3", Phase.PENDING),
        ("main-4", Phase.PENDING),
    ]
    scale(fleet, 3)
    scale(fleet, 2)
    assert {r.id for r in only_pool(fleet).replicas} == {"main-0", "main-1", "main-2"}
    scale(fleet, 1)  # main-2 has nothing to do and goes without draining
    assert {r.id for r in only_pool(fleet).replicas} == {"main-0", "main-1"}


# The gateway


def test_requests_wait_at_the_gateway_for_a_replica_and_fail_when_none_comes() -> None:
    fleet = a_fleet([a_pool(0, lead_time_s=50.0)], [a_batch([0.0, 30.0])], gateway_timeout_s=40.0)
    fleet.advance(10.0)
    scale(fleet, 1)
    fleet.finish()
    first, second = fleet.outcomes.status.tolist()
    assert (first, second) == (RequestStatus.FAILED, RequestStatus.COMPLETED)
    assert fleet.outcomes.e2e_s[0] == 40.0
    assert fleet.outcomes.ttft_s[1] == pytest.approx(30.0, abs=0.02)  # arrived at 30 s, the replica was ready at 60 s


def test_the_client_gives_up_after_the_request_timeout_and_frees_the_engine() -> None:
    fleet = a_fleet([a_pool(1)], [a_batch([0.0, 20.0], output_tokens=[5_000, 10])], request_timeout_s=10.0)
    fleet.finish()
    assert fleet.outcomes.status.tolist() == [RequestStatus.FAILED, RequestStatus.COMPLETED]
    assert fleet.outcomes.e2e_s[0] == 10.0
    assert not math.isnan(fleet.outcomes.first_token_at[0])
    fleet.advance(fleet.clock.now() + 16.0)
    (metrics,) = fleet.metrics.read(fleet.clock.now()).replicas.values()
    assert (metrics.running_requests, metrics.kv_cache_ratio) == (0, 0)


def test_requests_spread_by_fewest_in_flight() -> None:
    fleet = a_fleet([a_pool(4)], [a_batch(np.arange(8) * 1e-3, output_tokens=2_000)])
    fleet.advance(15.0)
    assert list(fleet.metrics.read(15.0).in_flight.values()) == [2.0] * 4


# Faults


def test_a_crash_retries_what_had_not_begun_drops_what_streamed_and_restarts_in_place() -> None:
    # Two requests stream; the third is admitted only when one ends, as two fill the batch.
    fleet = a_fleet(
        [a_pool(1, profile=a_profile(max_running=2))], [a_batch([0.0, 0.0, 0.1], output_tokens=[500, 500, 10])]
    )
    fleet.inject(Crash(1.0))
    fleet.advance(1.0)
    assert fleet.outcomes.status.tolist() == [RequestStatus.DROPPED_IN_FLIGHT] * 2 + [RequestStatus.IN_SYSTEM]
    (replica,) = only_pool(fleet).replicas
    assert (replica.id, replica.phase, replica.restarts, replica.requested_at) == ("main-0", Phase.FAILED, 1, 1.0)
    fleet.advance(11.0)  # the first back-off is 10 s
    assert phases(fleet) == [Phase.LOADING]
    fleet.advance(91.0)  # and loading 80 s: four fifths of the lead time
    assert phases(fleet) == [Phase.READY]
    fleet.finish()
    assert fleet.outcomes.status[2] == RequestStatus.FAILED  # held for 60 s, then given up
    assert fleet.gpu_seconds() == 2 * fleet.clock.now()


def test_a_retried_request_completes_elsewhere() -> None:
    profile = a_profile(max_running=1)
    fleet = a_fleet([a_pool(2, profile=profile)], [a_batch([0.0] * 4, output_tokens=[200, 200, 10, 10])])
    fleet.inject(Crash(1.0))
    fleet.finish()
    assert sorted(fleet.outcomes.status.tolist()) == [RequestStatus.COMPLETED] * 3 + [RequestStatus.DROPPED_IN_FLIGHT]


def test_back_off_doubles_with_every_crash() -> None:
    fleet = a_fleet([a_pool(1)])
    waits = []
    for _ in range(7):
        fleet.inject(Crash(fleet.clock.now()))
        begin = fleet.clock.now()
        fleet.advance(begin)
        while phases(fleet) == [Phase.FAILED]:
            fleet.advance(fleet.clock.now() + 1.0)
        waits.append(fleet.clock.now() - begin)
        fleet.advance(fleet.clock.now() + 100.0)
    assert waits == [10.0, 20.0, 40.0, 80.0, 160.0, 300.0, 300.0]


def test_a_hung_engine_looks_alive_does_nothing_and_only_a_restart_clears_it() -> None:
    fleet = a_fleet([a_pool(1)], [a_batch(np.arange(0.0, 400.0, 0.5), output_tokens=100)], request_timeout_s=100.0)
    fleet.inject(Hang(20.2))
    fleet.advance(60.0)
    before = fleet.metrics.read(60.0).replicas["main-0"]
    fleet.advance(90.0)
    after = fleet.metrics.read(90.0).replicas["main-0"]
    assert phases(fleet) == [Phase.READY]
    assert after.observed_at == before.observed_at + 30.0
    assert after.steps_total == before.steps_total > 0
    assert after.output_tokens_total == before.output_tokens_total
    assert after.running_requests == before.running_requests > 0
    assert after.queued_requests > before.queued_requests
    fleet.advance(130.0)
    assert fleet.outcomes.count(RequestStatus.FAILED) > 0  # clients gave up
    fleet.cluster.restart(only_pool(fleet).key, "main-0")
    assert [r.id for r in only_pool(fleet).replicas] == ["main-1"]
    fleet.advance(299.0)
    assert fleet.outcomes.status[-1] != RequestStatus.FAILED
    fleet.finish()
    assert fleet.outcomes.status[-1] == RequestStatus.COMPLETED


def test_a_hung_engine_may_show_nothing_running_while_its_queue_grows() -> None:
    fleet = a_fleet([a_pool(1)], [a_batch(np.arange(0.0, 60.0, 0.5), output_tokens=100)])
    fleet.inject(Hang(20.2, running_zero=True))
    fleet.advance(60.0)
    metrics = fleet.metrics.read(60.0).replicas["main-0"]
    assert metrics.running_requests == 0
    assert metrics.queued_requests > 30


def test_a_slowed_replica_is_slow_for_the_duration_and_gets_less_to_do() -> None:
    fleet = a_fleet([a_pool(2)], [a_batch(poisson(20.0, 1_600), output_tokens=100)])
    fleet.inject(SlowDown(20.0, ReplicaTarget(replica=1), factor=4.0, duration_s=40.0))
    fleet.finish()
    outcomes = fleet.outcomes
    during = (outcomes.arrived_at > 20.0) & (outcomes.finished_at < 60.0)
    later = outcomes.arrived_at > 64.0
    assert np.quantile(outcomes.tpot_s[during], [0.1, 0.95]) == pytest.approx([STEP_S, 4 * STEP_S], rel=0.05)
    assert 0.1 < (outcomes.tpot_s[during] > 2 * STEP_S).mean() < 0.3
    assert outcomes.tpot_s[later].max() < 1.2 * STEP_S


def test_slow_downs_that_overlap_add_to_each_other_and_end_one_by_one() -> None:
    fleet = a_fleet([a_pool(1)], [a_batch(np.arange(60) * 10.0, output_tokens=50)])
    fleet.inject(SlowDown(95.0, ReplicaTarget(), factor=2.0, duration_s=200.0))
    fleet.inject(SlowDown(195.0, ReplicaTarget(), factor=3.0, duration_s=200.0))
    fleet.finish()
    slower = fleet.outcomes.tpot_s / STEP_S
    at = fleet.outcomes.arrived_at
    for second, factor in ((50.0, 1.0), (150.0, 2.0), (250.0, 6.0), (350.0, 3.0), (450.0, 1.0)):
        assert slower[at == second] == pytest.approx(factor, rel=0.1)


def test_an_engine_counts_ttft_from_its_own_queue_at_the_first_token() -> None:
    fleet = a_fleet([a_pool(1)], [a_batch(np.array([1.0]), output_tokens=4_000)])
    fleet.advance(20.0)
    assert fleet.outcomes.count(RequestStatus.IN_SYSTEM) == 1
    assert fleet.metrics.read(60.0).replicas["main-0"].ttft_p95_s < 1.0


def test_a_frozen_exporter_shows_new_instants_and_old_figures_while_the_replica_works() -> None:
    fleet = a_fleet([a_pool(2)], [a_batch(poisson(20.0, 4_000), output_tokens=100)], epoch_at=1000.0)
    fleet.inject(ExporterFreeze(40.0, ReplicaTarget(replica=1), duration_s=60.0))
    fleet.advance(1060.0)
    before = fleet.metrics.read(1060.0)
    fleet.advance(1095.0)
    during = fleet.metrics.read(1095.0)
    stuck = during.replicas["main-1"]
    assert stuck == replace(before.replicas["main-1"], observed_at=stuck.observed_at)
    assert stuck.observed_at > before.replicas["main-1"].observed_at
    assert during.answered["main-1"] > before.answered["main-1"] > 0
    assert during.replicas["main-0"].steps_total > before.replicas["main-0"].steps_total
    fleet.advance(1130.0)
    assert fleet.metrics.read(1130.0).replicas["main-1"].steps_total > stuck.steps_total


def test_a_replica_with_errors_fails_its_share_at_once_and_so_gets_more_of_the_requests() -> None:
    fleet = a_fleet([a_pool(2)], [a_batch(poisson(20.0, 4_000), output_tokens=100)], epoch_at=1000.0)
    fleet.inject(Errors(40.0, ReplicaTarget(replica=1), share=0.75, duration_s=60.0))
    fleet.advance(1098.0)
    seen = fleet.metrics.read(1098.0)
    failed, answered = seen.failed_answers["main-1"], seen.answered["main-1"]
    assert seen.failed_answers["main-0"] == seen.replicas["main-0"].failed_requests_total == 0.0
    own = seen.replicas["main-1"]  # scraped at another instant
    assert own.failed_requests_total / (own.failed_requests_total + own.finished_requests_total) > 0.4
    assert failed + answered > 1.3 * seen.answered["main-0"]
    fleet.advance(1160.0)
    after = fleet.metrics.read(1160.0).failed_answers["main-1"]
    fleet.advance(1200.0)
    assert fleet.metrics.read(1200.0).failed_answers["main-1"] == after
    assert fleet.finish() == 0
    assert fleet.outcomes.count(RequestStatus.FAILED) == after


def test_errors_end_with_the_life_of_the_engine() -> None:
    fleet = a_fleet([a_pool(2)], [a_batch(poisson(20.0, 8_000), output_tokens=100)], epoch_at=1000.0)
    fleet.inject(Errors(40.0, ReplicaTarget(replica=1)))
    fleet.inject(Crash(80.0, ReplicaTarget(replica=1)))
    fleet.advance(1390.0)
    seen = fleet.metrics.read(1390.0)
    assert seen.answered["main-1"] > 0
    assert seen.failed_answers["main-1"] == 0.0


def test_a_request_that_no_replica_can_hold_is_no_failure_of_the_replica() -> None:
    fleet = a_fleet([a_pool(1)], [a_batch(np.arange(50.0), prompt_tokens=10**9)], epoch_at=1000.0)
    fleet.advance(1100.0)
    seen = fleet.metrics.read(1100.0)
    assert seen.failed_answers["main-0"] == seen.replicas["main-0"].failed_requests_total == 0.0


def test_a_lost_node_takes_all_its_replicas_and_others_come_on_another_node() -> None:
    fleet = a_fleet([a_pool(5)])  # four replicas of two GPUs per node
    fleet.inject(NodeLoss(10.0, ReplicaTarget(replica=1)))
    fleet.advance(10.0)
    replicas = only_pool(fleet).replicas
    assert [r.phase for r in replicas] == [Phase.READY] + [Phase.PENDING] * 4
    assert {r.node for r in replicas} == {"main-node-1", "main-node-2"}


def test_a_fault_in_a_pool_that_is_not_there_is_refused() -> None:
    with pytest.raises(ValueError, match="no pool 'west'; there are main"):
        a_fleet().inject(Crash(1.0, ReplicaTarget("west")))


# Several pools


def test_pools_share_requests_by_weight_and_are_priced_apart() -> None:
    slow = a_profile(gpus=4, decode_base_s=0.02)
    pools = [
        a_pool(2, "fast", weight=3.0),
        PoolSpec(a_key("slow"), slow, 2, usd_per_gpu_hour=0.5, weight=1.0),
    ]
    fleet = a_fleet(pools, [a_batch(poisson(10.0, 2_000))])
    fleet.finish()
    assert np.bincount(fleet.outcomes.pool_index).tolist() == [1_500, 500]
    hours = fleet.clock.now() / 3600
    assert fleet.gpu_seconds(a_key("fast")) == pytest.approx(4 * 3600 * hours)
    assert fleet.gpu_seconds(a_key("slow")) == pytest.approx(8 * 3600 * hours)
    assert fleet.cost_usd == pytest.approx(4 * hours * 1.0 + 8 * hours * 0.5)


def test_pools_of_two_models_or_of_one_name_are_refused() -> None:
    with pytest.raises(ValueError, match="pool names repeat"):
        a_fleet([a_pool(1), a_pool(1)])
    with pytest.raises(ValueError, match="at least one pool"):
        a_fleet([])


# Any world


@st.composite
def worlds(draw: st.DrawFn) -> tuple[SimulatedFleet, list[tuple[float, int]], int]:
    """A random fleet with faults, a list of (instant, replicas asked for), and how many requests will come."""
    seed = draw(st.integers(0, 1_000))
    rng = np.random.default_rng(seed)
    requests = draw(st.integers(1, 150))
    profile = a_profile(
        kv_cache_tokens=draw(st.sampled_from([800, 2_000, 50_000])),
        max_running=draw(st.sampled_from([1, 4, 64])),
        decode_base_s=draw(st.sampled_from([0.01, 0.1])),
    )
    batch = a_batch(
        poisson(draw(st.sampled_from([0.5, 5.0, 50.0])), requests, seed),
        rng.integers(1, 900, requests).astype(np.int32),
        rng.integers(1, 300, requests).astype(np.int32),
    )
    pools = [a_pool(draw(st.integers(0, 3)), name, profile=profile, lead_time_s=20.0) for name in ("main", "spare")]
    fleet = a_fleet(pools, [batch], seed, gateway_timeout_s=15.0, request_timeout_s=60.0, drain_deadline_s=10.0)
    kinds = (Crash, Hang, NodeLoss, SlowDown)
    for at in draw(st.lists(st.floats(0.0, 60.0), max_size=4)):
        fleet.inject(kinds[int(at * 7) % 4](at, ReplicaTarget(("main", "spare")[int(at * 3) % 2], int(at) % 3)))
    scalings = draw(st.lists(st.tuples(st.floats(0.0, 80.0), st.integers(0, 4)), max_size=5))
    return fleet, sorted(scalings), requests


@settings(max_examples=60, deadline=None)
@given(worlds())
def test_no_request_is_lost_and_gpus_are_paid_for_at_least_as_long_as_they_serve(
    world: tuple[SimulatedFleet, list[tuple[float, int]], int],
) -> None:
    fleet, scalings, requests = world
    serving_s = 0.0
    ticks = iter(np.arange(0.0, 120.0, 1.0).tolist())
    for at in ticks:
        while scalings and scalings[0][0] <= at:
            _, replicas = scalings.pop(0)
            for pool in fleet.cluster.pools():
                fleet.cluster.scale(pool.key, replicas, pool.version)
        fleet.advance(at)
        counted = sum(fleet.outcomes.count(status) for status in RequestStatus)
        assert counted == len(fleet.outcomes)
        assert fleet.outcomes.count(RequestStatus.IN_SYSTEM) == fleet.unfinished_requests
        for pool in fleet.cluster.pools():
            stays = [r for r in pool.replicas if r.phase is not Phase.DRAINING]
            assert len(stays) == pool.desired
            serving_s += len(pool.serving)
            assert fleet.gpu_seconds(pool.key) >= 0
        metrics = fleet.metrics.read(at)
        assert all(0 <= m.kv_cache_ratio <= 1 for m in metrics.replicas.values())
    assert fleet.gpu_seconds() >= 2 * (serving_s - 12.0)  # sampled each second: at most one second per replica is off
    assert fleet.finish() == 0
    assert len(fleet.outcomes) == requests
    assert fleet.outcomes.count(RequestStatus.IN_SYSTEM) == 0
    ended = fleet.outcomes.finished_at
    assert (ended >= fleet.outcomes.arrived_at).all()
    done = fleet.outcomes.status == RequestStatus.COMPLETED
    assert (fleet.outcomes.first_token_at[done] > fleet.outcomes.arrived_at[done]).all()


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 1_000))
def test_one_seed_gives_one_history(seed: int) -> None:
    def history() -> tuple[list[float], list[int], float]:
        rng = np.random.default_rng(seed)
        batch = a_batch(poisson(30.0, 300, seed), rng.integers(10, 2_000, 300), rng.integers(1, 200, 300))
        fleet = a_fleet([a_pool(2, lead_time_p90_ratio=1.2)], [batch], seed)
        fleet.inject(Crash(3.0, ReplicaTarget(replica=1)))
        fleet.advance(5.0)
        scale(fleet, 4)
        fleet.finish()
        return fleet.outcomes.finished_at.tolist(), fleet.outcomes.status.tolist(), fleet.gpu_seconds()

    assert history() == history()
