"""Which policy did best on which trace: many runs, side by side."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from simulations.intervals import Interval, interval
from simulations.job import Job, RunReport, TraceChoice
from simulations.pareto import on_front
from simulations.scorecard import Scorecard
from simulations.versus import Versus, versus

SUMMARISED = (
    "slo_attainment_ratio",
    "gpu_hours",
    "cost_usd",
    "mean_replicas",
    "peak_replicas",
    "ttft_p50_s",
    "ttft_p95_s",
    "ttft_p99_s",
    "tpot_p50_s",
    "tpot_p95_s",
    "goodput_requests_per_s",
    "goodput_tokens_per_s",
    "failed",
    "dropped_in_flight",
    "scale_ups",
    "scale_downs",
    "missed_requests",
    "churn_per_hour",
    "replicas_started",
    "replicas_stopped",
    "unused_starts",
    "loading_gpu_hours",
    "idle_gpu_hours",
    "unproductive_usd",
    "missed_spells",
    "recovered",
    "time_to_recover_longest_s",
    "time_to_recover_mean_s",
    "fault_to_recover_longest_s",
)
"""Fields of the scorecard that are averaged over seeds; of ``recovered`` that is the share of runs."""

BOUND = "clairvoyant"
"""Knows the future: shows what could be had at best, competes with nobody and is on no front."""


@dataclass(frozen=True, slots=True)
class Spread:
    """Mean, least and most over the seeds; NaN where no run has the figure."""

    mean: float
    least: float
    most: float


@dataclass(frozen=True, slots=True)
class SummaryRow:
    """One policy on one trace, over all seeds.

    Attributes:
        figures: By field of the scorecard, those of ``SUMMARISED``, and ``lost_requests``: failed or dropped.
        gpu_hours_to_clairvoyant: Its mean GPU hours over those of the lower bound; None when that was not run.
        gpu_hours_to_hpa: The same over HPA's.
        violations: Invariants broken in all of its runs.
        variant: Which of a policy's settings, where several were tried; empty for those it has anyway.
        intervals: Of the mean of each figure.
        to_hpa: What it has more or less than HPA as it comes, seed by seed; None when that was not run, or is it.
        regret: The same to the clairvoyant bound: what knowing the future would have saved.
        on_front: Whether nobody on this trace, the bound aside, took fewer GPU hours for as much attainment.
    """

    trace: str
    policy: str
    runs: int
    figures: dict[str, Spread]
    gpu_hours_to_clairvoyant: float | None
    gpu_hours_to_hpa: float | None
    violations: int
    variant: str = ""
    intervals: dict[str, Interval] = field(default_factory=dict)
    to_hpa: Versus | None = None
    regret: Versus | None = None
    on_front: bool = False

    @property
    def name(self) -> str:
        """What tables and plots call it."""
        return named(self.policy, self.variant)


def named(policy: str, variant: str) -> str:
    """Return what a policy in a variant is called, whose name begins with the policy's."""
    return variant or policy


def summarised(reports: Sequence[RunReport]) -> list[SummaryRow]:
    """Return one row per trace, policy and variant, in the order in which they first appear."""
    groups: dict[tuple[str, str, str], dict[int, Scorecard]] = {}
    for report in reports:
        key = (report.trace, report.scorecard.policy, report.variant)
        groups.setdefault(key, {})[report.seed] = report.scorecard
    rows = [_row(key, groups) for key in groups]
    return [replace(row, on_front=front) for row, front in zip(rows, _fronts(rows), strict=True)]


def _row(key: tuple[str, str, str], groups: Mapping[tuple[str, str, str], dict[int, Scorecard]]) -> SummaryRow:
    trace, policy, variant = key
    mine, hpa, bound = groups[key], groups.get((trace, "hpa", "")), groups.get((trace, BOUND, ""))
    cards = list(mine.values())
    hours = _spread(cards, "gpu_hours").mean
    return SummaryRow(
        trace=trace,
        policy=policy,
        runs=len(cards),
        figures={name: _spread(cards, name) for name in SUMMARISED} | {"lost_requests": _lost(cards)},
        gpu_hours_to_clairvoyant=_ratio(hours, _gpu_hours(bound)),
        gpu_hours_to_hpa=_ratio(hours, _gpu_hours(hpa)),
        violations=sum(len(card.violations) for card in cards),
        variant=variant,
        intervals={name: interval([float(getattr(card, name)) for card in cards]) for name in SUMMARISED},
        to_hpa=None if hpa is None or hpa is mine else versus("hpa", mine, hpa),
        regret=None if bound is None or bound is mine else versus(BOUND, mine, bound),
    )


def _gpu_hours(cards: Mapping[int, Scorecard] | None) -> float | None:
    return None if cards is None else _spread(list(cards.values()), "gpu_hours").mean


def _fronts(rows: Sequence[SummaryRow]) -> list[bool]:
    """Return for each row whether it is on its trace's front."""
    front: dict[int, bool] = {}
    for trace in dict.fromkeys(row.trace for row in rows):
        mine = [place for place, row in enumerate(rows) if row.trace == trace and row.policy != BOUND]
        points = [(rows[i].figures["gpu_hours"].mean, rows[i].figures["slo_attainment_ratio"].mean) for i in mine]
        front |= dict(zip(mine, on_front(points), strict=True))
    return [front.get(place, False) for place in range(len(rows))]


def facts_of(jobs: Sequence[Job]) -> dict[str, Any]:
    """Return how all of ``jobs`` were run, in words for people and machines."""
    first = jobs[0]
    settings, choice = first.settings, first.trace
    objective = settings.policy.objective
    return {
        "policies": ", ".join(dict.fromkeys(job.policy for job in jobs)),
        "seeds": ", ".join(str(seed) for seed in dict.fromkeys(job.settings.seed for job in jobs)),
        "pools": "; ".join(
            f"{name} ({pool.profile.name}, {pool.min_replicas} to {pool.max_replicas} replicas)"
            for name, pool in settings.pools.items()
        ),
        "lead_time_s": settings.lead_time_s,
        "objective": f"TTFT {objective.ttft_s:g} s, TPOT {objective.tpot_s:g} s, {objective.attainment_ratio:.2%}",
        "tick_s": settings.policy.tick_s,
        "scale": choice.scale,
        "slice": _slice_of(choice),
        "faults": ", ".join(settings.faults) or "none",
        "trained model": "none" if first.model_dir is None else first.model_dir.name,
    }


def _slice_of(choice: TraceChoice) -> str:
    start = "from the default start" if choice.start_s is None else f"from {choice.start_s:g} s"
    return f"{start}, " + ("to the default end" if choice.duration_s is None else f"{choice.duration_s:g} s")


def as_json(
    reports: Sequence[RunReport],
    rows: Sequence[SummaryRow],
    settings: dict[str, Any],
    provenance: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return everything that ``compare`` has to say, ready for ``json.dumps``; NaN is None."""
    traces = {report.trace: {"described": report.described, "generated": report.generated} for report in reports}
    return {
        "settings": settings,
        "traces": [{"trace": name, **facts} for name, facts in traces.items()],
        "summary": [_without_nan(asdict(row)) for row in rows],
        "runs": [{**report.as_json(), "variant": report.variant} for report in reports],
        "provenance": dict(provenance or {}),
    }


def _lost(cards: Sequence[Scorecard]) -> Spread:
    return _spread_of([float(card.failed + card.dropped_in_flight) for card in cards])


def _spread(cards: Sequence[Scorecard], name: str) -> Spread:
    return _spread_of([float(getattr(card, name)) for card in cards])


def _spread_of(values: Sequence[float]) -> Spread:
    known = [value for value in values if math.isfinite(value)]
    if not known:
        return Spread(math.nan, math.nan, math.nan)
    return Spread(math.fsum(known) / len(known), min(known), max(known))


def _ratio(value: float, base: float | None) -> float | None:
    return value / base if base else None


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value
