"""Does the real Envoy follow weights and endpoints, without cutting streams?"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator

import httpx
import pytest

from controller.errors import ActuationError
from policies.fleet import PoolKey
from simulations.live.envoy_config import WHOLE_WEIGHT, Endpoint, Health, whole_weights
from tests.builders_platform import MODEL, RunningPlatform, a_template

EAST, WEST = PoolKey(MODEL, "east"), PoolKey(MODEL, "west")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningPlatform]:
    with RunningPlatform(tmp_path_factory.mktemp("envoy"), [a_template(2), a_template(1, "west")]) as running:
        yield running


@pytest.fixture(autouse=True)
def all_in_traffic(world: RunningPlatform) -> None:
    world.do(world.platform.set_shares(MODEL, {EAST: 1.0, WEST: 1.0}))
    world.do(world.platform.publish())


def sent(world: RunningPlatform, requests: int) -> Counter[str]:
    """Send requests one after the other and return how many each replica answered."""
    before = world.answered()
    with world.gateway() as gateway:
        assert {gateway.get("/now").status_code for _ in range(requests)} == {200}
    world.until(lambda: world.answered().total() == before.total() + requests)
    return world.answered() - before


def test_requests_follow_the_weights(world: RunningPlatform) -> None:
    world.do(world.platform.set_shares(MODEL, {EAST: 0.9, WEST: 0.1}))
    counts = sent(world, 1000)
    # Four standard deviations of a random choice: 4 * sqrt(1000 * 0.9 * 0.1) = 38.
    assert counts["west-0"] == pytest.approx(100, abs=38)
    # Least requests of two: with one request at a time it is a choice at random.
    assert counts["east-0"] == pytest.approx(450, abs=90)


def test_what_is_cordoned_or_draining_gets_nothing_and_keeps_what_it_has(world: RunningPlatform) -> None:
    world.do(world.platform.set_shares(MODEL, {EAST: 1.0}))
    replicas = world.platform._pools[EAST].replicas
    (first, second) = replicas.values()
    assert first.slot is not None
    assert second.slot is not None
    only_first = [Endpoint(first.id, first.slot.port, Health.HEALTHY)]
    pieces: list[str] = []

    def read(gateway: httpx.Client) -> None:
        with gateway.stream("GET", "/stream/10") as answer:
            pieces.extend(answer.iter_text())

    for state in (Health.CORDONED, Health.DRAINING, None):
        pieces.clear()
        world.do(world.envoy.set_endpoints({EAST: [Endpoint(second.id, second.slot.port, Health.HEALTHY)]}))
        with world.gateway() as gateway:
            reader = threading.Thread(target=read, args=(gateway,))
            reader.start()
            world.until(lambda: len(pieces) > 0)
            assert world.do(world.envoy.in_flight())[EAST][second.id] == 1
            others = [] if state is None else [Endpoint(second.id, second.slot.port, state)]
            world.do(world.envoy.set_endpoints({EAST: [*only_first, *others]}))
            assert set(sent(world, 50)) == {first.id}
            reader.join()
        assert "".join(pieces) == "hi" * 10


def test_when_nothing_is_in_traffic_it_says_so_at_once(world: RunningPlatform) -> None:
    world.do(world.platform.set_shares(MODEL, {WEST: 1.0}))
    world.do(world.envoy.set_endpoints({WEST: []}))
    with world.gateway() as gateway:
        assert gateway.get("/now").status_code == 503


def test_an_engine_that_refuses_connections_is_passed_over(world: RunningPlatform) -> None:
    """The moment between a crash and its notice: another replica takes the request, and the client sees nothing."""
    world.do(world.platform.set_shares(MODEL, {EAST: 1.0}))
    first = next(iter(world.platform._pools[EAST].replicas.values()))
    assert first.slot is not None
    dead = Endpoint("dead", 1, Health.HEALTHY)
    world.do(world.envoy.set_endpoints({EAST: [Endpoint(first.id, first.slot.port, Health.HEALTHY), dead]}))
    assert set(sent(world, 50)) == {first.id}


def test_an_answer_counts_when_it_has_ended_and_not_when_its_head_comes(world: RunningPlatform) -> None:
    world.do(world.platform.set_shares(MODEL, {WEST: 1.0}))
    before = world.answered()
    with world.gateway() as gateway, gateway.stream("GET", "/hang") as answer:
        assert answer.status_code == 200
        assert world.do(world.envoy.in_flight())[WEST]["west-0"] == 1
        assert world.answered() == before
    world.until(lambda: world.do(world.envoy.in_flight())[WEST]["west-0"] == 0)
    assert world.answered() == before


def test_a_model_that_nobody_serves_is_not_found(world: RunningPlatform) -> None:
    with world.gateway() as gateway:
        assert gateway.get("/now", headers={"x-model": "another"}).status_code == 404


def test_a_change_that_envoy_does_not_take_is_told_and_the_next_one_is_taken(
    world: RunningPlatform, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("simulations.live.envoy.APPLIED_S", 0.3)
    with pytest.raises(ActuationError, match="has not taken"):
        world.do(world.envoy.set_endpoints({WEST: [Endpoint("nowhere", 70_000, Health.HEALTHY)]}))
    assert world.serving_at_gateway(WEST) == {"west-0"}
    world.do(world.envoy.set_endpoints({WEST: []}))
    assert world.serving_at_gateway(WEST) == set()


def test_whole_weights_sum_up_whatever_the_shares() -> None:
    for count in (1, 3, 7, 11):
        weights = whole_weights({PoolKey("m", f"p{n}"): 1 / count for n in range(count)})
        assert sum(weights.values()) == WHOLE_WEIGHT
        assert max(weights.values()) - min(weights.values()) <= count
