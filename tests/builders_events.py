"""Ticks to be told of as Events, and what people then read of an object."""

from __future__ import annotations

from typing import Any

from controller.plans import Part, target_of
from controller.ports import ActResult, Outcome, TickRecord
from policies.decisions import Decision, Diagnosis, Reason, ScalingPlan, TrafficPlan
from policies.fleet import FleetState, PoolKey
from policies.memory import PolicyMemory, PoolMemory
from simulations.kubernetes_api.running import RunningApi
from tests.builders_kubernetes_api import clients


def sick_at(at: float, pool: PoolKey, replica: str) -> Diagnosis:
    """Return that a replica hangs."""
    return Diagnosis("F7", replica, pool, at, ("progress",), "it makes no progress", name="hang")


def record(
    at: float,
    *parts: Part,
    pools: tuple[PoolKey, ...] = (),
    sick: tuple[Diagnosis, ...] = (),
    outcome: Outcome = "done",
    detail: str = "",
    why: tuple[Reason, ...] = (),
    fleet: FleetState | None = None,
) -> TickRecord:
    """Return a tick that decided ``parts`` for the reasons ``why``, and what became of all of them.

    ``pools`` are those that it remembers besides those of its ``parts``.
    """
    known = set(pools) | {part.pool for part in parts if isinstance(part, ScalingPlan)}
    decision = Decision(
        at=at,
        generation=1,
        input_digest="",
        expires_at=at + 60.0,
        scaling=tuple(part for part in parts if isinstance(part, ScalingPlan)),
        traffic=tuple(part for part in parts if isinstance(part, TrafficPlan)),
        anomalies=(),
        diagnoses=sick,
        remediations=tuple(part for part in parts if not isinstance(part, ScalingPlan | TrafficPlan)),
        reasons=why,
        memory=PolicyMemory(pools={str(key): PoolMemory() for key in sorted(known)}),
    )
    results = [ActResult(one.act, one.subject, outcome, detail) for one in map(target_of, parts)]
    return TickRecord(at, fleet, {}, decision, tuple(results))


def blind(at: float, message: str) -> TickRecord:
    """Return a tick that saw nothing, and told a human so."""
    return TickRecord(at, None, {}, None, error=message, told=ActResult("page", "fleet", "done", message))


def events_of(api: RunningApi, name: str, namespace: str = "prod") -> list[Any]:
    """Return what the official client lists of an object, the oldest first."""
    with clients(api) as client:
        found = client.core.list_namespaced_event(namespace, field_selector=f"involvedObject.name={name}")
    return sorted(found.items, key=lambda event: (event.first_timestamp, event.reason))
