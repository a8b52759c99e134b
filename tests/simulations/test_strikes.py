"""What does each fault do to requests, to counters, and to what platform and exporters tell?"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from controller.ports import FleetMetrics
from policies.fleet import Phase, PoolState, ReplicaMetrics
from simulations.faults import (
    ColdStarts,
    CounterReset,
    Crash,
    Fault,
    Hang,
    KvShrink,
    MetricLoss,
    OutOfMemory,
    Partition,
    Poison,
    ReplicaTarget,
    Retries,
    SlowDown,
    XidError,
)
from simulations.fleet import SimulatedFleet
from simulations.outcomes import RequestStatus
from tests.builders_fleet import a_batch, a_fleet, a_pool, a_profile, poisson

READY = Phase.READY
COMPLETED, FAILED, DROPPED = RequestStatus.COMPLETED, RequestStatus.FAILED, RequestStatus.DROPPED_IN_FLIGHT


def struck(*faults: Fault, replicas: int = 2, requests: int = 2_000, **settings: Any) -> SimulatedFleet:
    """A pool under 10 requests/s of 200 output tokens each, which take two seconds, scraped every 5 s."""
    batch = a_batch(poisson(10.0, requests), output_tokens=200)
    fleet = a_fleet([a_pool(replicas)], [batch], scrape_interval_s=5.0, scrape_delay_s=0.0, **settings)
    for fault in faults:
        fleet.inject(fault)
    return fleet


def only_pool(fleet: SimulatedFleet) -> PoolState:
    (pool,) = fleet.cluster.pools()
    return pool


def seen(fleet: SimulatedFleet, at: float) -> FleetMetrics:
    fleet.advance(at)
    return fleet.metrics.read(at)


def engine(fleet: SimulatedFleet, at: float, replica: int = 0) -> ReplicaMetrics:
    return seen(fleet, at).replicas[f"main-{replica}"]


# Hang and stall


def test_a_stall_ends_by_itself_and_its_tokens_flow_again() -> None:
    fleet = struck(Hang(50.0, duration_s=40.0))
    before, stalled = engine(fleet, 60.0), engine(fleet, 89.0)
    assert (before.steps_total, before.output_tokens_total) == (stalled.steps_total, stalled.output_tokens_total)
    assert stalled.queued_requests > before.queued_requests > 0
    after = engine(fleet, 100.0)
    assert after.steps_total > stalled.steps_total
    assert only_pool(fleet).replicas[0].restarts == 0
    fleet.finish()
    assert fleet.outcomes.count(COMPLETED) == 2_000


def test_a_stall_delays_the_token_under_way_by_as_long_as_it_lasts() -> None:
    fleet = a_fleet(batches=[a_batch([0.0], output_tokens=201)])
    fleet.inject(Hang(1.005, duration_s=30.0))
    fleet.finish()
    assert fleet.outcomes.finished_at[0] == pytest.approx(0.0101 + 200 * 0.01 + 30.0)


def test_what_clients_give_up_during_a_stall_is_heard_of_when_it_ends() -> None:
    fleet = struck(Hang(50.0, duration_s=60.0), request_timeout_s=20.0)
    stalled = engine(fleet, 105.0)
    assert stalled.aborted_requests_total == 0
    assert stalled.queued_requests > seen(fleet, 105.0).in_flight["main-0"] > 0  # those given up are not heard of yet
    after = engine(fleet, 120.0)
    assert after.aborted_requests_total > 50
    assert after.queued_requests == 0
    fleet.finish()
    assert fleet.outcomes.count(COMPLETED) + fleet.outcomes.count(FAILED) == 2_000


def test_two_hangs_end_with_the_later_one_and_a_restart_ends_both() -> None:
    fleet = struck(Hang(50.0, duration_s=20.0), Hang(60.0, duration_s=40.0))
    stalled = engine(fleet, 65.0).steps_total
    assert engine(fleet, 99.0).steps_total == stalled
    assert engine(fleet, 110.0).steps_total > stalled
    fleet = struck(Hang(50.0, duration_s=200.0), Crash(60.0))
    fleet.advance(155.0)  # 10 s of back-off and 80 s of start
    assert engine(fleet, 160.0).steps_total > 0


# Preemptions, memory


def thrashing(*faults: Fault) -> SimulatedFleet:
    """One replica that holds what comes comfortably: 10 requests/s of 300 tokens for 2 s each in 20,000 tokens."""
    profile = a_profile(kv_cache_tokens=20_000)
    batch = a_batch(poisson(10.0, 3_000), output_tokens=200)
    fleet = a_fleet([a_pool(1, profile=profile)], [batch], scrape_interval_s=5.0, scrape_delay_s=0.0)
    for fault in faults:
        fleet.inject(fault)
    return fleet


def test_a_shrunk_kv_cache_makes_a_preemption_storm_and_ends_with_it() -> None:
    fleet = thrashing(KvShrink(50.0, kept_ratio=0.1, duration_s=100.0))
    quiet = engine(fleet, 50.0)
    storm = engine(fleet, 140.0)
    assert quiet.preemptions_total == 0
    assert storm.preemptions_total > 100
    assert storm.kv_cache_ratio > 0.9
    assert storm.queued_requests > 0
    assert storm.output_tokens_total - quiet.output_tokens_total < 0.8 * 90 * 10 * 200
    fleet.finish()
    assert fleet.outcomes.count(COMPLETED) == 3_000
    assert engine(fleet, fleet.clock.now() + 10.0).kv_cache_ratio == 0.0


def test_a_kv_cache_stays_small_in_the_next_life_and_for_newcomers_but_not_for_others() -> None:
    fleet = struck(KvShrink(50.0, ReplicaTarget("", 0), 0.01), Crash(60.0), replicas=2)
    fleet.advance(180.0)
    small, large = (fleet._pools[0].replicas[name].kv_cache_ratio for name in ("main-0", "main-1"))
    assert small > 0.3 > large
    fleet = struck(KvShrink(50.0, kept_ratio=0.01, duration_s=400.0), replicas=1)
    fleet.advance(60.0)
    fleet.cluster.scale(only_pool(fleet).key, 2, only_pool(fleet).version)
    fleet.advance(180.0)
    assert fleet._pools[0].replicas["main-1"].kv_cache_ratio > 0.3


def test_a_request_that_no_longer_fits_the_cache_at_all_is_refused() -> None:
    fleet = a_fleet(batches=[a_batch([0.0, 0.1], [1_000, 100], [5_000, 100])])
    fleet.inject(KvShrink(1.0, kept_ratio=0.01))
    fleet.finish()
    assert fleet.outcomes.status.tolist() == [FAILED, COMPLETED]
    assert fleet.outcomes.finished_at[0] == 1.0


def test_an_engine_whose_cache_fills_up_is_killed_for_want_of_memory_and_says_so() -> None:
    fleet = thrashing(KvShrink(50.0, kept_ratio=0.1), OutOfMemory(60.0, ratio=0.9, duration_s=30.0))
    fleet.advance(62.0)
    (replica,) = only_pool(fleet).replicas
    assert (replica.phase, replica.exit_reason) == (Phase.FAILED, "OOMKilled")
    fleet.advance(400.0)
    (replica,) = only_pool(fleet).replicas
    assert (replica.phase, replica.restarts, replica.exit_reason) == (READY, 1, "OOMKilled")


def test_an_engine_with_memory_to_spare_is_not_killed() -> None:
    fleet = thrashing(OutOfMemory(10.0, ratio=0.9))
    fleet.advance(200.0)
    assert only_pool(fleet).replicas[0].restarts == 0


# Gateway


def test_requests_for_a_pool_out_of_reach_fail_after_the_time_out_and_its_engines_are_idle() -> None:
    fleet = struck(Partition(50.0, duration_s=60.0), connect_timeout_s=4.0)
    look = seen(fleet, 100.0)
    assert set(look.replicas) == {"main-0", "main-1"}
    assert all(metrics.running_requests == metrics.queued_requests == 0 for metrics in look.replicas.values())
    assert sum(look.unreached.values()) == pytest.approx(10 * 46, rel=0.15)
    assert sum(look.in_flight.values()) == pytest.approx(10 * 4, rel=0.5)
    assert sum(look.failed_answers.values()) == 0
    fleet.finish()
    lost = fleet.outcomes.status == FAILED
    assert fleet.outcomes.arrived_at[lost].min() >= 50.0
    assert fleet.outcomes.arrived_at[lost].max() <= 110.0
    np.testing.assert_allclose(fleet.outcomes.e2e_s[lost], 4.0)
    assert sum(fleet.metrics.read(fleet.clock.now()).unreached.values()) == lost.sum()


def test_one_replica_out_of_reach_leaves_the_other_its_share() -> None:
    fleet = struck(Partition(50.0, ReplicaTarget("", 1)))
    look = seen(fleet, 100.0)
    assert look.unreached["main-0"] == 0 < look.unreached["main-1"]
    assert look.replicas["main-0"].running_requests > 0 == look.replicas["main-1"].running_requests


def test_who_becomes_ready_during_a_partition_is_out_of_reach_too() -> None:
    fleet = struck(Partition(50.0))
    fleet.cluster.scale(only_pool(fleet).key, 3, only_pool(fleet).version)
    assert seen(fleet, 150.0).unreached["main-2"] > 0


def test_a_replica_removed_while_it_is_out_of_reach_gives_its_requests_to_others() -> None:
    fleet = struck(Partition(50.0, ReplicaTarget("", 1)), connect_timeout_s=30.0)
    fleet.advance(60.0)
    fleet.cluster.restart(only_pool(fleet).key, "main-1")
    fleet.finish()
    assert fleet.outcomes.count(COMPLETED) == 2_000


def test_given_up_requests_count_at_the_engine_that_had_them() -> None:
    fleet = struck(SlowDown(20.0, factor=20.0), request_timeout_s=5.0)
    look = seen(fleet, 100.0)
    assert look.replicas["main-0"].aborted_requests_total > 50
    assert look.replicas["main-1"].aborted_requests_total == 0


# Metrics


def test_a_metric_that_was_renamed_is_not_exported_and_the_others_are() -> None:
    fleet = struck(MetricLoss(50.0, "queued_requests", 30.0))
    assert math.isnan(engine(fleet, 60.0).queued_requests)
    assert engine(fleet, 60.0).running_requests > 0
    assert engine(fleet, 90.0).queued_requests == 0


def test_counters_that_begin_again_do_so_without_a_restart_and_not_at_the_gateway() -> None:
    fleet, same = struck(CounterReset(50.0)), struck()
    for at in (60.0, 120.0):
        look, other = seen(fleet, at), seen(same, at)
        reset, plain = look.replicas["main-0"], other.replicas["main-0"]
        assert 0 < reset.steps_total < plain.steps_total
        assert 0 < reset.output_tokens_total < plain.output_tokens_total
        assert 0 < reset.prompt_tokens_total < plain.prompt_tokens_total
        assert 0 < reset.finished_requests_total < plain.finished_requests_total
        assert look.answered["main-0"] == other.answered["main-0"]
        assert (reset.running_requests, reset.kv_cache_ratio) == (plain.running_requests, plain.kv_cache_ratio)
    assert only_pool(fleet).replicas[0].restarts == 0
    later, plain_later = engine(fleet, 180.0), engine(same, 180.0)
    assert later.steps_total - reset.steps_total == plain_later.steps_total - plain.steps_total


def test_gpus_draw_power_in_steps_little_when_idle_or_stuck_and_keep_their_clock() -> None:
    fleet = struck(Hang(50.0))
    busy, stuck = engine(fleet, 50.0), engine(fleet, 60.0)
    assert busy.gpu_power_ratio > 0.5
    assert 0.1 < stuck.gpu_power_ratio < 0.3
    assert (stuck.gpu_clock_ratio, stuck.gpu_xid) == (1.0, 0.0)
    fleet.finish()
    idle = engine(fleet, fleet.clock.now() + 10.0, 1)
    assert idle.gpu_power_ratio < 0.2


def test_a_throttled_gpu_tells_a_low_clock_and_a_slow_bus_does_not() -> None:
    fleet = struck(
        SlowDown(20.0, ReplicaTarget("", 0), 2.0, 60.0, 0.5), SlowDown(20.0, ReplicaTarget("", 1), 2.0, 60.0)
    )
    look = seen(fleet, 60.0).replicas
    assert [look[name].gpu_clock_ratio for name in ("main-0", "main-1")] == [0.5, 1.0]
    assert look["main-0"].gpu_power_ratio < 0.6 * look["main-1"].gpu_power_ratio
    assert engine(fleet, 90.0).gpu_clock_ratio == 1.0


def test_gpus_differ_a_little_by_seed_and_may_not_be_exported_at_all() -> None:
    look = seen(struck(replicas=4), 30.0).replicas
    powers = {metrics.gpu_power_ratio for metrics in look.values()}
    assert len(powers) == 4
    assert seen(struck(replicas=4), 30.0).replicas == look
    silent = engine(struck(gpu_metrics=False), 30.0)
    assert all(math.isnan(x) for x in (silent.gpu_xid, silent.gpu_power_ratio, silent.gpu_clock_ratio))


def test_an_xid_error_is_told_by_all_on_its_node_and_may_end_their_engines_for_good() -> None:
    fleet = struck(XidError(50.0, code=63), replicas=6, gpus_per_node=8)  # four replicas on the first node
    xids = [engine(fleet, 60.0, n).gpu_xid for n in range(6)]
    assert xids == [63.0] * 4 + [0.0] * 2
    assert [r.restarts for r in only_pool(fleet).replicas] == [0] * 6
    fleet = struck(XidError(50.0, code=79, exits=True), replicas=6, gpus_per_node=8)
    fleet.advance(400.0)
    broken, well = only_pool(fleet).replicas[:4], only_pool(fleet).replicas[4:]
    assert all(r.phase is not READY and r.restarts > 1 and r.exit_reason == "Error" for r in broken)
    assert [r.phase for r in well] == [READY] * 2
    fleet.cluster.avoid(broken[0].node)
    for replica in broken:
        fleet.cluster.restart(only_pool(fleet).key, replica.id)
    fleet.advance(600.0)
    assert [r.phase for r in only_pool(fleet).replicas] == [READY] * 6


def test_a_node_tells_its_xid_also_when_no_engine_is_left_on_it() -> None:
    fault = XidError(50.0, code=79, exits=True)
    fleet = struck(fault, replicas=6, gpus_per_node=8)
    first, second = (only_pool(fleet).replicas[n].node for n in (0, 5))
    look = seen(fleet, 90.0)
    assert look.node_xids == {first: 79.0, second: 0.0}
    assert set(look.replicas) == {"main-4", "main-5"}
    silent = struck(fault, replicas=6, gpus_per_node=8, gpu_metrics=False)
    assert seen(silent, 90.0).node_xids == {}


# Clients


def test_who_loads_when_its_node_breaks_does_not_serve_there() -> None:
    fleet = struck(XidError(60.0, code=79, exits=True), replicas=3, gpus_per_node=8)
    fleet.cluster.scale(only_pool(fleet).key, 4, only_pool(fleet).version)
    fleet.advance(50.0)
    assert only_pool(fleet).replicas[3].phase is Phase.LOADING
    fleet.advance(1_000.0)
    assert all(r.phase is not READY and r.restarts > 3 for r in only_pool(fleet).replicas)


def test_clients_that_come_again_are_arrivals_and_told_apart() -> None:
    quiet = struck(Partition(50.0, duration_s=20.0))
    storm = struck(Partition(50.0, duration_s=20.0), Retries(0.0, times=3, backoff_s=2.0))
    for fleet in (quiet, storm):
        fleet.finish()
    assert quiet.outcomes.count(COMPLETED) == pytest.approx(1_800, abs=60)
    assert storm.outcomes.count(COMPLETED) == 2_000
    assert storm.tallies.repeats == storm.tallies.requests - 2_000 == storm.outcomes.count(FAILED)
    assert storm.tallies.requests > 2_200
    assert (quiet.tallies.repeats, quiet.tallies.requests) == (0, 2_000)
    attempts = np.bincount(storm.outcomes.attempts)
    assert attempts[0] == 2_000
    assert attempts[1] == quiet.outcomes.count(FAILED)
    assert len(attempts) > 2


def test_a_request_comes_again_only_so_often_and_only_in_time() -> None:
    fleet = struck(Partition(0.0), Retries(0.0, times=2, backoff_s=1.0, duration_s=60.0), requests=100)
    assert fleet.finish() == 0
    assert np.bincount(fleet.outcomes.attempts).tolist() == [100, 100, 100]
    late = struck(Partition(0.0), Retries(0.0, times=2, backoff_s=1.0, duration_s=6.5), requests=100)
    late.finish()
    assert 100 < late.tallies.requests < 130


def test_a_request_that_is_refused_does_not_come_again() -> None:
    fleet = a_fleet([a_pool(profile=a_profile(kv_cache_tokens=160))], [a_batch([1.0], prompt_tokens=400)])
    fleet.inject(Retries(0.0))
    fleet.finish()
    assert fleet.outcomes.status.tolist() == [FAILED]


def test_a_brief_outage_with_impatient_clients_becomes_a_storm_that_outlives_it() -> None:
    def arrivals(*faults: Fault) -> float:
        fleet = struck(Hang(60.0, ReplicaTarget("", 0), duration_s=30.0), *faults, request_timeout_s=6.0)
        demand = seen(fleet, 85.0).demand["test/model"]
        return demand.requests_per_s

    assert arrivals(Retries(0.0, times=5, backoff_s=0.5)) > 1.3 * arrivals()


def test_a_poisonous_request_ends_one_engine_after_the_other_and_then_stops() -> None:
    fleet = struck(Poison(50.0, times=2), replicas=8)
    fleet.advance(50.2)
    assert [r.restarts for r in only_pool(fleet).replicas] == [0] * 8
    fleet.advance(50.5)
    assert sum(r.restarts for r in only_pool(fleet).replicas) == 1
    fleet.advance(90.0)
    ended = [r for r in only_pool(fleet).replicas if r.restarts]
    assert [r.restarts for r in ended] == [1] * len(ended)
    assert len(ended) == 3  # sent three times; it had begun to stream, so that the gateway did not send it elsewhere
    assert {r.exit_reason for r in ended} == {"Error"}
    assert fleet.finish() == 0
    assert fleet.tallies.requests == 2_003
    assert fleet.tallies.repeats == 2


def test_a_poison_that_has_not_begun_to_stream_is_moved_on_by_the_gateway_as_well() -> None:
    profile = a_profile(prefill_per_token_s=1e-3)
    fleet = a_fleet([a_pool(4, profile=profile)])
    fleet.inject(Poison(50.0, times=0, prompt_tokens=2_000))
    fleet.advance(90.0)
    assert sorted(r.restarts for r in only_pool(fleet).replicas) == [0, 0, 1, 1]


# Cold starts, long prefills


def test_who_becomes_ready_is_slow_for_a_while() -> None:
    fleet = struck(ColdStarts(10.0, factor=4.0, lasting_s=60.0), replicas=1)
    fleet.cluster.scale(only_pool(fleet).key, 2, only_pool(fleet).version)
    assert engine(fleet, 90.0).tpot_mean_s == pytest.approx(0.01, rel=0.1)
    assert engine(fleet, 140.0, 1).tpot_mean_s == pytest.approx(0.04, rel=0.1)
    assert engine(fleet, 140.0, 0).tpot_mean_s == pytest.approx(0.01, rel=0.1)
    assert engine(fleet, 190.0, 1).tpot_mean_s == pytest.approx(0.01, rel=0.1)


def test_in_a_very_long_prefill_all_counters_stand_still_although_the_engine_works() -> None:
    profile = a_profile(prefill_per_token_s=1e-3, max_batched_tokens=64_000)
    fleet = a_fleet(
        [a_pool(1, profile=profile)], [a_batch([1.0], 60_000, 50)], scrape_interval_s=5.0, scrape_delay_s=0.0
    )
    first, last = engine(fleet, 8.0), engine(fleet, 58.0)
    assert (first.steps_total, first.output_tokens_total) == (last.steps_total, last.output_tokens_total) == (0, 0)
    assert (last.running_requests, last.gpu_power_ratio > 0.8) == (1, True)
    fleet.finish()
    assert fleet.outcomes.count(COMPLETED) == 1
