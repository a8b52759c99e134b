"""Is what can be no load told from load that is only unusual?"""

from __future__ import annotations

import numpy as np
import pytest

from forecasting.spikes import without_spikes
from tests.builders_forecasting import poisson_series, series_of


def spiked_at(*places: int) -> np.ndarray:
    rates = poisson_series(400).values[:, 0].copy()
    rates[list(places)] = 1e6
    return rates


def test_a_single_impossible_step_is_a_gap() -> None:
    cleaned = without_spikes(series_of(spiked_at(100, 250)))
    assert np.flatnonzero(np.isnan(cleaned.values[:, 0])).tolist() == [100, 250]


@pytest.mark.parametrize(
    "rates",
    [
        spiked_at(399),  # may be the first step of a new level
        spiked_at(100, 101),  # two in a row are a level
        np.where(np.arange(400) % 60 == 7, 500.0, 0.0),
        np.where(np.arange(400) >= 200, 6e3, 6.0),
        np.zeros(400),
        np.full(400, np.nan),
        np.array([1.0, 1e9]),
    ],
)
def test_what_may_be_load_is_left_alone(rates: np.ndarray) -> None:
    load = series_of(rates)
    assert without_spikes(load) is load
