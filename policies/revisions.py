"""Which revision of a pool is known to be good: one that served healthy for a set time while Foresail watched."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from pydantic import BaseModel, ConfigDict, Field

from policies.fleet import PoolState
from policies.memory import PoolMemory, RevisionMemory

MOST_REVISIONS = 12
"""Kept per pool: Kubernetes itself keeps ten."""

LONGEST_LOOK_S = 300.0
"""What lies between two looks further apart than this was not watched, and does not count as healthy."""


class RevisionSettings(BaseModel):
    """When a revision is on record as good."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    good_after_s: float = Field(
        600.0,
        gt=0,
        description="Time in seconds for which replicas of a revision must have served, none of them sick, before it "
        "is one to roll back to. Longer than crashes at the first load take, and than most leaks do not.",
    )


def watch_revisions(pool: PoolState, known: PoolMemory, sick: Collection[str], at: float) -> PoolMemory:
    """Return ``known`` with this look at the pool's revisions.

    Args:
        pool: As it is now.
        known: What was known.
        sick: Ids of replicas that something is believed to be wrong with.
        at: Instant of the look.
    """
    serving = {r.revision for r in pool.roster.replicas if r.serving}
    ailing = {r.revision for r in pool.roster.replicas if r.id in sick}
    revisions = dict(known.revisions)
    for name in {r.revision for r in pool.roster.replicas}:
        before = revisions.get(name) or RevisionMemory(at, looked_at=at)
        passed_s = at - before.looked_at
        healthy = name in serving and name not in ailing and 0 < passed_s <= LONGEST_LOOK_S
        revisions[name] = replace(before, healthy_s=round(before.healthy_s + passed_s * healthy, 3), looked_at=at)
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
