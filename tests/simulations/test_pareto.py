"""Is the front the front, and the plot's points where they belong?"""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulations.comparison import summarised
from simulations.pareto import on_front
from simulations.report_pareto import label_of, nines, pareto_plot
from tests.builders_report import TWENTY, a_run

POINTS = st.lists(st.tuples(st.integers(0, 6).map(float), st.integers(0, 6).map(float)), max_size=12)


def beats(one: tuple[float, float], other: tuple[float, float]) -> bool:
    return one[0] <= other[0] and one[1] >= other[1] and one != other


@given(POINTS)
def test_a_point_is_on_the_front_unless_another_beats_it(points: list[tuple[float, float]]) -> None:
    assert on_front(points) == [not any(beats(other, point) for other in points) for point in points]


def test_a_point_without_a_figure_is_on_no_front_and_beats_nothing() -> None:
    assert on_front([(math.nan, 1.0), (5.0, math.nan), (9.0, 0.5)]) == [False, False, True]


def test_the_bound_beats_nobody_and_variants_compete() -> None:
    runs = [
        a_run("clairvoyant", gpu_hours=5.0, slo_attainment_ratio=0.999),
        a_run("foresail", gpu_hours=8.0, slo_attainment_ratio=0.995),
        a_run("hpa", gpu_hours=9.0, slo_attainment_ratio=0.99),
        a_run("hpa", trace="other.csv", gpu_hours=9.0, slo_attainment_ratio=0.99),
    ]
    assert [row.on_front for row in summarised(runs)] == [False, True, False, True]


@pytest.mark.parametrize(("share", "height"), [(0.9, 1.0), (0.999, 3.0), (1.0, 4.0)])
def test_heights_are_nines_and_perfection_is_not_infinitely_high(share: float, height: float) -> None:
    assert nines(share, floor=1e-4) == pytest.approx(height)


def test_every_point_is_within_the_axes_and_names_cover_no_point() -> None:
    runs = [
        a_run(policy, gpu_hours=10.0 + 1.7 * (i % 7), slo_attainment_ratio=0.97 + 0.0015 * i, missed_requests=30 - i)
        for i, policy in enumerate(TWENTY)
    ]
    plot = pareto_plot(summarised(runs), 0.99, (900.0, 400.0))
    assert plot is not None
    assert len(plot.points) == 20
    for point in plot.points:
        assert plot.hours_span[0] < point.gpu_hours < plot.hours_span[1]
        assert plot.height_span[0] < point.height < plot.height_span[1]
    assert plot.height_span[0] < nines(0.99) < plot.height_span[1]
    named = [label_of(point) for point in plot.points if label_of(point)]
    assert {"foresail", "clairvoyant"} <= set(named)
    assert len(named) > 15


def test_rows_without_attainment_make_no_plot() -> None:
    assert pareto_plot(summarised([a_run(slo_attainment_ratio=math.nan)]), 0.99, (900.0, 400.0)) is None


def test_a_single_point_has_axes_around_it() -> None:
    plot = pareto_plot(summarised([a_run(gpu_hours=0.0)]), 0.99, (900.0, 400.0))
    assert plot is not None
    assert plot.hours_span[0] < 0.0 < plot.hours_span[1]
