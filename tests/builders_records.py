"""Builders of tick records, for the tests of the audit log, of ``explain`` and of the command line."""

from __future__ import annotations

from controller.ports import ActResult, TickRecord
from policies.burn import Burn
from policies.decisions import (
    CordonReplica,
    Decision,
    Diagnosis,
    FailOver,
    Page,
    Reason,
    ScalingPlan,
    TrafficPlan,
)
from policies.fleet import Demand, FleetState, Phase, PoolKey, PoolState, ReplicaMetrics, ReplicaState, ServiceLevel
from policies.memory import PolicyMemory

MODEL = "llama-3.1-70b"
POOL = PoolKey(MODEL, "a100")
SPARE = PoolKey(MODEL, "h100")
BESIDE = ("35 s after revision 8 began",)


def fleet_of(at: float, replicas: int = 3) -> FleetState:
    """Return two pools: ``replicas`` in the first, of which the first one hangs, and an empty spare."""
    metrics = ReplicaMetrics(at - 5, 7.0, 2.0, 0.31, 1e6, 2e6, 3e6, 400.0)
    states = tuple(
        ReplicaState(f"r{i}", Phase.READY, 1.0, 2.0, cordoned=i == 0, metrics=metrics if i else None)
        for i in range(replicas)
    )
    pools = (
        PoolState(POOL, states, desired=replicas, gpus_per_replica=4, weight=1.0),
        PoolState(SPARE, (), desired=0, gpus_per_replica=4),
    )
    return FleetState(
        at,
        pools,
        demand={MODEL: Demand(12.5, 9_000.0, 2_100.0)},
        service={MODEL: ServiceLevel(300.0, 200.0, 190.0)},
        gateway_queued={MODEL: 3.0},
        missing=("metrics:r0",),
        gateway_oldest_at=at - 20.0,
        gateway_newest_at=at - 5.0,
    )


def decision_of(at: float, generation: int, plans: tuple[ScalingPlan, ...] = (), acts: bool = False) -> Decision:
    """Return a decision: quiet, scaling by ``plans``, or with every kind of act."""
    remedies = (CordonReplica("r0", POOL, "hang"), FailOver(MODEL, POOL, SPARE, "hang"), Page("r0", "hang", "look"))
    return Decision(
        at=at,
        generation=generation,
        input_digest="0123456789abcdef",
        expires_at=at + 30,
        scaling=plans,
        traffic=(TrafficPlan(MODEL, {POOL: 0.25, SPARE: 0.75}),) if acts else (),
        anomalies=(),
        diagnoses=(Diagnosis("F7", "r0", POOL, at - 60, ("progress", "peers"), "r0 hangs", beside=BESIDE, ours="size"),)
        if acts
        else (),
        remediations=remedies if acts else (),
        reasons=(
            Reason("predictive target", MODEL, 3, 5.25, "12.5 requests/s at the 0.90 level of the peak"),
            Reason("tolerance", str(POOL), 3, 3, "within 10 %"),
        ),
        memory=PolicyMemory(generation),
        burn={MODEL: Burn(5.0, 7.2, 3.1, 0.4)} if acts else {},
    )


def quiet_tick(at: float, generation: int = 1) -> TickRecord:
    """Return a tick in which there was nothing to do."""
    return TickRecord(at, fleet_of(at), {MODEL: "seasonal naive"}, decision_of(at, generation))


def scaling_tick(at: float, generation: int = 1) -> TickRecord:
    """Return a tick that asked for two more replicas and got them."""
    decision = decision_of(at, generation, (ScalingPlan(POOL, 3, 5, 1),))
    return TickRecord(at, fleet_of(at), {MODEL: "lstm 7"}, decision, (ActResult("scale", str(POOL), "done"),))


def busy_tick(at: float, generation: int = 1) -> TickRecord:
    """Return a tick with every kind of act, one of which was held and one failed."""
    results = (
        ActResult("cordon", "r0", "done"),
        ActResult("weights", MODEL, "held", "mode observe"),
        ActResult("page", "r0", "failed", "no route to the pager"),
    )
    return TickRecord(at, fleet_of(at), {MODEL: "lstm 7"}, decision_of(at, generation, acts=True), results)


def blind_tick(at: float) -> TickRecord:
    """Return a tick in which nothing could be observed."""
    return TickRecord(at, None, {}, None, error="metrics store: connection refused")
