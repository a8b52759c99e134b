"""Is what is usual learned, and nothing else?"""

from __future__ import annotations

import numpy as np
import pytest

from forecasting.detection.baselines import DayCourse, Level, slot_width_s
from forecasting.detection.onset import MOST, Onset
from tests.builders_detection import DAY_ROWS, daily, flat


def test_a_level_is_where_values_lie_and_how_far_they_stray() -> None:
    level = Level(memory=4000.0)
    for value in flat(3000)[1].tolist():
        level.learn(value)
    assert level.location == pytest.approx(50.0, abs=0.2)
    # The mean absolute deviation of normal noise is 0.8 of its standard deviation.
    assert level.spread == pytest.approx(1.6, abs=0.15)


def test_one_huge_value_moves_a_level_no_more_than_a_wild_usual_one() -> None:
    level = Level(memory=4000.0)
    for value in flat(1000)[1].tolist():
        level.learn(value)
    before = level.location
    level.learn(1e12)
    assert 0.0 < level.location - before < 3.1 * level.spread / 1000


def test_a_time_of_day_is_expected_after_two_days() -> None:
    course = DayCourse(300.0, 300.0, memory=4000.0)
    at, values = daily(3)
    for row in range(2 * DAY_ROWS):
        assert course.expects(at[row]) is None
        course.learn(at[row], values[row])
    expected = [course.expects(instant) for instant in at[2 * DAY_ROWS :]]
    locations = np.array([found[0] for found in expected if found])
    assert len(locations) == DAY_ROWS
    assert np.abs(locations - 100.0 - 40.0 * np.sin(2.0 * np.pi * at[2 * DAY_ROWS :] / 86_400.0)).max() < 6.0


def test_spread_differs_by_time_of_day() -> None:
    course = DayCourse(3600.0, 300.0, memory=4000.0)
    at, _ = daily(10)
    night = at % 86_400 < 43_200
    noise = np.random.default_rng(0).normal(0.0, np.where(night, 0.5, 8.0))
    for row in zip(at.tolist(), (100.0 + noise).tolist(), strict=True):
        course.learn(*row)
    quiet, busy = course.expects(at[0] + 6 * 3600), course.expects(at[0] + 18 * 3600)
    assert quiet is not None
    assert busy is not None
    assert quiet[1] < 0.7 * busy[1]


@pytest.mark.parametrize(("step_s", "width_s"), [(1.0, 300.0), (300.0, 300.0), (301.0, 600.0), (3600.0, 3600.0)])
def test_slots_are_no_narrower_than_steps(step_s: float, width_s: float) -> None:
    assert slot_width_s(step_s) == width_s


def test_two_values_a_day_and_fewer_have_no_course() -> None:
    assert slot_width_s(43_200.0) == 43_200.0
    assert slot_width_s(86_400.0) is None


def test_an_onset_is_where_straying_began() -> None:
    onset = Onset()
    for at in range(100):
        onset.add(float(at), 1.0 if at % 2 else -1.0)
    assert not onset.running
    assert onset.since(100.0) == 100.0
    for at in range(100, 130):
        onset.add(float(at), 4.0)
    assert onset.since(130.0) == 100.0
    assert onset.above == MOST
    for at in range(130, 170):
        onset.add(float(at), 0.0)
    assert not onset.running


def test_an_onset_tells_falling_from_rising() -> None:
    onset = Onset()
    onset.add(1.0, 2.0)
    for at in range(2, 12):
        onset.add(float(at), -5.0)
    assert onset.since(12.0) == 2.0
