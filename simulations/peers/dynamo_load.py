"""What would NVIDIA Dynamo's planner do on load alone, with its static thresholds?

Follows ``components/src/dynamo/planner/core/load_scaling.py`` of ai-dynamo/dynamo 1.2 (``_advance_load_agg`` and
``_agg_easy_decision``): every 5 s, per worker, KV cache tokens of what runs and prompt tokens of what is queued, over
the KV cache. One worker above the upper threshold adds a replica, all below the lower one take one away; target
``throughput`` has 1.0 and 0.6, ``latency`` 0.4 and 0.1. While replicas are on their way, or the workers heard are not
those that are ready, it only watches. The planner never goes below one replica.

The original hears of every forward pass; here each engine is read every 5 s. Queued prompt tokens are the requests that
wait in an engine times the recent mean prompt length. What waits at the gateway is not seen, as there.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from pydantic import Field, model_validator

from forecasting.forecast import LoadForecast
from policies.decisions import Decision
from policies.fleet import FleetState, PoolState
from policies.memory import PolicyMemory
from policies.placement import PoolSettings
from simulations.peers.answer import Sized, each_pool
from simulations.peers.rhythm import KvRhythm, Rhythm
from simulations.peers.signals import prompt_tokens

MIN_ENDPOINT = 1
"""Fewest workers that the planner leaves (``min_endpoint``)."""


class DynamoRhythm(Rhythm):
    """How often the planner's load loop runs."""

    tick_s: float = Field(5.0, ge=1, le=3600, description="Seconds between decisions (``load_adjustment_interval``).")
    scrape_interval_s: float | None = Field(5.0, ge=0.5, le=3600, description="Seconds between looks at a worker.")
    scrape_delay_s: float | None = Field(0.0, ge=0, le=60, description="Workers tell the planner themselves.")
    settle_s: float = Field(
        180.0,
        ge=0,
        le=3600,
        description="Seconds from the start in which it only watches. A simulated fleet begins with no request, which "
        "no planner in service finds; with no window to look back on it would give its replicas up at once.",
    )


class DynamoThroughputSettings(DynamoRhythm, KvRhythm):
    """Thresholds of ``optimization_target: throughput``."""

    up_ratio: float = Field(1.0, gt=0, description="KV cache wanted over what there is, from which a worker is full.")
    down_ratio: float = Field(0.6, ge=0, description="The same, below which all workers have to be to lose one.")

    @model_validator(mode="after")
    def _thresholds_apart(self) -> DynamoThroughputSettings:
        if self.down_ratio >= self.up_ratio:
            raise ValueError(f"down_ratio {self.down_ratio:g} is not less than up_ratio {self.up_ratio:g}")
        return self


class DynamoLatencySettings(DynamoThroughputSettings):
    """Thresholds of ``optimization_target: latency``."""

    up_ratio: float = Field(0.4, gt=0, description="KV cache wanted over what there is, from which a worker is full.")
    down_ratio: float = Field(0.1, ge=0, description="The same, below which all workers have to be to lose one.")


@dataclass(frozen=True, slots=True)
class Worker:
    """What the planner knows of one engine.

    Attributes:
        kv_tokens: Tokens of running requests in the KV cache.
        queued_tokens: Prompt tokens of requests that wait in the engine.
        capacity: Tokens that fit the KV cache.
    """

    kv_tokens: float
    queued_tokens: float
    capacity: float

    @property
    def wanted_ratio(self) -> float:
        """KV cache that is used or waited for, over what there is."""
        return (self.kv_tokens + self.queued_tokens) / self.capacity


@dataclass(slots=True)
class DynamoLoad:
    """One planner per pool, which keeps nothing between ticks but when it began.

    ``pools`` has their bounds and profiles, ``kv_full`` what counts as a full cache, by key text.
    """

    pools: Mapping[str, PoolSettings]
    settings: DynamoThroughputSettings
    name: str
    kv_full: Mapping[str, float] = field(default_factory=dict)
    _began_at: float = math.inf

    def decide(self, fleet: FleetState, forecasts: Mapping[str, LoadForecast], memory: PolicyMemory) -> Decision:
        """Return what each pool's planner asks for."""
        self._began_at = min(self._began_at, fleet.at)
        return each_pool(fleet, memory, self.pools, lambda pool, bounds: self._sized(fleet, pool, bounds))

    def _sized(self, fleet: FleetState, pool: PoolState, bounds: PoolSettings) -> Sized:
        current = max(MIN_ENDPOINT, pool.desired)
        workers = heard(fleet, pool, bounds)
        if workers is None or fleet.at < self._began_at + self.settings.settle_s:
            return Sized(current, "watching", "workers are on their way, or not heard")
        full = self.kv_full.get(str(pool.key), 1.0)
        ratios = [worker.wanted_ratio / full for worker in workers]
        return Sized(
            stepped(ratios, current, self.settings), "load", f"{min(ratios):.2f} to {max(ratios):.2f} of the KV cache"
        )


def heard(fleet: FleetState, pool: PoolState, bounds: PoolSettings) -> list[Worker] | None:
    """Return the pool's workers; None while scaling is in progress, or one of those that are ready is not heard."""
    ratios, queues = pool.told.of("kv_cache_ratio"), pool.told.of("queued_requests")
    both = pool.roster.serving & ~np.isnan(ratios) & ~np.isnan(queues)
    told = list(zip(ratios[both].tolist(), queues[both].tolist(), strict=True))
    if not told or len(told) != pool.roster.serving_count or pool.roster.serving_count != pool.desired:
        return None
    length, capacity = prompt_tokens(fleet, pool.key.model), float(bounds.profile.kv_cache_tokens)
    if length is None and any(queued > 0 for _, queued in told):
        return None
    return [Worker(ratio * capacity, queued * (length or 0.0), capacity) for ratio, queued in told]


def stepped(ratios: list[float], current: int, settings: DynamoThroughputSettings) -> int:
    """Return one replica more if any worker is full, one less if all have room, else as many.

    Throughput target: 0.5, 0.7 and 1.1 want 4 replicas of 3; 0.5, 0.4 and 0.55 want 2; 0.5, 0.7 and 0.9 want 3.
    """
    if any(ratio > settings.up_ratio for ratio in ratios):
        return current + 1
    if current > MIN_ENDPOINT and all(ratio < settings.down_ratio for ratio in ratios):
        return current - 1
    return current
