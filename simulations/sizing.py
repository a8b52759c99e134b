"""How many replicas does a known load need, going by one load test that every policy is told of?

An operator load-tests one replica per pool before going live. Here the benchmark of the simulated engine stands for
that test, at the trace's own mix of request lengths. Foresail is told what share of the step-time formula the test
really sustained, HPA's target is set from the concurrency that it held, the static and the clairvoyant fleet are sized
by its requests/s, and all runs begin with the same replicas. Nobody is told more than the others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from weakref import finalize

import numpy as np

from forecasting.series import OUTPUT_TOKENS, PROMPT_TOKENS, REQUESTS, FloatArray, LoadSeries
from policies.capacity import capacity_of, whole_replicas
from policies.engine_profile import EngineProfile
from policies.fleet import Demand, PoolKey, Role
from policies.placement import PoolSettings
from policies.slo import ServiceObjective
from simulations.benchmark import SustainedLoad, sustained_load
from simulations.cached_prompts import cached_prompt_ratio
from simulations.trace import Trace
from simulations.trace_counts import counted
from simulations.trace_load import TokenSample, token_shape

KNOWN_STEP_S = 15.0
"""Step at which the load of a whole trace is counted for those who know it, in seconds."""

FIRST_S = 300.0
"""Beginning of a trace whose mean load decides the first replicas, in seconds."""

FIRST_UTILISATION = 0.7
"""Share of its tested load that a replica carries in the fleet that a run begins with: nobody runs without headroom."""

_CHANNELS = (REQUESTS, PROMPT_TOKENS, OUTPUT_TOKENS)

_TEST_SEED = 0
"""One load test for all seeds of a comparison: the operator does not test anew for every day."""


@dataclass(frozen=True, slots=True)
class TestedPool:
    """A pool and what one of its replicas sustained.

    Attributes:
        settings: The pool's settings, with ``efficiency_ratio`` as tested.
        requests_per_s: Load that one replica sustained within the objective.
        concurrency: Requests in the replica at that load.
        cached_prompt_ratio: Share of the trace's prompt tokens that its prefix cache would hold; the test had none.
        usd_per_request_capacity: US dollars per hour for each request/s of capacity.
    """

    key: PoolKey
    settings: PoolSettings
    requests_per_s: float
    concurrency: float
    cached_prompt_ratio: float = 0.0

    @property
    def usd_per_request_capacity(self) -> float:
        """Price of carrying one request/s for an hour."""
        return self.settings.profile.gpus * self.settings.profile.usd_per_gpu_hour / self.requests_per_s


def load_tested(pools: Mapping[str, PoolSettings], objective: ServiceObjective, trace: Trace) -> tuple[TestedPool, ...]:
    """Return every pool as load-tested with the trace's request lengths, in key order.

    A pool whose settings name an efficiency keeps it: its operator has tested it before.
    """
    lengths = token_shape(trace)
    shape = Demand(1.0, float(lengths.prompt_tokens.mean()), float(lengths.output_tokens.mean()))
    tested = []
    for name, settings in sorted(pools.items()):
        key = PoolKey.parse(name)
        # What it costs does not change what it carries: pools that differ in price alone share one test.
        untagged = settings.profile.model_copy(update={"usd_per_gpu_hour": 0.0})
        load = _benchmark(untagged, objective, _Lengths(lengths), key.role)
        formula = capacity_of(settings.profile, objective, shape, efficiency=1.0, role=key.role)
        measured = min(1.5, load.requests_per_s / formula.demand.requests_per_s)
        known = settings.model_copy(update={"efficiency_ratio": settings.efficiency_ratio or measured})
        cached = 0.0 if key.role is Role.DECODE else cached_prompt_ratio(trace, settings.profile)
        tested.append(TestedPool(key, known, load.requests_per_s, load.concurrency, cached))
    return tuple(tested)


def known_load(trace: Trace) -> LoadSeries:
    """Return the load that really arrives, in steps of ``KNOWN_STEP_S``: for those who may know it.

    A last step that is not complete is left out, unless it is the only one. A trace is counted once, however many
    policies replay it; what was counted goes with it.
    """
    load = _known_loads.get(id(trace))
    if load is None:
        rates = counted(trace.batches(), KNOWN_STEP_S)
        load = LoadSeries(0.0, KNOWN_STEP_S, rates if len(rates) else counted(trace.batches(), KNOWN_STEP_S, 1))
        _known_loads[id(trace)] = load
        finalize(trace, _known_loads.pop, id(trace))
    return load


_known_loads: dict[int, LoadSeries] = {}


def replicas_for(
    load: LoadSeries,
    window_s: float,
    utilisation_ratio: float,
    objective: ServiceObjective,
    pools: Sequence[TestedPool],
) -> Mapping[PoolKey, FloatArray]:
    """Return ``float64[T]`` replicas per pool, not rounded, that carry ``load`` averaged over ``window_s``.

    Each replica carries ``utilisation_ratio`` of what it was tested for, each step counted in requests of its own token
    shape. The window is centred; at the ends it is cut off. Pools of a stage are filled in order of price per capacity,
    each from its minimum to its maximum; what fits nowhere is left out. Every stage carries all of the load.
    """
    stages = {pool.key.stage: [other for other in pools if other.key.stage == pool.key.stage] for pool in pools}
    answer: dict[PoolKey, FloatArray] = {}
    for members in stages.values():
        answer |= _stage_replicas(load, window_s, utilisation_ratio, objective, members)
    return answer


def _stage_replicas(
    load: LoadSeries,
    window_s: float,
    utilisation_ratio: float,
    objective: ServiceObjective,
    pools: Sequence[TestedPool],
) -> dict[PoolKey, FloatArray]:
    smooth = _smoothed(load.values, max(1, round(window_s / load.step_s)))
    cheapest = sorted(pools, key=lambda pool: (pool.usd_per_request_capacity, pool.key))
    worth = {pool.key: pool.requests_per_s / cheapest[0].requests_per_s for pool in cheapest}
    answer: dict[PoolKey, FloatArray] = {}
    floor = sum(pool.settings.min_replicas * worth[pool.key] for pool in cheapest)
    left = _in_replicas(smooth, objective, cheapest[0]) / utilisation_ratio - floor
    for pool in cheapest:
        room = pool.settings.max_replicas - pool.settings.min_replicas
        share = np.clip(left / worth[pool.key], 0.0, room)
        answer[pool.key] = pool.settings.min_replicas + share
        left = left - share * worth[pool.key]
    return answer


def covering(needed: Mapping[PoolKey, FloatArray]) -> Mapping[PoolKey, int]:
    """Return the fewest whole replicas per pool that are enough in every step."""
    return {key: whole_replicas(float(replicas.max(initial=0.0))) for key, replicas in needed.items()}


def first_replicas(load: LoadSeries, objective: ServiceObjective, pools: Sequence[TestedPool]) -> Mapping[PoolKey, int]:
    """Return the replicas for the mean load of the first ``FIRST_S`` with the usual headroom.

    What an operator would run before any autoscaler is switched on, and the same for every policy.
    """
    beginning = load.window(0, max(1, round(FIRST_S / load.step_s)))
    as_one_step = LoadSeries(0.0, FIRST_S, beginning.values.mean(axis=0, keepdims=True))
    return covering(replicas_for(as_one_step, FIRST_S, FIRST_UTILISATION, objective, pools))


def _smoothed(values: FloatArray, steps: int) -> FloatArray:
    """Return ``float64[T, C]`` centred means over ``steps``; where the window leaves the series, over what is left."""
    kernel = np.ones(min(steps, len(values)))
    weight = np.convolve(np.ones(len(values)), kernel, mode="same")
    return np.stack([np.convolve(channel, kernel, mode="same") / weight for channel in values.T], axis=1)


def _in_replicas(values: FloatArray, objective: ServiceObjective, pool: TestedPool) -> FloatArray:
    """Return how many replicas of ``pool`` carry each row of rates, at the row's own token shape."""
    efficiency = pool.settings.efficiency_ratio or 1.0
    needed = np.zeros(len(values))
    for row, rates in enumerate(values):
        if rates[REQUESTS] > 0:
            requests, prompts, outputs = (float(rates[channel]) for channel in _CHANNELS)
            shape = Demand(requests, prompts, outputs, pool.cached_prompt_ratio)
            one = capacity_of(pool.settings.profile, objective, shape, efficiency, pool.key.role)
            needed[row] = rates[REQUESTS] / one.demand.requests_per_s
    return needed


class _Lengths:
    """A token sample that compares by content, so that a load test is run once."""

    def __init__(self, sample: TokenSample) -> None:
        self.sample = sample
        self._content = (sample.prompt_tokens.tobytes(), sample.output_tokens.tobytes())

    def __hash__(self) -> int:
        return hash(self._content)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Lengths) and self._content == other._content


@lru_cache(maxsize=64)
def _benchmark(profile: EngineProfile, objective: ServiceObjective, lengths: _Lengths, role: Role) -> SustainedLoad:
    sample = lengths.sample
    return sustained_load(profile, objective, sample.prompt_tokens, sample.output_tokens, _TEST_SEED, role)
