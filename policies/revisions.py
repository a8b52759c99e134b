"""Which revision of a pool is known to be good: one that served healthy for a set time while Foresail watched."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import replace

from pydantic import BaseModel, ConfigDict, Field

from policies.cohorts import ERRORS_SIGN, SLOW_SIGN
from policies.fleet import PoolState, ReplicaState
from policies.memory import PoolMemory, RevisionMemory

MOST_REVISIONS = 12
"""Kept per pool: Kubernetes itself keeps ten."""

LONGEST_LOOK_S = 300.0
"""What lies between two looks further apart than this was not watched, and does not count as healthy."""


WITNESS_S = 120.0
"""How much longer than one that failed must another of its revision serve to show that the revision is well: as long as
it may take to find that it is not."""

WITNESS_WAIT_S = 900.0
"""How long another of a revision is waited for; failures further apart make no pattern."""


class RevisionSettings(BaseModel):
    """When a revision is on record as good."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    good_after_s: float = Field(
        600.0,
        gt=0,
        description="Time in seconds for which replicas of a revision must have served, none of them sick, before it "
        "is one to roll back to. Longer than crashes at the first load take, and than most leaks do not.",
    )


def watch_revisions(
    pool: PoolState, known: PoolMemory, sick: Collection[str], at: float, settings: RevisionSettings
) -> PoolMemory:
    """Return ``known`` with this look at the pool's revisions.

    One that is not proven yet begins anew when a replica of it is suspected of anything.

    Args:
        pool: As it is now.
        known: What was known.
        sick: Ids of replicas that something is believed to be wrong with.
        at: Instant of the look.
        settings: When one is good.
    """
    serving = {r.revision for r in pool.roster.replicas if r.serving}
    ailing = {r.revision for r in pool.roster.replicas if r.id in sick}
    revisions = dict(known.revisions)
    for name in {r.revision for r in pool.roster.replicas}:
        before = revisions.get(name) or RevisionMemory(at, looked_at=at)
        passed_s = at - before.looked_at
        healthy = name in serving and name not in ailing and 0 < passed_s <= LONGEST_LOOK_S
        proven = before.healthy_s >= settings.good_after_s
        served_s = 0.0 if name in ailing and not proven else before.healthy_s + passed_s * healthy
        revisions[name] = replace(before, healthy_s=round(served_s, 3), looked_at=at)
    if len(revisions) > MOST_REVISIONS:
        newest = sorted(revisions, key=lambda name: revisions[name].looked_at, reverse=True)[:MOST_REVISIONS]
        revisions = {name: revisions[name] for name in newest}
    return known if revisions == known.revisions else replace(known, revisions=revisions)


def left_by_roll_back(known: PoolMemory, revision: str, at: float) -> PoolMemory:
    """Return ``known`` with the note that the pool left ``revision`` because we rolled it back."""
    before = known.revisions.get(revision) or RevisionMemory(at, looked_at=at)
    return replace(known, revisions={**known.revisions, revision: replace(before, rolled_back_at=at)})


def on_trial(pool: PoolState, known: PoolMemory, settings: RevisionSettings) -> bool:
    """Return whether the present revision took the place of another one and has not shown yet that it is good."""
    seen = known.revisions.get(pool.revision)
    others = any(name != pool.revision for name in known.revisions)
    return others and (seen is None or seen.healthy_s < settings.good_after_s)


def looks_worse(pool: PoolState, known: PoolMemory, at: float, settings: RevisionSettings) -> bool:
    """Return whether replicas of a revision on trial fare worse than others at this look: a sign, no verdict."""
    seen = any(times and times[-1] == at for sign in (ERRORS_SIGN, SLOW_SIGN) if (times := known.signs.get(sign)))
    return seen and on_trial(pool, known, settings)


def witness_due(
    pool: PoolState,
    known: PoolMemory,
    replica: ReplicaState,
    well: Iterable[ReplicaState],
    failed_at: float,
    at: float,
    settings: RevisionSettings,
) -> bool:
    """Return whether another replica will soon show if what a replica suffers from is its own or its revision's.

    That is so while the revision is on trial, others of it are there and none of them has been well for longer than
    this one was, as long as what else serves can wait for that.

    Args:
        pool: As it is.
        known: What is known of its revisions.
        replica: The one that failed.
        well: Replicas of the pool that serve, and of which nothing bad is believed.
        failed_at: When it showed.
        at: Now.
        settings: When a revision is good.
    """
    if replica.revision != pool.revision or not on_trial(pool, known, settings) or at - failed_at > WITNESS_WAIT_S:
        return False
    others = [r for r in well if r.id != replica.id]
    same = any(r.id != replica.id and r.revision == replica.revision for r in pool.roster.replicas)
    proof_s = max(0.0, failed_at - replica.since_at) + WITNESS_S
    proven = any(r.revision == replica.revision and at - r.since_at > proof_s for r in others)
    return bool(others) and same and not proven


def good_revision(pool: PoolState, known: PoolMemory, settings: RevisionSettings) -> str:
    """Return the revision to roll back to; empty when none is known to be good and can be restored.

    It is the one, of those that served healthy for ``good_after_s`` and were never rolled back themselves, that was
    seen last. The present revision is none to go back to.
    """
    found = [
        (revision.looked_at, revision.seen_at, name)
        for name, revision in known.revisions.items()
        if name != pool.revision
        and revision.healthy_s >= settings.good_after_s
        and revision.rolled_back_at is None
        and name in pool.revisions
    ]
    return max(found)[2] if found else ""
