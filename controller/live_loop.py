"""Which loop ticks now, with which parts, and how is it replaced without a tick seeing half of each?"""

from __future__ import annotations

import threading
from dataclasses import dataclass, replace

import structlog

from controller.adapters.sql_audit import SqlAudit
from controller.approvals import Proposal
from controller.bootstrap import Consent, World, WorldOf, approvals_of, control_loop
from controller.champion import Champion, chain_of
from controller.checkpoint import Resumption, resume
from controller.cluster_figures import ClusterFigures
from controller.errors import ForesailError
from controller.loop import ControlLoop
from controller.ports import Clock
from controller.settings import Settings
from controller.shards import own_memory
from controller.telemetry import Telemetry
from controller.ticker import Stopwatch, Ticker
from controller.turn import Turn
from controller.write_gate import WriteGate
from forecasting.forecaster import FallbackForecaster, Forecaster
from forecasting.series import LoadSeries
from policies.decisions import Page
from policies.memory import PolicyMemory
from policies.unseen import blind_page, still_blind

FLUSH_WITHIN_S = 2.0


@dataclass(frozen=True, slots=True)
class Warrant:
    """By whose leave does this process tick and write?

    Attributes:
        turn: Whose turn it is to tick; without it no other process ever acts instead of this one.
        gate: What writes to the world ask; it is told of the kill switch of the settings in use.
    """

    turn: Turn | None = None
    gate: WriteGate | None = None


class LiveLoop:
    """The loop of a running daemon. Changes are made by chores, and take effect between two ticks.

    Attributes:
        settings: Those in use.
        champion: Watches for the model that forecasts.
        ticker: Runs the ticks.
        pace: Seconds of the fleet's clock per second of the machine.
    """

    def __init__(
        self,
        settings: Settings,
        world: WorldOf,
        audit: SqlAudit,
        telemetry: Telemetry,
        clock: Clock,
        stopwatch: Stopwatch,
        pace: float = 1.0,
        warrant: Warrant | None = None,
    ) -> None:
        """Take ``settings``, and all that they name; what follows from others is taken by ``replace``."""
        self._turn = warrant.turn if warrant else None
        self._gate = (warrant.gate if warrant else None) or WriteGate(settings.daemon.kill_switch)
        self.settings, self.pace = settings, pace
        self._world_of, self._audit, self._telemetry, self._clock = world, audit, telemetry, clock
        self._approvals = approvals_of(settings, clock)
        self._world, self._model = world(settings), None
        self._world.enter()
        self._coming: list[World] = []
        self.champion = _champion(settings)
        self.ticker = Ticker(self._begin, telemetry, stopwatch, self._not_yet)
        self._waited = PolicyMemory()
        telemetry.configure(settings.daemon.telemetry, settings.policy, settings.modes)

    _model: Forecaster | None

    @property
    def now(self) -> float:
        """Instant of the fleet's clock."""
        return self._clock.now()

    @property
    def tick_s(self) -> float:
        """Seconds of the machine between two ticks."""
        return self.settings.policy.tick_s / self.pace

    def figures(self) -> ClusterFigures:
        """Return how the platform's watches do; to be called from any thread."""
        return self._world.figures()

    @property
    def standby(self) -> bool:
        """Whether another process ticks, as far as is known."""
        return self._turn is not None and self._turn.standby

    @property
    def waiting(self) -> tuple[Proposal, ...]:
        """What waits for an approval, as of the newest tick."""
        return self._approvals.pending if self._approvals is not None else ()

    def replace(self, settings: Settings) -> None:
        """Go on with ``settings`` from the next tick on, with the memory and the load history of the present loop.

        Their kill switch holds at once, also for an act that is under way. What fails later on, between the ticks,
        leaves all as it is now.

        Raises:
            BadInput: If the world or the approvers that they name cannot be used; then nothing changes.
        """
        approvals = approvals_of(settings, self._clock)
        world = self._world_of(settings)
        self._coming.append(world)
        self._gate.heed(settings.daemon.kill_switch)
        asked = settings.registry, settings.daemon.model_name, settings.forecast.step_s
        used = self.settings.registry, self.settings.daemon.model_name, self.settings.forecast.step_s

        def change() -> None:
            self._coming.remove(world)
            old, parts = self._world, (self.settings, self._world, self._approvals, self._model, self.champion)
            try:
                self.settings, self._world, self._approvals = settings, world, approvals
                if asked != used:
                    self._model, self.champion = None, _champion(settings)
                if self.ticker.loop is not None:
                    self.ticker.loop = self._successor(self.ticker.loop)
            except BaseException:
                self.settings, self._world, self._approvals, self._model, self.champion = parts
                self._gate.heed(self.settings.daemon.kill_switch)
                world.close()
                raise
            self._gate.heed(settings.daemon.kill_switch)
            world.enter()
            self._telemetry.configure(settings.daemon.telemetry, settings.policy, settings.modes)
            old.close()

        self.ticker.at_next_tick(change)

    def use_champion(self) -> None:
        """Let the champion forecast that there is at the next tick, or the plain forecaster alone without one.

        Who that is, is looked up then: of two chores that found another one, neither undoes what the other did.
        """

        def change() -> None:
            self._model = model = self.champion.seats.model
            if self.ticker.loop is not None:
                self.ticker.loop.forecasts.ask(self._chain(model))

        self.ticker.at_next_tick(change)

    def loads(self, first: int, most: int, within_s: float) -> tuple[int, dict[str, tuple[LoadSeries, int]]]:
        """Return how many models there are, and for ``most`` of them from ``first`` on what forecasters see.

        That is taken between two ticks; nothing where the next one does not begin ``within_s``.
        """
        taken: list[tuple[int, dict[str, tuple[LoadSeries, int]]]] = []
        there = threading.Event()

        def take() -> None:
            if self.ticker.loop is not None:
                loads = self.ticker.loop.forecasts
                taken.append((len(loads.models), loads.asked(loads.models[first : first + most])))
            there.set()

        self.ticker.at_next_tick(take)
        there.wait(within_s)
        return taken[0] if taken else (0, {})

    def fill_history(self) -> bool:
        """Read the load recorded before the daemon began, for the next tick; return whether there was any.

        Raises:
            ObservationError: If it cannot be read now.
        """
        before = self._world.history(self._clock.now())

        def change() -> None:
            if self.ticker.loop is not None:
                self.ticker.loop.forecasts.recall(before)

        self.ticker.at_next_tick(change)
        return bool(before)

    def page(self, page: Page) -> None:
        """Tell a human, unless nothing but looking is asked for, or another process acts."""
        if self.settings.modes.tells(page.subject) and not self._not_ours():
            self._world.notifier.page(page, self.now)

    def forbid_writes(self) -> None:
        """Write nothing more to the world, whatever is decided, and whatever act is under way."""
        self._gate.shut()

    def flush(self) -> None:
        """Send what is still to be told of ticks, within a bound: by who still leads, once no tick is to follow."""
        self._world.flush(FLUSH_WITHIN_S)

    def close(self) -> None:
        """Give up the connections to the world, and to those that were to come."""
        for world in (self._world, *self._coming):
            world.close()

    def _successor(self, old: ControlLoop) -> ControlLoop:
        """Return the loop for the settings of now; with another tick the history has another step and is read anew."""
        recorded = {m: s for m, s in old.forecasts.recorded().items() if s.step_s == self.settings.policy.tick_s}
        loop = control_loop(
            self.settings,
            self._world,
            self._audit,
            self._clock,
            self._consent(),
            self._chain(self._model),
            recorded,
        )
        loop.follow(old)
        return loop

    def _begin(self) -> ControlLoop:
        """Return a loop that goes on where the last controller stopped; until there is one, nothing is seen either."""
        try:
            found = self._resumed()
        except ForesailError as error:
            self._waited = still_blind(self._waited, self.now)
            page = blind_page(self._waited, self.now, str(error), self.settings.policy.healing.blind_page_after_s)
            if page is not None:
                self.page(page)
                self._waited = replace(self._waited, blind_told=True)
            raise
        _tell(found)
        known = own_memory(found.memory, self.settings.daemon.shard)
        memory = replace(known, blind_since_at=self._waited.blind_since_at, blind_told=self._waited.blind_told)
        chain = self._chain(self._model)
        return control_loop(self.settings, self._world, self._audit, self._clock, self._consent(), chain, memory=memory)

    def _resumed(self) -> Resumption:
        """Return where to go on from.

        A request of who led before was sent before its lease ran out, so some of the grace has passed by now.
        """
        passed_s = self._turn.gap_s if self._turn is not None else 0.0
        return resume(
            self._audit,
            self._world.cluster,
            self._world.router,
            self.settings.modes,
            self._clock.now,
            lambda wait_s: self._gate.wait_shut(wait_s / self.pace),
            max(0.0, self.settings.daemon.resume_grace_s - passed_s),
        )

    def _chain(self, model: Forecaster | None) -> FallbackForecaster:
        return chain_of(model, self.settings.forecast.company)

    def _consent(self) -> Consent:
        return Consent(lambda: self._gate.stopped() or self._not_ours(), self._approvals)

    def _not_ours(self) -> str:
        return self._turn.fence() if self._turn is not None else ""

    def _not_yet(self) -> str:
        return self._turn.why_not() if self._turn is not None else ""


def _champion(settings: Settings) -> Champion:
    return Champion(settings.registry, settings.daemon.model_name, settings.forecast.step_s)


def _tell(found: Resumption) -> None:
    """Log where the last controller stopped, and what it left open."""
    log = structlog.get_logger("foresail.resume")
    if found.refused:
        log.error("memory is lost; beginning from nothing", why=found.refused)
    event = "resumed" if found.entry_id else "began from nothing: no decision is on record"
    log.info(event, row=found.entry_id, generation=found.memory.generation)
    for result in found.found_out:
        log.warning(
            "an act had no outcome on record",
            act=result.act,
            subject=result.subject,
            outcome=result.outcome,
            found=result.detail,
            repeat_key=f"{found.entry_id} {result}",
        )
    for page in found.unsure_pages:
        log.error(
            "a page may not have been delivered",
            subject=page.subject,
            cause=page.cause,
            message=page.message,
            repeat_key=f"{found.entry_id} {page}",
        )
