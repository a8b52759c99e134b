"""What the control loop needs from the world: one page of protocols, in the words of the domain."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from policies.decisions import Decision, Page
from policies.fleet import Demand, FleetState, PoolKey, PoolState, ReplicaMetrics, ServiceLevel


class Clock(Protocol):
    """Where the time comes from."""

    def now(self) -> float:
        """Seconds since the Unix epoch, UTC."""
        ...


@dataclass(frozen=True, slots=True)
class FleetMetrics:
    """What the metrics store had to say. A missing key was not observed.

    ``replicas``, ``in_flight`` and ``answered`` (see ``ReplicaState``) are by replica id, the others by model.
    """

    replicas: Mapping[str, ReplicaMetrics] = field(default_factory=dict)
    in_flight: Mapping[str, float] = field(default_factory=dict)
    demand: Mapping[str, Demand] = field(default_factory=dict)
    service: Mapping[str, ServiceLevel] = field(default_factory=dict)
    gateway_queued: Mapping[str, float] = field(default_factory=dict)
    missing: tuple[str, ...] = ()
    answered: Mapping[str, float] = field(default_factory=dict)


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
        """Give the pool's replicas the template of ``revision``."""
        ...


class Router(Protocol):
    """Where traffic shares are set."""

    def weights(self, model: str) -> Mapping[PoolKey, float]:
        """Return each pool's share of new requests; raises ObservationError."""
        ...

    def set_weights(self, model: str, weights: Mapping[PoolKey, float]) -> None:
        """Replace the shares; raises ActuationError."""
        ...


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


@dataclass(frozen=True, slots=True)
class ActResult:
    """What became of one part of a decision: ``done``, ``held`` (by mode, kill switch or staleness) or ``failed``."""

    act: str
    subject: str
    outcome: str
    detail: str = ""


@dataclass(frozen=True, slots=True)
class TickRecord:
    """All there is to say about one tick: seen, forecast, decided, done. ``error`` is set when it could not observe."""

    at: float
    fleet: FleetState | None
    forecast_sources: Mapping[str, str]
    decision: Decision | None
    results: tuple[ActResult, ...] = ()
    error: str = ""


class AuditLog(Protocol):
    """Where every decision and non-decision is recorded."""

    def append(self, record: TickRecord) -> str:
        """Store the record after all earlier ones and return its id."""
        ...


class Notifier(Protocol):
    """Where humans are told."""

    def page(self, page: Page, at: float) -> None:
        """Deliver ``page``; never raises."""
        ...
