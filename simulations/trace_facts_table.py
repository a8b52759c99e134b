"""How are the facts about a trace laid out for people?"""

from __future__ import annotations

import math
from datetime import UTC, datetime

from rich.table import Table

from simulations.trace_facts import PERCENTILES, SILENCE_S, LengthFacts, TraceFacts

_DAY_S = 86_400.0


def facts_table(facts: TraceFacts) -> Table:
    """Return one row per fact."""
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    table.add_row("trace", facts.described + (" (made up)" if facts.generated else ""))
    table.add_row("requests", f"{facts.requests:,} in {_span(facts.span_s)}")
    if facts.begins_at > _DAY_S:
        began = datetime.fromtimestamp(facts.begins_at, UTC)
        table.add_row("begins", f"{began:%A %Y-%m-%d %H:%M:%S} by its own clock")
    unit = "minute" if facts.span_s >= 60 else f"{facts.rate_step_s:g} s"
    table.add_row(
        "requests/s",
        f"{facts.mean_requests_per_s:.4g} on average, {facts.peak_requests_per_s:.4g} in the busiest {unit}",
    )
    table.add_row("prompt tokens", _lengths(facts.prompt))
    table.add_row("output tokens", _lengths(facts.output))
    if math.isfinite(facts.gap_cv):
        table.add_row(
            "burstiness", f"gaps vary by {facts.gap_cv:.3g} times their mean (1 is Poisson at a constant rate)"
        )
    spread = ", ".join(f"{value:.3g} per {span:g} s" for span, value in facts.dispersion.items())
    table.add_row("", f"counts: variance over mean {spread} (1 is Poisson)" if spread else "")
    longest = f"longest {facts.longest_gap_s:.3g} s, from second {facts.longest_gap_at_s:.6g} on"
    table.add_row("silences", f"{facts.silences:,} of more than {SILENCE_S:g} s; {longest}")
    if facts.prefix is not None:
        prefix = facts.prefix
        parts = [] if prefix.sessions is None else [f"{prefix.sessions:,} sessions"]
        parts += [f"{prefix.blocks:,} prompt blocks"] if prefix.blocks else []
        if prefix.seen_before_ratio is not None:
            parts.append(f"{prefix.seen_before_ratio:.1%} of them seen before")
        table.add_row("prefixes", ", ".join(parts))
    return table


def _lengths(lengths: LengthFacts) -> str:
    ranks = ", ".join(f"p{p} {value:,}" for p, value in zip(PERCENTILES, lengths.percentiles, strict=True))
    return f"mean {lengths.mean:,.0f}, {ranks}, largest {lengths.largest:,}"


def _span(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.3g} s"
    if seconds < 2 * 3600:
        return f"{seconds:,.0f} s ({seconds / 60:.1f} min)"
    if seconds < 2 * _DAY_S:
        return f"{seconds:,.0f} s ({seconds / 3600:.1f} h)"
    return f"{seconds:,.0f} s ({seconds / _DAY_S:.1f} d)"
