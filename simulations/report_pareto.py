"""Where does each policy stand between cost and attainment: the points of the Pareto plot, for a page or a picture?

Attainment is spaced by nines, for from 99 to 99.9 % is as long a way as from 90 to 99 %: a tenth of the misses.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from simulations.comparison import BOUND, SummaryRow
from simulations.intervals import Interval
from simulations.ranking import ranked
from simulations.report_labels import Place, placed

TICKS = (0.0, 0.5, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.998, 0.999, 0.9995, 0.9999, 0.99999)
"""Attainments at which there may be a line."""

_FEW = 8
"""So many points can all have their intervals drawn and still be told apart."""

_MARGIN_RATIO = 0.09
"""Room around the points, as a share of the plot: names need some."""


def nines(attainment_ratio: float, floor: float = 1e-6) -> float:
    """Return how many nines an attainment has; ``floor`` is the share of misses below which all count as the same.

    >>> [round(nines(a), 3) for a in (0.0, 0.9, 0.99, 1.0)]
    [0.0, 1.0, 2.0, 6.0]
    """
    return math.log10(1.0 / max(1.0 - attainment_ratio, floor))


@dataclass(frozen=True, slots=True)
class Point:
    """A row in the plot.

    Attributes:
        gpu_hours: Its mean, and ``height`` that of its attainment in nines.
        hours_reach: How far the interval of the mean goes down and up from there; NaN for a single run.
        height_reach: The same in nines.
        barred: Whether its intervals are drawn: where there are many points, only of those that matter most.
        faint: Beaten on both counts by somebody, and not the bound.
    """

    row: SummaryRow
    gpu_hours: float
    height: float
    hours_reach: tuple[float, float]
    height_reach: tuple[float, float]
    barred: bool
    faint: bool
    label: Place | None


@dataclass(frozen=True, slots=True)
class ParetoPlot:
    """Points of one trace, the front from cheap to dear, and what the axes span."""

    points: tuple[Point, ...]
    front: tuple[Point, ...]
    hours_span: tuple[float, float]
    height_span: tuple[float, float]

    @property
    def ticks(self) -> tuple[float, ...]:
        """Attainments with a line."""
        low, high = self.height_span
        return tuple(tick for tick in TICKS if low <= nines(tick) <= high)


def pareto_plot(rows: Sequence[SummaryRow], target_ratio: float, size: tuple[float, float]) -> ParetoPlot | None:
    """Return the plot of one trace's rows in a plot of ``size`` pixels; None when no row has both figures."""
    rows = [row for row in ranked(rows, target_ratio) if not math.isnan(_mean(row, "slo_attainment_ratio"))]
    if not rows:
        return None
    # Half a missed request: a policy that missed none stands a little above one that missed one.
    requests = max(_mean(row, "missed_requests") / max(1.0 - _mean(row, "slo_attainment_ratio"), 1e-9) for row in rows)
    floor = 0.5 / requests if requests >= 1 else 1e-4
    at = [(_mean(row, "gpu_hours"), nines(_mean(row, "slo_attainment_ratio"), floor)) for row in rows]
    heights = [height for _, height in at]
    hours_span = _span([hours for hours, _ in at])
    height_span = _span([*heights, nines(target_ratio)])
    pixels = [(_share(x, hours_span) * size[0], _share(y, height_span) * size[1]) for x, y in at]
    order = sorted(range(len(rows)), key=lambda i: (not _stands_out(rows[i]), i))
    sides = placed([pixels[i] for i in order], [_label(rows[i], rows) for i in order], size)
    labels = dict(zip(order, sides, strict=True))
    few = len(rows) <= _FEW
    points = tuple(_point(row, at[i], floor, labels[i], few) for i, row in enumerate(rows))
    front = sorted((point for point in points if point.row.on_front), key=lambda point: (point.gpu_hours, point.height))
    return ParetoPlot(points, tuple(front), hours_span, height_span)


def _point(row: SummaryRow, at: tuple[float, float], floor: float, label: Place | None, few: bool) -> Point:
    attained, hours = row.intervals["slo_attainment_ratio"], row.intervals["gpu_hours"]
    low, high = (nines(min(max(each, 0.0), 1.0), floor) if attained.known else math.nan for each in _ends(attained))
    return Point(
        row=row,
        gpu_hours=at[0],
        height=at[1],
        hours_reach=(hours.mean - hours.low, hours.high - hours.mean),
        height_reach=(at[1] - low, high - at[1]),
        barred=hours.known and (few or _stands_out(row)),
        faint=not row.on_front and row.policy != BOUND,
        label=label,
    )


def _ends(known: Interval) -> tuple[float, float]:
    return known.low, known.high


def _mean(row: SummaryRow, name: str) -> float:
    return row.figures[name].mean


def _stands_out(row: SummaryRow) -> bool:
    return row.policy in ("foresail", BOUND) or row.on_front


def _label(row: SummaryRow, rows: Sequence[SummaryRow]) -> str:
    """Return the name that its point gets: of a policy with many variants only those on the front have one."""
    first = next(each for each in rows if each.policy == row.policy)
    return row.name if row.on_front else row.policy if row is first else ""


def label_of(point: Point) -> str:
    """Return what stands beside a point that has room for it."""
    if point.label is None:
        return ""
    return point.row.name if point.row.on_front else point.row.policy


def _span(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    margin = (high - low) * _MARGIN_RATIO or max(abs(high) * 0.05, 0.05)
    return low - margin, high + margin


def _share(value: float, span: tuple[float, float]) -> float:
    return (value - span[0]) / (span[1] - span[0])
