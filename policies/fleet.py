"""What is out there right now: replicas, pools, demand and service level, as observed at one instant."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Any

import numpy as np

from policies.replica import CanaryAnswer, Phase, ReplicaMetrics, ReplicaState
from policies.roster import Roster, Told, states, told_of

__all__ = [
    "Demand",
    "FleetState",
    "NodeState",
    "Phase",
    "PoolKey",
    "PoolState",
    "ReplicaMetrics",
    "ReplicaState",
    "Role",
    "ServiceLevel",
    "Stage",
]


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

    def __hash__(self) -> int:
        return hash(self._text)

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
class PoolState:
    """Identical replicas behind one scale target.

    Attributes:
        desired: Replicas that the platform was last asked for.
        version: Version of the platform's object, the precondition of a write.
        weight: Share of the requests that come to its stage, in [0, 1]; NaN when the route could not be read.
        revision: Revision that new replicas get.
        revision_at: When it became that; NaN where the platform does not tell.
        revisions: Those that can be rolled back to, the oldest first; empty where the platform does not tell.
        paused: Whether its rollout goes no further.
        stable_revision: Last revision recorded as good; empty when none is known.
        owner: Another controller that owns the replica count; empty when nobody else does.
        last_told_at: When the platform last told of it, where it cannot be asked now: then all that is said of its
            platform is as of that instant. NaN for what is told now.
        roster: What the platform says of the replicas, side by side.
        told: What engines and gateway say of them, side by side.

    The last two and ``replicas`` say the same, and each is made of the others when it is first asked for: a tick that
    only counts and adds up makes no ``ReplicaState``.
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
    revision_at: float = math.nan
    revisions: tuple[str, ...] = ()
    paused: bool = False
    last_told_at: float = math.nan
    roster: Roster = field(init=False, repr=False, compare=False)
    told: Told = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.desired < 0 or self.gpus_per_replica < 0 or not 0 <= self.usd_per_replica_hour < math.inf:
            raise ValueError(f"pool {self.key}: desired, GPUs and price cannot be negative, nor the price unknown")
        ids = [replica.id for replica in self.replicas]
        if len(set(ids)) != len(ids):
            raise ValueError(f"pool {self.key}: replica ids repeat")

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            """Make what was not given, once; a frozen value stays what it is."""
            if name not in _MADE_LATER:
                raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
            made = _MADE_LATER[name](self)
            object.__setattr__(self, name, made)
            return made

    def with_told(self, told: Told, weight: float) -> PoolState:
        """Return the pool with what engines and gateway say of its replicas, and its share of the requests."""
        pool = object.__new__(PoolState)
        put = object.__setattr__
        for name in _OF_PLATFORM:
            put(pool, name, getattr(self, name))
        put(pool, "told", told)
        put(pool, "weight", weight)
        return pool

    @property
    def untold(self) -> bool:
        """Whether the platform cannot be asked about it now."""
        return not math.isnan(self.last_told_at)

    @property
    def serving(self) -> tuple[ReplicaState, ...]:
        """Replicas that take traffic."""
        return tuple(r for r in self.replicas if r.serving)

    @property
    def starting(self) -> tuple[ReplicaState, ...]:
        """Replicas on their way to READY."""
        return tuple(r for r in self.replicas if r.starting)


_MADE_LATER = {
    "replicas": lambda pool: states(pool.roster, pool.told),
    "roster": lambda pool: Roster(pool.replicas),
    "told": lambda pool: told_of(pool.replicas),
}

_OF_PLATFORM = (
    "key",
    "roster",
    "desired",
    "gpus_per_replica",
    "usd_per_replica_hour",
    "version",
    "revision",
    "stable_revision",
    "owner",
    "revision_at",
    "revisions",
    "paused",
    "last_told_at",
)


@dataclass(frozen=True, slots=True)
class NodeState:
    """One machine, as the platform tells it.

    Attributes:
        ready: Whether the platform reaches it and finds it in order.
        since_at: Since when it is, or is not.
        leaving: Whether it is going to be taken away: reclaimed, drained or under maintenance.
        avoided: Whether nothing more is placed there.
        xid: The newest Xid error that an exporter tells of any GPU of it, whoever holds that or nobody; 0 for none, NaN
            where its GPUs are not exported.
    """

    ready: bool
    since_at: float
    leaving: bool = False
    avoided: bool = False
    xid: float = math.nan


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
        nodes: Where replicas are or could be, by name; empty where the platform tells of none.
        canaries: What became of requests for one token that we sent lately, by the name of the replica in the fleet.
        gateway_oldest_at, gateway_newest_at: When what gateways count of each replica was sampled: several processes
            are each sampled at an instant of their own. NaN where that is not told; then it counts as of ``at``.
    """

    at: float
    pools: tuple[PoolState, ...]
    demand: Mapping[str, Demand] = field(default_factory=dict)
    service: Mapping[str, ServiceLevel] = field(default_factory=dict)
    gateway_queued: Mapping[str, float] = field(default_factory=dict)
    missing: tuple[str, ...] = ()
    nodes: Mapping[str, NodeState] = field(default_factory=dict)
    canaries: Mapping[str, CanaryAnswer] = field(default_factory=dict)
    gateway_oldest_at: float = math.nan
    gateway_newest_at: float = math.nan
    # Made from ``pools``, since a decision asks for those of each model a dozen times; no part of what is recorded.
    _by_model: Mapping[str, tuple[PoolState, ...]] = field(init=False, repr=False, compare=False)
    _stages: Mapping[str, tuple[Stage, ...]] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        keys = [pool.key for pool in self.pools]
        if len(set(keys)) != len(keys):
            raise ValueError("pool keys repeat")
        by_model: dict[str, tuple[PoolState, ...]] = {}
        for pool in sorted(self.pools, key=lambda p: p.key) if len(keys) > 1 else self.pools:
            by_model[pool.key.model] = (*by_model.get(pool.key.model, ()), pool)
        object.__setattr__(self, "_by_model", by_model)
        object.__setattr__(self, "_stages", {model: _stages(model, pools) for model, pools in by_model.items()})

    def with_demand(self, demand: Mapping[str, Demand]) -> FleetState:
        """Return the fleet under this demand."""
        fleet = object.__new__(FleetState)
        put = object.__setattr__
        for name in (*_OBSERVED, "_by_model", "_stages"):
            put(fleet, name, getattr(self, name))
        put(fleet, "demand", demand)
        return fleet

    @property
    def gateway_heard_at(self) -> tuple[float, float]:
        """From when and till when what gateways count is, at most ``at``: which is taken where it is not told."""
        oldest_at = self.at if math.isnan(self.gateway_oldest_at) else min(self.gateway_oldest_at, self.at)
        newest_at = self.at if math.isnan(self.gateway_newest_at) else min(self.gateway_newest_at, self.at)
        return oldest_at, newest_at

    @property
    def models(self) -> tuple[str, ...]:
        """Models that have a pool, sorted."""
        return tuple(self._by_model)

    def pools_of(self, model: str) -> tuple[PoolState, ...]:
        """Pools of ``model`` in key order."""
        return self._by_model.get(model, ())

    def stages_of(self, model: str) -> tuple[Stage, ...]:
        """Stages of ``model`` that have a pool, the first that a request comes to first."""
        return self._stages.get(model, ())

    @property
    def stages(self) -> tuple[Stage, ...]:
        """Stages of all models, in this order."""
        return tuple([stage for stages in self._stages.values() for stage in stages])

    def pools_in(self, stage: Stage) -> tuple[PoolState, ...]:
        """Pools of one stage in key order."""
        pools = self.pools_of(stage.model)
        if len(self.stages_of(stage.model)) > 1:
            return tuple(pool for pool in pools if pool.key.role is stage.role)
        return pools if pools and pools[0].key.role is stage.role else ()

    def waited_for(self, model: str) -> Stage | None:
        """Return the stage of ``model`` that requests at the gateway wait for: the first of which no replica serves.

        The first of all where each has some, since requests wait for a replica and then no more; None without pools.
        """
        stages = self.stages_of(model)
        idle = (stage for stage in stages if not any(pool.roster.serving_count for pool in self.pools_in(stage)))
        return next(idle, stages[0] if stages else None)

    def part(self, stage: Stage) -> FleetState:
        """Return the fleet as this stage sees it; itself where the model has no other stage.

        It has none but the stage's own pools, and what waits at the gateway only where that waits for this stage.
        """
        if len(self.stages_of(stage.model)) <= 1:
            return self
        waiting = self.gateway_queued if stage == self.waited_for(stage.model) else {}
        return replace(self, pools=self.pools_in(stage), gateway_queued=waiting)

    def coverage_ratio(self, model: str, max_age_s: float) -> float:
        """Share of the model's serving replicas that reported within ``max_age_s``; 1 when none is expected to.

        A scrape without the queue is no report: an engine whose metrics were renamed must not look like an idle one.
        """
        expected = fresh = 0
        for pool in self.pools_of(model):
            expected += pool.roster.serving_count
            reports = pool.told.fresh(self.at, max_age_s) & ~np.isnan(pool.told.of("queued_requests"))
            fresh += int(np.count_nonzero(pool.roster.serving & reports))
        return fresh / expected if expected else 1.0


_OBSERVED = (
    "at",
    "pools",
    "service",
    "gateway_queued",
    "missing",
    "nodes",
    "canaries",
    "gateway_oldest_at",
    "gateway_newest_at",
)


def _stages(model: str, pools: tuple[PoolState, ...]) -> tuple[Stage, ...]:
    """Return the stages that the pools of ``model`` serve, in the order in which a request comes to them."""
    roles = {pool.key.role for pool in pools}
    return tuple([Stage(model, role) for role in (Role.UNIFIED, Role.PREFILL, Role.DECODE) if role in roles])
