"""Is a pool slower than its load explains?

What the load explains is the step time of its engine profile, given what runs, what the KV caches hold and what is
prefilled; by how much replicas usually differ from that is learned. TPOT is that of requests that end now, which
decoded among those of minutes ago: the slowest step explained of late counts. Where requests queue, or did minutes
ago, a pool is slow for its load, and how slow no profile says: it is not judged.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from pydantic import Field

from policies.engine_profile import EngineProfile
from policies.fleet import PoolState, Role
from policies.residual_memory import LatencyMemory
from policies.residuals import ResidualSettings, Stray, clock, look
from policies.roster import Floats

LATENCY = "latency forecast"
"""The family of evidence."""

LEAST_SPREAD = 0.05
"""Of the logarithm of TPOT over what is explained: five percent is how well a profile can fit."""


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
    known: LatencyMemory,
    at: float,
    pool: PoolState,
    prompt_tokens_per_s: Floats,
    profile: EngineProfile,
    settings: LatencyResidualSettings,
    *,
    learning: bool = True,
) -> tuple[LatencyMemory, LatencyLook | None]:
    """Return what to remember of a pool's pace, and what is odd about it; None where nothing is, or can be told.

    Args:
        known: Of earlier looks.
        at: Instant of the look.
        pool: As it is. A prefill pool decodes nothing, and is never slow in this sense.
        prompt_tokens_per_s: ``float64[R]``, what its replicas prefill; NaN while unknown.
        profile: Of its engine.
        settings: When it counts.
        learning: Whether nothing else is wrong, so that it may be learned from.
    """
    told, serving = pool.told, pool.roster.serving
    tpot_s = told.of("tpot_mean_s")
    usable = serving & told.fresh(at, settings.max_age_s) & (tpot_s > 0)
    count, there = int(np.count_nonzero(usable)), pool.roster.serving_count
    if _queueing(pool, settings):
        known = replace(known, queued_at=at)
    backed_up = known.queued_at is not None and at - known.queued_at <= settings.lasting_s
    if backed_up or pool.key.role is Role.PREFILL or not count or count < settings.coverage_ratio * there:
        residual, _ = look(known.residual, at, math.nan, LEAST_SPREAD, settings, beyond=False)
        return replace(known, residual=residual), None
    steps_s = explained_s(pool, prompt_tokens_per_s, profile)[usable]
    now_s = float(np.nanmedian(steps_s)) if np.isfinite(steps_s).any() else math.nan
    if math.isnan(now_s):
        return known, None
    passed_s = at - known.explained_at if known.explained_at is not None else math.inf
    before_s = (known.explained_s or 0.0) * 0.5 ** (max(0.0, passed_s) / settings.lasting_s)
    load_s = max(now_s, before_s)
    middle_s = float(np.median(tpot_s[usable]))
    usual_s = load_s * math.exp(known.residual.location)
    beyond = middle_s >= (1.0 + settings.margin_ratio) * usual_s
    residual, stray = look(
        known.residual, at, math.log(middle_s / load_s), LEAST_SPREAD, settings, beyond=beyond, learning=learning
    )
    after = LatencyMemory(float(f"{load_s:.5g}"), at, residual, known.queued_at)
    if stray is None:
        return after, None
    age_s = at - float(np.min(told.of("observed_at")[usable]))
    return after, LatencyLook(middle_s, usual_s, stray, age_s, count, there)


def _queueing(pool: PoolState, settings: LatencyResidualSettings) -> bool:
    queued, running = pool.told.of("queued_requests"), pool.told.of("running_requests")
    here = pool.roster.serving
    return float(np.nansum(queued[here])) > settings.queued_ratio * max(1.0, float(np.nansum(running[here])))


def explained_s(pool: PoolState, prompt_tokens_per_s: Floats, profile: EngineProfile) -> Floats:
    """Return ``float64[R]``: the step time of each replica by the profile, at what it holds now; NaN where unknown.

    Decoding takes ``d`` seconds a step and prefilling a share ``p`` of all time, so that a step takes ``d / (1 - p)``.
    """
    told = pool.told
    held = profile.decode_per_kv_token_s * profile.kv_cache_tokens * told.of("kv_cache_ratio")
    decode_s = profile.decode_base_s + profile.decode_per_sequence_s * told.of("running_requests") + held
    if pool.key.role is Role.DECODE:
        return decode_s
    share = np.minimum(np.nan_to_num(prompt_tokens_per_s) * profile.prefill_per_token_s, 0.8)
    return decode_s / (1.0 - share)
