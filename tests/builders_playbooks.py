"""Small made-up playbooks, and one run of such a playbook tick by tick on a platform that obeys or does not."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from policies.anomaly import Watch
from policies.conditions import Subject, holds
from policies.decisions import (
    AvoidNode,
    CordonReplica,
    Diagnosis,
    PauseRollout,
    Remediation,
    RestartReplica,
    ResumeRollout,
    RollBack,
    UncordonReplica,
)
from policies.disruption import settled
from policies.facts import Condition
from policies.fleet import FleetState, PoolState
from policies.healing_memory import ActionMemory, CordonMemory, RunMemory
from policies.healing_settings import HealingSettings
from policies.lead_time import LeadTime
from policies.ledger import Ledger
from policies.memory import PoolMemory, ReplicaMemory
from policies.paging import page_key
from policies.playbook import Playbook
from policies.treatment import Advance, advance
from tests.builders import AT, KEY, MODEL, fleet, pool, replica

LEAD_S = 100.0
LEAD = LeadTime(80.0, LEAD_S, 5, measured=True)
A0 = KEY.replica("a0")
HANG = Diagnosis("F1", "a0", KEY, AT - 60.0, ("gateway", "progress"), "it stands still", name="hang")
BAD = Diagnosis("F3", "", KEY, AT - 60.0, ("cohort", "revision"), "it fails", scope="pool", name="bad-revision")
FREE = HealingSettings(disruption_budget=9, fleet_disruption_budget=9, cooldown_s=0.0, max_attempts=99)
"""Nothing is refused for a budget."""


def playbook(*steps: Mapping[str, Any], scope: str = "replica", **changes: Any) -> Playbook:
    """A playbook of these steps that has all the time there may be."""
    given = {"title": "a try", "scope": scope, "deadline": "604800 s + 100 lead times", "steps": list(steps), **changes}
    return Playbook.model_validate(given)


def some(count: int = 4, **first: Any) -> PoolState:
    """A pool of ``a0``, which is as told, ``a1`` and so on."""
    return pool([replica("a0", **first), *(replica(f"a{place}") for place in range(1, count))])


def remembered(state: FleetState, **changes: Any) -> dict[str, ReplicaMemory]:
    """What was last seen of every replica; ``changes`` are those of ``a0``."""
    known = {
        p.key.replica(r.id): ReplicaMemory(r.life, 1000.0, 1e5, 2e4, 4.0, state.at, state.at)
        for p in state.pools
        for r in p.replicas
    }
    if A0 in known:
        known[A0] = replace(known[A0], **changes)
    return known


def a_ledger(
    state: FleetState | None = None,
    settings: HealingSettings = FREE,
    seen: Mapping[str, ReplicaMemory] | None = None,
    fresh: Collection[str] | None = None,
    known: Mapping[str, PoolMemory] | None = None,
    lead: LeadTime = LEAD,
    least: int = 0,
    **changes: Any,
) -> Ledger:
    """Books of one tick, with nothing on record unless ``changes`` say so."""
    state = state or fleet(some())
    seen = remembered(state) if seen is None else seen
    given: dict[str, Any] = {"actions": [], "cordons": {}, "told": {}, **changes}
    return Ledger(
        state,
        Watch((), seen, frozenset(seen if fresh is None else fresh)),
        {str(p.key): lead for p in state.pools},
        dict.fromkeys(state.stages, least),
        {str(p.key): PoolMemory() for p in state.pools} | dict(known or {}),
        settings,
        **given,
    )


def a_run(about: Diagnosis = HANG, began_at: float = AT, deadline_s: float = 1e6, **changes: Any) -> RunMemory:
    """A run that has just begun."""
    life = "a0#0" if about.subject else "1"
    given = RunMemory(
        "try", "digest", about.name, about.cause, str(about.pool), about.subject, life, began_at, began_at + deadline_s
    )
    return replace(given, **changes)


def a_subject(
    ledger: Ledger | None = None,
    diagnosis: Diagnosis | None = HANG,
    about: Diagnosis | None = None,
    run: RunMemory | None = None,
    **changes: Any,
) -> Subject:
    """What a playbook is about; ``about`` is what the run began with, where that does not stand any more."""
    ledger = ledger or a_ledger()
    why = about or diagnosis or HANG
    state = ledger.fleet.pools[0]
    found = next((r for r in state.replicas if r.id == why.subject), None)
    return Subject(ledger, state, found, diagnosis, why, run or a_run(why), **changes)


def is_so(condition: object, subject: Subject) -> bool:
    """Whether a condition holds, as it is written."""
    return holds(Condition(condition), subject)


@dataclass
class Bed:
    """A playbook about ``a0``, or its pool, from tick to tick; what it asks for happens unless it is in ``deaf``.

    Attributes:
        deaf: Kinds of remedies that the platform does not carry out.
        sick: What is believed now; None when nothing is.
        heard: Whether pages reach somebody.
    """

    playbook: Playbook
    sick: Diagnosis | None = HANG
    state: PoolState = field(default_factory=some)
    settings: HealingSettings = FREE
    deaf: tuple[type[Remediation], ...] = ()
    heard: bool = True
    at: float = AT
    seen: dict[str, Any] = field(default_factory=dict)
    known: PoolMemory = field(default_factory=PoolMemory)
    cordons: dict[str, CordonMemory] = field(default_factory=dict)
    actions: list[ActionMemory] = field(default_factory=list)
    told: dict[str, float] = field(default_factory=dict)
    asked: list[tuple[float, Remediation]] = field(default_factory=list)
    elsewhere: bool = False
    stopped: bool = False

    def __post_init__(self) -> None:
        self.about = self.sick or HANG
        self.run = a_run(self.about, self.at, self.playbook.deadline.over(LEAD_S))
        self.ledger = self._books()

    def tick(self, after_s: float = 15.0, times: int = 1) -> Advance:
        """Look again ``after_s`` later, ``times`` times; the first look of all is at the beginning itself."""
        for _ in range(times):
            self.at += after_s if self.asked or self.run.steps else 0.0
            found = self._look()
        return found

    def until(self, *states: str, at_most: int = 400) -> float:
        """Go on until the run is in one of the states; return how long after the beginning that is."""
        for _ in range(at_most):
            self.tick()
            if self.run.state in states:
                return self.at - AT
        raise AssertionError(f"still {self.run.state}: {self.run.steps}")

    def acts(self) -> list[str]:
        """Return what was asked for so far, by name; pages aside."""
        return [_NAMES[type(remedy)] for _, remedy in self.asked]

    def when(self, act: str) -> list[float]:
        """Return how long after the beginning an act was asked for."""
        return [at - AT for at, remedy in self.asked if _NAMES[type(remedy)] == act]

    @property
    def pages(self) -> list[str]:
        """What a human would be told at this tick."""
        return [page.message for page in self.ledger.pages]

    @property
    def notes(self) -> list[str]:
        """Rules that left a reason at this tick."""
        return [reason.rule for reason in self.ledger.reasons]

    def change(self, **changes: Any) -> None:
        """Change ``a0``."""
        replicas = [replace(r, **changes) if r.id == "a0" else r for r in self.state.replicas]
        self.state = replace(self.state, replicas=tuple(replicas))

    def _books(self) -> Ledger:
        state = fleet(self.state, at=self.at)
        ledger = a_ledger(
            state,
            self.settings,
            remembered(state, **self.seen),
            known={str(KEY): self.known},
            actions=settled(state, self.actions, self.settings),
            cordons=self.cordons,
            told=dict(self.told),
        )
        ledger.stopped = frozenset((MODEL,) if self.stopped else ())
        return ledger

    def _look(self) -> Advance:
        self.ledger = ledger = self._books()
        state = ledger.fleet.pools[0]
        found = next((r for r in state.replicas if r.id == "a0"), None) if self.about.subject else None
        subject = Subject(ledger, state, found, self.sick, self.sick or self.about, self.run, self.elsewhere)
        after = advance(self.playbook, subject)
        self.run, self.actions, self.cordons = after.run, ledger.actions, ledger.cordons
        self.asked += [(self.at, remedy) for remedy in ledger.remedies]
        if self.heard:
            self.told |= {page_key(page.subject, page.cause): self.at for page in ledger.pages}
        for remedy in ledger.remedies:
            if not isinstance(remedy, self.deaf):
                self._obey(remedy)
        return after

    def _obey(self, remedy: Remediation) -> None:
        match remedy:
            case CordonReplica():
                self.change(cordoned=True)
            case UncordonReplica():
                self.change(cordoned=False)
            case RestartReplica():
                new = replica(f"new{len(self.asked)}", requested_at=self.at, since_at=self.at)
                kept = [r for r in self.state.replicas if r.id != "a0"]
                self.state = replace(self.state, replicas=(*kept, new))
            case PauseRollout():
                self.state = replace(self.state, paused=True)
            case ResumeRollout():
                self.state = replace(self.state, paused=False)
            case RollBack(revision=revision):
                replicas = tuple(replace(r, revision=revision) for r in self.state.replicas)
                self.state = replace(self.state, revision=revision, replicas=replicas)


_NAMES: Mapping[type, str] = {
    CordonReplica: "cordon",
    UncordonReplica: "uncordon",
    RestartReplica: "restart",
    AvoidNode: "avoid node",
    PauseRollout: "pause",
    ResumeRollout: "resume",
    RollBack: "roll back",
}
