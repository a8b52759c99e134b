"""Closed-loop runs whose ticks go into a real audit log, for the tests of ``foresail incidents``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from controller.adapters.audit_window import AuditWindow
from controller.adapters.sql_audit import SqlAudit
from controller.incidents.incident import Incident
from controller.incidents.reading import incidents_between
from controller.modes import ModeSettings
from forecasting.forecast import LoadForecast
from policies.decide import Foresail
from policies.decisions import CordonReplica, Decision, Diagnosis, Policy, Remediation, RestartReplica
from policies.fleet import FleetState
from policies.memory import PolicyMemory
from tests.builders import KEY, settings
from tests.builders_world import Controlled, Engine, World

WATCHED = ModeSettings()
"""Nothing is done: every act is held."""


class Run:
    """A world of one pool under control, recorded in a SQLite file."""

    def __init__(
        self,
        path: Path,
        modes: ModeSettings | None = None,
        policy: Policy | None = None,
        killed: Callable[[], bool] = lambda: False,
        **about: float,
    ) -> None:
        """Start seven replicas under ordinary load, all of them well for five minutes."""
        self.world = World(requests_per_s=26.0, **about)  # type: ignore[arg-type]  # only ever seconds
        self.world.add_pool(replicas=7)
        self.path, self._log = path, SqlAudit.open(f"sqlite:///{path}")
        self.control: Controlled = self.world.controlled(modes=modes, killed=killed, policy=policy, audit=self._log)
        self.control.run(300.0)

    @property
    def engine(self) -> Engine:
        """The first replica that serves."""
        return min((engine for engine in self.world.of() if engine.serving), key=lambda engine: engine.id)

    def run(self, seconds: float) -> None:
        self.control.run(seconds)

    def run_until_wanted(self, remedy: type[Remediation], at_most_s: float = 900.0) -> None:
        """Go on until ``remedy`` is decided, whether or not it is done."""
        for _ in range(round(at_most_s / self.control.tick_s)):
            self.run(self.control.tick_s)
            newest = self._log.newest_decision()
            if newest and any(r["type"] == remedy.__name__ for r in newest.record["decision"]["remediations"]):
                return
        raise AssertionError(f"no {remedy.__name__} within {at_most_s:.0f} s")

    def incidents(self, since_at: float | None = None, until_at: float | None = None) -> list[Incident]:
        return incidents_between(AuditWindow(self._log.engine), since_at, until_at)

    def window(self) -> AuditWindow:
        return AuditWindow(self._log.engine)


class TriggerHappy:
    """Believes that a replica hangs, or is slow, which is neither, and wants it out of traffic and restarted."""

    name = "trigger-happy"

    def __init__(self, replica: str, from_at: float, until_at: float, families: tuple[str, ...]) -> None:
        self._replica, self._from_at, self._until_at, self._families = replica, from_at, until_at, families
        self._foresail = Foresail(settings(KEY))

    def decide(self, fleet: FleetState, forecasts: Mapping[str, LoadForecast], memory: PolicyMemory) -> Decision:
        decision = self._foresail.decide(fleet, forecasts, memory)
        if not self._from_at <= fleet.at < self._until_at:
            return decision
        believed = Diagnosis("F1", self._replica, KEY, self._from_at, self._families, "engine hangs: so it is said")
        acts = (CordonReplica(self._replica, KEY, "F1"), RestartReplica(self._replica, KEY, "F1"))
        return replace(decision, diagnoses=(believed,), remediations=acts)


def the_one(incidents: list[Incident]) -> Incident:
    """Return the only incident."""
    (incident,) = incidents
    return incident
