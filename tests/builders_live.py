"""Tick records of made-up fleets, for the tests of what is shown of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from controller.ports import ActResult, TickRecord
from forecasting.forecast import DEFAULT_LEVELS, LoadForecast
from policies.decisions import Decision, Diagnosis, Reason, Remediation, ScalingPlan, TrafficPlan
from policies.fleet import Demand, FleetState, Phase, PoolKey, PoolState, ReplicaState
from policies.memory import PolicyMemory

MODEL = "llama"
A100, H100 = PoolKey(MODEL, "a100"), PoolKey(MODEL, "h100")
SOURCE = "load@1a2b3c4d"


def pool_of(
    key: PoolKey,
    phases: Sequence[Phase],
    desired: int | None = None,
    weight: float = 0.5,
    cordoned: Sequence[str] = (),
    requested_at: Mapping[str, float] | None = None,
) -> PoolState:
    """Return a pool whose replicas are named ``pool-0``, ``pool-1`` and so on."""
    asked = requested_at or {}
    names = [f"{key.pool}-{i}" for i in range(len(phases))]
    replicas = tuple(
        ReplicaState(name, phase, asked.get(name, 0.0), 0.0, cordoned=name in cordoned)
        for name, phase in zip(names, phases, strict=True)
    )
    return PoolState(key, replicas, len(phases) if desired is None else desired, 4, 8.0, weight=weight)


def record_of(
    at: float,
    pools: Sequence[PoolState],
    requests_per_s: float | None = 20.0,
    *,
    scaling: Sequence[ScalingPlan] = (),
    traffic: Sequence[TrafficPlan] = (),
    diagnoses: Sequence[Diagnosis] = (),
    remediations: Sequence[Remediation] = (),
    reasons: Sequence[Reason] = (),
    results: Sequence[ActResult] = (),
) -> TickRecord:
    """Return one tick in which everything was seen; a load of None was not."""
    demand = {} if requests_per_s is None else {MODEL: Demand(requests_per_s, 1000.0, 200.0)}
    fleet = FleetState(at, tuple(pools), demand)
    decision = Decision(
        at=at,
        generation=1,
        input_digest="",
        expires_at=at + 30.0,
        scaling=tuple(scaling),
        traffic=tuple(traffic),
        anomalies=(),
        diagnoses=tuple(diagnoses),
        remediations=tuple(remediations),
        reasons=tuple(reasons),
        memory=PolicyMemory(),
    )
    return TickRecord(at, fleet, {MODEL: SOURCE}, decision, tuple(results))


def forecast_of(at: float, middle: Sequence[float], spread: float = 2.0) -> LoadForecast:
    """Return a forecast in steps of a minute: ``middle``, and ``spread`` less and more at the levels 0.1 and 0.9."""
    shift = {0.1: -spread, 0.25: -spread / 2, 0.5: 0.0, 0.75: spread / 2, 0.9: spread, 0.95: spread, 0.98: spread}
    values = np.array([[[m + shift[level]] * 3 for m in middle] for level in DEFAULT_LEVELS])
    return LoadForecast.ordered(at, 60.0, np.array(DEFAULT_LEVELS), values, SOURCE)
