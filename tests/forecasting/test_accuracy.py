"""Do the scores say what their formulas say?"""

from __future__ import annotations

import doctest
import math

import numpy as np
import pytest
from scipy.stats import norm

from forecasting import accuracy
from forecasting.accuracy import (
    coverage,
    crps,
    interval_coverage,
    normalised,
    pinball,
    pinball_losses,
    skill_vs_last_value,
    wape,
)


def test_pinball_charges_level_for_each_unit_above_and_its_complement_below() -> None:
    np.testing.assert_allclose(pinball_losses([10.0], [[8.0, 11.0]], [0.5, 0.9]), [[1.0, 0.1]])
    assert pinball([10.0], [[8.0, 11.0]], [0.5, 0.9]) == pytest.approx(0.55)


def test_the_true_quantile_has_the_least_pinball_loss() -> None:
    draws = np.random.default_rng(0).exponential(size=20_000)
    losses = {q: pinball(draws, np.full((len(draws), 1), q), [0.9]) for q in (1.8, -math.log(0.1), 2.8)}
    assert min(losses, key=losses.__getitem__) == -math.log(0.1)


def test_crps_of_normal_quantiles_is_near_the_closed_form() -> None:
    """CRPS of a standard normal at its mean is (sqrt(2) - 1) / sqrt(pi) = 0.2337 (Gneiting and Raftery, 2007)."""
    levels = np.linspace(0.005, 0.995, 199)
    assert crps([0.0], [norm.ppf(levels)], levels) == pytest.approx(0.2337, abs=0.003)


def test_crps_of_a_point_is_near_its_absolute_error_whatever_the_levels() -> None:
    levels = [0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.98]
    for miss in (-2.0, 2.0):
        # Seven levels stand for all: within a few percent.
        assert crps([miss], [[0.0] * 7], levels) == pytest.approx(2.0, rel=0.05)


def test_wape_weighs_by_load() -> None:
    assert wape([10.0, 90.0], [20.0, 90.0]) == pytest.approx(0.1)
    assert math.isnan(wape([0.0, 0.0], [1.0, 1.0]))


def test_coverage_counts_targets_on_the_bound() -> None:
    assert coverage([1.0, 2.0, 3.0, 4.0], [2.0] * 4) == 0.5
    assert interval_coverage([1.0, 2.0, 3.0, 4.0], [2.0] * 4, [3.0] * 4) == 0.5


def test_targets_that_were_not_observed_are_skipped_not_zero() -> None:
    actual = [np.nan, 4.0]
    assert pinball(actual, [[9.0], [2.0]], [0.5]) == 1.0
    assert wape(actual, [9.0, 5.0]) == 0.25
    assert coverage(actual, [0.0, 5.0]) == 1.0
    assert normalised(1.0, actual) == 0.25
    for score in (pinball([np.nan], [[1.0]], [0.5]), wape([np.nan], [1.0]), coverage([np.nan], [1.0])):
        assert math.isnan(score)


def test_skill_is_the_share_of_the_last_values_loss_that_is_saved() -> None:
    assert skill_vs_last_value(0.8, 1.0) == pytest.approx(0.2)
    assert skill_vs_last_value(2.0, 1.0) == -1.0
    assert math.isnan(skill_vs_last_value(1.0, 0.0))


def test_shapes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="shape"):
        pinball([1.0, 2.0], [[1.0], [2.0]], [0.1, 0.5])


def test_the_worked_examples_in_the_docstrings_hold() -> None:
    tried = doctest.testmod(accuracy)
    assert tried.attempted >= 2
    assert tried.failed == 0
