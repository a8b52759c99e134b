"""What does each part of a look at a cluster go by, and where does it say what it has found?"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

from controller.adapters.kube.client import KubernetesApi
from controller.adapters.kube.cluster import KubernetesView
from controller.adapters.kube.questions import ApiRefused, Unreached
from controller.adapters.kube.settings import KubernetesSettings
from controller.adapters.system_clock import SystemClock
from controller.doctor_findings import ClusterFindings, Problem, shown
from controller.errors import ObservationError
from controller.modes import ModeSettings
from controller.shard_settings import WHOLE, ShardSettings
from policies.fleet import PoolState
from policies.settings import PolicySettings

T = TypeVar("T")
_FORBIDDEN = 403


@dataclass(slots=True)
class Examined:
    """What was found in a cluster: for people, what is wrong, and the pools; None where they are not known."""

    cluster: ClusterFindings
    problems: list[Problem] = field(default_factory=list)
    pools: tuple[PoolState, ...] | None = None


@dataclass(frozen=True, slots=True)
class Examination:
    """What a cluster is looked at for, by what, and what has been found so far."""

    platform: KubernetesSettings
    modes: ModeSettings
    policy: PolicySettings
    clock: SystemClock
    view: KubernetesView
    examined: Examined
    shard: ShardSettings = WHOLE

    @property
    def api(self) -> KubernetesApi:
        """By which it is asked."""
        return self.view.api

    @property
    def found(self) -> ClusterFindings:
        """What has been found, for people."""
        return self.examined.cluster

    def told(self, ask: Callable[[], T], otherwise: T) -> T:
        """Return an answer, or ``otherwise`` after saying what went wrong; raises Unreached.

        That a right is missing has been said already.
        """
        try:
            return ask()
        except Unreached:
            raise
        except ObservationError as error:
            if not (isinstance(error, ApiRefused) and error.status == _FORBIDDEN and self.found.missing_rights):
                self.examined.problems.append(problem_of(error, fatal=False))
            return otherwise

    def say(self, what: str, remedy: str, *, fatal: bool = True) -> None:
        """Say what is wrong and what to do; only what is ``fatal`` makes the command fail."""
        self.examined.problems.append(Problem(shown(what), shown(remedy), fatal))


def problem_of(error: ObservationError, *, fatal: bool = True) -> Problem:
    """Return what is to be said of an error."""
    where = f"{shown(error.where)}: " if error.where else ""
    return Problem(f"{where}{shown(error.what)}", shown(error.remedy), fatal)
