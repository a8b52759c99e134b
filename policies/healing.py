"""What is done about what looks sick: remedies for single replicas, unless too many look sick at once.

Who owns what: this module opens the books of a tick (acts settled, cordons that are still on) and closes them; in
between only the ``Ladder`` writes into them. ``disruption`` keeps nothing, it says what is allowed.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from pydantic import Field

from policies.anomaly import Watch
from policies.decisions import CordonReplica, Diagnosis, Page, Reason, Remediation, UncordonReplica
from policies.diagnosis import EXPORTER, UNKNOWN, answers_with_errors
from policies.disruption import settled
from policies.fleet import FleetState, Phase
from policies.ladder import Ladder, LadderSettings
from policies.lead_time import LeadTime
from policies.memory import ActionMemory, CordonMemory, PolicyMemory
from policies.paging import once_per_episode, page_key


class HealingSettings(LadderSettings):
    """How much may be disturbed at once, how patient each rung is, and how often a human is told."""

    page_quiet_s: float = Field(
        900.0, ge=0, description="A page that was not wanted for this long, in seconds, is sent anew when it is again."
    )


@dataclass(frozen=True, slots=True)
class Course:
    """What healing wants now, and what to remember.

    ``lost`` says how many replicas of each pool must not be counted on, ``stopped`` in which models too much looks
    sick for anything to be given up.
    """

    remediations: tuple[Remediation, ...]
    reasons: tuple[Reason, ...]
    actions: tuple[ActionMemory, ...]
    cordons: Mapping[str, CordonMemory]
    pages: Mapping[str, float]
    lost: Mapping[str, int]
    stopped: frozenset[str] = frozenset()


def heal(
    fleet: FleetState,
    diagnoses: Sequence[Diagnosis],
    seen: Watch,
    memory: PolicyMemory,
    lead_times: Mapping[str, LeadTime],
    least: Mapping[str, int],
    settings: HealingSettings,
) -> Course:
    """Return remedies within the budgets, one ladder per diagnosis.

    hang       cordon at once; restart when frozen for ``restart_frozen_after_s``; uncordon when it moves again; where
               only its own metrics speak against it, cordon as if it were slow and leave the rest to a human
    errors     as if it were slow, but that it does not come back by itself: nothing shows that it works while nothing
               comes in; where only its own count speaks against it, it is not restarted and a human is told
    slow       cordon once enough others serve; restart when empty or after ``drain_deadline_s``; uncordon when it
               keeps up again
    exited     the platform restarts it; restart it ourselves only when that takes too long
    overdue    restart once its start is far beyond what was ever observed; one that was not even placed needs a human
    exporter   nothing is wrong with the engine: a human repairs its metrics

    Args:
        fleet: What is there.
        diagnoses: All of them; those of pools that are not ours are left alone.
        seen: What this tick's look at the replicas found.
        memory: Acts, cordons and pages so far.
        lead_times: By pool key.
        least: Replicas that must go on serving, by key of each pool that is ours. From any other pool our cordons are
            lifted, and nothing else is done there.
        settings: Patience and budgets.
    """
    floors = {stage: sum(least.get(str(p.key), 0) for p in fleet.pools_in(stage)) for stage in fleet.stages}
    actions, cordons = settled(fleet, memory.actions, settings), _still_on(fleet, seen, memory.cordons)
    ladder = Ladder(fleet, seen, lead_times, floors, settings, actions, cordons)
    ours = [d for d in diagnoses if str(d.pool) in least]
    stopped = _stopped_models(ours, ladder)
    ladder.failing |= {d.pool.replica(d.subject) for d in diagnoses if answers_with_errors(d)}
    for model in fleet.models:
        sick = [d for d in ours if d.pool.model == model and d.cause != UNKNOWN.code]
        if model not in stopped:
            for diagnosis in sick:
                ladder.climb(diagnosis)
        for pool in fleet.pools_of(model):
            if str(pool.key) in least:
                ladder.look_after_cordoned(pool, {d.pool.replica(d.subject) for d in sick}, stopped=model in stopped)
            else:
                ladder.leave(pool)
    pages, episodes = once_per_episode(ladder.pages, memory.pages, fleet.at, settings.page_quiet_s)
    return Course(
        (*ladder.remedies, *pages),
        tuple(ladder.reasons),
        tuple(ladder.actions),
        ladder.cordons,
        episodes,
        _lost(ladder, stopped),
        frozenset(stopped),
    )


def unlearn(
    memory: PolicyMemory, held: Collection[tuple[str, str]], not_paged: Collection[tuple[str, str]]
) -> PolicyMemory:
    """Return ``memory`` without what a mode, the kill switch or staleness kept from being done.

    Only what was *held* surely did not happen. A write that failed may have taken effect: it stays on record, counts
    as an attempt, and a cordon that came to nothing is not seen in the next observation.

    Args:
        memory: Of the decision.
        held: ``(act, replica name)`` that were not attempted.
        not_paged: ``(subject, cause)`` of pages that reached nobody.
    """
    if not held and not not_paged:
        return memory
    undone = {page_key(subject, cause) for subject, cause in not_paged}
    return replace(
        memory,
        actions=tuple(a for a in memory.actions if not (a.open and (a.kind, f"{a.pool}/{a.target}") in held)),
        cordons={name: cordon for name, cordon in memory.cordons.items() if ("cordon", name) not in held},
        pages={key: at for key, at in memory.pages.items() if key not in undone},
    )


def _still_on(fleet: FleetState, seen: Watch, known: Mapping[str, CordonMemory]) -> dict[str, CordonMemory]:
    """Return our cordons that the platform still shows, or may show again: of replicas not listed just now."""
    if not known:
        return {}
    present = {pool.key.replica(r.id): r for pool in fleet.pools for r in pool.roster.replicas}
    return {
        name: cordon
        for name, cordon in known.items()
        if (present[name].cordoned if name in present else name in seen.memory)
    }


def _stopped_models(diagnoses: Sequence[Diagnosis], ladder: Ladder) -> set[str]:
    """Return the models in a stage of which too much looks sick at once to heal single replicas (invariant I3).

    What has no node yet is no engine that could be sick: it waits for GPUs. The fleet's breaker looks at the other
    models only: one that is stopped already must not stop those with it.
    """
    frozen = {(a.pool, a.replica) for a in ladder.seen.anomalies if a.family == "progress"}
    harmless = (UNKNOWN.code, EXPORTER.code)
    fleet = ladder.fleet
    waiting = {(p.key, r.id) for p in fleet.pools for r in p.roster.unplaced}
    sick = [
        d
        for d in diagnoses
        if (d.cause not in harmless or (d.pool, d.subject) in frozen) and (d.pool, d.subject) not in waiting
    ]
    present = {
        stage: sum(len(p.roster) - len(p.roster.unplaced) for p in fleet.pools_in(stage)) for stage in fleet.stages
    }
    sick_of = {stage: sum(d.pool.stage == stage for d in sick) for stage in present}
    broken = [stage for stage in present if ladder.settings.breaker_open(sick_of[stage], present[stage])]
    for stage in sorted(broken):
        _break(ladder, str(stage), sick_of[stage], present[stage])
    stopped = {stage.model for stage in broken}
    others = [stage for stage in present if stage.model not in stopped]
    sick_others, present_others = sum(sick_of[s] for s in others), sum(present[s] for s in others)
    if len({s.model for s in others}) > 1 and ladder.settings.breaker_open(sick_others, present_others):
        _break(ladder, "fleet", sick_others, present_others)
        return set(fleet.models)
    return stopped


def _break(ladder: Ladder, subject: str, sick: int, present: int) -> None:
    message = f"{sick} of {present} replicas look sick at once: healing stops"
    ladder.reasons.append(Reason("breaker", subject, sick, 0, message))
    ladder.pages.append(Page(subject, "breaker", message))


def _lost(ladder: Ladder, stopped: set[str]) -> Mapping[str, int]:
    """Replicas per pool that the platform counts but that will not serve soon: the planner must not count on them.

    What keeps exiting is made good only as long as it is an exception: more of what does not start helps nobody.
    """
    back = {r.pool.replica(r.replica) for r in ladder.remedies if isinstance(r, UncordonReplica)}
    out = {r.pool.replica(r.replica) for r in ladder.remedies if isinstance(r, CordonReplica)} | ladder.waiting
    lost = dict.fromkeys((str(pool.key) for pool in ladder.fleet.pools), 0)
    for pool in ladder.fleet.pools:
        for r in pool.roster.replicas if out else pool.roster.troubled:
            name = pool.key.replica(r.id)
            away = r.phase is Phase.READY and (r.cordoned or name in out) and name not in back
            looping = r.phase is Phase.FAILED and r.restarts > 1 and pool.key.model not in stopped
            lost[str(pool.key)] += away or looping
    return lost
