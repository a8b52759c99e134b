"""A simulated fleet under a controller that can be killed at any point of a tick, and is started again from its log.

A life can be copied at any tick, so that every kill goes on from the very same world.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeAlias

from controller.actuation import Actuator
from controller.adapters.sql_audit import SqlAudit
from controller.checkpoint import resume
from controller.errors import ActuationError
from controller.forecasts import ForecastSettings, Horizon, LoadForecasts
from controller.loop import ControlLoop
from controller.modes import ModeSettings
from controller.ports import ActsRecord, AuditLog, FleetMetrics, Sources, TickRecord
from forecasting.forecaster import FallbackForecaster
from policies.decide import Foresail
from policies.decisions import Page
from policies.fleet import NodeState, PoolKey, PoolState
from policies.healing_memory import RunMemory
from policies.memory import PolicyMemory
from policies.settings import PolicySettings
from simulations.fleet import SimulatedFleet
from simulations.invariants import InvariantChecks

GRACE_S = 5.0
"""How long a controller that is started again waits for what the dead one may have sent."""

MODES = ModeSettings.all_auto()

Point: TypeAlias = Literal["unrecorded", "before act", "on its way", "unsettled", "over"]
"""Where in a tick the controller is killed.

unrecorded  before the decision is on record
before act  before the n-th act, all before it done; before the first, only the intent is on record
on its way  the n-th act has been sent and takes effect while the next controller looks
unsettled   all acts are done, and their outcome is not on record
over        the tick is over
"""


class Killed(BaseException):
    """The controller is gone in the middle of what it did."""


@dataclass(frozen=True)
class Kill:
    """Where a controller is killed, and for how many ticks nobody controls anything."""

    tick: int
    point: Point
    act: int = 0
    pause: int = 0

    def __str__(self) -> str:
        act = f" {self.act}" if self.point in ("before act", "on its way") else ""
        return f"tick {self.tick}, {self.point}{act}, then {self.pause} ticks without a controller"


@dataclass(frozen=True)
class Deed:
    """A write that reached the world."""

    at_s: float
    verb: str
    subject: str
    truth: str = ""
    """What was wrong in truth with the replica that it was done to."""


@dataclass(frozen=True)
class Trouble:
    """What is wrong with the platform, beside faults of the fleet, from one second to another.

    ``verbs`` are refused; the gateway tells nothing of ``hidden``, fields of ``FleetMetrics``.
    """

    from_s: float
    until_s: float
    verbs: tuple[str, ...] = ()
    hidden: tuple[str, ...] = ()


@dataclass
class Shore:
    """All that is outside of the controller: fleet and pager, and a thread of life that can be cut at any write."""

    fleet: SimulatedFleet
    troubles: Sequence[Trouble] = ()
    deeds: list[Deed] = field(default_factory=list)
    kill: Kill | None = None
    dead: bool = False
    writes: int = 0
    on_its_way: Callable[[], None] | None = None

    def now(self) -> float:
        return self.fleet.clock.now()

    @property
    def elapsed_s(self) -> float:
        return self.now() - self.fleet._epoch_at

    def read(self, at: float) -> FleetMetrics:
        found = self.fleet.metrics.read(at)
        hidden: dict[str, Any] = {name: {} for trouble in self._troubles() for name in trouble.hidden}
        return replace(found, **hidden)

    def _troubles(self) -> Iterator[Trouble]:
        return (t for t in self.troubles if t.from_s <= self.elapsed_s < t.until_s)

    # Cluster, router and notifier

    def pools(self) -> tuple[PoolState, ...]:
        return self.fleet.cluster.pools()

    def nodes(self) -> Mapping[str, NodeState]:
        return self.fleet.cluster.nodes()

    def weights(self, model: str) -> Mapping[PoolKey, float]:
        return self.fleet.router.weights(model)

    def scale(self, pool: PoolKey, replicas: int, version: int, retire_first: tuple[str, ...] = ()) -> None:
        self._write("scale", str(pool), lambda: self.fleet.cluster.scale(pool, replicas, version, retire_first))

    def cordon(self, pool: PoolKey, replica: str) -> None:
        self._write("cordon", replica, lambda: self.fleet.cluster.cordon(pool, replica))

    def uncordon(self, pool: PoolKey, replica: str) -> None:
        self._write("uncordon", replica, lambda: self.fleet.cluster.uncordon(pool, replica))

    def restart(self, pool: PoolKey, replica: str) -> None:
        self._write("restart", replica, lambda: self.fleet.cluster.restart(pool, replica))

    def roll_back(self, pool: PoolKey, revision: str) -> None:
        self._write("roll back", str(pool), lambda: self.fleet.cluster.roll_back(pool, revision))

    def pause(self, pool: PoolKey) -> None:
        self._write("pause", str(pool), lambda: self.fleet.cluster.pause(pool))

    def resume(self, pool: PoolKey) -> None:
        self._write("resume", str(pool), lambda: self.fleet.cluster.resume(pool))

    def avoid(self, node: str) -> None:
        self._write("avoid", node, lambda: self.fleet.cluster.avoid(node))

    def stop_avoiding(self, node: str) -> None:
        self._write("stop avoiding", node, lambda: self.fleet.cluster.stop_avoiding(node))

    def set_weights(self, model: str, weights: Mapping[PoolKey, float]) -> None:
        self._write("weights", model, lambda: self.fleet.router.set_weights(model, weights))

    def page(self, page: Page, at: float) -> None:
        self._write("page", f"{page.subject} {page.cause}", lambda: None)

    def recommend(self, subject: str, what: str, at: float) -> None:
        raise AssertionError("everything is done here, and nothing only recommended")

    def _write(self, verb: str, subject: str, effect: Callable[[], None]) -> None:
        if self.dead:
            raise Killed
        kill, number = self.kill, self.writes
        self.writes += 1
        if kill is not None and kill.act == number and kill.point in ("before act", "on its way"):
            self.dead = True
            if kill.point == "on its way":
                self.on_its_way = lambda: self._do(verb, subject, effect)
            raise Killed
        self._do(verb, subject, effect)

    def _do(self, verb: str, subject: str, effect: Callable[[], None]) -> None:
        if any(verb in trouble.verbs for trouble in self._troubles()):
            raise ActuationError(f"{verb} is refused", subject)
        truth = next((r.ailment for r in self.fleet.replicas if r.id == subject), "")
        effect()
        self.deeds.append(Deed(self.elapsed_s, verb, subject, truth))


@dataclass
class Log:
    """The real audit log, until the controller dies."""

    audit: SqlAudit
    shore: Shore

    def append(self, record: TickRecord) -> str:
        self._die_at("unrecorded")
        return self.audit.append(record)

    def settle(self, outcome: ActsRecord) -> None:
        self._die_at("unsettled")
        self.audit.settle(outcome)

    def _die_at(self, point: Point) -> None:
        shore = self.shore
        shore.dead |= shore.kill is not None and shore.kill.point == point
        if shore.dead:
            raise Killed


class NoLog:
    """Of what comes after the resumption nothing is asked any more, and writing it is what takes longest."""

    def append(self, record: TickRecord) -> str:
        return "none"

    def settle(self, outcome: ActsRecord) -> None:
        """Keep nothing of it."""


Brief: TypeAlias = tuple[object, ...]


class Life:
    """A fleet with its controller."""

    def __init__(self, shore: Shore, settings: PolicySettings, audit: SqlAudit) -> None:
        self.shore, self.settings, self.audit = shore, settings, audit
        self.checks = InvariantChecks(settings, 0, all_rules=True)
        self.tick_number = 0
        self.loop = self._controller(Log(audit, shore), None, None)

    def _controller(self, log: AuditLog, memory: PolicyMemory | None, before: LoadForecasts | None) -> ControlLoop:
        tick_s = self.settings.tick_s
        return ControlLoop(
            Sources(self.shore, self.shore, self.shore, self.shore),
            log,
            Actuator(self.shore, self.shore, self.shore, self.shore, MODES, killed=lambda: False),
            LoadForecasts(
                FallbackForecaster(()),
                tick_s,
                ForecastSettings(step_s=4 * tick_s),
                None if before is None else before.recorded(),
            ),
            Horizon(self.settings.lead_time, tick_s),
            Foresail(self.settings),
            memory,
        )

    def copied(self) -> Life:
        """Return the same life once more; both go on alike, and log to the same place."""
        kept = (self.audit, self.settings, *self.settings.healing.all_playbooks.values())
        twin = copy.deepcopy(self, {id(each): each for each in kept})
        kernel = twin.shore.fleet._kernel
        kernel.world = kernel.state.world[0]  # a view of an array, of which the copy has another
        return twin

    def tick(self) -> TickRecord:
        """Tick, and let the time to the next one pass."""
        record = self.loop.tick()
        self.checks.check(record)
        self.pass_tick()
        return record

    def pass_tick(self) -> None:
        """Let the time to the next tick pass."""
        self.tick_number += 1
        self.shore.fleet.advance(self.shore.fleet._epoch_at + self.tick_number * self.settings.tick_s)

    def be_killed(self, kill: Kill) -> None:
        """Die in the tick that comes now, let the pause pass, and be started again from the log."""
        shore = self.shore
        shore.kill, shore.writes = kill, 0
        if kill.point == "over":
            self.checks.check(self.loop.tick())
        else:
            try:
                self.loop.tick()
            except Killed:
                pass
            else:
                raise AssertionError(f"it lives on: {kill}")
        for _ in range(kill.pause):
            self._arrive()
            self.pass_tick()
        shore.kill, shore.dead, shore.writes = None, False, 0
        found = resume(self.audit, shore, shore, MODES, shore.now, self._wait, GRACE_S)
        assert not found.refused
        self._arrive()
        self.loop = self._controller(NoLog(), found.memory, self.loop.forecasts)
        self.pass_tick()

    def _wait(self, seconds: float) -> None:
        self._arrive()
        self.shore.fleet.advance(self.shore.now() + seconds)

    def _arrive(self) -> None:
        """Let what the dead controller had sent take effect; nobody hears whether it is refused."""
        late, self.shore.on_its_way = self.shore.on_its_way, None
        if late is not None:
            with suppress(ActuationError):
                late()


def runs_of(life: Life) -> Sequence[RunMemory]:
    """Return the playbooks that run or are over, without those that only wait to be forgotten.

    A pool that shrinks in the very tick in which a replica gets its traffic back may retire just that one. Whether that
    happens is a matter of when: a kill that puts the one off to the tick of the other brings it about. What is left of
    its playbook asks for nothing, and is kept for ``keep_vanished_s``, longer than the quiet at the end of a scenario,
    in case that the platform's answer was not complete.
    """
    there = _there(life)
    last = {deed.subject: deed.verb for deed in life.shore.deeds}
    return [
        run
        for name, run in life.loop.memory.runs.items()
        if not (run.subject and name not in there and last.get(run.subject) == "uncordon")
    ]


def _there(life: Life) -> set[str]:
    return {pool.key.replica(r.id) for pool in life.shore.pools() for r in pool.replicas}


def state_of(life: Life) -> Brief:
    """Return what is to be the same in the end, whatever the names of replicas that were made since."""
    shore, memory = life.shore, life.loop.memory
    pools = tuple(
        (
            str(pool.key),
            pool.desired,
            pool.revision,
            pool.paused,
            round(shore.weights(pool.key.model)[pool.key], 3),
            tuple(sorted(Counter((r.phase.value, r.cordoned, r.revision) for r in pool.replicas).items())),
        )
        for pool in shore.pools()
    )
    there = _there(life)
    avoided = tuple(sorted(name for name, node in shore.nodes().items() if node.avoided))
    books = (
        tuple(sorted((run.playbook, run.state) for run in runs_of(life))),
        sum(act.open for act in memory.actions),
        tuple(sorted(Counter(memory.cordons[name].cause for name in memory.cordons if name in there).items())),
    )
    ill = tuple(sorted(Counter(r.ailment for r in shore.fleet.replicas).items()))
    return (pools, avoided, books, ill)
