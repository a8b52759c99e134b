"""Does a figure stray from what was expected of it, further than it usually does, and since when?

How far it usually strays is learned from itself, slowly, never from more than what would be just outside, and not at
all while it is outside or somebody says that it must not. The parts are those of the streaming detector
(``forecasting.detection``): its forgetting level and its two-sided cumulative sum.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from pydantic import BaseModel, ConfigDict, Field

from forecasting.detection.baselines import Level
from forecasting.detection.onset import Onset
from policies.residual_memory import ResidualMemory

MEMORY_LOOKS = 1000.0
"""Looks in effect in what is usual: four hours at 15 s."""


class ResidualSettings(BaseModel):
    """When a figure counts as outside of what was expected."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    limit: float = Field(
        6.0, gt=0, description="Usual deviations beyond the usual error from which a figure is outside."
    )
    looks: int = Field(3, ge=1, description="Looks within the look-back at which it must be outside (k of n).")
    look_back_s: float = Field(120.0, gt=0, description="Look-back of the k-of-n rule, in seconds.")
    least_looks: int = Field(
        10, ge=2, description="Looks after which it is known well enough how far the figure usually strays."
    )
    fades_s: float = Field(
        21600.0,
        gt=0,
        description="Time in seconds in which half of what was told fades: once over, it is told again only where it "
        "is odder than what is left. Jobs that start every other hour are no news.",
    )
    accept_after_s: float = Field(
        3600.0, gt=0, description="Time in seconds after which what is outside is taken for what is usual from now on."
    )


@dataclass(frozen=True, slots=True)
class Stray:
    """What one look found.

    Attributes:
        score: 1 where it is just outside.
        above: Whether it lies above what was expected.
        since_at: When it began to stray.
        lasting: Whether it was outside at enough looks of late.
        told: Whether that is to be told: it lasts, and does not merely repeat what was told a while ago.
        coverage_ratio: Share of the looks of late at which the figure and what was expected of it were at hand.
    """

    score: float
    above: bool
    since_at: float
    lasting: bool
    told: bool
    coverage_ratio: float


def look(
    known: ResidualMemory,
    at: float,
    deviation: float,
    least: float,
    settings: ResidualSettings,
    *,
    beyond: bool,
    learning: bool = True,
) -> tuple[ResidualMemory, Stray | None]:
    """Return what to remember, and what was found; None where the figure is inside, or nothing is known.

    Args:
        known: Of earlier looks.
        at: Instant of the look.
        deviation: From what was expected, on any scale that stays the same; NaN where either is missing, which is no
            sign of anything.
        least: Usual deviation that is assumed at the least.
        settings: When it counts.
        beyond: Whether the deviation is beyond the margin; else it is none.
        learning: Whether this look may be learned from.
    """
    known = _seen(known, at, settings, missing=math.isnan(deviation))
    if math.isnan(deviation):
        return known, None
    if known.seen < settings.least_looks:
        return (_learned(known, deviation) if learning else known), None
    if known.since_at is not None and at - known.since_at >= settings.accept_after_s:
        return ResidualMemory(covered=known.covered), None
    usual = max(known.spread, least)
    strayed = (deviation - known.location) / usual
    score = abs(strayed) / settings.limit
    onset = Onset(known.above, known.below, known.above_since, known.below_since)
    onset.add(at, strayed)
    known = replace(
        known,
        above=round(onset.above, 3),
        below=round(onset.below, 3),
        above_since=onset.above_since,
        below_since=onset.below_since,
    )
    if not (beyond and score >= 1.0):
        if known.since_at is None and learning:
            most = settings.limit * usual
            known = _learned(known, known.location + max(-most, min(most, deviation - known.location)))
        return known, None
    return _outside(known, at, score, settings, onset=onset, above=strayed > 0)


def _seen(known: ResidualMemory, at: float, settings: ResidualSettings, *, missing: bool) -> ResidualMemory:
    """Return ``known`` without what is too long ago; what strayed is over once no look of late was outside."""
    outside_at = tuple(t for t in known.outside_at if at - t <= settings.look_back_s)
    covered = round(0.8 * known.covered + 0.2 * (not missing), 4)
    if outside_at or known.since_at is None:
        return replace(known, outside_at=outside_at, covered=covered)
    return replace(
        known, outside_at=(), covered=covered, since_at=None, ended_at=at if known.telling else known.ended_at
    )


def _outside(
    known: ResidualMemory, at: float, score: float, settings: ResidualSettings, *, onset: Onset, above: bool
) -> tuple[ResidualMemory, Stray]:
    before = known.outside_at if above == known.was_above else ()
    outside_at = (*before, at)[-settings.looks :]
    run, begun_at = (onset.above, onset.above_since) if above else (onset.below, onset.below_since)
    onset_at = begun_at if run > 0 else at
    since_at = known.since_at if above == known.was_above else None
    lasting = len(outside_at) >= settings.looks or since_at is not None
    goes_on = since_at is not None and known.telling
    news = lasting and (goes_on or score > _left(known, at, settings))
    if lasting and since_at is None:
        since_at = min(onset_at, outside_at[0])
    told = max(known.told if goes_on else 0.0, round(score, 3)) if news else known.told
    known = replace(known, outside_at=outside_at, was_above=above, since_at=since_at, telling=news, told=told)
    stray = Stray(score, above, since_at if since_at is not None else onset_at, lasting, news, known.covered)
    return known, stray


def _left(known: ResidualMemory, at: float, settings: ResidualSettings) -> float:
    """Return what is left of the highest score that was told."""
    if known.ended_at is None:
        return 0.0
    return float(known.told * 0.5 ** (max(0.0, at - known.ended_at) / settings.fades_s))


def _learned(known: ResidualMemory, deviation: float) -> ResidualMemory:
    level = Level(MEMORY_LOOKS, known.location, known.spread, known.seen)
    level.learn(deviation)
    return replace(known, location=round(level.location, 6), spread=round(level.spread, 6), seen=level.seen)


def clock(at: float) -> str:
    """Return an instant as a time of day.

    >>> clock(1_700_000_000.0)
    '22:13 UTC'
    """
    minutes = int(at % 86400.0 // 60.0)
    return f"{minutes // 60:02d}:{minutes % 60:02d} UTC"
