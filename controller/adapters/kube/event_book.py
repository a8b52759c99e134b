"""Which Events wait to be sent, as what, and how many of one object may be sent now?

One Event stands for all notices of an object that say the same; its name is made of what they have in common, so that
it is found again after a restart. Each object has a few Events at once and then one a minute: what comes in between is
counted and sent with the next. Nothing here grows without bound: what is oldest is given up.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any, TypeAlias

from controller.adapters.kube.concerned import Concerned
from controller.adapters.kube.event_words import shortened
from controller.adapters.kube.kinds import CLUSTER_WIDE
from controller.adapters.kube.notices import Notice
from controller.redaction import redacted

MOST_WAITING = 2048
MOST_KNOWN = 4096
BURST = 10
TOKEN_S = 60.0

Name: TypeAlias = tuple[str, str]
"""Namespace and name of an Event."""

_LONGEST_NAME = 253


@dataclass(slots=True)
class Waiting:
    """Notices that are told as one Event and have not been yet.

    Attributes:
        notice: The newest.
        count: How many.
        first_at: When the first was.
        tried: What was sent without an answer and may be there all the same: how many, by the time that it said.
    """

    notice: Notice
    count: int
    first_at: float
    tried: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Known:
    """An Event that is there, as far as we know: how often it was, and its version."""

    count: int
    resource_version: str


class EventBook:
    """What waits, what is known to be there, and what each object has left; one thread uses it."""

    def __init__(self) -> None:
        self.waiting: OrderedDict[Name, Waiting] = OrderedDict()
        self.dropped = 0
        self._known: OrderedDict[Name, Known] = OrderedDict()
        self._left: OrderedDict[Concerned, tuple[float, float]] = OrderedDict()

    def add(self, notice: Notice) -> None:
        """Let a notice wait, with those that say the same; the one that waits longest makes room for it."""
        name = name_of(notice)
        held = self.waiting.get(name)
        if held is not None:
            held.notice, held.count = notice, held.count + 1
            return
        self.waiting[name] = Waiting(notice, 1, notice.at)
        while len(self.waiting) > MOST_WAITING:
            self.waiting.popitem(last=False)
            self.dropped += 1

    def due(self, at_s: float, most: int) -> Iterator[tuple[Name, Waiting]]:
        """Yield at most so many that may be sent now, the oldest first; each costs its object one of what it has."""
        for name, waiting in list(self.waiting.items()):
            if most <= 0:
                return
            left = self._tokens(waiting.notice.about, at_s)
            if left >= 1.0:
                most -= 1
                _keep(self._left, waiting.notice.about, (left - 1.0, at_s))
                yield name, waiting

    def left(self, most: int) -> Iterator[tuple[Name, Waiting]]:
        """Yield at most so many, the oldest first, whatever their objects have left: there is no later."""
        yield from list(self.waiting.items())[:most]

    def next_due_s(self, at_s: float) -> float:
        """Return in how many seconds there is something to be sent; infinite where nothing waits."""
        waits = [(1.0 - self._tokens(one.notice.about, at_s)) * TOKEN_S for one in self.waiting.values()]
        return max(0.0, min(waits, default=float("inf")))

    def known(self, name: Name) -> Known | None:
        """Return what is known of an Event."""
        return self._known.get(name)

    def found(self, name: Name, known: Known | None) -> None:
        """Take note of an Event that is there, or of one that is not."""
        if known is None:
            self._known.pop(name, None)
        else:
            _keep(self._known, name, known)

    def sent(self, name: Name, waiting: Waiting, known: Known) -> None:
        """Take note that what waited is told."""
        self.found(name, known)
        if self.waiting.get(name) is waiting:
            del self.waiting[name]

    def _tokens(self, about: Concerned, at_s: float) -> float:
        left, since_s = self._left.get(about, (float(BURST), at_s))
        return min(float(BURST), left + max(0.0, at_s - since_s) / TOKEN_S)


def name_of(notice: Notice) -> Name:
    """Return what the Event is called that stands for a notice and all that say the same."""
    about = notice.about
    told = repr((about.api_version, about.kind, about.uid, about.name, notice.reason, notice.same))
    digest = sha256(told.encode("ascii", "backslashreplace")).hexdigest()[:16]
    head = about.name[: _LONGEST_NAME - len(digest) - 1].rstrip("-.")
    return about.namespace or CLUSTER_WIDE, f"{head}.{digest}"


def new_event(name: Name, waiting: Waiting, instance: str) -> dict[str, Any]:
    """Return an Event as it is created."""
    notice = waiting.notice
    about = {
        "apiVersion": notice.about.api_version,
        "kind": notice.about.kind,
        "namespace": notice.about.namespace,
        "name": notice.about.name,
        "uid": notice.about.uid,
    }
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"namespace": name[0], "name": name[1]},
        "involvedObject": {key: said for key, said in about.items() if said},
        "type": "Warning" if notice.warning else "Normal",
        "reason": notice.reason,
        "message": message_of(notice),
        "count": waiting.count,
        "firstTimestamp": stamp(waiting.first_at),
        "lastTimestamp": stamp(notice.at),
        "source": {"component": "foresail"},
        "reportingComponent": "foresail",
        "reportingInstance": instance,
    }


def more_of(waiting: Waiting, known: Known) -> dict[str, Any]:
    """Return what changes of an Event that is there, if it is still as we know it."""
    return {
        "metadata": {"resourceVersion": known.resource_version},
        "count": known.count + waiting.count,
        "lastTimestamp": stamp(waiting.notice.at),
        "message": message_of(waiting.notice),
    }


def message_of(notice: Notice) -> str:
    """Return what an Event says: nothing secret, and no more than a server takes."""
    return shortened(redacted(notice.message))


def stamp(at: float) -> str:
    """Return an instant as the API has it, in whole seconds."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _keep(kept: OrderedDict[Any, Any], key: object, value: object) -> None:
    kept[key] = value
    kept.move_to_end(key)
    while len(kept) > MOST_KNOWN:
        kept.popitem(last=False)
