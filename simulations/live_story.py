"""What is worth telling of a tick, in plain words: incidents with what was done about them, and decisions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from controller.ports import Act, ActResult, TickRecord
from policies.decisions import (
    CordonReplica,
    Decision,
    FailOver,
    Page,
    PauseRollout,
    RestartReplica,
    RollBack,
    ScalingPlan,
    TrafficPlan,
    UncordonReplica,
)
from policies.fleet import FleetState, Phase, PoolKey

_KEPT_INCIDENTS = 32
_SHOWN_SHIFT_RATIO = 0.1
"""Smaller moves of traffic are carried out and recorded, but would fill the screen during each slow start."""

_WHY_MORE = {
    "lost capacity": "replaces what does not serve",
    "burn rate": "the objective is being missed",
    "KV pressure": "KV caches fill up",
    "backlog": "requests queue",
    "predictive target": "load to come",
    "reactive only": "load there is",
}
"""Rules that ask for replicas, the most urgent first, and what they mean to somebody who does not know them."""
_WHY_FEWER = {
    "predictive target": "load to come",
    "reactive only": "load there is",
}


@dataclass(frozen=True, slots=True)
class Incident:
    """Something that went wrong, and what was done about it.

    Attributes:
        at: When it was diagnosed.
        since_at: When the evidence says that it began.
        cause: Code of the failure catalogue.
        subject: Replica, pool or model.
        pool: Name of its pool.
        sentence: What is believed to be wrong.
        steps: What was done, as ``(at, words)``, oldest first.
        over_at: When the pool was whole again; None while it is open.
    """

    at: float
    since_at: float
    cause: str
    subject: str
    pool: str
    sentence: str
    steps: tuple[tuple[float, str], ...] = ()
    over_at: float | None = None

    @property
    def course(self) -> tuple[tuple[float, str], ...]:
        """What was done, and the end where it has one."""
        return self.steps if self.over_at is None else (*self.steps, (self.over_at, "the pool is whole again"))


@dataclass(frozen=True, slots=True)
class DecisionLine:
    """One decision in plain words."""

    at: float
    what: str
    why: str


def load_to_come(decision: Decision, record: TickRecord) -> str:
    """Return the newest reason for the size of the fleet, in words."""
    for rule, words in _WHY_FEWER.items():
        found = next((r for r in decision.reasons if r.rule == rule), None)
        if found is not None:
            return f"{words}: {_short(found.detail, record)}"
    return ""


def _short(detail: str, record: TickRecord) -> str:
    """Leave out who made the forecast: the header says it."""
    for source in record.forecast_sources.values():
        detail = detail.replace(f" ({source})", "").replace(f"({source}, ", "(")
    return detail


def decision_lines(fleet: FleetState, decision: Decision, record: TickRecord) -> list[DecisionLine]:
    """Return the scaling of this tick and the larger moves of traffic."""
    outcomes = {(r.act, r.subject): r for r in record.results}
    lines = []
    for plan in decision.scaling:
        result = outcomes.get(("scale", str(plan.pool)))
        note = "" if result is None or result.outcome == "done" else f" ({result.outcome}: {result.detail})"
        what = f"{plan.pool.pool} {plan.current} -> {plan.desired} replicas{note}"
        lines.append(DecisionLine(record.at, what, _why(plan, decision, record)))
    for traffic in decision.traffic:
        lines += _shifts(record.at, traffic, fleet, decision)
    return lines


def _why(plan: ScalingPlan, decision: Decision, record: TickRecord) -> str:
    about = {plan.pool.model, str(plan.pool)}
    reasons = {r.rule: r for r in decision.reasons if r.subject in about}
    for rule, words in (_WHY_MORE if plan.desired > plan.current else _WHY_FEWER).items():
        if rule in reasons:
            return f"{words}: {_short(reasons[rule].detail, record)}"
    return "; ".join(f"{r.rule}: {r.detail}" for r in reasons.values())


def _shifts(at: float, traffic: TrafficPlan, fleet: FleetState, decision: Decision) -> list[DecisionLine]:
    current = {pool.key: pool.weight for pool in fleet.pools_of(traffic.model)}
    moves: list[tuple[float, PoolKey]] = sorted(
        ((weight - current.get(key, 0.0), key) for key, weight in traffic.weights.items()), reverse=True
    )
    moved, key = moves[0]
    if moved < _SHOWN_SHIFT_RATIO:
        return []
    why = next((r.detail for r in decision.reasons if r.rule == "traffic" and r.subject == str(key)), "")
    return [DecisionLine(at, f"traffic to {key.pool} {current.get(key, 0.0):.0%} -> {traffic.weights[key]:.0%}", why)]


def incidents_after(
    known: tuple[Incident, ...], fleet: FleetState, decision: Decision, results: Sequence[ActResult]
) -> tuple[Incident, ...]:
    """Return the incidents with this tick's diagnoses and remedies added, and those that are over closed."""
    at = fleet.at
    incidents = {(i.subject, i.since_at): i for i in known}
    still_open = {i.subject: (i.subject, i.since_at) for i in known if i.over_at is None}
    for d in decision.diagnoses:
        subject = d.subject or _whole(d.pool)
        if d.cause != "unknown" and subject not in still_open:
            still_open[subject] = (subject, d.since_at)
            incidents[subject, d.since_at] = Incident(at, d.since_at, d.cause, subject, d.pool.pool, d.told)
    wholes = {str(pool.key): _whole(pool.key) for pool in fleet.pools}
    remedies = [replace(r, subject=wholes.get(r.subject, r.subject)) for r in _remedies(decision, results)]
    for remedy in remedies:
        key = still_open.setdefault(remedy.subject, (remedy.subject, at))
        incident = incidents.get(key) or remedy.as_incident(at)
        if not any(done == remedy.words for _, done in incident.steps):
            incidents[key] = replace(incident, steps=(*incident.steps, (at, remedy.words)))
    named = {d.subject or _whole(d.pool) for d in decision.diagnoses} | {remedy.subject for remedy in remedies}
    return tuple(
        replace(i, over_at=at) if i.over_at is None and i.subject not in named and _filled(i, fleet) else i
        for i in incidents.values()
    )[-_KEPT_INCIDENTS:]


def _whole(pool: PoolKey) -> str:
    """Return what the whole of a pool is called as the subject of an incident."""
    return f"pool {pool.pool}"


@dataclass(frozen=True, slots=True)
class _Remedy:
    """Something that is done, in words; ``sentence`` says what is wrong where no diagnosis does."""

    subject: str
    cause: str
    pool: str
    sentence: str
    words: str

    def as_incident(self, at: float) -> Incident:
        return Incident(at, at, self.cause, self.subject, self.pool, self.sentence)


def _remedies(decision: Decision, results: Sequence[ActResult]) -> list[_Remedy]:
    """Return each remedy, and those that were left to the platform."""
    outcomes = {(r.act, r.subject): r for r in results}
    found = []
    for remedy in decision.remediations:
        match remedy:
            case CordonReplica(replica=subject, pool=pool, cause=cause):
                words = _told("cordon", "taken out of traffic", pool.replica(subject), outcomes)
                found.append(_Remedy(subject, cause, pool.pool, cause, words))
            case UncordonReplica(replica=subject, pool=pool, cause=cause):
                words = _told("uncordon", "back in traffic", pool.replica(subject), outcomes)
                found.append(_Remedy(subject, cause, pool.pool, cause, words))
            case RestartReplica(replica=subject, pool=pool, cause=cause):
                words = _told("restart", "restarted", pool.replica(subject), outcomes)
                found.append(_Remedy(subject, cause, pool.pool, cause, words))
            case RollBack(pool=pool, revision=good, bad=bad, cause=cause):
                words = _told("roll back", f"rolled back from revision {bad} to {good}", str(pool), outcomes)
                found.append(_Remedy(_whole(pool), "roll back", pool.pool, cause, words))
            case PauseRollout(pool=pool, cause=cause):
                words = _told("pause", "its rollout is paused", str(pool), outcomes)
                found.append(_Remedy(_whole(pool), "pause", pool.pool, cause, words))
            case FailOver(origin=origin, destination=destination, cause=cause):
                words = f"traffic moves to {destination.pool}"
                found.append(_Remedy(_whole(origin), "failover", origin.pool, cause, words))
            case Page(subject=subject, cause=cause, message=message):
                found.append(_Remedy(subject, cause, "", message, "a human is called"))
    left = {r.subject for r in decision.reasons if r.rule == "left to the platform"}
    found += [
        _Remedy(d.subject, d.cause, d.pool.pool, d.sentence, "the platform restarts it")
        for d in decision.diagnoses
        if d.subject in left
    ]
    return found


def _told(act: Act, words: str, subject: str, outcomes: Mapping[tuple[Act, str], ActResult]) -> str:
    result = outcomes.get((act, subject))
    return words if result is None or result.outcome == "done" else f"not {words}, {result.outcome}: {result.detail}"


def _filled(incident: Incident, fleet: FleetState) -> bool:
    """Whether the replica serves again, or another in its place, or the pool does without it.

    An incident of a whole pool or model lasts as long as it is named, and no longer.
    """
    pool = next((p for p in fleet.pools if p.key.pool == incident.pool), None)
    if pool is None or incident.subject == f"pool {incident.pool}":
        return True
    own = next((r for r in pool.replicas if r.id == incident.subject), None)
    if own is not None and own.phase is not Phase.DRAINING:
        return own.serving
    replaced = any(r.serving and r.requested_at >= incident.since_at for r in pool.replicas)
    return replaced or len(pool.serving) >= pool.desired
