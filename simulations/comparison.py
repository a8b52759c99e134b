"""Which policy did best on which trace: many runs, side by side."""

from __future__ import annotations

import math
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from multiprocessing import active_children, get_context
from typing import Any

from simulations.job import Job, RunReport, TraceChoice
from simulations.scorecard import Scorecard

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
)
"""Fields of the scorecard that are averaged over seeds."""


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
        variant: The setting that a sweep tried; empty for settings as they are given.
    """

    trace: str
    policy: str
    runs: int
    figures: dict[str, Spread]
    gpu_hours_to_clairvoyant: float | None
    gpu_hours_to_hpa: float | None
    violations: int
    variant: str = ""


def run_all(jobs: Sequence[Job], workers: int, finished: Callable[[int], None]) -> list[RunReport]:
    """Do all jobs, in ``workers`` processes when more than one, and return their reports in the order of ``jobs``.

    ``finished`` is called after each job with how many are done. The first job that fails ends everything at once, and
    so does an interrupt. Several traces are all opened and checked before the first run.

    Raises:
        BadInput: If a job cannot be done.
    """
    _check_traces(jobs)
    if workers <= 1 or len(jobs) <= 1:
        reports = []
        for job in jobs:
            reports.append(job.run())
            finished(len(reports))
        return reports
    others = set(active_children())
    # Fresh interpreters: a forked one would inherit threads of torch and numpy that do not survive a fork.
    with ProcessPoolExecutor(min(workers, len(jobs)), mp_context=get_context("spawn")) as pool:
        done: dict[int, RunReport] = {}
        try:
            with _interrupts_held_back():
                futures = {pool.submit(Job.run, job): place for place, job in enumerate(jobs)}
            for future in as_completed(futures):
                done[futures[future]] = future.result()
                finished(len(done))
        except BaseException:
            for worker in set(active_children()) - others:
                worker.terminate()  # nobody waits hours for runs that nobody will see
            pool.shutdown(cancel_futures=True)
            raise
    return [done[place] for place in range(len(jobs))]


def _check_traces(jobs: Sequence[Job]) -> None:
    """Refuse a comparison of several traces before the first run if one of them cannot be used."""
    choices = dict.fromkeys(job.trace for job in jobs)
    if len(choices) > 1:  # the first run of a single trace finds out as soon
        for choice in choices:
            mine = [job for job in jobs if job.trace == choice]
            max(mine, key=lambda job: job.policy == "foresail").check()  # it asks for a model, which rivals do not


@contextmanager
def _interrupts_held_back() -> Iterator[None]:
    """Start processes that Ctrl-C does not reach, as it reaches all of a terminal: this one ends them.

    They inherit what is blocked, from their first moment. Here an interrupt is only noted meanwhile (another thread of
    a library may get it in spite of the block), for a process that is half started would be nobody's.
    """
    noted: list[int] = []
    usual = signal.signal(signal.SIGINT, lambda number, _frame: noted.append(number))
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        signal.signal(signal.SIGINT, usual)
        if noted:
            signal.raise_signal(signal.SIGINT)


def summarised(reports: Sequence[RunReport]) -> list[SummaryRow]:
    """Return one row per trace, policy and swept setting, in the order in which they first appear."""
    groups: dict[tuple[str, str, str], list[Scorecard]] = {}
    for report in reports:
        groups.setdefault((report.trace, report.scorecard.policy, report.variant), []).append(report.scorecard)
    gpu_hours = {key: _spread(cards, "gpu_hours").mean for key, cards in groups.items()}
    return [
        SummaryRow(
            trace=trace,
            policy=policy,
            runs=len(cards),
            figures={name: _spread(cards, name) for name in SUMMARISED} | {"lost_requests": _lost(cards)},
            gpu_hours_to_clairvoyant=_ratio(
                gpu_hours[trace, policy, variant], gpu_hours.get((trace, "clairvoyant", ""))
            ),
            gpu_hours_to_hpa=_ratio(gpu_hours[trace, policy, variant], gpu_hours.get((trace, "hpa", ""))),
            violations=sum(len(card.violations) for card in cards),
            variant=variant,
        )
        for (trace, policy, variant), cards in groups.items()
    ]


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


def as_json(reports: Sequence[RunReport], rows: Sequence[SummaryRow], settings: dict[str, Any]) -> dict[str, Any]:
    """Return everything that ``compare`` has to say, ready for ``json.dumps``; NaN is None."""
    traces = {report.trace: {"described": report.described, "generated": report.generated} for report in reports}
    return {
        "settings": settings,
        "traces": [{"trace": name, **facts} for name, facts in traces.items()],
        "summary": [_without_nan(asdict(row)) for row in rows],
        "runs": [report.as_json() for report in reports],
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
    return None if isinstance(value, float) and math.isnan(value) else value
