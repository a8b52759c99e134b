"""What does the API server hold, and what has changed since a resourceVersion?

One counter numbers every change of every resource, as etcd's revision does. Stored objects are never altered: a write
stores another one, so readers need no copy. Each resource keeps the log of its changes down to a horizon; a watch or
a list that asks for what lies below is told that it is gone.
"""

from __future__ import annotations

import json
import threading
from bisect import bisect_right
from dataclasses import dataclass
from typing import Literal, TypeAlias

from simulations.kubernetes_api.kinds import Kind
from simulations.kubernetes_api.refusals import Json

Key: TypeAlias = tuple[str, str]
FIRST_VERSION = 1000
KEPT_CHANGES = 20_000
_TYPE = ("kind", "apiVersion")


class Stored:
    """One object at one resourceVersion; its text is made once, when it is first sent."""

    __slots__ = ("_text", "value", "version")

    def __init__(self, value: Json, version: int) -> None:
        self.value, self.version = value, version
        self._text: str | None = None

    @property
    def untyped(self) -> str:
        """The object as JSON, without its kind: as lists have those that are built in."""
        if self._text is None:
            rest = {key: held for key, held in self.value.items() if key not in _TYPE}
            self._text = json.dumps(rest, separators=(",", ":"))
        return self._text

    @property
    def text(self) -> str:
        """The object as JSON, its kind first."""
        kind = json.dumps({key: self.value[key] for key in _TYPE if key in self.value}, separators=(",", ":"))
        return f"{kind[:-1]},{self.untyped[1:]}" if kind != "{}" else self.untyped

    def fresh(self) -> Json:
        """Return a copy that may be altered."""
        copy: Json = json.loads(self.text)
        return copy


@dataclass(frozen=True, slots=True)
class Change:
    """One entry of the log; ``before`` is None for an ADDED, ``after`` of a DELETED is its last state."""

    version: int
    type: Literal["ADDED", "MODIFIED", "DELETED"]
    key: Key
    after: Stored
    before: Stored | None


class _Shelf:
    """The objects and the log of one resource."""

    __slots__ = ("changes", "horizon", "objects", "order", "versions")

    def __init__(self, horizon: int) -> None:
        self.objects: dict[Key, Stored] = {}
        self.order: list[Key] | None = None
        self.changes: list[Change] = []
        self.versions: list[int] = []
        self.horizon = horizon

    def log(self, change: Change, most: int) -> None:
        self.changes.append(change)
        self.versions.append(change.version)
        if len(self.changes) > 2 * most:
            self.horizon = self.versions[-most - 1]
            del self.changes[:-most], self.versions[:-most]

    def sorted(self) -> list[Key]:
        if self.order is None:
            self.order = sorted(self.objects)
        return self.order


class TooOld(Exception):
    """A resourceVersion below the horizon of the log; ``horizon`` is the oldest that is kept."""

    def __init__(self, horizon: int) -> None:
        super().__init__(f"the oldest kept resourceVersion is {horizon}")
        self.horizon = horizon


class Store:
    """Objects by resource, namespace and name. Hold ``changed`` around a read that a write depends on.

    Args:
        kept_changes: Changes that a resource's log keeps at least.
    """

    def __init__(self, kept_changes: int = KEPT_CHANGES) -> None:
        self.changed = threading.Condition(threading.RLock())
        self.version = FIRST_VERSION
        self._kept = kept_changes
        self._shelves: dict[tuple[str, str], _Shelf] = {}

    def _shelf(self, kind: Kind) -> _Shelf:
        shelf = self._shelves.get(kind.identity)
        if shelf is None:
            shelf = self._shelves[kind.identity] = _Shelf(FIRST_VERSION)
        return shelf

    def get(self, kind: Kind, key: Key) -> Stored | None:
        """Return the object, or None."""
        with self.changed:
            return self._shelf(kind).objects.get(key)

    def put(self, kind: Kind, key: Key, value: Json) -> Stored:
        """Store ``value``, which becomes the store's own, under the next resourceVersion."""
        with self.changed:
            shelf = self._shelf(kind)
            before = shelf.objects.get(key)
            self.version += 1
            value["metadata"]["resourceVersion"] = str(self.version)
            stored = shelf.objects[key] = Stored(value, self.version)
            if before is None:
                shelf.order = None
            kind_of_change: Literal["ADDED", "MODIFIED"] = "ADDED" if before is None else "MODIFIED"
            shelf.log(Change(self.version, kind_of_change, key, stored, before), self._kept)
            self.changed.notify_all()
            return stored

    def drop(self, kind: Kind, key: Key) -> Stored:
        """Take the object away; return its last state, which has the resourceVersion of its deletion."""
        with self.changed:
            shelf = self._shelf(kind)
            before = shelf.objects.pop(key)
            shelf.order = None
            self.version += 1
            last = before.fresh()
            last["metadata"]["resourceVersion"] = str(self.version)
            stored = Stored(last, self.version)
            shelf.log(Change(self.version, "DELETED", key, stored, before), self._kept)
            self.changed.notify_all()
            return stored

    def all(self, kind: Kind, namespace: str = "") -> list[Stored]:
        """Return the objects of a resource in the order of their keys; of every namespace where none is given."""
        with self.changed:
            shelf = self._shelf(kind)
            return [shelf.objects[key] for key in shelf.sorted() if not namespace or key[0] == namespace]

    def at(self, kind: Kind, version: int) -> tuple[list[Key], dict[Key, Stored]]:
        """Return what there was when the counter stood at ``version``: the keys in order, and the objects.

        Both are the store's own where nothing has changed since: to be read under ``changed``, and not altered.

        Raises:
            TooOld: If the log no longer reaches back that far.
        """
        with self.changed:
            shelf = self._shelf(kind)
            changes = self._since(shelf, version)
            if not changes:
                return shelf.sorted(), shelf.objects
            objects = dict(shelf.objects)
            for change in reversed(changes):
                if change.before is None:
                    objects.pop(change.key, None)
                else:
                    objects[change.key] = change.before
            return sorted(objects), objects

    def last_change(self, kind: Kind, namespace: str = "") -> int:
        """Return the version of the last change that is kept of a resource, in one namespace or anywhere."""
        with self.changed:
            shelf = self._shelf(kind)
            kept = (one.version for one in reversed(shelf.changes) if not namespace or one.key[0] == namespace)
            return next(kept, shelf.horizon)

    def since(self, kind: Kind, version: int) -> list[Change]:
        """Return the changes of a resource after ``version``, oldest first.

        Raises:
            TooOld: If the log no longer reaches back that far.
        """
        with self.changed:
            return self._since(self._shelf(kind), version)

    def _since(self, shelf: _Shelf, version: int) -> list[Change]:
        if version < shelf.horizon:
            raise TooOld(shelf.horizon)
        return shelf.changes[bisect_right(shelf.versions, version) :]

    def compact(self) -> None:
        """Forget the log: of every resource, what lies before its last change is gone.

        A watch that has seen that change goes on, as one does on the watch cache of an API server.
        """
        with self.changed:
            for shelf in self._shelves.values():
                if shelf.changes:
                    shelf.horizon = shelf.versions[-1]
                    shelf.changes.clear()
                    shelf.versions.clear()
            self.changed.notify_all()
