"""Does a forecaster around a net interpolate, resample and refuse as it says?"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch

from forecasting.artifact import load_artifact
from forecasting.features import rates_of, window_tensors
from forecasting.forecast import DEFAULT_LEVELS, LoadForecast
from forecasting.forecaster import CannotForecast, FleetForecaster
from forecasting.neural import NeuralForecaster, mean_path, residual_table, run_net
from forecasting.quantile_net import build_net
from forecasting.series import CHANNELS, LoadSeries
from tests.builders_forecasting import poisson_series, small_spec, with_gaps, write_small_artifact

LOAD = poisson_series(300, swing_ratio=0.3, period_s=1800.0)


@pytest.fixture(scope="module")
def forecaster(tmp_path_factory: pytest.TempPathFactory) -> NeuralForecaster:
    return load_artifact(write_small_artifact(tmp_path_factory.mktemp("net") / "net", small_spec()))


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> NeuralForecaster:
    return load_artifact(write_small_artifact(tmp_path_factory.mktemp("net") / "net", small_spec("reference_lstm")))


def test_its_name_changes_with_its_weights(tmp_path: Path) -> None:
    names = {load_artifact(write_small_artifact(tmp_path / str(seed), small_spec(), seed)).name for seed in (0, 1)}
    assert len(names) == 2
    assert all(name.startswith("small@") for name in names)


def test_leads_of_the_grid_are_what_the_net_says_and_others_lie_between(forecaster: NeuralForecaster) -> None:
    forecast = forecaster.forecast(LOAD, 20)
    spec = small_spec()
    torch.manual_seed(0)
    net = build_net(spec).eval()
    windows = window_tensors(LOAD, spec, [len(LOAD)], CHANNELS)
    said = rates_of(spec, run_net(net, windows)[0], windows)
    for place, lead in enumerate(spec.lead_steps):
        np.testing.assert_allclose(forecast.values[:, lead - 1], said[:, place].T, rtol=1e-6)
    np.testing.assert_allclose(forecast.values[:, 5], (forecast.values[:, 3] + forecast.values[:, 7]) / 2, rtol=1e-9)


def test_levels_between_those_fitted_are_interpolated_and_others_refused(forecaster: NeuralForecaster) -> None:
    every = forecaster.forecast(LOAD, 4)
    some = forecaster.forecast(LOAD, 4, (0.5, 0.93))
    np.testing.assert_allclose(some.values[0], every.at_level(0.5), rtol=1e-9)
    assert (some.values[1] > every.at_level(0.9)).all()
    assert (some.values[1] < every.at_level(0.95)).all()
    with pytest.raises(CannotForecast, match="asked for levels"):
        forecaster.forecast(LOAD, 4, (0.5, 0.99))


def test_leads_beyond_those_fitted_are_refused(forecaster: NeuralForecaster, reference: NeuralForecaster) -> None:
    for each in (forecaster, reference):
        with pytest.raises(CannotForecast, match="fitted for 20"):
            each.forecast(LOAD, 21)


def test_shorter_steps_are_averaged_to_its_own(forecaster: NeuralForecaster) -> None:
    short = LoadSeries(LOAD.start_at, 5.0, np.repeat(LOAD.values, 3, axis=0))
    forecast = forecaster.forecast(short, 12)
    assert forecast.values.shape[1] == 12
    assert forecast.step_s == 5.0
    expected = forecaster.forecast(LOAD, 4)
    np.testing.assert_allclose(forecast.values, np.repeat(expected.values, 3, axis=1), rtol=1e-6)


def test_the_newest_short_steps_are_kept_when_they_do_not_fill_a_long_one(forecaster: NeuralForecaster) -> None:
    short = LoadSeries(LOAD.start_at, 5.0, np.repeat(LOAD.values, 3, axis=0)).window(1, 900)
    assert forecaster.forecast(short, 3).made_at == short.end_at


@pytest.mark.parametrize("step_s", [10.0, 30.0])
def test_steps_that_do_not_fit_are_refused(forecaster: NeuralForecaster, step_s: float) -> None:
    with pytest.raises(CannotForecast, match="steps of"):
        forecaster.forecast(LoadSeries(0.0, step_s, LOAD.values), 4)


def test_a_history_that_says_too_little_is_refused_with_figures(
    forecaster: NeuralForecaster, reference: NeuralForecaster
) -> None:
    with pytest.raises(CannotForecast, match="history has 9 of the 10 steps"):
        forecaster.forecast(LOAD.tail(9), 4)
    with pytest.raises(CannotForecast, match="history has 31 of the 32 steps"):
        reference.forecast(LOAD.tail(31), 4)
    with pytest.raises(CannotForecast, match=r"observed in \d+% of the last 32 steps"):
        forecaster.forecast(with_gaps(LOAD, 0.6), 4)


def test_a_workload_that_began_a_moment_ago_is_forecast_from_what_there_is(forecaster: NeuralForecaster) -> None:
    forecast = forecaster.forecast(LOAD.tail(10), 20)
    level = LOAD.tail(4).values.mean(axis=0)
    np.testing.assert_allclose(forecast.at_level(0.5)[0], level, rtol=0.5)


def test_many_are_answered_as_each_alone_bit_by_bit(forecaster: NeuralForecaster, reference: NeuralForecaster) -> None:
    short = LoadSeries(LOAD.start_at, 5.0, np.repeat(LOAD.values, 3, axis=0))
    values = LOAD.values.copy()
    values[-8:, 1] = np.nan
    stale = LoadSeries(LOAD.start_at, LOAD.step_s, values)
    histories = [LOAD.window(0, end) for end in range(32, 300, 3)]
    histories += [short, LOAD.tail(9), with_gaps(LOAD, 0.6), stale, with_gaps(LOAD, 0.1)]
    horizons = [20, 20, 7] * 30 + [20] * (len(histories) - 90)
    for each in (forecaster, reference):
        assert isinstance(each, FleetForecaster)
        told = each.forecast_many(histories, horizons, (0.5, 0.93))
        refused = 0
        for history, horizon, answer in zip(histories, horizons, told, strict=True):
            if not isinstance(answer, LoadForecast):
                with pytest.raises(CannotForecast, match=re.escape(str(answer))):
                    each.forecast(history, horizon, (0.5, 0.93))
                refused += 1
                continue
            alone = each.forecast(history, horizon, (0.5, 0.93))
            np.testing.assert_array_equal(answer.values, alone.values)
            np.testing.assert_array_equal(answer.peaks, alone.peaks)
            assert answer.made_at == alone.made_at == history.end_at
        assert refused == 3


def test_the_mean_path_leads_straight_from_the_last_level_to_the_answer(reference: NeuralForecaster) -> None:
    spec = small_spec("reference_lstm")
    windows = window_tensors(LOAD, spec, [200], ("requests_per_s",))
    path = mean_path(spec, windows, np.array([0.5]), 20)[0]
    level, scale = windows.level[0], windows.scale[0]
    np.testing.assert_allclose(path, level + 0.5 * scale * np.arange(1, 21) / 20)
    forecast = reference.forecast(LOAD, 20)
    assert np.diff(forecast.at_level(0.5)[:, 0], 2) == pytest.approx(0.0, abs=1e-9)


def test_the_residual_table_covers_as_often_as_it_says_where_it_was_measured() -> None:
    spec = small_spec("reference_lstm")
    load = poisson_series(1500, seed=3)
    windows = window_tensors(load, spec, np.arange(100, 1400), ("requests_per_s",), lead_steps=range(1, 21))
    table = residual_table(spec, windows, np.zeros(len(windows)))
    path = mean_path(spec, windows, np.zeros(len(windows)), 20)
    actual = rates_of(spec, windows.target, windows)
    bound = (path + windows.offset[:, None]) * np.exp(np.array(table.values)[:, 4]) - windows.offset[:, None]
    np.testing.assert_allclose((actual <= bound).mean(axis=0), DEFAULT_LEVELS[4], atol=0.01)
    largest = rates_of(spec, windows.target_peak, windows)
    highest = np.maximum.accumulate(path, axis=1) + windows.offset[:, None]
    bound = highest * np.exp(np.array(table.peaks)[:, 5]) - windows.offset[:, None]
    np.testing.assert_allclose((largest <= bound).mean(axis=0), DEFAULT_LEVELS[5], atol=0.01)


def test_a_residual_table_from_too_little_is_refused() -> None:
    spec = small_spec("reference_lstm")
    windows = window_tensors(LOAD, spec, np.arange(200, 220), ("requests_per_s",), lead_steps=range(1, 21))
    with pytest.raises(ValueError, match="fewer than 30"):
        residual_table(spec, windows, np.zeros(len(windows)))
    with pytest.raises(ValueError, match="each of 20 leads"):
        residual_table(spec, window_tensors(LOAD, spec, [200]), np.zeros(3))


def test_a_net_that_answers_nan_steps_back_with_a_reason(tmp_path: Path) -> None:
    broken = load_artifact(write_small_artifact(tmp_path / "net", small_spec()))
    with torch.no_grad():
        for weights in broken._net.parameters():
            weights.fill_(torch.nan)
    with pytest.raises(CannotForecast, match="not finite"):
        broken.forecast(LOAD, 4)
