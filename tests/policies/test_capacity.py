"""Does the capacity formula say what continuous batching can carry, at the edges too?"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.capacity import CapacityModel, capacity_of, replicas_needed, whole_replicas
from policies.fleet import Demand
from policies.slo import ServiceObjective
from tests.builders import RATE, a_profile, demand

OBJECTIVE = ServiceObjective(ttft_s=2.0, tpot_s=0.1)


def test_the_round_engine_carries_exactly_its_rate() -> None:
    one = capacity_of(a_profile(), OBJECTIVE, demand(), 1.0)
    assert one.demand.requests_per_s == pytest.approx(RATE)
    assert one.demand.prompt_tokens_per_s == pytest.approx(1000 * RATE)
    assert one.demand.output_tokens_per_s == pytest.approx(200 * RATE)
    assert one.limit == "time"
    assert one.concurrency == pytest.approx(
        4.0 * 200 * 0.1
    )  # Little: rate x output tokens x step time at the objective


def test_efficiency_takes_its_share() -> None:
    assert capacity_of(a_profile(), OBJECTIVE, demand(), 0.75).demand.requests_per_s == pytest.approx(0.75 * RATE)


def test_only_the_proportions_of_the_shape_matter() -> None:
    small, large = (capacity_of(a_profile(), OBJECTIVE, demand(rate), 1.0) for rate in (0.01, 500.0))
    assert small.demand.requests_per_s == pytest.approx(large.demand.requests_per_s)


def test_a_full_kv_cache_limits_before_time_does() -> None:
    one = capacity_of(a_profile(kv_cache_tokens=11_000), OBJECTIVE, demand(), 1.0)
    # 0.95 x 11000 / 1100 = 9.5 sequences: 9.5 / (200 x 0.02 + 9.5 x 0.2) requests/s
    assert one.demand.requests_per_s == pytest.approx(9.5 / 5.9)
    assert one.limit == "sequences"


def test_a_small_batch_limit_binds_too() -> None:
    assert capacity_of(a_profile(max_running=4), OBJECTIVE, demand(), 1.0).limit == "sequences"


def test_prefix_hits_take_away_prefill_and_never_decode() -> None:
    warm = Demand(8.0, 8000.0, 1600.0, cached_prompt_ratio=1.0)
    # Only the 0.1 s of decode are left of 0.2 s.
    assert capacity_of(a_profile(), OBJECTIVE, warm, 1.0).demand.requests_per_s == pytest.approx(2 * RATE)


def test_requests_that_cost_no_time_fill_the_batch() -> None:
    free = a_profile(decode_per_sequence_s=0.0)
    one = capacity_of(free, OBJECTIVE, Demand(8.0, 8000.0, 1600.0, cached_prompt_ratio=1.0), 1.0)
    assert (one.demand.requests_per_s, one.limit) == (pytest.approx(256 / (200 * 0.02)), "sequences")


@pytest.mark.parametrize("requests_per_s", [1e-3, 1e-9, 1e-300, 5e-324])
def test_next_to_no_requests_with_tokens_of_their_own_do_not_ask_for_a_fleet(requests_per_s: float) -> None:
    """The channels of a forecast are quantiles each of its own: their ratio near zero is no length of a request."""
    squared, dust = a_profile(prefill_per_token2_s=1e-9), Demand(requests_per_s, 500.0, 50.0)
    one = capacity_of(squared, OBJECTIVE, dust, 1.0)
    # A prompt as long as the KV cache takes 1e-4 + 1e-9 x 1e6 = 0.0011 s per token.
    assert one.prefill_s_per_token <= 0.0011 + 1e-12
    assert replicas_needed(dust, one) < 10.0


def test_an_objective_faster_than_an_empty_step_still_gives_a_finite_answer() -> None:
    one = capacity_of(a_profile(), ServiceObjective(tpot_s=0.001), demand(), 1.0)
    assert one.demand.requests_per_s == pytest.approx((1 - 0.5) / 0.2)


def test_requests_without_output_count_one_token() -> None:
    assert capacity_of(a_profile(), OBJECTIVE, Demand(1.0, 1000.0, 0.0), 1.0).demand.output_tokens_per_s > 0


@pytest.mark.parametrize(("shape", "efficiency"), [(Demand(0.0, 0.0, 0.0), 1.0), (demand(), 0.0)])
def test_no_shape_or_no_efficiency_is_refused(shape: Demand, efficiency: float) -> None:
    with pytest.raises(ValueError, match="token shape"):
        capacity_of(a_profile(), OBJECTIVE, shape, efficiency)


def test_prefill_and_decode_share_the_engines_time() -> None:
    one = CapacityModel(Demand(2.0, 1000.0, 400.0), 20.0, "time", 0.0002, 0.0005, 0.4)
    assert replicas_needed(Demand(2.0, 1000.0, 400.0), one) == pytest.approx(1.0)
    assert replicas_needed(Demand(2.0, 0.0, 400.0), one) == pytest.approx(0.5)
    assert replicas_needed(Demand(2.0, 2000.0, 1200.0), one) == pytest.approx(2.5)
    assert replicas_needed(Demand(0.0, 0.0, 0.0), one) == 0.0


def test_where_sequences_bind_longer_answers_cost_more_than_their_time() -> None:
    one = CapacityModel(Demand(2.0, 1000.0, 400.0), 20.0, "sequences", 0.0002, 0.0005, 0.4)
    assert replicas_needed(Demand(2.0, 0.0, 1200.0), one) == pytest.approx(3.0)


def test_work_that_takes_no_time_asks_for_nothing() -> None:
    assert replicas_needed(demand(2.0), CapacityModel(demand(2.0), 1.0, "time", 0.0, 0.0, 0.0)) == 0.0


@given(st.floats(10.0, 3000.0), st.floats(2.0, 1000.0), st.floats(0.0, 1.0))
def test_a_replica_carries_exactly_its_own_capacity(prompt: float, output: float, cached: float) -> None:
    one = capacity_of(a_profile(), OBJECTIVE, Demand(1.0, prompt, output, cached), 0.8)
    assert replicas_needed(one.demand, one) == pytest.approx(1.0)


@pytest.mark.parametrize(("needed", "whole"), [(0.0, 0), (-1.0, 0), (0.001, 1), (3.0, 3), (3.0000000001, 3), (3.01, 4)])
def test_float_dust_does_not_cost_a_replica(needed: float, whole: int) -> None:
    assert whole_replicas(needed) == whole


@given(st.floats(0.01, 1e4), st.floats(1.0, 1e5), st.floats(1.0, 1e4), st.floats(0.0, 1.0), st.floats(0.001, 10.0))
def test_capacity_is_positive_and_finite_for_any_shape(
    rate: float, prompt: float, output: float, cached: float, tpot_s: float
) -> None:
    shape = Demand(rate, rate * prompt, rate * output, cached)
    one = capacity_of(a_profile(), ServiceObjective(tpot_s=tpot_s), shape, 1.0)
    assert 0 < one.demand.requests_per_s < 1e9
    assert one.concurrency >= 0


@given(st.floats(0.05, 5.0), st.floats(0.05, 5.0))
def test_a_laxer_objective_never_carries_less(one_s: float, other_s: float) -> None:
    strict, lax = sorted((one_s, other_s))
    tight = capacity_of(a_profile(), ServiceObjective(tpot_s=strict), demand(), 1.0).demand.requests_per_s
    loose = capacity_of(a_profile(), ServiceObjective(tpot_s=lax), demand(), 1.0).demand.requests_per_s
    assert loose >= tight * (1 - 1e-12)
