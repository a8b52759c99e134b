"""What does a fit do with histories that nobody wishes for?"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from controller.errors import BadInput
from forecasting.neural import NeuralForecaster
from forecasting.series import REQUESTS, LoadSeries
from tests.builders_training import DAY_STEPS, Stopwatch, a_wave, of_rates, small_settings
from training.dataset import split_in_time
from training.trainer import FittedNet, as_forecaster, fit, fit_quantile

QUICK = small_settings(max_epochs=4)


def fitted(*series: LoadSeries) -> FittedNet:
    return fit(series, [split_in_time(len(one), 0.15, 0.15) for one in series], QUICK, Stopwatch())


def changed(series: LoadSeries, rows: slice | int, factor: float) -> LoadSeries:
    values = np.array(series.values)
    values[rows] *= factor
    return LoadSeries(series.start_at, series.step_s, values)


def error(forecaster: NeuralForecaster, series: LoadSeries, lead: int = 5) -> tuple[float, float]:
    """Mean absolute error of the median over the newest 15 %, and that of the last value."""
    rate = series.values[:, REQUESTS]
    origins = range(len(series) - 72, len(series) - lead)
    said = [forecaster.forecast(series.window(0, o), lead).at_level(0.5)[-1, REQUESTS] for o in origins]
    actual = np.array([rate[o + lead - 1] for o in origins])
    return float(np.abs(said - actual).mean()), float(np.abs([rate[o - 1] for o in origins] - actual).mean())


def test_a_history_of_gaps_and_one_of_zeros_say_so() -> None:
    with pytest.raises(BadInput, match="holds no observation, only gaps"):
        fitted(LoadSeries(0.0, 60.0, np.full((480, 3), np.nan)))
    with pytest.raises(BadInput, match="zero throughout"):
        fitted(of_rates(np.zeros(480)))


def test_a_constant_load_is_learned_as_constant(tmp_path: Path) -> None:
    one = fitted(of_rates(np.full(480, 30.0)))
    forecast = as_forecaster(one, tmp_path / "a", "flat").forecast(of_rates(np.full(100, 30.0)), 5)
    # Four epochs bring the quantiles, which start 10 % off either way, to within half of that.
    np.testing.assert_allclose(forecast.values[:, :, REQUESTS], 30.0, rtol=0.055)
    assert min(epoch.validation_loss for epoch in one.epochs) < 0.7 * one.untrained_loss


def test_idle_and_silent_workloads_among_others_take_nothing_from_them(tmp_path: Path) -> None:
    idle, silent = of_rates(np.zeros(480)), LoadSeries(0.0, 60.0, np.full((480, 3), np.nan))
    among = fitted(idle, a_wave(480), silent)
    assert among.train_windows == fitted(a_wave(480)).train_windows
    own, last = error(as_forecaster(among, tmp_path / "a", "wave"), a_wave(480))
    assert own < 0.6 * last


def test_a_level_a_thousand_times_higher_is_followed_within_the_steps_that_show_it(tmp_path: Path) -> None:
    load = changed(a_wave(480), slice(300, None), 1000.0)
    one = fitted(load)
    assert all(np.isfinite(epoch.train_loss) for epoch in one.epochs)
    own, last = error(as_forecaster(one, tmp_path / "a", "wave"), load)
    assert own < 0.7 * last


def test_one_poisoned_step_changes_a_fit_by_little(tmp_path: Path) -> None:
    clean, poisoned = a_wave(480), changed(a_wave(480), 200, 1e6)
    errors = []
    for name, series in (("clean", clean), ("poisoned", poisoned)):
        own, last = error(as_forecaster(fitted(series), tmp_path / name, "wave"), clean)
        errors.append(own / last)
    assert errors[1] < 1.5 * errors[0]
    assert errors[1] < 0.6


def test_one_poisoned_step_in_sight_changes_a_forecast_by_little(tmp_path: Path) -> None:
    forecaster = as_forecaster(fitted(a_wave(480)), tmp_path / "a", "wave")
    seen = a_wave(480).window(0, 440)
    plain = forecaster.forecast(seen, 5)
    for steps_ago in (3, 10, DAY_STEPS - 2):
        poisoned = forecaster.forecast(changed(seen, -steps_ago, 1e6), 5)
        ratio = poisoned.peaks[:, :, REQUESTS] / plain.peaks[:, :, REQUESTS]
        # A million-fold step leaves everything within a factor of five.
        assert 0.2 < ratio.min() <= ratio.max() < 5.0, steps_ago


def test_a_clock_that_is_set_forward_costs_no_more_than_the_last_value_would(tmp_path: Path) -> None:
    """Daylight saving: from one day on the daily wave comes an hour (a 24th of a day) earlier by UTC."""
    wave = a_wave(480 + DAY_STEPS)
    hour = DAY_STEPS // 24
    moved = LoadSeries(0.0, 60.0, np.concatenate([wave.values[:420], wave.values[420 + hour : 480 + hour]]))
    forecaster = as_forecaster(fitted(wave.window(0, 480)), tmp_path / "a", "wave")
    own, last = error(forecaster, moved)
    usual, _ = error(forecaster, wave.window(0, 480))
    assert own < 0.8 * last
    assert own < 2.0 * usual


def test_a_workload_with_next_to_no_history_is_forecast_by_what_others_taught(tmp_path: Path) -> None:
    forecaster = as_forecaster(fitted(a_wave(480), a_wave(480, seed=1)), tmp_path / "a", "wave")
    errors = []
    for origin in range(12, 16):
        young = of_rates(7.0 * a_wave(480, seed=9).values[100 : 100 + origin + 5, REQUESTS])
        forecast = forecaster.forecast(young.window(0, origin), 5)
        assert forecast.peaks[-1, -1, REQUESTS] < 3.0 * young.values[:origin, REQUESTS].max()
        errors.append(abs(forecast.at_level(0.5)[-1, REQUESTS] / young.values[origin + 4, REQUESTS] - 1.0))
    # On a wave that doubles and halves within ten steps.
    assert np.mean(errors) < 0.5


def test_a_tenth_of_the_steps_missing_teaches_nearly_as_much() -> None:
    values = np.array(a_wave(480).values)
    values[np.random.default_rng(0).random(480) < 0.1] = np.nan
    gappy = fit_quantile(LoadSeries(0.0, 60.0, values), QUICK, Stopwatch())
    whole = fit_quantile(a_wave(480), QUICK, Stopwatch())
    best = [min(epoch.validation_loss for epoch in one.epochs) / one.untrained_loss for one in (gappy, whole)]
    assert best[0] < best[1] + 0.2
