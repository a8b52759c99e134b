"""Short builders of what policies look at, and small real implementations of the controller's ports.

The round engine: at 1000 prompt and 200 output tokens one replica carries exactly ``RATE`` = 4 requests/s.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from controller.actuation import Actuator
from controller.errors import ActuationError, ObservationError, StalePlan
from controller.forecasts import ForecastSettings, Horizon, LoadForecasts
from controller.loop import ControlLoop
from controller.modes import ModeSettings
from controller.ports import ActsRecord, FleetMetrics, Sources, TickRecord
from forecasting.forecast import DEFAULT_LEVELS, LoadForecast
from forecasting.forecaster import FallbackForecaster, Forecaster
from policies.capacity import CapacityModel
from policies.decide import Foresail
from policies.decisions import Decision, Page, Policy
from policies.engine_profile import EngineProfile
from policies.fleet import (
    Demand,
    FleetState,
    NodeState,
    Phase,
    PoolKey,
    PoolState,
    ReplicaMetrics,
    ReplicaState,
    ServiceLevel,
)
from policies.memory import PolicyMemory
from policies.placement import PoolOption, PoolSettings
from policies.scaling import ScalingSettings
from policies.settings import PolicySettings
from policies.stabilization import StabilizationSettings

AT = 1_000_000.0
MODEL = "m"
KEY = PoolKey(MODEL, "a")
OTHER = PoolKey(MODEL, "b")
RATE = 4.0
"""Requests/s of 1000 prompt and 200 output tokens that a replica of ``a_profile()`` carries: (1 - 0.02/0.1) / 0.2 s."""
WINDOW_S = 120.0


def a_profile(**changes: Any) -> EngineProfile:
    """Each request takes 0.1 s of prefill and 0.1 s of decode, on top of empty steps of 20 ms."""
    figures: dict[str, Any] = {
        "name": "round",
        "model": MODEL,
        "gpu": "test",
        "gpus": 2,
        "decode_base_s": 0.02,
        "decode_per_sequence_s": 0.0005,
        "decode_per_kv_token_s": 0.0,
        "prefill_base_s": 0.02,
        "prefill_per_token_s": 1e-4,
        "prefill_per_token2_s": 0.0,
        "kv_cache_tokens": 1_000_000,
        "usd_per_gpu_hour": 1.0,
        "source": "round figures for tests",
    }
    return EngineProfile(**{**figures, **changes})


def demand(requests_per_s: float = 8.0, prompt: float = 1000.0, output: float = 200.0) -> Demand:
    return Demand(requests_per_s, requests_per_s * prompt, requests_per_s * output)


def metrics(at: float = AT, **changes: Any) -> ReplicaMetrics:
    """An engine that works on four requests."""
    figures: dict[str, Any] = {
        "observed_at": at,
        "running_requests": 4.0,
        "queued_requests": 0.0,
        "kv_cache_ratio": 0.3,
        "steps_total": 1000.0,
        "prompt_tokens_total": 1e5,
        "output_tokens_total": 2e4,
        "finished_requests_total": 100.0,
        "tpot_mean_s": 0.05,
    }
    return ReplicaMetrics(**{**figures, **changes})


def replica(name: str = "r0", phase: Phase = Phase.READY, **changes: Any) -> ReplicaState:
    """A replica of long standing, scraped at ``AT`` while it serves."""
    facts: dict[str, Any] = {
        "requested_at": AT - 10_000.0,
        "since_at": AT - 9_900.0,
        "in_flight_requests": 4.0 if phase is Phase.READY else float("nan"),
        "metrics": metrics() if phase is Phase.READY else None,
    }
    return ReplicaState(name, phase, **{**facts, **changes})


def pool(
    replicas: int | Sequence[ReplicaState] = 3, key: PoolKey = KEY, desired: int | None = None, **changes: Any
) -> PoolState:
    """A pool that has what it was asked for and takes all traffic."""
    if isinstance(replicas, int):
        replicas = [replica(f"{key.pool}{index}") for index in range(replicas)]
    standing = sum(r.phase is not Phase.DRAINING for r in replicas)
    facts: dict[str, Any] = {"gpus_per_replica": 2, "usd_per_replica_hour": 2.0, "weight": 1.0}
    return PoolState(key, tuple(replicas), standing if desired is None else desired, **{**facts, **changes})


def fleet(*pools: PoolState, at: float = AT, requests_per_s: float | None = 8.0, **changes: Any) -> FleetState:
    """Every model of ``pools`` (one pool of three when none is given) under the same demand; None: not observed."""
    pools = pools or (pool(),)
    models = {p.key.model for p in pools}
    facts: dict[str, Any] = {
        "demand": {} if requests_per_s is None else {model: demand(requests_per_s) for model in models}
    }
    return FleetState(at, pools, **{**facts, **changes})


def service(attained: float, finished: float = 1000.0, window_s: float = 300.0) -> ServiceLevel:
    return ServiceLevel(window_s, finished, finished * attained)


def forecast(requests_per_s: float, at: float = AT, horizon_s: float = 600.0, spread: float = 0.0) -> LoadForecast:
    """A flat forecast; each level lies ``spread`` requests/s above the one before, the median at the rate itself."""
    steps = round(horizon_s / 60.0)
    rates = requests_per_s + spread * (np.arange(len(DEFAULT_LEVELS)) - DEFAULT_LEVELS.index(0.5))
    values = rates[:, None, None] * np.array([1.0, 1000.0, 200.0]) * np.ones((1, steps, 1))
    return LoadForecast.ordered(at, 60.0, np.array(DEFAULT_LEVELS), values, "flat 1")


def pool_settings(least: int = 1, most: int = 64, **profile: Any) -> PoolSettings:
    return PoolSettings(profile=a_profile(**profile), min_replicas=least, max_replicas=most, efficiency_ratio=1.0)


def settings(*keys: PoolKey, least: int = 1, most: int = 64, **changes: Any) -> PolicySettings:
    """Settings for ``keys`` (``KEY`` when none is given), equal engines, ``least`` to ``most`` replicas each.

    What is usually tuned is fixed here, so that the figures of tests do not move with it: no headroom for want of a
    forecast, a stabilization window of ``WINDOW_S`` with and without one.
    """
    given: dict[str, Any] = {
        "pools": {str(key): pool_settings(least, most) for key in keys or (KEY,)},
        "scaling": ScalingSettings(missed_to_idle_cost_ratio=9.0, headroom_ratio=0.0, unforecast_headroom_ratio=0.0),
        "stabilization": StabilizationSettings(down_window_s=WINDOW_S, unforecast_down_window_s=WINDOW_S),
    }
    return PolicySettings(**{**given, **changes})


def option(
    state: PoolState | None = None, rate: float = RATE, least: int = 0, most: int = 64, **changes: Any
) -> PoolOption:
    """A pool as a place for replicas that carry ``rate`` requests/s each."""
    return PoolOption(state or pool(), pool_settings(least, most), carrying(demand(rate)), **changes)


def carrying(load: Demand) -> CapacityModel:
    """One replica that spends all its time on ``load``, half of it on prompts and half on answers."""
    return CapacityModel(
        load,
        concurrency=40.0,
        limit="time",
        prefill_s_per_token=0.5 / load.prompt_tokens_per_s,
        decode_s_per_token=0.5 / load.output_tokens_per_s,
        work_ratio=1.0,
    )


def rules(decision: Decision) -> set[str]:
    """Return the names of the rules that left a reason."""
    return {reason.rule for reason in decision.reasons}


def desired(decision: Decision, key: PoolKey = KEY) -> int | None:
    """Return what the pool is to have; None when it is left as it is."""
    return next((plan.desired for plan in decision.scaling if plan.pool == key), None)


@dataclass
class FixedClock:
    """A clock that moves when told to."""

    at: float = AT

    def now(self) -> float:
        return self.at


@dataclass
class FakeMetrics:
    """Answers with what it was given; without anything the store does not answer."""

    answer: FleetMetrics | None = field(default_factory=FleetMetrics)

    def read(self, at: float) -> FleetMetrics:
        if self.answer is None:
            raise ObservationError("the metrics store does not answer", "fake metrics")
        return self.answer


@dataclass
class FakeRouter:
    """Keeps the weights it is given."""

    shares: dict[PoolKey, float] = field(default_factory=dict)
    writes: list[Mapping[PoolKey, float]] = field(default_factory=list)
    refuses: bool = False
    blind: bool = False

    def weights(self, model: str) -> Mapping[PoolKey, float]:
        if self.blind:
            raise ObservationError(f"no route for {model}", "fake router")
        return {key: weight for key, weight in self.shares.items() if key.model == model}

    def set_weights(self, model: str, weights: Mapping[PoolKey, float]) -> None:
        if self.refuses:
            raise ActuationError("the route belongs to somebody else", "fake router")
        self.writes.append(dict(weights))
        self.shares.update(weights)


@dataclass
class FakeCluster:
    """Pools that change at once when told to: versions grow, replicas appear PENDING, restarts get new names."""

    clock: FixedClock
    states: dict[PoolKey, PoolState] = field(default_factory=dict)
    writes: list[tuple[str, str]] = field(default_factory=list)
    refuses: set[str] = field(default_factory=set)
    blind: bool = False
    made: int = 0

    def pools(self) -> tuple[PoolState, ...]:
        if self.blind:
            raise ObservationError("the API server does not answer", "fake cluster")
        return tuple(self.states.values())

    def scale(self, pool: PoolKey, replicas: int, version: int, retire_first: tuple[str, ...] = ()) -> None:
        self._allowed("scale")
        state = self.states[pool]
        if replicas == state.desired:
            return
        if version != state.version:
            raise StalePlan(f"plan is for version {version}, the pool is at {state.version}", str(pool))
        self.writes.append(("scale", str(pool)))
        leaving = sorted(state.replicas, key=lambda r: (r.id not in retire_first, r.phase is Phase.READY))
        gone = {r.id for r in leaving[: max(0, len(state.replicas) - replicas)]}
        kept = [r for r in state.replicas if r.id not in gone]
        new = [self._new() for _ in range(replicas - len(kept))]
        self.states[pool] = replace(state, replicas=(*kept, *new), desired=replicas, version=version + 1)

    def cordon(self, pool: PoolKey, replica: str) -> None:
        self._allowed("cordon")
        self._change(pool, replica, "cordon", cordoned=True)

    def uncordon(self, pool: PoolKey, replica: str) -> None:
        self._allowed("uncordon")
        self._change(pool, replica, "uncordon", cordoned=False)

    def restart(self, pool: PoolKey, replica: str) -> None:
        self._allowed("restart")
        self._change(pool, replica, "restart")

    def roll_back(self, pool: PoolKey, revision: str) -> None:
        self._allowed("roll back")
        self.states[pool] = replace(self.states[pool], revision=revision, paused=False)

    def nodes(self) -> Mapping[str, NodeState]:
        return {}

    def pause(self, pool: PoolKey) -> None:
        self._allowed("pause")
        self.states[pool] = replace(self.states[pool], paused=True)

    def resume(self, pool: PoolKey) -> None:
        self._allowed("resume")
        self.states[pool] = replace(self.states[pool], paused=False)

    def avoid(self, node: str) -> None:
        self._allowed("avoid")
        self.writes.append(("avoid", node))

    def stop_avoiding(self, node: str) -> None:
        self._allowed("stop avoiding")
        self.writes.append(("stop avoiding", node))

    def _allowed(self, verb: str) -> None:
        if verb in self.refuses:
            raise ActuationError(f"may not {verb}", "fake cluster")

    def _new(self) -> ReplicaState:
        self.made += 1
        return ReplicaState(f"new{self.made}", Phase.PENDING, self.clock.at, self.clock.at)

    def _change(self, key: PoolKey, name: str, verb: str, **changes: Any) -> None:
        state = self.states.get(key)
        if state is None or name not in {r.id for r in state.replicas}:
            raise ActuationError(f"no such replica: {key.replica(name)}", "fake cluster")
        self.writes.append((verb, name))
        changed = [r if r.id != name else replace(r, **changes) if changes else self._new() for r in state.replicas]
        self.states[key] = replace(state, replicas=tuple(changed))


@dataclass
class ListAudit:
    """An audit log in memory."""

    records: list[TickRecord] = field(default_factory=list)

    def append(self, record: TickRecord) -> str:
        self.records.append(record)
        return str(len(self.records))

    def settle(self, outcome: ActsRecord) -> None:
        index = int(outcome.intent) - 1
        self.records[index] = replace(self.records[index], results=outcome.results, error=outcome.error)


@dataclass
class ListNotifier:
    """Collects the pages and the recommendations that reached a human."""

    pages: list[Page] = field(default_factory=list)
    recommended: list[tuple[str, str]] = field(default_factory=list)

    def page(self, page: Page, at: float) -> None:
        self.pages.append(page)

    def recommend(self, subject: str, what: str, at: float) -> None:
        self.recommended.append((subject, what))


@dataclass
class Bench:
    """A control loop over fakes, everything in reach."""

    loop: ControlLoop
    clock: FixedClock
    metrics: FakeMetrics
    cluster: FakeCluster
    router: FakeRouter
    audit: ListAudit
    notifier: ListNotifier

    def tick(self) -> TickRecord:
        """Run one tick."""
        return self.loop.tick()


def a_bench(
    *pools: PoolState,
    policy: Policy | None = None,
    modes: ModeSettings | None = None,
    killed: bool | Callable[[], bool] = False,
    forecasters: Sequence[Forecaster] = (),
    memory: PolicyMemory | None = None,
    audit: ListAudit | None = None,
) -> Bench:
    """A loop over ``pools``, whose metrics, in-flight requests and weights are what the states say."""
    clock = FixedClock()
    states = pools or (pool(),)
    cluster = FakeCluster(clock, {p.key: replace(p, weight=0.0) for p in states})
    router = FakeRouter({p.key: p.weight for p in states})
    seen = [r for p in states for r in p.replicas]
    source = FakeMetrics(
        FleetMetrics(
            replicas={r.id: r.metrics for r in seen if r.metrics is not None},
            in_flight={r.id: r.in_flight_requests for r in seen},
            answered={r.id: r.answered_requests_total for r in seen},
            failed_answers={r.id: r.failed_answers_total for r in seen},
            demand={p.key.model: demand() for p in states},
        )
    )
    audit, notifier = audit or ListAudit(), ListNotifier()
    chosen = policy or Foresail(settings(*(p.key for p in states)))
    tick_s = chosen.settings.tick_s if isinstance(chosen, Foresail) else 15.0
    lead_time = chosen.settings.lead_time if isinstance(chosen, Foresail) else PolicySettings().lead_time
    switch = killed if callable(killed) else lambda: killed
    actuator = Actuator(clock, cluster, router, notifier, modes or ModeSettings.all_auto(), switch)
    after_s = chosen.settings.healing.blind_page_after_s if isinstance(chosen, Foresail) else math.inf
    forecasts = LoadForecasts(FallbackForecaster(tuple(forecasters)), tick_s, ForecastSettings())
    sources, horizon = Sources(clock, source, cluster, router), Horizon(lead_time, tick_s)
    loop = ControlLoop(sources, audit, actuator, forecasts, horizon, chosen, memory, after_s)
    return Bench(loop, clock, source, cluster, router, audit, notifier)
