"""What is done about a diagnosis: the ladder of remedies, its budget, its breaker."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from pydantic import BaseModel, ConfigDict, Field

from policies.decisions import (
    CordonReplica,
    Diagnosis,
    FailOver,
    Page,
    Reason,
    Remediation,
    RestartReplica,
    UncordonReplica,
)
from policies.diagnosis import EXITED, HANG, START_OVERDUE, STRAGGLER
from policies.fleet import FleetState, Phase, PoolState, ReplicaState
from policies.lead_time import LeadTime
from policies.memory import ActionMemory, ReplicaMemory


class HealingSettings(BaseModel):
    """How much may be disturbed at once, and how patient each rung is."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    disruption_budget: int = Field(1, ge=0, description="Replicas of one model that may be under repair at once.")
    fleet_disruption_budget: int = Field(3, ge=0, description="Replicas of the whole fleet under repair at once.")
    breaker_ratio: float = Field(
        0.34,
        gt=0,
        le=1,
        description="Share of a model's replicas that look sick at once from which healing stops and a human is told: "
        "then the cause is the model, the clients or the metrics, not a replica.",
    )
    breaker_min_sick: int = Field(2, ge=1, description="The breaker needs at least this many sick replicas.")
    floor_ratio: float = Field(
        0.5, ge=0, le=1, description="Healing never leaves fewer serving replicas than this share of those present."
    )
    restart_frozen_after_s: float = Field(
        120.0,
        gt=0,
        description="Time without progress after which a cordoned replica is restarted, in seconds; some stalls end by "
        "themselves within this time.",
    )
    drain_deadline_s: float = Field(
        120.0, ge=0, description="Longest wait for a slow replica's requests to end before it is restarted, in seconds."
    )
    failed_patience_ratio: float = Field(
        1.5, gt=1, description="A failed replica is left to the platform for this many p90 lead times."
    )
    cooldown_s: float = Field(
        300.0, ge=0, description="Quiet time after a restart in the same pool before the next; doubles per attempt."
    )
    max_attempts: int = Field(4, ge=1, description="Restarts in one pool within attempt_window_s, then a human.")
    attempt_window_s: float = Field(3600.0, gt=0, description="Window of the attempt cap, in seconds.")
    failover_ratio: float = Field(
        0.5, gt=0, lt=1, description="A pool that serves with less than this share of its replicas fails over."
    )


@dataclass(frozen=True, slots=True)
class Course:
    """What healing wants now, and what to remember."""

    remediations: tuple[Remediation, ...]
    reasons: tuple[Reason, ...]
    replicas: Mapping[str, ReplicaMemory]
    actions: tuple[ActionMemory, ...]
    lost: Mapping[str, int]


def heal(
    fleet: FleetState,
    diagnoses: Sequence[Diagnosis],
    replicas: Mapping[str, ReplicaMemory],
    actions: Sequence[ActionMemory],
    lead_times: Mapping[str, LeadTime],
    settings: HealingSettings,
) -> Course:
    """Return remedies within the budget, one ladder per diagnosis.

    hang       cordon at once; restart when frozen for ``restart_frozen_after_s``; uncordon when it moves again
    slow       cordon; restart when empty or after ``drain_deadline_s``; uncordon when it keeps up again
    exited     the platform restarts it; restart it ourselves only when that takes too long
    overdue    restart once its start is far beyond what was ever observed
    """
    ladder = _Ladder(fleet, dict(replicas), _verified(fleet, actions, settings), lead_times, settings)
    for model in fleet.models:
        sick = [d for d in diagnoses if d.pool.model == model and d.cause != "unknown"]
        if ladder.breaker_open(model, sick):
            continue
        for diagnosis in sick:
            ladder.climb(diagnosis)
        ladder.release_recovered(model, {d.subject for d in sick})
        ladder.fail_over(model)
    return Course(
        tuple(ladder.remedies), tuple(ladder.reasons), ladder.replicas, tuple(ladder.actions), _lost(fleet, ladder)
    )


def _verified(
    fleet: FleetState, actions: Sequence[ActionMemory], settings: HealingSettings
) -> list[ActionMemory]:
    """Close acts whose pool serves at full strength again, or whose deadline has passed; forget the old ones."""
    pools = {str(p.key): p for p in fleet.pools}
    kept = []
    for act in actions:
        if fleet.at - act.started_at > settings.attempt_window_s:
            continue
        pool = pools.get(act.pool)
        present = pool is not None and act.target in {r.id for r in pool.replicas}
        whole = pool is not None and not present and len(pool.serving) >= min(pool.desired, len(pool.replicas))
        if act.open and whole and fleet.at > act.started_at:
            kept.append(replace(act, open=False, verified=True))
        elif act.open and fleet.at > act.deadline_at:
            kept.append(replace(act, open=False, verified=False))
        else:
            kept.append(act)
    return kept


def _lost(fleet: FleetState, ladder: _Ladder) -> Mapping[str, int]:
    """Replicas per pool that the platform counts but that will not serve soon: the planner must not count on them."""
    cordoned = {r.replica for r in ladder.remedies if isinstance(r, CordonReplica)}
    leaving = {r.replica for r in ladder.remedies if isinstance(r, RestartReplica | UncordonReplica)}
    lost: dict[str, int] = {}
    for pool in fleet.pools:
        lost[str(pool.key)] = sum(
            1
            for r in pool.replicas
            if r.id not in leaving
            and ((r.phase is Phase.READY and (r.cordoned or r.id in cordoned)) or (r.phase is Phase.FAILED and r.restarts > 1))
        )
    return lost


class _Ladder:
    """The remedies of one tick while they are being collected."""

    def __init__(
        self,
        fleet: FleetState,
        replicas: dict[str, ReplicaMemory],
        actions: list[ActionMemory],
        lead_times: Mapping[str, LeadTime],
        settings: HealingSettings,
    ) -> None:
        self.fleet, self.replicas, self.actions = fleet, replicas, actions
        self.lead_times, self.settings = lead_times, settings
        self.remedies: list[Remediation] = []
        self.reasons: list[Reason] = []
        self._state = {r.id: (p, r) for p in fleet.pools for r in p.replicas}

    def breaker_open(self, model: str, sick: Sequence[Diagnosis]) -> bool:
        """Stop when too much of the model looks sick at once (invariant I3)."""
        present = sum(len(p.replicas) for p in self.fleet.pools_of(model))
        if len(sick) < self.settings.breaker_min_sick or len(sick) < self.settings.breaker_ratio * present:
            return False
        message = f"{len(sick)} of {present} replicas look sick at once: healing stops"
        self.reasons.append(Reason("breaker", model, len(sick), 0, message))
        self.remedies.append(Page(model, "breaker", message))
        return True

    def climb(self, diagnosis: Diagnosis) -> None:
        """Take the next rung for one diagnosis."""
        pool, replica = self._state[diagnosis.subject]
        at, settings = self.fleet.at, self.settings
        if diagnosis.cause == HANG.code:
            frozen_s = at - diagnosis.since_at
            self._cordon(pool, replica, diagnosis)
            if frozen_s >= settings.restart_frozen_after_s:
                self._restart(pool, replica, diagnosis)
        elif diagnosis.cause == STRAGGLER.code:
            self._cordon(pool, replica, diagnosis)
        elif diagnosis.cause == EXITED.code:
            patience = settings.failed_patience_ratio * self.lead_times[str(pool.key)].p90_s
            if at - replica.since_at >= patience:
                self._restart(pool, replica, diagnosis)
            else:
                self._note("left to the platform", diagnosis, "it restarts what exits; a second restart would delay it")
        elif diagnosis.cause == START_OVERDUE.code:
            self._restart(pool, replica, diagnosis)

    def release_recovered(self, model: str, sick: set[str]) -> None:
        """Give back traffic to what we cordoned and is well again; restart what was slow and is now empty."""
        for pool in self.fleet.pools_of(model):
            for replica in pool.replicas:
                memory = self.replicas.get(replica.id)
                if memory is None or memory.cordoned_at is None or not replica.cordoned:
                    continue
                since_s = self.fleet.at - memory.cordoned_at
                if replica.id in sick and not memory.slow_at:
                    continue
                if memory.slow_at:
                    empty = replica.in_flight_requests == 0
                    if empty or since_s >= self.settings.drain_deadline_s:
                        known = Diagnosis(
                            STRAGGLER.code, replica.id, pool.key, memory.cordoned_at, ("latency", "peers"), "slow replica"
                        )
                        self._restart(pool, replica, known)
                elif memory.steps_total > memory.cordoned_steps_total and memory.observed_at <= memory.progress_at:
                    self.remedies.append(UncordonReplica(replica.id, pool.key, "recovered"))
                    self.reasons.append(Reason("recovered", replica.id, 0, 1, "it makes progress again"))
                    self.replicas[replica.id] = replace(memory, cordoned_at=None)

    def fail_over(self, model: str) -> None:
        """Move traffic off a pool that serves with too few of its replicas, if another pool can take it."""
        pools = self.fleet.pools_of(model)
        for pool in pools:
            expected = max(1, min(pool.desired, len(pool.replicas)))
            if pool.weight <= 0 or len(pool.serving) >= self.settings.failover_ratio * expected:
                continue
            if len(pool.starting) + len(pool.serving) >= expected and pool.serving:
                continue  # growing, not failing
            others = [p for p in pools if p.key != pool.key and p.serving]
            if not others:
                continue
            best = max(others, key=lambda p: (len(p.serving), p.key))
            detail = f"serves with {len(pool.serving)} of {expected} replicas"
            self.remedies.append(FailOver(model, pool.key, best.key, detail))
            self.reasons.append(Reason("fail over", str(pool.key), pool.weight, 0.0, f"{detail}; to {best.key}"))

    def _note(self, rule: str, diagnosis: Diagnosis, detail: str) -> None:
        self.reasons.append(Reason(rule, diagnosis.subject, 0, 0, f"{diagnosis.cause} {diagnosis.sentence}; {detail}"))

    def _cordon(self, pool: PoolState, replica: ReplicaState, diagnosis: Diagnosis) -> None:
        if replica.cordoned:
            return
        if replica.phase is not Phase.READY:
            return
        serving = sum(len(p.serving) for p in self.fleet.pools_of(pool.key.model))
        cordoned_now = sum(
            1 for r in self.remedies if isinstance(r, CordonReplica) and r.pool.model == pool.key.model
        )
        present = sum(len(p.replicas) for p in self.fleet.pools_of(pool.key.model))
        # A hung replica serves nothing, so taking it out costs no capacity; a slow one does.
        costs = diagnosis.cause != HANG.code
        if costs and serving - cordoned_now - 1 < self.settings.floor_ratio * present:
            self._note("serving floor", diagnosis, "too few would be left serving")
            return
        if costs and self._open_acts(pool.key.model) >= self.settings.disruption_budget:
            self._note("disruption budget", diagnosis, "another replica is under repair")
            return
        self.remedies.append(CordonReplica(replica.id, pool.key, diagnosis.cause))
        self.reasons.append(Reason("cordon", replica.id, 1, 0, f"{diagnosis.cause} {diagnosis.sentence}"))
        memory = self.replicas.get(replica.id)
        if memory is not None:
            self.replicas[replica.id] = replace(
                memory, cordoned_at=self.fleet.at, cordoned_steps_total=memory.steps_total
            )

    def _restart(self, pool: PoolState, replica: ReplicaState, diagnosis: Diagnosis) -> None:
        at, settings, model = self.fleet.at, self.settings, pool.key.model
        mine = [a for a in self.actions if a.pool == str(pool.key)]
        if any(a.open and a.target == replica.id for a in mine):
            return
        lead = self.lead_times[str(pool.key)]
        if replica.starting and at - replica.requested_at < lead.p90_s:
            self._note("inside its load time", diagnosis, f"90 % of starts take {lead.p90_s:.0f} s")
            return
        if self._open_acts(model) >= settings.disruption_budget:
            self._note("disruption budget", diagnosis, "another replica is under repair")
            return
        if sum(a.open for a in self.actions) >= settings.fleet_disruption_budget:
            self._note("fleet disruption budget", diagnosis, "other replicas are under repair")
            return
        if len(mine) >= settings.max_attempts:
            message = f"{len(mine)} restarts within {settings.attempt_window_s:.0f} s did not help"
            self._note("attempt cap", diagnosis, message)
            self.remedies.append(Page(str(pool.key), diagnosis.cause, message))
            return
        failed = [a for a in mine if not a.open and not a.verified]
        if failed:
            quiet_s = settings.cooldown_s * 2.0 ** (len(failed) - 1)
            if at - failed[-1].started_at < quiet_s:
                self._note("cooldown", diagnosis, f"{quiet_s:.0f} s between restarts in one pool")
                return
        self.remedies.append(RestartReplica(replica.id, pool.key, diagnosis.cause))
        self.reasons.append(Reason("restart", replica.id, 1, 0, f"{diagnosis.cause} {diagnosis.sentence}"))
        deadline = at + 2.0 * lead.p90_s
        self.actions.append(ActionMemory(replica.id, "restart", model, str(pool.key), at, deadline))

    def _open_acts(self, model: str) -> int:
        return sum(1 for a in self.actions if a.open and a.model == model)


def unlearn(actions: Sequence[ActionMemory], not_done: Sequence[str]) -> tuple[ActionMemory, ...]:
    """Return ``actions`` without the open ones against targets that a mode, the kill switch or an error kept alive."""
    return tuple(a for a in actions if not (a.open and a.target in not_done))
