"""Do slices and scaled traces hold what they should, in order, the same for a seed, without reading too much?"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import pytest

from controller.errors import BadInput
from simulations.block_hashes import BlockHashes
from simulations.trace import RequestBatch, Trace
from simulations.trace_views import JITTER_S, scaled, sliced
from tests.builders_traces import ListedTrace, all_requests, drawn_trace, requests_at


def an_hour(count: int = 5_000, seed: int = 0) -> RequestBatch:
    rng = np.random.default_rng(seed)
    return RequestBatch(
        np.sort(rng.uniform(0, 3600, count)),
        rng.integers(1, 5000, count),
        rng.integers(1, 500, count),
        session=np.arange(count),
        block_hashes=BlockHashes.of((1, i) for i in range(count)),
    )


def same(one: RequestBatch, other: RequestBatch) -> bool:
    return (
        one.arrival_s.tolist() == other.arrival_s.tolist()
        and one.prompt_tokens.tolist() == other.prompt_tokens.tolist()
    )


def test_a_slice_begins_at_zero_and_ends_before_its_end() -> None:
    trace = ListedTrace(requests_at([0.0, 10.0, 15.0, 20.0, 30.0]), size=2)
    assert all_requests(sliced(trace, 10.0, 10.0)).arrival_s.tolist() == [0.0, 5.0]
    assert all_requests(sliced(trace, 15.0)).arrival_s.tolist() == [0.0, 5.0, 15.0]


def test_a_slice_of_everything_is_the_trace_itself() -> None:
    trace = ListedTrace(requests_at([0.0]))
    assert sliced(trace) is trace


def test_reading_stops_at_the_end_of_a_slice() -> None:
    class Endless(ListedTrace):
        def batches(self) -> Iterator[RequestBatch]:
            at = 0.0
            while at < 1e6:
                assert at < 200, "read past the end of the slice"
                yield requests_at([at, at + 1])
                at += 2

    assert len(all_requests(sliced(Endless(requests_at([0.0])), 50.0, 100.0))) == 100


@pytest.mark.parametrize("bounds", [(-1.0, 5.0), (math.nan, 5.0), (0.0, 0.0), (0.0, -2.0), (0.0, math.nan)])
def test_impossible_slices_are_refused(bounds: tuple[float, float]) -> None:
    with pytest.raises(BadInput, match="slice"):
        sliced(ListedTrace(requests_at([0.0])), *bounds)


def test_an_empty_slice_is_refused_for_recorded_and_drawn_traces() -> None:
    with pytest.raises(BadInput, match="no request arrives"):
        all_requests(sliced(ListedTrace(requests_at([0.0, 5.0])), 100.0, 10.0))
    with pytest.raises(BadInput, match="600 s long"):
        sliced(drawn_trace([1.0] * 10), 600.0, 10.0)
    with pytest.raises(BadInput, match="gap"):
        sliced(drawn_trace([1.0, np.nan, 1.0]), 60.0, 60.0)


@pytest.mark.parametrize("factor", [0.0, -1.0, math.nan, math.inf])
def test_impossible_scales_are_refused(factor: float) -> None:
    with pytest.raises(BadInput, match="scale"):
        scaled(ListedTrace(requests_at([0.0])), factor)


def test_scale_one_is_the_trace_itself() -> None:
    trace = ListedTrace(requests_at([0.0]))
    assert scaled(trace, 1.0) is trace


@pytest.mark.parametrize("factor", [0.25, 3.0, 2.5, 10.0])
def test_scaling_multiplies_the_number_of_requests(factor: float) -> None:
    got = len(all_requests(scaled(ListedTrace(an_hour()), factor, seed=3)))
    share = factor % 1
    # Whole copies are exact, the thinned one is binomial: five standard deviations.
    assert abs(got - factor * 5_000) <= 5 * math.sqrt(5_000 * share * (1 - share))


@pytest.mark.parametrize("factor", [0.4, 2.0, 7.3])
def test_scaled_requests_are_the_same_for_a_seed_however_they_are_batched(factor: float) -> None:
    whole = an_hour()
    got = [all_requests(scaled(ListedTrace(whole, size), factor, seed=5)) for size in (17, 5_000)]
    assert same(*got)
    assert not same(got[0], all_requests(scaled(ListedTrace(whole), factor, seed=6)))


def test_scaled_traces_can_be_read_again() -> None:
    trace = scaled(ListedTrace(an_hour()), 2.5, seed=1)
    assert same(all_requests(trace), all_requests(trace))


def test_copies_move_by_at_most_the_jitter_and_the_original_does_not_move() -> None:
    whole = requests_at(np.arange(0.0, 3600.0, 60.0))
    got = all_requests(scaled(ListedTrace(whole), 5.0, seed=2)).arrival_s
    nearest = np.abs(got - 60.0 * np.rint(got / 60.0))
    assert nearest.max() <= JITTER_S
    assert (nearest == 0).sum() == 60


def test_copies_keep_bursts_and_do_not_arrive_together() -> None:
    """A minute of tenfold load stays one; no two of ten copies arrive within the same 10 ms by more than chance."""
    rng = np.random.default_rng(0)
    calm, burst = rng.uniform(0, 3600, 3600), rng.uniform(1800, 1860, 540)
    whole = requests_at(np.sort(np.concatenate((calm, burst))))
    got = all_requests(scaled(ListedTrace(whole), 10.0)).arrival_s
    inside = ((got >= 1800) & (got < 1860)).mean()
    before = ((whole.arrival_s >= 1800) & (whole.arrival_s < 1860)).mean()
    assert inside == pytest.approx(before, rel=0.06)  # at most 5 s of 60 s blur at each edge
    counts = np.bincount((got * 100).astype(int))
    assert counts[: 1700 * 100].var() / counts[: 1700 * 100].mean() < 1.3  # unmoved copies would give 10


def test_each_request_of_a_copy_keeps_its_lengths() -> None:
    whole = an_hour(2_000)
    got = all_requests(scaled(ListedTrace(whole), 3.0))
    for column in ("prompt_tokens", "output_tokens"):
        assert np.array_equal(np.sort(getattr(got, column)), np.repeat(np.sort(getattr(whole, column)), 3))
    pairs = {(int(p), int(o)) for p, o in zip(whole.prompt_tokens, whole.output_tokens, strict=True)}
    assert {(int(p), int(o)) for p, o in zip(got.prompt_tokens, got.output_tokens, strict=True)} == pairs


def test_copies_share_no_session_and_no_prefix_with_the_original() -> None:
    got = all_requests(scaled(ListedTrace(an_hour(100)), 3.0))
    assert got.session is not None
    assert len(set(got.session.tolist())) == 300
    assert len({hashes[0] for hashes in got.block_hashes or ()}) == 3


def test_rates_are_scaled_without_copies() -> None:
    trace: Trace = drawn_trace([10.0] * 30)
    got = all_requests(scaled(trace, 3.0))
    assert len(got) == pytest.approx(3 * 18_000, rel=0.03)  # Poisson: 5 sd of 54,000 are 2.2 %
    assert np.diff(got.arrival_s).std() / np.diff(got.arrival_s).mean() == pytest.approx(1.0, abs=0.03)
    assert "x 3" in scaled(trace, 3.0).describe()
