"""How does a pool live: replicas are asked for, placed, serve, drain, crash, give way to others, and are paid for."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np

from controller.errors import ActuationError, StalePlan
from policies.fleet import Phase, PoolState
from simulations.clock import EventQueue
from simulations.fleet_replica import FleetReplica
from simulations.gateway import Gateway
from simulations.nodes import Node
from simulations.pool_spec import PoolSpec
from simulations.revisions import Behaviour, next_name, rolled_on, spread
from simulations.scheduling import Scheduler
from simulations.settings import FleetSettings
from simulations.starts import ERROR, UNSCHEDULABLE, Starts

__all__ = ["PoolSpec", "SimulatedPool"]

_GPU_STREAM = 104_729
"""Keeps how GPUs differ apart from how long replicas take to start."""
_GPU_SPREAD = 0.03
"""By what share the power of a replica's GPUs is at most above or below that of others. An assumption."""


class SimulatedPool:
    """One pool and its replicas, in order of creation; a Deployment of Kubernetes, whose replica sets are revisions.

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
        self.revision_at = settings.epoch_at
        self.revisions = spec.revisions
        self.paused = False
        self.starts = Starts(spec, events, settings, scheduler, self._ready, self.crash)
        self._gateway = gateway
        self._events = events
        self._settings = settings
        self._seed = seed
        self._created = created
        self._scheduler = scheduler
        self._ordinal = 0
        self._wanted = dict.fromkeys(spec.revisions, 0)  # replicas per revision, the newest last
        self._wanted[self.revision] = spec.replicas
        self._withheld: list[str] = []  # revisions of replicas that the quota forbids
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
                revision_at=self.revision_at,
                revisions=self.revisions,
                paused=self.paused,
            )
        return told

    def gpu_seconds(self, at: float) -> float:
        """Return the GPU seconds reserved until ``at``: from placement to removal, loading and draining included."""
        held = math.fsum(at - r.placed_at for r in self.replicas.values() if not math.isnan(r.placed_at))
        return self._paid_gpu_s + held * self.spec.profile.gpus

    # What can be done

    def scale(self, replicas: int, version: int, retire_first: tuple[str, ...], at: float) -> None:
        """Ask for ``replicas``; see ``controller.ports.Cluster.scale``. In a rollout, all revisions change alike."""
        if replicas < 0:
            raise ActuationError(f"cannot scale to {replicas} replicas", str(self.spec.key))
        if replicas == self.desired:
            return
        if version != self.version:
            raise StalePlan(f"plan is for version {version}, the pool is at {self.version}", str(self.spec.key))
        wanted = spread(self._wanted, self.revision, self.desired, replicas)
        more = sum(wanted.values()) - sum(self._wanted.values())
        self._scheduler.check_growth(more * self.spec.profile.gpus, str(self.spec.key))
        self.desired = replicas
        self.version += 1
        self._have(wanted, at, retire_first)
        self._roll(at)

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
        stays = replica.stays
        self._remove(replica, at, retry=True)
        if stays:
            self._create(replica.revision, at)

    def roll_out(self, revision: str, behaviour: Behaviour, at: float) -> None:
        """Let replicas get a new template, named ``revision`` or else after the next number, which behaves so."""
        name = revision or next_name(self.revisions)
        self.starts.behaviours[name] = behaviour
        if name not in self.revisions:
            self.revisions = (*self.revisions, name)
        self._turn_to(name, at)

    def roll_back(self, revision: str, at: float) -> None:
        """Let replicas get the template of ``revision`` again, whether or not the rollout was paused."""
        if revision not in self.revisions:
            raise ActuationError(f"no revision {revision!r}; known: {', '.join(self.revisions)}", str(self.spec.key))
        self.version += self.paused
        self.paused = False
        self._turn_to(revision, at)

    def pause(self) -> None:
        """Let rollouts go no further."""
        self.version += not self.paused
        self.paused = True

    def resume(self, at: float) -> None:
        """Let rollouts go on."""
        self.version += self.paused
        self.paused = False
        self._roll(at)

    # What can happen

    def crash(self, replica: FleetReplica, at: float, reason: str = ERROR) -> None:
        """Let the engine exit; the platform starts it again in place after a back-off."""
        if not replica.alive:
            return
        if at - replica.ready_at >= self._settings.restart_backoff_reset_s:
            replica.backoffs = 0
        draining = replica.phase is Phase.DRAINING
        self._gateway.close(replica)
        self.starts.exit(replica, reason, at)
        self._gateway.lost(replica, at, retry=True)
        if draining:
            self._remove(replica, at, retry=True)
        else:
            self._roll(at)

    def node_failed(self, node: str, at: float) -> None:
        """Let the engines on a node be dead, while the platform lists its replicas as they were."""
        for replica in self.on(node):
            replica.go_dark()

    def lose_node(self, node: str, at: float) -> None:
        """Let a node vanish with its replicas; the platform asks for others elsewhere."""
        for replica in self.on(node):
            self.restart(replica, at)

    def evict(self, node: str, at: float) -> None:
        """Let a node be drained: what serves finishes what it has, and the platform asks for others elsewhere."""
        for replica in self.on(node):
            if replica.phase is Phase.READY:
                stays = replica.stays
                self._retire(replica, at)
                if stays:
                    self._create(replica.revision, at)
            elif replica.phase is not Phase.DRAINING:
                self.restart(replica, at)

    def drained(self, replica: FleetReplica, at: float) -> None:
        """Take note that a draining replica has nothing left to do."""
        if not replica.removed:
            self._remove(replica, at, retry=False)

    def placed(self, replica: FleetReplica, node: Node, at: float) -> None:
        """Let a replica that has its GPUs start on its node."""
        self.starts.placed(replica, node, at)

    def quota_freed(self, at: float) -> None:
        """Make replicas that the quota did not allow before."""
        while self._withheld and self._scheduler.admits(self.spec.profile.gpus):
            self._make(self._withheld.pop(0), at)

    def on(self, node: str) -> list[FleetReplica]:
        """Return the replicas on a node."""
        return [replica for replica in self.replicas.values() if replica.node == node]

    def ready(self) -> list[FleetReplica]:
        """Return the replicas that are READY, the oldest first."""
        return [replica for replica in self.replicas.values() if replica.phase is Phase.READY]

    # Rollout

    def _turn_to(self, revision: str, at: float) -> None:
        if revision != self.revision:
            self._wanted[revision] = self._wanted.pop(revision, 0)
            self.revision = revision
            self.revision_at = at
            self.version += 1
        self._roll(at)

    def _roll(self, at: float) -> None:
        """Go on with the rollout as far as it may now, as the controller of Deployments does."""
        while not self.paused and (self._wanted[self.revision], sum(self._wanted.values())) != (self.desired,) * 2:
            ready = Counter(replica.revision for replica in self.ready())
            wanted = rolled_on(self._wanted, ready, self.revision, self.desired)
            if wanted == self._wanted:
                return
            self._have(wanted, at)

    def _have(self, wanted: Mapping[str, int], at: float, retire_first: tuple[str, ...] | None = None) -> None:
        """Ask for so many replicas of each revision; for ``retire_first`` see ``_shrink``."""
        for revision, count in wanted.items():
            self._grow(revision, count - self._wanted[revision], at)
            self._shrink(revision, self._wanted[revision] - count, at, retire_first)

    def _grow(self, revision: str, more: int, at: float) -> None:
        """Ask for more replicas of a revision; none when ``more`` is not positive."""
        self._wanted[revision] += max(0, more)
        for _ in range(more):
            self._create(revision, at)

    def _shrink(self, revision: str, fewer: int, at: float, retire_first: tuple[str, ...] | None) -> None:
        """Give up replicas of a revision, those first that the quota forbids; none when ``fewer`` is not positive.

        ``retire_first`` is given when the pool is scaled; in a rollout the oldest go first.
        """
        self._wanted[revision] -= max(0, fewer)
        for place in range(len(self._withheld) - 1, -1, -1):
            if fewer > 0 and self._withheld[place] == revision:
                del self._withheld[place]
                fewer -= 1
        standing = [replica for replica in self.replicas.values() if replica.stays and replica.revision == revision]
        for replica in self._retirement_order(standing, retire_first)[: max(0, fewer)]:
            self._retire(replica, at)

    # Life of a replica

    def _begin(self, at: float) -> None:
        """Have a replica that is READY when the simulation begins, if there is room for it."""
        if not self._scheduler.admits(self.spec.profile.gpus):
            self._withheld.append(self.revision)
            return
        replica = self._new(self.revision, at)
        node = self._scheduler.ask(replica, at, at_once=True)
        if node is None:
            replica.waiting_reason = UNSCHEDULABLE
        else:
            self.starts.begin(replica, node, at)

    def _create(self, revision: str, at: float) -> None:
        """Ask for one more replica; the quota may put it off."""
        if self._scheduler.admits(self.spec.profile.gpus):
            self._make(revision, at)
        else:
            self._withheld.append(revision)

    def _make(self, revision: str, at: float) -> None:
        replica = self._new(revision, at)
        node = self._scheduler.ask(replica, at)
        if node is None:
            replica.waiting_reason = UNSCHEDULABLE
        else:
            self.placed(replica, node, at)

    def _new(self, revision: str, at: float) -> FleetReplica:
        rng = np.random.default_rng([self._seed, self.index, self._ordinal])
        replica = FleetReplica(
            f"{self.spec.key.pool}-{self._ordinal}", self.index, revision, at, rng, self._gateway.kernel
        )
        if self._settings.gpu_metrics:
            spread = np.random.default_rng([self._seed, self.index, self._ordinal, _GPU_STREAM])
            replica.export_gpus(1.0 + _GPU_SPREAD * spread.uniform(-1.0, 1.0))
        self._ordinal += 1
        self.replicas[replica.id] = replica
        self._created(replica, at)
        return replica

    def _ready(self, replica: FleetReplica, at: float) -> None:
        if not replica.cordoned:
            self._gateway.open(replica, at)
        self._roll(at)

    def _retirement_order(
        self, replicas: Sequence[FleetReplica], retire_first: tuple[str, ...] | None
    ) -> list[FleetReplica]:
        """Named ones, then those not serving (youngest first), then READY ones with the least to lose, or the oldest.

        The oldest in a rollout, in which nobody is named.
        """
        named = {name: place for place, name in enumerate(retire_first or ())}
        age = {replica.id: place for place, replica in enumerate(replicas)}

        def order(replica: FleetReplica) -> tuple[int, ...]:
            if replica.id in named:
                return (0, named[replica.id])
            if replica.phase is not Phase.READY:
                return (1, -age[replica.id])
            if retire_first is None:
                return (2, age[replica.id])
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
            self._events.plan(at + self._settings.drain_deadline_s, partial(self.drained, replica))
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
        self._scheduler.serve(at)
