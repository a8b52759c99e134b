"""Is what waits for a human done once, for a valid word about that very plan, and never otherwise?"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from controller.adapters.approval_folder import MOST_FILES, ApprovalFolder
from controller.approval import MOST_BYTES
from controller.approvals import MOST_PENDING
from controller.maintenance import Window
from controller.modes import Mode, ModeSettings, WorkloadModes
from controller.plans import plan_digest
from policies.decisions import AvoidNode, FailOver, Page, ScalingPlan
from policies.fleet import PoolKey
from tests.builders import AT, KEY, MODEL, OTHER, pool, replica
from tests.builders_approvals import (
    ALICE,
    ALL_APPROVE,
    BOB,
    CORDON,
    GROW,
    MALLORY,
    RESTART,
    SHIFT,
    SHRINK,
    UNCORDON,
    Desk,
    decided,
    fleet_of,
    only,
    outcomes,
)

UNTIL = "1970-01-12 14:16:40Z"


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path / "approvals")


@pytest.mark.parametrize("part", [GROW, SHRINK, SHIFT, CORDON, UNCORDON, RESTART], ids=lambda part: type(part).__name__)
def test_a_plan_waits_until_it_is_approved_and_is_then_done_once(desk: Desk, part: Any) -> None:
    waits = only(desk.tick(part))
    plan_id = plan_digest(part, desk.fleet)[:12]
    assert (waits.outcome, waits.detail) == ("held", f"waits for approval {plan_id} (until {UNTIL})")
    assert desk.written == []
    desk.answer(part)
    done = only(desk.tick(part))
    assert (done.outcome, done.detail.startswith("approved by alice, approval ")) == ("done", True)
    assert len(desk.written) == 1
    assert desk.inbox == []
    assert desk.approvals.pending == ()
    assert only(desk.tick(part)).detail.startswith("waits for approval")
    assert len(desk.written) == 1


def test_an_approval_lets_nothing_else_through(desk: Desk) -> None:
    desk.tick(GROW, SHIFT, RESTART)
    desk.answer(RESTART)
    results = desk.tick(GROW, SHIFT, CORDON, RESTART)
    assert outcomes(results) == [("cordon", "held"), ("restart", "done"), ("weights", "held"), ("scale", "held")]
    assert desk.written == [("restart", "a2")]


def other_life(desk: Desk) -> None:
    replicas = [replica("a0"), replica("a1", cordoned=True), replica("a2", restarts=1)]
    desk.fleet = fleet_of(pool(replicas))


def same_name_anew(desk: Desk) -> None:
    replicas = [replica("a0"), replica("a1", cordoned=True), replica("a2", requested_at=AT - 5.0)]
    desk.fleet = fleet_of(pool(replicas))


def other_weights(desk: Desk) -> None:
    desk.fleet = fleet_of(pool(weight=0.9), pool([], key=OTHER, weight=0.1))


@pytest.mark.parametrize(
    ("approved", "then", "change"),
    [
        (GROW, replace(GROW, version=8), None),
        (GROW, replace(GROW, desired=5), None),
        (GROW, replace(GROW, current=2), None),
        (SHRINK, replace(SHRINK, retire_first=("a0",)), None),
        (RESTART, replace(RESTART, cause="F3"), None),
        (RESTART, replace(RESTART, replica="a0"), None),
        (RESTART, RESTART, other_life),
        (RESTART, RESTART, same_name_anew),
        (SHIFT, replace(SHIFT, weights={KEY: 0.3, OTHER: 0.7}), None),
        (SHIFT, SHIFT, other_weights),
    ],
)
def test_what_changed_since_is_another_plan(
    desk: Desk, approved: Any, then: Any, change: Callable[[Desk], None] | None
) -> None:
    desk.tick(approved)
    desk.answer(approved)
    if change is not None:
        change(desk)
    refused, waits = desk.tick(then)
    assert (refused.act, refused.outcome, refused.subject) == ("approval", "failed", "one.json")
    assert refused.detail.startswith("refused: alice signed another plan than those that wait now")
    assert waits.detail.startswith("waits for approval")
    assert desk.written == []


def test_an_approval_whose_plan_is_decided_again_in_time_counts(desk: Desk) -> None:
    desk.answer(RESTART)
    assert [r.act for r in desk.tick(GROW)] == ["approval", "scale"]
    desk.clock.at += 599.0
    assert ("restart", "done") in outcomes(desk.tick(RESTART))


@pytest.mark.parametrize(
    ("key", "said", "why"),
    [
        (ALICE, {"until_at": AT + 15.0}, "late: it expired at 1970-01-12 13:46:55Z"),
        (ALICE, {"until_at": AT + 7200.0}, "it holds for 7200 s; at most 3600 s are allowed"),
        (ALICE, {"until_at": AT}, "it holds for 0 s"),
        (ALICE, {"until_at": AT - 60.0}, "it holds for -60 s"),
        (ALICE, {"memory": "0" * 32}, "it is for another daemon"),
        (MALLORY, {"approver": "mallory"}, "'mallory' is not among approvals.approvers"),
        (MALLORY, {}, "the signature is not that of alice"),
        (BOB, {}, "the signature is not that of alice"),
    ],
)
def test_a_bad_approval_is_refused_with_its_reason_once_and_thrown_away(
    desk: Desk, key: Any, said: dict[str, Any], why: str
) -> None:
    desk.tick(RESTART)
    desk.answer(RESTART, key, **said)
    desk.clock.at += 15.0
    refused, waits = desk.tick(RESTART)
    assert (refused.act, refused.outcome) == ("approval", "failed")
    assert why in refused.detail
    assert waits.outcome == "held"
    assert desk.inbox == []
    assert outcomes(desk.tick(RESTART)) == [("restart", "held")]
    assert desk.written == []


def test_an_approval_from_a_clock_that_is_ahead_is_told_once_and_counts_later(desk: Desk) -> None:
    desk.answer(RESTART, from_at=AT + 20.0, until_at=AT + 100.0)
    refused, _ = desk.tick(RESTART)
    assert "not valid yet, but from 1970-01-12 13:47:00Z on" in refused.detail
    desk.clock.at += 15.0
    assert outcomes(desk.tick(RESTART)) == [("restart", "held")]
    desk.clock.at += 15.0
    assert outcomes(desk.tick(RESTART)) == [("restart", "done")]


def test_an_approval_that_expires_between_look_and_act_does_not_count(desk: Desk) -> None:
    desk.answer(RESTART, until_at=AT + 10.0)
    cordon = desk.cluster.cordon

    def slow(key: PoolKey, name: str) -> None:
        cordon(key, name)
        desk.clock.at += 10.0

    desk.cluster.cordon = slow  # type: ignore[method-assign]  # a slow API server
    desk.answer(CORDON, name="two.json")
    results = desk.tick(CORDON, RESTART)
    assert outcomes(results) == [("cordon", "done"), ("restart", "held")]


@pytest.mark.parametrize("again", ["a copy", "another name", "another layout", "another daemon on the same folder"])
def test_a_replayed_approval_is_refused(desk: Desk, again: str) -> None:
    content = desk.answer(RESTART)
    assert only(desk.tick(RESTART)).outcome == "done"
    if again == "another layout":
        content = content.replace(b"\n", b"").replace(b" ", b"")
    if again == "another daemon on the same folder":
        desk.begin_anew()
    desk.put(content, "two.json" if again == "another name" else "one.json")
    refused, waits = desk.tick(RESTART)
    assert refused.detail == "refused: it is replayed: it was used before"
    assert waits.outcome == "held"
    assert len(desk.written) == 1


def test_two_copies_at_once_let_one_act_through(desk: Desk) -> None:
    content = desk.answer(RESTART)
    desk.put(content, "two.json")
    assert outcomes(desk.tick(RESTART)) == [("restart", "done")]
    desk.tick(RESTART)
    assert len(desk.written) == 1


def test_two_loops_on_one_folder_use_an_approval_once(desk: Desk) -> None:
    other = Desk(desk.folder)
    desk.answer(RESTART)
    desk.approvals.look(tuple(desk.actuator._wishes(decided(RESTART), desk.fleet).values()))
    assert outcomes(other.tick(RESTART)) == [("restart", "done")]
    wish = next(iter(desk.actuator._wishes(decided(RESTART), desk.fleet).values()))
    assert not desk.approvals.ask(wish).allowed


def test_a_kill_between_mark_and_act_loses_the_approval_and_not_the_promise(desk: Desk) -> None:
    class Killed(BaseException):
        pass

    def killed(*_: object) -> None:
        raise Killed

    content = desk.answer(RESTART)
    restart, desk.cluster.restart = desk.cluster.restart, killed  # type: ignore[method-assign,assignment]
    with pytest.raises(Killed):
        desk.tick(RESTART)
    desk.cluster.restart = restart  # type: ignore[method-assign]
    desk.begin_anew()
    desk.put(content)
    refused, waits = desk.tick(RESTART)
    assert (refused.detail, waits.outcome) == ("refused: it is replayed: it was used before", "held")
    assert desk.written == []


def test_what_cannot_be_marked_as_used_is_not_done(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    desk.answer(RESTART)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("controller.adapters.approval_folder.os.fsync", full)
        results = desk.tick(RESTART)
    assert [r.detail for r in results if r.act == "restart"] == [
        "approved, but that cannot be marked as used: No space left on device"
    ]
    assert desk.written == []
    assert ("restart", "done") in outcomes(desk.tick(RESTART))


def test_an_act_that_is_refused_names_the_approval_that_it_used_up(desk: Desk) -> None:
    desk.answer(RESTART)
    desk.cluster.refuses = {"restart"}
    failed = only(desk.tick(RESTART))
    assert failed.outcome == "failed"
    assert failed.detail.startswith("fake cluster: may not restart (approved by alice, approval ")
    assert only(desk.tick(RESTART)).detail.startswith("waits for approval")


@pytest.mark.parametrize("why", ["two\nlines", "\x1b[2J", "\x9b2J", "x" * 201])
def test_words_for_the_record_are_plain_and_short(desk: Desk, why: str) -> None:
    with pytest.raises(ValidationError):
        desk.statement(RESTART, verdict="reject", why=why)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "malformed"),
        (b"\x00\xff", "malformed"),
        (b"{}", "malformed"),
        (b"[" * 4000, "malformed"),
        (b'{"statement": {}, "signature": ""}', "malformed"),
        (b" " * (MOST_BYTES + 1), "more than 4096 bytes"),
    ],
)
def test_what_is_no_approval_is_refused(desk: Desk, content: bytes, why: str) -> None:
    desk.put(content)
    refused, _ = desk.tick(RESTART)
    assert why in refused.detail
    assert desk.inbox == []


@pytest.mark.parametrize("kind", ["link", "writable by others", "folder", "pipe"])
def test_what_others_could_have_put_there_is_refused(desk: Desk, kind: str) -> None:
    content = desk.answer(RESTART)
    file = desk.folder / "inbox" / "one.json"
    if kind == "writable by others":
        file.chmod(0o664)
    else:
        file.unlink()
    if kind == "link":
        elsewhere = desk.folder.parent / "elsewhere.json"
        elsewhere.write_bytes(content)
        file.symlink_to(elsewhere)
    elif kind == "folder":
        file.mkdir()
    elif kind == "pipe":
        os.mkfifo(file)
    refused, waits = desk.tick(RESTART)
    reasons = {"link": "a link", "writable by others": "others than its owner", "folder": "no file", "pipe": "no file"}
    assert reasons[kind] in refused.detail
    assert waits.outcome == "held"
    assert outcomes(desk.tick(RESTART)) == [("restart", "held")]


def test_what_cannot_be_thrown_away_does_not_crowd_out_approvals(desk: Desk) -> None:
    for number in range(MOST_FILES):
        (desk.folder / "inbox" / f"{number}.json").mkdir()
    desk.answer(RESTART)
    assert outcomes(desk.tick(RESTART)).count(("restart", "done")) == 1


def test_unfinished_and_other_files_in_the_inbox_are_left_alone(desk: Desk) -> None:
    names = [".one.json.draft", ".one.json", "notes.txt", "two\nlines.json", "\x1b[2J.json", "\udcff.json"]
    for name in names:
        (desk.folder / "inbox" / name).write_text("x")
    assert outcomes(desk.tick(RESTART)) == [("restart", "held")]
    assert desk.inbox == sorted(names)


def test_a_rejection_holds_what_others_approve_and_is_not_proposed_meanwhile(desk: Desk) -> None:
    desk.tick(RESTART)
    desk.answer(RESTART, BOB, "no.json", approver="bob", verdict="reject", why="the vendor is on it")
    desk.answer(RESTART)
    held = only(desk.tick(RESTART))
    assert held.detail == "rejected by bob (until 1970-01-12 13:56:40Z): the vendor is on it"
    assert desk.approvals.pending == ()
    assert len(desk.notifier.recommended) == 1
    desk.clock.at += 600.0
    desk.answer(RESTART, name="anew.json")
    results = desk.tick(RESTART)
    # The rejection has ended, which is nothing to tell; the first approval was not used in time.
    assert outcomes(results) == [("approval", "failed"), ("restart", "done")]
    assert (results[0].subject, "it is late" in results[0].detail) == ("one.json", True)
    assert desk.inbox == []


def test_what_waits_is_told_once_and_again_when_nobody_answers(desk: Desk) -> None:
    for _ in range(3):
        desk.tick(RESTART, GROW)
        desk.clock.at += 15.0
    assert [subject for subject, _ in desk.notifier.recommended] == [f"{KEY}/a2", str(KEY)]
    plan_id = plan_digest(RESTART, desk.fleet)[:12]
    assert desk.notifier.recommended[0][1] == f"restart a2: F1; waits for approval {plan_id} (until {UNTIL})"
    desk.clock.at = AT + 1800.0
    desk.tick(RESTART, GROW)
    assert len(desk.notifier.recommended) == 4


def test_a_daemon_started_anew_does_not_ask_anew(desk: Desk) -> None:
    before = only(desk.tick(RESTART)).detail
    desk.clock.at += 60.0
    desk.begin_anew()
    assert only(desk.tick(RESTART)).detail == before


def test_only_so_much_is_proposed_and_what_waits_keeps_its_place(desk: Desk) -> None:
    def growing(count: int, first: int = 0) -> list[ScalingPlan]:
        return [ScalingPlan(PoolKey(f"m{i}", "a"), 1, 2, 1) for i in range(first, first + count)]

    desk.tick(RESTART)
    results = desk.tick(*growing(MOST_PENDING), RESTART)
    assert len(desk.approvals.pending) == MOST_PENDING
    assert results[0].detail.startswith("waits for approval ")
    assert results[-1].detail == "waits for approval, and is not proposed: 200 others wait"


def test_what_is_done_is_no_longer_laid_out(desk: Desk) -> None:
    desk.tick(RESTART, GROW)
    desk.answer(RESTART)
    desk.tick(RESTART, GROW)
    assert [p.act for p in ApprovalFolder.open(desk.folder).proposals()] == ["scale"]


# precedence: whatever holds an act today still does


def test_the_kill_switch_staleness_and_an_unwritten_record_come_first(desk: Desk) -> None:
    content = desk.answer(RESTART)
    desk.killed = True
    assert only(desk.tick(RESTART)).detail == "kill switch"
    desk.killed = False
    assert only(desk.tick(RESTART, withheld="not on record: full")).detail == "not on record: full"
    late = decided(RESTART, at=AT - 31.0)
    assert only(list(desk.actuator.carry_out(late, "", desk.fleet))).detail == "the plan is stale"
    assert desk.inbox == ["one.json"], content
    assert only(desk.tick(RESTART)).outcome == "done"


def test_a_kill_switch_thrown_while_the_approval_is_marked_still_stops_the_act(desk: Desk) -> None:
    desk.answer(RESTART)
    use = desk.box.use

    def thrown_meanwhile(*arguments: Any) -> bool:
        desk.killed = True
        return use(*arguments)

    desk.box.use = thrown_meanwhile  # type: ignore[method-assign]
    held = only(desk.tick(RESTART))
    assert held.outcome == "held"
    assert held.detail.startswith("kill switch (approved by alice, approval ")
    assert held.detail.endswith(" is used up)")
    assert desk.written == []


@pytest.mark.parametrize("mode", [Mode.OBSERVE, Mode.RECOMMEND])
def test_an_approval_does_not_lift_a_lower_mode(tmp_path: Path, mode: Mode) -> None:
    desk = Desk(tmp_path / "approvals", ModeSettings(scaling=Mode.APPROVE, healing=mode))
    desk.answer(RESTART)
    results = desk.tick(RESTART)
    assert [r.detail for r in results if r.act == "restart"] == [f"mode {mode}"]
    assert desk.written == []


def test_maintenance_holds_what_is_approved_and_proposes_nothing(tmp_path: Path) -> None:
    window = Window.model_validate(
        {"from": "1970-01-12T13:00:00Z", "until": "1970-01-12T13:50:00Z", "why": "new drivers"}
    )
    desk = Desk(tmp_path / "approvals", ALL_APPROVE.model_copy(update={"maintenance": (window,)}))
    desk.answer(RESTART)
    results = desk.tick(RESTART, GROW)
    held = {r.act: r.detail for r in results}
    assert held["restart"] == "maintenance: new drivers until 1970-01-12 13:50:00Z"
    assert held["scale"].startswith("waits for approval")
    assert [p.act for p in desk.approvals.pending] == ["scale"]
    assert [subject for subject, _ in desk.notifier.recommended] == [str(KEY)]
    desk.clock.at += 200.0  # 13:50
    assert ("restart", "done") in outcomes(desk.tick(RESTART))


def test_maintenance_holds_what_is_automatic_and_lets_it_grow(tmp_path: Path) -> None:
    window = Window.model_validate({"from": "1970-01-12T13:00:00Z", "until": "1970-01-12T14:00:00Z", "why": "x"})
    modes = ModeSettings.all_auto().model_copy(update={"maintenance": (window,)})
    desk = Desk(tmp_path / "approvals", modes)
    results = desk.tick(CORDON, Page(MODEL, "breaker", "look"), SHIFT, GROW)
    assert outcomes(results) == [("cordon", "held"), ("page", "done"), ("weights", "held"), ("scale", "done")]
    assert outcomes(desk.tick(SHRINK)) == [("scale", "held")]


def test_a_workload_has_modes_of_its_own(tmp_path: Path) -> None:
    modes = ModeSettings(healing=Mode.AUTO, workloads={MODEL: WorkloadModes(healing=Mode.APPROVE, scaling=Mode.AUTO)})
    desk = Desk(tmp_path / "approvals", modes)
    results = desk.tick(RESTART, Page(MODEL, "breaker", "look"), SHIFT, GROW)
    assert outcomes(results) == [("restart", "held"), ("page", "done"), ("weights", "held"), ("scale", "done")]
    assert [r.detail for r in results if r.act == "weights"] == ["mode observe"]


@pytest.mark.parametrize("mode", [Mode.OBSERVE, Mode.RECOMMEND, Mode.APPROVE, Mode.AUTO])
def test_a_node_is_left_alone_as_the_most_careful_workload_wants(tmp_path: Path, mode: Mode) -> None:
    modes = ModeSettings(healing=Mode.AUTO, workloads={MODEL: WorkloadModes(healing=mode), "other": WorkloadModes()})
    held = outcomes(Desk(tmp_path / "approvals", modes).tick(AvoidNode("n0", "F1"))) == [("avoid", "held")]
    assert held is (mode is not Mode.AUTO)


def test_maintenance_of_one_workload_holds_what_is_done_to_nodes(tmp_path: Path) -> None:
    said = {"from": "1970-01-12T13:00:00Z", "until": "1970-01-12T14:00:00Z", "why": "x", "workloads": [MODEL]}
    modes = ModeSettings.all_auto().model_copy(update={"maintenance": (Window.model_validate(said),)})
    desk = Desk(tmp_path / "approvals", modes)
    assert outcomes(desk.tick(AvoidNode("n0", "F1"))) == [("avoid", "held")]
    desk.clock.at += 3600.0
    assert outcomes(desk.tick(AvoidNode("n0", "F1"))) == [("avoid", "done")]


def test_pages_go_out_and_failovers_are_asked_for_as_weights(desk: Desk) -> None:
    results = desk.tick(Page(MODEL, "breaker", "look"), FailOver(MODEL, KEY, OTHER, "F4"), SHIFT)
    assert outcomes(results) == [("page", "done"), ("weights", "held")]
    assert desk.notifier.pages == [Page(MODEL, "breaker", "look")]


def test_without_anybody_to_ask_nothing_at_approve_is_done(desk: Desk) -> None:
    desk.actuator._approvals = None
    desk.answer(RESTART)
    assert outcomes(desk.tick(RESTART)) == [("restart", "held")]


def test_a_folder_that_cannot_be_read_or_written_holds_and_says_so_once(desk: Desk) -> None:
    (desk.folder / "inbox").rmdir()
    (desk.folder / "proposals.json").mkdir()
    told = [r.detail for r in desk.tick(RESTART) if r.act == "approval"]
    assert len(told) == 2
    assert "cannot be read" in told[0]
    assert "cannot be laid out" in told[1]
    assert outcomes(desk.tick(RESTART)) == [("restart", "held")]
    (desk.folder / "proposals.json").rmdir()
    desk.tick(RESTART)
    assert [p.subject for p in ApprovalFolder.open(desk.folder).proposals()] == [f"{KEY}/a2"]
