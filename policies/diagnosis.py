"""What is believed to be wrong: evidence held against the failure catalogue, as a table."""

from __future__ import annotations

import math
from collections.abc import Sequence
from collections.abc import Set as AbstractSet

from policies.causes import ERRORS, EXITED, EXPORTER, HANG, START_OVERDUE, STRAGGLER, UNKNOWN, Cause
from policies.decisions import Anomaly, Diagnosis
from policies.fleet import FleetState, Phase, PoolKey, ReplicaState


def diagnose(fleet: FleetState, anomalies: Sequence[Anomaly]) -> tuple[Diagnosis, ...]:
    """Return one diagnosis per suspected replica, oldest first.

    ===========================================  ==========================  =======
    evidence                                     cause                       code
    ===========================================  ==========================  =======
    platform: FAILED                             engine exited               F2
    platform: starting for too long              start does not finish       F4
    answers and cohort                           engine answers with errors  F2
    errors and cohort, where no gateway tells    the same, unconfirmed       F2
    progress and gateway                         engine hangs                F1
    progress and peers, where no gateway tells   engine hangs, unconfirmed   F1
    exporter                                     its metrics stand still     F13
    peers and latency                            one slow replica            F8
    anything else                                unknown                     unknown
    ===========================================  ==========================  =======

    Where a gateway reports, its word is needed for a hang. Where none does, the engine's exporter is the only witness,
    since peers say nothing of that exporter: such a diagnosis is not ``confirmed``, and nothing is destroyed for it.
    The same goes for an engine that says of itself that it fails. Errors that all replicas answer with alike are those
    of clients, of what they all depend on, or of a revision: no cause is named for them here.
    """
    if not anomalies:
        return ()
    by_replica: dict[tuple[PoolKey, str], list[Anomaly]] = {}
    for anomaly in anomalies:
        by_replica.setdefault((anomaly.pool, anomaly.replica), []).append(anomaly)
    replicas = {(pool.key, r.id): r for pool in fleet.pools for r in pool.replicas}
    found = [_diagnose_one(replicas[name], evidence) for name, evidence in by_replica.items()]
    return tuple(sorted(found, key=lambda d: (d.since_at, d.subject, d.pool)))


def confirmed(diagnosis: Diagnosis) -> bool:
    """Return whether more than the engine's own metrics speaks for a hang, or for errors."""
    if answers_with_errors(diagnosis):
        return "answers" in diagnosis.families
    return diagnosis.cause != HANG.code or "gateway" in diagnosis.families


def answers_with_errors(diagnosis: Diagnosis) -> bool:
    """Return whether the engine is said to fail requests while its process lives: the other F2 is one that exited."""
    return diagnosis.cause == ERRORS.code and "cohort" in diagnosis.families


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
        name=cause.name,
    )


def _cause(replica: ReplicaState, families: AbstractSet[str]) -> Cause:
    if replica.phase is Phase.FAILED:
        return EXITED
    if "platform" in families and replica.starting:
        return START_OVERDUE
    witness = "peers" if math.isnan(replica.in_flight_requests) else "gateway"
    if {"progress", witness} <= families:
        return HANG
    counts_errors = "errors" if math.isnan(replica.failed_answers_total) else "answers"
    if {"cohort", counts_errors} <= families:
        return ERRORS
    if "exporter" in families:
        return EXPORTER
    if {"latency", "peers"} <= families:
        return STRAGGLER
    return UNKNOWN
