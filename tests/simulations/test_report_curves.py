"""Are curves thin enough for a screen, with every peak and dip still there, and policies told apart?"""

from __future__ import annotations

import doctest
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulations import intervals, pareto, provenance, report, report_pareto, report_pictures, report_thinning
from simulations.comparison import summarised
from simulations.report_curves import (
    MOST_POINTS,
    PAGE_POINTS,
    carried_by,
    first_seen,
    most_points,
    shown_runs,
    timeline,
    waiting,
)
from simulations.report_labels import CHARACTER_WIDTH, placed
from simulations.report_looks import looks
from simulations.report_thinning import thinned, without_repeats
from simulations.scorecard import TimelinePoint
from tests.builders_report import TWENTY, a_long_run, a_run

SERIES = st.lists(st.one_of(st.floats(-1e6, 1e6), st.just(math.nan)), min_size=1, max_size=400)


@given(SERIES, st.integers(8, 60))
def test_a_thinned_curve_keeps_its_ends_its_peak_its_dip_and_its_order(values: list[float], most: int) -> None:
    x, y = thinned(range(len(values)), values, most)
    assert len(x) <= most
    assert (x[0], x[-1]) == (0, len(values) - 1)
    assert (np.diff(x) > 0).all()
    np.testing.assert_array_equal(y, np.array(values)[x.astype(int)])
    if not np.isnan(values).all():
        assert (np.nanmin(y), np.nanmax(y)) == (np.nanmin(values), np.nanmax(values))
    assert np.isnan(y).any() == np.isnan(values).any()


def test_a_spike_of_one_tick_in_three_days_is_still_there() -> None:
    values = np.zeros(17_280)
    values[9_999] = 7.0
    x, y = thinned(np.arange(17_280), values, 1_000)
    assert len(x) <= 1_000
    assert y[x == 9_999] == 7.0


@given(st.lists(st.one_of(st.integers(0, 3).map(float), st.just(math.nan)), min_size=1, max_size=60))
def test_a_step_curve_without_repeats_is_the_same_curve(values: list[float]) -> None:
    x, y = without_repeats(range(len(values)), values)
    held = [y[np.searchsorted(x, at, side="right") - 1] for at in range(len(values))]
    np.testing.assert_array_equal(held, values)


def test_a_page_of_twenty_policies_over_days_stays_within_its_points() -> None:
    rng = np.random.default_rng(0)
    run = a_long_run("hpa", 0, "t.csv", 3.0, rng)
    most = most_points(40)
    line = timeline([run], most)
    drawn = line.runs[0]
    shown = (drawn.capacity, drawn.ready, drawn.queue, drawn.missed_ratio, drawn.ttft_p95)
    assert sum(len(curve.x) for curve in shown) * 40 <= PAGE_POINTS
    assert drawn.queue.y.max() == max(point.queued_requests for point in run.timeline)
    assert drawn.missed_ratio.y.max() == pytest.approx(1.0 - min(run.curves.within_ratio))
    assert line.unit == "hours"
    assert most_points(1) == MOST_POINTS


def test_requests_wait_at_the_gateway_and_in_engines() -> None:
    def point(queued: float, held: float) -> float:
        return waiting(TimelinePoint(0.0, 1, 1, 0, 1, "", (), queued, held))

    assert (point(2.0, 3.0), point(2.0, math.nan), point(math.nan, 3.0)) == (5.0, 2.0, 3.0)
    assert math.isnan(point(math.nan, math.nan))


def test_a_policy_is_shown_by_its_first_seed() -> None:
    runs = [a_run("hpa", 4), a_run("hpa", 3), a_run("foresail", 3)]
    assert [(run.scorecard.policy, run.seed) for run in shown_runs(summarised(runs), runs)] == [
        ("hpa", 3), ("foresail", 3),
    ]  # fmt: skip


def test_few_policies_are_all_seen_first_and_of_many_those_that_matter() -> None:
    assert first_seen(TWENTY[:4]) == set(TWENTY[:4])
    seen = first_seen(TWENTY)
    assert {"foresail", "hpa", "clairvoyant"} <= seen
    assert len(seen) == 5


def test_twenty_policies_have_twenty_looks_and_foresail_its_own() -> None:
    drawn = looks(TWENTY)
    assert len({(look.colour, look.dash) for look in drawn.values()}) == 20
    assert len({(look.colour, look.marker) for look in drawn.values()}) == 20
    assert drawn["foresail"].width == max(look.width for look in drawn.values())
    assert [policy for policy in TWENTY if drawn[policy].marker == "*"] == ["foresail"]


def luminance(colour: str) -> float:
    channels = (int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
    linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_every_colour_can_be_seen_on_white_and_on_black() -> None:
    paper, night = luminance("#ffffff"), luminance("#14171c")
    for look in looks(TWENTY).values():
        own = luminance(look.colour)
        assert (paper + 0.05) / (own + 0.05) > 2.4, look.colour  # lines of 2 px and more, beside a name
        assert (own + 0.05) / (night + 0.05) > 2.4, look.colour


# ---- names beside points


def test_names_go_where_they_cover_nothing_and_stay_away_where_there_is_no_room() -> None:
    points = [(100.0, 100.0), (112.0, 108.0), (112.0, 92.0), (88.0, 108.0), (88.0, 92.0), (100.0, 100.0)]
    sides = placed(points, ["first", "second", "third", "fourth", "fifth", "hidden"], (200.0, 200.0))
    assert sides[0] is None
    assert all(side is not None for side in sides[1:5])


def test_names_stay_within_the_plot() -> None:
    wide = "a name of some length"
    assert len(wide) * CHARACTER_WIDTH < 150
    (side,) = placed([(195.0, 195.0)], [wide], (200.0, 200.0))
    assert side is not None
    assert side.across == -1
    assert placed([(100.0, 100.0)], ["x" * 80], (200.0, 200.0)) == [None]


@pytest.mark.parametrize(
    "module", [intervals, pareto, provenance, report, report_pareto, report_pictures, report_thinning],
    ids=lambda module: module.__name__,
)  # fmt: skip
def test_examples_in_docstrings_hold(module: object) -> None:
    tried = doctest.testmod(module)  # type: ignore[arg-type]  # a module
    assert tried.attempted > 0
    assert tried.failed == 0


def test_of_two_stages_the_one_that_carries_least_is_the_capacity() -> None:
    carried = {"m/p/prefill": 5.0, "m/q/prefill": 3.0, "m/d/decode": 80.0}
    assert carried_by([("m/p/prefill", 2), ("m/q/prefill", 1), ("m/d/decode", 1)], carried) == 13.0
    assert carried_by([("m/p/prefill", 2)], carried) == 0.0
    assert carried_by([("m/a/unified", 2), ("m/b/unified", 1)], {"m/a/unified": 2.0, "m/b/unified": 7.0}) == 11.0
