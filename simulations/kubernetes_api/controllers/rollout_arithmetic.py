"""How many replicas does each ReplicaSet of a Deployment get next?

The arithmetic of the Deployment controller. ``maxSurge`` rounds up and ``maxUnavailable`` down, and of two zeros the
second becomes 1. While a rollout runs, a change of ``spec.replicas`` is spread over all ReplicaSets in proportion to
their sizes, broken ones included.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class SetSize:
    """One ReplicaSet: what is asked of it, what is available, and how many all could be when it was sized."""

    name: str
    replicas: int
    available: int
    most: int


@dataclass(frozen=True, slots=True)
class Room:
    """How far above and below ``spec.replicas`` a rollout may go."""

    surge: int
    unavailable: int


def resolved(told: object, replicas: int, *, up: bool) -> int:
    """Return an int-or-percent as a count of ``replicas``."""
    if isinstance(told, str) and told.endswith("%"):
        share = int(told[:-1]) * replicas / 100
        return math.ceil(share) if up else math.floor(share)
    return int(str(told or 0))


def room_of(strategy: Mapping[str, object], replicas: int) -> Room:
    """Return the room that a strategy leaves; none for ``Recreate``."""
    if strategy.get("type") == "Recreate":
        return Room(0, replicas)
    told = strategy.get("rollingUpdate")
    rolling: Mapping[str, object] = told if isinstance(told, dict) else {}
    surge = resolved(rolling.get("maxSurge", "25%"), replicas, up=True)
    unavailable = resolved(rolling.get("maxUnavailable", "25%"), replicas, up=False)
    return Room(surge, unavailable if surge or unavailable else 1)


def new_size(new: SetSize, old: Sequence[SetSize], replicas: int, room: Room) -> int:
    """Return what to ask of the new ReplicaSet of a rolling update."""
    if new.replicas >= replicas:
        return replicas
    total = new.replicas + sum(one.replicas for one in old)
    space = replicas + room.surge - total
    return new.replicas + max(0, min(space, replicas - new.replicas))


def old_sizes(new: SetSize, old: Sequence[SetSize], replicas: int, room: Room) -> dict[str, int]:
    """Return what to ask of the old ReplicaSets, oldest first: unavailable replicas go before available ones."""
    sizes = {one.name: one.replicas for one in old}
    least = replicas - room.unavailable
    total = new.replicas + sum(sizes.values())
    may_go = total - least - (new.replicas - new.available)
    for one in old:
        gone = max(0, min(may_go, one.replicas - one.available))
        sizes[one.name] -= gone
        may_go -= gone
    spare = new.available + sum(one.available for one in old) - least
    for one in old:
        gone = max(0, min(spare, may_go, sizes[one.name]))
        sizes[one.name] -= gone
        spare -= gone
        may_go -= gone
    return sizes


def spread(sets: Sequence[SetSize], replicas: int, room: Room) -> dict[str, int]:
    """Return the sizes of all ReplicaSets after ``spec.replicas`` changed in mid-rollout; ``sets`` newest first.

    >>> spread([SetSize("new", 5, 5, 13), SetSize("old", 8, 8, 13)], 15, Room(3, 2))
    {'old': 11, 'new': 7}
    """
    allowed = replicas + room.surge if replicas else 0
    left = allowed - sum(one.replicas for one in sets)
    newest_first = list(sets) if left > 0 else list(reversed(sets))
    sizes: dict[str, int] = {}
    for one in sorted(newest_first, key=lambda item: -item.replicas):
        share = 0
        if left and one.replicas:
            fair = round(one.replicas * allowed / max(1, one.most)) - one.replicas
            share = min(fair, left) if left > 0 else max(fair, left)
            left -= share
        sizes[one.name] = one.replicas + share
    if left and sizes:
        first = next(iter(sizes))
        sizes[first] = max(0, sizes[first] + left)
    return sizes
