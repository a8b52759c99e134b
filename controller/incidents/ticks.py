"""What does one recorded tick say of who is ill and of what was done? Reads also what older programs wrote.

A record is JSON as ``policies.wire`` writes it. Fields that a program did not write yet, and remedies that this one
does not know, are taken as they are: a missing field says nothing, an unknown remedy is called by its name.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, NamedTuple, TypeAlias

from controller.explain import believed, verb_of

Json: TypeAlias = Mapping[str, Any]
ActState: TypeAlias = Literal["done", "held", "failed", "unknown"]


@dataclass(frozen=True, slots=True)
class StoredRow:
    """A row of the audit log: ``text`` is its record as JSON."""

    number: int
    at: float
    kind: str
    text: str

    @property
    def record(self) -> Json:
        """The record.

        Raises:
            ValueError: If there is none.
        """
        record = json.loads(self.text)
        if not isinstance(record, dict):
            raise ValueError(f"row {self.number} holds no record")  # noqa: TRY004 - as for any other text without one
        return record

    @property
    def names_somebody_ill(self) -> bool:
        """Whether a diagnosis was made, told without reading the JSON: canonical JSON has no spaces."""
        return '"diagnoses":[{' in self.text


class Subject(NamedTuple):
    """What an incident is about. ``pool`` is empty where the scope is wider than a pool."""

    scope: str
    pool: str
    name: str

    @property
    def full_name(self) -> str:
        """Its name in the whole fleet, as results and pages call it."""
        return f"{self.pool}/{self.name}" if self.scope == "replica" and self.pool else self.name

    @property
    def model(self) -> str:
        """The model that it serves; empty for a node or the fleet."""
        key = self.pool or (self.name if self.scope == "pool" else "")
        return key.rsplit("/", 2)[0] if key else self.name if self.scope == "model" else ""


@dataclass(frozen=True, slots=True)
class Belief:
    """A diagnosis, as the tick of instant ``at`` made it; ``evidence`` is what it was made from, as recorded."""

    at: float
    subject: Subject
    cause: str
    since_at: float
    families: tuple[str, ...]
    sentence: str
    evidence: tuple[Json, ...] = ()


@dataclass(frozen=True, slots=True)
class WantedAct:
    """A remedy that was decided, and what became of it; ``name`` is what it was to be done to."""

    verb: str
    name: str
    pool: str
    replica: str
    cause: str
    message: str
    state: ActState
    detail: str


class Tick:
    """One tick, with what became of its acts where that is on record; what is asked for often is read once."""

    def __init__(self, row: str, at: float, record: Json) -> None:
        """Take the number of its row, its instant, and its record."""
        self.row, self.at, self.record = row, at, record

    @property
    def decision(self) -> Json:
        """What was decided; empty when nothing was."""
        return self.record.get("decision") or {}

    @cached_property
    def pools(self) -> Mapping[str, Json]:
        """Pools as they were seen, by key."""
        fleet: Json = self.record.get("fleet") or {}
        return {pool["key"]: pool for pool in fleet.get("pools") or ()}

    @cached_property
    def replicas(self) -> Mapping[tuple[str, str], Json]:
        """Replicas as they were seen, by pool key and id."""
        return {(key, r["id"]): r for key, pool in self.pools.items() for r in pool.get("replicas") or ()}

    @cached_property
    def beliefs(self) -> tuple[Belief, ...]:
        """The diagnoses, in the order in which they are on record."""
        evidence: dict[tuple[str, str], list[Json]] = {}
        for anomaly in self.decision.get("anomalies") or ():
            evidence.setdefault((anomaly.get("pool") or "", anomaly.get("replica") or ""), []).append(anomaly)
        return tuple(
            _belief(self.at, d, evidence.get((d.get("pool") or "", d.get("subject") or ""), ()))
            for d in self.decision.get("diagnoses") or ()
        )

    @cached_property
    def acts(self) -> tuple[WantedAct, ...]:
        """What was to be done against an illness, and what became of that."""
        results = self.record.get("results")
        known: dict[tuple[str, str], Json] = {}
        for result in results or ():
            known.setdefault((str(result.get("act")).replace("_", " "), result.get("subject")), result)
        known_at_all = results is not None
        return tuple(_act(r, known, known_at_all=known_at_all) for r in self.decision.get("remediations") or ())

    @cached_property
    def _acts_by_replica(self) -> Mapping[str, Sequence[WantedAct]]:
        found: dict[str, list[WantedAct]] = {}
        for act in self.acts:
            found.setdefault(act.replica, []).append(act)
        return found

    @cached_property
    def _reasons_by_subject(self) -> Mapping[str, Sequence[Json]]:
        found: dict[str, list[Json]] = {}
        for reason in self.decision.get("reasons") or ():
            found.setdefault(reason["subject"], []).append(reason)
        return found

    def acts_near(self, subject: Subject) -> Iterator[WantedAct]:
        """Yield the acts that may be about ``subject``: those on a replica of its name, and those on no replica."""
        if subject.scope == "replica":
            yield from self._acts_by_replica.get(subject.name, ())
        yield from self._acts_by_replica.get("", ())

    def reasons_about(self, *subjects: str) -> Iterator[Json]:
        """Yield what the rules said about any of ``subjects``."""
        for subject in dict.fromkeys(subjects):
            yield from self._reasons_by_subject.get(subject, ())

    @property
    def memory_before(self) -> Json:
        """What the decision started from: without what was held."""
        return self.record.get("memory") or {}

    @property
    def memory_after(self) -> Json:
        """What the decision led to, had all of it been done."""
        return self.decision.get("memory") or {}


def _belief(at: float, written: Json, evidence: Sequence[Json]) -> Belief:
    scope, pool = written.get("scope") or "replica", written.get("pool") or ""
    subject = Subject(scope, pool if scope in ("replica", "pool") else "", written.get("subject") or pool)
    return Belief(
        at,
        subject,
        written.get("cause") or "unknown",
        written.get("since_at") or at,
        tuple(written.get("families") or ()),
        believed(written),
        tuple(evidence),
    )


def _act(remedy: Json, results: Mapping[tuple[str, str], Json], *, known_at_all: bool) -> WantedAct:
    verb, pool, replica = verb_of(remedy["type"]), str(remedy.get("pool") or ""), str(remedy.get("replica") or "")
    pool = pool or str(remedy.get("origin") or "")
    others = [str(remedy.get(key) or "") for key in ("subject", "node", "model")]
    name = f"{pool}/{replica}" if replica else next(filter(None, (others[0], pool, *others[1:])), "")
    called = {name, replica, pool, *others} - {""}
    kind = "weights" if verb == "fail over" else verb
    found = next((results[kind, subject] for subject in sorted(called) if (kind, subject) in results), None)
    state: ActState = "unknown" if found is None else found.get("outcome", "unknown")
    detail = "" if known_at_all else "what became of it is not on record"
    detail = detail if found is None else found.get("detail") or ""
    return WantedAct(verb, name, pool, replica, str(remedy.get("cause") or ""), str(remedy.get("message") or ""),
                     state, detail)  # fmt: skip
