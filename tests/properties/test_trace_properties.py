"""What holds for any trace: order, bounds, nothing lost or invented, the same for a seed however it is cut."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from simulations.arrivals import ArrivalProcess
from simulations.rate_curve import RateCurve
from simulations.trace import rebatched
from simulations.trace_counts import counted
from simulations.trace_views import scaled, sliced
from tests.builders_traces import ListedTrace, all_requests, drawn_trace, requests_at

arrivals = st.lists(st.floats(0, 1e4), min_size=1, max_size=60).map(sorted)
some_rates = arrays(
    np.float64, st.integers(1, 12), elements=st.one_of(st.floats(0.0, 20.0), st.just(float("nan")), st.just(0.0))
)
rates = some_rates.filter(lambda each: bool(np.nansum(each) > 0.5))
seeds = st.integers(0, 2**32)


@given(arrivals, st.integers(1, 20), st.integers(1, 20))
def test_cutting_into_batches_loses_and_moves_nothing(at: list[float], size: int, given_size: int) -> None:
    cut = list(rebatched(ListedTrace(requests_at(at), given_size).batches(), size))
    assert [x for part in cut for x in part.arrival_s] == at
    assert all(len(part) == size for part in cut[:-1])


@given(arrivals, st.floats(0.05, 6), seeds, st.integers(1, 70))
def test_scaled_requests_are_ordered_and_do_not_depend_on_batches(
    at: list[float], factor: float, seed: int, size: int
) -> None:
    one = [x for part in scaled(ListedTrace(requests_at(at), size), factor, seed).batches() for x in part.arrival_s]
    other = [x for part in scaled(ListedTrace(requests_at(at), 100), factor, seed).batches() for x in part.arrival_s]
    assert one == other == sorted(one)
    assert int(factor) * len(at) <= len(one) <= (int(factor) + 1) * len(at)


@given(arrivals, st.floats(0.1, 1e4))
def test_counting_finds_every_request(at: list[float], step_s: float) -> None:
    steps = int(at[-1] / step_s) + 1
    sums = counted(ListedTrace(requests_at(at, prompt=3), 7).batches(), step_s, steps) * step_s
    assert round(sums[:, 0].sum()) == len(at)
    assert round(sums[:, 1].sum()) == 3 * len(at)


@given(rates, st.floats(0.5, 600))
def test_a_rate_curve_keeps_totals_and_inverts(values: np.ndarray, step_s: float) -> None:
    curve = RateCurve(step_s, values)
    edges = np.arange(len(values) + 1) * step_s
    assert np.allclose(np.diff(curve.expected(edges)), np.nan_to_num(values) * step_s, atol=1e-6)
    fine = curve.expected(np.linspace(0, curve.end_s, 500))
    assert (np.diff(fine) >= -1e-9).all()
    wanted = np.linspace(0, fine[-1], 300)
    at_s, step = curve.instants(wanted)
    assert np.allclose(curve.expected(at_s), wanted, atol=1e-6 * max(fine[-1], 1))
    assert (at_s >= 0).all()
    assert (at_s <= curve.end_s + 1e-9).all()
    assert ((step >= 0) & (step < len(values))).all()


@given(st.floats(0.05, 30), st.floats(0, 300), seeds)
def test_events_are_ascending_and_inside(cv: float, expected: float, seed: int) -> None:
    events = ArrivalProcess(cv).events(np.random.default_rng(seed), expected)
    assert (np.diff(events) >= 0).all()
    assert not len(events) or (events[0] >= 0 and events[-1] < expected * (1 + 1e-12))


@settings(deadline=None, max_examples=50)
@given(rates, st.floats(0.3, 8), seeds, st.floats(0, 0.9), st.floats(0.05, 1))
def test_any_window_holds_the_requests_of_the_whole(
    values: np.ndarray, cv: float, seed: int, start: float, length: float
) -> None:
    trace = drawn_trace(values, step_s=10.0, cv=cv, seed=seed)
    start_s, stop_s = start * trace.end_s, min(start + length, 1.0) * trace.end_s
    whole = [x for part in trace.batches() for x in part.arrival_s]
    expected = np.diff(trace.clients[0].curve.expected(np.array([start_s, stop_s])))[0]
    if expected == 0:
        return
    part = [x + start_s for each in sliced(trace, start_s, stop_s - start_s).batches() for x in each.arrival_s]
    assert np.allclose(part, [x for x in whole if start_s <= x < stop_s], atol=1e-9)


@settings(deadline=None, max_examples=50)
@given(rates, seeds)
def test_gaps_and_only_gaps_are_missing_from_what_is_observed(values: np.ndarray, seed: int) -> None:
    observed = drawn_trace(values, step_s=10.0, seed=seed).observed(0.0, len(values) * 10.0, 10.0)
    assert np.array_equal(np.isnan(observed.values[:, 0]), np.isnan(values))
    assert (observed.values[:, 0][values == 0] == 0).all()


@settings(deadline=None, max_examples=25)
@given(rates, seeds)
def test_observed_load_is_the_count_of_the_drawn_requests(values: np.ndarray, seed: int) -> None:
    trace = drawn_trace(values, step_s=10.0, seed=seed)
    observed = trace.observed(0.0, trace.end_s, 5.0)
    whole = list(trace.batches())
    count = len(all_requests(trace)) if whole else 0
    assert round(np.nansum(observed.values[:, 0]) * 5.0) == count
