"""How a decision reaches the world: modes, kill switch and freshness are checked before every single write."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

from controller.acts import named
from controller.errors import ActuationError
from controller.modes import Mode, ModeSettings
from controller.ports import Act, ActResult, Clock, Cluster, Notifier, Router
from controller.recommendations import Recommendations
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
    UncordonReplica,
)

Write = Callable[[], None]


class Actuator:
    """Carries out decisions, healing first: a replica that is taken out must not be chosen for anything else."""

    def __init__(
        self,
        clock: Clock,
        cluster: Cluster,
        router: Router,
        notifier: Notifier,
        modes: ModeSettings,
        killed: Callable[[], bool],
    ) -> None:
        """``killed`` is asked before every write; while it answers true nothing is written."""
        self._clock, self._cluster, self._router, self._notifier = clock, cluster, router, notifier
        self.modes, self._killed = modes, killed
        self._recommendations = Recommendations(notifier, modes)

    def carry_out(self, decision: Decision, withheld: str = "") -> Iterator[ActResult]:
        """Do each part of ``decision`` that its mode allows, tell what it only recommends, and yield what became of it.

        One failed write does not stop the others; an error that nobody foresaw does, and is raised once every part
        has its result. ``withheld`` says why nothing may be done at all.
        """
        if not withheld:
            self._recommendations.tell(decision, lambda: not self._why_not(Mode.AUTO, decision.expires_at))
        unforeseen: BaseException | None = None
        for act, subject, mode, write in self._acts(decision):
            why_not = withheld or self._why_not(mode, decision.expires_at)
            if why_not:
                yield ActResult(act, subject, "held", why_not)
                continue
            try:
                write()
            except ActuationError as error:
                yield ActResult(act, subject, "failed", str(error))
            except BaseException as error:  # noqa: BLE001 - raised below, once what was done can be recorded
                unforeseen, withheld = error, "an error that nobody foresaw came before"
                yield ActResult(act, subject, "failed", f"{type(error).__name__}: {error}")
            else:
                yield ActResult(act, subject, "done")
        if unforeseen is not None:
            raise unforeseen

    def _acts(self, decision: Decision) -> Iterator[tuple[Act, str, Mode, Write]]:
        for remedy in decision.remediations:
            write, name = self._write_of(remedy, decision.at), named(remedy)
            if write is not None and name is not None:
                tells = Mode.OBSERVE if self.modes.healing is Mode.OBSERVE else Mode.AUTO
                yield name.act, name.subject, tells if name.act == "page" else self.modes.healing, write
        for traffic in decision.traffic:
            write = partial(self._router.set_weights, traffic.model, traffic.weights)
            yield "weights", traffic.model, self.modes.traffic, write
        for plan in decision.scaling:
            write = partial(self._cluster.scale, plan.pool, plan.desired, plan.version, plan.retire_first)
            yield "scale", str(plan.pool), self.modes.scaling, write

    def _write_of(self, remedy: Remediation, at: float) -> Write | None:
        """Return what does it; None for a failover, which the traffic plan of the same decision carries out."""
        match remedy:
            case CordonReplica(replica=replica, pool=pool):
                return partial(self._cluster.cordon, pool, replica)
            case UncordonReplica(replica=replica, pool=pool):
                return partial(self._cluster.uncordon, pool, replica)
            case RestartReplica(replica=replica, pool=pool):
                return partial(self._cluster.restart, pool, replica)
            case RollBack(pool=pool, revision=revision):
                return partial(self._cluster.roll_back, pool, revision)
            case PauseRollout(pool=pool) | ResumeRollout(pool=pool):
                pauses = isinstance(remedy, PauseRollout)
                return partial(self._cluster.pause if pauses else self._cluster.resume, pool)
            case AvoidNode(node=node):
                return partial(self._cluster.avoid, node)
            case Page():
                return partial(self._notifier.page, remedy, at)
            case FailOver():
                return None

    def _why_not(self, mode: Mode, expires_at: float) -> str:
        """Return what forbids a write at this moment; empty when nothing does."""
        try:
            killed = self._killed()
        except Exception as error:  # noqa: BLE001 - a kill switch that cannot be read must not let anything through
            return f"the kill switch cannot be read: {type(error).__name__}: {error}"
        if killed:
            return "kill switch"
        if mode is not Mode.AUTO:
            return f"mode {mode}"
        return "the plan is stale" if self._clock.now() > expires_at else ""
