"""What stops every write of this process, at the moment in which one is to be sent?

One gate for all that is written, asked right before each write and not only before each act: the kill switch that the
settings in use name, the end of the process, and that another process leads. Whoever writes keeps the gate and not what
it once said, so that settings that name another switch hold for the next write of an act that is under way.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from threading import Event

ENDING = "the daemon ends, and a tick that did not end in time writes nothing more"


def _nobody_else(_: float) -> str:
    """Let everything through: no other process acts."""
    return ""


def is_thrown(switch: Path) -> bool:
    """Return whether a kill switch is on; raises OSError where that cannot be told.

    A link that leads nowhere is there: whoever put it there meant it.
    """
    try:
        switch.lstat()
    except FileNotFoundError:
        return False
    return True


class WriteGate:
    """Says of each write why it may not be sent. Safe to use from several threads."""

    def __init__(self, switch: Path, fence: Callable[[float], str] = _nobody_else) -> None:
        """Heed the kill switch at ``switch``; ``fence`` says why a write of so many seconds may not be sent."""
        self._switch, self._fence = switch, fence
        self._shut = Event()

    def heed(self, switch: Path) -> None:
        """Go by the kill switch at another place from now on."""
        self._switch = switch

    def shut(self) -> None:
        """Let nothing through any more."""
        self._shut.set()

    def wait_shut(self, timeout_s: float) -> bool:
        """Wait until nothing is let through any more; return whether that came about in time."""
        return self._shut.wait(timeout_s)

    def stopped(self) -> str:
        """Return what stops all writes, whoever leads; empty where nothing does. A switch that cannot be read does."""
        if self._shut.is_set():
            return ENDING
        try:
            return "kill switch" if is_thrown(self._switch) else ""
        except OSError as error:
            return f"the kill switch cannot be read: {type(error).__name__}: {error}"

    def why_not(self, needs_s: float = 0.0) -> str:
        """Return why a write that may take ``needs_s`` may not be sent now; empty where it may."""
        return self.stopped() or self._fence(needs_s)
