"""How long did it take to notice each failure, and to be well again, Foresail and rivals side by side, as a picture?"""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from simulations.healing.plans import PLANS
from simulations.healing.rivals import FORESAIL
from simulations.healing.runs import WorldRun

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COLOURS = ("#0072B2", "#E69F00", "#CC79A7", "#009E73")  # Okabe and Ito's, told apart by colour-blind readers too
_MARKS = ("o", "s", "^", "D")
_LEAST_S = 1.0


def times_picture(runs: Sequence[WorldRun]) -> bytes:
    """Return a PNG: a row per failure, a mark per world, what never came at the right edge."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    struck = [run for run in runs if run.kind in PLANS and run.struck]
    kinds = list(dict.fromkeys(run.kind for run in struck))
    policies = list(dict.fromkeys(run.policy for run in struck))
    with mpl.rc_context({"font.size": 9.0, "font.family": "sans-serif"}):
        figure = Figure(figsize=(13.0, 1.6 + 0.42 * max(1, len(kinds))), layout="constrained")
        noticed, well = figure.subplots(1, 2, sharey=True)
        _draw(noticed, struck, kinds, policies, "seconds from the strike until it was noticed", "detected_s")
        _draw(well, struck, kinds, policies, "seconds from the strike until all was well again", "recovered_s")
        noticed.set_yticks(range(len(kinds)), kinds)
        noticed.set_ylim(len(kinds) - 0.5, -0.5)
        handles, labels = well.get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper right", ncols=len(policies), frameon=False)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()


def _draw(
    axes: Axes, runs: Sequence[WorldRun], kinds: Sequence[str], policies: Sequence[str], title: str, figure: str
) -> None:
    longest = max((v for run in runs if math.isfinite(v := getattr(run.verdict, figure))), default=100.0)
    never_s = 2.0 * max(longest, 100.0)
    for number, policy in enumerate(policies):
        offset = (number - (len(policies) - 1) / 2.0) * 0.8 / len(policies)
        mine = [run for run in runs if run.policy == policy]
        seconds = [getattr(run.verdict, figure) for run in mine]
        axes.scatter(
            [never_s if not math.isfinite(value) else max(value, _LEAST_S) for value in seconds],
            [kinds.index(run.kind) + offset for run in mine],
            s=22 if policy == FORESAIL else 14, marker=_MARKS[number], color=_COLOURS[number], alpha=0.7,
            linewidths=0, label=policy,
        )  # fmt: skip
    axes.axvline(never_s / 1.3, color="0.7", linewidth=0.8)
    axes.set_xscale("log")
    ticks = [1.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1200.0]
    shown = [tick for tick in ticks if tick < never_s / 1.8]
    axes.set_xticks([*shown, never_s], [*("1 or less" if tick == _LEAST_S else f"{tick:g}" for tick in shown), "never"])
    axes.minorticks_off()
    axes.grid(axis="x", color="0.9", linewidth=0.8)
    for place in range(1, len(kinds)):
        axes.axhline(place - 0.5, color="0.93", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.set_title(title, loc="left", fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)
