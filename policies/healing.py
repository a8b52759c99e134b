"""What is done about what looks sick: remedies for single replicas, unless too many look sick at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from pydantic import Field

from policies.anomaly import Watch
from policies.decisions import CordonReplica, Diagnosis, Page, Reason, Remediation, UncordonReplica
from policies.diagnosis import UNKNOWN
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
    min_replicas: Mapping[str, int],
    settings: HealingSettings,
) -> Course:
    """Return remedies within the budgets, one ladder per diagnosis.

    hang       cordon at once; restart when frozen for ``restart_frozen_after_s``; uncordon when it moves again
    slow       cordon once enough others serve; restart when empty or after ``drain_deadline_s``; uncordon when it
               keeps up again
    exited     the platform restarts it; restart it ourselves only when that takes too long
    overdue    restart once its start is far beyond what was ever observed; one that was not even placed needs a human

    Args:
        fleet: What is there.
        diagnoses: Those that may be acted upon.
        seen: What this tick's look at the replicas found.
        memory: Acts, cordons and pages so far.
        lead_times: By pool key.
        min_replicas: Replicas that must go on serving, by model.
        settings: Patience and budgets.
    """
    actions, cordons = settled(fleet, memory.actions, settings), _still_on(fleet, memory)
    ladder = Ladder(fleet, seen, lead_times, min_replicas, settings, actions, cordons)
    stopped = _stopped_models(diagnoses, ladder)
    for model in fleet.models:
        sick = [d for d in diagnoses if d.pool.model == model and d.cause != UNKNOWN.code]
        if model not in stopped:
            for diagnosis in sick:
                ladder.climb(diagnosis)
        ladder.look_after_cordoned(model, {d.subject for d in sick}, stopped=model in stopped)
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


def unlearn(memory: PolicyMemory, not_restarted: Sequence[str], not_paged: Sequence[tuple[str, str]]) -> PolicyMemory:
    """Return ``memory`` without the repairs and pages that a mode, the kill switch or an error kept from being done.

    Cordons need no such care: one that was not done is not seen in the next observation.
    """
    undone = {page_key(subject, cause) for subject, cause in not_paged}
    return replace(
        memory,
        actions=tuple(a for a in memory.actions if not (a.open and a.target in not_restarted)),
        pages={key: at for key, at in memory.pages.items() if key not in undone},
    )


def _still_on(fleet: FleetState, memory: PolicyMemory) -> dict[str, CordonMemory]:
    """Return our cordons that the platform still shows; somebody else's are not ours to lift."""
    cordoned = {r.id for pool in fleet.pools for r in pool.replicas if r.cordoned}
    return {name: cordon for name, cordon in memory.cordons.items() if name in cordoned}


def _stopped_models(diagnoses: Sequence[Diagnosis], ladder: Ladder) -> set[str]:
    """Return the models in which too much looks sick at once to heal single replicas (invariant I3)."""
    frozen = {a.replica for a in ladder.seen.anomalies if a.family == "progress"}
    sick = [d for d in diagnoses if d.cause != UNKNOWN.code or d.subject in frozen]
    present = {m: sum(len(p.replicas) for p in ladder.fleet.pools_of(m)) for m in ladder.fleet.models}
    sick_of = {m: sum(d.pool.model == m for d in sick) for m in present}
    stopped = {m for m in present if ladder.settings.breaker_open(sick_of[m], present[m])}
    for model in sorted(stopped):
        _break(ladder, model, sick_of[model], present[model])
    if len(present) > 1 and ladder.settings.breaker_open(len(sick), sum(present.values())):
        _break(ladder, "fleet", len(sick), sum(present.values()))
        return set(present)
    return stopped


def _break(ladder: Ladder, subject: str, sick: int, present: int) -> None:
    message = f"{sick} of {present} replicas look sick at once: healing stops"
    ladder.reasons.append(Reason("breaker", subject, sick, 0, message))
    ladder.pages.append(Page(subject, "breaker", message))


def _lost(ladder: Ladder, stopped: set[str]) -> Mapping[str, int]:
    """Replicas per pool that the platform counts but that will not serve soon: the planner must not count on them.

    What keeps exiting is made good only as long as it is an exception: more of what does not start helps nobody.
    """
    back = {r.replica for r in ladder.remedies if isinstance(r, UncordonReplica)}
    out = {r.replica for r in ladder.remedies if isinstance(r, CordonReplica)} | ladder.waiting
    return {
        str(pool.key): sum(
            (r.phase is Phase.READY and (r.cordoned or r.id in out) and r.id not in back)
            or (r.phase is Phase.FAILED and r.restarts > 1 and pool.key.model not in stopped)
            for r in pool.replicas
        )
        for pool in ladder.fleet.pools
    }
