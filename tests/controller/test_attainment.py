"""Is the share within the objective what the histograms say, and no more?"""

from __future__ import annotations

import doctest
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller import attainment
from controller.attainment import bounds_around, joint_share, share_within

BOUNDS = ("0.5", "1.0", "2.5", "+Inf")


def test_docstrings_show_what_happens() -> None:
    assert doctest.testmod(attainment).failed == 0


def test_a_limit_on_a_bound_needs_only_that_bound() -> None:
    assert bounds_around(1.0, BOUNDS) == ("1.0", "+Inf")


def test_beyond_the_last_finite_bound_nothing_is_taken_to_be_within() -> None:
    assert bounds_around(9.0, BOUNDS) == ("2.5", "+Inf")
    assert share_within(9.0, {2.5: 90.0, math.inf: 100.0}) == pytest.approx(0.9)


def test_below_the_first_bound_observations_are_spread_from_zero() -> None:
    assert share_within(0.25, {0.5: 80.0, math.inf: 100.0}) == pytest.approx(0.4)


def test_without_observations_there_is_no_share() -> None:
    assert math.isnan(share_within(1.0, {0.5: 0.0, math.inf: 0.0}))
    assert math.isnan(share_within(1.0, {}))


def test_a_lower_bucket_that_extrapolation_made_larger_does_no_harm() -> None:
    assert share_within(2.0, {1.0: 100.2, 2.5: 100.1, math.inf: 100.1}) == 1.0


def test_the_joint_share_is_what_holds_at_worst() -> None:
    assert joint_share(0.99, 0.98) == pytest.approx(0.97)
    assert joint_share(0.4, 0.5) == 0.0
    assert joint_share(math.nan, 0.98) == 0.98
    assert joint_share(0.98, math.nan) == 0.98
    assert math.isnan(joint_share(math.nan, math.nan))


@given(st.lists(st.tuples(st.floats(0.0, 5.0), st.floats(0.0, 1.0)), min_size=1, max_size=200))
def test_the_joint_share_never_promises_more_than_was_kept(requests: list[tuple[float, float]]) -> None:
    ttft, tpot = 2.0, 0.1
    both = sum(a <= ttft and b <= tpot for a, b in requests) / len(requests)
    shares = (sum(a <= ttft for a, _ in requests) / len(requests), sum(b <= tpot for _, b in requests) / len(requests))
    assert joint_share(*shares) <= both + 1e-9
