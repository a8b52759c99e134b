"""Does exponential smoothing find what it should, and is its cache invisible?"""

from __future__ import annotations

import numpy as np
import pytest

from forecasting.forecaster import CannotForecast
from forecasting.series import LoadSeries
from forecasting.statistical import ExponentialSmoothingForecaster, HoltParameters, RolledHolt
from tests.builders_forecasting import poisson_series, series_of


def test_rolled_states_are_those_of_the_recursion() -> None:
    fit = HoltParameters(alpha=0.4, beta=0.13, phi=0.9, offset=0.5, season=np.zeros(1))
    rates = poisson_series(60).values
    rolled = RolledHolt.of(rates, (fit, fit, fit), clock_step=0)
    logs = np.log(rates[:, 0] + 0.5)
    level, trend = logs[0], 0.0
    for step, value in enumerate(logs):
        error = value - level - fit.phi * trend
        level, trend = level + fit.phi * trend + fit.alpha * error, fit.phi * trend + fit.beta * error
        assert rolled.level[step, 0] == pytest.approx(level, abs=1e-10)
        assert rolled.trend[step, 0] == pytest.approx(trend, abs=1e-10)


def test_the_cache_of_fits_changes_no_forecast() -> None:
    load = poisson_series(300, seed=2)
    kept = ExponentialSmoothingForecaster()
    for origin in range(200, 300, 9):
        history = load.window(0, origin)
        fresh = ExponentialSmoothingForecaster().forecast(history, 8)
        np.testing.assert_array_equal(kept.forecast(history, 8).values, fresh.values)


def test_parameters_stay_put_within_a_block_of_time_even_when_the_history_slides() -> None:
    load = poisson_series(400, seed=2)
    forecaster = ExponentialSmoothingForecaster(refit_s=600.0)
    for origin in range(200, 400):
        forecaster.forecast(load.window(origin - 200, origin), 4)
    # 200 steps of 15 s are five blocks of 40; both edges of the window cross a block boundary in each.
    assert forecaster.fits_made <= 12


def test_a_slope_is_continued_and_damped() -> None:
    load = series_of(5.0 * np.exp(0.01 * np.arange(200)))
    median = ExponentialSmoothingForecaster().forecast(load, 20).at_level(0.5)[:, 0]
    last = load.values[-1, 0]
    assert median[0] == pytest.approx(last * np.exp(0.01), rel=0.01)
    assert last * 1.1 < median[-1] < last * np.exp(0.01 * 20) * 1.05


def test_a_season_is_used_once_two_periods_are_recorded() -> None:
    """A sine of 30 minutes, forecast a quarter turn ahead from its steepest point."""
    period = 120
    load = poisson_series(7 * period + 30, rate=40.0, seed=1, period_s=period * 15.0, swing_ratio=0.5)
    truth = 40.0 * (1 + 0.5 * np.sin(2 * np.pi * (np.arange(30) + len(load) - 30) / period))
    history = load.window(0, len(load) - 30)
    seasonal = ExponentialSmoothingForecaster(period_s=period * 15.0)
    with_season = seasonal.forecast(history, 30).at_level(0.5)[:, 0]
    without = ExponentialSmoothingForecaster().forecast(history, 30).at_level(0.5)[:, 0]
    assert np.abs(with_season - truth).mean() < 0.4 * np.abs(without - truth).mean()
    # With less than two periods it is the same as without.
    short = load.window(0, 2 * period - 45)
    np.testing.assert_array_equal(
        seasonal.forecast(short, 8).values, ExponentialSmoothingForecaster().forecast(short, 8).values
    )


def test_noise_is_not_taken_for_a_season() -> None:
    load = poisson_series(960, rate=6.0, seed=8)
    with_season = ExponentialSmoothingForecaster(period_s=1800.0).forecast(load, 20).at_level(0.5)[:, 0]
    # Two standard errors of the smoothed level of counts of mean 90.
    np.testing.assert_allclose(with_season, 6.0, atol=0.9)


def test_load_that_comes_to_an_idle_workload_is_seen_at_once() -> None:
    rates = np.zeros(200)
    rates[-4:] = 5.0
    median = ExponentialSmoothingForecaster().forecast(series_of(rates), 4).at_level(0.5)[:, 0]
    assert median.min() > 2.5


def test_fewer_steps_than_a_fit_needs_are_refused() -> None:
    with pytest.raises(CannotForecast, match="of the 32 steps"):
        ExponentialSmoothingForecaster().forecast(poisson_series(31), 4)


def test_a_history_without_a_whole_block_is_refused() -> None:
    load = poisson_series(45)
    aligned_to_half_a_block = LoadSeries(20 * 15.0, 15.0, load.values)
    with pytest.raises(CannotForecast, match="whole blocks"):
        ExponentialSmoothingForecaster(refit_s=600.0).forecast(aligned_to_half_a_block, 4)


@pytest.mark.parametrize("settings", [{"period_s": 0.0}, {"refit_s": 0.0}])
def test_impossible_settings_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must be positive"):
        ExponentialSmoothingForecaster(**settings)
