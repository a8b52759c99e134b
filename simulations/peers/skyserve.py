"""What would SkyServe do, on requests per second?

Follows ``RequestRateAutoscaler`` in ``sky/serve/autoscalers.py`` of SkyPilot 0.10 with its constants: ceil(requests of
the last 60 s / 60 / requests/s per replica), looked at every 20 s; growing has to be wanted at 15 looks in a row (300
s), shrinking at 60 (1200 s). From zero it goes up at once. It ships no target: a share of what a replica sustained in
its load test is taken.

Its load balancer sees every request and tells the controller of them every 20 s. What it does not tell of ages away, so
that silence long enough shrinks the service.
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
from simulations.peers.signals import share_of
from simulations.peers.spans import Patience, Span


class SkyServeSettings(Rhythm):
    """Constants of ``sky/serve/constants.py``; the target is the operator's."""

    tick_s: float = Field(20.0, ge=1, le=3600, description="Seconds between decisions.")
    scrape_interval_s: float | None = Field(20.0, ge=0.5, le=3600, description="Seconds between reports.")
    scrape_delay_s: float | None = Field(0.0, ge=0, le=60, description="The load balancer tells it.")
    target_ratio: float = Field(
        0.7, gt=0, le=2, description="Requests/s per replica to aim at, over those that one sustained in its load test."
    )
    window_s: float = Field(60.0, gt=0, le=3600, description="Seconds over which requests are counted.")
    up_delay_s: float = Field(300.0, ge=0, description="Seconds for which growing has to be wanted.")
    down_delay_s: float = Field(1200.0, ge=0, description="Seconds for which shrinking has to be wanted.")


@dataclass(slots=True)
class SkyServe:
    """One service per pool.

    Attributes:
        pools: Bounds per pool, by key text.
        targets: Requests/s per replica to aim at, by the same keys.
    """

    pools: Mapping[str, PoolSettings]
    targets: Mapping[str, float]
    settings: SkyServeSettings
    name: str = "skyserve"
    _requests: dict[str, Span] = field(default_factory=dict)
    _patience: dict[str, Patience] = field(default_factory=dict)

    def decide(self, fleet: FleetState, forecasts: Mapping[str, LoadForecast], memory: PolicyMemory) -> Decision:
        """Return what each service's autoscaler asks for."""
        return each_pool(fleet, memory, self.pools, lambda pool, bounds: self._sized(fleet, pool, bounds))

    def _sized(self, fleet: FleetState, pool: PoolState, bounds: PoolSettings) -> Sized:
        name, settings = str(pool.key), self.settings
        span = self._requests.setdefault(name, Span(settings.window_s))
        demand = fleet.demand.get(pool.key.model)
        if demand is not None:
            span.add(fleet.at, demand.requests_per_s * share_of(fleet, pool) * settings.tick_s)
        per_s = math.fsum(span.within(fleet.at)) / settings.window_s
        wanted = min(max(math.ceil(per_s / self.targets[name]), bounds.min_replicas), bounds.max_replicas)
        if pool.desired == 0:
            return Sized(wanted, "request rate", f"{per_s:.2f} requests/s")
        patience = self._patience.setdefault(name, Patience())
        # The first look counts: the n-th look in a row is n - 1 ticks after it.
        up_s, down_s = settings.up_delay_s - settings.tick_s, settings.down_delay_s - settings.tick_s
        count = patience.settle(fleet.at, wanted, pool.desired, up_s, down_s)
        return Sized(count, "request rate", f"{per_s:.2f} requests/s want {wanted}")
