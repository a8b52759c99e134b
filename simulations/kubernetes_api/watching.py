"""What does a watch send, from which resourceVersion on, and when does it end?

A watch without a resourceVersion first sends what there is as ADDED; with ``sendInitialEvents`` a bookmark annotated
``k8s.io/initial-events-end`` follows. An object that a change takes out of the watch's selector is sent as DELETED, one
that it brings in as ADDED. A resourceVersion below the horizon is one ERROR event with a ``Status`` of 410, and the
end. A bookmark carries nothing but the resourceVersion of the last change of the resource, whoever it concerns. It is
sent every now and then and two seconds before the end, but only where that change came after the watch began: of a
resource that does not change a watch says nothing at all.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from simulations.kubernetes_api.kinds import Kind
from simulations.kubernetes_api.listing import listed, number
from simulations.kubernetes_api.refusals import Json, Refusal, gone, too_new
from simulations.kubernetes_api.selectors import Match, object_test
from simulations.kubernetes_api.store import Change, Store, Stored, TooOld

INITIAL_END = "k8s.io/initial-events-end"
DEFAULT_TIMEOUT_S = 1800.0
BOOKMARK_BEFORE_END_S = 2.0


def _event(change: str, text: str) -> str:
    return f'{{"type":"{change}","object":{text}}}\n'


def _at_version(item: Stored, version: int) -> str:
    value = item.fresh()
    value["metadata"]["resourceVersion"] = str(version)
    return json.dumps(value, separators=(",", ":"))


def error_event(refusal: Refusal) -> str:
    """Return the ERROR event that ends a watch."""
    return _event("ERROR", json.dumps(refusal.status()))


@dataclass(slots=True)
class Watch:
    """One open watch.

    Args:
        store: What is watched.
        kind: Of which resource.
        namespace: Empty for all.
        params: The query.
        elapsed: Seconds of a clock that never goes back.
        bookmark_every_s: Seconds between bookmarks, where the client allows them.
        wanted: Whether the watch shall go on; asked after every change and at least every half second.
    """

    store: Store
    kind: Kind
    namespace: str
    params: Mapping[str, str]
    elapsed: Callable[[], float]
    bookmark_every_s: float
    wanted: Callable[[], bool]
    reached: int = 0
    began_after: int = 0
    timeout_s: int = 0
    test: Match | None = None

    def __post_init__(self) -> None:
        self.test = object_test(self.kind, self.params.get("labelSelector", ""), self.params.get("fieldSelector", ""))
        self.timeout_s = number(self.params.get("timeoutSeconds") or "0")
        asked = number(self.params.get("resourceVersion") or "0")
        if self.params.get("sendInitialEvents") == "true" and asked > self.store.version:
            raise too_new(asked, self.store.version)

    def events(self) -> Iterator[str]:
        """Yield the lines of the stream; each call of ``next`` waits for as long as nothing happens."""
        ends_at = self.elapsed() + (self.timeout_s or DEFAULT_TIMEOUT_S)
        bookmarks = self.params.get("allowWatchBookmarks") in ("true", "1")
        yield from self._initial(bookmarks)
        last_bookmark_at = ends_at - BOOKMARK_BEFORE_END_S
        bookmark_at = min(self.elapsed() + self.bookmark_every_s, last_bookmark_at)
        bookmarks = bookmarks and self.elapsed() <= last_bookmark_at
        while self.wanted():
            try:
                text = self._next()
            except TooOld as error:
                yield error_event(gone(f"too old resource version: {self.reached} ({error.horizon})"))
                return
            if text:
                yield text
            now = self.elapsed()
            if bookmarks and now >= bookmark_at:
                last = self.store.last_change(self.kind)
                if last > self.began_after:
                    yield self._bookmark(last)
                bookmarks = now < last_bookmark_at
                bookmark_at = min(now + self.bookmark_every_s, last_bookmark_at)
            if now >= ends_at:
                return
            self._wait(min(ends_at, bookmark_at if bookmarks else ends_at) - now)

    def _initial(self, bookmarks: bool) -> Iterator[str]:
        asked = number(self.params.get("resourceVersion") or "0")
        with_state = self.params.get("sendInitialEvents") == "true"
        if asked and not with_state:
            self.reached = asked
            self.began_after = max(asked, self.store.last_change(self.kind))
            return
        selectors = {key: self.params[key] for key in ("labelSelector", "fieldSelector") if key in self.params}
        page = listed(self.store, self.kind, self.namespace, selectors)
        self.reached = self.began_after = page.version
        if self.params.get("sendInitialEvents") != "false":
            yield "".join(_event("ADDED", item.text) for item in page.items)
        if with_state and bookmarks:
            yield self._bookmark(self.reached, {INITIAL_END: "true"})

    def _next(self) -> str:
        changes = self.store.since(self.kind, self.reached)
        if not changes:
            with self.store.changed:
                # Nothing of this resource happened up to here.
                if not self.store.since(self.kind, self.reached):
                    self.reached = max(self.reached, self.store.version)
            return ""
        self.reached = changes[-1].version
        return "".join(filter(None, map(self._shown, changes)))

    def _shown(self, change: Change) -> str:
        if self.namespace and change.key[0] != self.namespace:
            return ""
        test = self.test
        if test is None:
            return _event(change.type, change.after.text)
        was = change.before is not None and test(change.before.value)
        is_now = change.type != "DELETED" and test(change.after.value)
        if is_now:
            return _event("MODIFIED" if was else "ADDED", change.after.text)
        if not was or change.before is None:
            return ""
        return _event("DELETED", _at_version(change.before, change.version))

    def _wait(self, at_most_s: float) -> None:
        with self.store.changed:
            if self.store.version <= self.reached:
                self.store.changed.wait(max(0.0, min(at_most_s, 0.5)))

    def _bookmark(self, version: int, annotations: Json | None = None) -> str:
        metadata: Json = {"resourceVersion": str(version)}
        if annotations:
            metadata["annotations"] = annotations
        body = {"kind": self.kind.kind, "apiVersion": self.kind.api_version, "metadata": metadata}
        return _event("BOOKMARK", json.dumps(body))
