"""Is a pool slower than its load explains?

What the load explains is the step time of its engine profile, given what runs, what the KV caches hold and what is
prefilled; by how much replicas usually differ from that is learned. TPOT is that of requests that end now, which
decoded among those of minutes ago: the slowest step explained of late counts. Where requests queue, or did minutes
ago, a pool is slow for its load, and how slow no profile says: it is not judged.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from pydantic import Field

from policies.pace import Pace
from policies.residual_memory import LatencyMemory
from policies.residuals import ResidualSettings, Stray, clock, look

LATENCY = "latency forecast"
"""The family of evidence."""

LEAST_SPREAD = 0.05
"""Of the logarithm of TPOT over what is explained: five percent is how well a profile can fit."""

FURTHEST = 10.0
"""Of the same: a factor of 22,000 is as odd as any larger one, whatever an engine says of itself."""


class LatencyResidualSettings(ResidualSettings):
    """When a pool is slower than its load explains."""

    margin_ratio: float = Field(0.5, gt=0, description="TPOT less than this share above what is explained is no sign.")
    max_age_s: float = Field(60.0, gt=0, description="Metrics older than this, in seconds, are no evidence.")
    coverage_ratio: float = Field(
        0.5, gt=0, le=1, description="Share of the serving replicas whose TPOT must be known for the pool to be judged."
    )
    queued_ratio: float = Field(
        0.1, gt=0, description="Queued requests per running one from which a pool is not judged by its pace."
    )
    lasting_s: float = Field(
        300.0, gt=0, description="Half-life, in seconds, of what load explains: requests that end decoded for minutes."
    )


@dataclass(frozen=True, slots=True)
class LatencyLook:
    """A pool that is slower than its load explains.

    Attributes:
        tpot_s, explained_s: Median TPOT of its replicas, and what is usual at this load.
        stray: How far and since when.
        age_s: Of the oldest metrics that it rests on.
        replicas, serving: How many it rests on, of how many.
    """

    tpot_s: float
    explained_s: float
    stray: Stray
    age_s: float
    replicas: int
    serving: int

    def __str__(self) -> str:
        return (
            f"TPOT {1000.0 * self.tpot_s:.0f} ms at {self.replicas} of {self.serving} replicas, "
            f"{self.tpot_s / self.explained_s:.1f} times what their load explains, since {clock(self.stray.since_at)}"
        )


def look_at_latency(
    known: LatencyMemory, at: float, pace: Pace, settings: LatencyResidualSettings, *, learning: bool = True
) -> tuple[LatencyMemory, LatencyLook | None]:
    """Return what to remember of a pool's pace, and what is odd about it; None where nothing is, or can be told.

    Args:
        known: Of earlier looks.
        at: Instant of the look.
        pace: As it is.
        settings: When it counts.
        learning: Whether nothing else is wrong, so that it may be learned from.
    """
    queued_at = at if pace.queued_ratio > settings.queued_ratio else known.queued_at
    backed_up = queued_at is not None and at - queued_at <= settings.lasting_s
    if backed_up or not pace.replicas or pace.replicas < settings.coverage_ratio * pace.serving:
        residual, _ = look(known.residual, at, math.nan, LEAST_SPREAD, settings, beyond=False)
        return LatencyMemory(known.explained_s, known.explained_at, residual, queued_at), None
    passed_s = at - known.explained_at if known.explained_at is not None else math.inf
    before_s = (known.explained_s or 0.0) * 0.5 ** (max(0.0, passed_s) / settings.lasting_s)
    load_s = max(pace.explained_s, before_s)
    usual_s = load_s * math.exp(known.residual.location)
    beyond = pace.tpot_s >= (1.0 + settings.margin_ratio) * usual_s
    off = math.log(pace.tpot_s) - math.log(load_s)  # the quotient of what engines may say can be 0 or infinite
    off = min(max(off, -FURTHEST), FURTHEST)
    residual, stray = look(known.residual, at, off, LEAST_SPREAD, settings, beyond=beyond, learning=learning)
    after = LatencyMemory(float(f"{load_s:.5g}"), at, residual, queued_at)
    if stray is None:
        return after, None
    return after, LatencyLook(pace.tpot_s, usual_s, stray, at - pace.oldest_at, pace.replicas, pace.serving)
