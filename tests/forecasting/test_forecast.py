"""What does a forecast promise to those who read it?"""

from __future__ import annotations

import numpy as np
import pytest

from forecasting.forecast import DEFAULT_LEVELS, LoadForecast

LEVELS = np.array([0.1, 0.5, 0.9])
VALUES = np.array([[1.0, 2.0], [2.0, 3.0], [4.0, 3.5]])[:, :, None].repeat(3, axis=2)


def forecast(**changes: np.ndarray) -> LoadForecast:
    parts = {"levels": LEVELS, "values": VALUES, **changes}
    return LoadForecast.ordered(100.0, 10.0, parts["levels"], parts["values"], "test", parts.get("peaks"))


def test_a_level_between_two_is_interpolated_and_one_outside_is_the_nearest() -> None:
    assert forecast().at_level(0.7)[0, 0] == pytest.approx(3.0)
    assert forecast().at_level(0.99)[0, 0] == 4.0
    assert forecast().at_level(0.01)[0, 0] == 1.0


def test_raw_quantiles_are_sorted_and_never_negative() -> None:
    raw = np.array([3.0, 1.0, -2.0])[:, None, None].repeat(3, axis=2)
    assert forecast(values=raw).values[:, 0, 0].tolist() == [0.0, 1.0, 3.0]


def test_peaks_rise_with_the_horizon_and_cover_every_step_on_the_way() -> None:
    made = forecast(peaks=np.zeros_like(VALUES))
    assert made.peaks[2, :, 0].tolist() == [4.0, 4.0]
    assert made.peaks[0, :, 0].tolist() == [1.0, 2.0]


@pytest.mark.parametrize(
    ("until_at", "expected"), [(95.0, 4.0), (101.0, 4.0), (110.0, 4.0), (110.1, 6.0), (900.0, 6.0)]
)
def test_a_peak_counts_every_step_begun(until_at: float, expected: float) -> None:
    peaks = np.array([[2.0, 4.0], [3.0, 5.0], [4.0, 6.0]])[:, :, None].repeat(3, axis=2)
    assert forecast(peaks=peaks).peak(0.9, until_at)[0] == expected


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"levels": np.array([0.5, 0.1, 0.9])}, "ascend"),
        ({"levels": np.array([0.1, 0.5, 1.0])}, "ascend"),
        ({"values": VALUES[:2]}, "shape"),
        ({"values": np.where(VALUES > 3.9, np.nan, VALUES)}, "missing"),
        ({"values": VALUES[::-1]}, "cross"),
        ({"peaks": VALUES - 0.5}, "peak"),
        ({"peaks": VALUES[:, :1]}, "peaks have shape"),
        ({"step_s": 0.0}, "step_s"),
    ],
)
def test_impossible_forecasts_are_refused(changes: dict[str, object], complaint: str) -> None:
    parts = {
        "made_at": 0.0,
        "start_at": 0.0,
        "step_s": 10.0,
        "levels": LEVELS,
        "values": VALUES,
        "peaks": np.maximum.accumulate(VALUES, axis=1),
        "source": "test",
    }
    with pytest.raises(ValueError, match=complaint):
        LoadForecast(**{**parts, **changes})  # type: ignore[arg-type]


def test_many_are_built_as_each_alone() -> None:
    rng = np.random.default_rng(0)
    values, peaks = (np.sort(rng.normal(2.0, 1.5, (4, 7, 5, 3)), axis=1) for _ in range(2))
    levels = np.array(DEFAULT_LEVELS)
    many = LoadForecast.ordered_many([1.0, 2.0, 3.0, 4.0], 15.0, levels, values, peaks, "net")
    for at, one, own, own_peaks in zip((1.0, 2.0, 3.0, 4.0), many, values, peaks, strict=True):
        alone = LoadForecast.ordered(at, 15.0, levels, own, "net", own_peaks)
        for name in ("levels", "values", "peaks"):
            np.testing.assert_array_equal(getattr(one, name), getattr(alone, name))
            assert not getattr(one, name).flags.writeable
        assert (one.made_at, one.start_at, one.step_s, one.source) == (at, at, 15.0, "net")
        LoadForecast(at, at, 15.0, one.levels, one.values, one.peaks, "net")  # passes all checks
    assert LoadForecast.ordered_many([], 15.0, levels, values[:0], peaks[:0], "net") == []


def test_of_many_none_is_built_when_one_is_not_finite_or_the_shapes_are_wrong() -> None:
    values = np.ones((2, 7, 5, 3))
    values[1, 3, 2, 1] = np.nan
    with pytest.raises(ValueError, match="no missing or infinite rate"):
        LoadForecast.ordered_many([1.0, 2.0], 15.0, np.array(DEFAULT_LEVELS), values, values, "net")
    with pytest.raises(ValueError, match="shape"):
        LoadForecast.ordered_many([1.0], 15.0, np.array([0.5, 0.9]), np.ones((1, 7, 5, 3)), np.ones((1, 7, 5, 3)), "n")
