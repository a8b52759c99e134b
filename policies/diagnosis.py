"""What is believed to be wrong: evidence held against the failure catalogue, as two tables.

Evidence of a replica
    ===========================================  ==========================  =======
    evidence                                     cause                       code
    ===========================================  ==========================  =======
    gpu, and an exit, a start that does not
    finish, or progress, peers, latency, cohort  its GPU is at fault         F9
    platform: FAILED, or exit                    engine exited               F2
    platform: starting for too long              start does not finish       F4
    answers and cohort                           engine answers with errors  F2
    errors and cohort, where no gateway tells    the same, unconfirmed       F2
    answers or errors the same way, and record   the same, not compared      F2
    progress and gateway                         engine hangs                F1
    progress and canary                          engine hangs                F1
    progress and peers, where no gateway tells   engine hangs, unconfirmed   F1
    progress and unreached                       gateway does not reach it   F12
    exporter, or unscraped and answering         its metrics are at fault    F13
    peers, latency and young                     slow, for it just started   F19
    peers and latency, or peers and clock        one slow replica            F8
    counters and platform                        counters began anew         F14
    anything else                                unknown                     unknown
    ===========================================  ==========================  =======

Evidence of a pool, the first that fits
    ===========================================  ==========================  =======
    revision and cohort                          a new revision fails        F3
    starts and platform                          starts of any revision fail F4
    memory and platform                          engines out of memory       F5
    sequence and platform                        a request may kill them     F20
    node and platform                            a node is lost or leaves    F11
    gateway and engines                          gateway does not reach them F12
    gateway and cluster                          nor does anybody else       F12
    store and platform                           metrics are missing         F13
    aborts and demand                            clients retry               F17
    preemptions and cache                        KV cache thrashes           F6
    queue and throughput                         more load than capacity     F7
    ===========================================  ==========================  =======

``load forecast`` and ``latency forecast`` say that load or pace of a pool is not what was expected. They name no cause,
add their figures to one that others name, and do not say since when that is so. Of an idle pool (F15) no more is said
than that its load is not what was forecast.

Evidence that is too old, or that rests on too little of what was due (``grounds``), counts for no cause. Where nothing
else shows, what is believed is ``unknown``.

Where a gateway reports, its word is needed for a hang; of an idle replica, inside which it has nothing, that of a
canary (``canary_evidence``). Where neither tells, the engine's exporter is the only witness, since peers say nothing of
that exporter: such a diagnosis is not ``confirmed``, and nothing is destroyed for it. The same goes for an engine that
says of itself that it fails, and for one that has no peer to be compared with. Errors that all replicas answer with
alike are those of clients, of what they all depend on, or of a revision.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet

from policies.causes import (
    BAD_REVISION,
    COLD_START,
    COUNTER_RESET,
    CUT_OFF,
    ERRORS,
    EXITED,
    EXPORTER,
    HANG,
    HARDWARE,
    METRICS_LOST,
    NODE_TROUBLE,
    OUT_OF_MEMORY,
    OVERLOAD,
    POISON,
    PREEMPTIONS,
    RETRY_STORM,
    START_OVERDUE,
    STARTS_FAIL,
    STRAGGLER,
    UNKNOWN,
    UNREACHABLE,
    Cause,
)
from policies.decisions import Anomaly, Diagnosis
from policies.fleet import FleetState, Phase, PoolKey, PoolState, ReplicaState
from policies.latency_residual import LATENCY
from policies.load_residual import LOAD

_OF_POOL: tuple[tuple[Cause, frozenset[str]], ...] = (
    (BAD_REVISION, frozenset({"revision", "cohort"})),
    (STARTS_FAIL, frozenset({"starts", "platform"})),
    (OUT_OF_MEMORY, frozenset({"memory", "platform"})),
    (POISON, frozenset({"sequence", "platform"})),
    (NODE_TROUBLE, frozenset({"node", "platform"})),
    (UNREACHABLE, frozenset({"gateway", "engines"})),
    (UNREACHABLE, frozenset({"gateway", "cluster"})),
    (METRICS_LOST, frozenset({"store", "platform"})),
    (RETRY_STORM, frozenset({"aborts", "demand"})),
    (PREEMPTIONS, frozenset({"preemptions", "cache"})),
    (OVERLOAD, frozenset({"queue", "throughput"})),
)

RESIDUALS = frozenset({LOAD, LATENCY})
"""Families that say that something is odd, and not what is wrong."""


_WITH_GPU = ("progress", "peers", "latency", "cohort")
"""What else shows at a replica that goes on, on a GPU that is at fault."""


def diagnose(fleet: FleetState, anomalies: Sequence[Anomaly]) -> tuple[Diagnosis, ...]:
    """Return one diagnosis per suspected replica and pool, oldest first; the tables are those of the module."""
    if not anomalies:
        return ()
    by_subject: dict[tuple[PoolKey, str], list[Anomaly]] = {}
    for anomaly in anomalies:
        by_subject.setdefault((anomaly.pool, anomaly.replica), []).append(anomaly)
    replicas = {(pool.key, r.id): r for pool in fleet.pools for r in pool.replicas}
    found = [
        _diagnosis(_cause_of_replica(replicas[name], _families(evidence)), evidence)
        if name[1]
        else _diagnosis(_cause_of_pool(_families(evidence)), evidence)
        for name, evidence in by_subject.items()
    ]
    return tuple(sorted(found, key=lambda d: (d.since_at, d.subject, d.pool)))


def unexplained(
    fleet: FleetState, diagnoses: Sequence[Diagnosis], lately: Mapping[PoolKey, str] | None = None
) -> list[Diagnosis]:
    """Return the diagnoses without those of replicas that what is believed of their pool accounts for.

    A replica of a revision that fails, or that fails to start as all others do, or whose node is not in order, needs no
    remedy of its own, and is no witness that single replicas fail. ``lately`` is what showed at pools a while ago.
    """
    diagnoses = [d for d in diagnoses if d.subject or d.name != UNKNOWN.name]  # of a pool: no trouble, but odd
    of_pool = {**(lately or {}), **{d.pool: d.name for d in diagnoses if not d.subject}}
    if not of_pool:
        return diagnoses
    pools = {pool.key: pool for pool in fleet.pools}
    return [d for d in diagnoses if not (d.subject and _accounted_for(fleet, pools[d.pool], d, of_pool.get(d.pool)))]


def _accounted_for(fleet: FleetState, pool: PoolState, diagnosis: Diagnosis, cause: str | None) -> bool:
    replica = next(r for r in pool.roster.replicas if r.id == diagnosis.subject)
    node = fleet.nodes.get(replica.node)
    if node is not None and not node.ready:
        return True
    if cause == BAD_REVISION.name:
        return replica.revision == pool.revision
    if cause in (STARTS_FAIL.name, OUT_OF_MEMORY.name):
        return diagnosis.name in (EXITED.name, START_OVERDUE.name)
    if cause == METRICS_LOST.name:
        return diagnosis.name == EXPORTER.name or not confirmed(diagnosis)
    if cause in (OVERLOAD.name, PREEMPTIONS.name, RETRY_STORM.name):
        # TPOT is that of requests that end now; they decoded in the large batches of minutes ago.
        return diagnosis.name == STRAGGLER.name
    return cause == UNREACHABLE.name and diagnosis.name in (ERRORS.name, HANG.name, CUT_OFF.name, EXPORTER.name)


def confirmed(diagnosis: Diagnosis) -> bool:
    """Return whether more than the engine's own metrics speaks for a hang, or for errors."""
    if answers_with_errors(diagnosis):
        return "answers" in diagnosis.families
    if diagnosis.name == ERRORS.name:
        return False
    return diagnosis.cause != HANG.code or not {"gateway", "canary"}.isdisjoint(diagnosis.families)


def serves_nothing(diagnosis: Diagnosis) -> bool:
    """Return whether what is believed means that it serves nothing, by more than the engine's own word: it hangs."""
    if diagnosis.name == HARDWARE.name:
        return {"progress", "gateway"} <= set(diagnosis.families)
    return diagnosis.cause == HANG.code and confirmed(diagnosis)


def answers_with_errors(diagnosis: Diagnosis) -> bool:
    """Return whether the engine is said to fail requests while its process lives: the other F2 is one that exited."""
    return diagnosis.cause == ERRORS.code and "cohort" in diagnosis.families


def compared(diagnosis: Diagnosis) -> bool:
    """Return whether, of errors, a peer with the same requests has shown that they are its own."""
    return diagnosis.name != ERRORS.name or answers_with_errors(diagnosis)


def _families(evidence: Sequence[Anomaly]) -> set[str]:
    return {anomaly.family for anomaly in evidence if anomaly.counts}


def _diagnosis(cause: Cause, evidence: Sequence[Anomaly]) -> Diagnosis:
    evidence = [anomaly for anomaly in evidence if anomaly.counts] or evidence
    told = "; ".join(anomaly.detail for anomaly in evidence)
    telling = [anomaly for anomaly in evidence if anomaly.family not in RESIDUALS] or evidence
    return Diagnosis(
        cause=cause.code,
        subject=evidence[0].replica,
        pool=evidence[0].pool,
        since_at=min(anomaly.since_at for anomaly in telling),
        families=tuple(sorted({anomaly.family for anomaly in evidence})),
        sentence=f"{cause.title}: {told}",
        scope="replica" if evidence[0].replica else "pool",
        name=cause.name,
    )


def _cause_of_pool(families: AbstractSet[str]) -> Cause:
    return next((cause for cause, needed in _OF_POOL if needed <= families), UNKNOWN)


def _cause_of_replica(replica: ReplicaState, families: AbstractSet[str]) -> Cause:
    witness = "peers" if math.isnan(replica.in_flight_requests) else "gateway"
    counts_errors = "errors" if math.isnan(replica.failed_answers_total) else "answers"
    ended = replica.phase is Phase.FAILED or (replica.starting and not families.isdisjoint(("platform", "exit")))
    table: tuple[tuple[Cause, bool], ...] = (
        (HARDWARE, "gpu" in families and (ended or not families.isdisjoint(_WITH_GPU))),
        (EXITED, replica.phase is Phase.FAILED),
        (START_OVERDUE, "platform" in families and replica.starting),
        (EXITED, "exit" in families),
        (HANG, {"progress", witness} <= families or {"progress", "canary"} <= families),
        (CUT_OFF, {"progress", "unreached"} <= families),
        (ERRORS, counts_errors in families and not families.isdisjoint(("cohort", "record"))),
        (EXPORTER, "exporter" in families or {"unscraped", "answering"} <= families),
        (COLD_START, {"latency", "peers", "young"} <= families),
        (STRAGGLER, "peers" in families and not families.isdisjoint(("latency", "clock"))),
        (COUNTER_RESET, {"counters", "platform"} <= families),
    )
    return next((cause for cause, so in table if so), UNKNOWN)
