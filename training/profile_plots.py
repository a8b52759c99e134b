"""How do fitted times compare with measured ones? A figure per measure, as one PNG.

Importing this module imports matplotlib (1 s): import it late.
"""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from forecasting.series import FloatArray
from simulations.engine_runs import MEASURES
from simulations.output_places import refusing
from training.capacity_fit import CapacityFit, Part
from training.fit_errors import simulated

_TITLES = {"ttft_s": "TTFT", "tpot_s": "TPOT", "e2e_s": "end to end"}
_FITTED, _HELD_OUT, _LINE = "#1f6fb4", "#c44e1c", "#8a8a8a"


def write_fit_plot(path: Path, fitted: CapacityFit) -> None:
    """Draw measured (x) against fitted (y) times, a dot per request or load, whole or not at all.

    Raises:
        BadInput: If it cannot be written.
    """
    figure = Figure(figsize=(13.0, 4.4), layout="constrained")
    for axes, measure in zip(figure.subplots(1, 3), MEASURES, strict=True):
        _draw(axes, fitted, measure)
    figure.suptitle(f"{fitted.profile.name}: measured against fitted")
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=110)
    draft = path.with_name(f".{path.name}.draft")
    with refusing(f"--plot {path}", "name a file in a folder with room for it"):
        try:
            draft.write_bytes(content.getvalue())
            draft.replace(path)
        finally:
            draft.unlink(missing_ok=True)


def _draw(axes: Axes, fitted: CapacityFit, measure: str) -> None:
    drawn = []
    for colour, name, held_out in ((_FITTED, "fitted", False), (_HELD_OUT, "held out", True)):
        pairs = [_pairs(part, measure, held_out) for part in fitted.parts]
        theirs, ours = (np.concatenate([pair[side] for pair in pairs]) for side in (0, 1))
        if len(theirs):
            axes.loglog(theirs, ours, ".", color=colour, label=name, alpha=0.7)
            drawn += [theirs, ours]
    if drawn:
        ends = [float(np.concatenate(drawn).min()), float(np.concatenate(drawn).max())]
        axes.plot(ends, ends, color=_LINE, linewidth=0.8, zorder=0)
        axes.legend(frameon=False)
    axes.set(title=_TITLES[measure], xlabel="measured, s", ylabel="fitted, s")


def _pairs(part: Part, measure: str, held_out: bool) -> tuple[FloatArray, FloatArray]:
    """Return measured and fitted times, of the requests of a run or of the mean of a load."""
    one = part.measurement
    if one.times is not None:
        rows = (~part.fitted if held_out else part.fitted) & (one.times.of(measure) > 0)
        return one.times.of(measure)[rows], part.replayed.run.times.of(measure)[rows]
    told, ours = one.measured().get((measure, "mean")), simulated(one, part).get((measure, "mean"))
    if told is None or ours is None or part.fitted.all() == held_out:
        return np.zeros(0), np.zeros(0)
    return np.array([told]), np.array([ours])
