"""How fast does each pool decode, and how fast should it by its engine profile, at what it holds now?"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np

from policies.engine_profile import EngineProfile
from policies.fleet import PoolState, Role
from policies.roster import Floats, joined


@dataclass(frozen=True, slots=True)
class Pace:
    """What the serving replicas of a pool tell of their pace; those of whom TPOT or load is not known tell nothing.

    Attributes:
        tpot_s: Median TPOT of those that tell; NaN where none does.
        explained_s: Median of the step times that what they hold explains; NaN where none does.
        oldest_at: Scrape instant of the oldest metrics among these.
        replicas, serving: How many tell, of how many.
        queued_ratio: Queued requests of all that serve over running ones, one at the least.
    """

    tpot_s: float
    explained_s: float
    oldest_at: float
    replicas: int
    serving: int
    queued_ratio: float


def paces(
    at: float,
    pools: Sequence[PoolState],
    prompt_tokens_per_s: Floats,
    profiles: Mapping[str, EngineProfile],
    max_age_s: float,
) -> tuple[Pace, ...]:
    """Return the pace of each pool, worked out for all replicas at once.

    Args:
        at: Instant of the look.
        pools: As they are, N replicas together.
        prompt_tokens_per_s: ``float64[N]``, what each prefills; NaN while unknown.
        profiles: Of their engines by pool key; where there is none, nothing is explained.
        max_age_s: Older metrics tell nothing.
    """
    if not pools:
        return ()
    told = joined([pool.told for pool in pools])
    serving = np.concatenate([pool.roster.serving for pool in pools])
    tpot_s, steps_s = told.of("tpot_mean_s"), explained_s(pools, prompt_tokens_per_s, profiles)
    usable = serving & told.fresh(at, max_age_s) & (tpot_s > 0) & np.isfinite(steps_s)
    ends = np.cumsum([len(pool.roster) for pool in pools])
    bounds = _sums(usable.astype(np.float64), ends)
    tpots_s, explained, scraped_at = (row[usable].tolist() for row in (tpot_s, steps_s, told.of("observed_at")))
    queued, running = (
        np.diff(_sums(np.where(serving, np.nan_to_num(told.of(figure)), 0.0), ends), prepend=0.0).tolist()
        for figure in ("queued_requests", "running_requests")
    )
    found, first = [], 0
    for place, (pool, last) in enumerate(zip(pools, bounds.astype(int).tolist(), strict=True)):
        part = slice(first, last)
        any_tells = last > first
        found.append(
            Pace(
                median(tpots_s[part]) if any_tells else math.nan,
                median(explained[part]) if any_tells else math.nan,
                min(scraped_at[part]) if any_tells else math.nan,
                last - first,
                pool.roster.serving_count,
                queued[place] / max(1.0, running[place]),
            )
        )
        first = last
    return tuple(found)


def explained_s(
    pools: Sequence[PoolState], prompt_tokens_per_s: Floats, profiles: Mapping[str, EngineProfile]
) -> Floats:
    """Return ``float64[N]``: the step time of each replica by its profile, at what it holds now; NaN where unknown.

    Decoding takes ``d`` seconds a step and prefilling a share ``p`` of all time, so that a step takes ``d / (1 - p)``.
    A replica that only prefills decodes nothing.
    """
    told = joined([pool.told for pool in pools])
    columns = np.array([_figures(pool, profiles.get(str(pool.key))) for pool in pools]).T
    base_s, sequence_s, cache_s, prompt_s = np.repeat(columns, [len(pool.roster) for pool in pools], axis=1)
    decode_s = base_s + sequence_s * told.of("running_requests") + cache_s * told.of("kv_cache_ratio")
    share = np.minimum(np.nan_to_num(prompt_tokens_per_s) * prompt_s, MOST_PREFILL_RATIO)
    step_s: Floats = decode_s / (1.0 - share)
    return step_s


MOST_PREFILL_RATIO = 0.8
"""Beyond this share of the time no rate says how long a step takes."""


def _figures(pool: PoolState, profile: EngineProfile | None) -> tuple[float, float, float, float]:
    """Return seconds per step, and more per sequence, for a full KV cache, and per prompt token."""
    if profile is None or pool.key.role is Role.PREFILL:
        return math.nan, math.nan, math.nan, math.nan
    prompt_s = 0.0 if pool.key.role is Role.DECODE else profile.prefill_per_token_s
    cache_s = profile.decode_per_kv_token_s * profile.kv_cache_tokens
    return profile.decode_base_s, profile.decode_per_sequence_s, cache_s, prompt_s


def _sums(values: Floats, ends: Floats) -> Floats:
    """Return the sum of all values before each of ``ends``."""
    sums: Floats = np.concatenate(([0.0], np.cumsum(values)))[ends]
    return sums
