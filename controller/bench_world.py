"""What stands around the loop when only the loop is measured: a fleet that does not move, and stopwatches."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass

import numpy as np

from controller.forecasts import ForecastSettings, LoadForecasts
from controller.ports import ActsRecord, TickRecord
from forecasting.forecast import LoadForecast
from forecasting.forecaster import FallbackForecaster
from forecasting.last_value import LastValueForecaster
from forecasting.series import LoadSeries
from policies.decide import Foresail
from policies.decisions import Decision, Page
from policies.fleet import Demand, FleetState, NodeState, Phase, PoolKey, PoolState, ReplicaState
from policies.memory import PolicyMemory
from policies.placement import PoolSettings
from policies.profile_catalogue import profile_named
from policies.settings import PolicySettings

_OLD_S = 86_400.0
_DAY_S = 86_400.0
_PROFILE = "llama-3.1-8b-l40s-tp1"

Timed = Callable[[str], AbstractContextManager[None]]


def still_pools(workloads: int, replicas: int, at: float) -> tuple[PoolState, ...]:
    """Return a pool for each workload, all of them up for a day; names are as long as names are."""
    keys = [PoolKey(f"bench-org/model-{number:04d}-instruct", f"p{number:04d}") for number in range(workloads)]
    since = at - _OLD_S
    members: list[list[ReplicaState]] = [[] for _ in keys]
    for number in range(replicas):
        name = f"vllm-{number:05d}-7d4b9c6f5d-x{number * 7919 % 10_000:04d}"
        members[number % workloads].append(ReplicaState(name, Phase.READY, since, since))
    return tuple(
        PoolState(key, tuple(found), len(found), gpus_per_replica=1, usd_per_replica_hour=1.0)
        for key, found in zip(keys, members, strict=True)
    )


class ObservedFleet:
    """``Cluster`` and ``Router`` of a fleet that is only looked at.

    Attributes:
        policy: Settings for its pools.
        models: Its models, each of which has one pool.
    """

    def __init__(self, pools: tuple[PoolState, ...]) -> None:
        """Tell of ``pools``, which never change."""
        self._pools = pools
        keys = [pool.key for pool in pools]
        most = 4 * max(len(pool.replicas) for pool in pools)
        pool = PoolSettings(profile=profile_named(_PROFILE), min_replicas=1, max_replicas=most)
        self.policy = PolicySettings(pools={str(key): pool for key in keys})
        self.models = [key.model for key in keys]
        self._weights = {key.model: {key: 1.0} for key in keys}

    def pools(self) -> tuple[PoolState, ...]:
        """Return every pool."""
        return self._pools

    def nodes(self) -> Mapping[str, NodeState]:
        """Return none: nothing here depends on them."""
        return {}

    def weights(self, model: str) -> Mapping[PoolKey, float]:
        """Return all of a model's traffic on its only pool."""
        return self._weights[model]

    def scale(self, pool: PoolKey, replicas: int, version: int, retire_first: tuple[str, ...] = ()) -> None:
        """Refuse: everything is only observed."""
        raise AssertionError("nothing is written while ticks are measured")

    def cordon(self, pool: PoolKey, replica: str) -> None:
        """Refuse: everything is only observed."""
        raise AssertionError("nothing is written while ticks are measured")

    uncordon = restart = roll_back = cordon

    def pause(self, pool: PoolKey) -> None:
        """Refuse: everything is only observed."""
        raise AssertionError("nothing is written while ticks are measured")

    resume = pause

    def avoid(self, node: str) -> None:
        """Refuse: everything is only observed."""
        raise AssertionError("nothing is written while ticks are measured")

    stop_avoiding = avoid

    def set_weights(self, model: str, weights: Mapping[PoolKey, float]) -> None:
        """Refuse: everything is only observed."""
        raise AssertionError("nothing is written while ticks are measured")


class NoAudit:
    """Keeps nothing."""

    def append(self, record: TickRecord) -> str:
        """Keep nothing of it."""
        return "none"

    def settle(self, outcome: ActsRecord) -> None:
        """Keep nothing of it."""


class NoNotifier:
    """Tells nobody."""

    def page(self, page: Page, at: float) -> None:
        """Tell nobody."""

    def recommend(self, subject: str, what: str, at: float) -> None:
        """Tell nobody."""


class TimedForecasts(LoadForecasts):
    """The loop's forecasts with the daemon's default forecaster, timed."""

    def __init__(
        self, timed: Timed, tick_s: float, settings: ForecastSettings, before: Mapping[str, LoadSeries]
    ) -> None:
        super().__init__(FallbackForecaster((LastValueForecaster(),)), tick_s, settings, before)
        self._timed = timed

    def learn(self, fleet: FleetState, hidden: Collection[str] = ()) -> Mapping[str, Demand]:
        """Do it, and note how long it took."""
        with self._timed("forecast"):
            return super().learn(fleet)

    def forecast_many(self, horizons_s: Mapping[str, float]) -> dict[str, LoadForecast]:
        """Do it, and note how long it took."""
        with self._timed("forecast"):
            return super().forecast_many(horizons_s)


@dataclass(frozen=True, slots=True)
class TimedPolicy:
    """The policy of this project, timed."""

    timed: Timed
    policy: Foresail
    name: str = "foresail"

    def decide(self, fleet: FleetState, forecasts: Mapping[str, LoadForecast], memory: PolicyMemory) -> Decision:
        """Do it, and note how long it took."""
        with self.timed("decide"):
            return self.policy.decide(fleet, forecasts, memory)


def load_before(models: list[str], at: float, step_s: float, span_s: float) -> dict[str, LoadSeries]:
    """Return a day like any other, as often as it fits, for every model; nothing for a span under a step."""
    steps = int(span_s // step_s)
    if not steps:
        return {}
    rng = np.random.default_rng(0)
    hours = np.arange(steps) * step_s / _DAY_S
    before = {}
    for number, model in enumerate(models):
        mean = 10.0 * (1.0 + number % 7) * (1.0 + 0.5 * np.sin(2 * np.pi * (hours + number / len(models))))
        rates = rng.poisson(mean * step_s) / step_s
        before[model] = LoadSeries(at - steps * step_s, step_s, rates[:, None] * np.array([1.0, 900.0, 220.0]))
    return before
