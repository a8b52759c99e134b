"""Which rung comes next for a sick replica: one ladder of remedies per cause, climbed as far as the budgets allow."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from pydantic import Field

from policies.anomaly import Watch
from policies.decisions import CordonReplica, Diagnosis, Page, Reason, Remediation, RestartReplica, UncordonReplica
from policies.diagnosis import EXITED, HANG, START_OVERDUE, STRAGGLER
from policies.disruption import DisruptionSettings, why_no_restart, why_not_now
from policies.fleet import FleetState, Phase, PoolState, ReplicaState
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
    """The remedies of one tick while they are being collected.

    Attributes:
        min_replicas: Replicas that must go on serving, by model.
        actions, cordons: What is on record, this tick's included.
        pages: What a human should know, told already or not.
        waiting: Slow replicas that stay in traffic until there are enough others.
        hung: Replicas that serve nothing although the platform calls them READY.
    """

    fleet: FleetState
    seen: Watch
    lead_times: Mapping[str, LeadTime]
    min_replicas: Mapping[str, int]
    settings: LadderSettings
    actions: list[ActionMemory]
    cordons: dict[str, CordonMemory]
    remedies: list[Remediation] = field(default_factory=list)
    reasons: list[Reason] = field(default_factory=list)
    pages: list[Page] = field(default_factory=list)
    waiting: set[str] = field(default_factory=set)
    hung: set[str] = field(default_factory=set)

    def climb(self, diagnosis: Diagnosis) -> None:
        """Take the next rung for one diagnosis."""
        pool, replica = self._find(diagnosis.subject)
        if replica.cordoned and replica.id not in self.cordons:
            self._page(replica.id, diagnosis, "somebody else took it out of traffic: left to them")
            return
        match diagnosis.cause:
            case HANG.code:
                self.hung.add(replica.id)
                self._cordon(pool, replica, diagnosis)
                if self.fleet.at - diagnosis.since_at >= self.settings.restart_frozen_after_s:
                    self._restart(pool, replica, diagnosis)
            case STRAGGLER.code:
                self._cordon_slow(pool, replica, diagnosis)
            case EXITED.code:
                patience_s = self.settings.failed_patience_ratio * self.lead_times[str(pool.key)].p90_s
                if self.fleet.at - replica.since_at >= patience_s:
                    self._restart(pool, replica, diagnosis)
                else:
                    detail = "it restarts what exits; a second restart would delay it"
                    self._note("left to the platform", diagnosis, detail)
            case START_OVERDUE.code:
                self._restart_overdue(pool, replica, diagnosis)

    def look_after_cordoned(self, model: str, sick: set[str], *, stopped: bool) -> None:
        """Give traffic back to what we cordoned and is well again; restart what is empty or shows no sign of life."""
        for pool in self.fleet.pools_of(model):
            for replica in pool.replicas:
                cordon, known = self.cordons.get(replica.id), self.seen.memory.get(replica.id)
                if cordon is None or known is None or not replica.cordoned or replica.phase is not Phase.READY:
                    continue
                if _recovered(cordon, known):
                    self.remedies.append(UncordonReplica(replica.id, pool.key, "recovered"))
                    self.reasons.append(Reason("recovered", replica.id, 0, 1, "it makes progress again"))
                elif not stopped and replica.id in self.seen.fresh and self._due(replica, cordon, known, sick):
                    title = "one slow replica" if cordon.cause == STRAGGLER.code else "no sign of life since its cordon"
                    sentence = f"{title}, out of traffic for {self.fleet.at - cordon.at:.0f} s"
                    families = ("latency", "peers") if cordon.cause == STRAGGLER.code else ("progress",)
                    known_as = Diagnosis(cordon.cause, replica.id, pool.key, cordon.at, families, sentence)
                    self._restart(pool, replica, known_as)

    def _due(self, replica: ReplicaState, cordon: CordonMemory, known: ReplicaMemory, sick: set[str]) -> bool:
        """Return whether a cordoned replica has had its time; only time in which it was scraped counts."""
        if cordon.cause == HANG.code:
            # One that still looks hung is restarted by its diagnosis. Here the gateway's requests are gone too.
            return replica.id not in sick and known.observed_at - cordon.at >= self.settings.drain_deadline_s
        return _empty(replica) or self.fleet.at - cordon.at >= self.settings.drain_deadline_s

    def _cordon_slow(self, pool: PoolState, replica: ReplicaState, diagnosis: Diagnosis) -> None:
        """A slow replica still serves, so that it goes only when enough others do and nothing else is under repair."""
        model = pool.key.model
        if replica.cordoned or replica.phase is not Phase.READY:
            return
        replicas = [r for p in self.fleet.pools_of(model) for r in p.replicas]
        out = self.hung | {r.replica for r in self.remedies if isinstance(r, CordonReplica)}
        left = sum(r.serving and r.id not in out for r in replicas) - 1
        floor = self.settings.serving_floor(len(replicas), self.min_replicas.get(model, 0))
        if left < floor:
            self.waiting.add(replica.id)
            self._note("serving floor", diagnosis, f"{left} would be left serving, {floor} must; one more is asked for")
        elif refusal := why_not_now(model, self._under_repair(replica.id), self.settings):
            self._note(refusal.rule, diagnosis, refusal.detail)
        else:
            self._cordon(pool, replica, diagnosis)

    def _cordon(self, pool: PoolState, replica: ReplicaState, diagnosis: Diagnosis) -> None:
        """Take a replica out of traffic. A hung one serves nothing, so that this costs no capacity."""
        if replica.cordoned or replica.phase is not Phase.READY:
            return
        self.remedies.append(CordonReplica(replica.id, pool.key, diagnosis.cause))
        self.reasons.append(Reason("cordon", replica.id, 1, 0, f"{diagnosis.cause} {diagnosis.sentence}"))
        known = self.seen.memory[replica.id]
        self.cordons[replica.id] = CordonMemory(
            self.fleet.at, diagnosis.cause, known.life, known.steps_total, known.output_tokens_total
        )

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
            return
        lead = self.lead_times[key]
        refusal = why_no_restart(pool, replica, self.actions, lead, at, self.settings)
        refusal = refusal or why_not_now(pool.key.model, self._under_repair(replica.id), self.settings)
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
        """Return ``(model, replica)`` of restarts not yet verified, and of slow replicas out of traffic (I2)."""
        repairs = {(a.model, a.target) for a in self.actions if a.open}
        repairs |= {(self._find(n)[0].key.model, n) for n, c in self.cordons.items() if c.cause == STRAGGLER.code}
        return {repair for repair in repairs if repair[1] != besides}

    def _find(self, name: str) -> tuple[PoolState, ReplicaState]:
        return next((p, r) for p in self.fleet.pools for r in p.replicas if r.id == name)

    def _page(self, subject: str, diagnosis: Diagnosis, detail: str, rule: str = "needs a human") -> None:
        self._note(rule, diagnosis, detail)
        self.pages.append(Page(subject, diagnosis.cause, f"{diagnosis.subject}: {diagnosis.sentence}; {detail}"))

    def _note(self, rule: str, diagnosis: Diagnosis, detail: str) -> None:
        self.reasons.append(Reason(rule, diagnosis.subject, 0, 0, f"{diagnosis.cause} {diagnosis.sentence}; {detail}"))


def _recovered(cordon: CordonMemory, known: ReplicaMemory) -> bool:
    """A new life is a fresh start; else a hung engine must have worked, a slow one must keep up with its peers."""
    if known.life != cordon.life:
        return True
    if cordon.cause == STRAGGLER.code:
        return not known.slow_at
    counters = (cordon.steps_total, known.steps_total), (cordon.output_tokens_total, known.output_tokens_total)
    return any(None not in (before, now) and before != now for before, now in counters)


def _empty(replica: ReplicaState) -> bool:
    """Return whether nothing is inside, by the gateway's word or, without one, the engine's."""
    if replica.in_flight_requests >= 0:
        return replica.in_flight_requests == 0
    seen = replica.metrics
    return seen is not None and seen.running_requests == 0 and seen.queued_requests == 0
