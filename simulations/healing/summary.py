"""What do all worlds come to: per failure and policy, and against the targets, with how sure that is?"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from simulations.healing.plans import HOURS, PLANS
from simulations.healing.runs import WorldRun
from simulations.healing.truths import BESIDE, HANGS, RECALLED

CONFIDENCE = 0.95
NOT_PLAYED = "-"


@dataclass(frozen=True, slots=True)
class Share:
    """``count`` of ``of``, with the exact (Clopper-Pearson) interval; of 0 of N its upper end is about 3.7 / N."""

    count: int
    of: int

    @property
    def ratio(self) -> float:
        """NaN of none."""
        return self.count / self.of if self.of else math.nan

    @property
    def interval(self) -> tuple[float, float]:
        """Where the ratio lies with ``CONFIDENCE``.

        >>> [round(end, 3) for end in Share(0, 20).interval]
        [0.0, 0.168]
        """
        from scipy.special import betaincinv

        tail, k, n = (1.0 - CONFIDENCE) / 2.0, self.count, self.of
        low = float(betaincinv(k, n - k + 1, tail)) if k else 0.0
        return low, float(betaincinv(k + 1, n - k, 1.0 - tail)) if k < n else 1.0


@dataclass(frozen=True, slots=True)
class Spread:
    """Median and 99th percentile of seconds by the nearest rank, over ``of`` worlds; NaN without any.

    What never came counts as infinite.
    """

    p50_s: float
    p99_s: float
    of: int


@dataclass(frozen=True, slots=True)
class Row:
    """One failure under one policy.

    Attributes:
        worlds: How many there were; those in which the fault hit nothing are left out.
        detected, diagnosed, right, wrong: In how many it was noticed, called by its name, put right with nothing
            wrong done, or something wrong was done.
        detect: Time from the strike until it was noticed, where it was.
        recover: Time from the strike until recovery, in all worlds.
        lost: Median of requests lost.
        restarted: Restarts of replicas with which nothing was wrong.
        replica_hours: Of READY replicas.
    """

    kind: str
    policy: str
    worlds: int
    detected: Share
    diagnosed: Share
    right: Share
    wrong: Share
    detect: Spread
    recover: Spread
    lost: float
    restarted: int
    replica_hours: float


@dataclass(frozen=True, slots=True)
class Target:
    """What is aimed at, and what came of it.

    Attributes:
        name, aim: In words.
        policy: Whose outcome it is.
        value: What came of it; NaN where nothing was played that could say.
        told: The same in words.
        sure: How sure that is, with 95 % confidence, or of how many it is; empty where nothing is said.
        met: None where nothing was played that could say.
    """

    name: str
    aim: str
    policy: str
    value: float
    told: str
    sure: str
    met: bool | None


def rows(runs: Sequence[WorldRun]) -> list[Row]:
    """Return a row for each kind and policy, in the order in which they come."""
    groups: dict[tuple[str, str], list[WorldRun]] = {}
    for run in runs:
        groups.setdefault((run.kind, run.policy), []).append(run)
    return [_row(kind, policy, [run for run in mine if run.struck]) for (kind, policy), mine in groups.items()]


def _row(kind: str, policy: str, runs: Sequence[WorldRun]) -> Row:
    verdicts = [run.verdict for run in runs]
    found = [v.detected_s for v in verdicts if not math.isnan(v.detected_s)]
    back = [v.recovered_s for v in verdicts if not math.isnan(v.recovered_s)]
    return Row(
        kind,
        policy,
        len(runs),
        detected=Share(len(found), len(runs)),
        diagnosed=Share(sum(v.diagnosed for v in verdicts), len(runs)),
        right=Share(sum(v.right for v in verdicts), len(runs)),
        wrong=Share(sum(bool(v.wrong) for v in verdicts), len(runs)),
        detect=spread(found),
        recover=spread(back),
        lost=float(np.median([v.lost for v in verdicts])) if verdicts else math.nan,
        restarted=sum(v.wronged for v in verdicts),
        replica_hours=math.fsum(run.replica_hours for run in runs),
    )


def spread(seconds: Sequence[float]) -> Spread:
    """Return median and 99th percentile, by the nearest rank.

    >>> spread([30.0, 60.0, math.inf])
    Spread(p50_s=60.0, p99_s=inf, of=3)
    """
    if not seconds:
        return Spread(math.nan, math.nan, 0)
    ordered = sorted(seconds)
    p50, p99 = (ordered[max(0, math.ceil(level * len(ordered)) - 1)] for level in (0.5, 0.99))
    return Spread(p50, p99, len(ordered))


def targets(runs: Sequence[WorldRun], policy: str) -> list[Target]:
    """Return what is aimed at, and how far ``policy`` came; kinds that are shown beside count for none of it."""
    mine = [run for run in runs if run.policy == policy and run.struck and run.kind not in BESIDE]
    faults = [run for run in mine if run.kind in PLANS]
    answer = []
    for code, kinds in RECALLED.items():
        noticed = [not math.isnan(run.verdict.detected_s) for run in faults if run.kind in kinds]
        answer.append(_share(f"recall {code}", ">= 98 %", policy, noticed, lambda ratio: ratio >= 0.98))
    answer.append(_healthy_restarts(mine, policy))
    found = [run.verdict.detected_s for run in faults if run.kind in HANGS and not math.isnan(run.verdict.detected_s)]
    quick = spread(found)
    for name, value, most in (("median", quick.p50_s, 60.0), ("P99", quick.p99_s, 120.0)):
        met = None if math.isnan(value) else value <= most
        told = NOT_PLAYED if met is None else f"{value:.0f} s"
        sure = "" if met is None else f"{quick.of} hangs"
        answer.append(Target(f"hang seen, {name}", f"<= {most:g} s", policy, value, told, sure, met))
    right = [run.verdict.right for run in faults]
    answer.append(_share("right remedy", ">= 95 %", policy, right, lambda ratio: ratio >= 0.95))
    wrong = [bool(run.verdict.wrong) for run in mine]
    answer.append(_share("wrong remedy", "<= 0.5 %", policy, wrong, lambda ratio: ratio <= 0.005))
    return answer


def _share(name: str, aim: str, policy: str, happened: Sequence[bool], meets: Callable[[float], bool]) -> Target:
    share = Share(sum(happened), len(happened))
    if not share.of:
        return Target(name, aim, policy, math.nan, NOT_PLAYED, "", None)
    low, high = share.interval
    sure = f"{100 * low:.3g}-{100 * high:.3g} %"
    return Target(name, aim, policy, share.ratio, f"{share.count}/{share.of}", sure, meets(share.ratio))


def _healthy_restarts(runs: Sequence[WorldRun], policy: str) -> Target:
    name, aim = "healthy restarts", "0 in 10,000 h"
    long = [run for run in runs if run.kind == HOURS]
    hours = math.fsum(run.replica_hours for run in long)
    count = sum(run.verdict.wronged for run in long)
    if not long:
        return Target(name, aim, policy, math.nan, NOT_PLAYED, "", None)
    # Rule of three: when none of N came, the rate is below 3 / N with 95 % confidence.
    sure = f"< {3.0 / hours * 10_000:.1f} in 10,000 h" if not count else ""
    return Target(name, aim, policy, count, f"{count:,}/{hours:,.0f} h", sure, count == 0)
