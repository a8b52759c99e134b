"""Does every forecaster keep the promises of the Forecaster protocol?"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from forecasting.forecast import DEFAULT_LEVELS
from forecasting.forecaster import CannotForecast, Forecaster
from forecasting.seasonal_naive import SeasonalNaiveForecaster
from forecasting.series import CHANNELS, LoadSeries
from forecasting.statistical import ExponentialSmoothingForecaster
from tests.builders_forecasting import FORECASTERS, LEARNED, poisson_series, series_of, with_gaps

HORIZON = 20
HISTORY = poisson_series(360, swing_ratio=0.3, period_s=1800.0)


@pytest.fixture(scope="module", params=list(FORECASTERS))
def forecaster(request: pytest.FixtureRequest) -> Forecaster:
    return FORECASTERS[request.param]()


def test_it_has_a_name_that_its_forecasts_carry(forecaster: Forecaster) -> None:
    assert forecaster.name
    assert forecaster.forecast(HISTORY, 4).source == forecaster.name


@pytest.mark.parametrize("horizon", [1, 3, HORIZON])
def test_it_answers_exactly_what_was_asked(forecaster: Forecaster, horizon: int) -> None:
    levels = (0.2, 0.5, 0.95)
    forecast = forecaster.forecast(HISTORY, horizon, levels)
    assert forecast.levels.tolist() == list(levels)
    assert forecast.values.shape == forecast.peaks.shape == (len(levels), horizon, len(CHANNELS))
    assert forecast.made_at == forecast.start_at == HISTORY.end_at
    assert forecast.step_s == HISTORY.step_s


def test_the_same_history_gives_the_same_forecast_whatever_was_asked_between(forecaster: Forecaster) -> None:
    first = forecaster.forecast(HISTORY, HORIZON)
    forecaster.forecast(HISTORY.tail(300), 7)
    forecaster.forecast(poisson_series(350, seed=5), HORIZON)
    again = forecaster.forecast(HISTORY, HORIZON)
    np.testing.assert_array_equal(first.values, again.values)
    np.testing.assert_array_equal(first.peaks, again.peaks)


def test_another_instance_gives_the_same_forecast(forecaster: Forecaster, request: pytest.FixtureRequest) -> None:
    fresh = FORECASTERS[request.node.callspec.params["forecaster"]]()
    np.testing.assert_array_equal(forecaster.forecast(HISTORY, HORIZON).peaks, fresh.forecast(HISTORY, HORIZON).peaks)


def test_the_history_is_not_touched(forecaster: Forecaster) -> None:
    before = HISTORY.values.copy()
    forecaster.forecast(HISTORY, HORIZON)
    np.testing.assert_array_equal(HISTORY.values, before)


def test_a_tenfold_load_gives_a_tenfold_forecast(forecaster: Forecaster) -> None:
    tenfold = LoadSeries(HISTORY.start_at, HISTORY.step_s, HISTORY.values * 10.0)
    small, large = forecaster.forecast(HISTORY, HORIZON), forecaster.forecast(tenfold, HORIZON)
    # Float32 inputs of the nets and the optimiser of exponential smoothing leave some digits.
    np.testing.assert_allclose(large.values, small.values * 10.0, rtol=2e-3, atol=1e-6)
    np.testing.assert_allclose(large.peaks, small.peaks * 10.0, rtol=2e-3, atol=1e-6)


def test_a_constant_load_is_forecast_as_constant(forecaster: Forecaster) -> None:
    forecast = forecaster.forecast(series_of(np.full(360, 3.0)), HORIZON)
    median = forecast.at_level(0.5)[:, 0]
    if forecaster.name.split("@")[0] in {"small", "small-trees"}:
        # What a net or a tree has learned elsewhere is not exact, but it starts near the last value.
        np.testing.assert_allclose(median, 3.0, rtol=0.5)
    elif forecaster.name == "combined":
        # Within an hour of record the trees' noise is all but unlearned: their share is under 1 %.
        np.testing.assert_allclose(forecast.values[:, :, 0], 3.0, rtol=0.01)
        np.testing.assert_allclose(forecast.peaks[:, :, 0], 3.0, rtol=0.01)
    else:
        np.testing.assert_allclose(forecast.values[:, :, 0], 3.0, rtol=1e-6)
        np.testing.assert_allclose(forecast.peaks[:, :, 0], 3.0, rtol=1e-6)


def test_an_idle_load_is_forecast_as_idle(forecaster: Forecaster) -> None:
    forecast = forecaster.forecast(series_of(np.zeros(360)), HORIZON)
    assert forecast.peaks.max() < 1e-6


def test_gaps_are_lived_with_and_leave_no_hole_in_the_forecast(forecaster: Forecaster) -> None:
    forecast = forecaster.forecast(with_gaps(HISTORY, 0.1), HORIZON)
    assert np.isfinite(forecast.values).all()
    whole = forecaster.forecast(HISTORY, HORIZON)
    # A tenth of the steps missing changes what is known by little: within half of the level either way.
    np.testing.assert_allclose(forecast.at_level(0.5)[:, 0], whole.at_level(0.5)[:, 0], rtol=0.5)


def test_a_gap_is_not_read_as_zero(forecaster: Forecaster) -> None:
    values = series_of(np.full(360, 5.0)).values.copy()
    values[100:356:7] = np.nan
    forecast = forecaster.forecast(LoadSeries(HISTORY.start_at, 15.0, values), HORIZON)
    assert forecast.at_level(0.5)[:, 0].min() > 3.5


@pytest.mark.parametrize("steps", [0, 1, 5, 9])
def test_a_history_that_is_too_short_is_refused(forecaster: Forecaster, steps: int) -> None:
    with pytest.raises(CannotForecast, match=r"\d"):
        forecaster.forecast(HISTORY.tail(steps), HORIZON)


def test_a_history_that_is_mostly_gaps_is_refused(forecaster: Forecaster) -> None:
    with pytest.raises(CannotForecast, match="observed"):
        forecaster.forecast(with_gaps(HISTORY, 0.8), HORIZON)


def test_a_history_whose_end_is_long_unobserved_is_refused(forecaster: Forecaster) -> None:
    values = HISTORY.values.copy()
    values[-30:] = np.nan
    with pytest.raises(CannotForecast, match="observed"):
        forecaster.forecast(LoadSeries(HISTORY.start_at, HISTORY.step_s, values), HORIZON)


@pytest.mark.parametrize("channel", range(len(CHANNELS)))
def test_a_channel_that_was_never_observed_is_refused_by_name(forecaster: Forecaster, channel: int) -> None:
    values = HISTORY.values.copy()
    values[:, channel] = np.nan
    with pytest.raises(CannotForecast, match=CHANNELS[channel]):
        forecaster.forecast(LoadSeries(HISTORY.start_at, HISTORY.step_s, values), HORIZON)


@pytest.mark.parametrize("horizon", [0, -1])
def test_a_horizon_of_no_steps_is_refused(forecaster: Forecaster, horizon: int) -> None:
    with pytest.raises(CannotForecast, match="asked for"):
        forecaster.forecast(HISTORY, horizon)


def test_it_only_knows_what_had_happened(forecaster: Forecaster) -> None:
    """The same past inside a longer record gives the same forecast."""
    longer = LoadSeries(HISTORY.start_at, 15.0, np.concatenate([HISTORY.values, HISTORY.values[:50] * 9.0]))
    np.testing.assert_array_equal(
        forecaster.forecast(longer.window(0, len(HISTORY)), HORIZON).values,
        forecaster.forecast(HISTORY, HORIZON).values,
    )


@pytest.mark.parametrize("name", [name for name in FORECASTERS if name not in LEARNED])
def test_bounds_hold_as_often_as_they_say_on_a_daily_load_with_noise(name: str) -> None:
    """Diurnal swing (2 h "days") and Poisson noise, six leads of 60 s steps: the 0.9 and 0.95 bounds against truth.

    Forecasts of neighbouring origins overlap, so 110 origins count as about 40: two standard errors of a share of
    0.95 are 0.07, and its understatement by quantiles of finitely many errors adds a little.
    """
    load = poisson_series(1300, rate=8.0, step_s=60.0, seed=3, period_s=7200.0, swing_ratio=0.4)
    with_period: dict[str, Callable[[], Forecaster]] = {
        "ets-season": lambda: ExponentialSmoothingForecaster(period_s=7200.0),
        "seasonal-naive": lambda: SeasonalNaiveForecaster(period_s=7200.0),
    }
    forecaster = with_period.get(name, FORECASTERS[name])()
    within_values, within_peaks = [], []
    for origin in range(630, 1290, 6):
        forecast = forecaster.forecast(load.window(0, origin), 6, DEFAULT_LEVELS)
        after = load.values[origin : origin + 6, 0]
        within_values.append(after[-1] <= forecast.at_level(0.9)[-1, 0])
        within_peaks.append(after.max() <= forecast.peak(0.95, forecast.start_at + 360.0)[0])
    assert 0.80 <= np.mean(within_values) <= 0.98
    assert 0.88 <= np.mean(within_peaks) <= 1.0
