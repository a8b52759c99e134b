"""How do people who look at an object of the cluster learn what Foresail did to it, or refused to do?

As Events, sent by a thread of its own that no tick waits for. While the server is away they wait, as many as there is
room for; where the right is missing there are none, which is told once and tried again now and then. What waits at the
end is sent within a bound, by who may still write then: before the lease is given away.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from threading import Condition, Thread

import structlog

from controller.adapters.kube.changes import MERGE_PATCH, Change
from controller.adapters.kube.cluster import KubernetesView
from controller.adapters.kube.concerned import Objects
from controller.adapters.kube.event_book import EventBook, Known, Name, Waiting, more_of, new_event, stamp
from controller.adapters.kube.json_reading import count, text
from controller.adapters.kube.kinds import EVENTS
from controller.adapters.kube.notices import Finds, Notices
from controller.adapters.kube.questions import ApiRefused, Question
from controller.adapters.kube.settings import KubernetesSettings
from controller.errors import ActuationError, ForesailError, ObservationError
from controller.ports import TickRecord

MOST_RECORDS = 8
MOST_AT_ONCE = 20
MOST_AT_LAST = 200
"""Of an end: sent without a pause, and whatever their objects have left."""

_PAUSE_S = 1.0
"""Between so many and the next: a server has more to do than this."""

_TRIES = 3
_FIRST_REST_S, _LONGEST_REST_S = 1.0, 60.0
_LAST_REST_S = 0.5
_JOIN_S = 2.0
_FORBIDDEN_S = 600.0
"""Time after which a namespace where the right was missing is tried once more."""

_LONGEST_INSTANCE = 128
_FORBIDDEN, _NOT_FOUND, _CONFLICT = 403, 404, 409
_PASSING = frozenset((401, 429, 500, 502, 503, 504))

_log = structlog.get_logger(__name__)


class KubernetesEvents:
    """``Witness`` that tells of ticks as Events. Start it before use and close it after.

    Attributes:
        book: What waits.
        counts: Events by what became of them: ``told``, ``refused``, or ``dropped`` since too many waited.
    """

    def __init__(
        self,
        settings: KubernetesSettings,
        view: KubernetesView,
        elapsed: Callable[[], float],
        instance: str = "foresail",
        silenced: Callable[[], bool] = lambda: False,
        objects: Finds | None = None,
    ) -> None:
        """Take the time from ``elapsed``, seconds that never go back.

        ``instance`` is who of several replicas tells it; nothing is sent while ``silenced`` says so, or cannot.
        ``objects`` finds what is concerned, where the cluster is not the whole fleet.
        """
        self._on, self._api, self._elapsed = settings.events, view.api, elapsed
        self._instance, self._silenced = instance[:_LONGEST_INSTANCE], silenced
        self._notices = Notices(objects or Objects(view, settings))
        self.book = EventBook()
        self.counts: dict[str, int] = {"told": 0, "refused": 0, "dropped": 0}
        self._records: deque[tuple[TickRecord, bool]] = deque(maxlen=MOST_RECORDS)
        self._changed = Condition()
        self._stopped = self._over = False
        self._thread = Thread(target=self._run, name="events", daemon=True)
        self._rest_until_s, self._rests = 0.0, 0
        self._forbidden: dict[str, float] = {}
        self._told: set[str] = set()

    def start(self) -> None:
        """Begin to send."""
        if self._on:
            self._thread.start()

    def close(self) -> None:
        """Send what can be sent at once, and end; after ``flush`` nothing more is sent."""
        if not self._over:
            self.flush(_JOIN_S)

    def flush(self, within_s: float) -> None:
        """Send what waits for as long as ``within_s``, and nothing after that: no tick follows."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
        if self._thread.is_alive():
            self._thread.join(within_s)
        self._over = True

    def saw(self, record: TickRecord) -> None:
        """Take note of a tick; it is told later, by another thread. Of too many the oldest are lost."""
        self.take(record)

    def take(self, record: TickRecord, *, of_fleet: bool = True) -> None:
        """Take note of a tick, but without ``of_fleet`` not of what concerns no object but the whole fleet."""
        if not self._on:
            return
        with self._changed:
            self._records.append((record, of_fleet))
            self._changed.notify_all()

    def round(self) -> float:
        """Send what may be sent; return the seconds to wait until there may be more, whatever happens meanwhile."""
        self._take_in()
        at_s = self._elapsed()
        if at_s < self._rest_until_s:
            return self._rest_until_s - at_s
        if self._silent():
            return _LONGEST_REST_S
        if not self._send(self.book.due(at_s, MOST_AT_ONCE)):
            return max(0.0, self._rest_until_s - self._elapsed())
        return max(_PAUSE_S, self.book.next_due_s(self._elapsed()))

    def last_round(self) -> bool:
        """Send what waits, the oldest first, until the server does not take it; return whether to try once more."""
        self._take_in()
        return not (self._over or self._silent() or self._send(self.book.left(MOST_AT_LAST)))

    def _run(self) -> None:
        while not self._stopped:
            wait_s = _LONGEST_REST_S
            with self._guarded():
                wait_s = self.round()
            with self._changed:
                if not (self._records or self._stopped):
                    self._changed.wait(min(wait_s, _LONGEST_REST_S))
        with self._guarded():
            if self.last_round():  # a server that has no time now may have it soon
                with self._changed:
                    self._changed.wait(_LAST_REST_S)
                self.last_round()

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        try:
            yield
        except Exception:  # noqa: BLE001 - whatever it is, ticks go on, and so does telling of the next one
            _log.exception("events of a tick are lost")

    def _take_in(self) -> None:
        while True:
            with self._changed:
                if not self._records:
                    break
                record, of_fleet = self._records.popleft()
            for notice in self._notices.of(record, of_fleet=of_fleet):
                self.book.add(notice)
        if self.book.dropped:
            self._tell("more events than are kept", "of those that waited the oldest are given up")
            self.counts["dropped"] += self.book.dropped
            self.book.dropped = 0

    def _silent(self) -> bool:
        try:
            return self._silenced()
        except Exception:  # noqa: BLE001 - as for acts: what cannot be read lets nothing through
            return True

    # Sending

    def _is_forbidden(self, namespace: str) -> bool:
        return self._elapsed() < self._forbidden.get(namespace, -math.inf)

    def _send(self, several: Iterable[tuple[Name, Waiting]]) -> bool:
        """Send each; return whether the server took them, or refused them for good."""
        for name, waiting in several:
            if self._over:
                return False
            if self._is_forbidden(name[0]):
                self._give_up(name)
            elif not self._deliver(name, waiting):
                return False
        return True

    def _deliver(self, name: Name, waiting: Waiting) -> bool:
        """Send one; return whether to go on with others."""
        try:
            for _ in range(_TRIES):
                if self._sent(name, waiting):
                    self.counts["told"] += 1
                    break
            else:
                self._give_up(name)  # somebody else writes it all the time
        except ApiRefused as error:
            if error.status in _PASSING:
                return self._rest(error, error.retry_after_s)
            self._give_up(name)
            if error.status == _FORBIDDEN:
                self._forbidden[name[0]] = self._elapsed() + _FORBIDDEN_S
            self._tell(f"{error.status} {name[0]}", str(error))
        except ObservationError as error:
            waiting.tried[stamp(waiting.notice.at)] = waiting.count
            return self._rest(error)
        except ActuationError as error:  # the fence: another replica acts, and tells
            self.book.waiting.pop(name, None)
            self._tell("fence", str(error))
        self._rests = 0
        return True

    def _sent(self, name: Name, waiting: Waiting) -> bool:
        """Write one as what we know of it; return whether it is told, or else have looked at it anew."""
        known, (namespace, event) = self.book.known(name), name
        if known is None:
            question = Question("create", EVENTS, namespace)
            change = Change(question, new_event(name, waiting, self._instance))
        else:
            change = Change(Question("patch", EVENTS, namespace, event), more_of(waiting, known), MERGE_PATCH)
        try:
            told = self._api.change(change)
        except ApiRefused as error:
            gone = error.status == _NOT_FOUND and known is not None
            if not gone and error.status != _CONFLICT:
                raise
            self._look(name, waiting)
            return not waiting.count
        after = (known.count if known else 0) + waiting.count
        self.book.sent(name, waiting, Known(after, text(told, "metadata", "resourceVersion")))
        return True

    def _look(self, name: Name, waiting: Waiting) -> None:
        """See what there is of an Event by now, and whether what was not answered is in it."""
        try:
            told = self._api.get(EVENTS, *name)
        except ApiRefused as error:
            if error.status != _NOT_FOUND:
                raise
            self.book.found(name, None)
            return
        known = Known(count(told, "count") or 1, text(told, "metadata", "resourceVersion"))
        self.book.found(name, known)
        waiting.count -= waiting.tried.get(text(told, "lastTimestamp"), 0)
        waiting.tried.clear()
        if not waiting.count:
            self.book.sent(name, waiting, known)

    def _give_up(self, name: Name) -> None:
        self.counts["refused"] += 1
        self.book.waiting.pop(name, None)

    def _rest(self, error: ForesailError, at_least_s: float = 0.0) -> bool:
        """Let the server alone for a while, longer each time; return that nothing more is to be sent now."""
        rest_s = min(_LONGEST_REST_S, _FIRST_REST_S * 2.0 ** min(self._rests, 10))
        self._rests += 1
        self._rest_until_s = self._elapsed() + max(rest_s, min(at_least_s, _LONGEST_REST_S))
        self._tell(type(error).__name__, str(error))
        return False

    def _tell(self, kind: str, why: str) -> None:
        """Log what goes wrong with Events, once of each kind."""
        if kind not in self._told:
            self._told.add(kind)
            _log.warning("events not sent", why=why)
