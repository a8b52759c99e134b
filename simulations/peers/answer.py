"""How does a rival's replica count become a decision of the same form as Foresail's?"""

from __future__ import annotations

from collections.abc import Mapping

from policies.decisions import Decision, Reason, ScalingPlan, TrafficPlan
from policies.fleet import FleetState, PoolKey
from policies.memory import PolicyMemory, PoolMemory
from policies.wire import digest

PLAN_EXPIRY_S = 30.0
"""As Foresail's default; a rival acts in the tick in which it decides, so this never binds."""


def decision_of(
    fleet: FleetState,
    memory: PolicyMemory,
    desired: Mapping[PoolKey, int],
    reasons: tuple[Reason, ...] = (),
    pools: Mapping[str, PoolMemory] | None = None,
) -> Decision:
    """Return the decision to have ``desired`` replicas, traffic spread evenly over those that are ready.

    Args:
        fleet: What was looked at.
        memory: What the rival remembered.
        desired: Replicas per pool. A pool that is not in it is left alone.
        reasons: Why.
        pools: What the rival remembers of its pools from now on; None keeps what it had.
    """
    generation = memory.generation + 1
    return Decision(
        at=fleet.at,
        generation=generation,
        input_digest=digest((fleet, memory)),
        expires_at=fleet.at + PLAN_EXPIRY_S,
        scaling=tuple(
            ScalingPlan(pool.key, pool.desired, desired[pool.key], pool.version)
            for pool in fleet.pools
            if desired.get(pool.key, pool.desired) != pool.desired
        ),
        traffic=_even_traffic(fleet),
        anomalies=(),
        diagnoses=(),
        remediations=(),
        reasons=reasons,
        memory=PolicyMemory(generation, memory.pools if pools is None else pools),
    )


def _even_traffic(fleet: FleetState) -> tuple[TrafficPlan, ...]:
    """Share the requests of each stage in proportion to ready replicas, as a Kubernetes Service does over endpoints."""
    plans = []
    for model in fleet.models:
        weights: dict[PoolKey, float] = {}
        for stage in fleet.stages_of(model):
            pools = fleet.pools_in(stage)
            ready = sum(len(pool.serving) for pool in pools)
            weights |= {pool.key: len(pool.serving) / ready if ready else pool.weight for pool in pools}
        if weights != {pool.key: pool.weight for pool in fleet.pools_of(model)} and sum(weights.values()) > 0:
            plans.append(TrafficPlan(model, weights))
    return tuple(plans)
