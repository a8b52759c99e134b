"""Ticks that decided this or that, and what became of it."""

from __future__ import annotations

from controller.plans import Part, target_of
from controller.ports import ActResult, Outcome, TickRecord
from policies.decisions import Decision, Diagnosis, Reason, ScalingPlan, TrafficPlan
from policies.fleet import PoolKey
from policies.memory import PolicyMemory, PoolMemory


def tick_of(
    at: float,
    *parts: Part,
    outcome: Outcome = "done",
    detail: str = "",
    why: tuple[Reason, ...] = (),
    diagnoses: tuple[Diagnosis, ...] = (),
    pools: tuple[PoolKey, ...] = (),
) -> TickRecord:
    """Return a tick that decided ``parts`` for the reasons ``why``, and what became of all of them."""
    known = set(pools) | {part.pool for part in parts if isinstance(part, ScalingPlan)}
    decision = Decision(
        at=at,
        generation=1,
        input_digest="",
        expires_at=at + 60.0,
        scaling=tuple(part for part in parts if isinstance(part, ScalingPlan)),
        traffic=tuple(part for part in parts if isinstance(part, TrafficPlan)),
        anomalies=(),
        diagnoses=diagnoses,
        remediations=tuple(part for part in parts if not isinstance(part, ScalingPlan | TrafficPlan)),
        reasons=why,
        memory=PolicyMemory(pools={str(key): PoolMemory() for key in sorted(known)}),
    )
    results = [ActResult(one.act, one.subject, outcome, detail) for one in map(target_of, parts)]
    return TickRecord(at, None, {}, decision, tuple(results))
