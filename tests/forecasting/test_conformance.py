"""What does every forecaster make of hostile load? The list of bad input, over all that there are."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from forecasting.forecast import DEFAULT_LEVELS, LoadForecast
from forecasting.forecaster import CannotForecast, FleetForecaster, Forecaster
from forecasting.series import FloatArray, LoadSeries
from tests.builders_forecasting import FORECASTERS, poisson_series, series_of, with_gaps

HORIZON = 20
STEPS = 720
CALM = poisson_series(STEPS, swing_ratio=0.3, period_s=1800.0)


@pytest.fixture(scope="module", params=list(FORECASTERS))
def forecaster(request: pytest.FixtureRequest) -> Forecaster:
    return FORECASTERS[request.param]()


def changed(load: LoadSeries, change: Callable[[FloatArray], None]) -> LoadSeries:
    values = load.values.copy()
    change(values)
    return LoadSeries(load.start_at, load.step_s, values)


def spiked(values: FloatArray) -> None:
    values[-100] *= 1e6


def risen(values: FloatArray) -> None:
    values[-60:] *= 1000.0


def fallen(values: FloatArray) -> None:
    values[:-60] *= 1000.0


def silent(values: FloatArray) -> None:
    values[200:500] = 0.0


HOSTILE: dict[str, LoadSeries] = {
    "spike": changed(CALM, spiked),
    "risen": changed(CALM, risen),
    "fallen": changed(CALM, fallen),
    "silent": changed(CALM, silent),
    "tiny": LoadSeries(CALM.start_at, CALM.step_s, CALM.values * 1e-9),
    "huge": LoadSeries(CALM.start_at, CALM.step_s, CALM.values * 1e9),
    "bursts": series_of(np.where(np.arange(STEPS) % 60 == 7, 500.0, 0.0)),
    "steps": series_of(np.repeat([1.0, 300.0, 2.0, 40.0, 0.0, 9.0], STEPS // 6)),
    "gappy": with_gaps(CALM, 0.25, seed=3),
}


@pytest.mark.parametrize("load", list(HOSTILE))
def test_an_answer_is_whole_and_ordered_whatever_the_load(forecaster: Forecaster, load: str) -> None:
    forecast = forecaster.forecast(HOSTILE[load], HORIZON)
    assert np.isfinite(forecast.peaks).all()
    assert (forecast.values >= 0).all()
    assert (np.diff(forecast.values, axis=0) >= 0).all()
    assert (np.diff(forecast.peaks, axis=0) >= 0).all()
    assert (np.diff(forecast.peaks, axis=1) >= 0).all()
    assert (forecast.peaks >= forecast.values).all()


def test_a_load_that_was_never_observed_is_refused(forecaster: Forecaster) -> None:
    with pytest.raises(CannotForecast, match="observed"):
        forecaster.forecast(series_of(np.full(STEPS, np.nan)), HORIZON)


def test_a_level_a_thousand_times_higher_is_followed_within_a_quarter_of_an_hour(forecaster: Forecaster) -> None:
    """Sixty steps after the rise, the near median is nearer to the new level than to a tenth of it."""
    now = HOSTILE["risen"].values[-20:, 0].mean()
    median = forecaster.forecast(HOSTILE["risen"], 4).at_level(0.5)[:, 0]
    if not forecaster.name.startswith("seasonal-naive"):
        # The same time a period ago says little about such a day: it goes along by a factor of 4 at most.
        assert (median > 0.1 * now).all()
    assert (median < 10.0 * now).all()


def test_one_poisoned_step_a_while_ago_moves_the_median_by_little(forecaster: Forecaster) -> None:
    clean = forecaster.forecast(CALM, HORIZON).at_level(0.5)[:, 0]
    poisoned = forecaster.forecast(HOSTILE["spike"], HORIZON).at_level(0.5)[:, 0]
    # The load was up to 30 % over its mean; a spike of a million times it must not show beyond a few times that.
    assert (poisoned < 4.0 * CALM.values[:, 0].max()).all()
    assert np.median(np.abs(np.log((poisoned + 1.0) / (clean + 1.0)))) < np.log(2.0)


def test_a_day_of_23_hours_is_lived_with(forecaster: Forecaster) -> None:
    """Clocks go forward: users come an hour earlier by UTC. The load stays of the same size."""
    hour = round(3600.0 / CALM.step_s)
    load = LoadSeries(CALM.start_at, CALM.step_s, np.concatenate([CALM.values[:400], CALM.values[400 + hour :]]))
    forecast = forecaster.forecast(load, HORIZON)
    assert 2.0 < forecast.at_level(0.5)[:, 0].mean() < 12.0


def test_whatever_comes_later_never_changes_a_forecast(forecaster: Forecaster) -> None:
    """Asked at an origin inside a record, with two different futures behind it, before and after having seen both."""
    origin = STEPS - 120
    other = CALM.values.copy()
    other[origin:] = 1000.0 - other[origin:] ** 2 % 7.0
    another = LoadSeries(CALM.start_at, CALM.step_s, other)
    first = forecaster.forecast(CALM.window(0, origin), HORIZON)
    for load in (another, CALM):
        forecaster.forecast(load, HORIZON)
        again = forecaster.forecast(load.window(0, origin), HORIZON)
        np.testing.assert_array_equal(again.values, first.values)
        np.testing.assert_array_equal(again.peaks, first.peaks)


def test_many_asked_at_once_are_answered_as_one_by_one(forecaster: Forecaster) -> None:
    if not isinstance(forecaster, FleetForecaster):
        pytest.skip("answers one at a time")
    histories = [CALM, HOSTILE["risen"], CALM.tail(5), HOSTILE["gappy"], CALM.tail(300)]
    horizons = [HORIZON, 4, HORIZON, 7, 1]
    many = forecaster.forecast_many(histories, horizons, DEFAULT_LEVELS)
    for history, horizon, answer in zip(histories, horizons, many, strict=True):
        if isinstance(answer, CannotForecast):
            with pytest.raises(CannotForecast, match=str(answer)[:20]):
                forecaster.forecast(history, horizon)
            continue
        alone = forecaster.forecast(history, horizon)
        assert isinstance(answer, LoadForecast)
        np.testing.assert_allclose(answer.values, alone.values, rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(answer.peaks, alone.peaks, rtol=1e-9, atol=1e-12)
