"""No act of a class at ``approve`` without a valid, unused word for that very plan, whatever happens in which order.

A model keeps the books beside the real thing: which words would be good for which plan, as of now. Everything that
reaches the world has to find one there, and takes it away.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from controller.approval import Refused, Statement, signed, statement_in
from controller.approver_keys import PrivateKey
from controller.modes import Mode, ModeSettings
from controller.plans import plan_digest, target_of
from policies.decisions import ScalingPlan, TrafficPlan
from tests.builders import KEY, MODEL, OTHER, pool, replica
from tests.builders_approvals import (
    ALICE,
    ALL_APPROVE,
    APPROVERS,
    BOB,
    GROW,
    MALLORY,
    RESTART,
    SHIFT,
    Desk,
    decided,
    fleet_of,
)

PLANS: tuple[Any, ...] = (GROW, replace(GROW, version=8), RESTART, SHIFT)
KEYS = {"alice": ALICE, "bob": BOB, "mallory": MALLORY}


@dataclass
class Killed(BaseException):
    """The process ended here."""


@dataclass
class Recorder:
    """A world in which every write works, unless the process is killed before or after it."""

    written: list[Any] = field(default_factory=list)
    kill: str = ""

    def _note(self, what: Any) -> None:
        if self.kill == "before":
            raise Killed
        self.written.append(what)
        if self.kill == "after":
            raise Killed

    def cordon(self, _: Any, name: str) -> None:
        self._note(("cordon", name))

    def uncordon(self, _: Any, name: str) -> None:
        self._note(("uncordon", name))

    def restart(self, _: Any, name: str) -> None:
        self._note(("restart", name))

    def scale(self, _: Any, replicas: int, version: int, retire_first: tuple[str, ...] = ()) -> None:
        self._note(("scale", replicas, version, retire_first))

    def set_weights(self, _: str, weights: Any) -> None:
        self._note(("weights", tuple(weights.values())))


def write_of(part: Any) -> Any:
    match part:
        case ScalingPlan():
            return ("scale", part.desired, part.version, part.retire_first)
        case TrafficPlan():
            return ("weights", tuple(part.weights.values()))
    return (target_of(part).act, part.replica)


class Watched(Desk):
    """A desk on a recording world, and the books: each good word with the write that it is good for."""

    def __init__(self, folder: Path) -> None:
        self.world = Recorder()
        self.words: dict[str, tuple[Any, Statement]] = {}
        self.kept: list[bytes] = []
        self.lives = 0
        super().__init__(folder)

    def begin_anew(self) -> None:
        self.cluster = self.router = self.world  # type: ignore[assignment]  # a world that only writes
        super().begin_anew()
        self.world.kill = ""

    def say(self, plan: int, key: str, names: str, after_s: float, for_s: float, verdict: str) -> None:
        part = PLANS[plan]
        from_at = self.clock.at + after_s
        statement = self.statement(part, approver=names, from_at=from_at, until_at=from_at + for_s, verdict=verdict)
        content = signed(statement, KEYS[key])
        self.kept.append(content)
        self.put(content, f"{len(self.kept)}.json")
        if key == names and key != "mallory" and verdict == "approve" and 0 < for_s <= 3600.0:
            self.words[statement.id] = (self.bound_to(part), statement)

    def bound_to(self, part: Any) -> Any:
        """What a word is good for, told without digests: a write, and the state that it was said about."""
        return write_of(part), 0 if isinstance(part, ScalingPlan) else self.lives

    def decide(self, plans: list[int], kill: str, at_write: int) -> None:
        parts = [PLANS[plan] for plan in plans]
        before = len(self.world.written)
        results = self.actuator.carry_out(decided(*parts, at=self.clock.at), "", self.fleet)
        self.world.kill = "" if at_write else kill
        try:
            for number, _ in enumerate(results, 1):
                self.world.kill = kill if number >= at_write else ""
        except Killed:
            self.begin_anew()
        self.world.kill = ""
        bounds = {self.bound_to(part) for part in parts}
        for write in self.world.written[before:]:
            self.account_for(write, bounds)

    def account_for(self, write: Any, bounds: set[Any]) -> None:
        """Take a good word for ``write`` out of the books; there must be one."""
        good = [
            word_id
            for word_id, (bound, said) in self.words.items()
            if bound in bounds and bound[0] == write and said.from_at <= self.clock.at < said.until_at
        ]
        assert good, f"{write} was done without a word for it"
        used = [word_id for word_id in good if self.box.used(self.words[word_id][1])]
        assert used, f"{write} was done before its approval was marked as used"
        del self.words[used[0]]

    def live_on(self) -> None:
        """Let every replica begin another life, and the weights be others."""
        self.lives += 1
        states = [replica(name, restarts=self.lives) for name in ("a0", "a1", "a2")]
        share = 1.0 / (1 + self.lives)
        self.fleet = fleet_of(pool(states, weight=share), pool([], key=OTHER, weight=1.0 - share))


plans = st.integers(0, len(PLANS) - 1)
decisions = st.lists(plans, min_size=1, max_size=3, unique_by=lambda plan: target_of(PLANS[plan]).subject)
said = st.tuples(st.just("say"), plans, *map(st.just, ("alice", "alice", 0.0, 60.0, "approve")))
said_oddly = st.tuples(
    st.just("say"),
    plans,
    st.sampled_from(["alice", "bob", "mallory"]),
    st.sampled_from(["alice", "bob", "mallory"]),
    st.sampled_from([0.0, 20.0, -30.0]),
    st.sampled_from([10.0, 60.0, 600.0, 0.0, -5.0, 7200.0]),
    st.sampled_from(["approve", "approve", "reject"]),
)
decide = st.tuples(st.just("decide"), decisions, st.just(""), st.just(0))
killed = st.tuples(st.just("decide"), decisions, st.sampled_from(["before", "after"]), st.integers(0, 3))
others = st.one_of(
    said_oddly,
    killed,
    st.tuples(st.just("wait"), st.sampled_from([1.0, 15.0, 120.0, -40.0])),
    st.just(("restart",)),
    st.just(("lose memory",)),
    st.just(("live on",)),
)
replay = st.tuples(st.just("replay"), st.integers(1, 3))
events = st.one_of(said, decide, decide, replay, others)


def happen(desk: Watched, event: tuple[Any, ...]) -> None:
    match event:
        case ("say", *said):
            desk.say(*said)
        case ("decide", chosen, kill, at_write):
            desk.decide(chosen, kill, at_write)
        case ("wait", seconds):
            desk.clock.at += seconds
        case ("replay", number) if desk.kept:
            desk.put(desk.kept[-number % len(desk.kept)], "again.json")
        case ("restart",):
            desk.begin_anew()
        case ("lose memory",):
            (desk.folder / "memory.json").unlink()
            desk.begin_anew()
            desk.words.clear()
        case ("live on",):
            desk.live_on()


@settings(max_examples=50, deadline=None)
@given(st.lists(events, min_size=10, max_size=40))
def test_every_act_takes_up_one_valid_word_for_that_very_plan(history: list[tuple[Any, ...]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        desk = Watched(Path(folder) / "approvals")
        for event in history:
            happen(desk, event)


def test_the_books_find_acts_in_a_plain_history() -> None:
    """So that the property above is not true for want of acts."""
    with tempfile.TemporaryDirectory() as folder:
        desk = Watched(Path(folder) / "approvals")
        for plan in (0, 2, 3):
            desk.say(plan, "alice", "alice", 0.0, 60.0, "approve")
        desk.decide([0, 2, 3], "", 0)
        assert len(desk.world.written) == 3
        assert desk.words == {}


@settings(max_examples=15, deadline=None)
@given(st.lists(events, min_size=10, max_size=40), st.sampled_from([Mode.OBSERVE, Mode.RECOMMEND]))
def test_no_word_lifts_a_lower_mode_or_the_kill_switch(history: list[tuple[Any, ...]], mode: Mode) -> None:
    with tempfile.TemporaryDirectory() as folder:
        desk = Watched(Path(folder) / "approvals")
        desk.modes = ModeSettings(scaling=Mode.APPROVE, traffic=mode, healing=mode)
        desk.begin_anew()
        for event in history:
            happen(desk, event)
        assert {write[0] for write in desk.world.written} <= {"scale"}
        before = len(desk.world.written)
        desk.modes, desk.killed = ALL_APPROVE, True
        desk.begin_anew()
        for event in history:
            happen(desk, event)
        assert len(desk.world.written) == before


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_one_changed_byte_is_never_another_word(data: st.DataObject) -> None:
    """Whatever is changed in a signed file, it says the same or nothing."""
    said = Statement(
        verdict="approve",
        plan=plan_digest(GROW, fleet_of()),
        memory="0" * 32,
        approver="alice",
        from_at=1.0,
        until_at=601.0,
    )
    content = bytearray(signed(said, ALICE))
    place = data.draw(st.integers(0, len(content) - 1))
    content[place] = data.draw(st.integers(0, 255))
    try:
        read = statement_in(bytes(content), APPROVERS)
    except Refused:
        return
    assert read == said
    assert read.id == said.id


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=600))
def test_any_bytes_are_refused_without_a_traceback(content: bytes) -> None:
    try:
        statement_in(content, APPROVERS)
    except Refused:
        return
    raise AssertionError("nobody signed that")


@given(st.sampled_from(sorted(KEYS)), st.sampled_from(sorted(KEYS)))
def test_nobody_signs_for_somebody_else(signer: str, named: str) -> None:
    key: PrivateKey = KEYS[signer]
    said = Statement(verdict="approve", plan="0" * 64, memory="0" * 32, approver=named, from_at=0.0, until_at=600.0)
    try:
        statement_in(signed(said, key), APPROVERS)
    except Refused:
        assert signer != named or named == "mallory"
    else:
        assert signer == named != "mallory"


def test_the_plans_of_these_tests_are_of_every_class() -> None:
    assert {target_of(part).action_class.value for part in PLANS} == {"scaling", "traffic", "healing"}
    assert {target_of(part).model for part in PLANS} == {MODEL}
    assert KEY != OTHER
