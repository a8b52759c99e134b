"""Does the filter find the level under the noise, through gaps and past outliers?"""

from __future__ import annotations

import numpy as np

from forecasting.kalman import Filtered, KalmanForecaster
from forecasting.last_value import LastValueForecaster
from tests.builders_forecasting import poisson_series, series_of, with_gaps


def test_on_steady_counts_the_level_is_the_long_mean() -> None:
    load = poisson_series(600, rate=6.0, seed=1)
    level = np.exp(Filtered.of(load.values[:, :1], trend=False).level[-1, 0])
    # Offset 0.6 on top; a hundred steps of 90 requests have a standard error of 1 %.
    np.testing.assert_allclose(level, 6.6, rtol=0.03)


def test_on_a_random_walk_the_level_follows() -> None:
    rng = np.random.default_rng(0)
    load = series_of(50.0 * np.exp(np.cumsum(rng.normal(0, 0.05, 600))))
    filtered = Filtered.of(load.values[:, :1], trend=False)
    np.testing.assert_allclose(np.exp(filtered.level[-1]) - filtered.offset, load.values[-1, :1], rtol=0.03)


def test_one_wild_scrape_moves_the_forecast_by_little() -> None:
    values = poisson_series(600, rate=6.0, seed=2).values.copy()
    clean = KalmanForecaster().forecast(series_of(values[:, 0]), 8).at_level(0.5)[:, 0]
    values[-2, 0] *= 1000.0
    poisoned = KalmanForecaster().forecast(series_of(values[:, 0]), 8).at_level(0.5)[:, 0]
    last = LastValueForecaster().forecast(series_of(values[:, 0]), 8).at_level(0.5)[:, 0]
    assert np.abs(poisoned - clean).max() < 0.5 * clean.max() < last.max()


def test_a_drift_is_followed_and_fades() -> None:
    load = series_of(100.0 * np.exp(0.01 * np.arange(600)) / np.exp(0.01 * 300))
    ahead = KalmanForecaster(trend=True).forecast(load, 60).at_level(0.5)[:, 0]
    steps = np.diff(np.log(ahead + 1.0))
    assert steps[0] > 0.004
    assert steps[-1] < 0.5 * steps[0]


def test_gaps_are_walked_through_at_the_level_before() -> None:
    load = with_gaps(poisson_series(600, rate=6.0, seed=3), 0.3)
    whole = KalmanForecaster().forecast(poisson_series(600, rate=6.0, seed=3), 4).at_level(0.5)[:, 0]
    gappy = KalmanForecaster().forecast(load, 4).at_level(0.5)[:, 0]
    np.testing.assert_allclose(gappy, whole, rtol=0.1)
