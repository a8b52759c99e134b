"""Is it the revision? What failed of late, held against when the pool's template changed and how other revisions fare.

A pool's failures (``failures``) speak against its newest revision when they are of it alone, of more than one life, and
began after it came; against starts in general when they are of every revision alike or nothing was rolled out; and
against neither when they are of replicas that had served and ended one after the other.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from pydantic import Field

from policies.cohorts import Cohort, CohortSettings, with_figures, worse
from policies.decisions import Anomaly
from policies.failures import EXIT, since
from policies.fleet import Phase, PoolState, ReplicaState
from policies.memory import FailureMemory, PoolMemory
from policies.pool_evidence import noted
from policies.revisions import RevisionSettings, on_trial

NOT_STARTING = frozenset(
    (
        "CrashLoopBackOff", "ImagePullBackOff", "ErrImagePull", "InvalidImageName", "CreateContainerError",
        "CreateContainerConfigError", "RunContainerError",
    )
)  # fmt: skip
"""Reasons of Kubernetes for a container that does not get going by itself."""

OUT_OF_MEMORY = "OOMKilled"

SIMULTANEOUS_S = 0.2
"""Exits closer together have one cause that hit them all; a request takes longer from one replica to the next."""


class RolloutSettings(CohortSettings):
    """When failures are put down to a revision, or to starts, or to what is sent."""

    cohort_look_back_s: float = Field(120.0, gt=0, description="Look-back of the k-of-n rule of cohorts, in seconds.")
    young_s: float = Field(
        3600.0, gt=0, description="Time in seconds after which a revision is no longer suspected for being new."
    )
    window_s: float = Field(900.0, gt=0, description="Look-back for failures, in seconds.")
    least_failures: int = Field(2, ge=2, description="Failures, of different lives, that make a pattern.")
    serial_exits: int = Field(
        3, ge=2, description="Serving replicas that exit one after the other, for one request to be suspected."
    )


@dataclass(frozen=True, slots=True)
class RolloutLook:
    """Evidence of one look at a pool, and what to remember of it."""

    anomalies: tuple[Anomaly, ...]
    memory: PoolMemory


def rollout_evidence(
    at: float,
    pool: PoolState,
    known: PoolMemory,
    found: Mapping[str, Cohort],
    settings: RolloutSettings,
    good: RevisionSettings,
    bad_nodes: Collection[str] = (),
) -> RolloutLook:
    """Return evidence against the pool's revision, its starts, its memory or what is sent to it.

    Args:
        at: Instant of the look.
        pool: As it is.
        known: What is known of it, this look's failures included.
        found: Its cohorts.
        settings: When failures make a pattern.
        good: When a revision counts as good.
        bad_nodes: Nodes with a GPU at fault: what fails there says nothing of revisions, starts or requests.
    """
    recent = [failure for failure in since(known, at - settings.window_s) if failure.node not in bad_nodes]
    waiting = [replica for replica in _waiting(pool) if replica.node not in bad_nodes]
    came_at = _came_at(pool, known)
    young = came_at is not None and at - came_at <= settings.young_s and on_trial(pool, known, good)
    said = worse(pool.revision, found, known.revisions, settings) if young else {}
    signs = noted(known.signs, [sign for sign, words in said.items() if words], at)
    after = with_figures(known if signs == known.signs else replace(known, signs=signs), found)
    if young and came_at is not None:
        against = list(_against_revision(at, pool, known, recent, waiting, came_at, settings))
        for sign, words in said.items():
            times = [t for t in signs.get(sign, ()) if at - t <= settings.cohort_look_back_s]
            if words and len(times) >= settings.cohort_looks:
                since_detail = f"it came {at - came_at:.0f} s ago"
                evidence = [*words, ("revision", since_detail)]
                against += [Anomaly(family, "", pool.key, 1.0, times[0], text) for family, text in evidence]
        only_it = all(failure.revision == pool.revision for failure in recent)
        if against or only_it:  # too few to tell, and if anything it is the revision
            return RolloutLook(tuple(against), after)
    return RolloutLook(tuple(_of_no_revision(at, pool, known, recent, waiting, settings, good)), after)


def _of_no_revision(
    at: float,
    pool: PoolState,
    known: PoolMemory,
    recent: Sequence[FailureMemory],
    waiting: Sequence[ReplicaState],
    settings: RolloutSettings,
    good: RevisionSettings,
) -> list[Anomaly]:
    """Return evidence that is not about a revision: the first pattern that fits."""
    present = known.revisions.get(pool.revision)
    if present is not None and present.healthy_s >= good.good_after_s:
        # What others did, that were rolled back or are on their way out, says nothing of one that is known to be good.
        recent = [failure for failure in recent if failure.revision == pool.revision]
        waiting = [replica for replica in waiting if replica.revision == pool.revision]
    if len({failure.life for failure in recent}) < settings.least_failures and not waiting:
        return []
    found = list(_memory(at, pool, recent, settings))
    found = found or list(_starts(at, pool, known, recent, waiting, settings))
    return found or list(_serial(pool, recent, settings))


def _came_at(pool: PoolState, known: PoolMemory) -> float | None:
    """Return when the present revision came; None when it is not known to have replaced another."""
    seen = known.revisions.get(pool.revision)
    others = [revision for name, revision in known.revisions.items() if name != pool.revision]
    if seen is None and math.isnan(pool.revision_at):
        return None
    if not others:
        return None
    return pool.revision_at if not math.isnan(pool.revision_at) else seen.seen_at if seen is not None else None


def _against_revision(
    at: float,
    pool: PoolState,
    known: PoolMemory,
    recent: Sequence[FailureMemory],
    waiting: Sequence[ReplicaState],
    came_at: float,
    settings: RolloutSettings,
) -> Iterator[Anomaly]:
    """Failures of the new revision alone, since it came; peers of the old one, or its record, speak for that one."""
    since_then = [failure for failure in recent if failure.at >= came_at]
    mine = [failure for failure in since_then if failure.revision == pool.revision]
    others = [failure for failure in since_then if failure.revision != pool.revision]
    waits = [r for r in waiting if r.revision == pool.revision]
    count = len({failure.life for failure in mine}) + len({r.id for r in waits} - {f.life.split("#")[0] for f in mine})
    if count < settings.least_failures or others or len(waits) < len(waiting):
        return
    first_at = min([failure.at for failure in mine], default=at)
    kinds = ", ".join(sorted({failure.kind for failure in mine} | {r.waiting_reason for r in waits}))
    yield Anomaly("platform", "", pool.key, count / settings.least_failures, first_at, f"{count} failures ({kinds})")
    detail = f"all of revision {pool.revision}, which came {first_at - came_at:.0f} s before the first"
    yield Anomaly("revision", "", pool.key, 1.0, first_at, detail)
    old = [r for r in pool.roster.replicas if r.revision != pool.revision and r.serving]
    if old:
        detail = f"{len(old)} of other revisions serve, and none failed"
    else:
        before = max((r.healthy_s for name, r in known.revisions.items() if name != pool.revision), default=0.0)
        detail = f"the one before it served healthy for {before:.0f} s"
    # As the platform says at this look: what is told of answers and latency of revisions beside it is no part of it.
    yield Anomaly("cohort", "", pool.key, 1.0, first_at, detail, age_s=0.0, coverage_ratio=1.0)


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
    at: float,
    pool: PoolState,
    known: PoolMemory,
    recent: Sequence[FailureMemory],
    waiting: Sequence[ReplicaState],
    settings: RolloutSettings,
) -> Iterator[Anomaly]:
    """Starts fail and none succeeds, whatever the revision."""
    exits = [failure for failure in recent if failure.kind == EXIT and not failure.serving]
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
    exits.sort(key=lambda failure: failure.at)
    apart = sum(after.at - before.at >= SIMULTANEOUS_S for before, after in pairwise(exits)) + 1
    nodes = {failure.node for failure in exits if failure.node}
    if len(victims) < settings.serial_exits or apart < settings.serial_exits or len(nodes) == 1 < len(victims):
        return
    first_at = exits[0].at
    yield Anomaly("platform", "", pool.key, 1.0, first_at, f"{len(victims)} replicas that served have exited")
    pace_s = (exits[-1].at - first_at) / max(1, len(exits) - 1)
    yield Anomaly("sequence", "", pool.key, 1.0, first_at, f"one after the other, {pace_s:.0f} s apart")


def _waiting(pool: PoolState) -> list[ReplicaState]:
    return [r for r in pool.roster.unsettled if r.waiting_reason in NOT_STARTING and r.phase is not Phase.READY]
