"""What is known of one kind of object, as of which place in the server's history, and when was anything last heard?"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from threading import Condition
from typing import Generic, TypeAlias, TypeVar

from controller.adapters.kube.json_reading import Refused
from controller.errors import ObservationError

T = TypeVar("T")
Key: TypeAlias = tuple[str, str]
"""Namespace and name."""

_MOST_REFUSED = 1000


@dataclass(frozen=True, slots=True)
class Snapshot(Generic[T]):
    """What a store held at one instant.

    Attributes:
        version: Another number whenever the objects or refusals are others.
        refused: Objects that cannot be read; what was known of them before is kept.
    """

    objects: Mapping[Key, T]
    version: int
    refused: tuple[Refused, ...]


class Store(Generic[T]):
    """The objects of one resource and namespace. One thread writes, any may read.

    Attributes:
        title: What it holds, for people.
    """

    def __init__(self, title: str, elapsed: Callable[[], float], most: int) -> None:
        """Take the time from ``elapsed``, seconds that never go back; hold at most ``most`` objects."""
        self.title = title
        self._elapsed, self._most = elapsed, most
        self._changed = Condition()
        self._objects: dict[Key, T] = {}
        self._refused: dict[Key, Refused] = {}
        self._version, self._resource_version = 0, ""
        self._heard_s: float | None = None
        self._made_s = elapsed()
        self._error: ObservationError | None = None
        self._last: Snapshot[T] | None = None

    def __len__(self) -> int:
        return len(self._objects)

    @property
    def resource_version(self) -> str:
        """How far in the server's history it has got; empty before the first list."""
        return self._resource_version

    @property
    def age_s(self) -> float:
        """Seconds since anything was heard from the server, since it was made where nothing was."""
        heard_s = self._heard_s
        return self._elapsed() - (self._made_s if heard_s is None else heard_s)

    def snapshot(self, stale_after_s: float) -> Snapshot[T]:
        """Return what it holds; the same object as long as nothing changes.

        Raises:
            ObservationError: If nothing was heard from the server for longer than ``stale_after_s``, or ever.
        """
        with self._changed:
            error, heard_s = self._error, self._heard_s
            age_s = None if heard_s is None else self._elapsed() - heard_s
            if age_s is None or age_s > stale_after_s:
                said = "not read yet" if age_s is None else f"nothing was heard of them for {age_s:.0f} s"
                why = f": {error.what}" if error else ""
                raise ObservationError(f"{said}{why}", error.where if error else self.title, _remedy(error))
            if self._last is None or self._last.version != self._version:
                self._last = Snapshot(dict(self._objects), self._version, tuple(self._refused.values()))
            return self._last

    def wait_until_listed(self, timeout_s: float) -> bool:
        """Return whether it has been listed, which may take until then."""
        with self._changed:
            return self._changed.wait_for(lambda: self._heard_s is not None, timeout_s)

    def wait_for(self, resource_version: str, timeout_s: float) -> bool:
        """Return whether it has got as far as ``resource_version``, which may take until then."""
        with self._changed:
            return self._changed.wait_for(lambda: _reached(self._resource_version, resource_version), timeout_s)

    def replace(self, objects: Mapping[Key, T], refused: Mapping[Key, Refused], resource_version: str) -> None:
        """Hold what a list said. What it holds of an object that cannot be read now stays."""
        with self._changed:
            kept = {key: self._objects[key] for key in refused if key in self._objects}
            self._objects = {**objects, **kept}
            self._refused = dict(list(refused.items())[:_MOST_REFUSED])
            self._version += 1
            self._hear(resource_version)

    def put(self, key: Key, thing: T | Refused | None, resource_version: str) -> None:
        """Hold what an event said: the object, that it cannot be read, or None if it is none of ours.

        Raises:
            ObservationError: If it would hold more than it may.
        """
        with self._changed:
            if isinstance(thing, Refused):
                if len(self._refused) < _MOST_REFUSED:
                    self._refused[key] = thing
            else:
                self._refused.pop(key, None)
                if thing is None:
                    self._objects.pop(key, None)
                else:
                    self._objects[key] = thing
                    check_size(len(self._objects), self._most, self.title)
            self._version += 1
            self._hear(resource_version)

    def reach(self, resource_version: str) -> None:
        """Take note that nothing else has happened until there."""
        with self._changed:
            self._hear(resource_version)

    def fail(self, error: ObservationError | None) -> None:
        """Take note of why nothing is heard; None once it is again."""
        with self._changed:
            self._error = error

    def _hear(self, resource_version: str) -> None:
        self._resource_version, self._heard_s, self._error = resource_version, self._elapsed(), None
        self._changed.notify_all()


def check_size(size: int, most: int, title: str) -> None:
    """Raise ObservationError where there are more objects than are held."""
    if size > most:
        raise ObservationError(
            f"{title}: more than {most:,} of them",
            "platform.max_objects",
            "name fewer platform.namespaces, or raise it",
        )


def _reached(at: str, wanted: str) -> bool:
    """Return whether one place in the history is not before another; they are numbers that grow."""
    if at.isascii() and wanted.isascii() and at.isdigit() and wanted.isdigit():
        return (len(at), at) >= (len(wanted), wanted)
    return bool(at) and at == wanted


def _remedy(error: ObservationError | None) -> str:
    return error.remedy if error else "wait for the first list; foresail doctor says what stands in its way"
