"""Which laws hold for any load, however odd?"""

from __future__ import annotations

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from forecasting.accuracy import coverage, crps, pinball
from forecasting.features import fill_forward, rates_of, window_tensors
from forecasting.forecast import LoadForecast
from forecasting.forecaster import CannotForecast, Forecaster
from forecasting.last_value import LastValueForecaster
from forecasting.residuals import futures, replay_origins
from forecasting.seasonal_naive import SeasonalNaiveForecaster
from forecasting.series import LoadSeries
from forecasting.statistical import ExponentialSmoothingForecaster
from tests.builders_forecasting import small_spec

FORECASTERS: tuple[Forecaster, ...] = (
    LastValueForecaster(0.0),
    LastValueForecaster(),
    SeasonalNaiveForecaster(period_s=600.0, level_window_s=60.0),
    ExponentialSmoothingForecaster(),
)
# Fits of exponential smoothing take tens of milliseconds each, three to a load.
QUICK = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@st.composite
def loads(draw: st.DrawFn, least: int = 0, most: int = 130) -> LoadSeries:
    """Rates over many magnitudes with bursts, idle times and gaps of any length."""
    steps = draw(st.integers(least, most))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    level = 10.0 ** draw(st.floats(-3, 4))
    values = level * rng.gamma(draw(st.floats(0.05, 50.0)), size=(steps, 3))
    values[rng.random((steps, 3)) < draw(st.sampled_from([0.0, 0.0, 0.3, 0.95]))] = 0.0
    values[rng.random((steps, 3)) < draw(st.sampled_from([0.0, 0.0, 0.1, 0.4, 0.9]))] = np.nan
    if steps and draw(st.booleans()):
        values[-draw(st.integers(1, min(12, steps))) :] = np.nan
    return LoadSeries(draw(st.floats(0, 2e9)), 15.0, values)


@QUICK
@given(load=loads(), horizon=st.integers(1, 30))
def test_a_forecast_is_whole_or_refused_and_never_anything_else(load: LoadSeries, horizon: int) -> None:
    """LoadForecast itself refuses missing, negative, crossing and falling numbers."""
    for forecaster in FORECASTERS:
        try:
            forecast = forecaster.forecast(load, horizon)
        except CannotForecast:
            continue
        assert forecast.values.shape == (7, horizon, 3)
        assert forecast.made_at == load.end_at


@QUICK
@given(load=loads(least=40), factor=st.sampled_from([1e-3, 0.25, 8.0, 1024.0]))
def test_forecasts_scale_with_the_load(load: LoadSeries, factor: float) -> None:
    scaled = LoadSeries(load.start_at, load.step_s, load.values * factor)
    for forecaster in FORECASTERS[:3]:
        try:
            forecast = forecaster.forecast(load, 6)
        except CannotForecast:
            continue
        expected = forecast.peaks * factor
        # Ties between smoothers may fall either way by rounding; apart from that only rounding differs.
        np.testing.assert_allclose(
            forecaster.forecast(scaled, 6).peaks, expected, rtol=1e-6, atol=1e-9 * max(float(expected.max()), 1e-9)
        )


@given(
    raw=hnp.arrays(np.float64, (4, 5, 3), elements=st.floats(-1e6, 1e6)),
    peaks=st.none() | hnp.arrays(np.float64, (4, 5, 3), elements=st.floats(-1e6, 1e6)),
    level=st.floats(0, 1),
    until_s=st.floats(-10, 200),
)
def test_any_raw_output_makes_a_valid_forecast_whose_peak_bounds_its_steps(
    raw: np.ndarray, peaks: np.ndarray | None, level: float, until_s: float
) -> None:
    levels = np.array([0.1, 0.5, 0.9, 0.99])
    forecast = LoadForecast.ordered(0.0, 15.0, levels, raw, "any", peaks)
    peak = forecast.peak(level, until_s)
    steps = int(np.clip(np.ceil(until_s / 15.0 - 1e-9), 1, 5))
    # Interpolating between levels rounds in the last digit.
    assert (peak >= forecast.at_level(level)[:steps].max(axis=0) * (1 - 1e-12)).all()
    assert (forecast.peak(level, until_s + 15.0) >= peak).all()


@given(steps=st.integers(0, 4000), first=st.integers(0, 300))
def test_replayed_origins_ascend_inside_the_record(steps: int, first: int) -> None:
    origins = replay_origins(steps, first)
    assert len(origins) <= 480
    assert (np.diff(origins) > 0).all()
    if len(origins):
        assert first <= origins[0]
        assert origins[-1] == steps - 1


@given(
    values=hnp.arrays(np.float64, (30, 2), elements=st.floats(0, 1e6) | st.just(np.nan)),
    horizon=st.integers(1, 12),
)
def test_a_known_maximum_is_that_of_the_observed_steps_and_never_falls(values: np.ndarray, horizon: int) -> None:
    after = futures(values, np.arange(1, 30), horizon)
    for row, origin in enumerate(range(1, 30)):
        for step in range(horizon):
            path = values[origin : origin + step + 1]
            for channel in range(2):
                largest = after.largest[row, step, channel]
                if np.isfinite(largest):
                    assert largest == np.nanmax(path[:, channel])
                    assert origin + step < 30


@given(rows=hnp.arrays(np.float64, (3, 9), elements=st.floats(-10, 10) | st.just(np.nan)))
def test_filling_forward_is_idempotent_and_keeps_what_was_seen(rows: np.ndarray) -> None:
    filled = fill_forward(rows)
    seen = np.isfinite(rows)
    np.testing.assert_array_equal(filled[seen], rows[seen])
    np.testing.assert_array_equal(fill_forward(filled), filled)


@QUICK
@given(load=loads(least=60), kind=st.sampled_from(["quantile_lstm", "reference_lstm"]))
def test_windows_are_finite_and_their_targets_come_back_as_rates(load: LoadSeries, kind: str) -> None:
    spec = small_spec(kind)  # type: ignore[arg-type]
    windows = window_tensors(load, spec, np.arange(40, len(load) + 1, 7))
    assert np.isfinite(windows.context).all()
    assert np.isfinite(windows.static).all()
    target = np.nan_to_num(windows.target)
    rates = rates_of(spec, target, windows)
    assert (rates >= 0).all()
    for example in range(len(windows)):
        for place, lead in enumerate(spec.lead_steps):
            # Where the change was not clipped, decoding gives back what was recorded.
            if np.isfinite(windows.target[example, place]) and abs(target[example, place]) < 5.9:
                recorded = load.values[windows.origin[example] + lead - 1, windows.channel[example]]
                spread = windows.level[example] + windows.scale[example]
                assert abs(rates[example, place] - recorded) <= 1e-4 * (spread + recorded)


@given(
    actual=hnp.arrays(np.float64, 20, elements=st.floats(0, 100) | st.just(np.nan)),
    shift=st.floats(-50, 50),
    factor=st.floats(0.1, 10),
)
def test_scores_do_not_depend_on_origin_and_follow_the_unit(actual: np.ndarray, shift: float, factor: float) -> None:
    levels = np.array([0.1, 0.5, 0.9])
    quantiles = np.array([20.0, 50.0, 80.0]) + np.zeros((20, 3))
    for score in (pinball, crps):
        plain = score(actual, quantiles, levels)
        moved = score(actual + shift, quantiles + shift, levels)
        scaled = score(actual * factor, quantiles * factor, levels)
        if np.isnan(actual).all():
            assert np.isnan([plain, moved, scaled]).all()
        else:
            np.testing.assert_allclose([moved, scaled], [plain, plain * factor], atol=1e-9, rtol=1e-9)
    share = coverage(actual, quantiles[:, 2])
    assert np.isnan(share) or 0 <= share <= 1
