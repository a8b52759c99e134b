"""What would AIBrix's own autoscaler (APA) do, on KV cache use?

Follows ``pkg/controller/podautoscaler`` of vllm-project/aibrix of 2026 (v0.5): ``algorithm/apa.go`` for the count,
``context/context.go`` for the defaults, ``autoscaler.go`` (``applyPendingReplicaGuard``) for replicas that are not
ready yet. Use over target outside 1 +- 0.1 asks for ceil(replicas * use / target), between half and twice what there
is.

The controller reads each ready engine itself every 10 s and averages over its observe window of 180 s. The target of
the project's samples is 50 % of ``gpu_cache_usage_perc``; whoever knows what a replica holds at its best load sweeps
it. Shrinking has a cooldown of 300 s: here, as documented, the largest count asked for within it. The code as it stands
takes the smallest one of it (``stabilizeRecommendation``), which is no cooldown; ``cooldown: lowest`` does that.
When no engine answers nothing is decided; a pool at zero is switched off.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from pydantic import Field

from forecasting.forecast import LoadForecast
from policies.decisions import Decision
from policies.fleet import FleetState, PoolState
from policies.memory import PolicyMemory
from policies.placement import PoolSettings
from simulations.peers.answer import Sized, each_pool
from simulations.peers.rhythm import KvRhythm
from simulations.peers.signals import scraped
from simulations.peers.spans import Span


class CooldownSettings(KvRhythm):
    """What both of AIBrix's algorithms are run with."""

    tick_s: float = Field(10.0, ge=1, le=3600, description="Seconds between reconciliations.")
    scrape_interval_s: float | None = Field(10.0, ge=0.5, le=3600, description="It reads engines when it reconciles.")
    scrape_delay_s: float | None = Field(0.0, ge=0, le=60, description="It reads engines itself.")
    kv_cache_ratio: float = Field(0.5, gt=0, le=1, description="KV cache use per replica to aim at, as in the samples.")
    down_cooldown_s: float = Field(300.0, ge=0, le=3600, description="Seconds over which shrinking is held back.")
    cooldown: Literal["highest", "lowest"] = Field(
        "highest", description="Which of the counts asked for during the cooldown is taken: highest as documented."
    )


class AibrixApaSettings(CooldownSettings):
    """Defaults of ``NewBaseScalingContext``."""

    window_s: float = Field(180.0, gt=0, le=3600, description="Seconds over which use is averaged.")
    tolerance_ratio: float = Field(0.1, ge=0, lt=1, description="Deviation from the target that is ignored.")
    up_factor: float = Field(2.0, gt=1, description="Most replicas at once, as a multiple of those there are.")
    down_factor: float = Field(2.0, gt=1, description="Fewest replicas at once: those there are divided by this.")


@dataclass(slots=True)
class Cooldown:
    """What was asked for during the cooldown, per pool."""

    settings: CooldownSettings
    _asked: dict[str, Span] = field(default_factory=dict)

    def settled(self, name: str, at: float, wanted: int, current: int) -> int:
        """Return ``wanted``, held back where it shrinks."""
        asked = self._asked.get(name)
        if asked is None:  # what ran before the first look counts, or every start would shrink at once
            asked = self._asked[name] = Span(self.settings.down_cooldown_s)
            asked.add(at, float(current))
        asked.add(at, float(wanted))
        if wanted >= current:
            return wanted
        recent = [int(count) for count in asked.within(at)] or [wanted]
        return min(current, max(recent)) if self.settings.cooldown == "highest" else min(recent)


@dataclass(slots=True)
class AibrixApa:
    """One ``PodAutoscaler`` per pool; ``pools`` has their bounds and ``kv_full`` what counts as full, by key text."""

    pools: Mapping[str, PoolSettings]
    settings: AibrixApaSettings
    kv_full: Mapping[str, float] = field(default_factory=dict)
    name: str = "aibrix-apa"
    _use: dict[str, Span] = field(default_factory=dict)
    _cooldown: Cooldown = field(init=False)

    def __post_init__(self) -> None:
        self._cooldown = Cooldown(self.settings)

    def decide(self, fleet: FleetState, forecasts: Mapping[str, LoadForecast], memory: PolicyMemory) -> Decision:
        """Return what each pool's autoscaler asks for."""
        return each_pool(fleet, memory, self.pools, lambda pool, _: self._sized(pool, fleet.at))

    def _sized(self, pool: PoolState, at: float) -> Sized:
        name, settings = str(pool.key), self.settings
        span = self._use.setdefault(name, Span(settings.window_s))
        seen = scraped(pool, "kv_cache_ratio")
        span.add(at, math.fsum(seen) / len(seen) / self.kv_full.get(name, 1.0) if seen else math.nan)
        use = span.mean(at)
        if pool.desired == 0 or math.isnan(use) or not seen:
            return Sized(pool.desired, "no metrics", "nothing to go by")
        wanted = max(1, by_ratio(use, settings.kv_cache_ratio, pool.desired, settings))  # scale-to-zero is off
        wanted = guarded(wanted, use, settings.kv_cache_ratio, pool.roster.serving_count, pool.desired)
        return Sized(self._cooldown.settled(name, at, wanted, pool.desired), "apa", f"KV cache use {use:.2f}")


def by_ratio(use: float, target: float, current: int, settings: AibrixApaSettings) -> int:
    """Return the count that brings ``use`` per replica to ``target``, within what may change at once.

    5 replicas at 0.8 with a target of 0.5: ratio 1.6, ceil(5 * 1.6) = 8. At 0.1: ratio 0.2, ceil(1.0) = 1, but no fewer
    than floor(5 / 2) = 2.
    """
    ratio = use / target
    count = math.ceil(current * ratio)
    if ratio > 1.0 + settings.tolerance_ratio:
        return min(count, math.ceil(settings.up_factor * current))
    if ratio < 1.0 - settings.tolerance_ratio:
        return max(count, math.floor(current / settings.down_factor))
    return current


def guarded(wanted: int, use: float, target: float, ready: int, current: int) -> int:
    """Return ``wanted`` with replicas that are not ready taken as idle when growing, as on target when shrinking."""
    ready = min(ready, current)
    pending = current - ready
    if pending <= 0 or wanted == current:
        return wanted
    if wanted > current:
        return min(wanted, max(current, math.ceil(use * ready / target)))
    return max(wanted, min(current, math.ceil((use * ready + target * pending) / target)))
