"""How does the control loop act on the simulated fleet: the ``Cluster`` port, translated to pools."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from controller.errors import ActuationError
from policies.fleet import NodeState, PoolKey, PoolState
from simulations.clock import VirtualClock
from simulations.fleet_replica import FleetReplica
from simulations.pool import SimulatedPool
from simulations.scheduling import Scheduler


class SimulatedCluster:
    """The ``Cluster`` port of a simulated fleet. Every verb takes effect at the clock's instant."""

    def __init__(self, pools: Sequence[SimulatedPool], scheduler: Scheduler, clock: VirtualClock) -> None:
        self._pools = {pool.spec.key: pool for pool in pools}
        self._scheduler = scheduler
        self._clock = clock

    def pools(self) -> tuple[PoolState, ...]:
        """Return every pool with its replicas, without metrics and weights."""
        return tuple(pool.state() for pool in self._pools.values())

    def nodes(self) -> Mapping[str, NodeState]:
        """Return the nodes that are there, by name."""
        return self._scheduler.nodes()

    def scale(self, pool: PoolKey, replicas: int, version: int, retire_first: tuple[str, ...] = ()) -> None:
        """Ask for ``replicas``; asking for what was last asked for changes nothing, whatever the version.

        Raises:
            StalePlan: If the pool is not at ``version``.
            ActuationError: If the pool is unknown or ``replicas`` negative.
        """
        self._pool(pool).scale(replicas, version, retire_first, self._clock.now())

    def cordon(self, pool: PoolKey, replica: str) -> None:
        """Send the replica no new requests.

        Raises:
            ActuationError: If the pool has no such replica.
        """
        self._pool(pool).cordon(self._replica(pool, replica))

    def uncordon(self, pool: PoolKey, replica: str) -> None:
        """Send it new requests again.

        Raises:
            ActuationError: If the pool has no such replica.
        """
        self._pool(pool).uncordon(self._replica(pool, replica), self._clock.now())

    def restart(self, pool: PoolKey, replica: str) -> None:
        """Delete the replica; another is PENDING in its place at once.

        Raises:
            ActuationError: If the pool has no such replica (any more): a repeated call does no harm.
        """
        self._pool(pool).restart(self._replica(pool, replica), self._clock.now())

    def roll_back(self, pool: PoolKey, revision: str) -> None:
        """Let the pool's replicas get the template of ``revision`` one after the other, and end a pause.

        Raises:
            ActuationError: If the pool or the revision is unknown.
        """
        self._pool(pool).roll_back(revision, self._clock.now())

    def pause(self, pool: PoolKey) -> None:
        """Let a rollout of the pool go no further.

        Raises:
            ActuationError: If the pool is unknown.
        """
        self._pool(pool).pause()

    def resume(self, pool: PoolKey) -> None:
        """Let the rollout of the pool go on.

        Raises:
            ActuationError: If the pool is unknown.
        """
        self._pool(pool).resume(self._clock.now())

    def avoid(self, node: str) -> None:
        """Place no replica on that node any more; those that are there stay.

        Raises:
            ActuationError: If there is no such node.
        """
        self._scheduler.avoid(node, self._clock.now(), avoided=True)

    def stop_avoiding(self, node: str) -> None:
        """Place replicas there again.

        Raises:
            ActuationError: If there is no such node.
        """
        self._scheduler.avoid(node, self._clock.now(), avoided=False)

    def _pool(self, key: PoolKey) -> SimulatedPool:
        try:
            return self._pools[key]
        except KeyError:
            raise ActuationError(f"no such pool: {key}", "simulated cluster") from None

    def _replica(self, key: PoolKey, name: str) -> FleetReplica:
        try:
            return self._pool(key).replicas[name]
        except KeyError:
            raise ActuationError(f"no such replica: {key.replica(name)}", "simulated cluster") from None
