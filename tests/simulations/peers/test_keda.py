"""Does KEDA decide as its guides say, on worked examples?"""

from __future__ import annotations

import math

import pytest

from policies.fleet import FleetState
from simulations.peers.hpa import HpaSettings, of_several, rate_limited, shared_out
from simulations.peers.keda import Keda, KedaSettings, waiting
from simulations.peers.keda_tokens import KedaTokens, KedaTokensSettings, backlog_tokens, kv_used, prefill_tokens_per_s
from tests.builders_peers import KEY, PROFILE, Follows, asked, bounds, engines, load, metrics, over, pool, replica


def keda(least: int = 1, **changes: float) -> Keda:
    return Keda({str(KEY): bounds(least)}, KedaSettings(**changes))  # type: ignore[arg-type]  # numbers all of them


def tokens(least: int = 1, **changes: float) -> KedaTokens:
    return KedaTokens({str(KEY): bounds(least)}, KedaTokensSettings(**changes))  # type: ignore[arg-type]  # as above


# ---- external metrics of an HPA object


def test_an_external_metric_is_shared_out_over_the_replicas() -> None:
    assert shared_out(16.0, 5.0, 2, 0.1) == 4  # ratio 16 / 10 = 1.6; ceil(3.2)
    assert shared_out(16.0, 5.0, 3, 0.1) == 3  # ratio 16 / 15 = 1.07, within tolerance
    assert shared_out(16.0, 5.0, 3, 0.0) == 4
    assert shared_out(0.0, 5.0, 3, 0.1) == 0


def test_the_largest_answer_counts_and_a_missing_one_forbids_to_shrink() -> None:
    assert of_several([3, 7, 5], 4) == 7
    assert of_several([3, None], 4) is None
    assert of_several([6, None], 4) == 6
    assert of_several([None, None], 4) is None


def test_limits_in_replicas_hold_when_there_is_no_limit_in_percent() -> None:
    slow = HpaSettings(up_ratio=0.0, up_replicas=1, up_period_s=180.0, down_ratio=0.0, down_replicas=1)
    assert rate_limited(9, 4, [(0.0, 4)], 600.0, slow) == 5
    assert rate_limited(9, 5, [(0.0, 4), (500.0, 5)], 600.0, slow) == 5  # one was added within the last 180 s
    assert rate_limited(1, 4, [(0.0, 4)], 600.0, slow) == 3


# ---- the queue


def test_waiting_requests_over_the_threshold_are_the_replicas() -> None:
    state = engines(metrics(queued=9), metrics(queued=7))
    assert waiting(state) == 16
    assert asked(keda(), FleetState(0.0, (state,))) == 4  # ceil(16 / 5)


def test_running_requests_are_not_seen() -> None:
    assert Follows(keda(), 4).tick(0.0, requests=1000.0) == 4  # nothing waits: it would shrink, the window holds it


def test_an_empty_queue_shrinks_to_the_minimum_once_the_window_has_passed() -> None:
    scaled = Follows(keda(least=2), 8)
    counts = [scaled.tick(at, requests=100.0) for at in over([0.0, 300.0], 15.0)]
    assert counts[:20] == [8] * 20
    assert counts[20] == 2


def test_a_query_without_a_result_is_a_zero() -> None:
    silent = pool(replica(0), replica(1))
    assert waiting(silent) == 0.0
    assert waiting(engines(metrics(queued=math.nan), metrics(queued=3))) == 3.0


def test_from_zero_it_wakes_up_at_its_polling_interval_when_the_router_has_work() -> None:
    scaled = Follows(keda(least=0), 0)
    assert scaled.tick(0.0) == 0
    assert scaled.tick(15.0, held=3.0) == 0  # KEDA itself looks every 30 s
    assert scaled.tick(30.0, held=3.0) == 1


def test_it_goes_to_zero_a_cooldown_after_the_last_activity() -> None:
    scaled = Follows(keda(least=0), 3)
    assert scaled.tick(0.0, requests_per_s=1.0) == 3
    counts = {at: scaled.tick(at, requests_per_s=0.0) for at in over([15.0, 330.0], 15.0)}
    assert counts[285.0] == 3  # the HPA's window still holds the three it began with
    assert counts[300.0] == 0
    assert scaled.tick(345.0, requests_per_s=0.0) == 0


def test_with_a_minimum_it_never_goes_to_zero() -> None:
    scaled = Follows(keda(least=1), 3)
    assert [scaled.tick(at, requests_per_s=0.0) for at in over([0.0, 900.0], 15.0)][-1] == 1


# ---- tokens


def test_prefill_velocity_is_a_whole_chunk_over_its_time() -> None:
    flat = PROFILE.model_copy(
        update={
            "prefill_base_s": 0.02,
            "prefill_per_token_s": 1e-4,
            "prefill_per_token2_s": 0.0,
            "max_batched_tokens": 2000,
        }
    )
    assert prefill_tokens_per_s(flat) == pytest.approx(2000 / 0.22)


def test_backlog_is_what_waits_times_the_prompt_and_kv_use_is_summed() -> None:
    state = engines(metrics(queued=6, kv=0.5), metrics(queued=4, kv=0.75))
    fleet = FleetState(0.0, (state,), demand=load(3.0, prompt=700.0))
    assert backlog_tokens(fleet, state) == 7000.0
    assert kv_used(state) == 1.25
    assert backlog_tokens(FleetState(0.0, (state,)), state) == 0.0  # or vector(0)


def test_the_scarcer_of_prefill_and_kv_cache_decides() -> None:
    fast = KedaTokensSettings(up_replicas=60)
    policy = KedaTokens({str(KEY): bounds()}, fast)
    per_s = prefill_tokens_per_s(PROFILE)
    prompt = 3.1 * 1.5 * per_s / 10  # ten waiting prompts are 3.1 times the backlog that a replica may have
    waits = FleetState(0.0, (engines(metrics(queued=10, kv=0.4)),), demand=load(1.0, prompt=prompt))
    assert asked(policy, waits) == 4
    full = FleetState(0.0, (engines(metrics(kv=0.9), metrics(kv=0.95)),), demand=load(1.0))
    assert asked(KedaTokens({str(KEY): bounds()}, fast), full) == 3  # ceil(1.85 / 0.8)


def test_llm_ds_guide_adds_one_replica_in_three_minutes() -> None:
    scaled = Follows(tokens(), 2)
    counts = {at: scaled.tick(at, kv=2.0, requests_per_s=1.0) for at in over([0.0, 360.0], 15.0)}
    assert (counts[0.0], counts[165.0], counts[180.0]) == (3, 3, 3)  # 2.0 / 0.8 = 2.5: three will do
    greedy = Follows(tokens(kv_cache_ratio=0.2), 2)
    grown = {at: greedy.tick(at, kv=2.0, requests_per_s=1.0) for at in over([0.0, 360.0], 15.0)}
    assert (grown[0.0], grown[165.0], grown[180.0], grown[360.0]) == (3, 3, 4, 5)
