"""What would Ray Serve do, on ongoing requests?

Follows ``python/ray/serve/autoscaling_policy.py`` and ``_private/autoscaling_state.py`` of Ray 2.5x with the defaults
of ``AutoscalingConfig``: requests running or queued for the deployment, averaged over 30 s, over 2 per replica. Growing
has to be wished for 30 s without a break, shrinking for 600 s. The default of 2 is not meant for engines that batch:
sweep it, or set it to a share of what a replica held in its load test.

The controller looks every 0.1 s at what handles and replicas push every 10 s; here it looks every 5 s at figures that
are no older. Replicas without figures count as nothing, as there: silence long enough shrinks the deployment. A pool at
zero gets one replica as soon as a request waits for it.
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
from simulations.peers.answer import Sized, each_pool
from simulations.peers.rhythm import Rhythm
from simulations.peers.signals import held_for, ongoing
from simulations.peers.spans import Patience, Span


class RayServeSettings(Rhythm):
    """Defaults of ``AutoscalingConfig``."""

    tick_s: float = Field(5.0, ge=1, le=3600, description="Seconds between decisions.")
    scrape_interval_s: float | None = Field(5.0, ge=0.5, le=3600, description="Seconds between reports.")
    scrape_delay_s: float | None = Field(0.0, ge=0, le=60, description="Replicas push to the controller.")
    target_ongoing_requests: float = Field(2.0, gt=0, description="Ongoing requests per replica to aim at.")
    target_ratio: float | None = Field(
        None,
        gt=0,
        le=2,
        description="Where given, the target is this share of the requests that one replica held in its load test.",
    )
    look_back_s: float = Field(30.0, gt=0, le=3600, description="Seconds over which ongoing requests are averaged.")
    up_delay_s: float = Field(30.0, ge=0, description="Seconds for which growing has to be wished for.")
    down_delay_s: float = Field(600.0, ge=0, description="Seconds for which shrinking has to be wished for.")
    up_factor: float = Field(1.0, gt=0, description="Part of the way up that is gone at once (``upscaling_factor``).")
    down_factor: float = Field(1.0, gt=0, description="Part of the way down (``downscaling_factor``).")


@dataclass(slots=True)
class RayServe:
    """One autoscaled deployment per pool.

    ``pools`` has their bounds, by key text; ``targets`` their ongoing requests per replica where those are not the
    same.
    """

    pools: Mapping[str, PoolSettings]
    settings: RayServeSettings
    targets: Mapping[str, float] = field(default_factory=dict)
    name: str = "ray-serve"
    _ongoing: dict[str, Span] = field(default_factory=dict)
    _patience: dict[str, Patience] = field(default_factory=dict)

    def decide(self, fleet: FleetState, forecasts: Mapping[str, LoadForecast], memory: PolicyMemory) -> Decision:
        """Return what each deployment's policy asks for."""
        return each_pool(fleet, memory, self.pools, lambda pool, bounds: self._sized(fleet, pool, bounds))

    def _sized(self, fleet: FleetState, pool: PoolState, bounds: PoolSettings) -> Sized:
        name, settings = str(pool.key), self.settings
        span = self._ongoing.setdefault(name, Span(settings.look_back_s))
        span.add(fleet.at, ongoing(fleet, pool) or 0.0)
        requests = span.mean(fleet.at)
        running = pool.roster.serving_count
        if running == 0:  # nothing serves: no delay, and no more than one to begin with
            first = math.ceil(settings.up_factor) if requests > 0 or held_for(fleet, pool) > 0 else 0
            return Sized(max(first, pool.desired), "cold start", f"{requests:.1f} requests wait")
        target = self.targets.get(name, settings.target_ongoing_requests)
        wanted = paced(requests / target, running, settings)
        bounded = min(max(wanted, bounds.min_replicas), bounds.max_replicas)
        if pool.desired > 1:
            bounded = max(1, bounded)  # to zero only from one
        patience = self._patience.setdefault(name, Patience())
        count = patience.settle(fleet.at, bounded, pool.desired, settings.up_delay_s, settings.down_delay_s)
        return Sized(count, "ongoing requests", f"{requests:.1f} want {wanted}")


def paced(wanted: float, running: int, settings: RayServeSettings) -> int:
    """Return the whole replicas on the way from ``running`` to ``wanted``; a factor below 1 never gets stuck.

    26 requests at a target of 2 want 13; with 8 running and an up factor of 0.5 that is ceil(8 + 2.5) = 11.
    """
    delta = wanted - running
    count = math.ceil(running + (settings.up_factor if delta > 0 else settings.down_factor) * delta)
    return count - 1 if math.ceil(wanted) < running and count == running else count
