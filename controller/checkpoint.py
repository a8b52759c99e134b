"""Where did the controller stop? Memory from the newest decision on record, and what became of its last acts.

The audit log is the checkpoint: a row holds the memory that its decision led to, and it is written before anything is
done. There is no second copy that could disagree with it. After a crash between an intent and its outcome, the
platform is asked what it shows of each act, and the answer is recorded as the outcome.

What the platform does not show is believed not to have happened only after ``grace_s``: a request that a dead process
sent may still be on its way. A page leaves no trace; it counts as sent, since repeating it would wake somebody twice,
and is named so that whoever starts the controller can log it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from controller.adapters.sql_audit import AuditEntry
from controller.errors import AuditError, ObservationError
from controller.loop import memory_after
from controller.modes import Mode, ModeSettings
from controller.ports import Act, ActResult, ActsRecord, Cluster, Outcome, Router
from policies.decisions import (
    AvoidNode,
    CordonReplica,
    Decision,
    FailOver,
    Page,
    PauseRollout,
    Remediation,
    RestartReplica,
    ResumeRollout,
    RollBack,
    ScalingPlan,
    TrafficPlan,
    UncordonReplica,
)
from policies.fleet import FleetState, Phase, PoolKey, PoolState, ReplicaState
from policies.memory import PolicyMemory
from policies.wire_reader import read_back

SHARE_TOLERANCE = 0.005
"""Routers keep weights as whole numbers, so what comes back of 1/3 is not 1/3."""

DIED = "the controller died before it could say; asked of the platform when it was started again"


class Checkpoints(Protocol):
    """What of an audit log it takes to resume."""

    def newest_decision(self) -> AuditEntry | None:
        """Return the newest row that holds a decision."""
        ...

    def outcome_of(self, intent: AuditEntry) -> AuditEntry | None:
        """Return the row that says what became of an intent."""
        ...

    def settle(self, outcome: ActsRecord) -> None:
        """Store what became of an intent."""
        ...


@dataclass(frozen=True, slots=True)
class Resumption:
    """Where to go on from.

    Attributes:
        memory: Of the policy; an empty one where nothing can be resumed.
        entry_id: Row that it comes from; empty when there is none.
        decided_at: Instant of that decision; NaN when there is none.
        found_out: What the platform shows of acts whose outcome was not on record.
        unsure_pages: Pages of which nobody knows whether they were delivered.
        refused: Why the newest decision cannot be resumed from; empty when it can.
    """

    memory: PolicyMemory
    entry_id: str = ""
    decided_at: float = float("nan")
    found_out: tuple[ActResult, ...] = ()
    unsure_pages: tuple[Page, ...] = field(default=())
    refused: str = ""


def resume(
    log: Checkpoints,
    cluster: Cluster,
    router: Router,
    modes: ModeSettings,
    now: Callable[[], float],
    wait: Callable[[float], object],
    grace_s: float,
) -> Resumption:
    """Return where the last controller that wrote ``log`` stopped, with everything settled that it left open.

    Args:
        log: The audit log.
        cluster: Asked what became of scaling and of healing that was under way.
        router: Asked what became of weights.
        modes: In ``observe`` nobody was told anything, so a page was held.
        now: The clock.
        wait: Waits for so many seconds.
        grace_s: How long a request of the dead controller may still be on its way.

    Raises:
        AuditError: If the log cannot be read or written.
        ObservationError: If the platform has to be asked and does not answer.
    """
    entry = log.newest_decision()
    if entry is None:
        return Resumption(PolicyMemory())
    try:
        decision = read_back(Decision, entry.record["decision"])
        fleet = read_back(FleetState, entry.record["fleet"])
    except (KeyError, ValueError) as error:
        return Resumption(PolicyMemory(), entry.id, entry.at, refused=f"row {entry.id} cannot be resumed from: {error}")
    if entry.kind != "intended":
        return Resumption(decision.memory, entry.id, entry.at)
    outcome = log.outcome_of(entry)
    if outcome is not None:
        return Resumption(memory_after(decision, _results_in(outcome)), entry.id, entry.at)
    results = _found_out(decision, fleet, cluster, router, modes, lambda: wait(grace_s))
    log.settle(ActsRecord(now(), entry.id, results, DIED))
    unsure = tuple(r for r in decision.remediations if isinstance(r, Page) and modes.tells(r.subject))
    # Without their results, pages stay in memory as sent.
    sure = tuple(result for result in results if result.act != "page" or not modes.tells(result.subject))
    return Resumption(memory_after(decision, sure), entry.id, entry.at, results, unsure)


def _results_in(outcome: AuditEntry) -> tuple[ActResult, ...]:
    try:
        return read_back(ActsRecord, outcome.record).results
    except ValueError as error:
        raise AuditError(f"row {outcome.id} of the audit log holds no outcome: {error}") from error


def _found_out(
    decision: Decision,
    before: FleetState,
    cluster: Cluster,
    router: Router,
    modes: ModeSettings,
    wait_a_while: Callable[[], object],
) -> tuple[ActResult, ...]:
    """Return what the platform shows of each act; asked twice, with a while between, where it shows less than all."""
    results = tuple(_Look(before, cluster, router, decision).at(decision, modes))
    if all(result.outcome == "done" or result.act == "page" for result in results):
        return results
    wait_a_while()
    return tuple(_Look(before, cluster, router, decision).at(decision, modes))


class _Look:
    """One look at the platform, compared with what it was like when the decision was made."""

    def __init__(self, before: FleetState, cluster: Cluster, router: Router, decision: Decision) -> None:
        self._before = _by_name(before.pools)
        pools = cluster.pools()
        self._pools = {pool.key: pool for pool in pools}
        self._now = _by_name(pools)
        avoiding = any(isinstance(remedy, AvoidNode) for remedy in decision.remediations)
        self._nodes = cluster.nodes() if avoiding else {}
        self._weights = {plan.model: _shares(router, plan.model) for plan in decision.traffic}

    def at(self, decision: Decision, modes: ModeSettings) -> Iterator[ActResult]:
        """Yield what became of each act, in the order in which they are carried out."""
        found = (self._of_remedy(remedy, modes) for remedy in decision.remediations)
        yield from (result for result in found if result is not None)
        for traffic in decision.traffic:
            yield self._of_weights(traffic)
        for plan in decision.scaling:
            yield self._of_scale(plan)

    def _of_remedy(self, remedy: Remediation, modes: ModeSettings) -> ActResult | None:
        match remedy:
            case CordonReplica(replica=replica, pool=pool):
                return self._of_replica("cordon", pool.replica(replica), lambda now, _: now.cordoned)
            case UncordonReplica(replica=replica, pool=pool):
                return self._of_replica("uncordon", pool.replica(replica), lambda now, _: not now.cordoned)
            case RestartReplica(replica=replica, pool=pool):
                return self._of_replica("restart", pool.replica(replica), _lives_anew, gone="done")
            case RollBack(pool=pool):
                return self._of_pool("roll back", pool, lambda now: now.revision == remedy.revision)
            case PauseRollout(pool=pool) | ResumeRollout(pool=pool):
                pauses = isinstance(remedy, PauseRollout)
                return self._of_pool("pause" if pauses else "resume", pool, lambda now: now.paused == pauses)
            case AvoidNode(node=node):
                return self._of_node(node)
            case Page(subject=subject):
                return _of_page(subject, modes)
            case FailOver():
                return None

    def _of_replica(
        self, act: Act, name: str, shown: Callable[[ReplicaState, ReplicaState | None], bool], gone: Outcome = "failed"
    ) -> ActResult:
        now = self._now.get(name)
        if now is None:
            return ActResult(act, name, gone, "the replica is gone")
        if shown(now, self._before.get(name)):
            return ActResult(act, name, "done", "the platform shows it")
        return ActResult(act, name, "held", "the platform shows nothing of it")

    def _of_pool(self, act: Act, key: PoolKey, shown: Callable[[PoolState], bool]) -> ActResult:
        pool = self._pools.get(key)
        if pool is None:
            return ActResult(act, str(key), "failed", "the pool is gone")
        if shown(pool):
            return ActResult(act, str(key), "done", "the platform shows it")
        return ActResult(act, str(key), "held", "the platform shows nothing of it")

    def _of_node(self, name: str) -> ActResult:
        node = self._nodes.get(name)
        if node is None:
            return ActResult("avoid", name, "failed", "the node is gone")
        if node.avoided:
            return ActResult("avoid", name, "done", "the platform shows it")
        return ActResult("avoid", name, "held", "the platform shows nothing of it")

    def _of_weights(self, plan: TrafficPlan) -> ActResult:
        now = self._weights[plan.model]
        if now is None:
            return ActResult("weights", plan.model, "failed", "the weights cannot be read")
        keys = {*plan.weights, *now}
        close = all(abs(now.get(k, 0.0) - plan.weights.get(k, 0.0)) <= SHARE_TOLERANCE for k in keys)
        what = "the platform shows it" if close else "the platform shows other weights"
        return ActResult("weights", plan.model, "done" if close else "held", what)

    def _of_scale(self, plan: ScalingPlan) -> ActResult:
        """A write raises the version, so one that is still at the plan's has not been written."""
        subject, pool = str(plan.pool), self._pools.get(plan.pool)
        if pool is None:
            return ActResult("scale", subject, "failed", "the pool is gone")
        if pool.version != plan.version and pool.desired == plan.desired:
            return ActResult("scale", subject, "done", f"the platform was asked for {pool.desired}")
        if pool.desired == plan.current:
            return ActResult("scale", subject, "held", f"the platform is still asked for {pool.desired}")
        return ActResult("scale", subject, "failed", f"somebody else asked for {pool.desired}")


def _of_page(subject: str, modes: ModeSettings) -> ActResult:
    if not modes.tells(subject):
        return ActResult("page", subject, "held", f"mode {Mode.OBSERVE}")
    return ActResult("page", subject, "failed", "nobody knows whether it was delivered; it is not sent again")


def _lives_anew(now: ReplicaState, before: ReplicaState | None) -> bool:
    """Whether a replica is not the one that it was: started again, by us or, while it was READY, by the platform.

    What had exited, or was on its way to exit once more, the platform starts again and again by itself. That takes the
    place of no restart, which would have brought another one; asking for it twice does no harm.
    """
    if before is None or now.incarnation != before.incarnation:
        return True
    if now.life != before.life:
        return before.phase is not Phase.FAILED and not before.starting
    return now.requested_at != before.requested_at


def _by_name(pools: Sequence[PoolState]) -> Mapping[str, ReplicaState]:
    return {pool.key.replica(replica.id): replica for pool in pools for replica in pool.replicas}


def _shares(router: Router, model: str) -> Mapping[PoolKey, float] | None:
    try:
        return router.weights(model)
    except ObservationError:
        return None
