"""Is the time to recover what the definition says, minute by minute?"""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest

from simulations.recovery import MissedSpell, missed_spells, recovery_from, with_recovery
from simulations.scorecard import CURVE_LEVELS, Curves
from tests.builders_report import a_card

TARGET = 0.99
NAN = math.nan


def curves(within: Sequence[float], requests_per_s: float | Sequence[float] = 10.0) -> Curves:
    rates = [requests_per_s] * len(within) if isinstance(requests_per_s, float) else requests_per_s
    return Curves(tuple(rates), (NAN,) * len(within), tuple(within), (NAN,) * len(CURVE_LEVELS))


def spells(within: Sequence[float], requests_per_s: float | Sequence[float] = 10.0) -> tuple[MissedSpell, ...]:
    return missed_spells(curves(within, requests_per_s), 60.0 * len(within), TARGET)


WORKED = (1.0, 0.9, 0.0, 0.6, 1.0, 1.0, 1.0, 1.0, 1.0)


def test_the_worked_example_takes_three_minutes() -> None:
    assert spells(WORKED) == (MissedSpell(60.0, 240.0, True),)
    assert spells(WORKED)[0].length_s == 180.0


def test_a_spell_is_over_when_misses_end_not_when_they_are_forgotten() -> None:
    assert spells((1.0, 0.0, *(1.0,) * 9))[0].length_s == 60.0


def test_a_poor_minute_in_a_good_window_begins_no_spell() -> None:
    assert spells((1.0, 0.96, 1.0, 1.0, 1.0, 1.0, 1.0)) == ()  # 99.2 % over five minutes


def test_two_bursts_within_a_window_are_one_spell_and_beyond_it_two() -> None:
    near = (0.5, 1.0, 1.0, 0.5, 1.0, 1.0, 1.0, 1.0, 1.0)
    far = (0.5, *(1.0,) * 6, 0.5, *(1.0,) * 6)
    assert [spell.length_s for spell in spells(near)] == [240.0]
    assert [spell.began_s for spell in spells(far)] == [0.0, 420.0]


def test_minutes_weigh_by_their_requests() -> None:
    busy_is_good = spells((0.5, 1.0, 1.0, 1.0, 1.0), [1.0, 1000.0, 1000.0, 1000.0, 1000.0])
    busy_is_bad = spells((1.0, 0.98, 1.0, 1.0, 1.0, 1.0), [1.0, 1000.0, 1.0, 1.0, 1.0, 1.0])
    assert busy_is_good == ()
    assert len(busy_is_bad) == 1


def test_misses_until_the_end_have_not_recovered() -> None:
    found = missed_spells(curves((1.0, 1.0, 0.5, 0.5)), 230.0, TARGET)
    assert found == (MissedSpell(120.0, 230.0, False),)


def test_minutes_without_requests_neither_miss_nor_recover() -> None:
    quiet = (NAN,) * 6
    assert spells(quiet, [0.0] * 6) == ()
    lasting = (0.5, *quiet, 1.0, 1.0)
    assert spells(lasting, [10.0, *(0.0,) * 6, 10.0, 10.0]) == (MissedSpell(0.0, 180.0, True),)


def test_a_fault_that_is_absorbed_takes_no_time_and_one_that_is_not_takes_until_it_is_good_again() -> None:
    assert recovery_from(130.0, curves((1.0,) * 8), 480.0, TARGET) == 0.0
    assert recovery_from(90.0, curves(WORKED), 540.0, TARGET) == 150.0  # from second 90 to minute 4
    assert recovery_from(90.0, curves((1.0, 0.5, 0.5)), 170.0, TARGET) == 80.0  # to the end


def test_a_fault_after_which_nothing_arrives_says_nothing() -> None:
    assert math.isnan(recovery_from(70.0, curves((1.0, NAN, NAN), [5.0, 0.0, 0.0]), 180.0, TARGET))


def test_the_scorecard_gets_the_longest_the_mean_and_what_followed_faults() -> None:
    within = (*WORKED, *(1.0,) * 4, 0.0, *(1.0,) * 5)
    card = with_recovery(a_card(simulated_s=1140.0), curves(within), TARGET, [70.0, 620.0])
    assert (card.missed_spells, card.recovered) == (2, True)
    assert (card.time_to_recover_longest_s, card.time_to_recover_mean_s) == (180.0, 120.0)
    assert card.fault_to_recover_longest_s == 220.0  # the one at 620 s: minute 14 is the next good one


def test_a_run_that_never_missed_has_no_time_to_recover() -> None:
    card = with_recovery(a_card(simulated_s=300.0), curves((1.0,) * 5), TARGET, [])
    assert (card.missed_spells, card.recovered) == (0, True)
    assert math.isnan(card.time_to_recover_longest_s)
    assert math.isnan(card.time_to_recover_mean_s)
    assert math.isnan(card.fault_to_recover_longest_s)
    assert card.as_json()["fault_to_recover_longest_s"] is None


@pytest.mark.parametrize("length_s", [61.0, 100.0])
def test_a_last_minute_cut_short_counts_its_own_requests(length_s: float) -> None:
    found = missed_spells(curves((1.0, 0.0), [10.0, 10.0]), length_s, TARGET)
    assert found == (MissedSpell(60.0, length_s, False),)
