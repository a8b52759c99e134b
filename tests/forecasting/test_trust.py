"""Does a forecast get the trust that its record deserves, with a reason that says why?"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from forecasting.forecast import DEFAULT_LEVELS, Trust
from forecasting.series import FloatArray
from forecasting.trust import TrackRecord, TrustSettings, trust_in

LEVELS = np.asarray(DEFAULT_LEVELS)
SCORES = np.array([-1.2816, -0.6745, 0.0, 0.6745, 1.2816, 1.6449, 2.0537])
SETTINGS = TrustSettings()


def bounds(center: FloatArray, spread: float) -> FloatArray:
    return np.asarray(center[:, None] + spread * SCORES[None, :])


def record(own_error: float, own_spread: float, last_error: float = 8.0, steps: int = 144) -> TrackRecord:
    """Return a forecaster that errs by ``own_error`` and believes in ``own_spread``, beside an honest last value."""
    rng = np.random.default_rng(0)
    actual = rng.normal(100.0, 5.0, steps)
    own = bounds(actual + rng.normal(0, own_error, steps), own_spread)
    return TrackRecord(own, bounds(actual + rng.normal(0, last_error, steps), last_error), actual, LEVELS)


def test_less_loss_and_bounds_that_hold_earn_full_trust() -> None:
    verdict = trust_in(record(4.0, 4.0), SETTINGS)
    assert verdict.trust is Trust.FULL
    assert verdict.skill == pytest.approx(0.5, abs=0.1)
    assert verdict.miss_ratio < 0.1
    assert verdict.reason == (
        f"{verdict.skill:.0%} less loss than the last value, {verdict.miss_ratio:.0%} of 144 peaks were over their "
        "0.95 bound"
    )


def test_worse_than_the_last_value_beyond_doubt_may_only_hold_a_floor() -> None:
    """A dozen forecasts leave room for doubt, and so do many that share what followed."""
    worse = record(9.0, 9.0)
    verdict = trust_in(worse, SETTINGS)
    assert (verdict.trust, verdict.skill < -0.15) == (Trust.FLOOR, True)
    assert trust_in(record(7.9, 7.9), SETTINGS).trust is Trust.FULL
    assert trust_in(replace(worse, overlap=12.0), SETTINGS).trust is Trust.FULL


def test_worse_than_the_last_value_is_not_used() -> None:
    verdict = trust_in(record(16.0, 16.0), SETTINGS)
    assert verdict.trust is Trust.NONE
    assert "more loss than the last value" in verdict.reason


def test_bounds_that_are_missed_too_often_take_trust_away_however_small_the_loss() -> None:
    assert trust_in(record(3.0, 1.9), SETTINGS).trust is Trust.FLOOR
    assert trust_in(record(3.0, 0.8), SETTINGS).trust is Trust.NONE


@pytest.mark.parametrize("known", [0, 11])
def test_too_short_a_record_earns_a_floor_and_says_how_much_is_needed(known: int) -> None:
    one = record(4.0, 4.0)
    actual = np.where(np.arange(144) < known, one.actual, np.nan)
    verdict = trust_in(TrackRecord(one.peaks, one.last_value, actual, LEVELS), SETTINGS)
    assert verdict.trust is Trust.FLOOR
    assert verdict.forecasts == known
    assert verdict.reason == f"{known} of the 12 past forecasts needed to judge it have come true"


def test_what_nobody_forecast_or_saw_counts_for_nothing() -> None:
    one = record(4.0, 4.0)
    wild, actual = one.peaks.copy(), one.actual.copy()
    wild[:50], actual[100:] = np.nan, np.nan
    verdict = trust_in(TrackRecord(wild, one.last_value, actual, LEVELS), SETTINGS)
    assert verdict.forecasts == 50


def test_a_load_that_stands_still_is_trusted_as_forecast() -> None:
    still = bounds(np.full(60, 5.0), 0.0)
    assert trust_in(TrackRecord(still, still, np.full(60, 5.0), LEVELS), SETTINGS).trust is Trust.FULL


def test_shapes_that_do_not_fit_are_refused() -> None:
    one = record(4.0, 4.0)
    with pytest.raises(ValueError, match="shape"):
        trust_in(TrackRecord(one.peaks[:9], one.last_value, one.actual, LEVELS), SETTINGS)


def test_a_floor_above_full_trust_is_refused() -> None:
    with pytest.raises(ValueError, match="must not exceed"):
        TrustSettings(least_skill=0.5, full_skill=0.1)


def test_losing_where_nothing_moves_is_told_without_an_endless_share() -> None:
    still = np.full(60, 5.0)
    verdict = trust_in(TrackRecord(bounds(still + 1.0, 0.1), bounds(still, 0.0), still, LEVELS), SETTINGS)
    assert (verdict.trust, verdict.reason.split(",")[0]) == (Trust.NONE, "loss where the last value has none")
