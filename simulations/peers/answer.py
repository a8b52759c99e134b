"""How does a rival's replica count become a decision of the same form as Foresail's?"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from policies.decisions import Decision, Reason, ScalingPlan, TrafficPlan
from policies.fleet import FleetState, PoolKey, PoolState
from policies.memory import PolicyMemory, PoolMemory
from policies.placement import PoolSettings
from policies.wire import Digest

PLAN_EXPIRY_S = 30.0
"""As Foresail's default; a rival acts in the tick in which it decides, so this never binds."""


@dataclass(frozen=True, slots=True)
class Sized:
    """The replicas that a rival wants of one pool, which of its rules said so, and from what."""

    replicas: int
    rule: str
    detail: str = ""


def each_pool(
    fleet: FleetState,
    memory: PolicyMemory,
    pools: Mapping[str, PoolSettings],
    size: Callable[[PoolState, PoolSettings], Sized],
) -> Decision:
    """Return the decision of a rival that scales each pool on its own, within the pool's bounds.

    Args:
        fleet: What was looked at.
        memory: What is remembered for it; its generation counts on.
        pools: Bounds per pool, by key text. A pool that is not listed is left alone.
        size: Returns what one pool is to have.
    """
    desired: dict[PoolKey, int] = {}
    reasons = []
    for pool in fleet.pools:
        name = str(pool.key)
        if name not in pools:
            continue
        bounds = pools[name]
        sized = size(pool, bounds)
        count = min(max(sized.replicas, bounds.min_replicas), bounds.max_replicas)
        desired[pool.key] = count
        if count != pool.desired or sized.replicas != count:
            reasons.append(Reason(sized.rule, name, pool.desired, count, sized.detail))
    return decision_of(fleet, memory, desired, tuple(reasons))


def decision_of(
    fleet: FleetState,
    memory: PolicyMemory,
    desired: Mapping[PoolKey, int],
    reasons: tuple[Reason, ...] = (),
    pools: Mapping[str, PoolMemory] | None = None,
) -> Decision:
    """Return the decision to have ``desired`` replicas, traffic spread evenly over those that are ready.

    Its input is named only where something is done.

    Args:
        fleet: What was looked at.
        memory: What the rival remembered.
        desired: Replicas per pool. A pool that is not in it is left alone.
        reasons: Why.
        pools: What the rival remembers of its pools from now on; None keeps what it had.
    """
    generation = memory.generation + 1
    scaling = tuple(
        ScalingPlan(pool.key, pool.desired, desired[pool.key], pool.version)
        for pool in fleet.pools
        if desired.get(pool.key, pool.desired) != pool.desired
    )
    traffic = even_traffic(fleet)
    return Decision(
        at=fleet.at,
        generation=generation,
        input_digest=Digest((fleet, memory)),
        expires_at=fleet.at + PLAN_EXPIRY_S,
        scaling=scaling,
        traffic=traffic,
        anomalies=(),
        diagnoses=(),
        remediations=(),
        reasons=reasons,
        memory=PolicyMemory(generation, memory.pools if pools is None else pools),
    )


def even_traffic(fleet: FleetState) -> tuple[TrafficPlan, ...]:
    """Share the requests of each stage in proportion to ready replicas, as a Kubernetes Service does over endpoints."""
    plans = []
    for model in fleet.models:
        weights: dict[PoolKey, float] = {}
        for stage in fleet.stages_of(model):
            pools = fleet.pools_in(stage)
            ready = sum(pool.roster.serving_count for pool in pools)
            weights |= {pool.key: pool.roster.serving_count / ready if ready else pool.weight for pool in pools}
        if weights != {pool.key: pool.weight for pool in fleet.pools_of(model)} and sum(weights.values()) > 0:
            plans.append(TrafficPlan(model, weights))
    return tuple(plans)
