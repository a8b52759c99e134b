"""Does the cache show yet what we wrote ourselves? Nothing is decided on what was before."""

from __future__ import annotations

from collections.abc import Callable
from threading import Lock
from typing import Any

from controller.adapters.kube.reflector import Reflector
from controller.errors import ObservationError


class Written:
    """The newest write of our own to what each reflector watches. Safe to use from several threads."""

    def __init__(self, elapsed: Callable[[], float], server: str) -> None:
        """Take the time from ``elapsed``, seconds that never go back; ``server`` is named where a write lags."""
        self._elapsed, self._server = elapsed, server
        self._lock = Lock()
        self._newest: dict[Reflector[Any], tuple[str, float]] = {}

    def note(self, reflector: Reflector[Any], resource_version: str) -> None:
        """Take note of a write; without a version, since nobody answered, a list that begins now has to show it."""
        at_s = self._elapsed()
        with self._lock:
            self._newest[reflector] = resource_version, at_s
        if not resource_version:
            reflector.lists_since(at_s)

    def lags(self, of: Reflector[Any]) -> bool:
        """Return whether the cache does not show the newest write to it yet; nothing is waited for."""
        with self._lock:
            resource_version, _ = self._newest.get(of, ("0", 0.0))
        return not (resource_version and of.store.wait_for(resource_version, 0.0))

    def wait(self, within_s: float, of: Reflector[Any] | None = None) -> None:
        """Wait until every write shows, or those to ``of`` alone.

        Raises:
            ObservationError: If one does not within ``within_s``.
        """
        with self._lock:
            newest = {one: write for one, write in self._newest.items() if of is None or one is of}
        end_s = self._elapsed() + within_s
        for reflector, write in newest.items():
            resource_version, written_s = write
            left_s = max(0.0, end_s - self._elapsed())
            shown = resource_version and reflector.store.wait_for(resource_version, left_s)
            if not shown and not reflector.lists_since(written_s):
                age_s = self._elapsed() - written_s
                raise ObservationError(
                    f"{reflector.store.title}: our own last write does not show after {age_s:.1f} s",
                    self._server,
                    "the watch lags; nothing is decided on what was before",
                )
            with self._lock:
                if self._newest.get(reflector) == write:
                    del self._newest[reflector]
