"""How does a new revision of a pool behave, and how does a rollout share replicas out between old and new?

The arithmetic is that of a Kubernetes Deployment with its default strategy: at most a quarter more replicas than
desired, rounded up, and at most a quarter fewer READY, rounded down.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

SURGE_RATIO = 0.25
UNAVAILABLE_RATIO = 0.25


@dataclass(frozen=True, slots=True)
class Fine:
    """It serves as the one before did."""


@dataclass(frozen=True, slots=True)
class CrashesAtStart:
    """Its engine exits while it starts, again and again (F3)."""


@dataclass(frozen=True, slots=True)
class CrashesAfter:
    """Its engine exits when it has served for ``after_s`` seconds, again and again."""

    after_s: float = 60.0


@dataclass(frozen=True, slots=True)
class IsSlow:
    """Its steps take ``factor`` times as long."""

    factor: float = 3.0


@dataclass(frozen=True, slots=True)
class HasErrors:
    """It answers ``share`` of its requests with a 500."""

    share: float = 0.5


@dataclass(frozen=True, slots=True)
class HangsAfter:
    """Its engine hangs when it has served for ``after_s`` seconds."""

    after_s: float = 60.0


Behaviour: TypeAlias = Fine | CrashesAtStart | CrashesAfter | IsSlow | HasErrors | HangsAfter


def most_at_once(desired: int) -> int:
    """Return how many replicas a rollout may have at one time.

    >>> [most_at_once(n) for n in (0, 1, 4, 5)]
    [0, 2, 5, 7]
    """
    return desired + math.ceil(desired * SURGE_RATIO)


def least_ready(desired: int) -> int:
    """Return how many replicas a rollout has to leave READY.

    >>> [least_ready(n) for n in (0, 1, 4, 9)]
    [0, 1, 3, 7]
    """
    return desired - math.floor(desired * UNAVAILABLE_RATIO)


def next_name(revisions: tuple[str, ...]) -> str:
    """Return a name for a revision that is none of these: the next number.

    >>> next_name(("1", "7", "blue"))
    '8'
    """
    return str(max([int(name) for name in revisions if name.isdigit()], default=len(revisions)) + 1)


def spread(wanted: Mapping[str, int], newest: str, before: int, desired: int) -> dict[str, int]:
    """Return how many replicas of each revision there are to be when ``before`` desired become ``desired``.

    In mid-rollout each revision grows or shrinks in proportion to what it has, the largest getting what rounding
    leaves over (kube-controller-manager, deployment/sync.go).

    >>> spread({"1": 3, "2": 2}, "2", 4, 8)
    {'1': 6, '2': 4}

    Args:
        wanted: Replicas per revision, the oldest first.
        newest: The revision that new replicas get.
        before: Replicas desired until now.
        desired: Replicas desired from now on.
    """
    active = [name for name, count in wanted.items() if count > 0]
    if len(active) <= 1:
        only = active[0] if active else newest
        return {name: desired if name == only else 0 for name in wanted}
    more = most_at_once(desired) - sum(wanted.values())
    ages = {name: age for age, name in enumerate(wanted)}
    by_size = sorted(active, key=lambda name: (-wanted[name], -ages[name] if more > 0 else ages[name]))
    scale = most_at_once(desired) / most_at_once(before) if before else 0.0
    result, added = dict(wanted), 0
    for name in by_size:
        change = math.floor(wanted[name] * scale + 0.5) - wanted[name]
        change = min(change, more - added) if more > 0 else max(change, more - added)
        if (change > 0) == (more > 0):
            result[name] += change
            added += change
    result[by_size[0]] = max(0, result[by_size[0]] + more - added)
    return result


def rolled_on(wanted: Mapping[str, int], ready: Mapping[str, int], newest: str, desired: int) -> dict[str, int]:
    """Return how many replicas of each revision there are to be next in a rollout.

    The newest grows into what is left of the surge. Of the others those go first that are not READY, then the oldest,
    as far as what is READY allows (deployment/rolling.go).

    >>> rolled_on({"1": 4, "2": 0}, {"1": 4}, "2", 4)
    {'1': 3, '2': 1}
    >>> rolled_on({"1": 3, "2": 2}, {"1": 3, "2": 1}, "2", 4)
    {'1': 2, '2': 2}

    Args:
        wanted: Replicas per revision, the oldest first.
        ready: How many of those are READY.
        newest: The revision that is rolled out.
        desired: Replicas desired of all.
    """
    result = dict(wanted)
    room = most_at_once(desired) - sum(wanted.values())
    result[newest] += max(0, min(room, desired - wanted[newest]))
    least = least_ready(desired)
    not_there_yet = result[newest] - ready.get(newest, 0)
    spare = sum(result.values()) - least - not_there_yet
    old = [name for name in wanted if name != newest]
    for name in old:
        unready = max(0, min(result[name] - ready.get(name, 0), spare))
        result[name] -= unready
        spare -= unready
    spare = min(spare, sum(ready.values()) - least)
    for name in old:
        leaving = max(0, min(result[name], spare))
        result[name] -= leaving
        spare -= leaving
    return result
