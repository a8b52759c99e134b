"""What does a policy make of a trace: the daemon's own control loop, on a virtual clock, against a simulated fleet.

    prepare           load test, first replicas, faults: the same for every policy (``case.py``)
    until the last arrival, tick by tick:
        loop.tick()   observe, forecast, decide, act, record (``controller.loop``: the object that the daemon runs)
        check, tally  invariants, acts, replica counts
        advance       requests arrive, engines step, replicas start, drain, crash (``fleet.py``)
    bill              GPU hours up to the end of the trace
    finish            requests that are still being served end; nobody decides or pays any more
    score             what every request got (``scorecard.py``)

A rival runs in the same loop: it is another ``policies.decisions.Policy``, and nothing else differs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from controller.actuation import Actuator
from controller.errors import AuditError, BadInput
from controller.forecasts import Horizon, LoadForecasts
from controller.loop import ControlLoop
from controller.modes import ModeSettings
from controller.ports import ActsRecord, AuditLog, Sources, TickRecord
from forecasting.forecaster import FallbackForecaster, Forecaster
from forecasting.series import LoadSeries
from policies.decide import Foresail
from policies.decisions import Page, Policy
from policies.fleet import PoolKey
from simulations.case import Case, SimulationSettings, prepare
from simulations.faults import parse_fault
from simulations.fleet import SimulatedFleet
from simulations.invariants import InvariantChecks
from simulations.peers.clairvoyant import Clairvoyant, plan_ahead
from simulations.peers.hpa import Hpa
from simulations.peers.static import Static
from simulations.recovery import with_recovery
from simulations.scorecard import Bill, Curves, Scorecard, Tally, TimelinePoint, curves, score
from simulations.sizing import covering, replicas_for
from simulations.trace import Trace

POLICIES = ("foresail", "hpa", "static", "clairvoyant")


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
    timeline: tuple[TimelinePoint, ...]
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
        trace: What arrives. The run begins at its second 0 and ends at the first tick after its last request.
        policy_name: One of ``POLICIES``.
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
) -> SimulationResult:
    """Do what ``simulate`` does, once the case is prepared."""
    policy, first = policy_of(policy_name, case)
    foresail = policy_name == "foresail"
    tick_s = case.policy.tick_s
    fleet = case.fleet(first, keep_rows=keep_rows)
    loads = _load_forecasts(case, forecasters if foresail else ())
    loop = _control_loop(case, policy, fleet, loads, _NoAudit() if audit is None else audit)
    tally, checks = Tally(), InvariantChecks(case.policy, case.settings.seed, all_rules=foresail)
    start_at = fleet.clock.now()

    while not fleet.arrivals_over:
        record = loop.tick()
        if record.unrecorded:
            raise AuditError(record.unrecorded)
        elapsed_s = fleet.clock.now() - start_at
        tally.add(record, elapsed_s)
        checks.check(record)
        if on_tick is not None:
            on_tick(Tick(case.share_behind(elapsed_s), record, fleet))
        fleet.advance(fleet.clock.now() + tick_s)

    simulated_s = fleet.clock.now() - start_at
    bill = Bill(fleet.gpu_seconds(), fleet.replica_seconds, fleet.cost_usd)
    fleet.finish()
    card = score(policy_name, fleet.tallies, bill, tally, simulated_s, checks.violations)
    drawn = curves(fleet.tallies, simulated_s)
    faults_at_s = [parse_fault(spec).at_s for spec in case.settings.faults]
    card = with_recovery(card, drawn, case.policy.objective.attainment_ratio, faults_at_s)
    return SimulationResult(card, tuple(tally.timeline), drawn, case, fleet)


def policy_of(name: str, case: Case) -> tuple[Policy, Mapping[PoolKey, int]]:
    """Return the policy of that name, with the replicas that its run begins with.

    Raises:
        BadInput: If there is no such policy.
    """
    settings, objective = case.settings, case.policy.objective
    match name:
        case "foresail":
            return Foresail(case.policy), case.first
        case "hpa":
            targets = {str(pool.key): pool.concurrency * settings.hpa.target_ratio for pool in case.pools}
            return Hpa(case.policy.pools, targets, settings.hpa), case.first
        case "static":
            fixed = settings.static
            needed = replicas_for(case.load, fixed.peak_window_s, fixed.utilisation_ratio, objective, case.pools)
            return Static(covering(needed)), covering(needed)
        case "clairvoyant":
            known = settings.clairvoyant
            needed = replicas_for(case.load, known.smoothing_s, known.utilisation_ratio, objective, case.pools)
            ahead_s = settings.lead_time_s * known.lead_time_ratio + case.policy.tick_s
            start_at, step_s = settings.fleet.epoch_at, case.load.step_s
            plans = {key: plan_ahead(need, start_at, step_s, ahead_s) for key, need in needed.items()}
            return Clairvoyant(plans), case.first
    raise BadInput(f"no policy is called {name!r}", "policy", f"known: {', '.join(POLICIES)}")


def _control_loop(
    case: Case, policy: Policy, fleet: SimulatedFleet, loads: LoadForecasts, audit: AuditLog
) -> ControlLoop:
    """Wire the loop as the daemon does, with everything allowed to act."""
    actuator = Actuator(
        fleet.clock, fleet.cluster, fleet.router, _Pager(), ModeSettings.all_auto(), killed=lambda: False
    )
    return ControlLoop(
        Sources(fleet.clock, fleet.metrics, fleet.cluster, fleet.router),
        audit,
        actuator,
        loads,
        Horizon(case.policy.lead_time, case.policy.tick_s),
        policy,
    )


def _load_forecasts(case: Case, forecasters: Sequence[Forecaster]) -> LoadForecasts:
    before = {} if case.before is None else {case.model: case.before}
    chain = FallbackForecaster(tuple(forecasters))
    return LoadForecasts(chain, case.policy.tick_s, case.settings.forecast, before)


class _Pager:
    def page(self, page: Page, at: float) -> None:
        """Wake nobody: the page stays in the record of its tick."""

    def recommend(self, subject: str, what: str, at: float) -> None:
        """Tell nobody: everything is done by itself."""


class _NoAudit:
    """Keeps nothing, and lets everything be done."""

    def append(self, record: TickRecord) -> str:
        return "none"

    def settle(self, outcome: ActsRecord) -> None:
        """Keep nothing of it."""
