"""What does ``foresail live up`` do from its start to its end, also when it is interrupted?"""

from __future__ import annotations

import asyncio
import math
import signal
from collections.abc import Callable

from rich.console import Console

from simulations.live.live_display import LiveDisplay
from simulations.live.live_load import DURATION_S
from simulations.live.live_options import LiveOptions
from simulations.live.live_report import LiveReport, counted
from simulations.live.stack import LiveStack

SETTLE_S = 2.0
"""How long the stack is kept after the last request, in seconds, so that the newest tick is in the report."""


class Interrupts:
    """Signals while a stack is up: the first ends the run in order, a second one kills what is left.

    While the stack is still starting, the first one gives the start up.
    """

    def __init__(self, stack: LiveStack) -> None:
        self._stack = stack
        self._asked = asyncio.Event()
        self._task = asyncio.current_task()
        self.up = False
        self.impatient = False
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            asyncio.get_running_loop().add_signal_handler(number, self._on_signal)

    @property
    def asked(self) -> bool:
        """Whether the run is to end."""
        return self._asked.is_set()

    def _on_signal(self) -> None:
        if self._asked.is_set():
            self.impatient = True
            self._stack.kill()
        elif not self.up and self._task is not None:
            self._task.cancel()
        self._asked.set()


async def run_live(
    options: LiveOptions, console: Console, ascii_only: bool, ready: Callable[[LiveStack], None] = lambda _: None
) -> LiveReport:
    """Bring a stack up, show it until its load is over or somebody interrupts, and take it down.

    Args:
        options: What to run.
        console: Where it is shown.
        ascii_only: Whether the console knows nothing but ASCII.
        ready: Called once everything is up.

    Raises:
        BadInput: If something is not installed, or an option or setting cannot be used.
        StartFailed: If something does not get ready.
        CancelledError: If it was interrupted while it started.
    """
    stack = LiveStack(options)
    interrupts = Interrupts(stack)
    async with stack as up:
        interrupts.up = True
        ready(up)
        display = LiveDisplay(up, console, ascii_only, _length_s(options))
        peak = 0

        def over() -> bool:
            nonlocal peak
            peak = max(peak, sum(len(pool.replicas) for pool in up.platform.pools()))
            return interrupts.asked or up.load_is_over

        await display.run(over)
        if not interrupts.asked:
            await asyncio.sleep(SETTLE_S)
        display.look()
        report = LiveReport(
            view=display.view,
            load=display.clients.summary(),
            objective=up.objective,
            gpu_hours=up.platform.gpu_seconds() / 3600.0,
            cost_usd=up.platform.cost_usd(),
            wall_s=up.now - display.view.begins_at,
            peak_replicas=peak,
            acts=display.watch.acts,
            events=counted(list(up.platform.events)),
            notes=tuple(up.notes),
        )
        display.watch.close()
    report.write(up.files)
    return report


def _length_s(options: LiveOptions) -> float:
    if not options.player:
        return math.inf
    if options.trace is None:
        return options.duration_s or DURATION_S
    return math.inf if options.duration_s is None else options.duration_s / options.speed
