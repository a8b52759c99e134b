"""What tests of rivals share: a pool in a given state, and a pool that follows its autoscaler at once."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from policies.decisions import Policy
from policies.engine_profile import EngineProfile
from policies.fleet import Demand, FleetState, Phase, PoolKey, PoolState, ReplicaMetrics, ReplicaState
from policies.memory import PolicyMemory
from policies.placement import PoolSettings
from policies.profile_catalogue import profile_named

KEY = PoolKey("m", "p")
PROFILE = profile_named("llama-3.1-8b-l40s-tp1").model_copy(update={"kv_cache_tokens": 10_000})


def bounds(least: int = 1, most: int = 64, profile: EngineProfile = PROFILE) -> PoolSettings:
    return PoolSettings(profile=profile, min_replicas=least, max_replicas=most)


def metrics(
    at: float = 0.0,
    running: float = 0.0,
    queued: float = 0.0,
    kv: float = 0.0,
    steps: float = 0.0,
    prompts: float = 0.0,
) -> ReplicaMetrics:
    return ReplicaMetrics(at, running, queued, kv, steps, prompts, 0.0, 0.0)


def replica(
    number: int, phase: Phase = Phase.READY, in_flight: float = math.nan, seen: ReplicaMetrics | None = None
) -> ReplicaState:
    return ReplicaState(f"r{number}", phase, 0.0, 0.0, in_flight_requests=in_flight, metrics=seen)


def pool(
    *ready: ReplicaState, starting: int = 0, desired: int | None = None, key: PoolKey = KEY, usd: float = 1.0
) -> PoolState:
    """A pool with these READY replicas and others on their way; desired is as many as there are unless it is given."""
    replicas = (*ready, *(replica(100 + number, Phase.LOADING) for number in range(starting)))
    count = len(replicas) if desired is None else desired
    return PoolState(key, replicas, desired=count, gpus_per_replica=1, usd_per_replica_hour=usd, weight=1.0)


def in_flight(*requests: float, starting: int = 0) -> PoolState:
    """A pool whose READY replicas have so many requests under way."""
    return pool(*(replica(i, in_flight=n) for i, n in enumerate(requests)), starting=starting)


def engines(*seen: ReplicaMetrics, starting: int = 0, key: PoolKey = KEY, usd: float = 1.0) -> PoolState:
    """A pool whose READY replicas' engines said this."""
    return pool(*(replica(i, seen=each) for i, each in enumerate(seen)), starting=starting, key=key, usd=usd)


def load(requests_per_s: float, prompt: float = 500.0, output: float = 100.0) -> Mapping[str, Demand]:
    return {"m": Demand(requests_per_s, requests_per_s * prompt, requests_per_s * output)}


def asked(policy: Policy, fleet: FleetState, memory: PolicyMemory | None = None) -> int:
    """Return the replicas that ``policy`` asks for of the one pool."""
    plans = policy.decide(fleet, {}, memory or PolicyMemory()).scaling
    return plans[0].desired if plans else fleet.pools[0].desired


@dataclass
class Follows:
    """One pool that has what its autoscaler last asked for, READY at once, with figures that are shared out evenly."""

    policy: Policy
    replicas: int
    memory: PolicyMemory = field(default_factory=PolicyMemory)

    def tick(
        self,
        at: float,
        *,
        requests: float = 0.0,
        queued: float = 0.0,
        kv: float = 0.0,
        requests_per_s: float | None = None,
        held: float = 0.0,
    ) -> int:
        """Show it ``requests`` under way, ``queued`` of them waiting, and ``kv`` replicas' worth of KV cache in use."""
        n = max(1, self.replicas)
        seen = metrics(at, (requests - queued) / n, queued / n, kv if math.isnan(kv) else min(1.0, kv / n))
        ready = [replica(i, in_flight=requests / n, seen=seen) for i in range(self.replicas)]
        demand = {} if requests_per_s is None else load(requests_per_s)
        return self._decided(FleetState(at, (pool(*ready),), demand=demand, gateway_queued={"m": held}))

    def _decided(self, fleet: FleetState) -> int:
        decision = self.policy.decide(fleet, {}, self.memory)
        self.memory = decision.memory
        self.replicas = decision.scaling[0].desired if decision.scaling else self.replicas
        return self.replicas


def over(ticks: Sequence[float], tick: float) -> list[float]:
    """Return the instants from the first to the last of ``ticks``, every ``tick`` seconds."""
    count = round((ticks[-1] - ticks[0]) / tick)
    return [ticks[0] + number * tick for number in range(count + 1)]


def without_metrics(state: PoolState) -> PoolState:
    return replace(state, replicas=tuple(replace(r, metrics=None, in_flight_requests=math.nan) for r in state.replicas))
