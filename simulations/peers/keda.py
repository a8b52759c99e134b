"""What would KEDA do, on the requests that wait in the engines?

A ``ScaledObject`` with a Prometheus trigger, as vLLM's production stack documents it ("Autoscaling with KEDA",
vllm-stack 0.1.11): ``vllm:num_requests_waiting`` at a threshold of 5. From the first replica on, KEDA only feeds an HPA
object (``AverageValue``), which asks it at every sync of 15 s; the polling interval of 30 s is that of its own part,
from zero to one replica and back (KEDA 2.17, "Scaling Deployments": ``pollingInterval``, ``cooldownPeriod``,
``fallback``).

It sees what Prometheus last scraped of each engine, summed over the pool. A query without a result counts as 0
(``ignoreNullValues``, the scaler's default). A queue inside engines says nothing of a pool without engines, so that who
lets it scale to zero adds a trigger on what the router takes in; here its activation also sees the router.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from pydantic import Field

from forecasting.forecast import LoadForecast
from policies.decisions import Decision, Reason, ScalingPlan
from policies.fleet import FleetState, PoolState
from policies.memory import PolicyMemory
from policies.placement import PoolSettings
from simulations.peers.hpa import Behaviour, autoscaled, shared_out
from simulations.peers.signals import held_for, scraped


class ScaledObjectSettings(Behaviour):
    """What every ``ScaledObject`` has beside its triggers."""

    polling_interval_s: float = Field(
        30.0, gt=0, description="Seconds between looks at whether there is anything to do, to and from zero replicas."
    )
    cooldown_s: float = Field(
        300.0, ge=0, description="Seconds after the last activity until a pool with a minimum of 0 goes to zero."
    )


class KedaSettings(ScaledObjectSettings):
    """The trigger, at the threshold that the production stack's guide has."""

    threshold: float = Field(5.0, gt=0, description="Waiting requests per replica to aim at.")


@dataclass(slots=True)
class ToAndFromZero:
    """KEDA's own part: it wakes a pool that has something to do, and puts an idle one to sleep.

    Its state, when it last looked and when something was last active, lives as long as the run.
    """

    pools: Mapping[str, PoolSettings]
    settings: ScaledObjectSettings
    _looked_at: float = -math.inf
    _active_at: dict[str, float] = field(default_factory=dict)

    def beside(self, decision: Decision, fleet: FleetState, active: Mapping[str, bool]) -> Decision:
        """Return ``decision`` with what is decided about pools at zero, and pools that go there."""
        if fleet.at - self._looked_at < self.settings.polling_interval_s:
            return decision
        self._looked_at = fleet.at
        plans = {plan.pool: plan for plan in decision.scaling}
        reasons = list(decision.reasons)
        for pool in fleet.pools:
            name = str(pool.key)
            if name not in self.pools:
                continue
            count = self._looked(name, pool, fleet.at, active=active.get(name, False))
            if count is not None:
                plans[pool.key] = ScalingPlan(pool.key, pool.desired, count, pool.version)
                reasons.append(Reason("activation", name, pool.desired, count, "active" if count else "idle"))
        return replace(decision, scaling=tuple(plans.values()), reasons=tuple(reasons))

    def _looked(self, name: str, pool: PoolState, at: float, *, active: bool) -> int | None:
        """Return the count to go to, between zero and not; None to leave it to the HPA object."""
        bounds = self.pools[name]
        self._active_at.setdefault(name, at)
        if active:
            self._active_at[name] = at
        if pool.desired == 0:
            woken = max(1, bounds.min_replicas)
            return woken if (active or bounds.min_replicas > 0) and bounds.max_replicas >= woken else None
        idle_s = at - self._active_at[name]
        return 0 if bounds.min_replicas == 0 and not active and idle_s >= self.settings.cooldown_s else None


@dataclass(slots=True)
class Keda:
    """A ``ScaledObject`` per pool; ``pools`` has their bounds, by key text."""

    pools: Mapping[str, PoolSettings]
    settings: KedaSettings
    name: str = "keda"
    _zero: ToAndFromZero = field(init=False)

    def __post_init__(self) -> None:
        self._zero = ToAndFromZero(self.pools, self.settings)

    def decide(self, fleet: FleetState, forecasts: Mapping[str, LoadForecast], memory: PolicyMemory) -> Decision:
        """Return what the HPA objects and KEDA itself ask for."""
        settings = self.settings

        def answers(pool: PoolState) -> list[int | None]:
            return [shared_out(waiting(pool), settings.threshold, pool.desired, settings.tolerance_ratio)]

        decision = autoscaled(fleet, memory, self.pools, answers, settings)
        active = {str(pool.key): waiting(pool) > 0 or routed(fleet, pool) for pool in fleet.pools}
        return self._zero.beside(decision, fleet, active)


def waiting(pool: PoolState) -> float:
    """Return the requests that wait in the pool's engines; 0 when the query finds nothing."""
    return math.fsum(scraped(pool, "queued_requests", everywhere=True))


def routed(fleet: FleetState, pool: PoolState) -> bool:
    """Return whether the router has anything to do for the pool."""
    demand = fleet.demand.get(pool.key.model)
    return held_for(fleet, pool) > 0 or (demand is not None and demand.requests_per_s > 0)
