"""Does a regression find what comes back, and bend to no spike?"""

from __future__ import annotations

import numpy as np

from forecasting.accuracy import pinball
from forecasting.forecast import DEFAULT_LEVELS
from forecasting.last_value import LastValueForecaster
from forecasting.regression import RegressionForecaster
from tests.builders_forecasting import poisson_series, series_of


def test_it_loses_less_than_the_last_value_on_a_noisy_daily_load() -> None:
    load = poisson_series(1000, rate=0.05, step_s=600.0, swing_ratio=0.7, seed=3)
    levels = np.asarray(DEFAULT_LEVELS)
    lost = []
    for forecaster in (RegressionForecaster(), LastValueForecaster(0.0)):
        said = [forecaster.forecast(load.window(0, o), 6).values[:, -1, 0] for o in range(800, 990, 5)]
        lost.append(pinball(load.values[np.arange(800, 990, 5) + 5, 0], np.stack(said), levels))
    assert lost[0] < 0.9 * lost[1]


def test_coefficients_are_estimated_once_per_block_of_the_clock() -> None:
    load = series_of(np.random.default_rng(2).uniform(5, 10, 500))
    forecaster = RegressionForecaster(refit_s=3600.0)
    for end in range(400, 420):
        forecaster.forecast(load.window(0, end), 4)
    assert forecaster.fits_made <= 2
