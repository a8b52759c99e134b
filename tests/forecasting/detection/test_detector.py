"""Does the detector find what is odd, and only that, in one pass and from a small state?"""

from __future__ import annotations

import json
from math import inf, isnan, nan

import numpy as np
import pytest

from forecasting.detection.detector import Detector, DetectorSettings
from tests.builders_detection import DAY_ROWS, STEP_S, alarms, daily, flat, times, verdicts


def test_a_spike_is_an_alarm_in_its_own_row() -> None:
    at, values = flat(3000)
    values[2000] += 40.0
    found = verdicts(at, values)
    assert 2000 in alarms(found)
    assert found[2000].score == max(verdict.score for verdict in found)
    assert found[2000].since == at[2000]


def test_noise_alone_seldom_alarms() -> None:
    counts = [len(alarms(verdicts(*flat(3000, seed)))) for seed in range(4)]
    # 10 days each of one value in 5 min; one false alarm in three days at most.
    assert sum(counts) <= 13


@pytest.mark.parametrize(("hour", "value"), [(5, 65.0), (17, 135.0)])
def test_a_value_that_is_usual_at_another_time_of_day_is_odd(hour: int, value: float) -> None:
    at, values = daily(12)
    assert values.min() < value < values.max()
    first = 10 * DAY_ROWS + 12 * hour
    values[first : first + 12] = value
    assert first in alarms(verdicts(at, values))


def test_a_lasting_change_alarms_once_and_is_then_what_is_usual() -> None:
    at, values = daily(20)
    values[10 * DAY_ROWS :] *= 3.0
    found = verdicts(at, values)
    fired = [row for row in alarms(found) if row >= 9 * DAY_ROWS]
    assert fired[0] == 10 * DAY_ROWS
    assert len(fired) <= 3
    during = np.array([verdict.expected for verdict in found[10 * DAY_ROWS : 11 * DAY_ROWS - 1]])
    assert during.max() < 160.0, "a day of anomaly is not learned from"
    later = np.array([verdict.expected for verdict in found[14 * DAY_ROWS :]])
    assert np.median(later / values[14 * DAY_ROWS :]) == pytest.approx(1.0, abs=0.05)


def test_after_a_lasting_change_the_band_is_soon_as_narrow_as_before() -> None:
    at, values = daily(20)
    values[10 * DAY_ROWS :] += 100.0
    values[16 * DAY_ROWS + 50] += 30.0
    detector = Detector()
    widths = []
    found = []
    for row in zip(at.tolist(), values.tolist(), strict=True):
        low, high = detector.band(row[0])
        widths.append(high - low)
        found.append(detector.step(*row))
    before, after = np.median(widths[8 * DAY_ROWS : 10 * DAY_ROWS]), np.median(widths[15 * DAY_ROWS : 16 * DAY_ROWS])
    assert after < 1.5 * before
    assert 16 * DAY_ROWS + 50 in alarms(found)


def test_what_is_usual_is_not_learned_from_an_anomaly() -> None:
    at, clean = daily(12)
    values = clean.copy()
    outage = slice(8 * DAY_ROWS + 100, 8 * DAY_ROWS + 160)
    values[outage] = 0.0
    expected, undisturbed = verdicts(at, values), verdicts(at, clean)
    following = range(9 * DAY_ROWS + 100, 9 * DAY_ROWS + 160)
    moved = [abs(expected[row].expected - undisturbed[row].expected) for row in following]
    assert max(moved) < 2.0


def test_an_alarm_is_not_repeated_but_a_worse_one_is_told() -> None:
    at, values = flat(3000)
    values[2000:2006] += [30.0, 30.0, 30.0, 30.0, 30.0, 3000.0]
    found = verdicts(at, values)
    assert found[2000].score > 0.5
    assert [found[row].score for row in range(2002, 2005)] == [0.0] * 3
    assert found[2003].rarity > 1.0
    assert found[2005].score > found[2000].score


def test_scores_depend_on_no_later_value() -> None:
    at, values = daily(6)
    whole = verdicts(at, values)
    assert verdicts(at[:1000], values[:1000]) == whole[:1000]


def test_missing_is_not_zero() -> None:
    at, values = flat(2000)
    gaps = values.copy()
    gaps[1000:1100] = nan
    found = verdicts(at, gaps)
    assert {verdict.score for verdict in found[1000:1100]} == {0.0}
    assert isnan(found[1050].rarity)
    assert not [row for row in alarms(found) if 1000 <= row < 1110]
    # The usual of a time of day is the mean of at least three values, each off by 2.
    assert found[-1].expected == pytest.approx(50.0, abs=4.0)


def test_rows_that_are_left_out_do_not_alarm() -> None:
    at, values = daily(12)
    kept = np.ones(len(at), bool)
    kept[10 * DAY_ROWS + 30 : 10 * DAY_ROWS + 200] = False
    found = verdicts(at[kept], values[kept])
    first = 10 * DAY_ROWS + 30
    assert not [row for row in alarms(found) if first <= row < first + 20]


def test_an_infinite_value_is_an_alarm_and_is_not_learned() -> None:
    at, values = flat(1000)
    values[500], values[800] = inf, -inf
    found = verdicts(at, values)
    assert found[500].score > 0.99
    assert found[-1].expected == pytest.approx(50.0, abs=4.0)


def test_huge_values_overflow_nothing() -> None:
    at, values = flat(1500)
    values[700:720:2], values[701:720:2] = 1.7e308, -1.7e308
    found = verdicts(at, values)
    assert all(0.0 <= verdict.score <= 1.0 for verdict in found)
    assert found[700].score > 0.99


def test_a_constant_series_never_alarms_until_it_changes() -> None:
    values = np.full(3000, 45.0)
    assert {verdict.score for verdict in verdicts(times(3000), values)} == {0.0}
    values[2500] = 45.5
    assert verdicts(times(3000), values)[2500].score > 0.99


def test_rounding_is_no_change() -> None:
    values = 0.1 * np.random.default_rng(0).integers(0, 2, 3000) * 1e-12 + 0.3
    assert alarms(verdicts(times(3000), values)) == []


def test_deviations_within_the_margin_are_none() -> None:
    at, values = flat(3000)
    values[2000] += 12.0
    assert 2000 in alarms(verdicts(at, values))
    assert alarms(verdicts(at, values, DetectorSettings(margin=20.0))) == []
    assert alarms(verdicts(at, values, DetectorSettings(margin_ratio=0.4))) == []


def test_times_that_stand_still_or_go_back_are_taken_as_they_come() -> None:
    at, values = flat(2000)
    shuffled = at.copy()
    shuffled[1000:1010] = at[1000]
    shuffled[1200:1210] = at[1200:1210][::-1]
    values[1500] += 40.0
    assert 1500 in alarms(verdicts(shuffled, values))


def test_windows_follow_the_step() -> None:
    _, values = flat(3000)
    values[2000] += 40.0
    for step_s in (1.0, 15.0, 60.0):
        assert 2000 in alarms(verdicts(times(3000, step_s), values))


def test_a_time_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="finite"):
        Detector().step(nan, 1.0)


def test_the_band_is_where_values_are_no_alarm_and_follows_the_day() -> None:
    at, values = daily(10)
    detector = Detector()
    outside = 0
    bands = []
    for row, (instant, value) in enumerate(zip(at.tolist(), values.tolist(), strict=True)):
        low, high = detector.band(instant)
        if row == 50:
            assert (low, high) == (-inf, inf)
        if row >= 5 * DAY_ROWS:
            outside += not low <= value <= high
            bands.append((low, high))
        detector.step(instant, value)
    assert outside <= 0.005 * len(bands)
    lows, highs = np.array(bands).T
    assert lows.max() > highs.min(), "the band at the peak lies over the band at night"


def test_json_and_copies_go_on_alike_and_apart() -> None:
    at, values = daily(8)
    values[7 * DAY_ROWS + 10] += 60.0
    half = 6 * DAY_ROWS + 37
    detector = Detector(DetectorSettings(margin=0.5))
    for row in zip(at[:half].tolist(), values[:half].tolist(), strict=True):
        detector.step(*row)
    text = json.dumps(detector.to_json(), allow_nan=False)
    others = Detector.from_json(json.loads(text)), detector.copy()
    rest = list(zip(at[half:].tolist(), values[half:].tolist(), strict=True))
    expected = [detector.step(*row) for row in rest]
    for other in others:
        assert json.dumps(other.to_json()) == text
        assert [other.step(*row) for row in rest] == expected
        assert other.to_json() == detector.to_json()


def test_the_state_is_of_bounded_size() -> None:
    sizes = []
    for days in (10, 40):
        detector = Detector()
        for row in zip(*(column.tolist() for column in daily(days)), strict=True):
            detector.step(*row)
        sizes.append(len(json.dumps(detector.to_json())))
    assert sizes[1] < 1.2 * sizes[0] < 80_000


def test_one_and_two_values_have_verdicts() -> None:
    detector = Detector()
    assert isnan(detector.expected(0.0))
    first, second = detector.step(0.0, 5.0), detector.step(STEP_S, 1e9)
    assert (first.score, second.score) == (0.0, 0.0)
    assert first.expected == 5.0
