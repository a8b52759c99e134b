"""How many prompts a second does one of several prefill replicas sustain behind a gateway?

A prefill replica is a queue. With a constant number of requests in flight, as in the load test of other replicas
(``benchmark.py``), a queue is never empty, and what it sustains is its speed; prompts that come at random need idle
time between them, the more the longer some of them are. So a few replicas are tested together, under Poisson arrivals
that the gateway sends to the least busy one.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from policies.engine_profile import EngineProfile
from policies.slo import ServiceObjective
from simulations.fleet_kernel import FleetKernel
from simulations.kernel.arrays import Timing

REPLICAS = 4
"""Fewer would make a fleet dearer than it is, more would make a small one cheaper."""

_COUNTED_REQUESTS = 8000
_HALVINGS = 12
_NO_LIMIT_S = 1e9


def sustained_prefills(
    profile: EngineProfile, objective: ServiceObjective, prompt_tokens: npt.NDArray[np.int32], seed: int
) -> tuple[float, float] | None:
    """Return requests/s and requests in flight of one replica at the largest rate that keeps the TTFT objective.

    Prompts are drawn with replacement; every trial has the same ones at the same instants but for the rate. None when
    the objective is missed even by one after the other.

    Args:
        profile: The replicas.
        objective: TTFT limit, and the share of requests that must keep it.
        prompt_tokens: ``int32[N]``, lengths to draw from, each of which fits the replica.
        seed: Of the draw.
    """
    rng = np.random.default_rng(seed)
    prompts = prompt_tokens[rng.integers(len(prompt_tokens), size=_COUNTED_REQUESTS)]
    gaps = rng.standard_exponential(_COUNTED_REQUESTS)
    work_s = profile.prefill_per_token_s * prompts + profile.prefill_per_token2_s * np.square(prompts, dtype=np.float64)
    steps = prompts / profile.max_batched_tokens
    fastest = 1.0 / float((work_s + profile.prefill_base_s * steps).mean())
    alone_s = work_s + profile.prefill_base_s * np.ceil(steps)
    if float((alone_s <= objective.ttft_s).mean()) < objective.attainment_ratio:
        return None
    low, high = 0.0, fastest
    in_flight = 0.0
    for _ in range(_HALVINGS):
        rate = (low + high) / 2.0
        attained, mean_s = _trial(profile, objective.ttft_s, prompts, gaps / (rate * REPLICAS))
        if attained >= objective.attainment_ratio:
            low, in_flight = rate, rate * mean_s
        else:
            high = rate
    return (low, in_flight) if low else None


def _trial(
    profile: EngineProfile, ttft_s: float, prompts: npt.NDArray[np.int32], gaps_s: npt.NDArray[np.float64]
) -> tuple[float, float]:
    """Return the share of prompts within the limit, and the mean time in the system in seconds."""
    timing = Timing(_NO_LIMIT_S, _NO_LIMIT_S, _NO_LIMIT_S, ttft_s, math.inf)
    kernel = FleetKernel([profile], timing, 1, keep_rows=True, replicas=REPLICAS)
    for _ in range(REPLICAS):
        replica = kernel.add_replica(0)
        kernel.begin_life(replica)
        kernel.open(replica)
    kernel.set_weights([1.0])
    kernel.feed(np.cumsum(gaps_s), prompts, np.ones_like(prompts))
    kernel.no_more_arrivals()
    kernel.run(kernel.last_arrival_at, arrivals_too=True)
    kernel.run(_NO_LIMIT_S, arrivals_too=True, until_empty=True)
    rows = kernel.state.rows[: len(prompts)]
    return float(kernel.world["within"]) / len(prompts), float((rows["finished_at"] - rows["arrived_at"]).mean())
