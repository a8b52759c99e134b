"""Do corrected bounds hold as often as they say, also when the load has changed?"""

from __future__ import annotations

import numpy as np
import pytest

from forecasting.calibration import MAX_SHIFT, corrections, width_of
from forecasting.forecast import DEFAULT_LEVELS
from forecasting.series import FloatArray

LEVELS = np.asarray(DEFAULT_LEVELS)
WINDOW = 288


def normal_bounds(steps: int, spread: float) -> FloatArray:
    """Return the quantiles ``[K, Q]`` that somebody gives who believes in this standard deviation around 100."""
    scores = np.array([-1.2816, -0.6745, 0.0, 0.6745, 1.2816, 1.6449, 2.0537])
    return np.asarray(100.0 + spread * scores[None, :] + np.zeros((steps, 1)))


def held(bounds: FloatArray, actual: FloatArray, start: int) -> FloatArray:
    """Return ``[Q]``: how often each bound held from ``start`` on, corrected by what had come true by then."""
    inside = []
    for step in range(start, len(actual)):
        past = slice(max(0, step - WINDOW), step)
        shift = corrections(bounds[past, :, None], actual[past, None], LEVELS)[:, 0]
        width = width_of(bounds[step][:, None], LEVELS)[0]
        inside.append(actual[step] <= bounds[step] + shift * width)
    return np.asarray(np.mean(inside, axis=0))


@pytest.mark.parametrize("believed", [0.4, 0.7, 1.0, 2.0])
def test_bounds_too_narrow_or_too_wide_hold_as_often_as_they_say(believed: float) -> None:
    """A seventh to a fifth of the correction is withheld for luck, which shows most where most was wrong."""
    actual = np.random.default_rng(0).normal(100.0, 10.0, 2000)
    covered = held(normal_bounds(2000, believed * 10.0), actual, 400)
    # Standard error of a share of 0.9 over 1,600 targets: 0.008.
    assert covered[4] == pytest.approx(0.9, abs=0.035)
    assert covered[5] == pytest.approx(0.95, abs=0.025)
    assert covered[2] == pytest.approx(0.5, abs=0.04)


def test_coverage_comes_back_after_the_noise_has_doubled() -> None:
    rng = np.random.default_rng(1)
    actual = np.concatenate([rng.normal(100.0, 10.0, 600), rng.normal(100.0, 20.0, 1400)])
    covered = held(normal_bounds(2000, 10.0), actual, 900)
    assert 0.88 <= covered[4] <= 0.92
    assert 0.93 <= covered[5] <= 0.97


def test_coverage_holds_while_the_forecast_drifts_away() -> None:
    """In a fortnight of origins it falls behind by twice the spread: at the end an uncorrected 0.9 would hold 0.24."""
    rng = np.random.default_rng(2)
    actual = rng.normal(100.0, 10.0, 2000) + np.linspace(0.0, 20.0, 2000)
    covered = held(normal_bounds(2000, 10.0), actual, 400)
    assert 0.88 <= covered[4] <= 0.92
    assert 0.93 <= covered[5] <= 0.97


def test_a_poisoned_spike_moves_no_bound_by_more_than_a_few_widths() -> None:
    actual = np.random.default_rng(3).normal(100.0, 10.0, 200)
    bounds = normal_bounds(200, 10.0)[:, :, None]
    clean = corrections(bounds, actual[:, None], LEVELS)
    actual[150] = 1e9
    poisoned = corrections(bounds, actual[:, None], LEVELS)
    assert np.abs(poisoned).max() <= MAX_SHIFT
    # One of 200: the inner bounds hardly notice, the outer ones move to the next score at most.
    np.testing.assert_allclose(poisoned[:5], clean[:5], atol=0.05)
    np.testing.assert_allclose(poisoned[5], clean[5], atol=0.3)


@pytest.mark.parametrize("known", [0, 5])
def test_next_to_no_record_corrects_nothing(known: int) -> None:
    shift = corrections(normal_bounds(known, 1.0)[:, :, None], np.full((known, 1), 500.0), LEVELS)
    assert shift.shape == (7, 1)
    assert not shift.any()


def test_gaps_and_a_load_that_never_moves_correct_nothing() -> None:
    actual = np.full((50, 2), 100.0)
    actual[:, 1] = np.nan
    assert not corrections(np.full((50, 7, 2), 100.0), actual, LEVELS).any()
