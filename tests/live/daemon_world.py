"""A world for a real daemon: the simulator's fleet in a process of its own, on a clock faster than the wall's.

The world goes on while daemons come, are killed and come again. It writes down every write and page that reaches it,
and it can be slow to do and slow to answer, so that a kill at a random instant often falls between the two.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.managers import BaseManager
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np

from controller.adapters.kube.settings import KubernetesSettings
from controller.bootstrap import World
from controller.errors import ActuationError, ObservationError
from controller.ports import FleetMetrics
from controller.settings import Settings
from forecasting.series import LoadSeries
from policies.decisions import Page
from policies.fleet import NodeState, PoolKey, PoolState
from policies.slo import ServiceObjective
from simulations.faults import Fault
from simulations.fleet import SimulatedFleet
from simulations.pool import PoolSpec
from simulations.settings import FleetSettings
from tests.builders_simulation import SMALL, RateTrace

PACE = 60.0
EPOCH_AT = 1_800_000_000.0
MODEL = "small"
KEY = PoolKey(MODEL, "l40s")
FORKS = get_context("forkserver")
FORKS.set_forkserver_preload(
    ["controller.daemon", "forecasting.last_value", "simulations.fleet", "tests.live.daemon_world"]
)


class FastClock:
    """The wall clock, ``pace`` times as fast since ``started_at``: the same in every process that is told both."""

    def __init__(self, started_at: float, pace: float = PACE) -> None:
        self._started_at, self._pace = started_at, pace

    def now(self) -> float:
        return EPOCH_AT + (time.time() - self._started_at) * self._pace


@dataclass(frozen=True)
class Write:
    """One write that reached the world. ``before`` is the life of the replica, or the version of the pool."""

    act: str
    subject: str
    wanted: object
    before: object
    done: bool


class RecordingWorld:
    """The simulated fleet behind a lock; each verb takes effect at the instant of the clock."""

    def __init__(self, started_at: float, rates: list[float], seed: int, slow_s: float) -> None:
        self._clock, self._lock = FastClock(started_at), threading.Lock()
        self._rng, self._slow_s = np.random.default_rng(seed), slow_s
        self.down, self._looks = False, 0
        self._gate, self._open, self._held = "", threading.Event(), 0
        self.writes: list[Write] = []
        self.pages: list[Page] = []
        settings = FleetSettings(epoch_at=EPOCH_AT)
        spec = PoolSpec(KEY, SMALL, replicas=2, lead_time_s=60.0, revisions=("1",))
        objective = ServiceObjective(ttft_s=2.0, tpot_s=0.1)
        self._fleet = SimulatedFleet([spec], RateTrace(rates).batches(), objective, settings, seed)

    def pools(self) -> tuple[PoolState, ...]:
        with self._now() as fleet:
            self._looks += 1
            return fleet.cluster.pools()

    def looks(self) -> int:
        """Return how often the pools were looked at."""
        return self._looks

    def read(self, at: float) -> FleetMetrics:
        with self._now() as fleet:
            return fleet.metrics.read(min(at, fleet.clock.now()))

    def weights(self, model: str) -> Mapping[PoolKey, float]:
        with self._now() as fleet:
            return fleet.router.weights(model)

    def write(self, act: str, pool: PoolKey, *arguments: Any) -> None:
        """Do it, late, and answer later still."""
        self._pass("before")
        try:
            with self._now() as fleet:
                known = {p.key: p for p in fleet.cluster.pools()}[pool]
                lives = {r.id: (r.life, r.requested_at) for r in known.replicas}
                scaling = act == "scale"
                subject = str(pool) if scaling else pool.replica(arguments[0])
                before = known.version if scaling else lives.get(arguments[0])
                wanted = arguments[0] if scaling else None
                changes = not scaling or arguments[0] != known.desired
                try:
                    getattr(fleet.cluster, act)(pool, *arguments)
                except ActuationError:
                    self.writes.append(Write(act, subject, wanted, before, done=False))
                    raise
                self.writes.append(Write(act, subject, wanted, before, done=changes))
        finally:
            self._pass("after")

    def hold(self, where: str) -> None:
        """Let every write wait ``before`` it takes effect, or ``after`` that, until it is let go (an empty word)."""
        self._gate = where
        self._open.set()
        self._open = threading.Event()

    def held(self) -> int:
        """Return how many writes have come to the gate so far."""
        return self._held

    def _pass(self, where: str) -> None:
        time.sleep(self._rng.uniform(0, self._slow_s))
        if self._gate == where:
            self._held += 1
            self._open.wait(30)

    def set_weights(self, model: str, weights: Mapping[PoolKey, float]) -> None:
        with self._now() as fleet:
            fleet.router.set_weights(model, weights)

    def page(self, page: Page, _: float) -> None:
        with self._lock:
            self.pages.append(page)

    def inject(self, fault: Fault) -> None:
        with self._now() as fleet:
            fleet.inject(fault)

    def take_down(self, down: bool) -> None:
        self.down = down

    def seen(self) -> tuple[list[Write], list[Page], float]:
        """Return everything that reached the world, and the age of its clock."""
        with self._lock:
            return list(self.writes), list(self.pages), self._clock.now() - EPOCH_AT

    @contextmanager
    def _now(self) -> Iterator[SimulatedFleet]:
        if self.down:
            raise ObservationError("the platform is down", "test world")
        with self._lock:
            self._fleet.advance(max(self._fleet.clock.now(), self._clock.now()))
            yield self._fleet


class _Manager(BaseManager):
    pass


_Manager.register("world", exposed=("pools", "read", "weights", "write", "set_weights", "page", "inject", "take_down",
                                    "seen", "hold", "looks", "held"))  # fmt: skip


@dataclass(frozen=True)
class WorldAddress:
    """How a process reaches the world."""

    address: tuple[str, int]
    started_at: float
    key: bytes

    def connect(self) -> Any:
        manager = _Manager(self.address, self.key)
        manager.connect()
        return manager.world()  # type: ignore[attr-defined]  # registered by name

    def ports(self, settings: Settings) -> World:
        """Return the world by its ports."""
        there = _Remote(self.connect())
        return World(there, there, there, there, there.history)


class _Remote:
    """All ports of the world, over the connection of the present thread."""

    def __init__(self, world: Any) -> None:
        self._world = world

    def read(self, at: float) -> FleetMetrics:
        seen: FleetMetrics = self._world.read(at)
        return seen

    def pools(self) -> tuple[PoolState, ...]:
        found: tuple[PoolState, ...] = self._world.pools()
        return found

    def scale(self, pool: PoolKey, replicas: int, version: int, retire_first: tuple[str, ...] = ()) -> None:
        self._world.write("scale", pool, replicas, version, retire_first)

    def cordon(self, pool: PoolKey, replica: str) -> None:
        self._world.write("cordon", pool, replica)

    def uncordon(self, pool: PoolKey, replica: str) -> None:
        self._world.write("uncordon", pool, replica)

    def restart(self, pool: PoolKey, replica: str) -> None:
        self._world.write("restart", pool, replica)

    def roll_back(self, pool: PoolKey, revision: str) -> None:
        self._world.write("roll_back", pool, revision)

    def nodes(self) -> Mapping[str, NodeState]:
        return {}

    def pause(self, pool: PoolKey) -> None:
        self._world.write("pause", pool)

    def resume(self, pool: PoolKey) -> None:
        self._world.write("resume", pool)

    def avoid(self, node: str) -> None:
        raise ActuationError(f"{node}: nothing is known of nodes")

    def stop_avoiding(self, node: str) -> None:
        raise ActuationError(f"{node}: nothing is known of nodes")

    def weights(self, model: str) -> Mapping[PoolKey, float]:
        shares: Mapping[PoolKey, float] = self._world.weights(model)
        return shares

    def set_weights(self, model: str, weights: Mapping[PoolKey, float]) -> None:
        self._world.set_weights(model, weights)

    def page(self, page: Page, at: float) -> None:
        self._world.page(page, at)

    def recommend(self, subject: str, what: str, at: float) -> None:
        """Tell nobody."""

    def history(self, at: float) -> Mapping[str, LoadSeries]:
        return {}


def _serve(ready: Any, started_at: float, key: bytes, build: Callable[..., RecordingWorld], arguments: Any) -> None:
    world = build(started_at, *arguments)

    class Serving(BaseManager):
        pass

    Serving.register("world", lambda: world, exposed=_Manager._registry["world"][1])  # type: ignore[attr-defined]
    server = Serving(("127.0.0.1", 0), key).get_server()
    ready.send(server.address)
    server.serve_forever()


@contextmanager
def world_process(rates: list[float], seed: int = 0, slow_s: float = 0.0) -> Iterator[WorldAddress]:
    """Run a world in a process of its own."""
    here, there = FORKS.Pipe()
    started_at, key = time.time(), os.urandom(16)
    process = FORKS.Process(
        target=_serve, args=(there, started_at, key, RecordingWorld, (rates, seed, slow_s)), daemon=True
    )
    process.start()
    try:
        assert here.poll(60)
        yield WorldAddress(here.recv(), started_at, key)
    finally:
        process.kill()
        process.join()


def run_daemon(file: Path, address: WorldAddress, log: Path, lease: KubernetesSettings | None = None) -> None:
    """Be a daemon, one of several where there is a lease; called in a process of its own, in the main thread."""
    import sys

    from controller.adapters.kube.lease import candidate
    from controller.adapters.system_clock import SystemClock
    from controller.daemon import Daemon, run_to_the_end
    from controller.logs import start_logging
    from controller.reload import SettingsFile

    with log.open("a") as out:
        os.dup2(out.fileno(), 2)
    source = SettingsFile(file)
    settings = source.load()
    start_logging(time.perf_counter, settings.daemon.log_repeat_s)
    leadership = candidate(lease, SystemClock().now, SystemClock().lasting) if lease is not None else None
    clock = FastClock(address.started_at)
    sys.exit(run_to_the_end(Daemon(source, settings, address.ports, clock, PACE, leadership=leadership)))


def daemon_process(
    file: Path, address: WorldAddress, log: Path, lease: KubernetesSettings | None = None
) -> BaseProcess:
    process = FORKS.Process(target=run_daemon, args=(file, address, log, lease), daemon=True)
    process.start()
    return process
