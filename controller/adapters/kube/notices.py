"""What of a tick is to be told to people who look at the objects concerned: what was done, what was not, and why?

Acts are told one by one. What is held or refused at every tick is one notice that repeats: figures that move in it
make no other. Reasons for which a plan was withheld are told when they come up, and again once they have been gone.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

from controller.adapters.kube.concerned import Concerned
from controller.adapters.kube.event_words import (
    HUMAN_CALLED,
    WITHHELD,
    capital,
    done_words,
    undone_words,
    withheld_words,
)
from controller.plans import Part, target_of
from controller.ports import ActResult, TickRecord
from controller.why import why_of
from policies.decisions import (
    AvoidNode,
    CordonReplica,
    Decision,
    Diagnosis,
    FailOver,
    Page,
    Reason,
    RestartReplica,
    TrafficPlan,
    UncordonReplica,
)
from policies.fleet import PoolKey
from policies.unseen import FLEET

_FIGURES = re.compile(r"\d[\w.:+%-]*")

_ONLY_LOOKING = "mode observe"
"""Whoever asks for no more than that reads the audit log."""


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

    def fleet(self) -> Concerned | None:
        """Return what stands for the whole fleet."""
        ...

    def advice(self, pool: PoolKey) -> str:
        """Return what to do about whoever else owns a pool's number of replicas."""
        ...


class _Tick:
    """A decision with what became of it, and which objects the subjects of its reasons and pages name."""

    def __init__(self, record: TickRecord, decision: Decision, objects: Finds, *, of_fleet: bool) -> None:
        self.record, self.decision, self._objects, self._of_fleet = record, decision, objects, of_fleet
        seen = record.fleet.pools if record.fleet else ()
        self._pools = [pool.key for pool in seen] or [PoolKey.parse(name) for name in decision.memory.pools]

    def named(self, subject: str) -> Iterator[Concerned]:
        """Yield the objects of a subject: a pool, all pools of a model or a stage, a replica by its name or its id."""
        if subject in self._by_name:
            found = [self._objects.workload(key) for key in self._by_name[subject]]
        elif subject == FLEET:
            found = [self._objects.fleet() if self._of_fleet else None]
        else:
            sick = self._sick.get(subject)
            found = [self._objects.pod(sick.pool, sick.subject) if sick else None]
        yield from (about for about in found if about is not None)

    @cached_property
    def _by_name(self) -> dict[str, list[PoolKey]]:
        """The pools by what names them: one by itself, all of a stage, all of a model."""
        found: dict[str, list[PoolKey]] = {}
        for key in self._pools:
            for name in {str(key), str(key.stage), key.model}:
                found.setdefault(name, []).append(key)
        return found

    @cached_property
    def _sick(self) -> dict[str, Diagnosis]:
        """What is believed of replicas, by their names in the fleet and by their ids."""
        found: dict[str, Diagnosis] = {}
        for believed in self.decision.diagnoses:
            if believed.subject:
                for name in (believed.subject, believed.pool.replica(believed.subject)):
                    found.setdefault(name, believed)
        return found


class Notices:
    """Makes them of one tick after the other; remembers which reasons the last one had."""

    def __init__(self, objects: Finds) -> None:
        self._objects = objects
        self._withheld: dict[tuple[str, str], str] = {}

    def of(self, record: TickRecord, *, of_fleet: bool = True) -> Iterator[Notice]:
        """Yield what is to be told of a tick, acts last: where that is too much, what came first makes room.

        Of one that could not look, that is no more than a human was told. Without ``of_fleet`` what concerns no object
        but the whole fleet is left to others.
        """
        if record.decision is None:
            told = record.told
            if told is not None and told.outcome == "done" and of_fleet:
                yield from self._page_of_fleet(record.at, told.detail)
            return
        tick = _Tick(record, record.decision, self._objects, of_fleet=of_fleet)
        yield from self._reasons(tick)
        yield from self._acts(tick)

    def _page_of_fleet(self, at: float, message: str) -> Iterator[Notice]:
        about = self._objects.fleet()
        if about is not None:
            yield Notice(about, at, HUMAN_CALLED, capital(message), True, _without_figures(message))

    # What became of acts

    def _acts(self, tick: _Tick) -> Iterator[Notice]:
        decision = tick.decision
        parts = {
            ((target := target_of(part)).act, target.subject): part
            for part in (*decision.traffic, *decision.scaling, *decision.remediations)
            if not isinstance(part, FailOver)
        }
        for result in tick.record.results:
            part = parts.get((result.act, result.subject))
            held = result.outcome == "held"
            if part is None or (held and (isinstance(part, Page) or result.detail == _ONLY_LOOKING)):
                continue
            concerned = list(self._objects_of(part, tick))
            if concerned:
                told = _told(result, part, tick)
                for about in concerned:
                    yield Notice(about, decision.at, told.reason, told.message, told.warning, told.same)

    def _objects_of(self, part: Part, tick: _Tick) -> Iterator[Concerned]:
        match part:
            case CordonReplica() | UncordonReplica() | RestartReplica():
                found = self._objects.pod(part.pool, part.replica)
            case AvoidNode(node=node):
                found = self._objects.node(node)
            case TrafficPlan(model=model) | FailOver(model=model):
                found = self._objects.route(model)
            case Page(subject=subject):
                yield from tick.named(subject)
                return
            case _:
                found = self._objects.workload(part.pool)
        if found is not None:
            yield found

    # What was withheld

    def _reasons(self, tick: _Tick) -> Iterator[Notice]:
        now: dict[tuple[str, str], str] = {}
        for reason in tick.decision.reasons:
            told = WITHHELD.get(reason.rule)
            if told is None or (reason.rule == "bounds" and reason.after >= reason.before):
                continue
            key, same = (reason.rule, reason.subject), _without_figures(f"{reason.rule} {reason.detail}")
            now[key] = same
            if self._withheld.get(key) != same:
                for about in tick.named(reason.subject):
                    yield Notice(about, tick.decision.at, told.reason, self._words(reason), told.warning, same)
        self._withheld = now

    def _words(self, reason: Reason) -> str:
        advice = self._objects.advice(PoolKey.parse(reason.subject)) if reason.rule == "other owner" else ""
        return f"{withheld_words(reason)}{'; ' if advice else ''}{advice}"


@dataclass(frozen=True, slots=True)
class _Told:
    """What a notice says, of whichever object."""

    reason: str
    message: str
    warning: bool
    same: str


def _told(result: ActResult, part: Part, tick: _Tick) -> _Told:
    """Return what became of a part of a decision."""
    why = "" if isinstance(part, Page) else why_of(part, tick.decision, tick.record.fleet)
    if result.outcome == "done":
        reason, what = done_words(part, tick.decision)
        by = f" ({result.detail})" if result.detail and not isinstance(part, Page) else ""
        message = f"{capital(what)}{by}{': ' if why else ''}{why}"
        return _Told(reason, message, isinstance(part, Page), message)
    reason, message = undone_words(part, result)
    if result.outcome == "held" and why:
        message = f"{message}. {capital(why)}"
    same = _without_figures(f"{result.act} {result.outcome} {result.detail}")
    return _Told(reason, message, result.outcome == "failed", same)


def _without_figures(text: str) -> str:
    return _FIGURES.sub("#", text)
