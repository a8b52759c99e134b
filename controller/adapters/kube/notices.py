"""What of a tick is to be told to people who look at the objects concerned: what was done, what was not, and why?

Acts are told one by one. What is held or refused at every tick is one notice that repeats: figures that move in it
make no other. Reasons for which a plan was withheld are told when they come up, and again once they have been gone.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

from controller.adapters.kube.concerned import Concerned
from controller.plans import Part, target_of, why_of
from controller.ports import Act, ActResult, TickRecord
from controller.recommendations import what_of
from policies.decisions import (
    AvoidNode,
    CordonReplica,
    Decision,
    FailOver,
    Page,
    Reason,
    RestartReplica,
    ScalingPlan,
    TrafficPlan,
    UncordonReplica,
)
from policies.fleet import PoolKey

MOST_BYTES = 1024
"""An API server takes no longer message."""

_FIGURES = re.compile(r"\d[\w.:+%-]*")

_DONE: Mapping[Act, str] = {
    "cordon": "ReplicaCordoned",
    "uncordon": "ReplicaUncordoned",
    "restart": "ReplicaRestarted",
    "roll back": "RolledBack",
    "pause": "RolloutPaused",
    "resume": "RolloutResumed",
    "avoid": "NodeAvoided",
    "weights": "TrafficShifted",
    "page": "HumanCalled",
}
_FAILED: Mapping[Act, str] = {
    "cordon": "CordonFailed",
    "uncordon": "UncordonFailed",
    "restart": "RestartFailed",
    "roll back": "RollBackFailed",
    "pause": "PauseFailed",
    "resume": "ResumeFailed",
    "avoid": "AvoidFailed",
    "weights": "TrafficShiftFailed",
    "scale": "ScaleFailed",
}
_HELD = (
    ("waits for approval", "HeldForApproval"),
    ("mode ", "HeldByMode"),
    ("kill switch", "HeldByKillSwitch"),
    ("maintenance", "HeldForMaintenance"),
    ("the plan is stale", "HeldAsStale"),
    ("not on record", "HeldUnrecorded"),
)
_ONLY_LOOKING = "mode observe"
"""Whoever asks for no more than that reads the audit log."""

_REFUSED: Mapping[str, tuple[str, bool]] = {
    "other owner": ("ScaleRefused", True),
    "failing pool": ("ScaleRefused", True),
    "growth held": ("ScaleRefused", True),
    "GPU budget": ("ScaleLimited", True),
    "money budget": ("ScaleLimited", True),
    "bounds": ("ScaleLimited", False),
    "blind": ("HeldUnobserved", True),
    "out of room": ("OutOfRoom", True),
    "waiting for GPUs": ("WaitingForGpus", True),
    "breaker": ("HealingStopped", True),
    "disruption budget": ("HealingRefused", False),
    "fleet disruption budget": ("HealingRefused", False),
    "serving floor": ("HealingRefused", False),
    "node budget": ("HealingRefused", True),
    "attempt cap": ("HealingRefused", True),
    "no good revision": ("RollBackRefused", True),
    "rolled back before": ("RollBackRefused", True),
    "no failover": ("FailoverRefused", True),
}
"""Rules that withhold something, as what that is told, and whether it is worth a warning."""


@dataclass(frozen=True, slots=True)
class Notice:
    """One thing to be told of one object.

    Attributes:
        at: When, in seconds since the epoch.
        same: What notices of the object have in common that are told as one, with a count.
    """

    about: Concerned
    at: float
    reason: str
    message: str
    warning: bool
    same: str


class Finds(Protocol):
    """Where objects are found; None where there is none."""

    def workload(self, pool: PoolKey) -> Concerned | None:
        """Return the workload of a pool."""
        ...

    def pod(self, pool: PoolKey, replica: str) -> Concerned | None:
        """Return the pod of a replica."""
        ...

    def node(self, name: str) -> Concerned | None:
        """Return a node."""
        ...

    def route(self, model: str) -> Concerned | None:
        """Return the route of a model."""
        ...

    def advice(self, pool: PoolKey) -> str:
        """Return what to do about whoever else owns a pool's number of replicas."""
        ...


class Notices:
    """Makes them of one tick after the other; remembers which reasons the last one had."""

    def __init__(self, objects: Finds) -> None:
        self._objects = objects
        self._withheld: dict[tuple[str, str], str] = {}

    def of(self, record: TickRecord) -> Iterator[Notice]:
        """Yield what is to be told of a tick; nothing of one that could not look."""
        if record.decision is None:
            return
        yield from self._acts(record, record.decision)
        yield from self._reasons(record, record.decision)

    # What became of acts

    def _acts(self, record: TickRecord, decision: Decision) -> Iterator[Notice]:
        parts = {
            ((target := target_of(part)).act, target.subject): part
            for part in (*decision.traffic, *decision.scaling, *decision.remediations)
            if not isinstance(part, FailOver)
        }
        for result in record.results:
            part = parts.get((result.act, result.subject))
            held = result.outcome == "held"
            if part is None or (held and (isinstance(part, Page) or result.detail == _ONLY_LOOKING)):
                continue
            for about in self._objects_of(part, decision):
                yield self._act(about, result, part, decision)

    def _act(self, about: Concerned, result: ActResult, part: Part, decision: Decision) -> Notice:
        what = part.message if isinstance(part, Page) else what_of(part)
        why = "" if isinstance(part, Page) else why_of(target_of(part), decision)
        match result.outcome:
            case "done":
                by = f" ({result.detail})" if result.detail and not isinstance(part, Page) else ""
                told = f"{_capital(what)}{by}{': ' if why else ''}{why}"
                return Notice(about, decision.at, _done(part, result.act), told, isinstance(part, Page), told)
            case "failed":
                said = " ".join(result.detail.split())
                told, reason = f"Could not {what}: {said}", _FAILED.get(result.act, "Failed")
            case _:
                told = f"Would {what}; held: {result.detail}{'. ' if why else ''}{why}"
                reason = next((name for word, name in _HELD if result.detail.startswith(word)), "Held")
        same = _without_figures(f"{result.act} {result.outcome} {result.detail}")
        return Notice(about, decision.at, reason, told, result.outcome == "failed", same)

    def _objects_of(self, part: Part, decision: Decision) -> Iterator[Concerned]:
        match part:
            case CordonReplica() | UncordonReplica() | RestartReplica():
                found = self._objects.pod(part.pool, part.replica)
            case AvoidNode(node=node):
                found = self._objects.node(node)
            case TrafficPlan(model=model) | FailOver(model=model):
                found = self._objects.route(model)
            case Page(subject=subject):
                yield from self._named(subject, decision)
                return
            case _:
                found = self._objects.workload(part.pool)
        if found is not None:
            yield found

    # What was withheld

    def _reasons(self, record: TickRecord, decision: Decision) -> Iterator[Notice]:
        now: dict[tuple[str, str], str] = {}
        for reason in decision.reasons:
            told = _REFUSED.get(reason.rule)
            if told is None or (reason.rule == "bounds" and reason.after >= reason.before):
                continue
            key, same = (reason.rule, reason.subject), _without_figures(f"{reason.rule} {reason.detail}")
            now[key] = same
            if self._withheld.get(key) != same:
                for about in self._named(reason.subject, decision, record):
                    yield Notice(about, decision.at, told[0], self._words(reason), told[1], same)
        self._withheld = now

    def _words(self, reason: Reason) -> str:
        change = f" ({reason.before:g} -> {reason.after:g})" if reason.before != reason.after else ""
        advice = ""
        if reason.rule == "other owner":
            advice = self._objects.advice(PoolKey.parse(reason.subject))
        return f"{_capital(reason.rule)}{change}: {reason.detail}{'; ' if advice else ''}{advice}"

    def _named(self, subject: str, decision: Decision, record: TickRecord | None = None) -> Iterator[Concerned]:
        """Yield what a subject names: a pool, a replica by its name in the fleet or its id, or all pools of a model."""
        pools = [pool.key for pool in record.fleet.pools] if record and record.fleet else []
        pools = pools or [PoolKey.parse(name) for name in decision.memory.pools]
        of_model = [key for key in pools if key.model == subject]
        if of_model:
            found = [self._objects.workload(key) for key in of_model]
        elif subject in {str(key) for key in pools}:
            found = [self._objects.workload(PoolKey.parse(subject))]
        else:
            sick = [d for d in decision.diagnoses if d.subject and subject in (d.subject, d.pool.replica(d.subject))]
            found = [self._objects.pod(sick[0].pool, sick[0].subject)] if sick else []
        yield from (about for about in found if about is not None)


def _done(part: Part, act: Act) -> str:
    if isinstance(part, ScalingPlan):
        return "ScaledUp" if part.desired > part.current else "ScaledDown"
    return _DONE.get(act, "Done")


def _without_figures(text: str) -> str:
    return _FIGURES.sub("#", text)


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def shortened(message: str) -> str:
    """Return a message that an API server takes: on one line, and not too long."""
    line = " ".join(message.split())
    told = line.encode()
    return line if len(told) <= MOST_BYTES else told[: MOST_BYTES - 3].decode(errors="ignore") + "..."
