"""What does the platform know of a pool: its template, its replicas, who leaves first, what it has cost?"""

from __future__ import annotations

import asyncio
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from policies.fleet import Phase, PoolKey, PoolState, ReplicaState
from simulations.live.processes import Child

Fault: TypeAlias = Mapping[str, Any]
"""A fault as its JSON has it (see ``engine_faults``)."""


@dataclass(frozen=True, slots=True)
class EngineSlot:
    """What one life of a replica is given: who it is, where it listens, what it runs.

    Attributes:
        opening: Whether it is among the replicas that the platform begins with: those are wanted at once.
        faults: What is wrong with it from its start: with its revision, or with its pool.
    """

    replica: str
    revision: str
    life: int
    port: int
    admin_port: int
    opening: bool = False
    faults: tuple[Fault, ...] = ()


@dataclass(frozen=True, slots=True)
class PoolTemplate:
    """What a pool's replicas are made of.

    Attributes:
        command: The command line of an engine that listens on the slot's ports.
        replicas: Asked for when the platform begins.
        placement_s: Seconds that a new replica is PENDING before its process is started: a scheduler, an image pull.
            Replicas that the platform begins with do not wait.
        weight: First share of the model's requests, relative to its other pools.
        revisions: Revisions that the pool can be brought to, without faults; new replicas get the last.
        stable_revision: The one recorded as good.

    Raises:
        ValueError: If a figure is impossible.
    """

    key: PoolKey
    command: Callable[[EngineSlot], Sequence[str]]
    replicas: int
    gpus_per_replica: int = 1
    usd_per_replica_hour: float = 0.0
    placement_s: float = 0.0
    weight: float = 1.0
    revisions: tuple[str, ...] = ("1",)
    stable_revision: str = "1"

    def __post_init__(self) -> None:
        if self.replicas < 0 or self.gpus_per_replica < 1:
            raise ValueError(f"pool {self.key}: replicas cannot be negative, and each has a GPU")
        if not (self.placement_s >= 0 and 0 <= self.weight < math.inf and self.usd_per_replica_hour >= 0):
            raise ValueError(f"pool {self.key}: impossible placement time, weight or price")
        if not self.revisions or self.stable_revision not in self.revisions:
            raise ValueError(f"pool {self.key}: the stable revision {self.stable_revision!r} is none of its revisions")


@dataclass(slots=True, eq=False)
class LiveReplica:
    """One replica over all its lives. Its own task (``replica_life``) changes it, and the verbs that take it out.

    Attributes:
        opening: Whether the platform began with it.
        backoffs: Crashes since it last served for a while.
        drains: Whether it may finish what it has when it leaves.
        superseded: Whether a successor of another revision was asked for in its place.
        replaces: Whom it supersedes.
        condemned: What its next exit is to be called, where more is known than its code tells.
        exit_reason, waiting_reason: As in ``ReplicaState``.
        leaving: Set when it is to go, for good.
        hurry: Set when it is not to wait for its requests any more.
        ready, gone: Set when it has been READY once; when it is no more.
    """

    id: str
    node: str
    revision: str
    requested_at: float
    since_at: float
    phase: Phase = Phase.PENDING
    restarts: int = 0
    cordoned: bool = False
    child: Child | None = None
    slot: EngineSlot | None = None
    opening: bool = False
    backoffs: int = 0
    drains: bool = False
    superseded: bool = False
    replaces: LiveReplica | None = None
    condemned: str = ""
    exit_reason: str = ""
    waiting_reason: str = ""
    leaving: asyncio.Event = field(default_factory=asyncio.Event)
    hurry: asyncio.Event = field(default_factory=asyncio.Event)
    ready: asyncio.Event = field(default_factory=asyncio.Event)
    gone: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def stays(self) -> bool:
        """Whether it counts toward what was asked for."""
        return not self.leaving.is_set() and not self.superseded

    def enter(self, phase: Phase, at: float) -> None:
        """Begin a phase."""
        self.phase, self.since_at = phase, at

    def state(self) -> ReplicaState:
        """Return what the platform tells of it."""
        return ReplicaState(
            id=self.id,
            phase=self.phase,
            requested_at=self.requested_at,
            since_at=self.since_at,
            revision=self.revision,
            node=self.node,
            restarts=self.restarts,
            cordoned=self.cordoned,
            exit_reason=self.exit_reason,
            waiting_reason=self.waiting_reason,
            address="" if self.slot is None else f"127.0.0.1:{self.slot.port}",
        )


class LivePool:
    """One pool and its replicas, in order of creation.

    Attributes:
        revisions: Faults of each revision that the pool can be brought to, the oldest first.
        revision_at: When it was last asked to be of another revision; at first when the platform began.
        faults: What is wrong with every replica to come, by kind.
        going: Set unless its rollouts are paused.
    """

    def __init__(self, template: PoolTemplate, gpus_per_node: int, at: float) -> None:
        self.template = template
        self.revisions: dict[str, tuple[Fault, ...]] = dict.fromkeys(template.revisions, ())
        self.revision_at = at
        self.faults: dict[str, Fault] = {}
        self.going = asyncio.Event()
        self.going.set()
        self.replicas: dict[str, LiveReplica] = {}
        self.desired = 0
        self.version = 1
        self.revision = template.revisions[-1]
        self._per_node = max(1, gpus_per_node // template.gpus_per_replica)
        self._ordinal = 0
        self._began: dict[str, float] = {}
        self._paid_s = 0.0

    @property
    def key(self) -> PoolKey:
        """Model, name and role."""
        return self.template.key

    @property
    def standing(self) -> list[LiveReplica]:
        """Replicas that count toward what was asked for, oldest first."""
        return [replica for replica in self.replicas.values() if replica.stays]

    @property
    def paused(self) -> bool:
        """Whether its rollouts go no further."""
        return not self.going.is_set()

    @property
    def settled(self) -> bool:
        """Whether nothing more is to come: every replica is READY, as many as asked for, of the pool's revision.

        While paused, of any revision.
        """
        if not all(replica.phase is Phase.READY for replica in self.replicas.values()):
            return False
        if self.paused:
            return len(self.standing) == self.desired
        return len(self.replicas) == self.desired and all(r.revision == self.revision for r in self.replicas.values())

    def faults_of(self, replica: LiveReplica) -> tuple[Fault, ...]:
        """Return what is wrong with a life of the replica that begins now."""
        return (*self.revisions[replica.revision], *self.faults.values())

    def turn_to(self, revision: str, at: float) -> None:
        """Let new replicas be of another revision."""
        self.revision, self.revision_at = revision, at
        self.version += 1

    def create(self, at: float, *, opening: bool = False) -> LiveReplica:
        """Return a new replica of the current revision, PENDING."""
        name = f"{self.key.pool}-{self._ordinal}"
        replica = LiveReplica(name, self._node_with_room(), self.revision, at, at, opening=opening)
        self._ordinal += 1
        self.replicas[replica.id] = replica
        self._began[replica.id] = at
        return replica

    def remove(self, replica: LiveReplica, at: float) -> None:
        """Forget a replica that has ended."""
        del self.replicas[replica.id]
        self._paid_s += at - self._began.pop(replica.id)

    def replica_seconds(self, at: float) -> float:
        """Return how long replicas were held until ``at``, from being asked for to their end, loading included."""
        return self._paid_s + math.fsum(at - began for began in self._began.values())

    def surplus(self, retire_first: Sequence[str], in_flight: Mapping[str, int]) -> list[LiveReplica]:
        """Return the replicas that are more than desired, in the order in which they go.

        Named ones first, then those that do not serve (youngest first), then cordoned ones, then those with the fewest
        requests in flight, of which the youngest.
        """
        standing = self.standing
        named = {name: place for place, name in enumerate(retire_first)}
        age = {replica.id: place for place, replica in enumerate(standing)}

        def order(replica: LiveReplica) -> tuple[int, ...]:
            if replica.id in named:
                return (0, named[replica.id])
            if replica.phase is not Phase.READY:
                return (1, -age[replica.id])
            return (2, not replica.cordoned, in_flight.get(replica.id, 0), -age[replica.id])

        return sorted(standing, key=order)[: max(0, len(standing) - self.desired)]

    def state(self) -> PoolState:
        """Return the pool as the platform tells it: without metrics and without a weight."""
        return PoolState(
            key=self.key,
            replicas=tuple(replica.state() for replica in self.replicas.values()),
            desired=self.desired,
            gpus_per_replica=self.template.gpus_per_replica,
            usd_per_replica_hour=self.template.usd_per_replica_hour,
            version=self.version,
            revision=self.revision,
            stable_revision=self.template.stable_revision,
            revision_at=self.revision_at,
            revisions=tuple(self.revisions),
            paused=self.paused,
        )

    def _node_with_room(self) -> str:
        taken = [replica.node for replica in self.replicas.values()]
        names = (f"{self.key.pool}-node-{position}" for position in itertools.count())
        return next(name for name in names if taken.count(name) < self._per_node)
