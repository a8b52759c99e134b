"""Do counts kept in a fixed amount of memory tell what rows of requests would?"""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.slo import ServiceObjective
from simulations.fleet import SimulatedFleet
from simulations.kernel import arrays
from simulations.tallies import Exact
from tests.builders_fleet import a_batch, a_fleet, a_pool, a_profile, poisson

OBJECTIVE = ServiceObjective(ttft_s=0.5, tpot_s=0.02)
LEVELS = (0.0, 0.01, 0.25, 0.5, 0.9, 0.95, 0.99, 1.0)
FINE, COARSE = 0.002, 0.031
"""Widths of the bins of the histograms, which nothing read from them is off by more than."""


def busy_fleet(seed: int, requests: int = 2_000) -> SimulatedFleet:
    """Two slow replicas that cannot keep up: TTFT from milliseconds to many seconds, some requests given up."""
    rng = np.random.default_rng(seed)
    profile = a_profile(max_running=8, decode_per_sequence_s=1e-3, kv_cache_tokens=4_000)
    batch = a_batch(poisson(24.0, requests, seed), rng.integers(1, 900, requests), rng.integers(1, 90, requests))
    fleet = a_fleet([a_pool(2, profile=profile)], [batch], objective=OBJECTIVE, request_timeout_s=12.0)
    assert fleet.finish() == 0
    return fleet


@settings(max_examples=5, deadline=None)
@given(st.integers(0, 1_000))
def test_counts_are_those_of_the_rows_and_quantiles_within_a_bin(seed: int) -> None:
    fleet = busy_fleet(seed)
    told, exact = fleet.tallies, Exact(fleet.outcomes, OBJECTIVE)
    for figure in ("requests", "completed", "dropped", "within", "good_tokens"):
        assert getattr(told, figure) == getattr(exact, figure), figure
    assert 0 < told.within < told.completed < told.requests
    assert told.ttft_s(LEVELS) == pytest.approx(exact.ttft_s(LEVELS), rel=FINE)
    assert told.tpot_s(LEVELS) == pytest.approx(exact.tpot_s(LEVELS), rel=FINE, abs=1e-7)
    assert told.e2e_s(LEVELS) == pytest.approx(exact.e2e_s(LEVELS), rel=FINE)


def test_over_time_the_counts_are_exact_and_a_minutes_p95_within_a_coarse_bin() -> None:
    fleet = busy_fleet(3)
    told, exact = fleet.tallies.over_time(60.0), Exact(fleet.outcomes, OBJECTIVE).over_time(60.0)
    assert told.requests.tolist() == exact.requests.tolist()
    assert told.within.tolist() == exact.within.tolist()
    assert told.ttft_p95_s == pytest.approx(exact.ttft_p95_s, rel=COARSE)


def test_nothing_has_arrived() -> None:
    fleet = a_fleet()
    assert fleet.finish() == 0
    assert all(math.isnan(value) for value in fleet.tallies.ttft_s((0.5, 0.99)))
    went = fleet.tallies.over_time(90.0)
    assert went.requests.tolist() == [0.0, 0.0]
    assert np.isnan(went.ttft_p95_s).all()


def test_bins_of_a_long_run_grow_longer_and_lose_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrays, "MOST_BINS", 128)  # two hours of minutes; then of two, then of four
    at = np.arange(0.0, 5 * 3600.0, 7.0)
    fleet = a_fleet(batches=[a_batch(at)])
    fleet.finish()
    went = fleet.tallies.over_time(at[-1])
    assert len(went.requests) == 300
    assert went.requests.sum() == pytest.approx(len(at))
    assert went.requests[:296].reshape(-1, 4).std(axis=1).max() == 0.0  # four minutes share one bin's figures
    assert went.requests[10] == pytest.approx(60 / 7, rel=0.05)


def test_a_queue_of_thousands_and_a_fleet_of_hundreds_find_room() -> None:
    requests = 9_000
    fleet = a_fleet([a_pool(1)], [a_batch(np.arange(requests) * 1e-4, 20, 5)], request_timeout_s=1e6)
    fleet.advance(0.5)
    (pool,) = fleet.cluster.pools()
    fleet.cluster.scale(pool.key, 200, pool.version)
    fleet.advance(0.95)
    assert fleet.unfinished_requests > 7_500
    assert fleet.finish() == 0
    assert (fleet.tallies.completed, fleet.tallies.too_early) == (requests, 0)
    fleet.advance(150.0)  # long enough for all to be READY and scraped
    assert len(fleet.metrics.read(150.0).replicas) == 200
