"""Small worlds drawn by chance for simulated fleets: pools, requests, faults, and what is done to the pools."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from policies.fleet import PoolKey, Role
from policies.slo import ServiceObjective
from simulations.block_hashes import BLOCK_TOKENS, BlockHashes
from simulations.faults import (
    ColdStarts,
    CounterReset,
    Crash,
    Errors,
    ExporterFreeze,
    Fault,
    Hang,
    KvShrink,
    MetricLoss,
    MetricsFreeze,
    MetricsLoss,
    NodeLoss,
    OutOfMemory,
    Partition,
    Poison,
    ReplicaTarget,
    Retries,
    Rollout,
    SlowDown,
    StartFailures,
    XidError,
)
from simulations.fleet import SimulatedFleet
from simulations.pool import PoolSpec
from simulations.revisions import CrashesAfter, CrashesAtStart, Fine, HangsAfter, HasErrors, IsSlow
from simulations.routings import ROUTINGS
from simulations.settings import FleetSettings
from simulations.startup import StartupModel
from tests.builders_fleet import MODEL, Batch, a_key, a_profile

NAMES = ("main", "spare", "third")
STAGED_NAMES = {Role.PREFILL: ("first", "second"), Role.DECODE: ("third", "fourth")}

Act = Callable[[SimulatedFleet], None]


@dataclass(frozen=True)
class HashedBatch(Batch):
    """A batch whose prompts have hashes."""

    block_hashes: BlockHashes


@dataclass
class World:
    """Everything that decides a run."""

    pools: list[PoolSpec]
    batches: list[Batch]
    settings: FleetSettings
    faults: list[Fault]
    acts: list[tuple[float, Act]]
    seed: int
    unit_tokens: int = BLOCK_TOKENS

    def fleet(self, kernel_of: Callable[..., Any]) -> SimulatedFleet:
        objective = ServiceObjective(ttft_s=1.0, tpot_s=0.05)
        fleet = SimulatedFleet(
            self.pools,
            self.batches,
            objective,
            self.settings,
            self.seed,
            keep_rows=True,
            unit_tokens=self.unit_tokens,
            kernel_of=kernel_of,
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
    settings = _settings(rng)
    faults = [_fault(rng, names, lasts_s) for _ in range(rng.integers(0, 6))]
    acts = [(float(rng.uniform(0, lasts_s)), _act(rng, names)) for _ in range(rng.integers(0, 8))]
    return World(pools, batches, settings, faults, sorted(acts, key=lambda act: act[0]), seed)


def a_routed_world(seed: int) -> World:
    """Draw such a world with more replicas, which another rule chooses among."""
    world = a_world(seed)
    rng = np.random.default_rng([seed, 1])
    pools = [replace(pool, replicas=int(rng.integers(0, 9)), gpu_stock=None) for pool in world.pools]
    routing = ROUTINGS[seed % len(ROUTINGS)]
    return replace(world, pools=pools, settings=world.settings.model_copy(update={"routing": routing}))


def a_hashed_world(seed: int) -> World:
    """Draw a world of unified pools in which sessions grow, prompts begin alike, and caches are too small for them."""
    rng = np.random.default_rng([seed, 2])
    lasts_s = float(rng.choice([5.0, 20.0, 60.0]))
    unit_tokens = int(rng.choice([4, 6, 12]))
    names = NAMES[: rng.integers(1, 4)]
    pools = [_with_cache(rng, _pool(rng, name), unit_tokens) for name in names]
    batches = _hashed_batches(rng, pools, unit_tokens, lasts_s)
    settings = _settings(rng).model_copy(update=_routing(rng, seed))
    faults = [_fault(rng, names, lasts_s) for _ in range(rng.integers(0, 6))]
    acts = [(float(rng.uniform(0, lasts_s)), _act(rng, names, 7)) for _ in range(rng.integers(0, 8))]
    return World(pools, batches, settings, faults, sorted(acts, key=lambda act: act[0]), seed, unit_tokens)


def a_staged_world(seed: int) -> World:
    """Draw a world of prefill and decode pools, with prefixes or without, and transfers from none to very long."""
    rng = np.random.default_rng([seed, 3])
    lasts_s = float(rng.choice([5.0, 20.0, 60.0]))
    unit_tokens = int(rng.choice([4, 6, 12]))
    keys = [PoolKey(MODEL, name, role) for role, names in STAGED_NAMES.items() for name in names[: rng.integers(1, 3)]]
    pools = [
        replace(_with_cache(rng, _pool(rng, key.pool), unit_tokens, int(rng.choice([0, 1000, 1000]))), key=key)
        for key in keys
    ]
    batches = _hashed_batches(rng, pools, unit_tokens, lasts_s)
    mean_bytes = 1000.0 * float(np.mean(np.concatenate([batch.prompt_tokens for batch in batches])))
    transfers = {
        "kv_gb_per_s": mean_bytes / float(rng.choice([0.0001, 0.05, 0.5, 3.0])) / 1e9,
        "kv_latency_s": float(rng.choice([0.0, 0.01, 0.3])),
    }
    settings = _settings(rng).model_copy(update=_routing(rng, seed) | transfers)
    names = tuple(key.pool for key in keys)
    faults = [_fault(rng, names, lasts_s) for _ in range(rng.integers(0, 9))]
    acts = [(float(rng.uniform(0, lasts_s)), _act(rng, names, 7, _weigh_stages)) for _ in range(rng.integers(0, 10))]
    return World(pools, batches, settings, faults, sorted(acts, key=lambda act: act[0]), seed, unit_tokens)


def _settings(rng: np.random.Generator) -> FleetSettings:
    return FleetSettings(
        gateway_timeout_s=float(rng.uniform(1, 20)),
        request_timeout_s=float(rng.uniform(2, 60)),
        drain_deadline_s=float(rng.uniform(0, 10)),
        restart_backoff_s=float(rng.uniform(0, 5)),
        scrape_interval_s=float(rng.uniform(0.5, 5)),
        scrape_delay_s=float(rng.uniform(0, 3)),
        gpus_per_node=int(rng.choice([2, 4, 8])),
        finish_grace_s=300.0,
    )


def _routing(rng: np.random.Generator, seed: int) -> dict[str, Any]:
    return {
        "routing": ROUTINGS[seed % len(ROUTINGS)],
        "prefix_match_ratio": float(rng.choice([0.0, 0.3, 0.7, 1.0])),
        "prefix_most_ahead": int(rng.choice([0, 1, 3, 64])),
        "prefix_most_ratio": float(rng.choice([1.0, 1.5])),
    }


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


def _with_cache(rng: np.random.Generator, pool: PoolSpec, unit_tokens: int, kv_bytes_per_token: int = 0) -> PoolSpec:
    """Let the blocks of the pool's engines divide a unit, and say which idle unit goes first."""
    block_tokens = unit_tokens // int(rng.choice([n for n in (1, 2, 3, 4) if unit_tokens % n == 0]))
    changes = {
        "block_tokens": block_tokens,
        "kv_cache_tokens": block_tokens * int(rng.integers(4, 80)),
        "prefix_cache": str(rng.choice(["lru", "lfu", "lru", "lfu", "off"])),
        "kv_bytes_per_token": kv_bytes_per_token,
    }
    return replace(pool, profile=pool.profile.model_copy(update=changes))


def _hashed_batches(
    rng: np.random.Generator, pools: Sequence[PoolSpec], unit_tokens: int, lasts_s: float
) -> list[Batch]:
    """Draw prompts of sessions that grow by each turn; sessions of one kind begin alike. Some come without hashes."""
    requests = int(rng.integers(1, 160))
    longest = max(pool.profile.kv_cache_tokens for pool in pools)
    arrival_s = np.sort(rng.uniform(0, lasts_s, requests))
    output = np.clip(rng.lognormal(math.log(longest / 16), 0.9, requests), 1, longest).astype(np.int32)
    output[rng.random(requests) < 0.15] = 1
    without = float(rng.choice([0.0, 0.1, 1.0], p=[0.5, 0.4, 0.1]))
    sessions = int(rng.integers(1, 12))
    alike_tokens = int(rng.uniform(0, longest / 4))
    held, generation = [alike_tokens] * sessions, [0] * sessions
    prompt, hashes = np.zeros(requests, np.int32), []
    for place in range(requests):
        session = int(rng.integers(sessions))
        held[session] += int(np.ceil(rng.lognormal(math.log(longest / 20), 0.9)))
        prompt[place] = min(held[session], int(1.1 * longest))
        units = -(-int(prompt[place]) // unit_tokens) + int(rng.choice([0, 0, 0, -1, 2]))
        told = [
            (session % 2,) if n * unit_tokens < alike_tokens else (session, generation[session]) for n in range(units)
        ]
        has = rng.random() >= without
        hashes.append([hash((*key, unit)) for unit, key in enumerate(told)] if has else [])
        held[session] += int(output[place])
        if held[session] > longest * 0.7:
            held[session], generation[session] = alike_tokens, generation[session] + 1
    blocks = BlockHashes.of(hashes)
    cut = int(rng.integers(0, requests + 1))
    return [
        HashedBatch(arrival_s[first:last], prompt[first:last], output[first:last], blocks.between(first, last))
        for first, last in ((0, cut), (cut, requests))
    ]


def _fault(rng: np.random.Generator, names: tuple[str, ...], lasts_s: float) -> Fault:
    at, lasting_s = float(rng.uniform(0, lasts_s)), float(rng.choice([math.inf, rng.uniform(0, lasts_s)]))
    target = ReplicaTarget(str(rng.choice(names)), int(rng.integers(0, 4)))
    either = target if rng.random() < 0.5 else replace(target, replica=None)
    behaviours = [Fine(), CrashesAtStart(), CrashesAfter(3.0), IsSlow(2.0), HasErrors(0.4), HangsAfter(3.0)]
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
        lambda: Hang(at, target, running_zero=bool(at > lasts_s / 2), duration_s=lasting_s / 3),
        lambda: NodeLoss(at, target, grace_s=min(lasting_s, 10.0)),
        lambda: Partition(at, either, lasting_s),
        lambda: KvShrink(at, either, float(rng.uniform(0.05, 0.9)), lasting_s),
        lambda: CounterReset(at, target),
        lambda: OutOfMemory(at, target, float(rng.uniform(0.5, 1.0)), lasting_s),
        lambda: Retries(at, int(rng.integers(1, 4)), float(rng.uniform(0.01, 5)), lasting_s),
        lambda: ColdStarts(at, target, 2.0, float(rng.uniform(1, 10)), lasting_s),
        lambda: Poison(at, int(rng.integers(0, 3)), int(rng.integers(1, 60))),
        lambda: Rollout(at, target, behaviour=behaviours[rng.integers(len(behaviours))]),
        lambda: StartFailures(at, target, "CrashLoopBackOff" if at > lasts_s / 2 else "ImagePullBackOff", lasting_s),
        lambda: XidError(at, target, 79, exits=bool(at > lasts_s / 2)),
        lambda: MetricLoss(at, "queued_requests", lasting_s),
    ]
    return kinds[rng.integers(len(kinds))]()


def _weigh(fleet: SimulatedFleet, weights: npt.NDArray[np.float64]) -> None:
    keys = [pool.key for pool in fleet.cluster.pools()]
    fleet.router.set_weights(MODEL, dict(zip(keys, weights.tolist(), strict=False)))


def _weigh_stages(fleet: SimulatedFleet, weights: npt.NDArray[np.float64]) -> None:
    """Let the weights of each stage sum to one, or all of them be zero."""
    decodes = np.array([pool.key.role is Role.DECODE for pool in fleet.cluster.pools()])
    shares = np.resize(weights, len(decodes))
    for stage in (decodes, ~decodes):
        shares[stage] /= max(shares[stage].sum(), 1.0)
    fleet._gateway.set_shares(shares.tolist(), fleet.clock.now())


def _act(
    rng: np.random.Generator,
    names: tuple[str, ...],
    kinds: int = 6,
    weigh: Callable[[SimulatedFleet, npt.NDArray[np.float64]], None] = _weigh,
) -> Act:
    place, number, weights = int(rng.integers(len(names))), int(rng.integers(0, 6)), rng.choice([0.0, 1.0, 3.0], 3)
    kind = rng.integers(kinds)

    def act(fleet: SimulatedFleet) -> None:
        pool = fleet.cluster.pools()[place]
        ids = [replica.id for replica in pool.replicas]
        if kind < 2:
            fleet.cluster.scale(pool.key, number, pool.version)
        elif kind == 2 and weights[: len(names)].sum() > 0:
            weigh(fleet, weights)
        elif kind == 3:
            fleet.cluster.roll_back(pool.key, "1")
        elif kind == 4 and ids:
            fleet.cluster.cordon(pool.key, ids[number % len(ids)])
        elif kind == 6 and ids:
            fleet.cluster.uncordon(pool.key, ids[number % len(ids)])
        elif ids:
            fleet.cluster.restart(pool.key, ids[number % len(ids)])

    return act
