"""How a decision reaches the world: modes, kill switch and freshness are checked before every single write."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from enum import StrEnum
from functools import partial

from pydantic import BaseModel, ConfigDict, Field

from controller.errors import ActuationError
from controller.ports import ActResult, Clock, Cluster, Notifier, Router
from policies.decisions import CordonReplica, Decision, FailOver, Page, RestartReplica, UncordonReplica


class Mode(StrEnum):
    """How far an action class may go."""

    OBSERVE = "observe"  # decide and record
    RECOMMEND = "recommend"  # ... and tell
    APPROVE = "approve"  # ... and act once a human agreed
    AUTO = "auto"  # act


class ModeSettings(BaseModel):
    """What may be done without a human. The default does nothing but look."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    scaling: Mode = Field(Mode.OBSERVE, description="Replica counts.")
    traffic: Mode = Field(Mode.OBSERVE, description="Traffic weights between pools, and failover.")
    healing: Mode = Field(Mode.OBSERVE, description="Cordon, uncordon and restart of single replicas.")

    @classmethod
    def all_auto(cls) -> ModeSettings:
        """Return modes in which everything acts by itself."""
        return cls(scaling=Mode.AUTO, traffic=Mode.AUTO, healing=Mode.AUTO)


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

    def carry_out(self, decision: Decision) -> tuple[ActResult, ...]:
        """Return what became of each part of ``decision``. One failed write does not stop the others."""
        return tuple(
            self._attempt(act, subject, mode, write, decision.expires_at)
            for act, subject, mode, write in self._acts(decision)
        )

    def _acts(self, decision: Decision) -> Iterator[tuple[str, str, Mode, Write]]:
        for remedy in decision.remediations:
            match remedy:
                case CordonReplica(replica=replica, pool=pool):
                    yield (
                        "cordon",
                        pool.replica(replica),
                        self.modes.healing,
                        partial(self._cluster.cordon, pool, replica),
                    )
                case UncordonReplica(replica=replica, pool=pool):
                    yield (
                        "uncordon",
                        pool.replica(replica),
                        self.modes.healing,
                        partial(self._cluster.uncordon, pool, replica),
                    )
                case RestartReplica(replica=replica, pool=pool):
                    yield (
                        "restart",
                        pool.replica(replica),
                        self.modes.healing,
                        partial(self._cluster.restart, pool, replica),
                    )
                case Page(subject=subject):
                    tells = Mode.OBSERVE if self.modes.healing is Mode.OBSERVE else Mode.AUTO
                    yield "page", subject, tells, partial(self._notifier.page, remedy, decision.at)
                case FailOver():
                    pass  # carried out by the traffic plan of the same decision
        for traffic in decision.traffic:
            write = partial(self._router.set_weights, traffic.model, traffic.weights)
            yield "weights", traffic.model, self.modes.traffic, write
        for plan in decision.scaling:
            write = partial(self._cluster.scale, plan.pool, plan.desired, plan.version, plan.retire_first)
            yield "scale", str(plan.pool), self.modes.scaling, write

    def _attempt(self, act: str, subject: str, mode: Mode, write: Write, expires_at: float) -> ActResult:
        if self._killed():
            return ActResult(act, subject, "held", "kill switch")
        if mode is not Mode.AUTO:
            return ActResult(act, subject, "held", f"mode {mode}")
        if self._clock.now() > expires_at:
            return ActResult(act, subject, "held", "the plan is stale")
        try:
            write()
        except ActuationError as error:
            return ActResult(act, subject, "failed", str(error))
        return ActResult(act, subject, "done")
