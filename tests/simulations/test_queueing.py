"""Does a simulated fleet obey queueing theory in the limits where it has closed forms?

Tolerances are three standard errors of the simulated mean, found with sixty other seeds of the same length (4 to 5 % of
a mean wait, 2.5 % of a mean time in system).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from simulations.fleet import SimulatedFleet
from tests.builders_fleet import a_batch, a_fleet, a_pool, a_profile, poisson

STEP_S = 0.1
SINGLE_SERVER = {
    "max_running": 1,
    "decode_base_s": STEP_S,
    "prefill_base_s": STEP_S,
    "prefill_per_token_s": 1e-12,
    "kv_cache_tokens": 10_000_000,
}


def served_one_at_a_time(rate_per_s: float, output_tokens: npt.NDArray[np.int32]) -> SimulatedFleet:
    """A single server whose service time is the step time times the output tokens."""
    fleet = a_fleet(
        [a_pool(1, profile=a_profile(**SINGLE_SERVER))],
        [a_batch(poisson(rate_per_s, len(output_tokens)), prompt_tokens=1, output_tokens=output_tokens)],
        request_timeout_s=1e9,
        finish_grace_s=1e6,
    )
    assert fleet.finish() == 0
    return fleet


REQUESTS = 12_000
RNG = np.random.default_rng(5)
SERVICE = {
    "constant": np.full(REQUESTS, 8),
    "geometric": RNG.geometric(1 / 8, REQUESTS),
    "mostly short, some long": np.where(RNG.random(REQUESTS) < 0.9, 4, 44),
}


@pytest.mark.parametrize("shape", SERVICE)
def test_mean_wait_of_one_server_is_that_of_pollaczek_and_khinchine(shape: str) -> None:
    output_tokens = SERVICE[shape].astype(np.int32)
    rate_per_s = 0.6 / (8 * STEP_S)
    outcomes = served_one_at_a_time(rate_per_s, output_tokens).outcomes
    service_s = output_tokens * STEP_S
    wait_s = outcomes.e2e_s - service_s
    # M/G/1: E[W] = lambda E[S^2] / (2 (1 - rho)), with the moments of the services that were drawn
    busy = rate_per_s * service_s.mean()
    expected_s = rate_per_s * np.square(service_s).mean() / (2 * (1 - busy))
    assert wait_s.min() > -1e-9
    assert wait_s.mean() == pytest.approx(expected_s, rel=0.15)


def test_one_server_with_nearly_exponential_service_is_an_m_m_1_queue() -> None:
    output_tokens = np.random.default_rng(2).geometric(1 / 25, REQUESTS).astype(np.int32)
    rate_per_s = 0.5 / (25 * STEP_S)
    outcomes = served_one_at_a_time(rate_per_s, output_tokens).outcomes
    # E[T] = 1 / (mu - lambda); a geometric service of mean 25 steps differs from an exponential one by 2 %
    expected_s = 1 / (1 / (25 * STEP_S) - rate_per_s)
    assert outcomes.e2e_s.mean() == pytest.approx(expected_s, rel=0.09)
    # P(T > t) = exp(-(mu - lambda) t): half of all are out by ln 2 times the mean
    assert np.median(outcomes.e2e_s) == pytest.approx(np.log(2) * expected_s, rel=0.09)


def test_an_engine_that_never_fills_is_an_m_g_infinity_queue() -> None:
    step_s, mean_tokens, rate_per_s = 0.02, 50, 40.0
    profile = a_profile(
        max_running=4096,
        max_batched_tokens=8192,
        kv_cache_tokens=10_000_000,
        decode_base_s=step_s,
        prefill_base_s=step_s,
        prefill_per_token_s=1e-12,
    )
    output_tokens = np.random.default_rng(3).geometric(1 / mean_tokens, 20_000).astype(np.int32)
    fleet = a_fleet([a_pool(1, profile=profile)], [a_batch(poisson(rate_per_s, 20_000), 1, output_tokens)])
    occupancy = []
    for at in np.arange(10.0, 490.0, 0.5):
        fleet.advance(float(at))
        occupancy.append(fleet.unfinished_requests)
    # Each stays E[S] = 50 steps and on average half a step until the next step begins; the number is Poisson.
    expected = rate_per_s * (mean_tokens + 0.5) * step_s
    assert np.mean(occupancy) == pytest.approx(expected, rel=0.05)
    assert np.var(occupancy) == pytest.approx(expected, rel=0.25)


def test_littles_law_holds_under_any_load() -> None:
    rng = np.random.default_rng(8)
    batch = a_batch(
        poisson(12.0, 6_000, seed=4),
        rng.integers(50, 3_000, 6_000).astype(np.int32),
        rng.integers(1, 200, 6_000).astype(np.int32),
    )
    profile = a_profile(kv_cache_tokens=40_000, decode_per_sequence_s=2e-4, prefill_per_token_s=2e-5)
    fleet = a_fleet([a_pool(2, profile=profile)], [batch])
    in_system = []
    at = 0.0
    while not (fleet.arrivals_over and fleet.unfinished_requests == 0):
        at += 0.25
        fleet.advance(at)
        in_system.append(fleet.unfinished_requests)
    mean_in_system = np.mean(in_system)
    arrivals_per_s = len(fleet.outcomes) / at
    assert mean_in_system == pytest.approx(arrivals_per_s * fleet.outcomes.e2e_s.mean(), rel=0.01)
