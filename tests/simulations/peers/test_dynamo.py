"""Does Dynamo's planner decide as its source says, on worked examples?"""

from __future__ import annotations

import math

import numpy as np
import pytest

from forecasting.series import LoadSeries
from policies.fleet import FleetState, PoolState
from policies.slo import ServiceObjective
from simulations.peers.dynamo_load import DynamoLatencySettings, DynamoLoad, DynamoThroughputSettings, heard, stepped
from simulations.peers.dynamo_sla import DynamoSla, DynamoSlaSettings, Lengths, StepTime, Worker, reaction
from tests.builders_peers import KEY, PROFILE, Follows, asked, bounds, engines, load, metrics, over

ENGINE = PROFILE.model_copy(
    update={
        "decode_base_s": 0.01,
        "decode_per_sequence_s": 0.0,
        "decode_per_kv_token_s": 1e-6,
        "prefill_base_s": 0.0,
        "prefill_per_token_s": 1e-4,
        "prefill_per_token2_s": 0.0,
        "kv_cache_tokens": 100_000,
        "max_running": 256,
        "max_batched_tokens": 2000,
    }
)
STEPS, LENGTHS = StepTime(ENGINE), Lengths(prompt=1000.0, output=200.0)  # a request holds 1100 tokens on average
OBJECTIVE = ServiceObjective(ttft_s=1.0, tpot_s=0.05)


# ---- on load alone


def test_one_full_worker_adds_a_replica_and_all_with_room_give_one_up() -> None:
    throughput, latency = DynamoThroughputSettings(), DynamoLatencySettings()
    assert stepped([0.5, 0.7, 1.1], 3, throughput) == 4
    assert stepped([0.5, 0.4, 0.55], 3, throughput) == 2
    assert stepped([0.5, 0.7, 0.9], 3, throughput) == 3
    assert stepped([0.5, 0.2], 2, latency) == 3
    assert stepped([0.05, 0.09], 2, latency) == 1
    assert stepped([0.0], 1, latency) == 1


def state(*workers: tuple[float, float], starting: int = 0) -> PoolState:
    """A pool whose workers use that share of the KV cache and hold that many waiting requests."""
    return engines(*(metrics(kv=kv, queued=queued) for kv, queued in workers), starting=starting)


def planner() -> DynamoLoad:
    return DynamoLoad({str(KEY): bounds()}, DynamoThroughputSettings(settle_s=0.0), "dynamo-throughput")


def test_queued_prompts_count_like_the_cache_that_they_will_take() -> None:
    # 10 000 tokens fit: 0.5 in use and 12 prompts of 500 waiting want 1.1 of it
    fleet = FleetState(0.0, (state((0.5, 12.0), (0.7, 0.0)),), demand=load(1.0, prompt=500.0))
    (busy, calm) = heard(fleet, fleet.pools[0], bounds()) or []
    assert (busy.wanted_ratio, calm.wanted_ratio) == (1.1, 0.7)
    assert asked(planner(), fleet) == 3


def test_while_scaling_is_in_progress_it_only_watches() -> None:
    fleet = FleetState(0.0, (state((1.0, 99.0), starting=1),), demand=load(1.0))
    assert asked(planner(), fleet) == 2


def test_a_worker_that_is_not_heard_stops_it() -> None:
    fleet = FleetState(0.0, (state((1.0, 99.0), (math.nan, 0.0)),), demand=load(1.0))
    assert asked(planner(), fleet) == 2
    unknown = FleetState(0.0, (state((0.5, 3.0)),))
    assert heard(unknown, unknown.pools[0], bounds()) is None  # how long are the prompts that wait?


def test_the_planner_never_leaves_fewer_than_one() -> None:
    policy = DynamoLoad({str(KEY): bounds(0)}, DynamoThroughputSettings(), "dynamo-throughput")
    assert Follows(policy, 1).tick(0.0, requests_per_s=0.0) == 1
    assert Follows(policy, 0).tick(0.0) == 1


def test_at_the_start_of_a_run_it_only_watches() -> None:
    scaled = Follows(DynamoLoad({str(KEY): bounds()}, DynamoThroughputSettings(settle_s=60.0), "dynamo-throughput"), 3)
    counts = [scaled.tick(at, requests_per_s=1.0) for at in over([0.0, 70.0], 5.0)]
    assert counts == [3] * 12 + [2, 1, 1]


# ---- the performance model


def test_a_step_takes_base_prefill_and_decode() -> None:
    assert STEPS.seconds(500.0, 20_000.0, LENGTHS) == pytest.approx(0.01 + 0.05 + 0.02)
    assert STEPS.seconds(0.0, 0.0, LENGTHS) == 0.0


def test_ttft_is_queue_and_own_prompt_in_whole_chunks() -> None:
    # 4500 tokens queued and 1000 of its own: two chunks of 2000 and one of 1500, each beside decoding 10 000 tokens
    expected = 2 * (0.01 + 0.2 + 0.01) + (0.01 + 0.15 + 0.01)
    assert STEPS.ttft_s(4500.0, 10_000.0, LENGTHS) == pytest.approx(expected)


def test_what_an_engine_carries_is_the_largest_batch_within_both_objectives() -> None:
    # A batch of n decodes 1100 n tokens and prefills 5 n a step: 0.01 + 0.0005 n + 0.0011 n <= 0.05 s gives n = 25,
    # which ends n / (200 * step) requests/s. TTFT stays below 1 s.
    assert STEPS.requests_per_s(LENGTHS, OBJECTIVE) == pytest.approx(25 / (200 * 0.05))
    # A TTFT of 0.13 s binds first: 0.01 + 0.0011 n + 1e-4 (1000 + 5 n) <= 0.13 gives n = 12.5.
    tight = OBJECTIVE.model_copy(update={"ttft_s": 0.13})
    assert STEPS.requests_per_s(LENGTHS, tight) == pytest.approx(12 / (200 * (0.01 + 0.0016 * 12)))


def test_an_objective_out_of_reach_is_sized_for_single_requests() -> None:
    impossible = ServiceObjective(ttft_s=1.0, tpot_s=0.001)
    assert STEPS.requests_per_s(LENGTHS, impossible) == pytest.approx(1 / (200 * 0.0116))


# ---- reaction


def worker(kv: float, queued: float = 0.0) -> Worker:
    return Worker(kv * 100_000, queued, 100_000.0)


def react(*workers: Worker) -> int:
    return reaction(workers, STEPS, LENGTHS, 100.0, OBJECTIVE, DynamoSlaSettings())


def test_all_workers_above_an_objective_add_one() -> None:
    # TPOT: 0.01 + 0.01 + 1e-6 (kv + 1100) > 0.05 from 28 900 tokens on
    assert react(worker(0.30), worker(0.35)) == 1
    assert react(worker(0.30), worker(0.25)) == 0  # one is still within
    # TTFT: 8000 tokens queued take about a second
    assert react(worker(0.1, 9000.0), worker(0.1, 9500.0)) == 1


def test_one_fewer_goes_when_the_rest_would_keep_a_fifth_in_hand() -> None:
    # Three at 0.08: spread over two that is 12 000 tokens each and a TPOT of 0.033 s, below 0.04 s
    assert react(worker(0.08), worker(0.08), worker(0.08)) == -1
    # At 0.14 it would be 21 000 and 0.042 s
    assert react(worker(0.14), worker(0.14), worker(0.14)) == 0


def test_two_do_not_become_one_that_would_be_too_slow() -> None:
    # Each is at 0.03 s, well below 80 % of the objective; one alone would be at 0.0411 s
    assert react(worker(0.10), worker(0.10)) == 0
    assert react(worker(0.05)) == 0


def test_one_fewer_stays_when_the_queue_would_take_what_ttft_leaves() -> None:
    assert react(worker(0.02, 500.0), worker(0.02, 500.0)) == -1
    assert react(worker(0.02, 4000.0), worker(0.02, 4000.0)) == 0


# ---- prediction


def sla(before: LoadSeries | None = None, **changes: float) -> DynamoSla:
    settings = DynamoSlaSettings(**{"settle_s": 0.0, **changes})  # type: ignore[arg-type]  # numbers
    return DynamoSla({str(KEY): bounds(profile=ENGINE)}, OBJECTIVE, settings, before)


def run(policy: DynamoSla, until_at: float, rate: float) -> list[int]:
    """Return the replicas at each tick of an idle-looking pool under ``rate``."""
    scaled = Follows(policy, 6)
    counts = []
    for at in over([0.0, until_at], 5.0):
        n = scaled.replicas
        fleet = FleetState(at, (engines(*[metrics(at, kv=0.01)] * n),), demand=load(rate, prompt=1000.0, output=200.0))
        counts.append(asked_of(scaled, fleet))
    return counts


def asked_of(scaled: Follows, fleet: FleetState) -> int:
    return scaled._decided(fleet)


def test_until_the_first_prediction_only_the_reaction_decides() -> None:
    counts = run(sla(), 200.0, 6.0)
    assert counts[:6] == [5, 4, 3, 2, 1, 1]
    # At 180 s: 6 requests/s over the 2.5 that an engine carries
    assert counts[35:37] == [1, 3]


def test_the_prediction_is_a_lower_bound_for_the_reaction() -> None:
    assert run(sla(), 900.0, 6.0)[40:] == [3] * 141


def test_a_derated_profile_keeps_more() -> None:
    assert run(sla(profile_ratio=0.5), 400.0, 6.0)[-1] == 5  # ceil(6 / 1.25)


def test_recorded_load_warms_the_predictors_up() -> None:
    rows = np.tile([10.0, 10_000.0, 2000.0], (12 * 20, 1))
    rows[5] = math.nan
    before = LoadSeries(-3600.0, 15.0, rows)
    warm, cold = sla(before), sla(before, warm_up=False)
    for policy in (warm, cold):
        run(policy, 0.0, 10.0)
    assert warm._planners[str(KEY)].requests.expected() == pytest.approx(1800.0)
    assert cold._planners[str(KEY)].requests.expected() == 0.0


def test_less_recorded_load_than_an_interval_warms_nothing_up() -> None:
    policy = sla(LoadSeries(-60.0, 15.0, np.tile([10.0, 10_000.0, 2000.0], (4, 1))))
    run(policy, 0.0, 10.0)
    assert policy._planners[str(KEY)].requests.expected() == 0.0


def test_an_interval_without_observed_load_changes_nothing() -> None:
    policy = sla()
    run(policy, 185.0, 6.0)
    for at in over([190.0, 600.0], 5.0):
        policy.decide(FleetState(at, (engines(*[metrics(at, kv=0.01)] * 3),)), {}, Follows(policy, 3).memory)
    assert policy._planners[str(KEY)].bound == 3


# ---- what counts as a full cache


def test_use_at_the_tested_load_can_count_as_a_full_cache() -> None:
    # A replica that uses a tenth of its cache at its tested load is full at 0.1.
    fleet = FleetState(0.0, (state((0.09, 0.0), (0.11, 0.0)),), demand=load(1.0))
    settings = DynamoThroughputSettings(settle_s=0.0)
    tested = DynamoLoad({str(KEY): bounds()}, settings, "dynamo-throughput", {str(KEY): 0.1})
    assert asked(tested, fleet) == 3
    assert asked(planner(), fleet) == 1
