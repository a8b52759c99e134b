"""Which rung comes next for a sick replica: one ladder of remedies per cause, climbed as far as the budgets allow."""

from __future__ import annotations

import math
from collections.abc import Mapping, Set
from dataclasses import dataclass, field, replace

from pydantic import Field

from policies.anomaly import Watch
from policies.decisions import CordonReplica, Diagnosis, Page, Reason, Remediation, RestartReplica, UncordonReplica
from policies.diagnosis import (
    ERRORS,
    EXITED,
    EXPORTER,
    HANG,
    START_OVERDUE,
    STRAGGLER,
    answers_with_errors,
    confirmed,
)
from policies.disruption import DisruptionSettings, last_healthy, why_no_restart, why_not_now
from policies.fleet import FleetState, Phase, PoolState, ReplicaState, Stage
from policies.lead_time import LeadTime
from policies.memory import ActionMemory, CordonMemory, ReplicaMemory


class LadderSettings(DisruptionSettings):
    """How patient each rung is, beside how much may be disturbed at once."""

    restart_frozen_after_s: float = Field(
        120.0,
        gt=0,
        description="Time without progress after which a cordoned replica is restarted, in seconds; some stalls end by "
        "themselves within this time.",
    )
    drain_deadline_s: float = Field(
        120.0,
        ge=0,
        description="Longest wait for a cordoned replica to become empty or to show that it works again, in seconds; "
        "then it is restarted.",
    )
    failed_patience_ratio: float = Field(
        1.5, gt=1, description="A failed replica is left to the platform for this many p90 lead times."
    )


@dataclass(slots=True)
class Ladder:
    """The remedies of one tick while they are being collected: made by ``healing.heal``, read by it, and thrown away.

    It alone adds to ``actions`` and ``cordons``. Replicas are told apart by their name in the whole fleet.

    Attributes:
        min_replicas: Replicas that must go on serving, by stage.
        actions, cordons: What is on record, this tick's included.
        pages: What a human should know, told already or not.
        waiting: Replicas that stay in traffic until there are enough others.
        hung: Replicas that serve nothing although the platform calls them READY.
        failing: Replicas that answer with errors: no help to whatever is taken out of traffic beside them.
    """

    fleet: FleetState
    seen: Watch
    lead_times: Mapping[str, LeadTime]
    min_replicas: Mapping[Stage, int]
    settings: LadderSettings
    actions: list[ActionMemory]
    cordons: dict[str, CordonMemory]
    remedies: list[Remediation] = field(default_factory=list)
    reasons: list[Reason] = field(default_factory=list)
    pages: list[Page] = field(default_factory=list)
    waiting: set[str] = field(default_factory=set)
    hung: set[str] = field(default_factory=set)
    failing: set[str] = field(default_factory=set)

    def climb(self, diagnosis: Diagnosis) -> None:
        """Take the next rung for one diagnosis."""
        pool, replica = self._find(diagnosis)
        name = pool.key.replica(replica.id)
        if replica.cordoned and name not in self.cordons:
            self._page(name, diagnosis, "somebody else took it out of traffic: left to them")
            return
        match diagnosis.cause:
            case HANG.code if confirmed(diagnosis):
                self._treat_hung(pool, replica, diagnosis)
            case HANG.code | STRAGGLER.code:
                self._take_out(pool, replica, diagnosis)
            case ERRORS.code if answers_with_errors(diagnosis):
                self._take_out(pool, replica, diagnosis)
            case EXITED.code:
                self._leave_to_platform(pool, replica, diagnosis)
            case START_OVERDUE.code:
                self._restart_overdue(pool, replica, diagnosis)
            case EXPORTER.code:
                self._page(name, diagnosis, "nothing is done to it, its metrics must be repaired")

    def look_after_cordoned(self, pool: PoolState, sick: Set[str], *, stopped: bool) -> None:
        """Give traffic back to what we cordoned and is well again; restart what is empty or shows no sign of life.

        Args:
            pool: One of ours.
            sick: Names of the replicas that ``climb`` was called for.
            stopped: Whether the breaker forbids restarts.
        """
        for replica in _cordoned(pool):
            name = pool.key.replica(replica.id)
            cordon, known = self.cordons.get(name), self.seen.memory.get(name)
            if replica.phase is not Phase.READY:
                continue
            if cordon is None:
                if name not in sick:
                    since = Diagnosis("cordon", replica.id, pool.key, self.fleet.at, (), "it is out of traffic")
                    self._page(name, since, "not by us as far as we remember: uncordon or remove it")
            elif known is not None and _recovered(cordon, known):
                self._uncordon(pool, replica, "recovered", "it makes progress again")
            elif known is not None and not stopped and name in self.seen.fresh:
                self._look_after(pool, replica, cordon, known, sick)

    def leave(self, pool: PoolState) -> None:
        """Lift our own cordons in a pool that is not ours any more."""
        for replica in _cordoned(pool):
            if pool.key.replica(replica.id) in self.cordons:
                self._uncordon(pool, replica, "not ours", "its pool is not in the settings any more")

    def _look_after(
        self, pool: PoolState, replica: ReplicaState, cordon: CordonMemory, known: ReplicaMemory, sick: Set[str]
    ) -> None:
        """Restart a cordoned replica that has had its time; only time in which it was scraped counts."""
        at, name, deadline_s = self.fleet.at, pool.key.replica(replica.id), self.settings.drain_deadline_s
        out = f"out of traffic for {at - cordon.at:.0f} s"
        if cordon.cause == ERRORS.code and not replica.failed_answers_total > 0:
            failed = Diagnosis(cordon.cause, replica.id, pool.key, cordon.at, ("errors",), f"it failed requests, {out}")
            self._note("restart withheld", failed, "no gateway saw it fail")
        elif cordon.cause in _STILL_SERVING:
            families, what = _STILL_SERVING[cordon.cause]
            poor = Diagnosis(cordon.cause, replica.id, pool.key, cordon.at, families, f"{what}, {out}")
            if _empty(replica) or at - cordon.at >= deadline_s:
                self._restart(pool, replica, poor)
            else:
                self._note("restart pending", poor, f"restarted when empty, or after {deadline_s:.0f} s")
        elif name not in sick:  # else its diagnosis has just been dealt with
            silent = Diagnosis(cordon.cause, replica.id, pool.key, cordon.at, ("progress",), f"no step, {out}")
            if doubt := _doubt(replica, cordon, known):
                self._page(name, silent, doubt)
            elif known.observed_at - cordon.at >= deadline_s:
                self._restart(pool, replica, silent)
            else:
                self._note("restart pending", silent, f"restarted if it shows no life within {deadline_s:.0f} s")

    def _treat_hung(self, pool: PoolState, replica: ReplicaState, diagnosis: Diagnosis) -> None:
        """Take it out of traffic at once: it serves nothing, so that this costs no capacity."""
        name = pool.key.replica(replica.id)
        cordon, known = self.cordons.get(name), self.seen.memory.get(name)
        self.hung.add(name)
        self._cordon(pool, replica, diagnosis)
        if cordon is not None:
            cordon = self.cordons[name] = replace(cordon, confirmed=True)
        if cordon is not None and known is not None and (doubt := _doubt(replica, cordon, known)):
            self._page(name, diagnosis, doubt)
        elif self.fleet.at - diagnosis.since_at >= self.settings.restart_frozen_after_s:
            self._restart(pool, replica, diagnosis)
        elif replica.cordoned:
            patience_s = self.settings.restart_frozen_after_s
            self._note("restart pending", diagnosis, f"restarted if it stands still for {patience_s:.0f} s")

    def _leave_to_platform(self, pool: PoolState, replica: ReplicaState, diagnosis: Diagnosis) -> None:
        """It restarts what exits; only when that takes too long do we."""
        patience_s = self.settings.failed_patience_ratio * self.lead_times[str(pool.key)].p90_s
        if self.fleet.at - replica.since_at >= patience_s:
            self._restart(pool, replica, diagnosis)
        else:
            self._note("left to the platform", diagnosis, "it restarts what exits; a second restart would delay it")

    def _take_out(self, pool: PoolState, replica: ReplicaState, diagnosis: Diagnosis) -> None:
        """Take it out of traffic, with care; what only its own metrics say is for a human to judge further."""
        self._cordon_with_care(pool, replica, diagnosis)
        if not confirmed(diagnosis):
            name = pool.key.replica(replica.id)
            self._page(name, diagnosis, "no gateway confirms it, so that it is not restarted")

    def _cordon_with_care(self, pool: PoolState, replica: ReplicaState, diagnosis: Diagnosis) -> None:
        """It may still serve, so that it goes only when enough others do and nothing else is under repair."""
        stage, name = pool.key.stage, pool.key.replica(replica.id)
        if replica.cordoned or replica.phase is not Phase.READY:
            return
        replicas = [(p.key.replica(r.id), r) for p in self.fleet.pools_in(stage) for r in p.roster.replicas]
        out = (
            self.hung
            | self.failing - {name}
            | {r.pool.replica(r.replica) for r in self.remedies if isinstance(r, CordonReplica)}
        )
        left = sum(r.serving and other not in out for other, r in replicas) - 1
        healthy = last_healthy(self.fleet, stage, self.seen.memory.keys())
        floor = self.settings.serving_floor(healthy, self.min_replicas.get(stage, 0))
        if left < floor:
            self.waiting.add(name)
            self._note("serving floor", diagnosis, f"{left} would be left serving, {floor} must; one more is asked for")
        elif refusal := why_not_now(stage.model, self._under_repair(name), self.settings):
            self._note(refusal.rule, diagnosis, refusal.detail)
        else:
            self._cordon(pool, replica, diagnosis)

    def _cordon(self, pool: PoolState, replica: ReplicaState, diagnosis: Diagnosis) -> None:
        if replica.cordoned or replica.phase is not Phase.READY:
            return
        self.remedies.append(CordonReplica(replica.id, pool.key, diagnosis.cause))
        self.reasons.append(Reason("cordon", replica.id, 1, 0, f"{diagnosis.cause} {diagnosis.sentence}"))
        name = pool.key.replica(replica.id)
        known = self.seen.memory[name]
        self.cordons[name] = CordonMemory(
            self.fleet.at,
            diagnosis.cause,
            known.life,
            known.steps_total,
            known.output_tokens_total,
            confirmed(diagnosis),
        )

    def _uncordon(self, pool: PoolState, replica: ReplicaState, rule: str, detail: str) -> None:
        self.remedies.append(UncordonReplica(replica.id, pool.key, rule))
        self.reasons.append(Reason(rule, replica.id, 0, 1, detail))

    def _restart_overdue(self, pool: PoolState, replica: ReplicaState, diagnosis: Diagnosis) -> None:
        """Only a start that is slow by measure is cut short: a second start of what is merely large never ends."""
        if replica.phase is Phase.PENDING:
            self._page(str(pool.key), diagnosis, "it has not been placed: no room, quota or image")
        elif not self.lead_times[str(pool.key)].measured:
            self._page(str(pool.key), diagnosis, "too few starts were seen to know how long one takes")
        else:
            self._restart(pool, replica, diagnosis)

    def _restart(self, pool: PoolState, replica: ReplicaState, diagnosis: Diagnosis) -> None:
        at, key = self.fleet.at, str(pool.key)
        if any(a.open and a.target == replica.id and a.pool == key for a in self.actions):
            self._note("restart under way", diagnosis, "asked for, and not seen to have worked yet")
            return
        lead = self.lead_times[key]
        refusal = why_no_restart(pool, replica, self.actions, lead, at, self.settings)
        refusal = refusal or why_not_now(
            pool.key.model, self._under_repair(pool.key.replica(replica.id)), self.settings
        )
        if refusal is not None and refusal.final:
            self._page(key, diagnosis, refusal.detail, refusal.rule)
        elif refusal is not None:
            self._note(refusal.rule, diagnosis, refusal.detail)
        else:
            self.remedies.append(RestartReplica(replica.id, pool.key, diagnosis.cause))
            self.reasons.append(Reason("restart", replica.id, 1, 0, f"{diagnosis.cause} {diagnosis.sentence}"))
            deadline_at = at + 2.0 * lead.p90_s
            self.actions.append(ActionMemory(replica.id, "restart", pool.key.model, key, at, deadline_at))

    def _under_repair(self, besides: str) -> set[tuple[str, str]]:
        """Return ``(model, name)`` of restarts not yet verified, and of replicas out of traffic that served (I2)."""
        repairs = {(a.model, f"{a.pool}/{a.target}") for a in self.actions if a.open}
        out = {name for name, cordon in self.cordons.items() if cordon.cause in _STILL_SERVING}
        there = {(p.key.model, p.key.replica(r.id)) for p in self.fleet.pools for r in p.roster.replicas}
        repairs |= {(model, name) for model, name in there if name in out}
        return {repair for repair in repairs if repair[1] != besides}

    def _find(self, diagnosis: Diagnosis) -> tuple[PoolState, ReplicaState]:
        pool = next(p for p in self.fleet.pools if p.key == diagnosis.pool)
        return pool, next(r for r in pool.replicas if r.id == diagnosis.subject)

    def _page(self, subject: str, diagnosis: Diagnosis, detail: str, rule: str = "needs a human") -> None:
        self._note(rule, diagnosis, detail)
        self.pages.append(Page(subject, diagnosis.cause, f"{diagnosis.subject}: {diagnosis.sentence}; {detail}"))

    def _note(self, rule: str, diagnosis: Diagnosis, detail: str) -> None:
        self.reasons.append(Reason(rule, diagnosis.subject, 0, 0, f"{diagnosis.cause} {diagnosis.sentence}; {detail}"))


def _cordoned(pool: PoolState) -> list[ReplicaState]:
    return [pool.replicas[place] for place in pool.roster.cordoned]


_STILL_SERVING = {
    STRAGGLER.code: (("latency", "peers"), "slow"),
    ERRORS.code: (("answers", "cohort"), "it failed requests"),
}
"""Causes for which a replica is taken out of traffic although it serves; with the evidence, as it is told later."""


def _recovered(cordon: CordonMemory, known: ReplicaMemory) -> bool:
    """A new life is a fresh start; else a hung engine must have worked, a slow one must keep up with its peers.

    One that answered with errors has no chance to show that it would not: nothing comes in.
    """
    if known.life != cordon.life:
        return True
    if cordon.cause == ERRORS.code:
        return False
    if cordon.cause == STRAGGLER.code:
        return not known.slow_at
    if known.answered_at is not None and known.answered_at > cordon.at:
        return True
    counters = (cordon.steps_total, known.steps_total), (cordon.output_tokens_total, known.output_tokens_total)
    return any(None not in (before, now) and before != now for before, now in counters)


def _doubt(replica: ReplicaState, cordon: CordonMemory, known: ReplicaMemory) -> str:
    """Return why a replica that was cordoned as hung may be alive after all; empty when the gateway rules that out.

    Nothing new comes in after the cordon. Where answers are counted and none came, whatever left was given up by its
    client. Where they are not, requests that end are a sign of life that only a human can weigh. A gateway that was
    away and finds nothing inside has seen nothing either.
    """
    if math.isnan(replica.in_flight_requests):
        return "no gateway confirms it, so that it is not restarted"
    if not cordon.confirmed:
        return "no gateway saw it stand still with requests inside, so that it is not restarted"
    if known.fell_at is not None and known.fell_at > cordon.at:
        return "requests inside ended since, answered or given up, so that it is not restarted"
    return ""


def _empty(replica: ReplicaState) -> bool:
    """Return whether nothing is inside, by the gateway's word or, without one, the engine's."""
    if replica.in_flight_requests >= 0:
        return replica.in_flight_requests == 0
    seen = replica.metrics
    return seen is not None and seen.running_requests == 0 and seen.queued_requests == 0
