"""Which faults look again and again whether it is time for them: memory that runs out, and a poisonous request."""

from __future__ import annotations

from collections.abc import Sequence

from simulations.clock import EventQueue
from simulations.fleet_kernel import FleetKernel
from simulations.pool import SimulatedPool
from simulations.starts import OUT_OF_MEMORY

_LOOK_S = 1.0
_POISON_LOOK_S = 0.25
_POISON_TOKENS = 200
"""Output tokens that the poison would have: enough for it to be seen in a batch."""

_CLIENT_WAITS_S = 1.0
"""After which the client of a poison sends it again."""


class MemoryWatch:
    """Ends the engines of a pool whose KV cache is full to ``ratio``, until some instant."""

    def __init__(self, pool: SimulatedPool, ratio: float, until: float, events: EventQueue) -> None:
        self._pool, self._ratio, self._until, self._events = pool, ratio, until, events

    def look(self, at: float) -> None:
        """Look now, and again soon."""
        if at >= self._until:
            return
        for replica in list(self._pool.replicas.values()):
            if replica.alive and replica.kv_cache_ratio >= self._ratio:
                self._pool.crash(replica, at, OUT_OF_MEMORY)
        self._events.plan(at + _LOOK_S, self.look)


class PoisonWatch:
    """Sends a request that ends every engine that admits it, and sends it again when it is gone.

    The gateway does its part too: as any request that had not begun to stream when its replica was lost, it is sent to
    another one once for each time that it comes.
    """

    def __init__(
        self,
        number: int,
        prompt_tokens: int,
        times: int,
        kernel: FleetKernel,
        pools: Sequence[SimulatedPool],
        events: EventQueue,
    ) -> None:
        self._number, self._prompt_tokens, self._times = number, prompt_tokens, times
        self._kernel, self._pools, self._events = kernel, pools, events
        self._sent = 0

    def send(self, at: float) -> None:
        """Send it, for the first time or again."""
        self._kernel.send_poison(self._number, self._prompt_tokens, _POISON_TOKENS, self._sent)
        self._sent += 1
        self._events.plan(at + _POISON_LOOK_S, self._look)

    def _look(self, at: float) -> None:
        there, replica = self._kernel.poisoned(self._number)
        if replica is not None:
            self._pools[replica.pool].crash(replica, at)
        if there:
            self._events.plan(at + _POISON_LOOK_S, self._look)
        elif self._sent <= self._times:
            self._events.plan(at + _CLIENT_WAITS_S, self.send)
