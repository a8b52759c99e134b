"""Does the compiled fleet do what a fleet does in which every step of every sequence is done one by one?"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import suppress
from dataclasses import astuple, dataclass
from typing import Any

import numpy as np
import pytest

from controller.errors import ActuationError, ObservationError, StalePlan
from controller.ports import FleetMetrics
from policies.slo import ServiceObjective
from simulations.faults import (
    Crash,
    Errors,
    ExporterFreeze,
    Fault,
    Hang,
    MetricsFreeze,
    MetricsLoss,
    NodeLoss,
    ReplicaTarget,
    SlowDown,
)
from simulations.fleet import SimulatedFleet
from simulations.fleet_kernel import FleetKernel
from simulations.outcomes import RequestStatus
from simulations.pool import PoolSpec
from simulations.settings import FleetSettings
from simulations.startup import StartupModel
from tests.builders_fleet import Batch, a_key, a_profile
from tests.reference.plain_kernel import PlainKernel

SAME_S = 1e-9
"""Closed forms and sums of steps add the same terms in another order; times here are below 1000 s."""

NAMES = ("main", "spare", "third")


@dataclass
class World:
    """Everything that decides a run."""

    pools: list[PoolSpec]
    batches: list[Batch]
    settings: FleetSettings
    faults: list[Fault]
    acts: list[tuple[float, Callable[[SimulatedFleet], None]]]
    seed: int

    def fleet(self, kernel_of: Callable[..., Any]) -> SimulatedFleet:
        objective = ServiceObjective(ttft_s=1.0, tpot_s=0.05)
        fleet = SimulatedFleet(
            self.pools, self.batches, objective, self.settings, self.seed, keep_rows=True, kernel_of=kernel_of
        )
        for fault in self.faults:
            fleet.inject(fault)
        return fleet


def a_world(seed: int) -> World:
    """Draw a small world: little memory, short patience, and much that goes wrong."""
    rng = np.random.default_rng(seed)
    names = NAMES[: rng.integers(1, 4)]
    requests = int(rng.integers(1, 160))
    lasts_s = float(rng.choice([5.0, 20.0, 60.0]))
    pools = [_pool(rng, name) for name in names]
    longest = max(pool.profile.kv_cache_tokens for pool in pools)
    prompt = np.clip(rng.lognormal(math.log(longest / 12), 0.9, requests), 1, 1.1 * longest).astype(np.int32)
    output = np.clip(rng.lognormal(math.log(longest / 12), 0.9, requests), 1, longest).astype(np.int32)
    output[rng.random(requests) < 0.1] = 1
    arrival_s = np.sort(rng.uniform(0, lasts_s, requests))
    cut = int(rng.integers(0, requests + 1))
    batches = [Batch(arrival_s[part], prompt[part], output[part]) for part in (slice(0, cut), slice(cut, None))]
    settings = FleetSettings(
        gateway_timeout_s=float(rng.uniform(1, 20)),
        request_timeout_s=float(rng.uniform(2, 60)),
        drain_deadline_s=float(rng.uniform(0, 10)),
        restart_backoff_s=float(rng.uniform(0, 5)),
        scrape_interval_s=float(rng.uniform(0.5, 5)),
        scrape_delay_s=float(rng.uniform(0, 3)),
        gpus_per_node=int(rng.choice([2, 4, 8])),
        finish_grace_s=300.0,
    )
    faults = [_fault(rng, names, lasts_s) for _ in range(rng.integers(0, 6))]
    acts = [(float(rng.uniform(0, lasts_s)), _act(rng, names)) for _ in range(rng.integers(0, 8))]
    return World(pools, batches, settings, faults, sorted(acts, key=lambda act: act[0]), seed)


def _pool(rng: np.random.Generator, name: str) -> PoolSpec:
    block_tokens = int(rng.choice([1, 3, 4, 16]))
    max_running = int(rng.integers(1, 14))
    profile = a_profile(
        decode_base_s=float(rng.uniform(0.005, 0.05)),
        decode_per_sequence_s=float(rng.uniform(0, 0.002)),
        decode_per_kv_token_s=float(rng.choice([0.0, rng.uniform(0, 1e-4)])),
        prefill_base_s=float(rng.uniform(0, 0.03)),
        prefill_per_token_s=float(rng.uniform(1e-6, 1e-3)),
        prefill_per_token2_s=float(rng.uniform(0, 1e-7)),
        block_tokens=block_tokens,
        kv_cache_tokens=block_tokens * int(rng.integers(4, 80)),
        max_running=max_running,
        max_batched_tokens=max_running + int(rng.choice([0, 3, 20, 200])),
    )
    return PoolSpec(
        a_key(name),
        profile,
        int(rng.integers(0, 5)),
        lead_time_s=float(rng.uniform(0, 15)),
        startup=StartupModel(p90_ratio=1.3),
        gpu_stock=None if rng.random() < 0.7 else 10,
        weight=float(rng.choice([0.0, 1.0, 2.5])),
        revisions=("1", "2"),
    )


def _fault(rng: np.random.Generator, names: tuple[str, ...], lasts_s: float) -> Fault:
    at, lasting_s = float(rng.uniform(0, lasts_s)), float(rng.choice([math.inf, rng.uniform(0, lasts_s)]))
    target = ReplicaTarget(str(rng.choice(names)), int(rng.integers(0, 4)))
    kinds: list[Callable[[], Fault]] = [
        lambda: Crash(at, target),
        lambda: Hang(at, target, running_zero=bool(at > lasts_s / 2)),
        lambda: SlowDown(at, target, float(rng.uniform(1.1, 5)), lasting_s),
        lambda: Errors(at, target, float(rng.uniform(0.1, 1)), lasting_s),
        lambda: NodeLoss(at, target),
        lambda: MetricsLoss(at, None, lasting_s),
        lambda: MetricsLoss(at, target, lasting_s),
        lambda: MetricsFreeze(at, lasting_s),
        lambda: ExporterFreeze(at, target, lasting_s),
    ]
    return kinds[rng.integers(len(kinds))]()


def _act(rng: np.random.Generator, names: tuple[str, ...]) -> Callable[[SimulatedFleet], None]:
    place, number, weights = int(rng.integers(len(names))), int(rng.integers(0, 6)), rng.choice([0.0, 1.0, 3.0], 3)
    kind = rng.integers(6)

    def act(fleet: SimulatedFleet) -> None:
        pool = fleet.cluster.pools()[place]
        ids = [replica.id for replica in pool.replicas]
        if kind < 2:
            fleet.cluster.scale(pool.key, number, pool.version)
        elif kind == 2 and weights[: len(names)].sum() > 0:
            keys = [a_key(name) for name in names]
            fleet.router.set_weights(pool.key.model, dict(zip(keys, weights.tolist(), strict=False)))
        elif kind == 3:
            fleet.cluster.roll_back(pool.key, "1")
        elif kind == 4 and ids:
            fleet.cluster.cordon(pool.key, ids[number % len(ids)])
        elif ids:
            fleet.cluster.restart(pool.key, ids[number % len(ids)])

    return act


def near(value: float) -> Any:
    return pytest.approx(value, abs=SAME_S, rel=1e-9, nan_ok=True)


def assert_same_metrics(fast: FleetMetrics, plain: FleetMetrics) -> None:
    assert list(fast.replicas) == list(plain.replicas)
    for name, metrics in plain.replicas.items():
        assert astuple(fast.replicas[name]) == near(astuple(metrics)), name
    for figures in ("in_flight", "answered", "failed_answers", "gateway_queued", "missing"):
        assert getattr(fast, figures) == getattr(plain, figures), figures
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


def check_world(seed: int) -> SimulatedFleet:
    """Let both kernels live through world ``seed``, and compare them at its acts and at a dozen other instants."""
    world = a_world(seed)
    fast, plain = world.fleet(FleetKernel), world.fleet(PlainKernel)
    looks = np.random.default_rng(seed).uniform(0, 70, 12)
    for at, act in sorted([*world.acts, *((float(at), lambda _: None) for at in looks)], key=lambda each: each[0]):
        for fleet in (fast, plain):
            fleet.advance(at)
        assert_same_fleets(fast, plain)
        for fleet in (fast, plain):
            with suppress(ActuationError, StalePlan):
                act(fleet)
    assert fast.finish() == plain.finish()
    assert_same_fleets(fast, plain)
    assert fast.clock.now() == near(plain.clock.now())
    return fast


@pytest.mark.parametrize("block", range(6))
def test_every_request_and_every_scrape_of_small_worlds_is_the_same(block: int) -> None:
    statuses = set()
    for seed in range(40 * block, 40 * (block + 1)):
        try:
            fleet = check_world(seed)
        except AssertionError as error:
            raise AssertionError(f"check_world({seed}) finds a difference") from error
        statuses |= set(fleet.outcomes.status.tolist())
        assert fleet.tallies.too_early == 0
    assert statuses >= {RequestStatus.COMPLETED, RequestStatus.FAILED, RequestStatus.DROPPED_IN_FLIGHT}
