"""How does a pool live: replicas are asked for, placed, load, serve, drain, crash and start again, and are paid for."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

from controller.errors import ActuationError, StalePlan
from policies.engine_profile import EngineProfile
from policies.fleet import Phase, PoolKey, PoolState
from simulations.clock import EventQueue
from simulations.fleet_replica import FleetReplica
from simulations.gateway import Gateway
from simulations.settings import FleetSettings

_P90_DEVIATIONS = 1.2815515655446004  # standard normal quantile of 0.9


@dataclass(frozen=True, slots=True)
class PoolSpec:
    """What a pool is made of.

    Attributes:
        key: Model, name and role.
        profile: The engine of each replica.
        replicas: Replicas that are READY when the simulation begins.
        lead_time_s: Median seconds from request to READY.
        lead_time_p90_ratio: Its 90th percentile over its median; lead times are lognormal, 1 makes them constant.
        pending_ratio: Share of the lead time before the engine is started (placement, image), the rest is loading.
        gpu_stock: GPUs that the pool can get, None for no limit; further replicas stay PENDING, unpaid, until some are
            given back.
        usd_per_gpu_hour: Price; None takes the profile's.
        weight: First share of the model's requests, relative to other pools; None takes the number of GPUs.
        revisions: Revisions that can be rolled back to; new replicas get the last.
        stable_revision: The one recorded as good.

    Raises:
        ValueError: If a figure is impossible.
    """

    key: PoolKey
    profile: EngineProfile
    replicas: int
    lead_time_s: float = 120.0
    lead_time_p90_ratio: float = 1.15
    pending_ratio: float = 0.2
    gpu_stock: int | None = None
    usd_per_gpu_hour: float | None = None
    weight: float | None = None
    revisions: tuple[str, ...] = ("1",)
    stable_revision: str = "1"

    def __post_init__(self) -> None:
        if self.replicas < 0:
            raise ValueError(f"pool {self.key}: replicas cannot be negative, got {self.replicas}")
        if not (self.lead_time_s >= 0 and self.lead_time_p90_ratio >= 1 and 0 <= self.pending_ratio <= 1):
            raise ValueError(f"pool {self.key}: impossible lead time")
        if self.gpu_stock is not None and self.gpu_stock < self.replicas * self.profile.gpus:
            raise ValueError(f"pool {self.key}: {self.replicas} replicas do not fit {self.gpu_stock} GPUs")
        if not self.revisions or (self.weight is not None and not self.weight >= 0):
            raise ValueError(f"pool {self.key}: needs a revision and a weight that is not negative")

    @property
    def first_weight(self) -> float:
        """First share of the model's requests, before it is scaled to a sum of one."""
        return float(self.replicas * self.profile.gpus) if self.weight is None else self.weight

    @property
    def price_usd(self) -> float:
        """US dollars per GPU hour."""
        return self.profile.usd_per_gpu_hour if self.usd_per_gpu_hour is None else self.usd_per_gpu_hour


class SimulatedPool:
    """One pool and its replicas, in order of creation.

    The ``k``-th replica ever created draws its lead times from a generator seeded with (seed, pool, k) alone, so that
    two policies that both create it wait for it equally long.
    """

    def __init__(
        self,
        index: int,
        spec: PoolSpec,
        gateway: Gateway,
        events: EventQueue,
        settings: FleetSettings,
        seed: int,
        created: Callable[[FleetReplica, float], None],
    ) -> None:
        self.index = index
        self.spec = spec
        self.replicas: dict[str, FleetReplica] = {}
        self.desired = spec.replicas
        self.version = 1
        self.revision = spec.revisions[-1]
        self._gateway = gateway
        self._events = events
        self._settings = settings
        self._seed = seed
        self._created = created
        self._ordinal = 0
        self._lost_nodes: set[str] = set()
        self._on_node: Counter[str] = Counter()
        self._placed = 0
        self._paid_gpu_s = 0.0
        self._log_sigma = math.log(spec.lead_time_p90_ratio) / _P90_DEVIATIONS
        for _ in range(spec.replicas):
            replica = self._create(settings.epoch_at, start=False)
            self._place(replica, settings.epoch_at)
            self._ready(replica, replica.lives, settings.epoch_at)

    # What can be seen

    def state(self) -> PoolState:
        """Return the pool as the platform tells it: without metrics and without a weight."""
        return PoolState(
            key=self.spec.key,
            replicas=tuple(replica.state() for replica in self.replicas.values()),
            desired=self.desired,
            gpus_per_replica=self.spec.profile.gpus,
            usd_per_replica_hour=self.spec.profile.gpus * self.spec.price_usd,
            version=self.version,
            revision=self.revision,
            stable_revision=self.spec.stable_revision,
        )

    def gpu_seconds(self, at: float) -> float:
        """Return the GPU seconds reserved until ``at``: from placement to removal, loading and draining included."""
        held = math.fsum(at - r.placed_at for r in self.replicas.values() if not math.isnan(r.placed_at))
        return self._paid_gpu_s + held * self.spec.profile.gpus

    # What can be done

    def scale(self, replicas: int, version: int, retire_first: tuple[str, ...], at: float) -> None:
        """Ask for ``replicas``; see ``controller.ports.Cluster.scale``."""
        if replicas < 0:
            raise ActuationError(f"cannot scale to {replicas} replicas", str(self.spec.key))
        if replicas == self.desired:
            return
        if version != self.version:
            raise StalePlan(f"plan is for version {version}, the pool is at {self.version}", str(self.spec.key))
        self.desired = replicas
        self.version += 1
        standing = [replica for replica in self.replicas.values() if replica.stays]
        for _ in range(replicas - len(standing)):
            self._create(at)
        for replica in self._retirement_order(standing, retire_first)[: max(0, len(standing) - replicas)]:
            self._retire(replica, at)

    def cordon(self, replica: FleetReplica) -> None:
        """Take the replica out of traffic."""
        replica.cordoned = True
        self._gateway.close(replica)

    def uncordon(self, replica: FleetReplica, at: float) -> None:
        """Give the replica its traffic back."""
        replica.cordoned = False
        if replica.phase is Phase.READY:
            self._gateway.open(replica, at)

    def restart(self, replica: FleetReplica, at: float) -> None:
        """Delete the replica; another is asked for at once, unless it was on its way out."""
        stays, predecessor = replica.stays, replica.replaces
        replica.replaces = None
        self._remove(replica, at, retry=True)
        if stays:
            self._create(at).replaces = predecessor

    def roll_back(self, revision: str, at: float) -> None:
        """Give replicas the template of ``revision``: a READY one drains once its successor is READY."""
        if revision not in self.spec.revisions:
            raise ActuationError(
                f"no revision {revision!r}; known: {', '.join(self.spec.revisions)}", str(self.spec.key)
            )
        if revision == self.revision:
            return
        self.revision = revision
        self.version += 1
        for replica in [r for r in self.replicas.values() if r.stays and r.revision != revision]:
            if replica.phase is Phase.READY:
                replica.superseded = True
                self._create(at).replaces = replica
            else:
                self.restart(replica, at)

    # What can happen

    def crash(self, replica: FleetReplica, at: float) -> None:
        """Let the engine exit; the platform starts it again in place after a back-off."""
        if not replica.alive:
            return
        if at - replica.ready_at >= self._settings.restart_backoff_reset_s:
            replica.backoffs = 0
        wait_s = min(self._settings.restart_backoff_s * 2.0**replica.backoffs, self._settings.restart_backoff_cap_s)
        draining = replica.phase is Phase.DRAINING
        self._gateway.close(replica)
        replica.end_life()
        replica.backoffs += 1
        replica.restarts += 1
        replica.requested_at = at
        replica.enter(Phase.FAILED, at)
        self._gateway.lost(replica, at, retry=True)
        if draining:
            self._remove(replica, at, retry=True)
        else:
            self._events.plan(at + wait_s, partial(self._restarted, replica, replica.lives))

    def lose_node(self, node: str, at: float) -> None:
        """Let a node vanish with its replicas; the platform asks for others elsewhere."""
        self._lost_nodes.add(node)
        for replica in [replica for replica in self.replicas.values() if replica.node == node]:
            self.restart(replica, at)

    def drained(self, replica: FleetReplica, at: float) -> None:
        """Take note that a draining replica has nothing left to do."""
        if not replica.removed:
            self._remove(replica, at, retry=False)

    # Life of a replica

    def _create(self, at: float, *, start: bool = True) -> FleetReplica:
        rng = np.random.default_rng([self._seed, self.index, self._ordinal])
        replica = FleetReplica(
            f"{self.spec.key.pool}-{self._ordinal}", self.index, self.revision, at, rng, self._gateway.kernel
        )
        self._ordinal += 1
        self.replicas[replica.id] = replica
        self._created(replica, at)
        if start and self._has_room():
            self._start(replica, at)
        return replica

    def _has_room(self) -> bool:
        stock = self.spec.gpu_stock
        return stock is None or (self._placed + 1) * self.spec.profile.gpus <= stock

    def _lead_time_s(self, replica: FleetReplica) -> float:
        return self.spec.lead_time_s * math.exp(self._log_sigma * replica.rng.standard_normal())

    def _start(self, replica: FleetReplica, at: float) -> None:
        self._place(replica, at)
        lead_time_s = self._lead_time_s(replica)
        pending_s = lead_time_s * self.spec.pending_ratio
        self._events.plan(at + pending_s, partial(self._loading, replica, replica.lives, lead_time_s - pending_s))

    def _place(self, replica: FleetReplica, at: float) -> None:
        replica.placed_at = at
        self._placed += 1
        replica.node = self._node_with_room()
        self._on_node[replica.node] += 1

    def _node_with_room(self) -> str:
        """Return the first node that is there and has GPUs left; there is always another node."""
        per_node = max(1, self._settings.gpus_per_node // self.spec.profile.gpus)
        names = (f"{self.spec.key.pool}-node-{position}" for position in itertools.count())
        return next(name for name in names if name not in self._lost_nodes and self._on_node[name] < per_node)

    def _loading(self, replica: FleetReplica, lives: int, loading_s: float, at: float) -> None:
        if replica.lives == lives:
            replica.enter(Phase.LOADING, at)
            self._events.plan(at + loading_s, partial(self._ready, replica, lives))

    def _restarted(self, replica: FleetReplica, lives: int, at: float) -> None:
        self._loading(replica, lives, self._lead_time_s(replica) * (1.0 - self.spec.pending_ratio), at)

    def _ready(self, replica: FleetReplica, lives: int, at: float) -> None:
        if replica.lives != lives:
            return
        replica.enter(Phase.READY, at)
        replica.ready_at = at
        replica.begin_life()
        if not replica.cordoned:
            self._gateway.open(replica, at)
        predecessor, replica.replaces = replica.replaces, None
        if predecessor is not None and not predecessor.removed:
            self._retire(predecessor, at)

    def _retirement_order(self, replicas: list[FleetReplica], retire_first: tuple[str, ...]) -> list[FleetReplica]:
        """Named ones, then those not serving (youngest first), then READY ones with the least to lose."""
        named = {name: place for place, name in enumerate(retire_first)}
        age = {replica.id: place for place, replica in enumerate(replicas)}

        def order(replica: FleetReplica) -> tuple[int, ...]:
            if replica.id in named:
                return (0, named[replica.id])
            if replica.phase is not Phase.READY:
                return (1, -age[replica.id])
            return (2, not replica.cordoned, replica.in_flight, -age[replica.id])

        return sorted(replicas, key=order)

    def _retire(self, replica: FleetReplica, at: float) -> None:
        if replica.phase is not Phase.READY:
            self._remove(replica, at, retry=True)
            return
        self._gateway.close(replica)
        replica.enter(Phase.DRAINING, at)
        if replica.in_flight:
            self._events.plan(at + self._settings.drain_deadline_s, lambda then: self.drained(replica, then))
        else:
            self.drained(replica, at)

    def _remove(self, replica: FleetReplica, at: float, *, retry: bool) -> None:
        self._gateway.close(replica)
        replica.end_life()
        replica.removed = True
        del self.replicas[replica.id]
        if not math.isnan(replica.placed_at):
            self._placed -= 1
            self._on_node[replica.node] -= 1
            self._paid_gpu_s += (at - replica.placed_at) * self.spec.profile.gpus
        self._gateway.lost(replica, at, retry=retry)
        if replica.replaces is not None and not replica.replaces.removed:
            self._retire(replica.replaces, at)
        for waiting in self.replicas.values():
            if math.isnan(waiting.placed_at) and self._has_room():
                self._start(waiting, at)
