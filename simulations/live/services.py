"""How is a child kept running: started again when it ends, stopped for a while on purpose, begun when it is ready?"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass

from simulations.live.processes import Child, StartFailed

FIRST_WAIT_S = 1.0
LONGEST_WAIT_S = 30.0
STEADY_S = 60.0
"""A child that ran for so long, in seconds, is started again without a longer wait than the first."""


@dataclass(frozen=True, slots=True)
class Ended:
    """A service ended by itself."""

    name: str
    code: int
    again_in_s: float


class Service:
    """One child that is to run all the time.

    Args:
        name: What it is called.
        start: Starts it and returns when it is ready; raises StartFailed.
        ended: Told when it ends by itself.
    """

    def __init__(
        self, name: str, start: Callable[[], Awaitable[Child]], ended: Callable[[Ended], None] = lambda _: None
    ) -> None:
        self.name = name
        self.child: Child | None = None
        self.restarts = 0
        self._start, self._ended = start, ended
        self._task: asyncio.Task[None] | None = None

    async def begin(self) -> None:
        """Start it; returns when it is ready.

        Raises:
            StartFailed: If it ends or is not ready in time.
        """
        self.child = await self._start()
        self._task = asyncio.create_task(self._keep(self.child))

    async def stop(self, grace_s: float = 10.0) -> None:
        """End it and leave it so, until ``begin``."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
        if self.child is not None:
            await self.child.stop(grace_s)

    @property
    def running(self) -> bool:
        """Whether its process runs."""
        return self.child is not None and self.child.exit_code is None

    async def _keep(self, child: Child) -> None:
        loop = asyncio.get_running_loop()
        wait_s = FIRST_WAIT_S
        while True:
            began = loop.time()
            code = await child.wait()
            if loop.time() - began > STEADY_S:
                wait_s = FIRST_WAIT_S
            self.restarts += 1
            self._ended(Ended(self.name, code, wait_s))
            await asyncio.sleep(wait_s)
            wait_s = min(LONGEST_WAIT_S, 2 * wait_s)
            with suppress(StartFailed):
                child = self.child = await self._start()
