"""Drawn playbooks, and healing that carries one out tick after tick on a platform that does not always obey."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from typing import Any, Literal, TypeAlias

import pytest
from hypothesis import reject
from hypothesis import strategies as st
from pydantic import ValidationError

import policies.conditions
from controller.plans import target_of
from policies.anomaly import Watch
from policies.conditions import Subject
from policies.decisions import (
    AvoidNode,
    CordonReplica,
    Diagnosis,
    FailOver,
    Page,
    PauseRollout,
    Remediation,
    RestartReplica,
    ResumeRollout,
    RollBack,
    UncordonReplica,
)
from policies.facts import FACTS, Scope
from policies.fleet import NodeState, Phase, PoolState, ReplicaState
from policies.healing import Course, heal
from policies.healing_settings import HealingSettings
from policies.lead_time import LeadTime
from policies.memory import PolicyMemory, PoolMemory, ReplicaMemory, RevisionMemory
from policies.playbook import SCOPE_OF, UNDOES, Playbook
from policies.undone import unlearn
from tests.builders import AT, KEY, fleet, metrics, pool, replica

TICK_S = 30.0
DEADLINE_S = 900.0
LEAD_S = 30.0
LEAD_TIMES = 15

Fate: TypeAlias = Literal["done", "held", "lost"]

_LENGTHS = st.sampled_from([15, 40, "60 s", "1 lead times", "30 s + 0.5 lead times"])


# Made once: each new strategy is looked through before it is drawn from, which takes longer than all that is drawn.
@cache
def _facts(scope: Scope) -> st.SearchStrategy[Any]:
    names = [name for name, fact in FACTS.items() if scope in fact.scopes]
    plain = st.sampled_from([name for name in names if not FACTS[name].unit])
    numbers = st.builds(lambda name: {name: 60}, st.sampled_from([name for name in names if FACTS[name].unit]))
    return st.recursive(
        plain | numbers,
        lambda inner: st.builds(lambda c: {"not": c}, inner)
        | st.builds(lambda cs: {"all": cs}, st.lists(inner, min_size=1, max_size=2))
        | st.builds(lambda cs: {"any": cs}, st.lists(inner, min_size=1, max_size=2)),
        max_leaves=3,
    )  # fmt: skip


@cache
def _acts(scope: Scope) -> st.SearchStrategy[dict[str, Any]]:
    verbs = [verb for verb, of in SCOPE_OF.items() if of == scope]

    def with_undo(verb: str, undone: bool, rest: dict[str, Any]) -> dict[str, Any]:
        return {"do": verb, **rest} | ({"undo": UNDOES[verb][0]} if undone and verb in UNDOES else {})  # type: ignore[index]

    rest = st.fixed_dictionaries(
        {"deadline": _LENGTHS, "attempts": st.integers(1, 2), "back_off_s": st.sampled_from([0, 30])},
        optional={"when": _facts(scope), "until": _facts(scope), "holds_up": st.booleans(), "page": st.just("waits")},
    )
    return st.builds(with_undo, st.sampled_from(verbs), st.booleans(), rest)


@cache
def _steps(scope: Scope) -> st.SearchStrategy[Any]:
    waits = st.fixed_dictionaries(
        {"wait_until": _facts(scope), "deadline": _LENGTHS, "late": st.sampled_from(["fail", "go on"])},
        optional={"holding": st.just(["growth"]), "page": st.just("waits")},
    )
    leaves = (
        _acts(scope) | waits | st.just({"page": "told"}) | st.sampled_from([{"end": "resolved"}, {"end": "failed"}])
    )

    def around(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
        block = st.lists(inner, min_size=1, max_size=2)
        return (
            st.builds(lambda c, a, b: {"if": c, "then": a, "else": b}, _facts(scope), block, st.just([]) | block)
            | st.builds(lambda steps: {"sequence": steps}, block)
            | st.builds(lambda ways: {"parallel": ways}, st.lists(block, min_size=2, max_size=2))
            | st.builds(lambda steps, n: {"repeat": steps, "attempts": n, "back_off_s": 30}, block, st.integers(1, 2))
        )

    return st.recursive(leaves, around, max_leaves=6)


@cache
def _written(scope: Scope) -> st.SearchStrategy[dict[str, Any]]:
    steps = _steps(scope)
    return st.fixed_dictionaries(
        {
            "title": st.just("drawn"),
            "scope": st.just(scope),
            "deadline": st.just(f"{DEADLINE_S:g} s + {LEAD_TIMES} lead times"),
            "steps": st.lists(steps, min_size=1, max_size=3),
            "after": st.lists(steps, max_size=2),
        },
        optional={"until": _facts(scope), "holding": st.just(["shrinking"])},
    )


@st.composite
def playbooks(draw: st.DrawFn, scope: Scope) -> Playbook:
    written = draw(_written(scope))
    try:
        return Playbook.model_validate(written)
    except ValidationError as error:
        if "impossible" not in str(error):
            raise
        reject()  # drawn longer than a playbook may be


_FOUR = [replica(f"a{i}", node=f"n{i % 2}", revision="2") for i in range(4)]


@dataclass
class Platform:
    """A pool whose first replica is treated, on a platform that does what it is asked for, late, or not at all."""

    at: float = AT
    state: PoolState = field(default_factory=lambda: pool(_FOUR, revision="2", revisions=("1", "2")))
    nodes: dict[str, NodeState] = field(default_factory=lambda: {f"n{i}": NodeState(True, AT) for i in range(4)})
    made: int = 0

    def carry_out(self, remedy: Remediation) -> None:
        match remedy:
            case CordonReplica() | UncordonReplica():
                self.change(remedy.replica, cordoned=isinstance(remedy, CordonReplica))
            case RestartReplica():
                self._restart(remedy.replica)
            case PauseRollout() | ResumeRollout():
                self.state = replace(self.state, paused=isinstance(remedy, PauseRollout))
            case RollBack():
                self.state = replace(self.state, revision=remedy.revision, replicas=tuple(
                    replace(r, revision=remedy.revision) for r in self.state.replicas))  # fmt: skip
            case AvoidNode():
                self.nodes[remedy.node] = replace(self.nodes[remedy.node], avoided=True)
            case Page() | FailOver():
                pass

    def change(self, name: str, **changes: Any) -> None:
        self.state = replace(self.state, replicas=tuple(
            replace(r, **changes) if r.id == name else r for r in self.state.replicas))  # fmt: skip

    def _restart(self, name: str) -> None:
        """Every other one comes back under its own name, as in a StatefulSet."""
        self.made += 1
        new = name if self.made % 2 else f"b{self.made}"
        fresh = ReplicaState(new, Phase.LOADING, self.at, self.at, node="n3", revision=self.state.revision)
        self.state = replace(self.state, replicas=tuple(
            fresh if r.id == name else r for r in self.state.replicas))  # fmt: skip

    def pass_tick(self) -> None:
        self.at += TICK_S
        for each in self.state.replicas:
            if each.phase is Phase.LOADING and self.at - each.since_at > LEAD_S:
                self.change(each.id, phase=Phase.READY, since_at=self.at, metrics=metrics(), in_flight_requests=0.0)


def _seen(state: PoolState, at: float) -> Watch:
    known = ReplicaMemory("", 1000.0, 1e5, 2e4, 4.0, at, at)
    memory = {KEY.replica(r.id): replace(known, life=r.life) for r in state.replicas if r.metrics is not None}
    return Watch((), memory, frozenset(memory))


@dataclass
class Ward:
    """Healing, tick after tick, of one trouble."""

    playbook: Playbook
    truths: Sequence[frozenset[str]]
    fates: Sequence[Fate]
    sick: Sequence[bool]
    platform: Platform = field(default_factory=Platform)
    memory: PolicyMemory = field(default_factory=lambda: PolicyMemory(pools={str(KEY): PoolMemory(
        revisions={"1": RevisionMemory(AT - 9e4, 8e4), "2": RevisionMemory(AT - 900.0)})}))  # fmt: skip
    again_after_s: float = 1e6
    ticks: int = 0
    acts: int = 0

    @cached_property
    def settings(self) -> HealingSettings:
        cause = "hang" if self.playbook.scope == "replica" else "unreachable"
        return HealingSettings(
            playbooks={"drawn": self.playbook},
            treatments={cause: "drawn"},
            may_avoid_nodes=True,
            avoided_nodes_ratio=0.5,
            cooldown_s=30.0,
            again_after_s=self.again_after_s,
        )

    def told(self) -> list[Diagnosis]:
        if not self.sick[self.ticks % len(self.sick)] and self.ticks:
            return []
        if self.playbook.scope == "pool":
            return [Diagnosis("F12", "", KEY, AT, ("gateway", "engines"), "cut off", "pool", "unreachable")]
        if "a0" not in self.platform.state.roster.ids:
            return []
        return [Diagnosis("F1", "a0", KEY, AT, ("progress", "gateway"), "hangs", name="hang")]

    def course(self, memory: PolicyMemory) -> Course:
        there = self.platform
        state = fleet(there.state, at=there.at, nodes=dict(there.nodes))
        lead = {str(KEY): LeadTime(LEAD_S, LEAD_S, 5, measured=True)}
        return heal(state, self.told(), _seen(there.state, there.at), memory, lead, {str(KEY): 1}, self.settings)

    def tick(self) -> Course:
        """Heal, and let each act have its fate: done, held by a mode, or lost on its way."""
        course, there = self.course(self.memory), self.platform
        held, not_paged = set(), set()
        for remedy in course.remediations:
            self.acts += 1
            fate = self.fates[self.acts % len(self.fates)]
            if fate == "done":
                there.carry_out(remedy)
            elif isinstance(remedy, Page):
                not_paged.add((remedy.subject, remedy.cause))
            elif fate == "held":
                target = target_of(remedy)
                held.add((target.act, target.subject))
        memory = replace(
            self.memory, actions=course.actions, cordons=course.cordons, runs=course.runs, pages=course.pages,
            pools={**self.memory.pools, **course.pools}, decided_at=there.at,
        )  # fmt: skip
        self.memory = unlearn(memory, held, not_paged)
        self.ticks += 1
        there.pass_tick()
        return course


@contextmanager
def drawn_truths(ward: Ward) -> Iterator[None]:
    """Let facts be so or not as was drawn, whatever they look at; how conditions join them is the real thing."""

    def so(name: str, _: Subject) -> bool:
        return name in ward.truths[ward.ticks % len(ward.truths)]

    with pytest.MonkeyPatch.context() as patch:
        for name, fact in FACTS.items():
            table: Any = policies.conditions._QUANTITIES if fact.unit else policies.conditions._SO
            how = (lambda s, name=name: math.inf if so(name, s) else math.nan) if fact.unit else (
                lambda s, name=name: so(name, s))  # fmt: skip
            patch.setitem(table, name, how)
        yield
