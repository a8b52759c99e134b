"""What time is it in the simulation, and what happens next?"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable
from typing import TypeAlias

Happening: TypeAlias = Callable[[float], None]


class VirtualClock:
    """A clock that moves only when told to, and never backwards.

    Args:
        start_at: Seconds since the Unix epoch at which the simulation begins.
    """

    __slots__ = ("_now",)

    def __init__(self, start_at: float = 0.0) -> None:
        self._now = start_at

    def now(self) -> float:
        """Return the virtual seconds since the Unix epoch."""
        return self._now

    def advance_to(self, at: float) -> None:
        """Move to ``at``.

        Raises:
            ValueError: If ``at`` lies in the past or is not a number.
        """
        if not at >= self._now:
            raise ValueError(f"virtual time cannot go from {self._now} to {at}")
        self._now = at


class EventQueue:
    """Events in total order: by instant, and among equal instants in the order in which they were planned."""

    __slots__ = ("_heap", "_planned")

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Happening]] = []
        self._planned = 0

    def __len__(self) -> int:
        return len(self._heap)

    def plan(self, at: float, happening: Happening) -> None:
        """Let ``happening(at)`` be called when the clock reaches ``at``."""
        self._planned += 1
        heapq.heappush(self._heap, (at, self._planned, happening))

    @property
    def next_at(self) -> float:
        """Instant of the next event; infinity when none is planned."""
        return self._heap[0][0] if self._heap else math.inf

    def run(self, until: float, clock: VirtualClock) -> None:
        """Let everything up to and including ``until`` happen, the clock standing at the instant of each event."""
        heap, pop = self._heap, heapq.heappop
        while heap and heap[0][0] <= until:
            at, _, happening = pop(heap)
            clock.advance_to(at)
            happening(at)
