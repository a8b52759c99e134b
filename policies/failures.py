"""What went wrong with the replicas of a pool of late: exits as the platform counts them, and what was believed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from policies.causes import ERRORS, HANG, STRAGGLER
from policies.decisions import Diagnosis
from policies.fleet import PoolState
from policies.memory import FailureMemory, PoolMemory, ReplicaMemory

KEPT_S = 1800.0
"""How long a failure is remembered: longer than a rollout whose replicas fail one by one needs to show a pattern."""

MOST_KEPT = 64
EXIT = "exit"
_BELIEVED = (HANG.name, ERRORS.name, STRAGGLER.name)


def with_exits(
    pool: PoolState, known: PoolMemory, replicas: Mapping[str, ReplicaMemory], at: float, *, first_look: bool
) -> PoolMemory:
    """Return ``known`` with the exits that this look shows: replicas that were restarted in place since the last one.

    Args:
        pool: As it is now.
        known: What was known of it.
        replicas: What was known of replicas before this look, by their name in the fleet.
        at: Instant of the look.
        first_look: Whether it was never looked at before: exits from before that are not counted.
    """
    restarts = {r.id: r.restarts for r in pool.roster.replicas if r.restarts}
    if not restarts and not known.restarts and not known.failures:
        return known
    found = list(_kept(known.failures, at))
    if not first_look and restarts != known.restarts:
        for replica in pool.roster.replicas:
            before = known.restarts.get(replica.id, 0)
            if replica.restarts > before:
                last, life = replicas.get(pool.key.replica(replica.id)), replica.life_after(before)
                served = last is not None and last.life == life and (last.steps_total or 0.0) > 0
                exited_at = min(at, max(replica.requested_at, at - KEPT_S))  # when the platform began it anew
                found.append(
                    FailureMemory(exited_at, life, replica.revision, replica.node, EXIT, replica.exit_reason, served)
                )
    failures = tuple(found[-MOST_KEPT:])
    if failures == known.failures and restarts == known.restarts:
        return known
    return replace(known, failures=failures, restarts=restarts)


def with_beliefs(pool: PoolState, known: PoolMemory, believed: Sequence[Diagnosis], at: float) -> PoolMemory:
    """Return ``known`` with what is newly believed of single replicas; each trouble of a life counts once."""
    there = {r.id: r for r in pool.roster.replicas}
    had = {(failure.life, failure.kind) for failure in known.failures}
    new = []
    for diagnosis in believed:
        replica = there.get(diagnosis.subject)
        if replica is None or diagnosis.pool != pool.key or diagnosis.name not in _BELIEVED:
            continue
        if (replica.life, diagnosis.name) not in had:
            new.append(
                FailureMemory(at, replica.life, replica.revision, replica.node, diagnosis.name, "", serving=True)
            )
    return replace(known, failures=(*known.failures, *new)[-MOST_KEPT:]) if new else known


def since(known: PoolMemory, at: float, kinds: Sequence[str] = ()) -> Iterator[FailureMemory]:
    """Yield the failures from ``at`` on, of these kinds or of all."""
    return (f for f in known.failures if f.at >= at and (not kinds or f.kind in kinds))


def _kept(failures: Sequence[FailureMemory], at: float) -> Iterator[FailureMemory]:
    return (failure for failure in failures if at - failure.at <= KEPT_S)
