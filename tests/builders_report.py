"""Finished runs for tests of reports: figures as wanted, curves that look like a day with a burst."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from policies.slo import ServiceObjective
from simulations.comparison import facts_of
from simulations.job import Job, RunReport, TraceChoice
from simulations.provenance import Provenance, TraceDigest
from simulations.report_files import ReportFiles, files_of
from simulations.scorecard import CURVE_LEVELS, Curves, Scorecard, TimelinePoint
from simulations.timeline import Timeline
from tests.builders_simulation import quick_settings

POOL = "m/p/unified"
TICK_S = 15.0
ORIGIN = Provenance(
    "foresail compare --trace t.csv --out there", {"foresail": "1"}, (TraceDigest("t.csv", "ab" * 32, 10),), "cd" * 32
)
TWENTY = (
    "foresail", "hpa", "static", "clairvoyant", "keda-queue", "keda-tokens", "knative-kpa", "aibrix-apa", "aibrix-kpa",
    "wva-saturation", "dynamo-load-throughput", "dynamo-load-latency", "dynamo-sla", "ray-serve", "skyserve",
    "seasonal-last-week", "phpa", "rival-18", "rival-19", "rival-20",
)  # fmt: skip


def a_card(policy: str = "hpa", **figures: object) -> Scorecard:
    """A scorecard of a quiet quarter of an hour."""
    card = Scorecard(
        policy=policy, requests=100, completed=98, failed=1, dropped_in_flight=1, slo_attainment_ratio=0.97,
        ttft_p50_s=0.2, ttft_p95_s=0.9, ttft_p99_s=1.5, tpot_p50_s=0.03, tpot_p95_s=0.05, goodput_requests_per_s=1.0,
        goodput_tokens_per_s=200.0, gpu_hours=10.0, cost_usd=20.0, mean_replicas=2.5, peak_replicas=4, scale_ups=2,
        scale_downs=1, simulated_s=300.0, wall_s=0.5, decisions_digest="ab" * 32, violations=(), missed_requests=3,
        churn_per_hour=12.0, replicas_started=1, replicas_stopped=0, unused_starts=0, loading_gpu_hours=0.5,
        idle_gpu_hours=0.25, unproductive_usd=1.5,
    )  # fmt: skip
    return replace(card, **figures)  # type: ignore[arg-type]  # names are checked by replace


def a_run(policy: str = "hpa", seed: int = 0, trace: str = "t.csv", **figures: object) -> RunReport:
    """A short run with these figures of its scorecard."""
    points = [TimelinePoint(TICK_S * i, 3, 2, 1, 3, "ets", ((POOL, 2),), float(i % 4), 0.0, 0.5) for i in range(20)]
    ttft = tuple(0.1 + level for level in CURVE_LEVELS)
    curves = Curves((5.0, 6.0, 7.0, 6.0, 5.0), (0.5, math.nan, 0.7, 0.9, 0.5), (1.0, math.nan, 0.9, 0.9, 1.0), ttft)
    card = a_card(policy, **figures)
    return RunReport(trace, f"{trace}: recorded", False, seed, card, Timeline(points), curves, {POOL: 3.0})


def a_long_run(policy: str, seed: int, trace: str, days: float, rng: np.random.Generator) -> RunReport:
    """A run over days: load by the hour of day, replicas that follow it, queues that come and go, noise in all."""
    ticks, minutes = int(days * 86_400 / TICK_S), int(days * 1_440)
    at_s = np.arange(ticks) * TICK_S
    wanted = 12 + 8 * np.sin(at_s / 86_400 * 2 * np.pi) + rng.normal(0, 0.7, ticks).cumsum() / 40
    ready = np.maximum(1, np.rint(wanted)).astype(int)
    queued = rng.poisson(2, ticks) * (rng.random(ticks) < 0.3)
    shares = np.clip(1.0 - rng.exponential(0.006, minutes), 0.0, 1.0)
    load = 30 + 20 * np.sin(np.arange(minutes) / 1_440 * 2 * np.pi) + rng.normal(0, 1, minutes)
    points = tuple(
        TimelinePoint(float(t), int(r) + 1, int(r), 1, int(r) + 1, "ets", ((POOL, int(r)),), float(q), 0.0, 0.5)
        for t, r, q in zip(at_s, ready, queued, strict=True)
    )
    curves = Curves(
        tuple(load.tolist()),
        tuple(rng.gamma(4, 0.2, minutes).tolist()),
        tuple(shares.tolist()),
        tuple(np.sort(rng.gamma(4, 0.2, len(CURVE_LEVELS))).tolist()),
    )
    attained, hours = float(shares.mean() - rng.random() * 0.02), float(rng.uniform(800, 1300))
    requests = int(load.sum() * 60)
    card = a_card(
        policy, requests=requests, missed_requests=round((1 - attained) * requests), slo_attainment_ratio=attained,
        gpu_hours=hours, cost_usd=2 * hours, simulated_s=days * 86_400.0, time_to_recover_longest_s=600.0,
        time_to_recover_mean_s=200.0, missed_spells=3,
    )  # fmt: skip
    return RunReport(trace, f"{trace}: made up", True, seed, card, Timeline(points), curves, {POOL: 3.0})


def report_on(runs: Sequence[RunReport], origin: Provenance = ORIGIN) -> ReportFiles:
    """All files of a report on ``runs``."""
    job = Job(TraceChoice(Path("t.csv"), "t.csv"), "hpa", quick_settings())
    return files_of(runs, ServiceObjective(), facts_of([job]), origin)
