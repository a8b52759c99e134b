"""What is usual for a series: its level, its course over the day, and how far it strays from both?

Both learn by exponential forgetting, from deviations that are cut to a few usual ones (Huber 1964), so that a single
value of any size moves them by no more than a wild but usual one would.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import inf

DAY_S = 86400.0
SLOT_WIDTHS_S = (300.0, 600.0, 900.0, 1200.0, 1800.0, 3600.0, 7200.0, 10800.0, 14400.0, 21600.0, 43200.0)
CUT = 3.0
"""A location learns from no more than so many usual deviations at once."""
SPREAD_CUT = 10.0
"""A spread learns from no more than so many times itself: it can grow, but not in one step."""
CERTAIN_AFTER = 100
"""Values after which the spread is known well enough to cut by."""
LEAST_DAYS = 2
"""Days on which a time of day must have been seen before it is expected to come again."""
FORGET_DAYS = 7.0
"""The day's course is that of about so many days."""


@dataclass(slots=True)
class Level:
    """Where a series lies in the long run: location and mean absolute deviation of the newest ``memory`` values."""

    memory: float
    location: float = 0.0
    spread: float = 0.0
    seen: int = 0

    def learn(self, value: float) -> None:
        """Take in one more value."""
        self.seen += 1
        weight = max(1.0 / self.memory, 1.0 / self.seen)
        deviation = value - self.location
        sure = self.seen > CERTAIN_AFTER
        limit = CUT * self.spread if sure else inf
        self.spread += weight * (min(abs(deviation), SPREAD_CUT * self.spread if sure else inf) - self.spread)
        self.location += weight * max(-limit, min(limit, deviation))

    def doubt(self) -> None:
        """Learn again nearly as fast as at the start: what was usual no longer is."""
        self.seen = min(self.seen, CERTAIN_AFTER // 2)


@dataclass(slots=True)
class DayCourse:
    """What is usual at each time of day: location and mean absolute deviation per slot of ``slot_s`` seconds.

    Args:
        slot_s: Width of a slot; a divisor of a day.
        step_s: Usual time between values, at most ``slot_s``.
        memory: Values in effect in the spread over all slots.
    """

    slot_s: float
    step_s: float
    memory: float
    seen: int = 0
    spread: float = 0.0
    locations: list[float] = field(default_factory=list)
    spreads: list[float] = field(default_factory=list)
    counts: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        if not self.locations:
            slots = round(DAY_S / self.slot_s)
            self.locations, self.spreads, self.counts = [0.0] * slots, [0.0] * slots, [0.0] * slots

    def expects(self, at: float) -> tuple[float, float] | None:
        """Return location and spread at this time of day; None where it was not seen on ``LEAST_DAYS`` days."""
        slot = int(at % DAY_S // self.slot_s)
        if self.counts[slot] < LEAST_DAYS * self._per_slot - 0.5:
            return None
        near = self.spreads[slot - 1] + self.spreads[slot] + self.spreads[(slot + 1) % len(self.spreads)]
        return self.locations[slot], 0.5 * self.spread + near / 6.0

    def learn(self, at: float, value: float) -> None:
        """Take in the value of one instant."""
        slot = int(at % DAY_S // self.slot_s)
        count, per_slot = self.counts[slot], self._per_slot
        deviation = value - self.locations[slot]
        far, limit = abs(deviation), inf
        sure = self.seen > CERTAIN_AFTER
        if count >= LEAST_DAYS * per_slot - 0.5:
            self.seen += 1
            limit = CUT * self.spread if sure else inf
            weight = max(2.0 / self.memory, 1.0 / self.seen)
            self.spread += weight * (min(far, SPREAD_CUT * self.spread if sure else inf) - self.spread)
        count += 1.0
        weight = max(1.0 / (FORGET_DAYS * per_slot), 1.0 / count)
        if count > 1.5 * per_slot:
            self.spreads[slot] += weight * (min(far, CUT * 2.0 * self.spread if sure else inf) - self.spreads[slot])
        self.locations[slot] += weight * max(-limit, min(limit, deviation))
        self.counts[slot] = count

    def doubt(self) -> None:
        """Learn from the start: what was usual no longer is."""
        self.counts = [0.0] * len(self.counts)
        self.seen = min(self.seen, CERTAIN_AFTER // 2)

    def copy(self) -> DayCourse:
        """Return an equal one that learns apart from this one."""
        lists = self.locations.copy(), self.spreads.copy(), self.counts.copy()
        return DayCourse(self.slot_s, self.step_s, self.memory, self.seen, self.spread, *lists)

    @property
    def _per_slot(self) -> float:
        """Values that a slot has in a day."""
        return max(self.slot_s / self.step_s, 1.0)


def slot_width_s(step_s: float) -> float | None:
    """Return how wide slots are for values ``step_s`` apart; None where a day has too few values for a course."""
    return next((width for width in SLOT_WIDTHS_S if width >= 0.999 * step_s), None)
