"""Is it the revision? What failed of late, held against when the pool's template changed and how other revisions fare.

A pool's failures (``failures``) speak against its newest revision when they are of it alone, of more than one life, and
began after it came; against starts in general when they are of every revision alike or nothing was rolled out; and
against neither when they are of replicas that had served and ended one after the other.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
from pydantic import BaseModel, ConfigDict, Field
from scipy.stats import mannwhitneyu

from policies.decisions import Anomaly
from policies.failures import EXIT, since
from policies.fleet import FleetState, Phase, PoolState, ReplicaState
from policies.memory import FailureMemory, PoolMemory
from policies.revisions import RevisionSettings

NOT_STARTING = frozenset(
    (
        "CrashLoopBackOff", "ImagePullBackOff", "ErrImagePull", "InvalidImageName", "CreateContainerError",
        "CreateContainerConfigError", "RunContainerError",
    )
)  # fmt: skip
"""Reasons of Kubernetes for a container that does not get going by itself."""

OUT_OF_MEMORY = "OOMKilled"


class RolloutSettings(BaseModel):
    """When failures are put down to a revision, or to starts, or to what is sent."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    young_s: float = Field(
        3600.0, gt=0, description="Time in seconds after which a revision is no longer suspected for being new."
    )
    window_s: float = Field(900.0, gt=0, description="Look-back for failures, in seconds.")
    least_failures: int = Field(2, ge=2, description="Failures, of different lives, that make a pattern.")
    serial_exits: int = Field(
        3, ge=2, description="Serving replicas that exit one after the other, for one request to be suspected."
    )
    cohort_ratio: float = Field(
        1.6, gt=1, description="Median TPOT of the new revision over that of the others from which it is slower."
    )
    cohort_p: float = Field(
        0.02, gt=0, lt=1, description="Chance (one-sided Mann-Whitney U test) below which such a difference is none."
    )
    least_cohort: int = Field(3, ge=2, description="Replicas on either side for cohorts to be compared.")


def rollout_evidence(
    fleet: FleetState, pool: PoolState, known: PoolMemory, settings: RolloutSettings, good: RevisionSettings
) -> list[Anomaly]:
    """Return evidence against the pool's revision, its starts, its memory or what is sent to it."""
    at = fleet.at
    recent = list(since(known, at - settings.window_s))
    lives = {failure.life for failure in recent}
    came_at = _came_at(pool, known)
    young = came_at is not None and at - came_at <= settings.young_s and _unproven(pool, known, good)
    found: list[Anomaly] = []
    if young and came_at is not None:
        found += _against_revision(at, pool, known, recent, came_at, settings)
        found += _slower_cohort(at, pool, came_at, settings)
    if found:
        return found
    if young and all(failure.revision == pool.revision for failure in recent):
        return found  # too few to tell, and if anything it is the revision
    if len(lives) >= settings.least_failures or _waiting(pool):
        found += _memory(at, pool, recent, settings)
        found = found or list(_starts(at, pool, known, recent, settings))
        found = found or list(_serial(pool, recent, settings))
    return found


def _came_at(pool: PoolState, known: PoolMemory) -> float | None:
    """Return when the present revision came; None when it is not known to have replaced another."""
    seen = known.revisions.get(pool.revision)
    others = [revision for name, revision in known.revisions.items() if name != pool.revision]
    if seen is None and math.isnan(pool.revision_at):
        return None
    if not others:
        return None
    return pool.revision_at if not math.isnan(pool.revision_at) else seen.seen_at if seen is not None else None


def _unproven(pool: PoolState, known: PoolMemory, good: RevisionSettings) -> bool:
    seen = known.revisions.get(pool.revision)
    return seen is None or seen.healthy_s < good.good_after_s


def _against_revision(
    at: float,
    pool: PoolState,
    known: PoolMemory,
    recent: Sequence[FailureMemory],
    came_at: float,
    settings: RolloutSettings,
) -> Iterator[Anomaly]:
    """Failures of the new revision alone, since it came; peers of the old one, or its record, speak for that one."""
    since_then = [failure for failure in recent if failure.at >= came_at]
    mine = [failure for failure in since_then if failure.revision == pool.revision]
    others = [failure for failure in since_then if failure.revision != pool.revision]
    waiting = [r for r in _waiting(pool) if r.revision == pool.revision]
    count = len({failure.life for failure in mine}) + len(
        {r.id for r in waiting} - {f.life.split("#")[0] for f in mine}
    )
    if count < settings.least_failures or others or any(r.revision != pool.revision for r in _waiting(pool)):
        return
    first_at = min([failure.at for failure in mine], default=at)
    kinds = ", ".join(sorted({failure.kind for failure in mine} | {r.waiting_reason for r in waiting}))
    yield Anomaly("platform", "", pool.key, count / settings.least_failures, first_at, f"{count} failures ({kinds})")
    detail = f"all of revision {pool.revision}, which came {first_at - came_at:.0f} s before the first"
    yield Anomaly("revision", "", pool.key, 1.0, first_at, detail)
    old = [r for r in pool.roster.replicas if r.revision != pool.revision and r.serving]
    if old:
        yield Anomaly("cohort", "", pool.key, 1.0, first_at, f"{len(old)} of other revisions serve, and none failed")
    else:
        before = max((r.healthy_s for name, r in known.revisions.items() if name != pool.revision), default=0.0)
        yield Anomaly("cohort", "", pool.key, 1.0, first_at, f"the one before it served healthy for {before:.0f} s")


def _slower_cohort(at: float, pool: PoolState, came_at: float, settings: RolloutSettings) -> Iterator[Anomaly]:
    """TPOT of the new revision against that of the others: Mann-Whitney U, and a ratio of medians that matters."""
    tpot_s = np.where(pool.roster.serving, pool.told.of("tpot_mean_s"), np.nan)
    is_new = np.array([r.revision == pool.revision for r in pool.roster.replicas], np.bool_)
    new, old = tpot_s[is_new & ~np.isnan(tpot_s)], tpot_s[~is_new & ~np.isnan(tpot_s)]
    if min(len(new), len(old)) < settings.least_cohort:
        return
    ratio = float(np.median(new) / max(float(np.median(old)), 1e-9))
    if ratio < settings.cohort_ratio:
        return
    chance = float(mannwhitneyu(new, old, alternative="greater", method="auto").pvalue)
    if chance > settings.cohort_p and not float(new.min()) > float(old.max()):
        return
    words = (
        f"TPOT of revision {pool.revision} is {ratio:.1f} times that of the others ({len(new)} and {len(old)} replicas)"
    )
    yield Anomaly("cohort", "", pool.key, ratio / settings.cohort_ratio, at, words)
    yield Anomaly("latency", "", pool.key, 1.0, at, f"by chance with a probability of {chance:.3f}")
    yield Anomaly("revision", "", pool.key, 1.0, at, f"it came {at - came_at:.0f} s ago")


def _memory(
    at: float, pool: PoolState, recent: Sequence[FailureMemory], settings: RolloutSettings
) -> Iterator[Anomaly]:
    killed = [failure for failure in recent if failure.kind == EXIT and failure.reason == OUT_OF_MEMORY]
    lives = {failure.life for failure in killed}
    if len(lives) < settings.least_failures:
        return
    first_at = killed[0].at
    yield Anomaly("memory", "", pool.key, 1.0, first_at, f"{len(lives)} engines were killed for want of memory")
    yield Anomaly("platform", "", pool.key, 1.0, first_at, f"within {at - first_at:.0f} s, as the platform says")


def _starts(
    at: float, pool: PoolState, known: PoolMemory, recent: Sequence[FailureMemory], settings: RolloutSettings
) -> Iterator[Anomaly]:
    """Starts fail and none succeeds, whatever the revision."""
    exits = [failure for failure in recent if failure.kind == EXIT and not failure.serving]
    waiting = _waiting(pool)
    replicas = {failure.life.split("#")[0] for failure in exits} | {r.id for r in waiting}
    if len(replicas) < settings.least_failures and len({f.life for f in exits}) < settings.least_failures + 1:
        return
    first_at = min([failure.at for failure in exits], default=at)
    if known.served_at is not None and known.served_at >= first_at:
        return  # a start that succeeded since then
    reasons = ", ".join(sorted({r.waiting_reason for r in waiting} | {f.reason for f in exits if f.reason})) or "exits"
    yield Anomaly("platform", "", pool.key, 1.0, first_at, f"starts of {len(replicas)} replicas fail ({reasons})")
    revisions = {r.revision for r in waiting} | {f.revision for f in exits}
    detail = f"none succeeded for {at - first_at:.0f} s, of revision {' and '.join(sorted(revisions))}"
    yield Anomaly("starts", "", pool.key, 1.0, first_at, detail)


def _serial(pool: PoolState, recent: Sequence[FailureMemory], settings: RolloutSettings) -> Iterator[Anomaly]:
    """Replicas that served exit one after the other, on different nodes, none for want of memory."""
    exits = [f for f in recent if f.kind == EXIT and f.serving and f.reason != OUT_OF_MEMORY]
    victims = {failure.life.split("#")[0] for failure in exits}
    instants = {failure.at for failure in exits}
    if len(victims) < settings.serial_exits or len(instants) < settings.serial_exits:
        return
    first_at = exits[0].at
    yield Anomaly("platform", "", pool.key, 1.0, first_at, f"{len(victims)} replicas that served have exited")
    pace_s = (exits[-1].at - first_at) / max(1, len(exits) - 1)
    yield Anomaly("sequence", "", pool.key, 1.0, first_at, f"one after the other, {pace_s:.0f} s apart")


def _waiting(pool: PoolState) -> list[ReplicaState]:
    return [r for r in pool.roster.unsettled if r.waiting_reason in NOT_STARTING and r.phase is not Phase.READY]
