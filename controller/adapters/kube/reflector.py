"""How is one kind of object kept up to date: listed, then watched, and listed anew where the watch has lost the thread?

What a list says replaces what was known only once all its pages are there. A watch is short. Of a kind of object that
does not change a server says nothing, not even how far it has got; that it ends the watch itself, when it was asked to,
is its word that nothing happened. One that ends earlier without a word is followed by a list. One that has more to tell
than there is time for, or breaks, has told what it has: the next one goes on from there, and as long as each gets
further there is no list, however often they break.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from threading import Event
from typing import Any, Generic, Protocol, TypeVar

import structlog
from numpy.random import Generator

from controller.adapters.kube.client import KubernetesApi, Watch
from controller.adapters.kube.json_reading import Refused, entries, text, word
from controller.adapters.kube.kinds import Resource
from controller.adapters.kube.questions import ApiRefused, NoWay, Question, Unreached
from controller.adapters.kube.settings import KubernetesSettings
from controller.adapters.kube.stores import Key, Store, check_size
from controller.errors import ObservationError

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

_FIRST_BACKOFF_S = 0.5
_SHORTEST_WATCH_S = 1.0
_GONE, _NOT_FOUND = 410, 404
_PASSING = frozenset((401, 403, 429, 500, 502, 503, 504))
"""Answers to a watch that say nothing against our place in the history: a list would only be more work for it."""

_LOST_AFTER = 3
"""Failures in a row after which there is a list all the same: a server that was restored may not know our place."""

_log = structlog.get_logger(__name__)


class Reads(Protocol[T_co]):
    """Returns what is kept of an object, why it cannot be read, or None where it is none of ours."""

    def __call__(self, told: object, /) -> T_co | Refused | None:
        """Read it."""
        ...


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What all reflectors of a cluster share; ``elapsed`` are seconds that never go back."""

    api: KubernetesApi
    settings: KubernetesSettings
    elapsed: Callable[[], float]


class Reflector(Generic[T]):
    """Keeps a store as the server has it, in rounds of one watch each.

    Attributes:
        resource, namespace: What is looked at; all namespaces where that is empty.
        store: What is known of it.
        lists: Lists that were taken over.
        failures: Rounds that an error ended.
    """

    def __init__(
        self, around: Surroundings, resource: Resource, namespace: str, read: Reads[T], rng: Generator
    ) -> None:
        """Read objects of ``resource`` in ``namespace``, or in all where that is empty."""
        self._api, self._settings, self._elapsed = around.api, around.settings, around.elapsed
        self.resource, self.namespace, self._read, self._rng = resource, namespace, read, rng
        title = f"{resource.title} in {namespace}" if namespace else resource.title
        self.store: Store[T] = Store(title, around.elapsed, around.settings.max_objects)
        self._stopped = Event()
        self._watch: Watch | None = None
        self._listed_s: float | None = None
        self._failures, self._heard = 0, False
        self.lists = self.failures = 0
        self._told = ""

    def run(self) -> None:
        """Go on until stopped; the body of a thread."""
        while not self._stopped.is_set():
            self._stopped.wait(self.round())

    def stop(self) -> None:
        """End the round that is under way, and begin no other."""
        self._stopped.set()
        watch = self._watch
        if watch is not None:
            watch.stop()

    def lists_since(self, at_s: float) -> bool:
        """Return whether a list that began after ``at_s`` has been taken over; if not, there will soon be one."""
        if self._listed_s is not None and self._listed_s > at_s:
            return True
        self._listed_s = None
        watch = self._watch
        if watch is not None:
            watch.stop()
        return False

    def round(self) -> float:
        """List if there is need, then watch until that ends; return the seconds to wait before the next."""
        self._heard = False
        try:
            served = self._list() if self._must_list() else True
            if served and not self._stopped.is_set():
                self._follow()
        except ObservationError as error:
            if self._stopped.is_set():
                return 0.0
            if isinstance(error, Unreached) and self._heard:
                self._failures = 0  # a server that told what came after our place knows it
            return self._failed(error)
        except Exception as bug:  # noqa: BLE001 - told and tried again; a thread that ended would never say why
            if self._stopped.is_set():
                return 0.0
            _log.exception("a bug kept the cluster from being read", of=self.store.title, repeat_key=str(bug))
            return self._failed(ObservationError(f"{type(bug).__name__}: {bug}", self.store.title, "report it"))
        self._failures = 0
        self._told = ""
        return 0.0 if served else self._settings.longest_backoff_s

    def _must_list(self) -> bool:
        return self._listed_s is None or self._elapsed() - self._listed_s > self._settings.resync_s

    def _list(self) -> bool:
        """Take over all that is there; return whether the server has such objects at all."""
        question, began_s = Question("list", self.resource, self.namespace), self._elapsed()
        found: dict[Key, T] = {}
        refused: dict[Key, Refused] = {}
        query, seen = {"limit": str(self._settings.page_size)}, 0
        while not self._stopped.is_set():
            try:
                page = self._api.page(question, query)
            except ApiRefused as error:
                if error.status != _NOT_FOUND or len(self.store) or "continue" in query:
                    raise
                # Not installed: nothing is there, unless something was before.
                self.store.replace({}, {self._own_key: Refused(self.store.title, error.what)}, "")
                return False
            items = entries(page, "items")
            for told in items:
                key, thing = _key(told), self._read(told)
                if isinstance(thing, Refused):
                    refused[key] = thing
                elif thing is not None:
                    found[key] = thing
            seen += len(items)
            check_size(seen, self._settings.max_objects, self.store.title)
            token, place = text(page, "metadata", "continue"), text(page, "metadata", "resourceVersion")
            if not token:
                break
            if not items:
                raise ObservationError("a page without objects that is not the last", str(question))
            query["continue"] = token
        else:
            return False
        if not place or not _is_list(page):
            raise ObservationError("the answer is no list with a resourceVersion", str(question))
        self.store.replace(found, refused, place)
        self._listed_s = began_s
        self.lists += 1
        return True

    @property
    def _own_key(self) -> Key:
        return self.namespace, ""

    def _follow(self) -> None:
        """Take over what changes until the watch ends."""
        began_s = self._elapsed()
        settings = self._settings
        question = Question("watch", self.resource, self.namespace)
        query = {
            "watch": "true",
            "allowWatchBookmarks": "true",
            "resourceVersion": self.store.resource_version,
            "timeoutSeconds": str(settings.watch_s),
        }
        watch = self._watch = self._api.watch(question, query, settings.watch_s + settings.timeout_s)
        try:
            if self._stopped.is_set():  # while the watch was asked for
                watch.stop()
                return
            for kind, told in watch:
                self._apply(kind, told, question)
                self._heard = True
                if self._stopped.is_set():
                    return
        finally:
            self._watch = None
        if self._heard or self._stopped.is_set():
            return
        lasted_s = self._elapsed() - began_s
        if lasted_s >= settings.watch_s:  # counted from before it began: the server cannot have ended it for us earlier
            self.store.reach(self.store.resource_version)
            return
        self._listed_s = None  # nobody has said that nothing happened
        if lasted_s < min(_SHORTEST_WATCH_S, settings.watch_s / 2):
            raise Unreached("a watch ended at once, without a word", str(question))

    def _apply(self, kind: str, told: Mapping[str, Any], question: Question) -> None:
        place = text(told, "metadata", "resourceVersion")
        if not place:
            raise ObservationError("an event without resourceVersion", str(question))
        if kind == "BOOKMARK":
            self.store.reach(place)
        elif kind == "DELETED":
            self.store.put(_key(told), None, place)
        elif kind in ("ADDED", "MODIFIED"):
            self.store.put(_key(told), self._read(told), place)
        else:
            raise ObservationError(f"an event of type {kind[:20]!r}", str(question))

    def _failed(self, error: ObservationError) -> float:
        """Take note of a failure and return how long to wait before the next try."""
        passing = isinstance(error, Unreached | NoWay) or (isinstance(error, ApiRefused) and error.status in _PASSING)
        if not passing or self._failures >= _LOST_AFTER:
            self._listed_s = None
        self.store.fail(error)
        self.failures += 1
        if error.what != self._told:
            self._told = error.what
            _log.warning("cluster not read", of=self.store.title, why=error.what, where=error.where)
        if isinstance(error, ApiRefused) and error.status == _GONE and not self._failures:
            self._failures = 1
            return 0.0  # the server has only forgotten; a list brings it all back
        most_s = min(self._settings.longest_backoff_s, _FIRST_BACKOFF_S * 2.0 ** min(self._failures, 16))
        self._failures += 1
        wait_s = most_s * float(self._rng.uniform(0.5, 1.0))
        return (
            max(wait_s, min(error.retry_after_s, self._settings.longest_backoff_s))
            if isinstance(error, ApiRefused)
            else wait_s
        )


def _is_list(page: Mapping[str, Any]) -> bool:
    """Return whether it has items; a server says null for none where it was asked for metadata alone."""
    return "items" in page and isinstance(page["items"], list | None)


def _key(told: object) -> Key:
    return word(told, "metadata", "namespace"), word(told, "metadata", "name")
