"""What happened shortly before a trouble began, and was it we who did it? Acts, movements, rollouts and nodes.

That one came after the other does not make it the cause; whoever looks for the cause looks there first. Where a pool
has too much to do right after we moved traffic to it or gave up replicas of it, the next step of that is held.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from policies.causes import OUT_OF_MEMORY, OVERLOAD, PREEMPTIONS, RETRY_STORM
from policies.decisions import Diagnosis
from policies.fleet import FleetState, PoolKey, PoolState
from policies.healing_memory import MoveMemory, TroubleMemory
from policies.memory import PolicyMemory, PoolMemory

WINDOW_S = 600.0
"""What came earlier than this before the first evidence is not told."""

OURS_S = 300.0
"""A trouble that began within so many seconds of our own movement is put down to it, as far as that goes on."""

MOST = 3
"""So many are told, the latest first."""

_ONE_MOVE_S = 120.0
"""Steps in one direction that are closer together than this are one movement."""

_ONE_TROUBLE_S = 120.0
"""What is believed again so soon is the same trouble."""

_LEAST_WEIGHT = 0.01

_OF_LOAD = frozenset(cause.name for cause in (OVERLOAD, PREEMPTIONS, RETRY_STORM, OUT_OF_MEMORY))
"""Troubles of a pool that come of more to do for each of its replicas: what our own movements can make."""


@dataclass(frozen=True, slots=True)
class _Event:
    at: float
    text: str
    move: MoveMemory | None = None


def with_moves(pool: PoolState, known: PoolMemory, at: float) -> PoolMemory:
    """Return ``known`` with what has changed in the pool's weight and size since it was last listed.

    What came about as we asked for is ours; what a mode held did not come about. It was done after the look before.
    """
    weight = None if math.isnan(pool.weight) else round(pool.weight, 4)
    moves = tuple(move for move in known.moves if at - move.at <= WINDOW_S + OURS_S)
    done_at = known.listed_at if known.listed_at is not None else at
    if known.weight is not None and weight is not None and abs(weight - known.weight) >= _LEAST_WEIGHT:
        ours = known.asked_weight is not None and abs(weight - known.asked_weight) < _LEAST_WEIGHT
        moves = _moved(moves, MoveMemory("traffic", done_at, done_at, known.weight, weight, ours))
    if known.size is not None and pool.desired != known.size:
        ours = bool(known.desired) and known.desired[-1][1] == pool.desired
        moves = _moved(moves, MoveMemory("size", done_at, done_at, known.size, pool.desired, ours))
    weight = known.weight if weight is None else weight
    if (moves, weight, pool.desired) == (known.moves, known.weight, known.size):
        return known
    return replace(known, moves=moves, weight=weight, size=pool.desired)


def _moved(moves: tuple[MoveMemory, ...], newest: MoveMemory) -> tuple[MoveMemory, ...]:
    """Return ``moves`` with one more step: of each kind the last two movements are kept."""
    of_kind = [move for move in moves if move.what == newest.what]
    others = tuple(move for move in moves if move.what != newest.what)
    last = of_kind[-1] if of_kind else None
    if last is not None and last.ours == newest.ours and newest.at - last.at <= _ONE_MOVE_S:
        goes_on = (last.after - last.before) * (newest.after - newest.before) > 0
        if goes_on:
            return (*others, *of_kind[:-1], replace(last, at=newest.at, after=newest.after))
    return (*others, *of_kind[-1:], newest)


def correlated(
    fleet: FleetState, diagnoses: Sequence[Diagnosis], memory: PolicyMemory, pools: Mapping[str, PoolMemory]
) -> tuple[tuple[Diagnosis, ...], Mapping[str, PoolMemory]]:
    """Return ``diagnoses``, each with what came shortly before it began, and memory of the pools that changed.

    What is found at the first diagnosis stands as long as the trouble does: its evidence is that of the last minutes.

    Args:
        fleet: What is there.
        diagnoses: What is believed.
        memory: Acts and cordons on record.
        pools: What is known of each pool, this tick's movements included.
    """
    states = {pool.key: pool for pool in fleet.pools}
    now: dict[str, dict[str, TroubleMemory]] = {}
    told = []
    for diagnosis in diagnoses:
        key, name = str(diagnosis.pool), f"{diagnosis.subject} {diagnosis.name}"
        before = pools[key].troubles.get(name)
        if before is not None and fleet.at - before.seen_at <= _ONE_TROUBLE_S:
            found = replace(diagnosis, beside=before.beside, ours=before.ours)
        else:
            found = _beside(fleet, states[diagnosis.pool], diagnosis, memory, pools[key])
        now.setdefault(key, {})[name] = TroubleMemory(fleet.at, found.beside, found.ours)
        told.append(found)
    changed = {}
    for key, known in pools.items():
        if known.troubles or key in now:
            recent = {n: each for n, each in known.troubles.items() if fleet.at - each.seen_at <= _ONE_TROUBLE_S}
            changed[key] = replace(known, troubles={**recent, **now.get(key, {})})
    return tuple(told), changed


def _beside(
    fleet: FleetState, pool: PoolState, diagnosis: Diagnosis, memory: PolicyMemory, known: PoolMemory
) -> Diagnosis:
    since_at = diagnosis.since_at
    near = [event for event in _events(fleet, pool, diagnosis, memory, known) if 0 <= since_at - event.at <= WINDOW_S]
    if not near:
        return diagnosis
    near.sort(key=lambda event: -event.at)
    ours = ""
    if not diagnosis.subject and diagnosis.name in _OF_LOAD:
        ours = next((e.move.what for e in near if e.move and _burdens(e.move) and since_at - e.at <= OURS_S), "")
    told = tuple(f"{_ago(since_at - event.at)} after {event.text}" for event in near[:MOST])
    return replace(diagnosis, beside=told, ours=ours)


def _burdens(move: MoveMemory) -> bool:
    """Return whether it was we who gave the replicas of the pool more to do."""
    return move.ours and (move.after > move.before if move.what == "traffic" else move.after < move.before)


def _events(
    fleet: FleetState, pool: PoolState, diagnosis: Diagnosis, memory: PolicyMemory, known: PoolMemory
) -> Iterator[_Event]:
    key, subject = str(pool.key), diagnosis.subject
    of_others = {name: each for name, each in known.revisions.items() if name != pool.revision}
    if of_others:
        seen = known.revisions.get(pool.revision)
        began_at = pool.revision_at if not math.isnan(pool.revision_at) else seen.seen_at if seen else math.nan
        yield _Event(began_at, f"revision {pool.revision} began")
    for act in memory.actions:
        if act.pool == key:
            whom = "it" if act.target == subject else act.target
            text = f"we restarted {whom}" if act.kind == "restart" else f"we rolled back revision {act.target}"
            yield _Event(act.started_at, text)
    prefix = f"{key}/"
    for name, cordon in memory.cordons.items():
        if name.startswith(prefix):
            whom = name.removeprefix(prefix)
            yield _Event(cordon.at, f"we took {'it' if whom == subject else whom} out of traffic")
    for move in known.moves:
        # Of a movement that went on when the trouble began, what counts is that it had begun.
        at = move.at if move.at <= diagnosis.since_at else move.began_at
        yield _Event(at, _text_of(move), move)
    homes = {r.node for r in pool.roster.replicas if r.node and subject in ("", r.id)}
    for home in homes:
        node = fleet.nodes.get(home)
        if node is not None and not node.ready:
            yield _Event(node.since_at, f"node {home} went not ready")


def _text_of(move: MoveMemory) -> str:
    who = "we" if move.ours else "somebody else"
    change = move.after - move.before
    if move.what == "traffic":
        return f"{who} moved {abs(change):.0%} of the traffic {'here' if change > 0 else 'away from here'}"
    count = f"{abs(change):.0f} replica{'s' * (abs(change) != 1)}"
    return f"{who} {'asked for' if change > 0 else 'gave up'} {count}{' more' * (change > 0)}"


def held_movements(diagnoses: Sequence[Diagnosis]) -> Mapping[PoolKey, Diagnosis]:
    """Return the pools whose trouble began right after our own movement, which is to go no further, with what it is."""
    return {d.pool: d for d in diagnoses if d.ours}


def _ago(seconds: float) -> str:
    """Return a time as people say it.

    >>> _ago(35.2), _ago(125.0)
    ('35 s', '2 min')
    """
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"
