"""How do the plots of a comparison look as pictures, for slides, tickets and readers without a browser?"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from policies.slo import ServiceObjective
from simulations.report_curves import Curve, RunCurves, Timeline
from simulations.report_looks import Look
from simulations.report_pareto import ParetoPlot, Point, label_of, nines
from simulations.tables import gpu_hours, percent

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PARETO_SIZE = (790.0, 390.0)
"""The plot within the axes, in pixels at 100 per inch; names are placed for it."""

PARETO = "pareto.png"
_DPI = 110
_LABEL_AT = {-1: ("right", "top"), 0: ("center", "center"), 1: ("left", "bottom")}


def picture_names(traces: Sequence[str]) -> dict[str, str]:
    """Return the file name of each trace's timeline, safe on any system; no two are the same.

    >>> picture_names(["azure.csv", "a/azure.csv", "a azure.csv"])
    {'azure.csv': 'timeline-azure.csv.png', 'a/azure.csv': 'timeline-a-azure.csv.png', \
'a azure.csv': 'timeline-a-azure.csv-2.png'}
    """
    names: dict[str, str] = {}
    for trace in traces:
        stem = re.sub(r"[^A-Za-z0-9._-]+", "-", trace)[-80:].strip("-.") or "trace"
        taken = set(names.values())
        tries = (f"timeline-{stem}{'' if turn == 1 else f'-{turn}'}.png" for turn in range(1, len(traces) + 2))
        names[trace] = next(name for name in tries if name.lower() not in {each.lower() for each in taken})
    return names


def pareto_picture(plots: Mapping[str, ParetoPlot], looks: Mapping[str, Look], target_ratio: float) -> bytes:
    """Return a PNG with GPU hours against attainment, a panel per trace."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context({"font.size": 9.0, "font.family": "sans-serif"}):
        figure = Figure(figsize=(9.0, 4.9 * max(1, len(plots))), layout="constrained")
        for number, (trace, plot) in enumerate(plots.items()):
            axes = figure.add_subplot(len(plots), 1, number + 1)
            _draw_pareto(axes, plot, looks, target_ratio)
            axes.set_title(_plain(trace), loc="left", fontsize=11)
        return _png(figure)


def _draw_pareto(axes: Axes, plot: ParetoPlot, looks: Mapping[str, Look], target_ratio: float) -> None:
    front = plot.front
    axes.step(
        [p.gpu_hours for p in front], [p.height for p in front], where="post", color="#888888", linewidth=1.3, zorder=1
    )
    for point in plot.points:
        _draw_point(axes, point, looks[point.row.policy])
    axes.axhline(nines(target_ratio), color="#444444", linewidth=0.8, linestyle=(0, (4, 3)))
    words = f"objective {target_ratio * 100:g}%"
    at = (1.0, nines(target_ratio))
    axes.annotate(words, at, (-4, 3), xycoords=("axes fraction", "data"), textcoords="offset points", ha="right")
    axes.set_xlim(plot.hours_span)
    axes.set_ylim(plot.height_span)
    axes.set_yticks([nines(tick) for tick in plot.ticks], [f"{tick * 100:g}%" for tick in plot.ticks])
    axes.set_xlabel("GPU hours (fewer is better)")
    axes.set_ylabel("within the objective")
    _dress(axes)


def _draw_point(axes: Axes, point: Point, look: Look) -> None:
    bold = look.marker == "*"
    alpha = 1.0 if bold or not point.faint else 0.45
    size = 15.0 if bold else 6.0 if point.faint else 8.5
    at = (point.gpu_hours, point.height)
    if point.barred:
        reach = [[max(0.0, each)] for each in point.hours_reach], [[max(0.0, each)] for each in point.height_reach]
        axes.errorbar(*at, xerr=reach[0], yerr=reach[1], color=look.colour, elinewidth=0.7, alpha=alpha * 0.6, zorder=2)
    axes.plot(*at, marker=look.marker, color=look.colour, markersize=size, alpha=alpha, linestyle="none", zorder=3)
    side, text = point.label, label_of(point)
    if side is not None and text:
        across, up = _LABEL_AT[side.across][0], _LABEL_AT[side.up][1]
        off = (6.5 * side.across, 5.5 * side.up)
        weight = "bold" if bold else "normal"
        axes.annotate(_plain(text), at, off, textcoords="offset points", ha=across, va=up, fontweight=weight)


def timeline_picture(trace: str, line: Timeline, looks: Mapping[str, Look], objective: ServiceObjective) -> bytes:
    """Return a PNG with a strip per policy: capacity, replicas, waiting requests, missed requests.

    All strips of a column are one plot to one scale, since twenty times four plots would take a minute to draw.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    inches = 1.35 * len(line.runs) + 1.3
    with mpl.rc_context({"font.size": 9.0, "font.family": "sans-serif"}):
        figure = Figure(figsize=(15.0, inches))
        figure.subplots_adjust(0.05, 0.55 / inches, 0.99, 1 - 0.75 / inches, 0.17)
        for axes, column in zip(figure.subplots(1, 4), _COLUMNS, strict=True):
            _draw_column(axes, column, line, looks, objective)
        figure.suptitle(_plain(trace), x=0.01, y=1 - 0.12 / inches, ha="left", va="top", fontsize=12)
        return _png(figure)


@dataclass(frozen=True, slots=True)
class _Column:
    """A column of strips: which curves, how its heights are written, and whether the main curve is filled."""

    title: str
    main: Callable[[RunCurves], Curve]
    other: Callable[[RunCurves], Curve] | None = None
    form: str = "{:,.3g}"
    filled: bool = False


_COLUMNS = (
    _Column("requests/s: demand (grey), ready capacity", lambda run: run.capacity),
    _Column("replicas: ready, asked for (thin)", lambda run: run.ready, lambda run: run.desired),
    _Column("waiting requests", lambda run: run.queue),
    _Column("missed requests, share of a minute's", lambda run: run.missed_ratio, form="{:.3g}", filled=True),
)
_STRIP = 0.74
"""Height of a strip, in distances from one to the next."""


def _draw_column(
    axes: Axes, column: _Column, line: Timeline, looks: Mapping[str, Look], objective: ServiceObjective
) -> None:
    curves = [curve for run in line.runs for curve in (column.main(run), column.other and column.other(run)) if curve]
    first, last = column is _COLUMNS[0], column is _COLUMNS[-1]
    top = max((_highest(curve) for curve in [*curves, *([line.demand] if first else [])]), default=0.0) or 1.0
    ticks, labels = [], []
    for place, run in enumerate(line.runs):
        base = float(len(line.runs) - 1 - place)
        look = looks[run.run.scorecard.policy]
        if first:
            _fill(axes, line.demand, base, top, "#cccccc")
            _name_strip(axes, run, base)
        if column.other is not None:
            _draw(axes, column.other(run), base, top, "#555555", 0.6)
        draw = _fill if column.filled else _draw
        draw(axes, column.main(run), base, top, look.colour)
        if last:
            at = base + min(1.0, (1.0 - objective.attainment_ratio) / top) * _STRIP
            axes.axhline(at, color="#444444", linewidth=0.6, linestyle=(0, (4, 3)))
        axes.axhline(base, color="#444444", linewidth=0.6)
        ticks += [base, base + _STRIP]
        labels += ["0", f"{100 * top:.3g}%" if last else column.form.format(top)]
    axes.set_title(column.title, loc="left", fontsize=9.5)
    axes.set_yticks(ticks, labels)
    axes.set_ylim(-0.02, len(line.runs))
    axes.set_xlabel(f"{line.unit} from the start")
    axes.margins(x=0.01)
    _dress(axes)


def _name_strip(axes: Axes, run: RunCurves, base: float) -> None:
    card = run.run.scorecard
    words = f"{_plain(run.name)}: {percent(card.slo_attainment_ratio)}, {gpu_hours(card.gpu_hours)} GPU hours"
    axes.annotate(
        words, (0.0, base + _STRIP), (2, 2), xycoords=("axes fraction", "data"), textcoords="offset points",
        fontweight="bold", fontsize=7.5,
    )  # fmt: skip


def _highest(curve: Curve) -> float:
    finite = curve.y[np.isfinite(curve.y)]
    return float(finite.max()) if len(finite) else 0.0


def _draw(axes: Axes, curve: Curve, base: float, top: float, colour: str, width: float = 1.3) -> None:
    style = "steps-post" if curve.stepped else "default"
    axes.plot(curve.x, base + curve.y / top * _STRIP, color=colour, linewidth=width, drawstyle=style)


def _fill(axes: Axes, curve: Curve, base: float, top: float, colour: str) -> None:
    axes.fill_between(curve.x, base, base + curve.y / top * _STRIP, step="post", color=colour, linewidth=0.4)


def _dress(axes: Axes) -> None:
    axes.grid(visible=True, color="#e6e6e6", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _plain(text: str) -> str:
    """Return text without what matplotlib would take for a formula, nor what cannot be drawn."""
    printable = "".join(c if c.isprintable() and not "\ud800" <= c <= "\udfff" else "?" for c in text)
    return printable.replace("$", r"\$")


def _png(figure: Figure) -> bytes:
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=_DPI, metadata={"Software": None})
    return out.getvalue()
