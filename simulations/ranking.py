"""Who won on a trace, and is that settled? The cheapest that meets the objective, among those that can be bought."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from simulations.comparison import BOUND, SummaryRow, named
from simulations.job import RunReport
from simulations.scorecard import Scorecard
from simulations.versus import Versus, versus

_ROUNDING = 1e-12
"""The mean of three times 0.99 may be a hair below 0.99."""


def attains(row: SummaryRow, target_ratio: float) -> bool:
    """Return whether the mean attainment over the seeds reaches the target; not when there is none."""
    return row.figures["slo_attainment_ratio"].mean >= target_ratio - _ROUNDING


def ranked(rows: Sequence[SummaryRow], target_ratio: float) -> list[SummaryRow]:
    """Return rows of one trace: those that attain, cheapest first, then the rest, best attainment first."""

    def key(row: SummaryRow) -> tuple[bool, float, float]:
        attained = row.figures["slo_attainment_ratio"].mean
        shown = -math.inf if math.isnan(attained) else attained
        hours = row.figures["gpu_hours"].mean
        return (False, hours, -shown) if attains(row, target_ratio) else (True, -shown, hours)

    return sorted(rows, key=key)


@dataclass(frozen=True, slots=True)
class Verdict:
    """The outcome on one trace.

    Attributes:
        winner: The first of the ranking, the bound aside.
        attained: Whether it meets the objective; otherwise nobody does, and it came closest.
        runner_up: The next; None when there is none.
        lead: Winner minus runner-up, seed by seed; None without a runner-up or a seed that both ran.
        settled: Whether the figure that made it the winner differs beyond doubt: GPU hours where both attain, else
            the attainment. Never for a single run.
    """

    winner: SummaryRow
    attained: bool
    runner_up: SummaryRow | None
    lead: Versus | None
    settled: bool


def judged(rows: Sequence[SummaryRow], runs: Sequence[RunReport], target_ratio: float) -> Verdict | None:
    """Return the verdict on the rows and runs of one trace; None when nobody but the bound ran."""
    contenders = [row for row in ranked(rows, target_ratio) if row.policy != BOUND]
    if not contenders:
        return None
    winner, second = contenders[0], contenders[1] if len(contenders) > 1 else None
    lead = None if second is None else between(winner, second, runs)
    settled = False
    if second is not None and lead is not None:
        cheaper = attains(winner, target_ratio) and attains(second, target_ratio)
        settled = lead.gpu_hours.below_zero if cheaper else lead.slo_attainment_ratio.above_zero
    return Verdict(winner, attains(winner, target_ratio), second, lead, settled)


def between(row: SummaryRow, base: SummaryRow, runs: Sequence[RunReport]) -> Versus | None:
    """Return by how much ``row`` differs from ``base``, of one trace; None where they share no seed."""

    def cards(which: SummaryRow) -> dict[int, Scorecard]:
        mine = (run for run in runs if (run.scorecard.policy, run.variant) == (which.policy, which.variant))
        return {run.seed: run.scorecard for run in mine}

    return versus(named(base.policy, base.variant), cards(row), cards(base))
