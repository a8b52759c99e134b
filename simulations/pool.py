"""How does a pool live: replicas are asked for, placed, load, serve, drain, crash and start again, and are paid for."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from controller.errors import ActuationError, StalePlan
from policies.engine_profile import EngineProfile
from policies.fleet import Phase, PoolKey, PoolState
from simulations.clock import EventQueue
from simulations.fleet_replica import FleetReplica
from simulations.gateway import Gateway
from simulations.nodes import Node
from simulations.scheduling import Scheduler
from simulations.settings import FleetSettings
from simulations.startup import LEAD_TIME_S, StartTimes, StartupModel, draw_start


@dataclass(frozen=True, slots=True)
class PoolSpec:
    """What a pool is made of.

    Attributes:
        key: Model, name and role.
        profile: The engine of each replica.
        replicas: Replicas that are READY when the simulation begins.
        lead_time_s: Median seconds from placement to READY.
        startup: Phases of a start, and how starts scatter.
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
    lead_time_s: float = LEAD_TIME_S
    startup: StartupModel = field(default_factory=StartupModel)
    gpu_stock: int | None = None
    usd_per_gpu_hour: float | None = None
    weight: float | None = None
    revisions: tuple[str, ...] = ("1",)
    stable_revision: str = "1"

    def __post_init__(self) -> None:
        if self.replicas < 0:
            raise ValueError(f"pool {self.key}: replicas cannot be negative, got {self.replicas}")
        if not 0 <= self.lead_time_s < math.inf:
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
    two policies that both create it wait for it equally long once it is placed, unless caches of its node differ.
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
        scheduler: Scheduler,
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
        self._scheduler = scheduler
        self._ordinal = 0
        self._withheld: list[FleetReplica | None] = []  # replicas that the quota forbids, each with whom it replaces
        self._paid_gpu_s = 0.0
        self._told: PoolState | None = None
        scheduler.join(index, self)
        for _ in range(spec.replicas):
            self._begin(settings.epoch_at)

    # What can be seen

    def state(self) -> PoolState:
        """Return the pool as the platform tells it: without metrics and without a weight.

        As long as nothing changes, this is the same object.
        """
        replicas = tuple([replica.state() for replica in self.replicas.values()])
        told = self._told
        if told is None or (self.desired, self.version, self.revision, replicas) != (
            told.desired,
            told.version,
            told.revision,
            told.replicas,
        ):
            self._told = told = PoolState(
                key=self.spec.key,
                replicas=replicas,
                desired=self.desired,
                gpus_per_replica=self.spec.profile.gpus,
                usd_per_replica_hour=self.spec.profile.gpus * self.spec.price_usd,
                version=self.version,
                revision=self.revision,
                stable_revision=self.spec.stable_revision,
            )
        return told

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
        standing = [replica for replica in self.replicas.values() if replica.stays]
        more = replicas - len(standing) - len(self._withheld)
        self._scheduler.check_growth(more * self.spec.profile.gpus, str(self.spec.key))
        self.desired = replicas
        self.version += 1
        for _ in range(more):
            self._create(at)
        self._forgo(min(-more, len(self._withheld)), at)
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
            self._create(at, predecessor)

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
                self._create(at, replica)
            else:
                self.restart(replica, at)

    # What can happen

    def crash(self, replica: FleetReplica, at: float) -> None:
        """Let the engine exit; the platform starts it again in place after a back-off."""
        if not replica.alive:
            return
        if at - replica.ready_at >= self._settings.restart_backoff_reset_s:
            replica.backoffs = 0
        draining = replica.phase is Phase.DRAINING
        self._gateway.close(replica)
        self._exit(replica, at)
        self._gateway.lost(replica, at, retry=True)
        if draining:
            self._remove(replica, at, retry=True)

    def lose_node(self, node: str, at: float) -> None:
        """Let a node vanish with its replicas; the platform asks for others elsewhere."""
        for replica in self._on(node):
            self.restart(replica, at)

    def evict(self, node: str, at: float) -> None:
        """Let a node be drained: what serves finishes what it has, and the platform asks for others elsewhere."""
        for replica in self._on(node):
            if replica.phase is Phase.READY:
                stays = replica.stays
                self._retire(replica, at)
                if stays:
                    self._create(at)
            elif replica.phase is not Phase.DRAINING:
                self.restart(replica, at)

    def drained(self, replica: FleetReplica, at: float) -> None:
        """Take note that a draining replica has nothing left to do."""
        if not replica.removed:
            self._remove(replica, at, retry=False)

    def placed(self, replica: FleetReplica, node: Node, at: float) -> None:
        """Let a replica that has its GPUs start on its node."""
        self._occupy(replica, node, at)
        times = self._draw(replica)
        container_at = at + times.schedule_s
        image_at = container_at + times.pull_s
        if self.spec.startup.keeps_image:
            node.image_at = min(node.image_at, image_at)
            image_at = max(container_at, node.image_at)
        self._events.plan(image_at, partial(self._loading, replica, replica.lives, times))

    def quota_freed(self, at: float) -> None:
        """Make replicas that the quota did not allow before."""
        while self._withheld and self._scheduler.admits(self.spec.profile.gpus):
            self._make(at, self._withheld.pop(0))

    # Life of a replica

    def _begin(self, at: float) -> None:
        """Have a replica that is READY when the simulation begins, if there is room for it."""
        if not self._scheduler.admits(self.spec.profile.gpus):
            self._withheld.append(None)
            return
        replica = self._new(at, None)
        node = self._scheduler.ask(replica, at, at_once=True)
        if node is not None:
            self._occupy(replica, node, at)
            node.image_at = node.weights_at = at
            self._ready(replica, replica.lives, at)

    def _create(self, at: float, replaces: FleetReplica | None = None) -> None:
        """Ask for one more replica; the quota may put it off."""
        if self._scheduler.admits(self.spec.profile.gpus):
            self._make(at, replaces)
        else:
            self._withheld.append(replaces)

    def _make(self, at: float, replaces: FleetReplica | None) -> None:
        replica = self._new(at, replaces)
        node = self._scheduler.ask(replica, at)
        if node is not None:
            self.placed(replica, node, at)

    def _new(self, at: float, replaces: FleetReplica | None) -> FleetReplica:
        rng = np.random.default_rng([self._seed, self.index, self._ordinal])
        replica = FleetReplica(
            f"{self.spec.key.pool}-{self._ordinal}", self.index, self.revision, at, rng, self._gateway.kernel
        )
        replica.replaces = replaces
        self._ordinal += 1
        self.replicas[replica.id] = replica
        self._created(replica, at)
        return replica

    def _forgo(self, count: int, at: float) -> None:
        """Give up the last of the replicas that the quota forbids.

        All are taken off the list first: whoever goes frees quota, on which the others of the list are made at once.
        """
        given_up = [self._withheld.pop() for _ in range(count)]
        for predecessor in given_up:
            if predecessor is not None and not predecessor.removed:
                self._retire(predecessor, at)

    def _on(self, node: str) -> list[FleetReplica]:
        return [replica for replica in self.replicas.values() if replica.node == node]

    def _draw(self, replica: FleetReplica) -> StartTimes:
        return draw_start(self.spec.startup, self.spec.lead_time_s, replica.rng)

    def _occupy(self, replica: FleetReplica, node: Node, at: float) -> None:
        replica.placed_at = at
        replica.node = node.name

    def _loading(self, replica: FleetReplica, lives: int, times: StartTimes, at: float) -> None:
        """Load, warm up, and be READY or exit."""
        if replica.lives != lives:
            return
        replica.enter(Phase.LOADING, at)
        node = self._scheduler.node_of(replica)
        load_s = times.load_s * (self.spec.startup.warm_load_ratio if node.weights_at <= at else 1.0)
        starting_s = load_s + times.warm_up_s
        if times.fails:
            self._events.plan(at + starting_s * times.fails_after_ratio, partial(self._failed_to_start, replica, lives))
        else:
            node.weights_at = min(node.weights_at, at + load_s)
            self._events.plan(at + starting_s, partial(self._ready, replica, lives))

    def _failed_to_start(self, replica: FleetReplica, lives: int, at: float) -> None:
        if replica.lives == lives:
            self._exit(replica, at)

    def _exit(self, replica: FleetReplica, at: float) -> None:
        """Let the engine be gone; unless something else becomes of it, it is started again after a back-off."""
        wait_s = min(self._settings.restart_backoff_s * 2.0**replica.backoffs, self._settings.restart_backoff_cap_s)
        replica.end_life()
        replica.backoffs += 1
        replica.restarts += 1
        replica.requested_at = at
        replica.enter(Phase.FAILED, at)
        self._events.plan(at + wait_s, partial(self._restarted, replica, replica.lives))

    def _restarted(self, replica: FleetReplica, lives: int, at: float) -> None:
        """Start again in place: it is placed and has its image, the rest is drawn anew."""
        if replica.lives == lives:
            self._loading(replica, lives, self._draw(replica), at)

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
        if replica.phase is Phase.DRAINING:
            return
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
            self._paid_gpu_s += (at - replica.placed_at) * self.spec.profile.gpus
        self._scheduler.leave(replica, at)
        self._gateway.lost(replica, at, retry=retry)
        if replica.replaces is not None and not replica.replaces.removed:
            self._retire(replica.replaces, at)
        self._scheduler.serve(at)
