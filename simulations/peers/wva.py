"""What would llm-d's Workload Variant Autoscaler (WVA) do, with its saturation analyzer, version 1?

Follows ``internal/saturation`` of llm-d-workload-variant-autoscaler 0.5 to 0.8 and ``docs/saturation-analyzer.md`` (the
project is deprecated since 0.9). Every 30 s, over all pools ("variants") of a model together: a replica is saturated
from 80 % KV cache use or 5 waiting requests on. What the others have left of both is averaged; below 10 % or 3 requests
the cheapest variant gets one replica more, and when the load of the unsaturated ones, spread over one fewer, leaves
both, the dearest gets one less. A variant with replicas on their way, or whose last answer is not carried out yet,
waits.

It sees the peak of what Prometheus scraped of each replica over the last minute. Replicas without figures are not
there; when none has any, nothing changes. It does not scale itself: an HPA object follows its answer
(``wva_desired_replicas``), which in its chart waits 240 s in both directions. That HPA's tolerance of 0.1 would hold
back one replica more from ten replicas on; it is 0 here, in WVA's favour. A model without any replica, which it leaves
to its scale-from-zero engine, gets one of the cheapest variant when the gateway holds requests for it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from pydantic import Field

from forecasting.forecast import LoadForecast
from policies.decisions import Decision
from policies.fleet import FleetState, PoolState
from policies.memory import PolicyMemory
from policies.placement import PoolSettings
from simulations.peers.hpa import Behaviour, autoscaled
from simulations.peers.rhythm import KvRhythm
from simulations.peers.spans import Span


class WvaSettings(Behaviour, KvRhythm):
    """``configmap-saturation-scaling`` and the behaviour of the chart's HPA object."""

    interval_s: float = Field(30.0, gt=0, le=3600, description="Seconds between two analyses.")
    peak_s: float = Field(60.0, gt=0, le=3600, description="Seconds over which a replica's peak is taken.")
    kv_cache_threshold: float = Field(0.8, gt=0, le=1, description="KV cache use from which a replica is saturated.")
    queue_threshold: float = Field(5.0, gt=0, description="Waiting requests from which a replica is saturated.")
    kv_spare_trigger: float = Field(0.1, ge=0, lt=1, description="Mean KV cache left below which it grows.")
    queue_spare_trigger: float = Field(3.0, ge=0, description="Mean waiting requests left below which it grows.")
    tolerance_ratio: float = Field(0.0, ge=0, lt=1, description="Of the HPA object; 0.1 in most clusters.")
    up_window_s: float = Field(240.0, ge=0, le=3600, description="Scale-up stabilization of the chart, in seconds.")
    down_window_s: float = Field(240.0, ge=0, le=3600, description="Scale-down stabilization of the chart, in seconds.")


@dataclass(frozen=True, slots=True)
class Peak:
    """The most that one replica of a variant had of both over the last minute."""

    kv_cache_ratio: float
    queued: float


@dataclass(slots=True)
class Wva:
    """Analyses all variants of a model together.

    ``pools`` has their bounds, ``kv_full`` what counts as a full cache, by key text.
    """

    pools: Mapping[str, PoolSettings]
    settings: WvaSettings
    kv_full: Mapping[str, float] = field(default_factory=dict)
    name: str = "wva"
    _seen: dict[str, tuple[Span, Span]] = field(default_factory=dict)
    _wanted: dict[str, int] = field(default_factory=dict)
    _analysed_at: float = -math.inf

    def decide(self, fleet: FleetState, forecasts: Mapping[str, LoadForecast], memory: PolicyMemory) -> Decision:
        """Return what the HPA objects make of the newest analysis."""
        for pool in fleet.pools:
            self._note(pool, fleet.at)
        if fleet.at - self._analysed_at >= self.settings.interval_s:
            self._analysed_at = fleet.at
            for stage in fleet.stages:
                variants = [pool for pool in fleet.pools_in(stage) if str(pool.key) in self.pools]
                self._analyse(variants, fleet)

        def answers(pool: PoolState) -> list[int | None]:
            return [self._wanted.get(str(pool.key))]

        return autoscaled(fleet, memory, self.pools, answers, self.settings)

    def _note(self, pool: PoolState, at: float) -> None:
        """Keep what was scraped of each replica, once per sample; replicas that are gone are forgotten."""
        prefix = f"{pool.key}/"
        serving = np.flatnonzero(pool.roster.serving).tolist()
        there = {f"{prefix}{pool.roster.lives[place]}" for place in serving}
        for gone in [name for name in self._seen if name.startswith(prefix) and name not in there]:
            del self._seen[gone]
        length_s, full, told = self.settings.peak_s, self.kv_full.get(str(pool.key), 1.0), pool.told
        figures = zip(*(told.of(n).tolist() for n in ("observed_at", "kv_cache_ratio", "queued_requests")), strict=True)
        for life, scraped, serves, (observed_at, kv_cache_ratio, queued) in zip(
            pool.roster.lives, told.scraped.tolist(), pool.roster.serving.tolist(), figures, strict=True
        ):
            if not (serves and scraped) or observed_at <= at - length_s:
                continue
            kv, queue = self._seen.setdefault(f"{prefix}{life}", (Span(length_s), Span(length_s)))
            kv.add(observed_at, kv_cache_ratio / full)
            queue.add(observed_at, queued)

    def _peaks(self, pool: PoolState, at: float) -> list[Peak]:
        peaks = []
        for place in np.flatnonzero(pool.roster.serving).tolist():
            kv, queue = self._seen.get(f"{pool.key}/{pool.roster.lives[place]}", (Span(0.0), Span(0.0)))
            ratios, queued = kv.within(at), queue.within(at)
            if ratios and queued:
                peaks.append(Peak(max(ratios), max(queued)))
        return peaks

    def _analyse(self, variants: Sequence[PoolState], fleet: FleetState) -> None:
        """Set what each variant of one model, or of its prefill or decode, should have from now on."""
        peaks = {str(pool.key): self._peaks(pool, fleet.at) for pool in variants}
        free = [pool for pool in variants if self._settled(pool)]
        for pool in free:
            self._wanted[str(pool.key)] = pool.desired
        everywhere = [peak for mine in peaks.values() for peak in mine]
        if not everywhere:
            self._from_zero(variants, fleet)
            return
        counted = [pool for pool in free if peaks[str(pool.key)]]
        if needs_more(everywhere, self.settings):
            room = [pool for pool in counted if pool.desired < self.pools[str(pool.key)].max_replicas]
            if room:
                cheapest = min(room, key=lambda pool: (_cost(pool), str(pool.key)))
                self._wanted[str(cheapest.key)] = cheapest.desired + 1
        elif can_spare_one(everywhere, self.settings):
            room = [p for p in counted if p.desired > max(1, self.pools[str(p.key)].min_replicas)]
            if room:
                dearest = max(room, key=lambda pool: (_cost(pool), str(pool.key)))
                self._wanted[str(dearest.key)] = dearest.desired - 1

    def _settled(self, pool: PoolState) -> bool:
        """Return whether the last answer is carried out and no replica is on its way."""
        return not pool.roster.starting and self._wanted.get(str(pool.key), pool.desired) == pool.desired

    def _from_zero(self, variants: Sequence[PoolState], fleet: FleetState) -> None:
        if not variants or any(pool.desired for pool in variants):
            return
        if fleet.gateway_queued.get(variants[0].key.model, 0.0) > 0:
            cheapest = min(variants, key=lambda pool: (_cost(pool), str(pool.key)))
            self._wanted[str(cheapest.key)] = 1


def needs_more(peaks: Sequence[Peak], settings: WvaSettings) -> bool:
    """Return whether the unsaturated replicas have too little left on average; all saturated have nothing left.

    KV cache use of 0.75, 0.72 and 0.85 with empty queues: the third is saturated, the others have 0.05 and 0.08 left,
    0.065 on average, which is less than 0.1.
    """
    rest = unsaturated(peaks, settings)
    if not rest:
        return True
    kv_left = math.fsum(settings.kv_cache_threshold - peak.kv_cache_ratio for peak in rest) / len(rest)
    queue_left = math.fsum(settings.queue_threshold - peak.queued for peak in rest) / len(rest)
    return kv_left < settings.kv_spare_trigger or queue_left < settings.queue_spare_trigger


def can_spare_one(peaks: Sequence[Peak], settings: WvaSettings) -> bool:
    """Return whether one unsaturated replica fewer would leave enough of both.

    KV cache use of 0.3, 0.4 and 0.5: 1.2 over two is 0.6 each, 0.2 is left, which is enough. With 0.5 each, 1.5 over
    two leaves 0.05, which is not.
    """
    rest = unsaturated(peaks, settings)
    if len(rest) < 2:
        return False
    kv_left = settings.kv_cache_threshold - math.fsum(peak.kv_cache_ratio for peak in rest) / (len(rest) - 1)
    queue_left = settings.queue_threshold - math.fsum(peak.queued for peak in rest) / (len(rest) - 1)
    return kv_left >= settings.kv_spare_trigger and queue_left >= settings.queue_spare_trigger


def unsaturated(peaks: Sequence[Peak], settings: WvaSettings) -> list[Peak]:
    """Return the replicas that are below both thresholds."""
    return [p for p in peaks if p.kv_cache_ratio < settings.kv_cache_threshold and p.queued < settings.queue_threshold]


def _cost(pool: PoolState) -> float:
    """Return the price of a replica; GPUs where there is no price."""
    return pool.usd_per_replica_hour or float(pool.gpus_per_replica)
