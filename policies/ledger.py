"""May this be done now, and is it on the books? Every act of healing is asked for here, and nowhere else.

Who asks is a playbook (``treatment``); what it may have is decided here, whatever the playbook says: floors, budgets,
cooldowns, load times and the breaker.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from policies.anomaly import Watch
from policies.burn import Burn
from policies.burn_gate import RULE, GatedAct, why_not_for_latency
from policies.causes import ERRORS, EXITED, HANG, START_OVERDUE, STILL_SERVING, STRAGGLER
from policies.decisions import (
    AvoidNode,
    CordonReplica,
    Diagnosis,
    Page,
    PauseRollout,
    Reason,
    Remediation,
    RestartReplica,
    ResumeRollout,
    RollBack,
    UncordonReplica,
)
from policies.diagnosis import confirmed, serves_nothing
from policies.disruption import DisruptionSettings, Refusal, last_healthy, why_no_restart, why_not_now
from policies.fleet import FleetState, Phase, PoolState, ReplicaState, Stage
from policies.healing_memory import ActionMemory, CordonMemory
from policies.lead_time import LeadTime
from policies.memory import PoolMemory
from policies.playbook import Hold
from policies.revisions import good_revision, witness_due

ROLL_BACK = "roll back"


@dataclass(slots=True)
class Ledger:
    """What healing asks for in one tick: made by ``healing.heal``, read by it, and thrown away.

    It alone adds to ``actions`` and ``cordons``. Replicas are told apart by their name in the whole fleet. What is
    asked for and not allowed is answered with the ``Refusal``; what is granted, with None.

    Attributes:
        min_replicas: Replicas that must go on serving, by stage.
        known: What is remembered of each pool.
        stopped: Models in which too much looks sick for anything to be given up.
        actions, cordons: What is on record, this tick's included.
        told: Pages of this episode, by ``paging.page_key``.
        pages: What a human should know, told already or not.
        waiting: Replicas that stay in traffic until there are enough others.
        hung: Replicas that serve nothing although the platform calls them READY.
        failing: Replicas that answer with errors: no help to whatever is taken out of traffic beside them.
        gpu_faults: Nodes on which an Xid error of late asks for more than a restart of the engine.
        broken: Replicas that have exited or start on a GPU at fault: nothing to count on.
        burn: How fast the error budgets of models are spent, where that is measured.
    """

    fleet: FleetState
    seen: Watch
    lead_times: Mapping[str, LeadTime]
    min_replicas: Mapping[Stage, int]
    known: Mapping[str, PoolMemory]
    settings: DisruptionSettings
    actions: list[ActionMemory]
    cordons: dict[str, CordonMemory]
    told: Mapping[str, float]
    stopped: frozenset[str] = frozenset()
    remedies: list[Remediation] = field(default_factory=list)
    reasons: list[Reason] = field(default_factory=list)
    pages: list[Page] = field(default_factory=list)
    waiting: set[str] = field(default_factory=set)
    hung: set[str] = field(default_factory=set)
    failing: set[str] = field(default_factory=set)
    gpu_faults: frozenset[str] = frozenset()
    broken: set[str] = field(default_factory=set)
    burn: Mapping[str, Burn] = field(default_factory=dict)
    _models: Mapping[str, str] | None = field(default=None, init=False)

    # Traffic of one replica

    def cordon(self, pool: PoolState, replica: ReplicaState, why: Diagnosis) -> Refusal | None:
        """Take a replica out of traffic.

        One that hangs goes at once: it serves nothing, so that this costs no capacity. Any other may still serve, and
        goes only when enough others do and nothing else is under repair.
        """
        name = pool.key.replica(replica.id)
        if replica.phase is not Phase.READY:
            return Refusal("not ready", "only what is READY gets traffic")
        seen = self.seen.memory.get(name)
        if seen is None:
            return Refusal("never scraped", "how far it has come is not known, nor could be told whether it recovers")
        if not serves_nothing(why):
            if pool.key.model in self.stopped:
                return _STOPPED
            if (refusal := self._for_latency("cordon", pool, why)) is not None:
                return refusal
            if (refusal := self._too_few_left(pool, name)) is not None:
                self.waiting.add(name)
                return refusal
            if (refusal := why_not_now(pool.key.model, self._under_repair({name}), self.settings)) is not None:
                return refusal
        elif pool.key.model in self.stopped:
            return _STOPPED
        self.remedies.append(CordonReplica(replica.id, pool.key, why.cause))
        self.reasons.append(Reason("cordon", replica.id, 1, 0, f"{why.cause} {why.told}"))
        self.cordons[name] = CordonMemory(
            self.fleet.at, why.cause, seen.life, seen.steps_total, seen.output_tokens_total, confirmed(why)
        )
        return None

    def uncordon(self, pool: PoolState, replica: ReplicaState, rule: str, detail: str) -> None:
        """Give a replica its traffic back."""
        self.remedies.append(UncordonReplica(replica.id, pool.key, rule))
        self.reasons.append(Reason(rule, replica.id, 0, 1, detail))

    def _too_few_left(self, pool: PoolState, name: str) -> Refusal | None:
        stage = pool.key.stage
        replicas = [(p.key.replica(r.id), r) for p in self.fleet.pools_in(stage) for r in p.roster.replicas]
        out = (
            self.hung
            | self.failing - {name}
            | {r.pool.replica(r.replica) for r in self.remedies if isinstance(r, CordonReplica | RestartReplica)}
        )
        left = sum(r.serving and other not in out for other, r in replicas) - 1
        healthy = last_healthy(self.fleet, stage, self.seen.memory.keys())
        floor = self.settings.serving_floor(healthy, self.min_replicas.get(stage, 0))
        if left >= floor:
            return None
        return Refusal("serving floor", f"{left} would be left serving, {floor} must; one more is asked for")

    # What is destroyed and made anew

    def restart(self, pool: PoolState, replica: ReplicaState, why: Diagnosis, deadline_s: float) -> Refusal | None:
        """Have a replica deleted; ``deadline_s`` is how long its replacement may take to serve.

        One that is in traffic and may still serve goes only when enough others do, as for a cordon.
        """
        at, key = self.fleet.at, str(pool.key)
        if self.open_restart(key, replica.id) is not None:
            return Refusal("restart under way", "asked for, and not seen to have worked yet")
        if replica.phase is Phase.DRAINING:
            return Refusal("leaving", "it is on its way out")
        if pool.key.model in self.stopped:
            return _STOPPED
        name = pool.key.replica(replica.id)
        if replica.serving and name not in self.hung and (refusal := self._too_few_left(pool, name)) is not None:
            self.waiting.add(name)
            return refusal
        if not self._serves_nobody(pool, replica) and (refusal := self._for_latency("restart", pool, why)) is not None:
            return refusal
        if self.on_trial(pool, replica, why):
            detail = f"revision {replica.revision} has not shown yet that it is well: another one of it will tell"
            return Refusal("revision on trial", detail)
        refusal = why_no_restart(pool, replica, self.actions, self.lead_times[key], at, self.settings)
        refusal = refusal or why_not_now(pool.key.model, self._under_repair({name}), self.settings)
        if refusal is not None:
            return refusal
        self.remedies.append(RestartReplica(replica.id, pool.key, why.cause))
        self.reasons.append(Reason("restart", replica.id, 1, 0, f"{why.cause} {why.told}"))
        self.actions.append(
            ActionMemory(replica.id, "restart", pool.key.model, key, at, at + deadline_s, node=replica.node)
        )
        return None

    def on_trial(self, pool: PoolState, replica: ReplicaState, why: Diagnosis) -> bool:
        """Return whether it may be its revision that fails, and another one of that will soon tell.

        A restart would only bring one more of it, and so would growth.
        """
        known = self.known.get(str(pool.key))
        if known is None or why.name not in _OF_REVISIONS:
            return False
        bad, key = self.hung | self.failing | self.broken | self.cordons.keys(), pool.key
        well = (r for r in pool.roster.replicas if r.serving and key.replica(r.id) not in bad)
        return witness_due(pool, known, replica, well, why.since_at, self.fleet.at, self.settings)

    def open_restart(self, pool: str, replica: str) -> ActionMemory | None:
        """Return the restart of a replica that is under way."""
        return next(
            (a for a in self.actions if a.open and (a.pool, a.target, a.kind) == (pool, replica, "restart")), None
        )

    def roll_back(self, pool: PoolState, why: Diagnosis, deadline_s: float) -> Refusal | None:
        """Restore the recorded good revision of a pool: once per revision, and only what can still be restored (I9)."""
        at, key, known = self.fleet.at, str(pool.key), self.known[str(pool.key)]
        good = good_revision(pool, known, self.settings)
        if not good:
            return Refusal(
                "no good revision", "none served healthy for long enough, or none can be restored", final=True
            )
        if any(a.open and (a.pool, a.kind) == (key, ROLL_BACK) for a in self.actions):
            return Refusal("roll-back under way", "asked for, and not seen to have worked yet")
        tried = [a for a in self.actions if (a.pool, a.kind, a.target) == (key, ROLL_BACK, pool.revision)]
        before = known.revisions.get(pool.revision)
        if tried or (before is not None and before.rolled_back_at is not None):
            return Refusal("rolled back before", f"revision {pool.revision} was rolled back once already", final=True)
        if refusal := self._for_latency("roll back", pool, why):
            self.page(key, why, f"its rollout stands still, and {refusal.detail}", refusal.rule)
            return refusal
        replaced = {pool.key.replica(r.id) for r in pool.roster.replicas if r.cordoned and r.revision == pool.revision}
        if refusal := why_not_now(pool.key.model, self._under_repair(replaced), self.settings):
            return refusal
        self.remedies.append(RollBack(pool.key, good, pool.revision, why.cause))
        detail = f"{why.cause} {why.told}; from revision {pool.revision} to {good}"
        self.reasons.append(Reason(ROLL_BACK, key, 0, 1, detail))
        self.actions.append(ActionMemory(pool.revision, ROLL_BACK, pool.key.model, key, at, at + deadline_s))
        return None

    # What latency alone is no reason for

    def permitted(self, pool: PoolState, why: Diagnosis, holding: frozenset[Hold]) -> frozenset[Hold]:
        """Return what of ``holding`` a playbook may hold: it gives up no pool for latency while no budget burns."""
        if "traffic" in holding and (refusal := self._for_latency("fail over", pool, why)) is not None:
            self.note(refusal.rule, why, refusal.detail)
            return holding - {"traffic"}
        return holding

    def _for_latency(self, act: GatedAct, pool: PoolState, why: Diagnosis) -> Refusal | None:
        held = why_not_for_latency(act, why, self.burn.get(pool.key.model), self.settings.burn_gate)
        return Refusal(RULE, held) if held else None

    def _serves_nobody(self, pool: PoolState, replica: ReplicaState) -> bool:
        """Return whether it is out of traffic by us, and nothing is left inside: to end it costs no request."""
        name = pool.key.replica(replica.id)
        return replica.cordoned and name in self.cordons and name in self.seen.fresh and replica.empty

    # What can be taken back

    def pause(self, pool: PoolState, why: Diagnosis) -> Refusal | None:
        """Let a rollout go no further."""
        self.remedies.append(PauseRollout(pool.key, why.cause))
        self.reasons.append(Reason("pause", str(pool.key), 0, 1, f"{why.cause} {why.told}"))
        return None

    def resume(self, pool: PoolState, why: Diagnosis) -> Refusal | None:
        """Let a rollout go on."""
        self.remedies.append(ResumeRollout(pool.key, why.cause))
        self.reasons.append(Reason("resume", str(pool.key), 1, 0, f"{why.cause} {why.told}"))
        return None

    def avoid_node(self, replica: ReplicaState, why: Diagnosis) -> Refusal | None:
        """Keep replicas off the node of this one: never off more than a share of all nodes."""
        if not self.settings.may_avoid_nodes:
            return Refusal("not enabled", "healing.may_avoid_nodes is false", final=True)
        nodes = self.fleet.nodes
        if replica.node not in nodes:
            return Refusal("unknown node", f"the platform knows no node {replica.node!r}", final=True)
        asked = {remedy.node for remedy in self.remedies if isinstance(remedy, AvoidNode)}
        if replica.node in asked:
            return None
        avoided = len(asked | {name for name, node in nodes.items() if node.avoided})
        if avoided + 1 > max(1, int(self.settings.avoided_nodes_ratio * len(nodes))):
            return Refusal("node budget", f"{avoided} of {len(nodes)} nodes are avoided already", final=True)
        self.remedies.append(AvoidNode(replica.node, why.cause))
        self.reasons.append(Reason("avoid node", replica.node, 0, 1, f"{why.cause} {why.told}"))
        return None

    # What is said

    def page(self, subject: str, why: Diagnosis, detail: str, rule: str = "needs a human") -> None:
        """Tell a human, and leave a reason."""
        self.note(rule, why, detail)
        about = f"{why.subject}: " if why.subject else ""
        self.pages.append(Page(subject, why.cause, f"{about}{why.told}; {detail}"))

    def note(self, rule: str, why: Diagnosis, detail: str) -> None:
        """Leave a reason for what is not done, or not yet."""
        subject = why.subject or str(why.pool)
        self.reasons.append(Reason(rule, subject, 0, 0, f"{why.cause} {why.told}; {detail}"))

    def _under_repair(self, besides: Collection[str]) -> set[tuple[str, str]]:
        """Return ``(model, name)`` of acts not yet verified, and of replicas out of traffic that served (I2).

        ``besides`` is left out: what is asked for is about it, or replaces it.
        """
        repairs = {(a.model, f"{a.pool}/{a.target}") for a in self.actions if a.open}
        out = [name for name, cordon in self.cordons.items() if cordon.cause in STILL_SERVING]
        if out:
            models = self._model_of()
            repairs |= {(models[name], name) for name in out if name in models}
        return {repair for repair in repairs if repair[1] not in besides}

    def _model_of(self) -> Mapping[str, str]:
        """Return the model of every replica that is there."""
        if self._models is None:
            self._models = {p.key.replica(r.id): p.key.model for p in self.fleet.pools for r in p.roster.replicas}
        return self._models


_OF_REVISIONS = frozenset(cause.name for cause in (HANG, ERRORS, STRAGGLER, EXITED, START_OVERDUE))
"""What one replica suffers from that all of its revision may."""

_STOPPED = Refusal("breaker", "too many replicas look sick at once")
