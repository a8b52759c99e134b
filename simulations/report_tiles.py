"""Which few figures does a reader take away from a trace?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

from policies.slo import ServiceObjective
from simulations.comparison import BOUND, SummaryRow
from simulations.report_words import share
from simulations.tables import gpu_hours, number


def tiles(ranked_rows: Sequence[SummaryRow], objective: ServiceObjective) -> str:
    """Return tiles as HTML: Foresail's figures, or the winner's without it; nothing for a bound alone."""
    ours = [row for row in ranked_rows if row.policy == "foresail" and not row.variant]
    row = next(iter([*ours, *(row for row in ranked_rows if row.policy != BOUND)]), None)
    if row is None:
        return ""
    target = objective.attainment_ratio
    each = [
        (share(_mean(row, "slo_attainment_ratio"), target), f"in time; {target * 100:g}% wanted"),
        (gpu_hours(_mean(row, "gpu_hours")), f"GPU hours{_against_hpa(row)}"),
        (f"US$ {number(_mean(row, 'cost_usd'), ',.0f')}", "for these GPUs"),
        (_recovery(row), "longest time to be back within the objective"),
        (number(_mean(row, "dropped_in_flight"), ",.0f"), "requests dropped in flight"),
    ]
    shown = "".join(
        f"<div class='tile'><b>{escape(figure)}</b><span>{escape(words)}</span></div>" for figure, words in each
    )
    return f"<p class='note'>{escape(row.name)} in figures:</p><div class='tiles'>{shown}</div>"


def _against_hpa(row: SummaryRow) -> str:
    if row.to_hpa is None or math.isnan(row.to_hpa.gpu_hours_ratio.mean):
        return ""
    less = row.to_hpa.gpu_hours_ratio
    if less.known and not (less.above_zero or less.below_zero):
        return "; no settled difference to hpa"
    words = f"; {abs(less.mean):.1%} {'more' if less.mean > 0 else 'fewer'} than hpa"
    return words if less.known else f"{words}, in one run"


def _recovery(row: SummaryRow) -> str:
    longest_s = _mean(row, "time_to_recover_longest_s")
    return "never out" if math.isnan(longest_s) else f"{longest_s / 60:.2g} min"


def _mean(row: SummaryRow, name: str) -> float:
    return row.figures[name].mean
