"""Does a fit find the coefficients that made the measurements, and refuse those that they cannot tell?"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from controller.errors import BadInput
from policies.engine_profile import EngineProfile
from simulations.engine_runs import (
    COEFFICIENTS,
    MEASURES,
    Times,
    coefficients_of,
    hold_concurrency,
    replay,
    with_coefficients,
)
from tests.builders_fleet import a_profile, poisson
from training.capacity_fit import FitSettings, capacity_fit, fit_budget, rough_start, split
from training.fit_errors import fit_errors
from training.measurements import Measurement, statistics

TRUE = a_profile(
    decode_base_s=0.012,
    prefill_base_s=0.009,
    decode_per_sequence_s=50e-6,
    decode_per_kv_token_s=60e-9,
    prefill_per_token_s=40e-6,
    prefill_per_token2_s=3e-9,
    kv_cache_tokens=200_000,
    max_running=256,
)
RECOVERED = 0.02  # without noise only the engine's own discreteness is left
RECOVERED_WITH_NOISE = 0.25  # 3 % noise on every mean of 24 loads


def a_load(profile: EngineProfile, clients: int, prompt: int, output: int, noise: float = 1.0) -> Measurement:
    """A closed loop in summary, as ``profile`` answers it."""
    count = 5 * clients
    lengths = np.full(count, prompt, np.int32), np.full(count, output, np.int32)
    times = hold_concurrency(profile, clients, *lengths).run.times
    summary = {key: value * noise for key, value in statistics(times, np.ones(count, np.bool_)).items()}
    return Measurement(f"{prompt}+{output} at {clients}", *lengths, concurrency=clients, summary=summary)


def a_sweep(clients: Sequence[int] = (1, 4, 16, 64), noise: float = 0.0) -> list[Measurement]:
    rng = np.random.default_rng(3)
    return [
        a_load(TRUE, many, prompt, output, 1.0 + noise * float(rng.standard_normal()))
        for many in clients
        for prompt, output in ((100, 60), (700, 40), (3000, 30), (1500, 200), (250, 120), (6000, 20))
    ]


def a_run(requests: int = 300, seed: int = 1) -> Measurement:
    """Single requests at bursty instants, as ``TRUE`` answers them."""
    rng = np.random.default_rng(seed)
    prompt = rng.integers(20, 4000, requests).astype(np.int32)
    output = rng.integers(1, 300, requests).astype(np.int32)
    arrived_at = np.sort(poisson(4.0, requests, seed) * (1.0 + 0.5 * np.sin(np.arange(requests) / 40.0)))
    arrived_at -= arrived_at[0]
    times = replay(TRUE, arrived_at, prompt, output).run.times
    return Measurement("run", prompt, output, arrived_at=arrived_at, times=times)


def wrong_start() -> EngineProfile:
    return with_coefficients(TRUE, coefficients_of(TRUE) * np.array([0.6, 1.3, 2.0, 0.5, 1.7, 0.5]))


def test_every_time_of_a_replay_is_its_work_times_the_coefficients() -> None:
    one = a_run(80)
    replayed = one.replay(TRUE)
    for number, measure in enumerate(MEASURES):
        np.testing.assert_allclose(replayed.work[number] @ coefficients_of(TRUE), replayed.run.times.of(measure))


def test_a_held_concurrency_is_kept_until_the_requests_run_out() -> None:
    lengths = np.full(12, 50, np.int32), np.full(12, 9, np.int32)
    run = hold_concurrency(TRUE, 3, *lengths).run
    for at in np.linspace(1e-6, run.arrived_at.max(), 40):
        assert ((run.arrived_at <= at) & (run.finished_at > at)).sum() == 3


def test_a_sweep_gives_its_coefficients_back_without_a_start() -> None:
    loads = a_sweep()
    fit = capacity_fit(rough_start(TRUE, loads), loads, FitSettings(holdout_ratio=0.4))
    found = dict(zip(COEFFICIENTS, coefficients_of(fit.profile) / coefficients_of(TRUE) - 1.0, strict=True))
    del found["prefill_base_s"]  # only in steps that do nothing but prefill
    assert {name: error for name, error in found.items() if abs(error) > RECOVERED} == {}
    assert set(fit.undetermined) <= {"prefill_base_s"}


def test_noise_is_told_in_the_errors_of_the_coefficients() -> None:
    loads = a_sweep(noise=0.03)
    fit = capacity_fit(rough_start(TRUE, loads), loads, FitSettings(holdout_ratio=0.0))
    exact = capacity_fit(rough_start(TRUE, loads), a_sweep(), FitSettings(holdout_ratio=0.0))
    assert fit.spread > exact.spread
    for ours, theirs in zip(fit.coefficients, exact.coefficients, strict=True):
        if ours.name not in ("prefill_base_s", "decode_per_sequence_s"):
            assert ours.value == pytest.approx(getattr(TRUE, ours.name), rel=RECOVERED_WITH_NOISE)
            assert ours.error_ratio > theirs.error_ratio


def test_a_run_of_single_requests_gives_its_coefficients_back_and_predicts_the_rest() -> None:
    one = a_run()
    fit = capacity_fit(wrong_start(), [one], FitSettings.near_start(0.4))
    held_out = [error for error in fit_errors(fit.parts) if error.part == "held out"]
    assert held_out[0].observations == 120
    assert all(abs(error.mean) < 0.01 for error in held_out)
    # A TTFT of a step or two depends on where in a step the request came; every other time is a sum of many.
    assert all(error.absolute < (0.05 if error.measure == "ttft_s" else 0.01) for error in held_out)
    assert fit.profile.prefill_per_token_s == pytest.approx(TRUE.prefill_per_token_s, rel=0.05)


def test_one_concurrency_is_refused_with_what_to_measure() -> None:
    loads = [a_load(TRUE, 16, prompt, 50) for prompt in (500, 510, 520)]
    with pytest.raises(BadInput, match="do not determine") as caught:
        capacity_fit(rough_start(TRUE, loads), loads, FitSettings(holdout_ratio=0.0))
    assert "decode_per_sequence_s" in caught.value.what
    assert "more concurrencies" in caught.value.remedy
    assert "--like PROFILE" in caught.value.remedy


def test_one_prompt_length_is_refused_for_the_square_of_it() -> None:
    loads = [a_load(TRUE, clients, 500, output) for clients in (1, 8, 32) for output in (20, 300)]
    with pytest.raises(BadInput, match="prefill_per_token2_s") as caught:
        capacity_fit(rough_start(TRUE, loads), loads, FitSettings(holdout_ratio=0.0))
    assert "other lengths" in caught.value.remedy


def test_what_is_not_determined_is_kept_near_a_start_that_means_something() -> None:
    loads = [a_load(TRUE, 16, prompt, 50) for prompt in (500, 510, 520)]
    fit = capacity_fit(TRUE, loads, FitSettings.near_start(0.0))
    assert "decode_per_sequence_s" in fit.undetermined
    assert fit.profile.decode_per_sequence_s == pytest.approx(TRUE.decode_per_sequence_s, rel=0.1)


@pytest.mark.parametrize(("loads", "requests"), [(2, 0), (0, 19)])
def test_too_little_is_refused(loads: int, requests: int) -> None:
    given = [a_load(TRUE, 4, 100, 20)] * loads + ([a_run(requests)] if requests else [])
    with pytest.raises(BadInput, match="too few"):
        capacity_fit(TRUE, given, FitSettings())


def test_a_request_longer_than_the_cache_is_bad_input() -> None:
    loads = [a_load(TRUE, clients, 700, 20) for clients in (1, 2, 4)]
    with pytest.raises(BadInput, match=r"720 tokens does not fit 160 KV tokens"):
        capacity_fit(TRUE.model_copy(update={"kv_cache_tokens": 160}), loads, FitSettings.near_start(0.0))


def test_inner_loads_of_a_sweep_are_held_out_and_late_requests_of_a_run() -> None:
    parts = split([*a_sweep(clients=(1, 4, 16, 64)), a_run(50)], 0.4)
    held_out = {one.concurrency for one, fitted in parts[:-1] if not fitted.any()}
    assert held_out == {4}
    assert parts[-1][1].tolist() == [True] * 30 + [False] * 20
    assert all(fitted.all() for _, fitted in split(a_sweep(clients=(1, 4)), 0.4))


def test_the_budget_of_a_step_is_found_by_trying() -> None:
    engine = TRUE.model_copy(update={"max_batched_tokens": 8192})
    loads = [a_load(engine, clients, prompt, 30) for clients in (1, 6, 24) for prompt in (300, 2000, 5000)]
    fit = fit_budget(wrong_start(), loads, FitSettings.near_start(0.0))
    assert fit.profile.max_batched_tokens == 8192
    assert [budget for budget, _ in fit.tried_batched_tokens] == [2048, 4096, 8192, 16384]


def test_equal_measurements_give_equal_fits() -> None:
    loads = a_sweep(clients=(1, 8, 32))
    first, second = (capacity_fit(wrong_start(), loads, FitSettings.near_start(0.4)) for _ in range(2))
    assert first.profile == second.profile
    assert first.coefficients == second.coefficients


def test_tpot_counts_only_requests_with_two_tokens_or_more() -> None:
    times = Times(np.ones(2), np.array([0.0, 0.5]), np.array([1.0, 2.0]))
    assert statistics(times, np.ones(2, np.bool_))["tpot_s", "mean"] == 0.5
