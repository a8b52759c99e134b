"""What does the control loop rely on in any ``Router``? One suite over every implementation.

An implementation is a ``RouterWorld``: a router over the pools "east" and "west" of one model, and a way to see
where the next requests go.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Protocol

import numpy as np
import pytest

from controller.adapters.kube.member_routers import MemberRouters
from controller.errors import ActuationError, ObservationError
from controller.ports import Router
from policies.fleet import PoolKey
from simulations.kubernetes_api.running import running_api
from tests.builders_fleet import MODEL, a_batch, a_fleet, a_key, a_pool
from tests.builders_platform import RunningPlatform, a_template
from tests.builders_routes import Routes, routing


class RouterWorld(Protocol):
    router: Router
    model: str
    east: PoolKey
    west: PoolKey

    def send(self, requests: int) -> Counter[PoolKey]:
        """Send requests and return how many each pool got; at most 2,000 in all."""
        ...


class SimulatedWorld:
    """Requests come every 0.1 s and end within 0.06 s, so that each has its row before the next one comes."""

    def __init__(self) -> None:
        arrivals = a_batch(np.arange(2_000) * 0.1, output_tokens=5)
        self.fleet = a_fleet([a_pool(2, "east"), a_pool(2, "west")], [arrivals])
        self.router: Router = self.fleet.router
        self.model, self.east, self.west = MODEL, a_key("east"), a_key("west")

    def send(self, requests: int) -> Counter[PoolKey]:
        before = len(self.fleet.outcomes)
        self.fleet.advance((before + requests) * 0.1 - 0.01)
        took = self.fleet.outcomes.pool_index[before:].tolist()
        assert len(took) == requests
        return Counter((self.east, self.west)[pool] for pool in took)


class MembersWorld(SimulatedWorld):
    """The same, through the router that asks the member with the model's route."""

    def __init__(self) -> None:
        super().__init__()
        self.router = MemberRouters({"hub": self.fleet.router}, {MODEL: "hub"})


class LiveWorld:
    """A real Envoy behind the HTTP API; who answered is counted by Envoy."""

    def __init__(self, running: RunningPlatform) -> None:
        self.running = running
        self.router: Router = running.adapter
        self.east, self.west = (template.key for template in running.templates)
        self.model = self.east.model

    def send(self, requests: int) -> Counter[PoolKey]:
        before = self.running.answered()
        with self.running.gateway() as gateway:
            assert {gateway.get("/now").status_code for _ in range(requests)} == {200}
        self.running.until(lambda: (self.running.answered() - before).total() == requests)
        pools = {"east-0": self.east, "west-0": self.west}
        sent: Counter[PoolKey] = Counter()
        for replica, count in (self.running.answered() - before).items():
            sent[pools[replica]] += count
        return sent


@contextmanager
def a_live_world(folder: Path) -> Iterator[RouterWorld]:
    with RunningPlatform(folder, [a_template(1, "east"), a_template(1, "west")]) as running:
        yield LiveWorld(running)


class KubernetesWorld:
    """An HTTPRoute on the API server of the project; requests are drawn by the weights that its object has."""

    def __init__(self, router: Router, routes: Routes) -> None:
        self.router, self.routes = router, routes
        self.model = "m"
        self.east, self.west = (PoolKey("m", name) for name in ("east", "west"))
        self._draws = np.random.default_rng(5)

    def send(self, requests: int) -> Counter[PoolKey]:
        refs = self.routes.now()["spec"]["rules"][0]["backendRefs"]
        weights = np.array([ref["weight"] for ref in refs], float)
        took = self._draws.choice(len(refs), requests, p=weights / weights.sum()).tolist()
        pools = {"chat-east": self.east, "chat-west": self.west}
        return Counter(pools[refs[place]["name"]] for place in took)


@contextmanager
def a_kubernetes_world(folder: Path) -> Iterator[RouterWorld]:
    with running_api(bookmark_every_s=0.05) as api:
        routes = Routes(api)
        routes.make({"chat-east": 1, "chat-west": 1})
        routes.endpoints("chat-east", True)
        routes.endpoints("chat-west", True)
        with routing(api, folder, routes.place("m", east="chat-east", west="chat-west")) as router:
            yield KubernetesWorld(router, routes)


WORLDS: dict[str, Callable[[Path], AbstractContextManager[RouterWorld]]] = {
    "simulated": lambda _: nullcontext(SimulatedWorld()),
    "live": a_live_world,
    "kubernetes": a_kubernetes_world,
    "members": lambda _: nullcontext(MembersWorld()),
}
SPREAD = 60  # four standard deviations of a random choice among 1,000; a smooth one is exact


@pytest.fixture(params=WORLDS)
def world(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[RouterWorld]:
    with WORLDS[request.param](tmp_path) as made:
        yield made


def test_shares_sum_to_one_and_name_every_pool(world: RouterWorld) -> None:
    weights = world.router.weights(world.model)
    assert set(weights) == {world.east, world.west}
    assert math.fsum(weights.values()) == pytest.approx(1.0)


def test_what_was_set_is_what_is_read_scaled_to_one(world: RouterWorld) -> None:
    for _ in range(2):
        world.router.set_weights(world.model, {world.east: 3.0, world.west: 1.0})
        assert world.router.weights(world.model) == pytest.approx({world.east: 0.75, world.west: 0.25})


def test_new_requests_follow_the_shares(world: RouterWorld) -> None:
    world.router.set_weights(world.model, {world.east: 0.8, world.west: 0.2})
    sent = world.send(1_000)
    assert sent[world.east] == pytest.approx(800, abs=SPREAD)
    assert sent[world.west] == pytest.approx(200, abs=SPREAD)


def test_a_pool_of_no_weight_gets_nothing(world: RouterWorld) -> None:
    world.router.set_weights(world.model, {world.east: 1.0})
    assert world.router.weights(world.model)[world.west] == 0.0
    assert world.send(200)[world.west] == 0


@pytest.mark.parametrize("bad", [-0.1, math.nan, math.inf])
def test_impossible_shares_are_refused_and_change_nothing(world: RouterWorld, bad: float) -> None:
    before = dict(world.router.weights(world.model))
    with pytest.raises(ActuationError):
        world.router.set_weights(world.model, {world.east: bad, world.west: 1.0})
    with pytest.raises(ActuationError):
        world.router.set_weights(world.model, {world.east: 0.0, world.west: 0.0})
    with pytest.raises(ActuationError):
        world.router.set_weights(world.model, {PoolKey(world.model, "nowhere"): 1.0})
    assert dict(world.router.weights(world.model)) == before


def test_a_model_that_is_not_served_has_no_shares(world: RouterWorld) -> None:
    with pytest.raises(ObservationError):
        world.router.weights("no/such-model")
