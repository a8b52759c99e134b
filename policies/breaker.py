"""Does too much look sick at once for single replicas to be the cause?"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from policies.causes import COLD_START, COUNTER_RESET, CUT_OFF, EXITED, EXPORTER, HARDWARE, UNKNOWN, cause_of
from policies.decisions import Diagnosis, Page, Reason
from policies.fleet import FleetState, PoolKey, Stage
from policies.gpu_faults import may_yet_tell
from policies.ledger import Ledger


def stopped_models(diagnoses: Sequence[Diagnosis], ledger: Ledger) -> set[str]:
    """Return the models in a stage of which too much looks sick at once to heal single replicas (invariant I3).

    What has no node yet is no engine that could be sick: it waits for GPUs. All that a node with a GPU at fault takes
    with it counts once, for it is one failure. The fleet's breaker looks at the other
    models only: one that is stopped already must not stop those with it.
    """
    frozen = {(a.pool, a.replica) for a in ledger.seen.anomalies if a.family == "progress"}
    harmless = (UNKNOWN.name, EXPORTER.name, CUT_OFF.name, COLD_START.name, COUNTER_RESET.name)
    fleet = ledger.fleet
    waiting = {(p.key, r.id) for p in fleet.pools for r in p.roster.unplaced}
    nodes = _nodes_of(fleet, {d.pool for d in diagnoses if d.subject})
    at_fault = {
        (d.pool.stage, nodes.get((d.pool, d.subject), "")): d for d in diagnoses if cause_of(d).name == HARDWARE.name
    }
    once = [d for d in diagnoses if cause_of(d).name != HARDWARE.name]
    sick = [
        d
        for d in (*once, *at_fault.values())
        if d.subject
        and (cause_of(d).name not in harmless or (d.cause == UNKNOWN.code and (d.pool, d.subject) in frozen))
        and (d.pool, d.subject) not in waiting
    ]
    present = {
        stage: sum(len(p.roster) - len(p.roster.unplaced) for p in fleet.pools_in(stage)) for stage in fleet.stages
    }
    sick_of: dict[Stage, list[Diagnosis]] = {stage: [] for stage in present}
    for d in sick:
        sick_of[d.pool.stage].append(d)
    broken = [stage for stage in present if ledger.settings.breaker_open(len(sick_of[stage]), present[stage])]
    for stage in sorted(broken):
        _break(ledger, str(stage), sick_of[stage], present[stage], nodes)
    stopped = {stage.model for stage in broken}
    others = [stage for stage in present if stage.model not in stopped]
    sick_others = [d for stage in others for d in sick_of[stage]]
    present_others = sum(present[s] for s in others)
    if len({s.model for s in others}) > 1 and ledger.settings.breaker_open(len(sick_others), present_others):
        _break(ledger, "fleet", sick_others, present_others, nodes)
        return set(fleet.models)
    return stopped


def _nodes_of(fleet: FleetState, pools: Collection[PoolKey]) -> Mapping[tuple[PoolKey, str], str]:
    """Return the node of each replica of these pools."""
    return {(pool.key, r.id): r.node for pool in fleet.pools if pool.key in pools for r in pool.roster.replicas}


def _break(
    ledger: Ledger,
    subject: str,
    sick: Sequence[Diagnosis],
    present: int,
    nodes: Mapping[tuple[PoolKey, str], str],
) -> None:
    """Say that healing stops; a human is told unless the next reports of GPUs may show that it need not.

    Engines of one node that have just exited may be one failure: that of its GPU, which is told a little later.
    """
    message = f"{len(sick)} of {present} replicas look sick at once: healing stops"
    ledger.reasons.append(Reason("breaker", subject, len(sick), 0, message))
    if ledger.settings.breaker_open(_fewest(sick, ledger.fleet, nodes), present):
        ledger.pages.append(Page(subject, "breaker", message))


def _fewest(sick: Sequence[Diagnosis], fleet: FleetState, nodes: Mapping[tuple[PoolKey, str], str]) -> int:
    """Return how many failures they are if each GPU is at fault that may be and has not had the time to tell."""
    alone, together = 0, set[tuple[object, str]]()
    for d in sick:
        node = nodes.get((d.pool, d.subject), "")
        just_exited = cause_of(d).name == EXITED.name and may_yet_tell(fleet, node, d.since_at)
        if just_exited or (node and cause_of(d).name == HARDWARE.name):
            together.add((d.pool.stage, node))
        else:
            alone += 1
    return alone + len(together)
