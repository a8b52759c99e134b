"""How did the demo's day look: load against its forecast, replicas and waiting times of all policies, as a picture.

Importing this module imports matplotlib (1 s): import it late. No display is needed.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from policies.slo import ServiceObjective
from simulations.demo import DemoRun
from simulations.demo_report import NAMES
from simulations.scorecard import BIN_S, Curves, TimelinePoint

# Okabe and Ito's palette stays apart under colour blindness; line styles stay apart without any colour.
_COLOURS = {"foresail": "#0072B2", "hpa": "#D55E00", "clairvoyant": "#009E73"}
_DASHES = {"foresail": "-", "hpa": "--", "clairvoyant": "-."}
_FAULT, _MUTED = "#a00000", "#8a8a8a"


def write_plot(
    path: Path, run: DemoRun, others: Sequence[tuple[str, Sequence[TimelinePoint], Curves]], objective: ServiceObjective
) -> None:
    """Write the picture to ``path`` (PNG or SVG, by its ending).

    Args:
        path: The file.
        run: Foresail's day.
        others: Name, replicas and curves of each rival.
        objective: For the line that TTFT should stay under.
    """
    figure = Figure(figsize=(11.0, 9.0), layout="constrained")
    load, replicas, waiting = figure.subplots(3, 1, sharex=True)
    everybody = [("foresail", run.result.timeline, run.result.curves), *others]
    _plot_load(load, run)
    for name, timeline, curves in everybody:
        style = {"color": _COLOURS[name], "linestyle": _DASHES[name], "linewidth": 1.3, "label": NAMES[name]}
        minutes = [point.at_s / 60.0 for point in timeline]
        replicas.step(minutes, [point.ready for point in timeline], where="post", **style)
        waiting.plot((np.arange(len(curves.ttft_p95_s)) + 0.5) * BIN_S / 60.0, curves.ttft_p95_s, **style)
    replicas.set(ylabel="replicas ready")
    replicas.legend(frameon=False, ncols=3, loc="upper left")
    waiting.axhline(objective.ttft_s, color=_MUTED, linewidth=0.8, linestyle=":")
    waiting.set(ylabel="TTFT P95 per minute, s", xlabel="minutes of simulated time")
    for axes in (load, replicas, waiting):
        _mark_faults(axes, run)
        axes.set_ylim(0.0, 1.18 * axes.get_ylim()[1])  # room for legends and names
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(color="#e6e6e6", linewidth=0.6)
        axes.set_axisbelow(True)
    figure.suptitle("A generated day under Foresail, HPA and a clairvoyant", fontsize="large")
    figure.savefig(path, dpi=110)


def _plot_load(axes: Axes, run: DemoRun) -> None:
    begins_at = run.view.begins_at
    band = [point for point in run.foreseen if point.at <= run.view.at]
    at = [(point.at - begins_at) / 60.0 for point in band]
    lead = f"{run.view.lead_time_s:.0f} s before"
    colour = _COLOURS["foresail"]
    low, high = [point.low for point in band], [point.high for point in band]
    axes.fill_between(at, low, high, color=colour, alpha=0.22, linewidth=0, label=f"forecast 0.1 to 0.9, made {lead}")
    axes.plot(at, [point.middle for point in band], color=colour, linewidth=0.9, label="its median")
    seen = [((point.at - begins_at) / 60.0, point.requests_per_s) for point in run.load]
    axes.plot(*zip(*seen, strict=True), color="#1a1a1a", linewidth=1.1, label="offered")
    axes.set(ylabel="requests/s", xlim=(0.0, (run.view.ends_at - begins_at) / 60.0))
    axes.legend(frameon=False, ncols=3, loc="upper left")


def _mark_faults(axes: Axes, run: DemoRun) -> None:
    for staged in run.view.staged:
        minute = (staged.at - run.view.begins_at) / 60.0
        axes.axvline(minute, color=_FAULT, linewidth=0.8, linestyle=":")
        axes.text(minute, 0.82, f" {staged.name}", transform=axes.get_xaxis_transform(), color=_FAULT, fontsize="small")
