"""What is a world of the fault benchmark: fleet, load, faults and instants, all drawn from the kind and a seed?"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from zlib import crc32

import numpy as np

from policies.anomaly import AnomalySettings
from policies.canary_evidence import CanarySettings
from policies.engine_profile import EngineProfile
from policies.fleet import PoolKey
from policies.healing_settings import HealingSettings
from policies.placement import PoolSettings
from policies.profile_catalogue import profile_named
from policies.settings import PolicySettings
from policies.slo import ServiceObjective
from simulations.arrivals import ArrivalProcess
from simulations.case import SimulationSettings, pool_name, prepare
from simulations.rate_curve import RateCurve
from simulations.settings import FleetSettings
from simulations.token_shapes import token_shape_named
from simulations.trace import Float64
from simulations.workload import Client, DrawnTrace

STEP_S = 15.0
"""Step of a world's load, in seconds."""

_EVEN = ArrivalProcess()
_TEST_S = 600.0


@dataclass(frozen=True, slots=True)
class Ground:
    """What a world stands on, before anything goes wrong.

    Attributes:
        profiles: One engine per pool, all of one model.
        shape: Name of the token shape.
        replicas: Of each pool, at the start.
        floor, most: Bounds of each pool.
        level: Load as a share of what all replicas were tested to sustain within the objective.
        lead_time_s: Median seconds from placement to READY.
        struck_s: When the failure begins, seconds after the start; of a fault-free world NaN.
        end_s: When the last request comes.
    """

    profiles: tuple[EngineProfile, ...]
    shape: str
    replicas: int
    floor: int
    most: int
    level: float
    lead_time_s: float
    struck_s: float
    end_s: float

    @property
    def pools(self) -> tuple[str, ...]:
        """Names of the pools, as faults give them."""
        return tuple(PoolKey.parse(pool_name(profile)).pool for profile in self.profiles)

    @property
    def steps(self) -> int:
        """Steps of its load."""
        return math.ceil(self.end_s / STEP_S)


@dataclass(frozen=True, slots=True, eq=False)
class World:
    """One world, ready to be replayed by any policy.

    Attributes:
        kind, seed: What it is made from, and all that is needed to make it again.
        ground: What it stands on.
        trace: What arrives.
        settings: Pools, faults and everything else.
        pool: The pool that the failure is about; empty where it is about all.
        over_s: When what is wrong ends by itself, in seconds after the start; infinity when it does not.
    """

    kind: str
    seed: int
    ground: Ground
    trace: DrawnTrace
    settings: SimulationSettings
    pool: str
    over_s: float = math.inf

    @property
    def command(self) -> str:
        """The command that plays it again."""
        return f"foresail bench healing --faults {self.kind} --seed {self.seed} --worlds 1"


@dataclass(frozen=True, slots=True)
class Strike:
    """What goes wrong in one world.

    Attributes:
        faults: As ``simulate --fault`` takes them.
        pool: The pool that they are about; empty for all.
        over_s: When they end by themselves.
        patience_s: When clients give up; None for what SDKs default to.
        load: ``float64[T]`` requests/s per step instead of a steady load; None keeps that.
        gpus_exported: Whether GPUs must be exported for it to be seen; else that is drawn.
        may_avoid_nodes: Whether the settings allow to keep replicas off a node.
        cv: Coefficient of variation of the gaps between arrivals.
        canaries: Whether idle replicas are asked for a token.
    """

    faults: tuple[str, ...] = ()
    pool: str = ""
    over_s: float = math.inf
    patience_s: float | None = None
    load: Float64 | None = None
    gpus_exported: bool = False
    may_avoid_nodes: bool = False
    cv: float = 1.0
    canaries: bool = False


def dice(kind: str, seed: int) -> np.random.Generator:
    """Return the generator that everything in a world is drawn from."""
    return np.random.default_rng([crc32(kind.encode()), seed])


def built(kind: str, seed: int, ground: Ground, strike: Strike, rng: np.random.Generator) -> World:
    """Return the world that stands on ``ground`` and in which ``strike`` happens."""
    rates = steady(ground) if strike.load is None else strike.load
    client = Client(RateCurve(STEP_S, rates), ArrivalProcess(strike.cv), token_shape_named(ground.shape))
    trace = DrawnTrace(f"{kind} {seed}", "the fault benchmark", True, [client], int(rng.integers(2**31)))
    policy = PolicySettings(
        objective=objective_of(ground.shape),
        healing=HealingSettings(may_avoid_nodes=strike.may_avoid_nodes),
        anomaly=AnomalySettings(canary=CanarySettings(enabled=strike.canaries)),
    )
    settings = SimulationSettings(
        pools={
            pool_name(profile): PoolSettings(profile=profile, min_replicas=ground.floor, max_replicas=ground.most)
            for profile in ground.profiles
        },
        lead_time_s=ground.lead_time_s,
        initial_replicas=ground.replicas,
        faults=strike.faults,
        seed=int(rng.integers(2**31)),
        policy=policy,
        fleet=FleetSettings(
            gateway_scrape_phase_s=float(rng.uniform(0.0, 15.0)),
            gpus_per_node=int(max(profile.gpus for profile in ground.profiles) * rng.choice([1, 2])),
            gpu_metrics=strike.gpus_exported or bool(rng.random() < 0.5),
            request_timeout_s=strike.patience_s or FleetSettings().request_timeout_s,
        ),
    )
    return World(kind, seed, ground, trace, settings, strike.pool, strike.over_s)


def steady(ground: Ground) -> Float64:
    """Return ``float64[T]``: the load of ``ground``, the same in all steps, in requests/s."""
    return np.full(ground.steps, ground.level * capacity_per_s(ground))


def capacity_per_s(ground: Ground) -> float:
    """Return the requests/s that all replicas of the start were tested to sustain together."""
    per_replica = [_sustained_per_s(profile, ground.shape) for profile in ground.profiles]
    return sum(per_replica) * ground.replicas


def objective_of(shape: str) -> ServiceObjective:
    """Return the objective that requests of a shape can be served within: the usual one, unless prompts are long."""
    prompt_mean = token_shape_named(shape).prompt_mean
    if prompt_mean > 20_000:
        return ServiceObjective(ttft_s=120.0, tpot_s=1.0)
    return ServiceObjective(ttft_s=4.0) if prompt_mean > 2_500 else ServiceObjective()


@lru_cache(maxsize=256)
def _sustained_per_s(profile: EngineProfile, shape: str) -> float:
    """Return the requests/s that one replica sustains in a load test."""
    client = Client(RateCurve(STEP_S, np.full(round(_TEST_S / STEP_S), 2.0)), _EVEN, token_shape_named(shape))
    pools = {pool_name(profile): PoolSettings(profile=profile)}
    settings = SimulationSettings(pools=pools, policy=PolicySettings(objective=objective_of(shape)))
    trace = DrawnTrace("load test", "the fault benchmark", True, [client], 0)
    return prepare(trace, settings).pools[0].requests_per_s


def engines(rng: np.random.Generator, pools: int) -> tuple[EngineProfile, ...]:
    """Return the engines of so many pools: one model on different GPUs."""
    choices = _ENGINES[int(rng.integers(len(_ENGINES)))]
    drawn = rng.permutation(len(choices))[:pools]
    return tuple(profile_named(choices[index]) for index in drawn)


_ENGINES = (
    ("llama-3.1-70b-a100-tp4", "llama-3.1-70b-h100-tp4", "llama-3.1-70b-h200-tp4"),
    ("llama-3.1-8b-a100-tp1", "llama-3.1-8b-l40s-tp1", "llama-3.1-8b-h100-tp1"),
    ("qwen3-32b-a100-tp4", "qwen3-32b-h100-tp2", "qwen3-32b-h200-tp2"),
)
