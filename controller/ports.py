"""What the control loop needs from the world: one page of protocols, in the words of the domain."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol, TypeAlias

from forecasting.forecast import LoadForecast
from policies.decisions import Decision, FailOver, Page, SendCanary
from policies.fleet import Demand, FleetState, NodeState, PoolKey, PoolState, ReplicaMetrics, ServiceLevel
from policies.memory import PolicyMemory
from policies.replica import CanaryAnswer


class Clock(Protocol):
    """Where the time comes from."""

    def now(self) -> float:
        """Seconds since the Unix epoch, UTC."""
        ...


@dataclass(frozen=True, slots=True)
class FleetMetrics:
    """What the metrics store had to say. A missing key was not observed.

    ``replicas`` and what the gateway counts (``in_flight``, ``answered``, ``failed_answers``, ``unreached``; see
    ``ReplicaState``) are by replica id, ``node_xids`` (see ``NodeState``) by node, the others by model. What gateways
    count is as of ``gateway_oldest_at`` to ``gateway_newest_at``, the samples of their processes; NaN where untold.
    """

    replicas: Mapping[str, ReplicaMetrics] = field(default_factory=dict)
    in_flight: Mapping[str, float] = field(default_factory=dict)
    demand: Mapping[str, Demand] = field(default_factory=dict)
    service: Mapping[str, ServiceLevel] = field(default_factory=dict)
    gateway_queued: Mapping[str, float] = field(default_factory=dict)
    missing: tuple[str, ...] = ()
    answered: Mapping[str, float] = field(default_factory=dict)
    failed_answers: Mapping[str, float] = field(default_factory=dict)
    unreached: Mapping[str, float] = field(default_factory=dict)
    node_xids: Mapping[str, float] = field(default_factory=dict)
    gateway_oldest_at: float = math.nan
    gateway_newest_at: float = math.nan


class MetricSource(Protocol):
    """Where measurements come from."""

    def read(self, at: float) -> FleetMetrics:
        """Return the newest measurements known at ``at``; raises ObservationError when there are none at all."""
        ...


class Cluster(Protocol):
    """Where replicas live. Every verb is idempotent and raises ActuationError when refused."""

    def pools(self) -> tuple[PoolState, ...]:
        """Return every pool with its replicas, without metrics and weights; raises ObservationError."""
        ...

    def nodes(self) -> Mapping[str, NodeState]:
        """Return the nodes that are known, by name; none where the platform tells of none. Raises ObservationError."""
        ...

    def scale(self, pool: PoolKey, replicas: int, version: int, retire_first: tuple[str, ...] = ()) -> None:
        """Ask for ``replicas``; those given up drain first. Raises StalePlan if the pool is not at ``version``."""
        ...

    def cordon(self, pool: PoolKey, replica: str) -> None:
        """Send that replica of the pool no new requests."""
        ...

    def uncordon(self, pool: PoolKey, replica: str) -> None:
        """Send it new requests again."""
        ...

    def restart(self, pool: PoolKey, replica: str) -> None:
        """Delete the replica; the platform starts another in its place."""
        ...

    def roll_back(self, pool: PoolKey, revision: str) -> None:
        """Give the pool's replicas the template of ``revision``, and end a pause of its rollout."""
        ...

    def pause(self, pool: PoolKey) -> None:
        """Let a rollout of the pool go no further."""
        ...

    def resume(self, pool: PoolKey) -> None:
        """Let the rollout of the pool go on."""
        ...

    def avoid(self, node: str) -> None:
        """Place no replica on that node any more; those that are there stay."""
        ...

    def stop_avoiding(self, node: str) -> None:
        """Place replicas there again."""
        ...


class Router(Protocol):
    """Where traffic shares are set."""

    def weights(self, model: str) -> Mapping[PoolKey, float]:
        """Return each pool's share of new requests, none for a pool outside the route; raises ObservationError."""
        ...

    def set_weights(self, model: str, weights: Mapping[PoolKey, float]) -> None:
        """Replace the shares; raises ActuationError."""
        ...


class Canaries(Protocol):
    """Where idle engines are asked for one token."""

    def send(self, canary: SendCanary) -> None:
        """Ask, without waiting for the answer; raises ActuationError where it cannot be asked."""
        ...

    def answers(self, at: float) -> Mapping[str, CanaryAnswer]:
        """Return what became of the newest one of each replica that was asked lately, by its name in the fleet.

        Nothing as long as that is open. Never raises.
        """
        ...


@dataclass(frozen=True, slots=True)
class Sources:
    """Where a tick looks; without ``canaries`` nobody is asked for a token."""

    clock: Clock
    metrics: MetricSource
    cluster: Cluster
    router: Router
    canaries: Canaries | None = None


@dataclass(frozen=True, slots=True)
class ModelVersion:
    """A registered model: ``aliases`` holds ``champion`` or ``challenger`` where it has that part."""

    name: str
    version: str
    aliases: tuple[str, ...]
    tags: Mapping[str, str]


class ModelRegistry(Protocol):
    """Where trained models are kept. Every verb raises RegistryError."""

    def fetch(self, name: str, alias_or_version: str) -> Path:
        """Return a local folder that holds the artifact."""
        ...

    def versions(self, name: str) -> tuple[ModelVersion, ...]:
        """Return all versions, newest first."""
        ...

    def publish(self, name: str, artifact: Path, tags: Mapping[str, str]) -> ModelVersion:
        """Register the artifact folder as a new version."""
        ...

    def point(self, name: str, alias: str, version: str) -> None:
        """Let ``alias`` name ``version``."""
        ...

    def tag(self, name: str, version: str, tags: Mapping[str, str]) -> None:
        """Put ``tags`` on ``version``, over those of the same key."""
        ...


TickPhase: TypeAlias = Literal["observe", "forecast", "decide", "act", "record"]
PhaseTimer: TypeAlias = Callable[[TickPhase], AbstractContextManager[None]]
"""What the loop goes through in each phase of a tick, for whoever wants to know how long it took."""

Act: TypeAlias = Literal[
    "cordon",
    "uncordon",
    "restart",
    "roll back",
    "pause",
    "resume",
    "avoid",
    "stop avoiding",
    "page",
    "weights",
    "scale",
    "canary",
    "approval",
]
"""What is done; ``approval`` is no act of ours but somebody's word that was refused."""
Outcome: TypeAlias = Literal["done", "held", "failed"]


@dataclass(frozen=True, slots=True)
class ActResult:
    """What became of one part of a decision.

    ``held`` is by mode, kill switch, staleness, maintenance or an unwritten record, or since nobody approved it.
    """

    act: Act
    subject: str
    outcome: Outcome
    detail: str = ""


@dataclass(frozen=True, slots=True)
class TickRecord:
    """All there is to say about one tick: seen, forecast, decided, done.

    ``fleet``, ``forecasts``, ``memory`` and the settings that the decision names by their digest are all that it was
    made from, so that it can be made again.

    Attributes:
        forecast_sources: Who forecast each model.
        decision: None when the fleet could not be observed, or an error that nobody foresaw came first.
        error: Why there is no decision, or what cut the acts short.
        forecasts: What the decision was shown, per model.
        stepped_back: Who could not forecast a model, each with why.
        memory: What the decision started from.
        unrecorded: Why this tick, or what became of it, is not in the audit log; empty when it is.
        gap: What of earlier ticks is not in the audit log; empty when all is.
        told: The page about ticks that saw nothing, where this one sent it or would have; nothing else is done then.
    """

    at: float
    fleet: FleetState | None
    forecast_sources: Mapping[str, str]
    decision: Decision | None
    results: tuple[ActResult, ...] = ()
    error: str = ""
    forecasts: Mapping[str, LoadForecast] = field(default_factory=dict)
    stepped_back: Mapping[str, tuple[tuple[str, str], ...]] = field(default_factory=dict)
    memory: PolicyMemory | None = None
    unrecorded: str = ""
    gap: str = ""
    told: ActResult | None = None

    @property
    def acts_planned(self) -> bool:
        """Whether anything is to be written or anybody told; a failover is carried out by its traffic plan."""
        decided = self.decision
        return decided is not None and (
            bool(decided.scaling or decided.traffic) or any(not isinstance(r, FailOver) for r in decided.remediations)
        )


@dataclass(frozen=True, slots=True)
class ActsRecord:
    """What became of the acts that the entry ``intent`` of the audit log announced."""

    at: float
    intent: str
    results: tuple[ActResult, ...]
    error: str = ""


class AuditLog(Protocol):
    """Where every decision and non-decision is recorded. Both verbs raise AuditError when they cannot."""

    def append(self, record: TickRecord) -> str:
        """Store the record after all earlier ones and return its id. What is to be done is stored before it is."""
        ...

    def settle(self, outcome: ActsRecord) -> None:
        """Store what became of the acts of an earlier record."""
        ...


class Notifier(Protocol):
    """Where humans are told."""

    def page(self, page: Page, at: float) -> None:
        """Deliver ``page``; never raises."""
        ...

    def recommend(self, subject: str, what: str, at: float) -> None:
        """Say what would be done about a pool, model or replica if its mode, or somebody, allowed it; never raises."""
        ...


class Witness(Protocol):
    """Whoever is told what each tick decided and what became of it, once that is on record."""

    def saw(self, record: TickRecord) -> None:
        """Take note of a tick, without waiting for anything; never raises."""
        ...
