"""How do the plots of a comparison look as pictures, for slides, tickets and readers without a browser?"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from policies.slo import ServiceObjective
from simulations.report_curves import Curve, RunCurves, Timeline
from simulations.report_looks import Look
from simulations.report_pareto import ParetoPlot, Point, label_of, nines

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
    if not math.isnan(point.hours_reach[0]):
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
    """Return a PNG with a row of plots per policy: capacity, replicas, waiting requests, missed requests."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    rows = len(line.runs)
    inches = 1.45 * rows + 1.2
    with mpl.rc_context({"font.size": 9.0, "font.family": "sans-serif"}):
        figure = Figure(figsize=(15.0, inches))
        figure.subplots_adjust(0.05, 0.55 / inches, 0.99, 1 - 0.85 / inches, 0.17, 0.32)
        axes = figure.subplots(rows, 4, squeeze=False, sharex=True, sharey="col")
        for row, run in enumerate(line.runs):
            _draw_run(list(axes[row]), run, line, looks[run.run.scorecard.policy], objective)
        for place, title in enumerate(_TITLES):
            axes[0][place].set_title(title, loc="left", fontsize=9.5, pad=16)
            axes[0][place].set_ylim(bottom=0.0)  # of the whole column, once all of it is drawn
            axes[0][place].margins(x=0.01)
            axes[-1][place].set_xlabel(f"{line.unit} from the start")
        figure.suptitle(_plain(trace), x=0.01, y=1 - 0.12 / inches, ha="left", va="top", fontsize=12)
        return _png(figure)


_TITLES = (
    "requests/s: demand (grey), ready capacity",
    "replicas: ready, asked for (thin)",
    "waiting requests",
    "missed requests, share of a minute's",
)


def _draw_run(axes: Sequence[Axes], run: RunCurves, line: Timeline, look: Look, objective: ServiceObjective) -> None:
    load, replicas, queue, missed = axes
    load.fill_between(line.demand.x, line.demand.y, step="post", color="#cccccc", linewidth=0)
    _draw(load, run.capacity, look.colour, 1.4)
    _draw(replicas, run.desired, "#666666", 0.6)
    _draw(replicas, run.ready, look.colour, 1.4)
    _draw(queue, run.queue, look.colour, 1.0)
    missed.fill_between(run.missed_ratio.x, run.missed_ratio.y, step="post", color=look.colour, linewidth=0, alpha=0.85)
    missed.axhline(1.0 - objective.attainment_ratio, color="#444444", linewidth=0.7, linestyle=(0, (4, 3)))
    missed.yaxis.set_major_formatter(lambda value, _place: f"{value:.0%}")
    card = run.run.scorecard
    words = f"{_plain(run.name)}: {card.slo_attainment_ratio:.2%} in time, {card.gpu_hours:,.1f} GPU hours"
    load.annotate(words, (0, 1), (0, 2), xycoords="axes fraction", textcoords="offset points", fontsize=8, va="bottom")
    load.texts[-1].set_fontweight("bold")
    for each in axes:
        _dress(each)


def _draw(axes: Axes, curve: Curve, colour: str, width: float) -> None:
    axes.plot(curve.x, curve.y, color=colour, linewidth=width, drawstyle="steps-post" if curve.stepped else "default")


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
