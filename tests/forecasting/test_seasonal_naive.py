"""Is the previous turn of the season found, scaled to today, and refused when it is not recorded?"""

from __future__ import annotations

import numpy as np
import pytest

from forecasting.forecaster import CannotForecast
from forecasting.seasonal_naive import SeasonalNaiveForecaster
from forecasting.series import LoadSeries
from tests.builders_forecasting import poisson_series, series_of

PERIOD = 96


def turns(periods: float, growth_ratio: float = 1.0) -> LoadSeries:
    """Return a noiseless season of 96 steps of 15 min whose level grows by ``growth_ratio`` per period."""
    at = np.arange(int(periods * PERIOD))
    return series_of((10.0 + 5.0 * np.sin(2 * np.pi * at / PERIOD)) * growth_ratio ** (at / PERIOD), step_s=900.0)


def test_an_exact_season_is_forecast_exactly() -> None:
    load = turns(4.0)
    forecast = SeasonalNaiveForecaster().forecast(load.window(0, 3 * PERIOD + 20), 12)
    np.testing.assert_allclose(
        forecast.at_level(0.5)[:, 0], load.values[3 * PERIOD + 20 : 3 * PERIOD + 32, 0], rtol=1e-6
    )


def test_a_busier_day_is_scaled_up() -> None:
    load = turns(4.0, growth_ratio=1.5)
    forecast = SeasonalNaiveForecaster().forecast(load.window(0, 3 * PERIOD + 20), 6)
    np.testing.assert_allclose(
        forecast.at_level(0.5)[:, 0], load.values[3 * PERIOD + 20 : 3 * PERIOD + 26, 0], rtol=0.03
    )


def test_noise_of_the_previous_turn_is_averaged_out() -> None:
    load = poisson_series(900, rate=6.0, seed=1)
    forecast = SeasonalNaiveForecaster(period_s=1800.0, level_window_s=600.0).forecast(load, 20)
    # One step has a standard deviation of 0.63; means of 19 and of 40 steps leave 0.18.
    np.testing.assert_allclose(forecast.at_level(0.5)[:, 0], 6.0, atol=0.6)


def test_a_first_period_alone_is_not_enough() -> None:
    with pytest.raises(CannotForecast, match=r"history has 96 of the \d+ steps"):
        SeasonalNaiveForecaster().forecast(turns(1.0), 4)


def test_a_gap_at_the_same_time_a_period_ago_is_refused() -> None:
    load = turns(3.0)
    values = load.values.copy()
    values[2 * PERIOD : 2 * PERIOD + 6] = np.nan
    with pytest.raises(CannotForecast, match="not observed"):
        SeasonalNaiveForecaster().forecast(LoadSeries(0.0, 900.0, values), 4)


def test_a_period_that_is_no_whole_number_of_steps_is_refused() -> None:
    with pytest.raises(CannotForecast, match="whole number"):
        SeasonalNaiveForecaster(period_s=1000.0).forecast(turns(3.0), 4)


def test_a_horizon_beyond_the_period_is_refused() -> None:
    with pytest.raises(CannotForecast, match="beyond the period"):
        SeasonalNaiveForecaster(period_s=3600.0).forecast(turns(3.0), 5)


def test_impossible_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="must be positive"):
        SeasonalNaiveForecaster(period_s=0.0)
