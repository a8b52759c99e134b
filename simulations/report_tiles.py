"""Which few figures does a reader take away from a trace?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

from policies.slo import ServiceObjective
from simulations.comparison import BOUND, SummaryRow
from simulations.tables import number, percent


def tiles(ranked_rows: Sequence[SummaryRow], objective: ServiceObjective) -> str:
    """Return tiles as HTML: Foresail's figures, or the winner's without it; nothing for a bound alone."""
    ours = [row for row in ranked_rows if row.policy == "foresail" and not row.variant]
    row = next(iter([*ours, *(row for row in ranked_rows if row.policy != BOUND)]), None)
    if row is None:
        return ""
    each = [
        (percent(_mean(row, "slo_attainment_ratio")), f"in time; {objective.attainment_ratio * 100:g} % wanted"),
        (number(_mean(row, "gpu_hours"), ",.1f"), "GPU hours" + _against_hpa(row)),
        (f"US$ {number(_mean(row, 'cost_usd'), ',.0f')}", "for the GPUs" + _saved(row)),
        (_recovery(row), "longest time to be back within the objective"),
        (number(_mean(row, "dropped_in_flight"), ",.4g"), "requests dropped in flight"),
    ]
    shown = "".join(
        f"<div class='tile'><b>{escape(figure)}</b><span>{escape(words)}</span></div>" for figure, words in each
    )
    return f"<p class='note'>{escape(row.name)} in figures:</p><div class='tiles'>{shown}</div>"


def _against_hpa(row: SummaryRow) -> str:
    if row.to_hpa is None or math.isnan(row.to_hpa.gpu_hours_ratio.mean):
        return ""
    return f"; {row.to_hpa.gpu_hours_ratio.mean:+.1%} to hpa"


def _saved(row: SummaryRow) -> str:
    return "" if row.to_hpa is None else f"; {row.to_hpa.cost_usd.mean:+,.0f} to hpa"


def _recovery(row: SummaryRow) -> str:
    longest_s = _mean(row, "time_to_recover_longest_s")
    return "never out" if math.isnan(longest_s) else f"{longest_s / 60:.3g} min"


def _mean(row: SummaryRow, name: str) -> float:
    return row.figures[name].mean
