"""Does an ARIMA find mean reversion and season, and estimate no more often than told?"""

from __future__ import annotations

import numpy as np

from forecasting.arima import ArimaForecaster
from forecasting.last_value import LastValueForecaster
from tests.builders_forecasting import series_of


def test_a_load_that_reverts_to_its_mean_is_expected_to() -> None:
    rng = np.random.default_rng(0)
    logs = np.zeros(600)
    for step in range(1, 600):
        logs[step] = 0.8 * logs[step - 1] + rng.normal(0, 0.1)
    logs[-1] = 1.0
    load = series_of(100.0 * np.exp(logs))
    ahead = ArimaForecaster(refit_s=1800.0).forecast(load, 30).at_level(0.5)[:, 0]
    last = LastValueForecaster(0.0).forecast(load, 30).at_level(0.5)[:, 0]
    assert ahead[-1] < 150.0 < last[-1]
    assert ahead[0] > ahead[3] > ahead[8]


def test_a_season_is_seen_coming() -> None:
    period = 96
    at = np.arange(8 * period)
    rng = np.random.default_rng(1)
    load = series_of(100.0 * np.exp(0.8 * np.sin(2 * np.pi * at / period) + rng.normal(0, 0.02, len(at))), 900.0)
    origin = 7 * period
    ahead = ArimaForecaster(86400.0).forecast(load.window(0, origin), 24).at_level(0.5)[:, 0]
    np.testing.assert_allclose(ahead, load.values[origin : origin + 24, 0], rtol=0.15)


def test_parameters_are_estimated_once_per_block_of_the_clock() -> None:
    load = series_of(np.random.default_rng(2).uniform(5, 10, 900))
    forecaster = ArimaForecaster(refit_s=3600.0)
    for end in range(800, 820):
        forecaster.forecast(load.window(0, end), 4)
    assert forecaster.fits_made <= 2
