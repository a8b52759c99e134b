"""What would AIBrix's variant of Knative's autoscaler (KPA) do, on KV cache use?

Follows ``pkg/controller/podautoscaler`` of vllm-project/aibrix of 2026 (v0.5): ``algorithm/kpa.go`` is Knative's
decider (see ``knative.py``) with a stable window of 180 s, a panic window of 60 s, at most twice and at least half the
ready replicas at once; the sum of the metric over the pool, over the target, is the count.

As for APA (see ``aibrix_apa.py``) the controller reads each ready engine itself every 10 s, the samples' target is 50 %
of the KV cache, replicas that are not ready count as idle or on target, and shrinking has a cooldown of 300 s. When no
engine answers nothing is decided; a pool at zero is switched off.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from pydantic import Field

from forecasting.forecast import LoadForecast
from policies.decisions import Decision
from policies.fleet import FleetState, PoolState
from policies.memory import PolicyMemory
from policies.placement import PoolSettings
from simulations.peers.aibrix_apa import Cooldown, CooldownSettings, guarded
from simulations.peers.answer import Sized, each_pool
from simulations.peers.knative import PanicWindows, WindowSettings
from simulations.peers.signals import scraped


class AibrixKpaSettings(CooldownSettings, WindowSettings):
    """Defaults of the admission webhook and of ``NewBaseScalingContext``."""

    stable_window_s: float = Field(180.0, ge=6, le=3600, description="Window of the ordinary average, in seconds.")
    panic_window_s: float = Field(60.0, ge=1, le=3600, description="Window that notices a burst, in seconds.")
    up_factor: float = Field(2.0, gt=1, description="Most replicas at once, as a multiple of those ready.")


@dataclass(slots=True)
class AibrixKpa:
    """One ``PodAutoscaler`` per pool; ``pools`` has their bounds and ``kv_full`` what counts as full, by key text."""

    pools: Mapping[str, PoolSettings]
    settings: AibrixKpaSettings
    kv_full: Mapping[str, float] = field(default_factory=dict)
    name: str = "aibrix-kpa"
    _windows: dict[str, PanicWindows] = field(default_factory=dict)
    _cooldown: Cooldown = field(init=False)

    def __post_init__(self) -> None:
        self._cooldown = Cooldown(self.settings)

    def decide(self, fleet: FleetState, forecasts: Mapping[str, LoadForecast], memory: PolicyMemory) -> Decision:
        """Return what each pool's autoscaler asks for."""
        return each_pool(fleet, memory, self.pools, lambda pool, _: self._sized(pool, fleet.at))

    def _sized(self, pool: PoolState, at: float) -> Sized:
        name, target, ready = str(pool.key), self.settings.kv_cache_ratio, pool.roster.serving_count
        seen = scraped(pool, "kv_cache_ratio")
        windows = self._windows.setdefault(name, PanicWindows(self.settings))
        used = math.fsum(seen) / self.kv_full.get(name, 1.0) if seen else None
        wanted = windows.scale(at, used, target, ready)
        if wanted is None or used is None or pool.desired == 0:
            return Sized(pool.desired, "no metrics", "nothing to go by")
        wanted = guarded(max(1, wanted), used / max(1, ready), target, ready, pool.desired)
        wanted = self._cooldown.settled(name, at, wanted, pool.desired)
        return Sized(wanted, "stable" if windows.panic_at is None else "panic", f"{used:.2f} replicas' KV cache in use")
