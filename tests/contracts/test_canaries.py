"""What does the control loop rely on in any ``Canaries``? One suite over every implementation.

An implementation is a ``CanaryWorld``: one idle engine, ways to make something wrong with it, and its counters.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Literal, Protocol

import httpx
import pytest

from controller.adapters.http_canaries import HttpCanaries
from controller.adapters.system_clock import SystemClock
from controller.errors import ActuationError
from controller.ports import Canaries
from policies.decisions import SendCanary
from policies.fleet import PoolKey
from policies.replica import CanaryAnswer, CanaryOutcome
from simulations.faults import Crash, Errors, Hang, Partition, SlowDown
from simulations.live.engine_process import EngineProcess, engine_process
from tests.builders_fleet import a_fleet, a_key, a_pool

DEADLINE_S = 2.0
PATIENCE_S = 30.0
"""How long a busy machine may take to tell what has long come about."""

Wrong = Literal["hang", "hang at zero", "errors", "cut off", "exit", "slow"]


class CanaryWorld(Protocol):
    canaries: Canaries
    key: PoolKey

    @property
    def address(self) -> str: ...

    @property
    def at(self) -> float: ...

    def go_wrong(self, how: Wrong) -> None: ...

    def wait(self) -> None:
        """Let a moment pass."""
        ...

    def tokens(self) -> float:
        """Output tokens that the engine counts."""
        ...


class SimulatedWorld:
    def __init__(self) -> None:
        self.fleet = a_fleet([a_pool(1)], scrape_interval_s=1.0)
        self.canaries: Canaries = self.fleet.canaries
        self.key = a_key()

    @property
    def address(self) -> str:
        return self.fleet.cluster.pools()[0].replicas[0].address

    @property
    def at(self) -> float:
        return self.fleet.clock.now()

    def go_wrong(self, how: Wrong) -> None:
        fault = {
            "hang": Hang(0.0),
            "hang at zero": Hang(0.0, running_zero=True),
            "errors": Errors(0.0),
            "cut off": Partition(0.0),
            "exit": Crash(0.0),
            "slow": SlowDown(0.0, factor=20.0),
        }[how]
        self.fleet.inject(fault)
        self.wait()

    def wait(self) -> None:
        self.fleet.advance(self.at + 0.5)

    def tokens(self) -> float:
        self.fleet.advance(self.at + 2.0)
        (seen,) = self.fleet.metrics.read(self.at).replicas.values()
        return seen.output_tokens_total


class LiveWorld:
    """A real process."""

    def __init__(self, engine: EngineProcess) -> None:
        self.engine = engine
        self.canaries: Canaries = HttpCanaries(None, SystemClock().elapsed)
        self.key = PoolKey("org/model", "main")

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.engine.port}"

    @property
    def at(self) -> float:
        return SystemClock().now()

    def go_wrong(self, how: Wrong) -> None:
        fault: dict[str, object] = {
            "hang": {"kind": "hang", "running": "stuck"},
            "hang at zero": {"kind": "hang", "running": "zero"},
            "errors": {"kind": "errors", "share": 1.0},
            "cut off": {"kind": "refuse"},
            "exit": {"kind": "exit"},
            "slow": {"kind": "slow", "factor": 20.0},
        }[how]
        self.engine.inflict(**fault)

    def wait(self) -> None:
        threading.Event().wait(0.02)

    def tokens(self) -> float:
        text = httpx.get(f"{self.engine.admin_url}/metrics", timeout=PATIENCE_S).raise_for_status().text
        lines = [line for line in text.splitlines() if line.startswith("vllm:generation_tokens_total")]
        return sum(float(line.rpartition(" ")[2]) for line in lines)


@contextmanager
def a_live_world() -> Iterator[CanaryWorld]:
    with engine_process("--profile", "llama-3.1-8b-h100-tp1", "--model", "org/model") as engine:
        while httpx.get(f"{engine.url}/health").status_code != 200:
            threading.Event().wait(0.02)
        yield LiveWorld(engine)


WORLDS: dict[str, Callable[[], AbstractContextManager[CanaryWorld]]] = {
    "simulated": lambda: nullcontext(SimulatedWorld()),
    "live": a_live_world,
}


@pytest.fixture(params=WORLDS)
def world(request: pytest.FixtureRequest) -> Iterator[CanaryWorld]:
    with WORLDS[request.param]() as made:
        yield made


def send(world: CanaryWorld) -> SendCanary:
    replica = "main-0" if isinstance(world, LiveWorld) else replica_of(world)
    canary = SendCanary(replica, world.key, world.address, world.at, DEADLINE_S)
    world.canaries.send(canary)
    return canary


def replica_of(world: CanaryWorld) -> str:
    assert isinstance(world, SimulatedWorld)
    return world.fleet.cluster.pools()[0].replicas[0].id


def outcome_of(world: CanaryWorld, canary: SendCanary) -> CanaryAnswer:
    name = world.key.replica(canary.replica)
    clock = SystemClock()
    end_s = clock.elapsed() + PATIENCE_S
    while clock.elapsed() < end_s:
        answer = world.canaries.answers(world.at).get(name)
        if answer is not None and answer.asked_at == canary.asked_at:
            return answer
        world.wait()
    raise AssertionError("no outcome in time")


def test_an_engine_that_is_well_gives_a_token_and_counts_it(world: CanaryWorld) -> None:
    before = world.tokens()
    answer = outcome_of(world, send(world))
    assert answer.outcome is CanaryOutcome.ANSWERED
    assert 0.0 < answer.took_s < DEADLINE_S
    assert world.tokens() == before + 1


@pytest.mark.parametrize(
    ("how", "becomes"),
    [
        ("hang", CanaryOutcome.LATE),
        ("hang at zero", CanaryOutcome.LATE),
        ("errors", CanaryOutcome.ERROR),
        ("cut off", CanaryOutcome.UNREACHED),
        ("exit", CanaryOutcome.UNREACHED),
        ("slow", CanaryOutcome.ANSWERED),
    ],
)
def test_what_is_wrong_shows(world: CanaryWorld, how: Wrong, becomes: CanaryOutcome) -> None:
    address = world.address
    world.go_wrong(how)
    assert world.address == address
    assert outcome_of(world, send(world)).outcome is becomes


def test_of_an_open_one_nothing_is_told_and_one_more_is_told_by_itself(world: CanaryWorld) -> None:
    first = outcome_of(world, send(world))
    world.go_wrong("hang")
    world.wait()
    canary = send(world)
    assert world.key.replica(canary.replica) not in world.canaries.answers(world.at)
    second = outcome_of(world, canary)
    assert (first.outcome, second.outcome) == (CanaryOutcome.ANSWERED, CanaryOutcome.LATE)
    assert second.took_s >= DEADLINE_S


def test_where_nobody_can_be_asked_that_is_said_at_once(world: CanaryWorld) -> None:
    with pytest.raises(ActuationError):
        world.canaries.send(SendCanary("x", world.key, "", world.at, DEADLINE_S))
