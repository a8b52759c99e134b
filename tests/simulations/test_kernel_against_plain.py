"""Does the compiled fleet do what a fleet does in which every step of every sequence is done one by one?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import astuple
from typing import Any

import numpy as np
import pytest

from controller.errors import ActuationError, ObservationError, StalePlan
from controller.ports import FleetMetrics
from policies.fleet import Role
from simulations.fleet import SimulatedFleet
from simulations.fleet_kernel import FleetKernel
from simulations.outcomes import RequestStatus
from tests.builders_worlds import World, a_hashed_world, a_routed_world, a_staged_world, a_world
from tests.reference.plain_engine import PlainEngine
from tests.reference.plain_kernel import PlainKernel
from tests.reference.plain_parties import Replica

SAME_S = 1e-9
"""Closed forms and sums of steps add the same terms in another order; times here are below 1000 s."""

BOTH = (FleetKernel, PlainKernel)

ENDS = {RequestStatus.COMPLETED, RequestStatus.FAILED, RequestStatus.DROPPED_IN_FLIGHT}


def near(value: float) -> Any:
    return pytest.approx(value, abs=SAME_S, rel=1e-9, nan_ok=True)


def assert_same_metrics(fast: FleetMetrics, plain: FleetMetrics) -> None:
    assert list(fast.replicas) == list(plain.replicas)
    for name, metrics in plain.replicas.items():
        assert astuple(fast.replicas[name]) == near(astuple(metrics)), name
    for figures in ("in_flight", "answered", "failed_answers", "unreached", "gateway_queued", "missing"):
        assert getattr(fast, figures) == getattr(plain, figures), figures
    assert fast.gateway_oldest_at == near(plain.gateway_oldest_at)
    for model, demand in plain.demand.items():
        assert astuple(fast.demand[model]) == near(astuple(demand))
    for model, service in plain.service.items():
        assert astuple(fast.service[model]) == near(astuple(service))
    assert (fast.demand.keys(), fast.service.keys()) == (plain.demand.keys(), plain.service.keys())


def read(fleet: SimulatedFleet) -> FleetMetrics | None:
    try:
        return fleet.metrics.read(fleet.clock.now())
    except ObservationError:
        return None


def assert_same_fleets(fast: SimulatedFleet, plain: SimulatedFleet) -> None:
    one, other = fast.outcomes, plain.outcomes
    assert one.status.tolist() == other.status.tolist()
    assert one.pool_index.tolist() == other.pool_index.tolist()
    np.testing.assert_allclose(one.first_token_at, other.first_token_at, rtol=0, atol=SAME_S)
    np.testing.assert_allclose(one.finished_at, other.finished_at, rtol=0, atol=SAME_S)
    assert fast.cluster.pools() == plain.cluster.pools() or [
        [(r.id, r.phase) for r in pool.replicas] for pool in fast.cluster.pools()
    ] == [[(r.id, r.phase) for r in pool.replicas] for pool in plain.cluster.pools()]
    assert fast.gpu_seconds() == near(plain.gpu_seconds())
    seen, expected = read(fast), read(plain)
    assert (seen is None) == (expected is None)
    if seen is not None and expected is not None:
        assert_same_metrics(seen, expected)


def check_world(world: World, kernels: Sequence[Callable[..., Any]] = BOTH) -> list[SimulatedFleet]:
    """Let each kernel live through the world, and compare them at its acts and at a dozen other instants."""
    fleets = [world.fleet(kernel_of) for kernel_of in kernels]
    looks = np.random.default_rng(world.seed).uniform(0, 70, 12)
    for at, act in sorted([*world.acts, *((float(at), lambda _: None) for at in looks)], key=lambda each: each[0]):
        for fleet in fleets:
            fleet.advance(at)
        compare(fleets)
        for fleet in fleets:
            with suppress(ActuationError, StalePlan):
                act(fleet)
    assert len({fleet.finish() for fleet in fleets}) == 1
    compare(fleets)
    assert fleets[0].clock.now() == near(fleets[-1].clock.now())
    return fleets


def compare(fleets: Sequence[SimulatedFleet]) -> None:
    plain = fleets[-1]
    assert_sound(plain)
    for fast in fleets[:-1]:
        assert_same_fleets(fast, plain)


def assert_sound(fleet: SimulatedFleet) -> None:
    """Look for requests that are nowhere or in two places, and for blocks and units that nobody has any more."""
    kernel: Any = fleet._kernel
    assert isinstance(kernel, PlainKernel)
    replicas = list(kernel._replicas.values())
    in_flight = [request for replica in replicas for request in replica.in_flight]
    for replica in replicas:
        assert all(request.replica is replica for request in replica.in_flight)
        assert kernel.state.traffic["in_flight"][replica.number] == len(replica.in_flight)
        if replica.engine is None:
            assert not replica.in_flight
        else:
            assert_sound_engine(replica.engine, replica)
    open_rows = [request.row for request in kernel._rows if not request.ended]
    assert sorted(request.row for request in [*in_flight, *kernel._held]) == open_rows
    assert fleet.unfinished_requests == len(open_rows)
    assert kernel.world["held"] == len(kernel._held)
    assert all(request.held_until > kernel.now or request.replica is None for request in kernel._held)
    assert 0 <= kernel.world["seen_cached"] <= kernel.world["seen_looked_up"]


def assert_sound_engine(engine: PlainEngine, replica: Replica) -> None:
    there = [*engine.waiting, *engine.running, *engine.kept]
    assert len({id(sequence) for sequence in there}) == len(there)
    if not replica.hung:
        inside = [request for request in replica.in_flight if not request.connecting]
        assert {id(request.sequence) for request in inside} <= {id(sequence) for sequence in there}
    shrunk = engine.blocks - engine.total  # what is used of that is given up with the next step
    assert -shrunk <= engine.free <= engine.total
    if not there:
        assert engine.free == engine.total
    if engine.prefixes is not None:
        used = Counter(unit_hash for sequence in [*engine.running, *engine.kept] for unit_hash in sequence.units)
        assert {unit_hash: engine.prefixes.units[unit_hash].users for unit_hash in engine.prefixes.used} == used
        idle_blocks = len(engine.prefixes.idle) * engine.unit_tokens // engine.profile.block_tokens
        assert idle_blocks <= engine.free
    else:
        assert engine.looked_up_tokens_total == 0


def check_worlds(
    draw: Callable[[int], World], seeds: Iterable[int], kernels: Sequence[Callable[..., Any]] = BOTH
) -> list[SimulatedFleet]:
    """Check a world for each seed; return the plain fleets."""
    fleets = []
    for seed in seeds:
        try:
            *_, plain = both = check_world(draw(seed), kernels)
        except AssertionError as error:
            raise AssertionError(f"check_world({draw.__name__}({seed})) finds a difference") from error
        assert all(fleet.tallies.too_early == 0 for fleet in both[:-1])
        fleets.append(plain)
    return fleets


def statuses(fleets: Sequence[SimulatedFleet]) -> set[int]:
    return {status for fleet in fleets for status in fleet.outcomes.status.tolist()}


@pytest.mark.parametrize("block", range(6))
def test_every_request_and_every_scrape_of_small_worlds_is_the_same(block: int) -> None:
    fleets = check_worlds(a_world, range(40 * block, 40 * (block + 1)))
    assert statuses(fleets) >= ENDS


@pytest.mark.parametrize("block", range(3))
def test_whatever_the_routing_they_send_each_request_to_the_same_replica(block: int) -> None:
    fleets = check_worlds(a_routed_world, range(1000 + 40 * block, 1000 + 40 * (block + 1)))
    assert statuses(fleets) >= ENDS


@pytest.mark.parametrize("block", range(4))
def test_prefixes_are_found_and_given_up_in_the_same_steps(block: int) -> None:
    fleets = check_worlds(a_hashed_world, range(40 * block, 40 * (block + 1)))
    assert statuses(fleets) >= ENDS
    assert sum(int(fleet._kernel.world["seen_cached"]) for fleet in fleets) > 1000


@pytest.mark.parametrize("block", range(4))
def test_requests_move_from_prefill_to_decode_pools_at_the_same_instants(block: int) -> None:
    fleets = check_worlds(a_staged_world, range(40 * block, 40 * (block + 1)))
    assert statuses(fleets) >= ENDS
    assert sum(int(fleet._kernel.world["seen_cached"]) for fleet in fleets) > 1000
    decoded = [row for fleet in fleets for row in fleet._kernel.state.rows if _completed_at_decode(fleet, row)]
    assert len(decoded) > 100


def _completed_at_decode(fleet: SimulatedFleet, row: Any) -> bool:
    decodes = [pool.key.role is Role.DECODE for pool in fleet.cluster.pools()]
    return bool(row["status"] == RequestStatus.COMPLETED and decodes[row["pool"]])
