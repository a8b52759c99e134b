"""How do reflectors run, each in a thread of its own, and end?"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from threading import Thread
from typing import Any

from controller.adapters.kube.reflector import Reflector

_JOIN_S = 2.0


class Watching:
    """Threads of reflectors.

    Attributes:
        reflectors: Those that were started.
    """

    def __init__(self, elapsed: Callable[[], float]) -> None:
        """Take the time from ``elapsed``, seconds that never go back."""
        self._elapsed = elapsed
        self.reflectors: list[Reflector[Any]] = []
        self._threads: list[Thread] = []

    def start(self, reflectors: Iterable[Reflector[Any]], within_s: float) -> None:
        """Begin to watch; returns when everything was listed, or after ``within_s``."""
        new = list(reflectors)
        for reflector in new:
            thread = Thread(target=reflector.run, name=f"watch {reflector.store.title}", daemon=True)
            self.reflectors.append(reflector)
            self._threads.append(thread)
            thread.start()
        end_s = self._elapsed() + within_s
        for reflector in new:
            reflector.store.wait_until_listed(max(0.0, end_s - self._elapsed()))

    def close(self) -> None:
        """End the watches."""
        for reflector in self.reflectors:
            reflector.stop()
        end_s = self._elapsed() + _JOIN_S
        for thread in self._threads:
            thread.join(max(0.0, end_s - self._elapsed()))
