"""Are intervals Student's, differences paired, and is nothing sure after one run?"""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from simulations.intervals import interval
from simulations.versus import versus
from tests.builders_report import a_card


def test_the_interval_is_the_one_in_the_book() -> None:
    found = interval([1.0, 2.0, 3.0])
    assert (found.mean, found.runs) == (2.0, 3)
    assert found.high - found.mean == pytest.approx(4.302653 / math.sqrt(3), rel=1e-6)  # t at 0.975 with 2 degrees


def test_the_interval_agrees_with_scipy_for_any_number_of_runs() -> None:
    values = np.random.default_rng(0).normal(5.0, 2.0, 40)
    for count in (2, 3, 10, 40):
        known = interval(values[:count].tolist())
        low, high = stats.t.interval(0.95, count - 1, np.mean(values[:count]), stats.sem(values[:count]))
        assert (known.low, known.high) == pytest.approx((low, high))


@pytest.mark.parametrize("values", [[], [4.0], [4.0, math.nan]], ids=str)
def test_fewer_than_two_runs_have_no_interval_and_are_sure_of_nothing(values: list[float]) -> None:
    found = interval(values)
    assert not found.known
    assert not found.above_zero
    assert not found.below_zero
    assert math.isnan(found.low)
    assert found.runs == len([value for value in values if value == 4.0])


def test_an_interval_that_holds_zero_is_on_no_side_of_it() -> None:
    assert not interval([-1.0, 2.0, 0.5]).above_zero
    assert interval([1.0, 1.1, 0.9]).above_zero
    assert interval([-1.0, -1.1, -0.9]).below_zero


def test_differences_are_taken_seed_by_seed() -> None:
    """Seeds differ by tens of GPU hours, the policies by one: paired, that is beyond doubt."""
    mine = {seed: a_card(gpu_hours=hours - 1.0) for seed, hours in enumerate((10.0, 40.0, 70.0))}
    base = {seed: a_card(gpu_hours=hours) for seed, hours in enumerate((10.0, 40.0, 70.0))}
    found = versus("hpa", mine, base)
    assert found is not None
    assert (found.gpu_hours.mean, found.gpu_hours.low, found.gpu_hours.high) == (-1.0, -1.0, -1.0)
    assert found.gpu_hours_ratio.mean == pytest.approx(-(1 / 10 + 1 / 40 + 1 / 70) / 3)


def test_only_seeds_that_both_ran_are_compared() -> None:
    mine, base = {0: a_card(missed_requests=5), 1: a_card(missed_requests=9)}, {1: a_card(missed_requests=4)}
    found = versus("hpa", mine, base)
    assert found is not None
    assert (found.missed_requests.mean, found.missed_requests.runs) == (5.0, 1)
    assert versus("hpa", {0: a_card()}, base) is None
