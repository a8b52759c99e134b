"""What does a policy make of a trace: the daemon's own control loop, on a virtual clock, against a simulated fleet.

    prepare           load test, first replicas, faults: the same for every policy (``case.py``)
    until the last arrival, tick by tick, in the policy's own rhythm:
        loop.tick()   observe, forecast, decide, act, record (``controller.loop``: the object that the daemon runs)
        check, tally  invariants, acts, replica counts
        advance       requests arrive, engines step, replicas start, drain, crash (``fleet.py``)
    bill              GPU hours up to the end of the trace
    finish            requests that are still being served end; nobody decides or pays any more
    score             what every request got (``scorecard.py``)

A rival runs in the same loop: it is another ``policies.decisions.Policy``. Its tick and the freshness of its metrics
are its own (``peers/rhythm.py``), and it sees the load as it was scraped.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from controller.actuation import Actuator
from controller.errors import AuditError
from controller.forecasts import Horizon, LoadForecasts
from controller.loop import ControlLoop
from controller.ports import ActsRecord, AuditLog, Sources, TickRecord
from forecasting.forecaster import FallbackForecaster, Forecaster
from forecasting.series import LoadSeries
from policies.decisions import Page, Policy
from simulations.case import Case, SimulationSettings, prepare
from simulations.fault_syntax import parse_fault
from simulations.fleet import SimulatedFleet
from simulations.invariants import InvariantChecks
from simulations.peers.catalogue import Started, policy_of, rhythm_of
from simulations.peers.raw_demand import RawDemand
from simulations.recovery import with_recovery
from simulations.scorecard import Bill, Curves, Scorecard, Tally, curves, score
from simulations.timeline import Timeline
from simulations.trace import Trace


@dataclass(frozen=True, slots=True, eq=False)
class Tick:
    """One tick, for whoever watches: ``share`` of the trace is behind it."""

    share: float
    record: TickRecord
    fleet: SimulatedFleet


@dataclass(frozen=True, slots=True, eq=False)
class SimulationResult:
    """A finished run; ``fleet`` stands as the run left it; with ``keep_rows``, its outcomes have every request."""

    scorecard: Scorecard
    timeline: Timeline
    curves: Curves
    case: Case
    fleet: SimulatedFleet


def simulate(
    trace: Trace,
    policy_name: str,
    settings: SimulationSettings,
    forecasters: Sequence[Forecaster] = (),
    before: LoadSeries | None = None,
    audit: AuditLog | None = None,
    on_tick: Callable[[Tick], None] | None = None,
    *,
    keep_rows: bool = False,
) -> SimulationResult:
    """Replay ``trace`` under a policy.

    Args:
        trace: What arrives. The run begins at its second 0 and ends at the first of Foresail's ticks after its last
            request, whatever the policy's own rhythm.
        policy_name: One of ``simulations.peers.catalogue.POLICIES``.
        settings: Everything else that decides the outcome.
        forecasters: In order of preference; without any, Foresail is reactive only. Rivals never ask them.
        before: Load recorded before the trace began, in steps of a tick, as the daemon would read it at its start.
        audit: Where the records of all ticks go; nowhere when None.
        on_tick: Called after each tick.
        keep_rows: Whether the fleet keeps a row for every request; memory then grows with the trace.

    Raises:
        BadInput: If the trace or the settings cannot be used.
        AuditError: If a tick cannot be recorded: the loop would do nothing from there on.
    """
    return replay(prepare(trace, settings, before), policy_name, forecasters, audit, on_tick, keep_rows=keep_rows)


def replay(
    case: Case,
    policy_name: str,
    forecasters: Sequence[Forecaster] = (),
    audit: AuditLog | None = None,
    on_tick: Callable[[Tick], None] | None = None,
    *,
    keep_rows: bool = False,
    started: Started | None = None,
) -> SimulationResult:
    """Do what ``simulate`` does, once the case is prepared.

    ``started`` is who decides, and the first replicas, where that is not what the catalogue has under the name.
    """
    policy, first = started or policy_of(policy_name, case)
    foresail = policy_name == "foresail"
    rhythm = rhythm_of(policy_name, case.settings)
    fleet = case.fleet(first, rhythm.seen_in(case.settings.fleet), keep_rows=keep_rows)
    loads = _load_forecasts(case, forecasters) if foresail else RawDemand(case.settings.forecast)
    loop = _control_loop(case, policy, fleet, loads, _NoAudit() if audit is None else audit, foresail=foresail)
    tally = Tally(case.policy.tick_s)
    checks = InvariantChecks(case.policy, case.settings.seed, all_rules=foresail, modes=case.settings.modes)
    start_at = fleet.clock.now()

    for tick_due in _instants(fleet, rhythm.tick_s, case.policy.tick_s):
        if not tick_due:
            continue
        record = loop.tick()
        if record.unrecorded:
            raise AuditError(record.unrecorded)
        elapsed_s = fleet.clock.now() - start_at
        tally.add(record, elapsed_s)
        checks.check(record)
        if on_tick is not None:
            on_tick(Tick(case.share_behind(elapsed_s), record, fleet))

    simulated_s = fleet.clock.now() - start_at
    bill = Bill(fleet.gpu_seconds(), fleet.replica_seconds, fleet.cost_usd)
    fleet.finish()
    card = score(policy_name, fleet.tallies, bill, tally, simulated_s, checks.violations)
    drawn = curves(fleet.tallies, simulated_s)
    faults_at_s = [parse_fault(spec).at_s for spec in case.settings.faults]
    card = with_recovery(card, drawn, case.policy.objective.attainment_ratio, faults_at_s)
    return SimulationResult(card, Timeline(tally.timeline), drawn, case, fleet)


def _instants(fleet: SimulatedFleet, tick_s: float, step_s: float) -> Iterator[bool]:
    """Advance ``fleet`` from instant to instant until the last request has come; yield whether a tick is due at it.

    The end is looked for every ``step_s``, whatever the rhythm of the ticks: all policies are billed for the same time.
    """
    start_at = fleet.clock.now()
    ticks = steps = 0
    while True:
        due = fleet.clock.now() >= start_at + ticks * tick_s
        if fleet.clock.now() >= start_at + steps * step_s:
            if fleet.arrivals_over:
                return
            steps += 1
        ticks += due
        yield due
        fleet.advance(start_at + min(ticks * tick_s, steps * step_s))


def _control_loop(
    case: Case, policy: Policy, fleet: SimulatedFleet, loads: LoadForecasts, audit: AuditLog, *, foresail: bool
) -> ControlLoop:
    """Wire the loop as the daemon does, with everything allowed to act unless the run is to be a dry run.

    No rival tells anybody that nothing can be observed.
    """
    modes = case.settings.modes
    actuator = Actuator(
        fleet.clock, fleet.cluster, fleet.router, _Pager(), modes, killed=lambda: False, canaries=fleet.canaries
    )
    return ControlLoop(
        Sources(fleet.clock, fleet.metrics, fleet.cluster, fleet.router, fleet.canaries),
        audit,
        actuator,
        loads,
        Horizon(case.policy.lead_time, case.policy.tick_s),
        policy,
        blind_page_after_s=case.policy.healing.blind_page_after_s if foresail else math.inf,
    )


def _load_forecasts(case: Case, forecasters: Sequence[Forecaster]) -> LoadForecasts:
    before = {} if case.before is None else {case.model: case.before}
    chain = FallbackForecaster(tuple(forecasters))
    return LoadForecasts(chain, case.policy.tick_s, case.settings.forecast, before)


class _Pager:
    def page(self, page: Page, at: float) -> None:
        """Wake nobody: the page stays in the record of its tick."""

    def recommend(self, subject: str, what: str, at: float) -> None:
        """Tell nobody: what would be done is in the record of its tick."""


class _NoAudit:
    """Keeps nothing, and lets everything be done."""

    def append(self, record: TickRecord) -> str:
        return "none"

    def settle(self, outcome: ActsRecord) -> None:
        """Keep nothing of it."""
