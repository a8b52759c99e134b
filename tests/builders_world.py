"""A small fluid world on virtual time that satisfies the controller's ports, for closed-loop tests of the pure core.

Requests are a fluid: what arrives in a step is shared by weight among pools and evenly among serving replicas, and
each engine ends what it has within ``SERVICE_S`` seconds as far as its rate allows. No queueing, no randomness: only
what the controller sees and does matters here. The request-level world is ``simulations``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from controller.actuation import Actuator
from controller.errors import ActuationError, ObservationError, StalePlan
from controller.forecasts import ForecastSettings, Horizon, LoadForecasts
from controller.loop import ControlLoop
from controller.modes import ModeSettings
from controller.ports import AuditLog, FleetMetrics, Sources, TickRecord
from forecasting.forecaster import FallbackForecaster
from policies.decide import Foresail
from policies.decisions import Policy, Remediation
from policies.fleet import Demand, NodeState, Phase, PoolKey, PoolState, ReplicaMetrics, ReplicaState, ServiceLevel
from policies.settings import PolicySettings
from tests.builders import AT, KEY, RATE, FixedClock, ListAudit, ListNotifier, settings

SERVICE_S = 10.0
"""Seconds that a request spends in an engine that is not overloaded."""
SCRAPE_AGE_S = 2.0
STEPS_PER_S = 30.0


@dataclass
class Engine:
    """One replica of the world; ``hung``, ``slowdown``, ``error_ratio``, ``exporter_stuck``, ``unscraped`` ail it."""

    id: str
    key: PoolKey
    phase: Phase
    requested_at: float
    since_at: float
    load_s: float
    restarts: int = 0
    cordoned: bool = False
    in_flight: float = 0.0
    steps: float = 0.0
    tokens: float = 0.0
    finished: float = 0.0
    failed: float = 0.0
    hung: bool = False
    says_idle: bool = False
    slowdown: float = 1.0
    error_ratio: float = 0.0
    exporter_stuck: ReplicaMetrics | None = None
    unscraped: bool = False
    stays_down: bool = False

    @property
    def serving(self) -> bool:
        return self.phase is Phase.READY and not self.cordoned

    def state(self) -> ReplicaState:
        return ReplicaState(
            self.id, self.phase, self.requested_at, self.since_at, restarts=self.restarts, cordoned=self.cordoned
        )

    def sample(self, at: float) -> ReplicaMetrics:
        """Return what it says of itself when it is scraped at ``at``."""
        if self.exporter_stuck is not None:
            return replace(self.exporter_stuck, observed_at=at)
        return ReplicaMetrics(
            observed_at=at,
            running_requests=0.0 if self.says_idle else self.in_flight,
            queued_requests=0.0,
            kv_cache_ratio=min(0.95, self.in_flight / 100.0),
            steps_total=self.steps,
            prompt_tokens_total=5.0 * self.tokens,
            output_tokens_total=self.tokens,
            finished_requests_total=self.finished,
            failed_requests_total=self.failed,
            tpot_mean_s=math.nan if self.hung or self.in_flight <= 0 else 0.03 * self.slowdown,
        )


@dataclass
class World:
    """Clock, metrics, cluster and router in one, with a control loop that acts on it."""

    lead_s: float = 60.0
    back_off_s: float = 20.0
    drain_s: float = 120.0
    requests_per_s: float = 8.0
    clock: FixedClock = field(default_factory=FixedClock)
    engines: dict[str, Engine] = field(default_factory=dict)
    wanted: dict[PoolKey, int] = field(default_factory=dict)
    versions: dict[PoolKey, int] = field(default_factory=dict)
    prices: dict[PoolKey, float] = field(default_factory=dict)
    shares: dict[PoolKey, float] = field(default_factory=dict)
    held: float = 0.0
    gateway: bool = True
    counts_answers: bool = True
    unlisted: bool = False
    store_down: bool = False
    demand_hidden: bool = False
    attained: float = 0.999
    acts: list[tuple[float, str, str]] = field(default_factory=list)
    made: int = 0

    # Setting up

    def add_pool(self, key: PoolKey = KEY, replicas: int = 3, weight: float = 1.0, price: float = 2.0) -> None:
        self.wanted[key], self.versions[key], self.shares[key], self.prices[key] = replicas, 1, weight, price
        for _ in range(replicas):
            engine = self._new(key)
            engine.phase, engine.requested_at = Phase.READY, self.clock.at - 1000.0 - self.lead_s
            engine.since_at, engine.in_flight = self.clock.at - 1000.0, 1.0

    def controlled(
        self,
        policy_settings: PolicySettings | None = None,
        modes: ModeSettings | None = None,
        killed: Callable[[], bool] = lambda: False,
        policy: Policy | None = None,
        audit: AuditLog | None = None,
    ) -> Controlled:
        """Return this world under the control of Foresail, with everything allowed to act unless told otherwise.

        With ``audit`` the ticks are recorded there, and not in its own list.
        """
        given = policy_settings or settings(*self.wanted)
        return Controlled(self, given, modes, killed, policy or Foresail(given), audit)

    def of(self, key: PoolKey = KEY) -> list[Engine]:
        return [e for e in self.engines.values() if e.key == key]

    def serving(self, key: PoolKey = KEY) -> int:
        return sum(e.serving for e in self.of(key))

    def crash(self, name: str, *, for_good: bool = False) -> None:
        engine = self.engines[name]
        if engine.phase is Phase.DRAINING:
            del self.engines[name]
            return
        engine.phase, engine.since_at, engine.requested_at = Phase.FAILED, self.clock.at, self.clock.at
        engine.restarts += 1
        engine.in_flight = engine.steps = engine.tokens = engine.finished = engine.failed = engine.error_ratio = 0.0
        engine.hung, engine.exporter_stuck, engine.stays_down = False, None, for_good

    # Time

    def advance(self, seconds: float) -> None:
        """Let ``seconds`` pass in steps of one."""
        for _ in range(round(seconds)):
            self.clock.at += 1.0
            self._live()
            self._arrive()
            for engine in self.engines.values():
                self._serve(engine)

    def _live(self) -> None:
        now = self.clock.at
        for engine in list(self.engines.values()):
            age_s = now - engine.since_at
            match engine.phase:
                case Phase.PENDING if age_s >= 0.2 * engine.load_s:
                    engine.phase, engine.since_at = Phase.LOADING, now
                case Phase.LOADING if age_s >= 0.8 * engine.load_s:
                    engine.phase, engine.since_at = Phase.READY, now
                case Phase.FAILED if age_s >= self.back_off_s and not engine.stays_down:
                    engine.phase, engine.since_at = Phase.LOADING, now
                case Phase.DRAINING if engine.in_flight < 0.5 or age_s >= self.drain_s:
                    del self.engines[engine.id]

    def _arrive(self) -> None:
        waiting, self.held = self.held + self.requests_per_s, 0.0
        total = sum(self.shares.values())
        for key, share in self.shares.items():
            part = waiting * share / total if total > 0 else waiting / len(self.shares)
            takers = [e for e in self.of(key) if e.serving]
            for engine in takers:
                failed = engine.error_ratio * part / len(takers)
                engine.failed += failed
                engine.in_flight += part / len(takers) - failed
            self.held += 0.0 if takers else part

    def _serve(self, engine: Engine) -> None:
        if engine.hung or engine.in_flight <= 0 or engine.phase not in (Phase.READY, Phase.DRAINING):
            return
        done = min(engine.in_flight / SERVICE_S, RATE) / engine.slowdown
        engine.in_flight -= done
        engine.finished += done
        engine.tokens += 200.0 * done
        engine.steps += STEPS_PER_S

    # Ports

    def now(self) -> float:
        return self.clock.at

    def read(self, at: float) -> FleetMetrics:
        if self.store_down:
            raise ObservationError("the metrics store does not answer", "world")
        alive = [e for e in self.engines.values() if e.phase in (Phase.READY, Phase.DRAINING)]
        models = {key.model for key in self.wanted}
        counts_answers = self.gateway and self.counts_answers
        rate = Demand(self.requests_per_s, 1000.0 * self.requests_per_s, 200.0 * self.requests_per_s)
        return FleetMetrics(
            replicas={e.id: e.sample(at - SCRAPE_AGE_S) for e in alive if not e.unscraped},
            in_flight={e.id: float(math.floor(e.in_flight)) for e in alive} if self.gateway else {},
            answered={e.id: float(math.floor(e.finished)) for e in alive} if counts_answers else {},
            failed_answers={e.id: float(math.floor(e.failed)) for e in alive} if counts_answers else {},
            demand={} if self.demand_hidden else dict.fromkeys(models, rate),
            service={model: ServiceLevel(300.0, 1000.0, 1000.0 * self.attained) for model in models},
            gateway_queued=dict.fromkeys(models, self.held) if self.gateway else {},
        )

    def pools(self) -> tuple[PoolState, ...]:
        return tuple(
            PoolState(
                key,
                tuple(e.state() for e in self.of(key)),
                desired=desired,
                gpus_per_replica=2,
                usd_per_replica_hour=self.prices[key],
                version=self.versions[key],
            )
            for key, desired in ({} if self.unlisted else self.wanted).items()
        )

    def scale(self, pool: PoolKey, replicas: int, version: int, retire_first: tuple[str, ...] = ()) -> None:
        if version != self.versions[pool]:
            raise StalePlan(f"plan is for version {version}, the pool is at {self.versions[pool]}", str(pool))
        self._note("scale", f"{pool.pool} {replicas}")
        self.wanted[pool], self.versions[pool] = replicas, version + 1
        standing = [e for e in self.of(pool) if e.phase is not Phase.DRAINING]
        for _ in range(replicas - len(standing)):
            self._new(pool)
        order = sorted(standing, key=lambda e: (e.id not in retire_first, e.phase is Phase.READY, e.in_flight))
        for engine in order[: max(0, len(standing) - replicas)]:
            if engine.phase is Phase.READY:
                engine.phase, engine.since_at = Phase.DRAINING, self.clock.at
            else:
                del self.engines[engine.id]

    def cordon(self, pool: PoolKey, replica: str) -> None:
        self._note("cordon", replica)
        self._engine(pool, replica).cordoned = True

    def uncordon(self, pool: PoolKey, replica: str) -> None:
        self._note("uncordon", replica)
        self._engine(pool, replica).cordoned = False

    def restart(self, pool: PoolKey, replica: str) -> None:
        engine = self._engine(pool, replica)
        self._note("restart", replica)
        del self.engines[replica]
        self._new(engine.key)

    def roll_back(self, pool: PoolKey, revision: str) -> None:
        self._note("roll back", f"{pool} {revision}")

    def nodes(self) -> Mapping[str, NodeState]:
        return {}

    def pause(self, pool: PoolKey) -> None:
        self._note("pause", str(pool))

    def resume(self, pool: PoolKey) -> None:
        self._note("resume", str(pool))

    def avoid(self, node: str) -> None:
        self._note("avoid", node)

    def stop_avoiding(self, node: str) -> None:
        self._note("stop avoiding", node)

    def weights(self, model: str) -> Mapping[PoolKey, float]:
        return {key: share for key, share in self.shares.items() if key.model == model}

    def set_weights(self, model: str, weights: Mapping[PoolKey, float]) -> None:
        self._note("weights", " ".join(f"{key.pool}={weight:.3f}" for key, weight in sorted(weights.items())))
        self.shares.update(weights)

    def _engine(self, key: PoolKey, name: str) -> Engine:
        if name not in self.engines or self.engines[name].key != key:
            raise ActuationError(f"no such replica: {key.replica(name)}", "world")
        return self.engines[name]

    def _new(self, key: PoolKey) -> Engine:
        self.made += 1
        engine = Engine(f"{key.pool}{self.made}", key, Phase.PENDING, self.clock.at, self.clock.at, self.lead_s)
        self.engines[engine.id] = engine
        return engine

    def _note(self, verb: str, subject: str) -> None:
        self.acts.append((self.clock.at - AT, verb, subject))


class Controlled:
    """A world with its loop; ``run`` alternates ticks and time."""

    def __init__(
        self,
        world: World,
        policy_settings: PolicySettings,
        modes: ModeSettings | None,
        killed: Callable[[], bool],
        policy: Policy,
        audit: AuditLog | None = None,
    ) -> None:
        self.world, self.settings = world, policy_settings
        self.audit, self.notifier = ListAudit(), ListNotifier()
        self.tick_s = policy_settings.tick_s
        forecast_settings = ForecastSettings(step_s=4 * self.tick_s)
        self.loop = ControlLoop(
            Sources(world, world, world, world),
            self.audit if audit is None else audit,
            Actuator(world, world, world, self.notifier, modes or ModeSettings.all_auto(), killed),
            LoadForecasts(FallbackForecaster(()), self.tick_s, forecast_settings),
            Horizon(policy_settings.lead_time, self.tick_s),
            policy,
        )

    def run(self, seconds: float, each: Callable[[TickRecord], None] = lambda _: None) -> None:
        """Tick, then let a tick's time pass, until ``seconds`` are over."""
        until = self.world.clock.at + seconds
        while self.world.clock.at < until:
            each(self.loop.tick())
            self.world.advance(self.tick_s)

    def acts(self, *verbs: str) -> list[tuple[float, str, str]]:
        """Return what was written, of the given verbs, as ``(seconds since AT, verb, subject)``."""
        return [act for act in self.world.acts if not verbs or act[1] in verbs]

    def remedies(self) -> list[Remediation]:
        """Return every remedy that was decided, done or not."""
        return [r for record in self.audit.records if record.decision for r in record.decision.remediations]
