"""By how much does a value stray from what came before? Nine ways to look at it, none of which needs a scale.

Means over the last hours go on through an anomaly, since they are what a change is seen against. Level and course of
the day learn only when told to.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from math import exp, isfinite, log
from statistics import median
from typing import Any, NamedTuple

from forecasting.detection.baselines import DayCourse, Level, slot_width_s

FROM_USUAL = ("level", "season", "season_mean", "season_ratio", "season_ratio_mean")
VIEWS = (*FROM_USUAL, "change", "trend", "jump", "spread")
SHORT_STEPS, JUMP_STEPS, LONG_STEPS = 12.0, 24.0, 72.0
"""Time constants of means, in usual times between values: an hour, two and six at 5 min."""
NEXT_STEPS = 3.0
"""A value that comes later is not the next one: that it is far from the last says nothing."""
STALE_STEPS = 36.0
"""After so long without a value nobody knows how the last hours were."""
GAPS = 16
"""Times between values from which the usual one is learned."""
_DUST = 1e-9
"""Share of a value that is rounding."""
_STILL = 1e-3
"""Of what is usual: smaller than this is as small as can be told."""
_NOTHING = 1e-150


class Look(NamedTuple):
    """How one value looks.

    Args:
        expected: What was expected.
        strayed: By how many usual deviations the value lies over that, the margin taken off.
        deviations: Per view that is known, how far the value strays, 0 or more. ``spread`` is the logarithm of recent
            jumps over usual ones, or the other way round.
    """

    expected: float
    strayed: float
    deviations: dict[str, float]


@dataclass(slots=True)
class Views:
    """What is remembered of one series beside its histograms.

    Args:
        level: Where the series lies in the long run.
        margin: Deviations up to this, in the unit of the values, are none.
        margin_ratio: Deviations up to this share of the expected value are none.
    """

    level: Level
    margin: float = 0.0
    margin_ratio: float = 0.0
    course: DayCourse | None = None
    gaps: list[float] = field(default_factory=list)
    step_s: float = 1.0
    gap_s: float = 1.0
    seen: int = 0
    courses_seen: int = 0
    last_at: float = 0.0
    last: float = 0.0
    short: float = 0.0
    long: float = 0.0
    jumps: float = 0.0
    usual_jumps: float = 0.0
    season_mean: float = 0.0
    season_ratio_mean: float = 0.0

    def usual(self, at: float) -> tuple[float, float]:
        """Return what is expected at ``at`` and how far values stray from it.

        That is the course of the day, or the level while this time of day is not known.
        """
        course = self.course.expects(at) if self.course else None
        return (self.level.location, self.level.spread) if course is None else course

    def band(self, at: float, deviation: float, ratio: float) -> tuple[float, float]:
        """Return what lies at ``at`` within ``ratio`` usual deviations of the course of the day, the margin added.

        While this time of day or its ``ratio`` is not known: within ``deviation`` of what is expected.
        """
        location, spread = self.usual(at)
        margin = self._margin(location)
        known = self.course is not None and self.course.expects(at) is not None and isfinite(ratio)
        half = margin + (ratio * self._least(spread, margin) if known else deviation)
        return location - half, location + half

    def look(self, at: float, value: float) -> Look:
        """Return how ``value`` looks, and move the means on."""
        gap_s = self.gap_s = self._gap(at)
        self.seen += 1
        if self.seen == 1:
            self.last = self.level.location = value
        if self.seen == 1 or gap_s > STALE_STEPS * self.step_s:
            self.short = self.long = value
        course = self.course.expects(at) if self.course else None
        location, spread = (self.level.location, self.level.spread) if course is None else course
        margin = self._margin(location)
        least = self._least(spread, margin)
        deviations = {
            "level": _beyond(abs(value - self.level.location), margin),
            "change": _beyond(abs(value - self.long), margin),
            "trend": _beyond(abs(self.short - self.long), margin),
        }
        short = self._weight(SHORT_STEPS)
        self.short += short * (value - self.short)
        self.long += self._weight(LONG_STEPS) * (value - self.long)
        if course is not None:
            deviations |= self._season(value - location, margin, least, short)
        if gap_s <= NEXT_STEPS * self.step_s:
            deviations |= self._jumps(_beyond(abs(value - self.last), margin))
        self.last_at, self.last = at, value
        return Look(location, _beyond(value - location, margin) / least, deviations)

    def learn(self, at: float, value: float) -> None:
        """Let level and course of the day take the value in."""
        self.level.learn(value)
        if self.course is not None:
            self.course.learn(at, value)

    def doubt(self) -> None:
        """Learn level and course of the day anew, and fast: what was usual no longer is."""
        self.level.doubt()
        if self.course is not None:
            self.course.doubt()

    def _season(self, season: float, margin: float, least: float, short: float) -> dict[str, float]:
        """Return the deviations from the usual of this time of day, now and as means over the last hour."""
        self.courses_seen += 1
        weight = max(short, 1.0 / self.courses_seen)
        self.season_mean += weight * (season - self.season_mean)
        self.season_ratio_mean += weight * (season / least - self.season_ratio_mean)
        return {
            "season": _beyond(abs(season), margin),
            "season_mean": _beyond(abs(self.season_mean), margin),
            "season_ratio": _beyond(abs(season), margin) / least,
            "season_ratio_mean": _beyond(abs(self.season_ratio_mean), margin / least),
        }

    def _jumps(self, jump: float) -> dict[str, float]:
        """Return how far the value is from the last one, and how unlike the usual ones recent jumps are."""
        self.jumps += self._weight(JUMP_STEPS) * (jump - self.jumps)
        self.usual_jumps += max(2.0 / self.level.memory, 1.0 / self.seen) * (jump - self.usual_jumps)
        if self.usual_jumps <= 0.0:
            return {"jump": jump}
        return {"jump": jump, "spread": abs(log(max(self.jumps / self.usual_jumps, _STILL)))}

    def _weight(self, steps: float) -> float:
        """Return the weight of the newest value in a mean over ``steps``; in the beginning all values weigh the same.

        What comes after a gap must not be the mean alone: a single value strays further than means do.
        """
        passed = min(self.gap_s / self.step_s, NEXT_STEPS)
        return max(1.0 - exp(-passed / steps), 1.0 / self.seen)

    def _gap(self, at: float) -> float:
        """Return the time since the last value; the usual one for the first value, or where time goes back."""
        gap_s = at - self.last_at
        if not self.seen or gap_s <= 0.0:
            return self.step_s
        if len(self.gaps) < GAPS:
            self.gaps.append(gap_s)
            self.step_s = median(self.gaps)
            if len(self.gaps) == GAPS:
                width = slot_width_s(self.step_s)
                self.course = None if width is None else DayCourse(width, self.step_s, self.level.memory)
        return gap_s

    def _margin(self, location: float) -> float:
        """Return the deviation from ``location`` that is none."""
        return max(self.margin, (self.margin_ratio + _DUST) * abs(location))

    def _least(self, spread: float, margin: float) -> float:
        """Return ``spread``, or the least that a deviation may be divided by."""
        return max(spread, margin, _STILL * self.level.spread, _NOTHING)

    def copy(self) -> Views:
        """Return an equal one that learns apart from this one."""
        course = self.course.copy() if self.course else None
        return replace(self, level=replace(self.level), course=course, gaps=self.gaps.copy())

    def to_json(self) -> dict[str, Any]:
        """Return numbers that ``from_json`` makes an equal one of."""
        return asdict(self)

    @classmethod
    def from_json(cls, kept: Mapping[str, Any]) -> Views:
        """Return what ``to_json`` described."""
        course = kept["course"]
        return cls(**{**kept, "level": Level(**kept["level"]), "course": DayCourse(**course) if course else None})


def _beyond(deviation: float, margin: float) -> float:
    """Return how far a deviation, of any sign, goes beyond the margin; 0 where it does not."""
    if deviation > margin:
        return deviation - margin
    return min(deviation + margin, 0.0)
