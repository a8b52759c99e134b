"""One tick: observe, forecast, decide, act, record. Nothing else in Foresail decides or acts.

The daemon runs this object on the real clock, the simulator runs the same object on a virtual one.
"""

from __future__ import annotations

from dataclasses import replace

from controller.actuation import Actuator
from controller.errors import ObservationError
from controller.forecasts import LoadForecasts
from controller.observation import observe
from controller.ports import ActResult, AuditLog, Clock, Cluster, MetricSource, Router, TickRecord
from forecasting.forecast import LoadForecast
from policies.decisions import Decision, Page, Policy
from policies.fleet import FleetState
from policies.healing import unlearn
from policies.lead_time import LeadTimeSettings, lead_time
from policies.memory import PolicyMemory, PoolMemory


class ControlLoop:
    """Wires the ports to a policy. Its only state is the policy's memory and the load history."""

    def __init__(  # noqa: PLR0913, PLR0917 - everything that the loop touches, named once
        self,
        clock: Clock,
        metrics: MetricSource,
        cluster: Cluster,
        router: Router,
        audit: AuditLog,
        actuator: Actuator,
        forecasts: LoadForecasts,
        policy: Policy,
        lead_times: LeadTimeSettings,
        tick_s: float,
        memory: PolicyMemory | None = None,
    ) -> None:
        """Start from ``memory``, an earlier run's checkpoint, or from nothing."""
        self._clock, self._metrics, self._cluster, self._router = clock, metrics, cluster, router
        self._audit, self._actuator, self._forecasts, self._policy = audit, actuator, forecasts, policy
        self._lead_times, self._tick_s = lead_times, tick_s
        self.memory = memory or PolicyMemory()

    def tick(self) -> TickRecord:
        """Run one tick and return its record.

        A world that cannot be observed is a non-decision: it is recorded, and nothing is done. A write that fails is
        recorded with the decision. Any other exception is a bug and is left to the caller.
        """
        at = self._clock.now()
        try:
            fleet = observe(at, self._metrics, self._cluster, self._router)
        except ObservationError as error:
            record = TickRecord(at, None, {}, None, error=str(error))
            self._audit.append(record)
            return record
        fleet = replace(fleet, demand=self._forecasts.learn(fleet))
        forecasts = self._forecast(fleet)
        decision = self._policy.decide(fleet, forecasts, self.memory)
        results = self._actuator.carry_out(decision)
        self.memory = _settled(decision, results)
        sources = {model: forecast.source for model, forecast in forecasts.items()}
        record = TickRecord(at, fleet, sources, decision, results)
        self._audit.append(record)
        return record

    def _forecast(self, fleet: FleetState) -> dict[str, LoadForecast]:
        """Forecast each model as far ahead as its slowest pool takes to start a replica, plus the tick."""
        forecasts = {}
        for model in fleet.models:
            known = [self.memory.pools.get(str(p.key), PoolMemory()) for p in fleet.pools_of(model)]
            slowest_s = max(lead_time(pool, self._lead_times).p90_s for pool in known)
            forecast = self._forecasts.forecast(model, slowest_s + self._tick_s)
            if forecast is not None:
                forecasts[model] = forecast
        return forecasts


def _settled(decision: Decision, results: tuple[ActResult, ...]) -> PolicyMemory:
    """Return the decision's memory without what was held; what failed may have happened and stays on record."""
    held = {(r.act, r.subject) for r in results if r.outcome == "held"}
    not_paged = {r.subject for r in results if r.act == "page" and r.outcome != "done"}
    pages = [p for p in decision.remediations if isinstance(p, Page) and p.subject in not_paged]
    return unlearn(decision.memory, held, [(page.subject, page.cause) for page in pages])
