"""What do the interactive plots of a page consist of, in plotly's own words (``data`` and ``layout``)?

Figures are plain dictionaries: the page draws them with the script it carries, and the browser adds colours of paper,
ink and grid, which depend on the reader's light or dark mode. Names from outside are escaped, since plotly reads a few
HTML tags in texts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape
from typing import Any

import numpy as np

from policies.slo import ServiceObjective
from simulations.comparison import SummaryRow
from simulations.job import RunReport
from simulations.report_curves import Curve, RunCurves, Timeline
from simulations.report_looks import Look
from simulations.report_pareto import ParetoPlot, Point, label_of, nines
from simulations.scorecard import CURVE_LEVELS
from simulations.tables import gpu_hours, percent

Figure = dict[str, Any]

PARETO_SIZE = (980.0, 400.0)
"""The plot within the axes, in pixels, on a wide screen; names are placed for it."""

_GREY, _PALE = "rgba(128,128,128,0.9)", "rgba(128,128,128,0.28)"
_SYMBOLS = {
    "o": "circle", "*": "star", "D": "diamond", "s": "square", "P": "cross", "^": "triangle-up", "v": "triangle-down",
    "X": "x", "p": "pentagon", "<": "triangle-left", ">": "triangle-right", "h": "hexagon", "d": "diamond-tall",
}  # fmt: skip
_MARGIN = {"l": 62, "r": 14, "t": 28, "b": 44}


def pareto_figure(plot: ParetoPlot, looks: Mapping[str, Look], target_ratio: float) -> Figure:
    """Return GPU hours against attainment, a trace per policy, with the front and the objective."""
    policies = dict.fromkeys(point.row.policy for point in plot.points)
    points = [_points([p for p in plot.points if p.row.policy == policy], looks[policy]) for policy in policies]
    layout = {
        "margin": {**_MARGIN, "l": 74},
        "hovermode": "closest",
        "showlegend": False,
        "xaxis": {"title": {"text": "GPU hours (fewer is better)"}, "range": list(plot.hours_span)},
        "yaxis": {
            "title": {"text": "within the objective"},
            "range": list(plot.height_span),
            "tickvals": [nines(tick) for tick in plot.ticks],
            "ticktext": [f"{tick * 100:g}%" for tick in plot.ticks],
        },
        **_lines([("y", nines(target_ratio), f"objective {target_ratio * 100:g}%")]),
    }
    return {"data": [_front(plot), *points], "layout": layout}


def _front(plot: ParetoPlot) -> Figure:
    return {
        "type": "scatter", "mode": "lines", "name": "Pareto front", "hoverinfo": "skip",
        "x": _numbers(point.gpu_hours for point in plot.front), "y": _numbers(point.height for point in plot.front),
        "line": {"color": _GREY, "width": 1.5, "shape": "hv"},
    }  # fmt: skip


def _points(points: Sequence[Point], look: Look) -> Figure:
    policy = points[0].row.policy
    figure: Figure = {
        "type": "scatter", "mode": "markers+text", "name": escape(policy), "meta": policy,
        "x": _numbers(p.gpu_hours for p in points), "y": _numbers(p.height for p in points),
        "text": [escape(label_of(p)) for p in points],
        "textposition": [p.label.name if p.label else "middle right" for p in points],
        "hovertext": [_hover(p.row) for p in points], "hoverinfo": "text",
        "marker": {
            "color": look.colour, "symbol": _SYMBOLS[look.marker],
            "size": [17 if look.marker == "*" else 9 if p.faint else 12 for p in points],
            "opacity": [0.45 if p.faint and look.marker != "*" else 1.0 for p in points],
            "line": {"width": 1, "color": look.colour},
        },
    }  # fmt: skip
    if any(p.barred for p in points):
        none = (math.nan, math.nan)
        figure["error_x"] = _error([p.hours_reach if p.barred else none for p in points], look)
        figure["error_y"] = _error([p.height_reach if p.barred else none for p in points], look)
    return figure


def _error(reaches: Sequence[tuple[float, float]], look: Look) -> Figure:
    return {
        "type": "data", "symmetric": False, "color": look.colour + "99", "thickness": 1, "width": 2,
        "array": _numbers(high for _, high in reaches), "arrayminus": _numbers(low for low, _ in reaches),
    }  # fmt: skip


def _hover(row: SummaryRow) -> str:
    hours, attained = row.intervals["gpu_hours"], row.intervals["slo_attainment_ratio"]
    lines = [f"<b>{escape(row.name)}</b>", f"within the objective {percent(attained.mean)}"]
    if attained.known:
        lines[-1] += f" (95% interval {percent(attained.low)} to {percent(min(attained.high, 1.0))})"
    lines.append(f"GPU hours {gpu_hours(hours.mean)}")
    if hours.known:
        lines[-1] += f" ({gpu_hours(hours.low)} to {gpu_hours(hours.high)})"
    lines.append(f"US$ {row.figures['cost_usd'].mean:,.0f}")
    lines.append("one run, no interval" if row.runs == 1 else f"{row.runs} seeds")
    return "<br>".join(lines)


_ROWS: tuple[tuple[str, str, Callable[[RunCurves], Curve]], ...] = (
    ("Demand (grey) and ready capacity", "requests/s", lambda run: run.capacity),
    ("Ready replicas", "replicas", lambda run: run.ready),
    ("Waiting requests, at the gateway and in engines", "requests", lambda run: run.queue),
    ("SLO misses, share of the requests of a minute", "missed", lambda run: run.missed_ratio),
    ("TTFT P95 of a minute", "seconds", lambda run: run.ttft_p95),
)
_ROW_GAP = 0.055


def timeline_figure(
    line: Timeline, looks: Mapping[str, Look], objective: ServiceObjective, visible: set[str]
) -> Figure:
    """Return five plots above each other, over one time axis, a trace per policy in each."""
    height = (1.0 - _ROW_GAP * (len(_ROWS) - 1)) / len(_ROWS)
    layout: Figure = {
        "margin": _MARGIN, "hovermode": "x unified", "showlegend": False, "annotations": [], "shapes": [],
        "xaxis": {"title": {"text": f"{line.unit} from the start"}, "anchor": f"y{len(_ROWS)}"},
    }  # fmt: skip
    data: list[Figure] = [
        {
            "type": "scatter", "mode": "lines", "name": "demand", "x": _numbers(line.demand.x),
            "y": _numbers(line.demand.y), "yaxis": "y",
            "line": {"shape": "hv", "width": 0, "color": _PALE}, "fill": "tozeroy", "fillcolor": _PALE,
        }
    ]  # fmt: skip
    for place, (title, unit, curve_of) in enumerate(_ROWS):
        axis = "y" if place == 0 else f"y{place + 1}"
        top = 1.0 - place * (height + _ROW_GAP)
        layout[axis.replace("y", "yaxis")] = {
            "domain": [max(0.0, top - height), top], "title": {"text": unit}, "rangemode": "tozero",
        }  # fmt: skip
        layout["annotations"].append(_title(title, top))
        data += [_curve(run, curve_of(run), axis, looks, visible) for run in line.runs]
    layout["yaxis4"] |= {"tickformat": ".0%"}
    layout["yaxis5"] |= {"type": "log", "dtick": "D2"}
    missed = 1.0 - objective.attainment_ratio
    marks = _lines([("y4", missed, ""), ("y5", objective.ttft_s, f"objective {objective.ttft_s:g} s")])
    layout["shapes"] += marks["shapes"]
    return {"data": data, "layout": layout}


def _curve(run: RunCurves, curve: Curve, axis: str, looks: Mapping[str, Look], visible: set[str]) -> Figure:
    policy = run.run.scorecard.policy
    look = looks[policy]
    return {
        "type": "scatter", "mode": "lines", "name": escape(run.name), "meta": policy,
        "x": _numbers(curve.x), "y": _numbers(curve.y), "yaxis": axis,
        "visible": policy in visible,
        "line": {"color": look.colour, "width": look.width, "dash": _dash(look), "shape": _shape(curve)},
    }  # fmt: skip


def latency_figure(
    runs: Sequence[RunReport], names: Sequence[str], looks: Mapping[str, Look], objective: ServiceObjective,
    visible: set[str],
) -> Figure:  # fmt: skip
    """Return TTFT by percentile of requests. The axis is spaced by nines: an objective is about the last percent."""
    places = [nines(level) for level in CURVE_LEVELS]
    data = []
    for run, name in zip(runs, names, strict=True):
        policy = run.scorecard.policy
        look = looks[policy]
        data.append({
            "type": "scatter", "mode": "lines", "name": escape(name), "meta": policy, "visible": policy in visible,
            "x": _numbers(places), "y": _numbers(run.curves.ttft_s),
            "line": {"color": look.colour, "width": look.width, "dash": _dash(look)},
        })  # fmt: skip
    ticks = (0.5, 0.9, 0.95, 0.99, 0.999)
    layout = {
        "margin": _MARGIN, "hovermode": "x unified", "showlegend": False,
        "xaxis": {
            "title": {"text": "percentile of requests"}, "tickvals": [nines(level) for level in ticks],
            "ticktext": [f"P{level * 100:g}" for level in ticks], "unifiedhovertitle": {"text": "TTFT"},
        },
        "yaxis": {"title": {"text": "TTFT, seconds"}, "type": "log", "dtick": "D2"},
        **_lines([("y", objective.ttft_s, f"objective {objective.ttft_s:g} s")]),
    }  # fmt: skip
    return {"data": data, "layout": layout}


def _lines(marks: Sequence[tuple[str, float, str]]) -> Figure:
    """Return horizontal lines at heights of axes, with words where there are some."""
    shapes = [
        {
            "type": "line", "xref": "paper", "x0": 0, "x1": 1, "yref": axis, "y0": at, "y1": at,
            "line": {"color": _GREY, "width": 1, "dash": "4px,3px"},
            **({"label": {"text": words, "textposition": "end", "yanchor": "bottom", "font": {"size": 11}}} if words
               else {}),
        }
        for axis, at, words in marks
    ]  # fmt: skip
    return {"shapes": shapes}


def _title(text: str, top: float) -> Figure:
    return {
        "text": text, "showarrow": False, "xref": "paper", "yref": "paper", "x": 0, "y": top, "xanchor": "left",
        "yanchor": "bottom", "font": {"size": 12.5},
    }  # fmt: skip


def _dash(look: Look) -> str:
    return ",".join(f"{length * 2:g}px" for length in look.dash) or "solid"


def _shape(curve: Curve) -> str:
    return "hv" if curve.stepped else "linear"


def _numbers(values: Iterable[float]) -> list[float | int | None]:
    """Return values for JSON: five digits are more than a screen shows, NaN is a gap, whole numbers have no point."""
    return [_short(value) for value in np.asarray(list(values), dtype=np.float64).tolist()]


def _short(value: float) -> float | int | None:
    if not math.isfinite(value):
        return None
    rounded = float(f"{value:.5g}")
    return int(rounded) if rounded.is_integer() else rounded
