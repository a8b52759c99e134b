"""What does a load series hold and refuse?"""

from __future__ import annotations

import numpy as np
import pytest

from forecasting.series import LoadSeries
from tests.builders_forecasting import series_of


def test_a_series_is_a_copy_that_refuses_writes() -> None:
    source = np.ones((4, 3))
    series = LoadSeries(0.0, 15.0, source)
    source[0, 0] = 9.0
    assert series.values[0, 0] == 1.0
    with pytest.raises(ValueError, match="read-only"):
        series.values[0, 0] = 2.0


@pytest.mark.parametrize(
    ("step_s", "values", "complaint"),
    [
        (15.0, np.ones((4, 2)), "shape"),
        (0.0, np.ones((4, 3)), "step_s"),
        (float("nan"), np.ones((4, 3)), "step_s"),
        (15.0, -np.ones((4, 3)), "negative"),
        (15.0, np.full((4, 3), np.inf), "infinite"),
    ],
)
def test_impossible_series_are_refused(step_s: float, values: np.ndarray, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        LoadSeries(0.0, step_s, values)


def test_windows_keep_their_instants() -> None:
    series = series_of(np.arange(10.0), start_at=100.0)
    window = series.window(3, 7)
    assert (window.start_at, window.end_at, len(window)) == (145.0, 205.0, 4)
    assert series.tail(3).start_at == 205.0
    assert series.tail(99).values.shape == series.values.shape


def test_resampling_averages_what_was_observed_and_keeps_whole_gaps() -> None:
    values = np.array([1.0, 3.0, np.nan, 5.0, np.nan, np.nan, 7.0])
    resampled = LoadSeries(0.0, 15.0, np.repeat(values[:, None], 3, axis=1)).resampled(30.0)
    np.testing.assert_array_equal(resampled.values[:, 0], [2.0, 5.0, np.nan])


def test_resampling_to_a_step_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="whole multiple"):
        series_of(np.ones(9)).resampled(40.0)


def test_coverage_counts_observed_steps() -> None:
    assert series_of([1.0, np.nan, np.nan, 4.0]).coverage_ratio == 0.5
    assert series_of([]).coverage_ratio == 0.0
