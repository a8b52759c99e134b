"""What is the cluster of the live stack: pools of engine processes, to be scaled, cordoned, restarted, rolled back?

It lives as long as the process that holds it and remembers nothing beyond. Every verb is idempotent. A verb returns
when the gateway has taken the change: a replica that was cordoned or given up gets no request afterwards.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from types import TracebackType
from typing import Any, Protocol, Self

import httpx

from controller.errors import ActuationError, BadInput, ObservationError, StalePlan
from policies.fleet import Phase, PoolKey, PoolState
from simulations.live.envoy import checked_shares
from simulations.live.envoy_config import Endpoint, Health
from simulations.live.inflicting import CLEAR, EVERY, checked, checked_of_revision, inflict, is_of_pool
from simulations.live.live_pool import Fault, LivePool, LiveReplica, PoolTemplate
from simulations.live.prometheus_config import ScrapeTarget
from simulations.live.replica_life import Machine, PlatformRules, ReplicaLife
from simulations.live.rollouts import Rollouts

MOST_EVENTS = 5_000
WHERE = "live platform"


class Gateway(Protocol):
    """What the platform needs of the gateway."""

    async def set_endpoints(self, members: Mapping[PoolKey, Sequence[Endpoint]]) -> None:
        """Replace the endpoints of the pools; raises ActuationError."""
        ...

    async def set_shares(self, shares: Mapping[str, Mapping[PoolKey, float]]) -> None:
        """Replace the shares of all models; raises ActuationError."""
        ...

    async def in_flight(self) -> Mapping[PoolKey, Mapping[str, int]]:
        """Return requests in flight by pool and replica; raises ``httpx.HTTPError``."""
        ...


@dataclass(frozen=True, slots=True)
class PlatformEvent:
    """Something that happened to a replica."""

    at: float
    pool: str
    replica: str
    life: int
    what: str
    detail: str = ""


class Platform:
    """All pools of the live stack.

    An asynchronous context manager: entering asks for the templates' replicas, leaving ends every life.

    Args:
        templates: Pools, with distinct keys.
        rules: How processes are treated.
        machine: Where they run.
        gateway: Told of endpoints and shares.
        scraped: Told of what is to be scraped, whenever that changes.
        recorded: Told of every event.

    Attributes:
        events: The newest events.
    """

    def __init__(
        self,
        templates: Sequence[PoolTemplate],
        rules: PlatformRules,
        machine: Machine,
        gateway: Gateway,
        scraped: Callable[[Sequence[ScrapeTarget]], None] = lambda _: None,
        recorded: Callable[[PlatformEvent], None] = lambda _: None,
    ) -> None:
        self.rules = rules
        self.events: deque[PlatformEvent] = deque(maxlen=MOST_EVENTS)
        self._machine, self._gateway, self._scraped, self._recorded = machine, gateway, scraped, recorded
        at = machine.clock.now()
        self._pools = {template.key: LivePool(template, rules.gpus_per_node, at) for template in templates}
        self._shares = first_shares(templates)
        self._tasks: set[asyncio.Task[None]] = set()
        self._rollouts = Rollouts(self, machine.clock)

    async def __aenter__(self) -> Self:
        for pool in self._pools.values():
            pool.desired = pool.template.replicas
            for _ in range(pool.desired):
                self.begin(pool, opening=True)
        await self.publish()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._rollouts.cancel()
        for pool in self._pools.values():
            pool.desired = 0
            for replica in list(pool.replicas.values()):
                replica.hurry.set()
                replica.leaving.set()
        if self._tasks:
            await asyncio.wait(self._tasks)

    # What can be seen

    def pools(self) -> tuple[PoolState, ...]:
        """Return every pool with its replicas, without metrics and weights."""
        return tuple(pool.state() for pool in self._pools.values())

    def shares(self, model: str) -> Mapping[PoolKey, float]:
        """Return each pool's share of new requests.

        Raises:
            ObservationError: If the platform does not serve ``model``.
        """
        try:
            return dict(self._shares[model])
        except KeyError:
            raise ObservationError(f"no route for model {model!r}", WHERE) from None

    def gpu_seconds(self) -> float:
        """Return what all replicas have cost so far, loading and draining included."""
        now = self._machine.clock.now()
        return math.fsum(p.replica_seconds(now) * p.template.gpus_per_replica for p in self._pools.values())

    def cost_usd(self) -> float:
        """Return what all replicas have cost so far, in US dollars."""
        now = self._machine.clock.now()
        hours = ((pool.replica_seconds(now) / 3600.0, pool.template) for pool in self._pools.values())
        return math.fsum(spent * template.usd_per_replica_hour for spent, template in hours)

    def key_named(self, text: str) -> PoolKey:
        """Return the pool that is meant by its key text, or by its name where that is not shared.

        Raises:
            ActuationError: If there is none, or more than one.
        """
        found = [key for key in self._pools if text in (str(key), key.pool)]
        if len(found) != 1:
            raise _unknown(f"{'no such pool' if not found else 'several pools'}: {text}")
        return found[0]

    def settled(self) -> bool:
        """Return whether every pool has what it was asked for (see ``LivePool.settled``)."""
        return all(pool.settled for pool in self._pools.values())

    # What can be done

    async def scale(self, key: PoolKey, replicas: int, version: int, retire_first: Sequence[str] = ()) -> None:
        """Ask for ``replicas``; asking for what was last asked for changes nothing, whatever the version.

        Raises:
            StalePlan: If the pool is not at ``version``.
            ActuationError: If the pool is unknown, or the number negative or more than the machine may carry.
        """
        pool = self._pool(key)
        if replicas < 0:
            raise ActuationError(f"cannot scale to {replicas} replicas", str(key))
        in_flight = await self._all_in_flight() if replicas < pool.desired else {}
        if replicas == pool.desired:
            return
        if version != pool.version:
            raise StalePlan(f"plan is for version {version}, the pool is at {pool.version}", str(key))
        total = replicas + sum(other.desired for other in self._pools.values() if other is not pool)
        if total > self.rules.most_replicas and replicas > pool.desired:
            what = f"{total} replicas in all are more than the {self.rules.most_replicas} that this machine may carry"
            raise ActuationError(what, str(key), "raise the cap of the live stack, or lower max_replicas")
        pool.desired = replicas
        pool.version += 1
        for _ in range(replicas - len(pool.standing)):
            self.begin(pool)
        for replica in pool.surplus(retire_first, in_flight.get(key, {})):
            self.leave(pool, replica, drains=True)
        await self._publish()

    async def cordon(self, key: PoolKey, name: str, *, cordoned: bool = True) -> None:
        """Send the replica no new requests, or (``cordoned=False``) send it some again.

        Raises:
            ActuationError: If the pool has no such replica, or the gateway does not follow.
        """
        pool, replica = self._find(key, name)
        if replica.cordoned != cordoned:
            replica.cordoned = cordoned
            self.note(pool, replica, "cordoned" if cordoned else "uncordoned")
        await self._publish()

    async def restart(self, key: PoolKey, name: str) -> None:
        """End the replica without waiting for its requests; another is PENDING in its place at once.

        Raises:
            ActuationError: If the pool has no such replica (any more): a repeated call does no harm.
        """
        pool, replica = self._find(key, name)
        stays, predecessor = replica.stays, replica.replaces
        self.leave(pool, replica, drains=False)
        if stays:
            self.begin(pool).replaces = predecessor
        await self._publish()

    async def roll_back(self, key: PoolKey, revision: str) -> None:
        """Give the pool's replicas the template of ``revision``, one by one: each drains once its successor is READY.

        A pause of its rollouts ends.

        Raises:
            ActuationError: If the pool or the revision is unknown.
        """
        pool = self._pool(key)
        if revision not in pool.revisions:
            raise _unknown(f"no revision {revision!r} of {key}; known: {', '.join(pool.revisions)}")
        pool.going.set()
        await self._turn(pool, revision, "rolled back")

    async def roll_out(self, key: PoolKey, revision: str, faults: Sequence[Fault] = (), step_s: float = 0.0) -> None:
        """Bring the pool to a revision, as a pipeline does that knows nothing of us.

        Args:
            key: Of the pool.
            revision: A new one, or one that the pool has had, with the faults that it had.
            faults: What is wrong with every engine of a new revision, from its start.
            step_s: Seconds that a successor serves before its predecessor is given up.

        Raises:
            ActuationError: If the pool is unknown, its rollouts are paused, or a fault is none.
        """
        pool = self._pool(key)
        if pool.paused:
            raise ActuationError("rollouts of this pool are paused", str(key), "resume them first")
        for fault in faults:
            checked_of_revision(fault, str(key))
        pool.revisions.setdefault(revision, tuple(faults))
        await self._turn(pool, revision, "rolled out", step_s)

    async def pause(self, key: PoolKey, *, paused: bool = True) -> None:
        """Let rollouts of the pool go no further, or (``paused=False``) go on; raises ActuationError."""
        pool = self._pool(key)
        if pool.paused != paused:
            if paused:
                pool.going.clear()
            else:
                pool.going.set()
            self._note_pool(pool, "paused" if paused else "resumed")

    async def set_shares(self, model: str, weights: Mapping[PoolKey, float]) -> None:
        """Replace the shares of a model; pools left out get none.

        Raises:
            ActuationError: If a pool is unknown, a weight is impossible, or the gateway does not follow.
        """
        pools = [key for key in self._pools if key.model == model]
        try:
            shares = checked_shares(weights, pools)
        except ValueError as error:
            raise ActuationError(str(error), WHERE) from None
        self._shares = {**self._shares, model: shares}
        await self._gateway.set_shares(self._shares)

    async def inject(self, key: PoolKey, name: str, fault: Fault) -> None:
        """Let something go wrong with a replica, or with all of the pool (``*``).

        ``{"kind": "kill"}`` kills the process, ``oom`` does so as a kernel that is out of memory, ``clear`` ends what
        lasts, anything else is told to the engine's admin port. What lasts until it is cleared and is wrong with all of
        the pool is wrong with those that come as well.

        Raises:
            ActuationError: If there is no such replica or process, or the engine refuses the fault.
        """
        checked(fault, key.replica(name))
        if name != EVERY:
            await self._inflict(*self._find(key, name), fault)
            return
        pool = self._pool(key)
        if fault.get("kind") == CLEAR:
            pool.faults.clear()
        elif is_of_pool(fault):
            pool.faults[str(fault["kind"])] = dict(fault)
        for replica in [r for r in pool.replicas.values() if r.child is not None and r.slot is not None]:
            await self._inflict(pool, replica, fault)

    # What replicas need (see ``replica_life.Surroundings``)

    async def publish(self) -> None:
        """Let gateway and metrics store know; a gateway that does not follow in time reads its files when it can."""
        try:
            await self._publish()
        except ActuationError as error:
            self._record(PlatformEvent(self._machine.clock.now(), "", "", 0, "gateway lags", str(error)))

    async def in_flight(self, pool: LivePool, replica: LiveReplica) -> int | None:
        """Return the requests of the replica that the gateway has not seen end; None when it does not say."""
        return (await self._all_in_flight()).get(pool.key, {}).get(replica.id)

    def note(self, pool: LivePool, replica: LiveReplica, what: str, detail: str = "") -> None:
        """Record what happened to a replica."""
        at = self._machine.clock.now()
        self._record(PlatformEvent(at, str(pool.key), replica.id, replica.restarts, what, detail))

    # What rollouts need (see ``rollouts.Replacing``), beside ``publish``

    def begin(self, pool: LivePool, *, opening: bool = False) -> LiveReplica:
        """Ask for another replica, of the pool's revision."""
        replica = pool.create(self._machine.clock.now(), opening=opening)
        self.note(pool, replica, replica.phase.value, f"revision {replica.revision}")
        task = asyncio.create_task(ReplicaLife(pool, replica, self.rules, self._machine, self).run())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return replica

    def leave(self, pool: LivePool, replica: LiveReplica, *, drains: bool) -> None:
        """Let a replica go for good, after its requests (``drains``) or at once."""
        if not drains:
            replica.hurry.set()
        if replica.leaving.is_set():
            return
        replica.drains = drains and replica.phase is Phase.READY
        replica.enter(Phase.DRAINING, self._machine.clock.now())
        self.note(pool, replica, replica.phase.value, "" if drains else "restart")
        replica.leaving.set()

    # Inside

    async def _turn(self, pool: LivePool, revision: str, what: str, step_s: float = 0.0) -> None:
        if revision != pool.revision:
            pool.turn_to(revision, self._machine.clock.now())
            self._rollouts.begin(pool, step_s)
            self._note_pool(pool, what, f"revision {revision}")
            await self._publish()

    async def _inflict(self, pool: LivePool, replica: LiveReplica, fault: Fault) -> None:
        await inflict(self._machine.client, pool, replica, fault)
        self.note(pool, replica, "fault", ", ".join(f"{name}={value}" for name, value in fault.items()))

    def _note_pool(self, pool: LivePool, what: str, detail: str = "") -> None:
        self._record(PlatformEvent(self._machine.clock.now(), str(pool.key), "", 0, what, detail))

    def _record(self, event: PlatformEvent) -> None:
        self.events.append(event)
        self._recorded(event)

    async def _publish(self) -> None:
        self._scraped([target for pool in self._pools.values() for target in _targets(pool)])
        await self._gateway.set_endpoints({pool.key: _endpoints(pool) for pool in self._pools.values()})

    async def _all_in_flight(self) -> Mapping[PoolKey, Mapping[str, int]]:
        try:
            return await self._gateway.in_flight()
        except httpx.HTTPError:
            return {}

    def _pool(self, key: PoolKey) -> LivePool:
        try:
            return self._pools[key]
        except KeyError:
            raise _unknown(f"no such pool: {key}") from None

    def _find(self, key: PoolKey, name: str) -> tuple[LivePool, LiveReplica]:
        pool = self._pool(key)
        try:
            return pool, pool.replicas[name]
        except KeyError:
            raise _unknown(f"no such replica: {key.replica(name)}") from None


class Unknown(ActuationError):
    """There is no pool, replica or revision of that name."""


def first_shares(templates: Sequence[PoolTemplate]) -> dict[str, dict[PoolKey, float]]:
    """Return the first share of every pool, by model; equal ones where all weights are zero.

    Raises:
        BadInput: If pools share a key.
    """
    keys = [template.key for template in templates]
    if len(set(keys)) < len(keys):
        raise BadInput(f"pools share a key: {', '.join(map(str, keys))}", "pools", "give each a name of its own")
    shares = {}
    for model in sorted({key.model for key in keys}):
        weights = {template.key: template.weight for template in templates if template.key.model == model}
        total = math.fsum(weights.values())
        shares[model] = {key: weight / total if total else 1.0 / len(weights) for key, weight in weights.items()}
    return shares


def event_json(event: PlatformEvent) -> dict[str, Any]:
    """Return an event as JSON has it."""
    return asdict(event)


def _unknown(what: str) -> Unknown:
    return Unknown(what, WHERE)


def _endpoints(pool: LivePool) -> list[Endpoint]:
    """Return who may be sent requests, and who still has some."""
    listed = []
    for replica in pool.replicas.values():
        if replica.slot is None or not replica.ready.is_set():
            continue
        if replica.phase is Phase.READY:
            health = Health.CORDONED if replica.cordoned else Health.HEALTHY
        elif replica.phase is Phase.DRAINING:
            health = Health.DRAINING
        else:
            continue
        listed.append(Endpoint(replica.id, replica.slot.port, health))
    return listed


def _targets(pool: LivePool) -> list[ScrapeTarget]:
    return [
        ScrapeTarget(replica.slot.port, replica.id, pool.key, replica.slot.admin_port)
        for replica in pool.replicas.values()
        if replica.slot is not None
    ]
