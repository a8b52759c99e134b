"""How does a pool get from one revision to another: one replica at a time, paused, called off?"""

from __future__ import annotations

import asyncio
from typing import Protocol

from controller.ports import Clock
from policies.fleet import Phase, PoolKey
from simulations.live.live_pool import LivePool, LiveReplica

_LOOK_S = 0.05


class Replacing(Protocol):
    """What a rollout needs of the platform."""

    def begin(self, pool: LivePool) -> LiveReplica:
        """Ask for another replica, of the pool's revision."""
        ...

    def leave(self, pool: LivePool, replica: LiveReplica, *, drains: bool) -> None:
        """Let a replica go."""
        ...

    async def publish(self) -> None:
        """Let gateway and metrics store know."""
        ...


class Rollouts:
    """The rollouts under way, at most one per pool."""

    def __init__(self, platform: Replacing, clock: Clock) -> None:
        self._platform, self._clock = platform, clock
        self._tasks: dict[PoolKey, asyncio.Task[None]] = {}

    def begin(self, pool: LivePool, step_s: float = 0.0) -> None:
        """Bring every replica to the pool's revision; what was under way is called off.

        Args:
            pool: Its revision is the new one already.
            step_s: Seconds that a successor is READY before its predecessor is given up.
        """
        if (before := self._tasks.get(pool.key)) is not None:
            before.cancel()
        self._call_off_successors(pool)
        self._tasks[pool.key] = asyncio.create_task(self._roll(pool, step_s))

    def cancel(self) -> None:
        """Let all of them go no further, for good."""
        for task in self._tasks.values():
            task.cancel()

    async def _roll(self, pool: LivePool, step_s: float) -> None:
        """Replace one replica after the other, with one more than desired at a time."""
        while True:
            await pool.going.wait()
            stale = [r for r in pool.standing if r.revision != pool.revision]
            if not stale:
                return
            old = stale[0]
            successor = self._platform.begin(pool)
            if old.phase is not Phase.READY:  # nothing to lose
                self._platform.leave(pool, old, drains=False)
                continue
            old.superseded, successor.replaces = True, old
            if await self._succeeded(pool, old, step_s) or len(pool.standing) >= pool.desired:
                self._platform.leave(pool, old, drains=True)
            else:
                old.superseded = False
            await self._platform.publish()

    async def _succeeded(self, pool: LivePool, old: LiveReplica, step_s: float) -> bool:
        """Wait until a successor has been READY for ``step_s`` and nothing is paused; False once there is none.

        A successor that is restarted, or exits and comes back, is waited for anew.
        """
        while heirs := [r for r in pool.standing if r.replaces is old]:
            until = self._clock.now() - step_s
            if not pool.paused and any(r.phase is Phase.READY and r.since_at <= until for r in heirs):
                return True
            await asyncio.sleep(_LOOK_S)
        return False

    def _call_off_successors(self, pool: LivePool) -> None:
        """Let those stay again whose successors are not READY yet, and end these."""
        for replica in list(pool.replicas.values()):
            old = replica.replaces
            if old is None or old.leaving.is_set() or not replica.stays:
                continue
            if replica.ready.is_set() and old.revision != pool.revision:
                self._platform.leave(pool, old, drains=True)  # both would be of a revision that is to go
            else:
                old.superseded = False
                self._platform.leave(pool, replica, drains=replica.ready.is_set())
