"""Builders of simulated fleets: a fast engine with round figures, batches of requests, fleets of one or more pools."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from policies.engine_profile import EngineProfile
from policies.fleet import PoolKey
from policies.slo import ServiceObjective
from simulations.fleet import SimulatedFleet
from simulations.platform_settings import PlatformSettings
from simulations.pool import PoolSpec
from simulations.settings import FleetSettings
from simulations.startup import StartupModel

MODEL = "test/model"


def a_profile(**changes: Any) -> EngineProfile:
    """An engine with a 10 ms step, cheap prefill and room for a hundred thousand tokens."""
    figures: dict[str, Any] = {
        "name": "test-engine",
        "model": MODEL,
        "gpu": "test",
        "gpus": 2,
        "decode_base_s": 0.01,
        "decode_per_sequence_s": 0.0,
        "decode_per_kv_token_s": 0.0,
        "prefill_base_s": 0.01,
        "prefill_per_token_s": 1e-6,
        "prefill_per_token2_s": 0.0,
        "kv_cache_tokens": 100_000,
        "max_running": 64,
        "max_batched_tokens": 2048,
        "block_tokens": 16,
        "usd_per_gpu_hour": 1.0,
        "source": "round figures for tests",
    }
    return EngineProfile(**{**figures, **changes})


@dataclass(frozen=True)
class Batch:
    """The columns of a request batch."""

    arrival_s: npt.NDArray[np.float64]
    prompt_tokens: npt.NDArray[np.int32]
    output_tokens: npt.NDArray[np.int32]


def a_batch(arrival_s: npt.ArrayLike, prompt_tokens: npt.ArrayLike = 100, output_tokens: npt.ArrayLike = 20) -> Batch:
    """One batch; a single length stands for all requests."""
    arrivals = np.asarray(arrival_s, dtype=np.float64)
    return Batch(
        arrivals,
        np.broadcast_to(np.asarray(prompt_tokens, dtype=np.int32), arrivals.shape),
        np.broadcast_to(np.asarray(output_tokens, dtype=np.int32), arrivals.shape),
    )


def poisson(rate_per_s: float, requests: int, seed: int = 0) -> npt.NDArray[np.float64]:
    """Arrivals of a Poisson stream, from the first one at 0."""
    gaps = np.random.default_rng(seed).exponential(1.0 / rate_per_s, requests)
    return np.asarray(np.cumsum(gaps) - gaps[0], dtype=np.float64)


def a_key(pool: str = "main") -> PoolKey:
    return PoolKey(MODEL, pool)


def a_pool(replicas: int = 1, pool: str = "main", **changes: Any) -> PoolSpec:
    """A pool with a constant lead time of 100 s, 20 s of it pending, unless changed."""
    spec: dict[str, Any] = {
        "key": a_key(pool),
        "profile": a_profile(),
        "replicas": replicas,
        "lead_time_s": 100.0,
        "startup": StartupModel(p90_ratio=changes.pop("lead_time_p90_ratio", 1.0)),
    }
    return PoolSpec(**{**spec, **changes})


def a_fleet(
    pools: Sequence[PoolSpec] | None = None,
    batches: Sequence[Batch] = (),
    seed: int = 0,
    objective: ServiceObjective | None = None,
    platform: PlatformSettings | None = None,
    **settings: Any,
) -> SimulatedFleet:
    """A fleet of one replica without load, unless told otherwise."""
    return SimulatedFleet(
        pools if pools is not None else [a_pool()],
        batches,
        objective or ServiceObjective(),
        FleetSettings(**settings),
        seed,
        platform,
        keep_rows=True,
    )
