"""How does a metric look beside what was expected of it? Values, band and alarms, as one PNG.

Importing this module imports matplotlib (1 s): import it late.
"""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from forecasting.series import FloatArray
from simulations.output_places import refusing
from training.detected import Course, Findings

_VALUE, _BAND, _ALARM = "#1a1a1a", "#1f6fb4", "#c44e1c"
_MOST_POINTS = 6_000
_HIGHEST = 1e300
"""Beyond it values are drawn there: the height of a picture from one to the other must be a number too."""
_CALENDAR_S = 2.0e11
"""Instants within so many seconds of 1970 have a date; others are drawn in seconds."""


def write_detect_plot(path: Path, name: str, course: Course, findings: Findings) -> None:
    """Draw ``course`` with the peak of each event as a dot and its span as a bar, whole or not at all.

    Raises:
        BadInput: If it cannot be written.
    """
    figure = _drawn(name, course, findings)
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=110)
    draft = path.with_name(f".{path.name}.draft")
    with refusing(f"--plot {path}", "name a file in a folder with room for it"):
        try:
            draft.write_bytes(content.getvalue())
            draft.replace(path)
        finally:
            draft.unlink(missing_ok=True)


def _drawn(name: str, course: Course, findings: Findings) -> Figure:
    """Return the figure."""
    figure = Figure(figsize=(13.0, 4.8), layout="constrained")
    axes = figure.subplots()
    at, values, lows, highs = (np.array(column) for column in (course.at, course.values, course.lows, course.highs))
    dated = len(at) > 0 and np.abs(at).max() < _CALENDAR_S
    x = at.astype("datetime64[s]") if dated else at
    values[~np.isfinite(values)] = np.nan
    for column in (values, lows, highs):
        np.clip(column, -_HIGHEST, _HIGHEST, out=column)
    step = max(len(at) // (_MOST_POINTS // 2), 1)
    axes.fill_between(
        x[::step], _widest(lows, step, np.fmin), _widest(highs, step, np.fmax),
        color=_BAND, alpha=0.2, linewidth=0, label="expected band",
    )  # fmt: skip
    shown = _extremes(values, step)
    axes.plot(x[shown], values[shown], color=_VALUE, linewidth=0.7, label="value")
    for event in findings.events:
        span = np.array([event.since, event.last_at])
        axes.axvspan(*(span.astype("datetime64[s]") if dated else span), color=_ALARM, alpha=0.15, linewidth=0)
    peaks = np.array([event.peak.row.at for event in findings.events])
    heights = np.clip([event.peak.row.value for event in findings.events], -_HIGHEST, _HIGHEST)
    axes.plot(
        peaks.astype("datetime64[s]") if dated else peaks, heights, "o", color=_ALARM, markersize=5, label="alarm"
    )
    if np.isfinite(values).any():
        low, high = np.nanmin(values), np.nanmax(values)
        room = 0.06 * (high - low) or 1.0
        axes.set_ylim(low - room, high + room)
    axes.set(title=f"{name}: {len(findings.events)} events in {findings.rows:,} rows", ylabel="value")
    axes.legend(frameon=False, loc="upper left", ncols=3)
    return figure


def _widest(bounds: FloatArray, step: int, widest: np.ufunc) -> FloatArray:
    """Return the widest bound of each ``step`` rows; NaN where none is known."""
    known = np.where(np.isfinite(bounds), bounds, np.nan)
    return np.asarray(widest.reduceat(known, np.arange(0, len(known), step)) if len(known) else known, np.float64)


def _extremes(values: FloatArray, step: int) -> np.ndarray[tuple[int], np.dtype[np.intp]]:
    """Return the rows of the lowest and highest of each ``step`` values, in order: a spike is never left out."""
    if step == 1:
        return np.arange(len(values))
    rows = []
    for start in range(0, len(values), step):
        piece = values[start : start + step]
        if np.isfinite(piece).any():
            rows += [start + int(np.nanargmin(piece)), start + int(np.nanargmax(piece))]
    return np.unique(np.array(rows, np.intp))
