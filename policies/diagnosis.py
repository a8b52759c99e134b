"""What is believed to be wrong: evidence held against the failure catalogue, as a table."""

from __future__ import annotations

import math
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from policies.decisions import Anomaly, Diagnosis
from policies.fleet import FleetState, Phase, ReplicaState


@dataclass(frozen=True, slots=True)
class Cause:
    """One row of the failure catalogue that this table can tell."""

    code: str
    title: str


HANG = Cause("F1", "engine hangs, process alive")
EXITED = Cause("F2", "engine exited")
START_OVERDUE = Cause("F4", "start does not finish")
STRAGGLER = Cause("F8", "one slow replica")
UNKNOWN = Cause("unknown", "evidence of one kind only")


def diagnose(fleet: FleetState, anomalies: Sequence[Anomaly]) -> tuple[Diagnosis, ...]:
    """Return one diagnosis per suspected replica, oldest first.

    ===========================================  ==========================  =======
    evidence                                     cause                       code
    ===========================================  ==========================  =======
    platform: FAILED                             engine exited               F2
    platform: starting for too long              start does not finish       F4
    progress and gateway                         engine hangs                F1
    progress and peers, where no gateway tells   engine hangs                F1
    peers and latency                            one slow replica            F8
    anything else                                unknown                     unknown
    ===========================================  ==========================  =======

    Where a gateway reports, its word is needed for a hang: counters that stand still while it sees requests end, or
    knows of none, mean a frozen exporter.
    """
    by_replica: dict[str, list[Anomaly]] = {}
    for anomaly in anomalies:
        by_replica.setdefault(anomaly.replica, []).append(anomaly)
    replicas = {r.id: r for pool in fleet.pools for r in pool.replicas}
    found = [_diagnose_one(replicas[name], evidence) for name, evidence in by_replica.items()]
    return tuple(sorted(found, key=lambda d: (d.since_at, d.subject)))


def _diagnose_one(replica: ReplicaState, evidence: Sequence[Anomaly]) -> Diagnosis:
    families = {a.family for a in evidence}
    cause = _cause(replica, families)
    since = min(a.since_at for a in evidence)
    told = "; ".join(a.detail for a in evidence)
    return Diagnosis(
        cause=cause.code,
        subject=replica.id,
        pool=evidence[0].pool,
        since_at=since,
        families=tuple(sorted(families)),
        sentence=f"{cause.title}: {told}",
    )


def _cause(replica: ReplicaState, families: AbstractSet[str]) -> Cause:
    if replica.phase is Phase.FAILED:
        return EXITED
    if "platform" in families and replica.starting:
        return START_OVERDUE
    witness = "peers" if math.isnan(replica.in_flight_requests) else "gateway"
    if {"progress", witness} <= families:
        return HANG
    if {"latency", "peers"} <= families:
        return STRAGGLER
    return UNKNOWN
