"""What is out there right now: replicas, pools, demand and service level, as observed at one instant."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum


class Phase(StrEnum):
    """Where a replica is in its life, as the platform tells it."""

    PENDING = "pending"  # asked for, not placed or image not there yet
    LOADING = "loading"  # process up, weights loading, not serving
    READY = "ready"  # serving
    DRAINING = "draining"  # finishing what it has, takes nothing new
    FAILED = "failed"  # exited; the platform may or may not restart it


class Role(StrEnum):
    """What part of a request a pool serves."""

    UNIFIED = "unified"
    PREFILL = "prefill"
    DECODE = "decode"


@dataclass(frozen=True, slots=True, order=True)
class PoolKey:
    """Names one pool of identical replicas. Its text form is ``model/pool/role``; ``model`` may hold slashes."""

    model: str
    pool: str
    role: Role = Role.UNIFIED
    # Made once, since a tick asks for it several times per replica.
    _text: str = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not self.model or not self.pool or "/" in self.pool:
            raise ValueError(f"a pool needs a model and a pool name without slashes, got {self.model!r}, {self.pool!r}")
        object.__setattr__(self, "_text", f"{self.model}/{self.pool}/{self.role}")

    def __str__(self) -> str:
        return self._text

    @property
    def stage(self) -> Stage:
        """The part of its model's serving that the pool belongs to."""
        return Stage(self.model, self.role)

    def replica(self, replica_id: str) -> str:
        """Return the name of one of its replicas in the whole fleet: an id is unique only within its pool."""
        return f"{self._text}/{replica_id}"

    @classmethod
    def parse(cls, text: str) -> PoolKey:
        """Return the key whose text form is ``text``."""
        parts = text.rsplit("/", 2)
        if len(parts) != 3:
            raise ValueError(f"expected model/pool/role, got {text!r}")
        return cls(parts[0], parts[1], Role(parts[2]))


@dataclass(frozen=True, slots=True, order=True)
class Stage:
    """One part of serving a model, which every request passes: all of it, or its prefill or its decode.

    Each stage of a model is sized for all of its requests and shares them out among its own pools.
    """

    model: str
    role: Role = Role.UNIFIED

    def __str__(self) -> str:
        return self.model if self.role is Role.UNIFIED else f"{self.model} {self.role}"


@dataclass(frozen=True, slots=True)
class Demand:
    """Offered load of one workload: what arrived, whether or not it could be served.

    ``output_tokens_per_s`` is arrivals times the recent mean output length, since an output length is known only
    when a request ends. ``cached_prompt_ratio`` is the share of prompt tokens found in prefix caches.
    """

    requests_per_s: float
    prompt_tokens_per_s: float
    output_tokens_per_s: float
    cached_prompt_ratio: float = 0.0

    def __post_init__(self) -> None:
        for name in ("requests_per_s", "prompt_tokens_per_s", "output_tokens_per_s"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise ValueError(f"{name} must be finite and not negative, got {value}")
        if not 0 <= self.cached_prompt_ratio <= 1:
            raise ValueError(f"cached_prompt_ratio must lie in [0, 1], got {self.cached_prompt_ratio}")

    def scaled(self, factor: float) -> Demand:
        """Return the same token shape at ``factor`` times the rate."""
        return Demand(
            self.requests_per_s * factor,
            self.prompt_tokens_per_s * factor,
            self.output_tokens_per_s * factor,
            self.cached_prompt_ratio,
        )


@dataclass(frozen=True, slots=True)
class ReplicaMetrics:
    """What one engine said of itself at its last scrape. NaN means that it was scraped but gave no such value.

    Counters (``*_total``) only grow, except that a restarted engine begins again at zero.
    Latencies are over the requests that finished in the scrape window; NaN when none did. ``failed_requests_total``
    are those that the engine could not serve through a fault of its own; what it refused is not among them.
    """

    observed_at: float
    running_requests: float
    queued_requests: float
    kv_cache_ratio: float
    steps_total: float
    prompt_tokens_total: float
    output_tokens_total: float
    finished_requests_total: float
    failed_requests_total: float = math.nan
    ttft_p95_s: float = math.nan
    tpot_mean_s: float = math.nan


@dataclass(frozen=True, slots=True)
class ReplicaState:
    """One serving engine: what the platform says of it, and its metrics where it has been scraped.

    Attributes:
        requested_at: When the platform was asked for it (or for its latest restart).
        since_at: When it entered its phase.
        cordoned: Alive but taken out of traffic.
        in_flight_requests: Requests that the gateway has sent and not seen end; NaN where no gateway reports it.
            Known to exist whatever the engine says of itself.
        answered_requests_total: Responses of this life that the gateway saw end as they should; those that a client, a
            time-out or an error cut short do not count. NaN where no gateway counts them.
        failed_answers_total: Responses with which it owned up to an error of its own, as the gateway saw them (500, 502
            or 504 from the replica itself; not 4xx, nor 503, which says busy). NaN where no gateway counts them.
        metrics: None when it has never been scraped in this life.
        placed_at: When it was given its GPUs; NaN while it has none, and where the platform does not tell.
    """

    id: str
    phase: Phase
    requested_at: float
    since_at: float
    revision: str = "1"
    node: str = ""
    restarts: int = 0
    cordoned: bool = False
    in_flight_requests: float = math.nan
    metrics: ReplicaMetrics | None = None
    answered_requests_total: float = math.nan
    failed_answers_total: float = math.nan
    placed_at: float = math.nan

    @property
    def begun_at(self) -> float:
        """Since when it has been starting: without its wait for GPUs, as far as the platform tells of it.

        A restart in place begins when it is asked for.
        """
        return max(self.requested_at, self.placed_at)  # the first where the second is NaN

    @property
    def life(self) -> str:
        """What names one life of a replica within its pool; a restart in place begins another."""
        return f"{self.id}#{self.restarts}"

    @property
    def serving(self) -> bool:
        """Ready and in traffic."""
        return self.phase is Phase.READY and not self.cordoned

    @property
    def starting(self) -> bool:
        """Asked for and on its way to READY."""
        return self.phase in (Phase.PENDING, Phase.LOADING)

    @property
    def unplaced(self) -> bool:
        """Not on any node yet; also what is PENDING on a platform that tells no nodes."""
        return self.phase is Phase.PENDING and not self.node


@dataclass(frozen=True, slots=True)
class PoolState:
    """Identical replicas behind one scale target.

    Attributes:
        desired: Replicas that the platform was last asked for.
        version: Version of the platform's object, the precondition of a write.
        weight: Share of the requests that come to its stage, in [0, 1]; NaN when the route could not be read.
        revision: Revision that new replicas get.
        stable_revision: Last revision recorded as good; empty when none is known.
        owner: Another controller that owns the replica count; empty when nobody else does.
    """

    key: PoolKey
    replicas: tuple[ReplicaState, ...]
    desired: int
    gpus_per_replica: int
    usd_per_replica_hour: float = 0.0
    version: int = 0
    weight: float = 0.0
    revision: str = "1"
    stable_revision: str = ""
    owner: str = ""

    def __post_init__(self) -> None:
        if self.desired < 0 or self.gpus_per_replica < 0 or not 0 <= self.usd_per_replica_hour < math.inf:
            raise ValueError(f"pool {self.key}: desired, GPUs and price cannot be negative, nor the price unknown")
        ids = [replica.id for replica in self.replicas]
        if len(set(ids)) != len(ids):
            raise ValueError(f"pool {self.key}: replica ids repeat")

    @property
    def serving(self) -> tuple[ReplicaState, ...]:
        """Replicas that take traffic."""
        return tuple(r for r in self.replicas if r.serving)

    @property
    def starting(self) -> tuple[ReplicaState, ...]:
        """Replicas on their way to READY."""
        return tuple(r for r in self.replicas if r.starting)


@dataclass(frozen=True, slots=True)
class ServiceLevel:
    """How the requests of one workload fared that ended in the last window.

    ``within_objective`` counts those that met both the TTFT and the TPOT objective; failed ones count as finished
    and not within.
    """

    window_s: float
    finished: float
    within_objective: float

    def __post_init__(self) -> None:
        if not (self.window_s > 0 and 0 <= self.within_objective <= self.finished):
            raise ValueError(
                f"impossible service level: {self.within_objective} of {self.finished} in {self.window_s} s"
            )

    @property
    def attainment_ratio(self) -> float:
        """Share within the objective; NaN when nothing finished."""
        return self.within_objective / self.finished if self.finished else math.nan


@dataclass(frozen=True, slots=True)
class FleetState:
    """Everything a decision may look at, as of one instant.

    Attributes:
        demand: Offered load per model. A model that is absent was not observed, which is not the same as idle.
        service: Service level per model, absent when not observed.
        gateway_queued: Requests held at the gateway per model because no replica could take them.
        missing: Signals that were expected and not there, as ``signal:subject``.
    """

    at: float
    pools: tuple[PoolState, ...]
    demand: Mapping[str, Demand] = field(default_factory=dict)
    service: Mapping[str, ServiceLevel] = field(default_factory=dict)
    gateway_queued: Mapping[str, float] = field(default_factory=dict)
    missing: tuple[str, ...] = ()
    # Made from ``pools``, since a decision asks for those of each model a dozen times; no part of what is recorded.
    _by_model: Mapping[str, tuple[PoolState, ...]] = field(init=False, repr=False, compare=False)
    _roles: Mapping[str, tuple[Role, ...]] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        keys = [pool.key for pool in self.pools]
        if len(set(keys)) != len(keys):
            raise ValueError("pool keys repeat")
        by_model: dict[str, tuple[PoolState, ...]] = {}
        roles: dict[str, tuple[Role, ...]] = {}
        for pool in sorted(self.pools, key=lambda p: p.key):
            model, role = pool.key.model, pool.key.role
            by_model[model] = (*by_model.get(model, ()), pool)
            if role not in roles.get(model, ()):
                roles[model] = (*roles.get(model, ()), role)
        object.__setattr__(self, "_by_model", by_model)
        object.__setattr__(self, "_roles", roles)

    @property
    def models(self) -> tuple[str, ...]:
        """Models that have a pool, sorted."""
        return tuple(self._by_model)

    def pools_of(self, model: str) -> tuple[PoolState, ...]:
        """Pools of ``model`` in key order."""
        return self._by_model.get(model, ())

    def stages_of(self, model: str) -> tuple[Stage, ...]:
        """Stages of ``model`` that have a pool, the first that a request comes to first."""
        order = (Role.UNIFIED, Role.PREFILL, Role.DECODE)
        return tuple(Stage(model, role) for role in order if role in self._roles.get(model, ()))

    @property
    def stages(self) -> tuple[Stage, ...]:
        """Stages of all models, in this order."""
        return tuple(stage for model in self.models for stage in self.stages_of(model))

    def pools_in(self, stage: Stage) -> tuple[PoolState, ...]:
        """Pools of one stage in key order."""
        pools = self.pools_of(stage.model)
        if len(self._roles.get(stage.model, ())) > 1:
            return tuple(pool for pool in pools if pool.key.role is stage.role)
        return pools if pools and pools[0].key.role is stage.role else ()

    def part(self, stage: Stage) -> FleetState:
        """Return the fleet as this stage sees it; itself where the model has no other stage.

        It has none but the stage's own pools, and what waits at the gateway only where that waits for this stage.
        """
        if len(self._roles.get(stage.model, ())) <= 1:
            return self
        waiting = self.gateway_queued if stage == self.stages_of(stage.model)[0] else {}
        return replace(self, pools=self.pools_in(stage), gateway_queued=waiting)

    def coverage_ratio(self, model: str, max_age_s: float) -> float:
        """Share of the model's serving replicas that reported within ``max_age_s``; 1 when none is expected to.

        A scrape without the queue is no report: an engine whose metrics were renamed must not look like an idle one.
        """
        expected = [r.metrics for p in self.pools_of(model) for r in p.serving]
        reports = [m for m in expected if m is not None and not math.isnan(m.queued_requests)]
        fresh = [m for m in reports if self.at - m.observed_at <= max_age_s]
        return len(fresh) / len(expected) if expected else 1.0
