"""What does the load of a trace look like over time?"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from simulations.output_places import refusing
from simulations.trace_facts import TraceFacts

_COLUMNS = 1200
"""About as many as the plot has pixels; more steps than that are drawn as a band between least and most."""


def write_plot(facts: TraceFacts, path: Path) -> None:
    """Draw requests/s over time into the file ``path``, whole or not at all.

    Raises:
        BadInput: If it cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    unit_s, unit = _unit(facts.span_s)
    group = max(1, -(-len(facts.rates) // _COLUMNS))
    starts = np.arange(0, len(facts.rates), group)
    at = np.append(starts * facts.rate_step_s, max(facts.span_s, (len(facts.rates) - 0.5) * facts.rate_step_s)) / unit_s
    sizes = np.diff(np.append(starts, len(facts.rates)))
    mean = np.add.reduceat(facts.rates, starts) / sizes
    figure = Figure(figsize=(12, 4), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    if group > 1:
        low, high = np.minimum.reduceat(facts.rates, starts), np.maximum.reduceat(facts.rates, starts)
        steps = f"steps of {facts.rate_step_s:g} s"
        axes.fill_between(at[:-1], low, high, step="post", color="#b8cce4", label=f"least and most of {group} {steps}")
    axes.stairs(mean, at, color="#1f4e79", label=f"mean of {group * facts.rate_step_s:g} s")
    axes.set(xlabel=unit, ylabel="requests/s", xlim=(0, at[-1]), title=_title(facts))
    # Room above for the legend.
    axes.set_ylim(0, 1.2 * max(float(facts.rates.max()), 1e-9))
    axes.grid(alpha=0.3)
    axes.legend(loc="upper right", frameon=False)
    half = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with refusing(f"--plot {path}", "name a file on a disk with room for it"):
            figure.savefig(half, format=path.suffix.lower().removeprefix("."))
            half.replace(path)
    finally:
        half.unlink(missing_ok=True)


def _title(facts: TraceFacts) -> str:
    text = facts.described if len(facts.described) < 110 else f"{facts.described[:107]}..."
    return f"{text}\n{facts.requests:,} requests"


def _unit(span_s: float) -> tuple[float, str]:
    if span_s < 7200:
        return (60.0, "minutes") if span_s >= 300 else (1.0, "seconds")
    return (3600.0, "hours") if span_s < 4 * 86_400 else (86_400.0, "days")
