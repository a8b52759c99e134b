"""Which curves does a timeline show: who is on it, over what time, and how dense?"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from forecasting.series import FloatArray
from simulations.comparison import BOUND, SummaryRow, named
from simulations.job import RunReport
from simulations.report_thinning import thinned, without_repeats
from simulations.scorecard import BIN_S, TimelinePoint

PAGE_POINTS = 240_000
"""Points of all curves of a page together: some 3 MB, beside 5 MB of script."""

MOST_POINTS, FEWEST_POINTS = 1_800, 120
"""Points per curve. A screen has about as many columns; below the fewest a plot would lie about its shape."""

CURVES_PER_RUN = 6


@dataclass(frozen=True, slots=True)
class Curve:
    """A curve to draw: ``x`` in the unit of its timeline; ``stepped`` when it holds each value until the next."""

    x: FloatArray
    y: FloatArray
    stepped: bool


@dataclass(frozen=True, slots=True)
class RunCurves:
    """What happened in one run over time."""

    run: RunReport
    name: str
    capacity: Curve
    ready: Curve
    desired: Curve
    queue: Curve
    missed_ratio: Curve
    ttft_p95: Curve


@dataclass(frozen=True, slots=True)
class Timeline:
    """All runs that are shown of one trace; ``unit`` is minutes, hours or days."""

    unit: str
    demand: Curve
    runs: tuple[RunCurves, ...]


def most_points(runs: int) -> int:
    """Return how many points a curve may have on a page with so many runs."""
    return max(FEWEST_POINTS, min(MOST_POINTS, PAGE_POINTS // max(1, CURVES_PER_RUN * runs)))


def shown_runs(ranked_rows: Sequence[SummaryRow], runs: Sequence[RunReport]) -> list[RunReport]:
    """Return one run per policy of a trace: of its best variant, with the first seed; the policies as they rank."""
    best: dict[str, SummaryRow] = {}
    for row in ranked_rows:
        best.setdefault(row.policy, row)
    found = []
    for row in best.values():
        mine = [r for r in runs if (r.scorecard.policy, r.variant) == (row.policy, row.variant)]
        found.append(min(mine, key=lambda run: run.seed))
    return found


def first_seen(policies: Sequence[str]) -> set[str]:
    """Return who is switched on when a page opens: of up to six all, else Foresail, the bound, HPA and the best two."""
    if len(policies) <= 6:
        return set(policies)
    rivals = [policy for policy in policies if policy not in ("foresail", BOUND, "hpa")]
    return {"foresail", BOUND, "hpa", *rivals[:2]}


def timeline(runs: Sequence[RunReport], most: int) -> Timeline:
    """Return the curves of runs of one trace, each of at most ``most`` points."""
    length_s = max(run.scorecard.simulated_s for run in runs)
    unit, unit_s = _unit(length_s)
    load = runs[0].curves.requests_per_s
    x, y = thinned(_bins(len(load), unit_s), load, most)
    return Timeline(unit, Curve(x, y, True), tuple(_run_curves(run, unit_s, most) for run in runs))


def _run_curves(run: RunReport, unit_s: float, most: int) -> RunCurves:
    points = tuple(run.timeline)
    at = [point.at_s / unit_s for point in points]
    bins = _bins(len(run.curves.within_ratio), unit_s)
    carried = [carried_by(point.ready_in, run.replica_requests_per_s) for point in points]

    def steps(values: Sequence[float]) -> Curve:
        return Curve(*thinned(*without_repeats(at, values), most), True)

    missed = 1.0 - np.asarray(run.curves.within_ratio)
    return RunCurves(
        run=run,
        name=named(run.scorecard.policy, run.variant),
        capacity=steps(carried),
        ready=steps([float(point.ready) for point in points]),
        desired=steps([float(point.desired) for point in points]),
        queue=steps([waiting(point) for point in points]),
        missed_ratio=Curve(*thinned(bins, missed, most), True),
        ttft_p95=Curve(*thinned(bins, run.curves.ttft_p95_s, most), False),
    )


def carried_by(ready: Iterable[tuple[str, int]], replica_requests_per_s: Mapping[str, float]) -> float:
    """Return the requests/s that so many ready replicas carry; of several stages, that which carries least.

    >>> carried_by([("m/p/prefill", 2), ("m/d/decode", 1)], {"m/p/prefill": 5.0, "m/d/decode": 80.0})
    10.0
    """
    stages = dict.fromkeys((_role(name) for name in replica_requests_per_s), 0.0)
    for name, count in ready:
        stages[_role(name)] += count * replica_requests_per_s[name]
    return min(stages.values())


def _role(pool: str) -> str:
    """Return the last part of the text of a pool's key."""
    return pool.rpartition("/")[2]


def waiting(point: TimelinePoint) -> float:
    """Return the requests that waited, in engines and at the gateway; NaN when neither told."""
    told = [each for each in (point.queued_requests, point.held_requests) if not math.isnan(each)]
    return math.fsum(told) if told else math.nan


def _bins(count: int, unit_s: float) -> FloatArray:
    return np.arange(count, dtype=np.float64) * (BIN_S / unit_s)


def _unit(length_s: float) -> tuple[str, float]:
    if length_s <= 3 * 3600:
        return "minutes", 60.0
    return ("hours", 3600.0) if length_s <= 3 * 86400 else ("days", 86400.0)
