"""One tick: observe, forecast, decide, act, record. Nothing else in Foresail decides or acts.

The daemon runs this object on the real clock, the simulator runs the same object on a virtual one.
"""

from __future__ import annotations

import math
from contextlib import nullcontext
from dataclasses import replace

from controller.actuation import Actuator
from controller.errors import ObservationError
from controller.forecasts import Horizon, LoadForecasts
from controller.observation import observe
from controller.ports import ActResult, AuditLog, PhaseTimer, Sources, TickPhase, TickRecord, Witness
from controller.recording import Recorder
from forecasting.forecast import LoadForecast
from policies.decisions import Decision, Page, Policy
from policies.fleet import FleetState
from policies.memory import PolicyMemory
from policies.undone import not_to_be_learned, unlearn
from policies.unseen import blind_page, still_blind


class ControlLoop:
    """Wires the ports to a policy. Its only state is the policy's memory and the load history.

    Attributes:
        witness: Is told of every tick but those in which a bug came before a decision.
    """

    def __init__(
        self,
        sources: Sources,
        audit: AuditLog,
        actuator: Actuator,
        forecasts: LoadForecasts,
        horizon: Horizon,
        policy: Policy,
        memory: PolicyMemory | None = None,
        blind_page_after_s: float = math.inf,
    ) -> None:
        """Start from ``memory``, an earlier run's checkpoint, or from nothing.

        A human is told once nothing could be observed for ``blind_page_after_s``.
        """
        self._sources, self._recorder, self._actuator = sources, Recorder(audit), actuator
        self.forecasts, self._horizon, self._policy = forecasts, horizon, policy
        self.memory = memory or PolicyMemory()
        self._blind_page_after_s = blind_page_after_s
        self.time_phase: PhaseTimer = _untimed
        self.witness: Witness | None = None

    def follow(self, predecessor: ControlLoop) -> None:
        """Go on where a loop stopped that this one replaces: with its memory, and with what it still has to record."""
        self.memory, self._recorder = predecessor.memory, predecessor._recorder
        self.time_phase = predecessor.time_phase

    def tick(self) -> TickRecord:
        """Run one tick and return its record.

        What is decided is on record before it is done; a decision that cannot be recorded is not carried out. A world
        that cannot be observed is a non-decision: it is recorded, and nothing is done. A write that fails is recorded
        with the decision. Any other exception is a bug: it is recorded and left to the caller.
        """
        look = self._sources
        record = TickRecord(look.clock.now(), None, {}, None)
        fleet = None
        try:
            with self.time_phase("observe"):
                fleet = observe(record.at, look.metrics, look.cluster, look.router, look.canaries)
            decision, record = self._decided(fleet, record)
        except ObservationError as error:
            return self._blind(replace(record, fleet=fleet, error=str(error)))
        except Exception as bug:
            self._announced(replace(record, fleet=fleet, error=_named(bug)))
            raise
        record, entry_id = self._announced(record)
        return self._acted(decision, record, entry_id)

    def _decided(self, fleet: FleetState, record: TickRecord) -> tuple[Decision, TickRecord]:
        """Return what is to be done about ``fleet``, and ``record`` with that and all that it was made from."""
        with self.time_phase("forecast"):
            fleet = fleet.with_demand(self.forecasts.learn(fleet, not_to_be_learned(self.memory)))
            forecasts = self._forecast(fleet)
            notes = self.forecasts.notes
        with self.time_phase("decide"):
            decision = self._policy.decide(fleet, forecasts, self.memory)
        return decision, replace(
            record,
            fleet=fleet,
            forecast_sources={model: forecast.source for model, forecast in forecasts.items()},
            decision=decision,
            forecasts=forecasts,
            stepped_back={m: notes[m].stepped_back for m in fleet.models if m in notes and notes[m].stepped_back},
            memory=self.memory,
        )

    def _blind(self, record: TickRecord) -> TickRecord:
        """Change nothing, remember since when nothing is seen, and tell a human once that is too long."""
        self.memory = still_blind(self.memory, record.at)
        page = blind_page(self.memory, record.at, record.error, self._blind_page_after_s)
        if page is not None:
            told = self._actuator.tell(page)
            self.memory = replace(self.memory, blind_told=told.outcome == "done")
            record = replace(record, told=told)
        record = self._announced(record)[0]
        self._witnessed(record)
        return record

    def _acted(self, decision: Decision, record: TickRecord, entry_id: str) -> TickRecord:
        """Carry ``decision`` out, learn from what became of it, and have that recorded."""
        withheld = "" if entry_id else f"not on record: {record.unrecorded}"
        results: list[ActResult] = []
        error = ""
        try:
            with self.time_phase("act"):
                for result in self._actuator.carry_out(decision, withheld, record.fleet):
                    results.append(result)  # noqa: PERF402 - what is known when one of them raises must be kept
        except BaseException as unforeseen:
            error = _named(unforeseen)
            raise
        finally:
            self.memory = memory_after(decision, tuple(results))
            if entry_id and (record.acts_planned or results):
                with self.time_phase("record"):
                    record = self._recorder.settle(record, entry_id, results, error)
            record = replace(record, results=tuple(results)) if results else record
            self._witnessed(record)
        return record

    def _witnessed(self, record: TickRecord) -> None:
        if self.witness is not None:
            self.witness.saw(record)

    def _announced(self, record: TickRecord) -> tuple[TickRecord, str]:
        with self.time_phase("record"):
            return self._recorder.announce(record)

    def _forecast(self, fleet: FleetState) -> dict[str, LoadForecast]:
        return self.forecasts.forecast_many(
            {model: self._horizon.reach_s(fleet.pools_of(model), self.memory) for model in fleet.models}
        )


def memory_after(decision: Decision, results: tuple[ActResult, ...]) -> PolicyMemory:
    """Return the decision's memory without what was held; what failed may have happened and stays on record."""
    held = {(r.act, r.subject) for r in results if r.outcome == "held"}
    not_paged = {r.subject for r in results if r.act == "page" and r.outcome != "done"}
    pages = [p for p in decision.remediations if isinstance(p, Page) and p.subject in not_paged]
    return unlearn(decision.memory, held, [(page.subject, page.cause) for page in pages])


def _untimed(_: TickPhase) -> nullcontext[None]:
    return nullcontext()


def _named(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"
