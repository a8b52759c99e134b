"""Does a running daemon ask, wait, act on a word and record whose it was, across reloads, restarts and kills?

On a small fluid world and virtual time, with a real audit log and a real folder.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from controller.adapters.approval_folder import drop, read_proposals
from controller.approval import Statement, signed
from controller.approver_keys import public_key_text
from controller.modes import Mode
from controller.ports import ActResult, TickRecord
from tests.builders import KEY, MODEL
from tests.builders_approvals import ALICE, only
from tests.controller.test_live_loop import Rig

APPROVE = "{scaling: auto, traffic: auto, healing: approve}"


class Asking(Rig):
    """The rig, with healing at ``approve`` and one replica that hangs."""

    def write(self, text: str = "", modes: str = APPROVE) -> None:
        key = public_key_text(ALICE.public)
        approvals = f"approvals: {{folder: '{self.folder}/approvals', approvers: {{alice: '{key}'}}}}\n"
        super().write(f"{approvals}{text}", modes)

    def hang(self) -> None:
        self.run(8)
        self.world.engines["a2"].hung = True
        while not self.live.waiting:
            self.run()
            assert self.generation() < 60, "nobody was ever asked"

    def approve(self, name: str = "one.json", **said: Any) -> bytes:
        laid_out = read_proposals(self.folder / "approvals")
        at = self.world.clock.at
        given = {
            "verdict": "approve",
            "plan": laid_out.proposals[0].digest if laid_out.proposals else "0" * 64,
            "memory": laid_out.memory,
            "approver": "alice",
            "from_at": at,
            "until_at": at + 600.0,
        }
        content = signed(Statement(**{**given, **said}), ALICE)
        drop(self.folder / "approvals", name, content)
        return content

    def newest(self) -> TickRecord:
        assert self.ticks.newest is not None
        return self.ticks.newest

    def results(self, act: str) -> list[ActResult]:
        return [result for result in self.newest().results if result.act == act]

    def acts(self) -> list[tuple[str, str]]:
        return [(verb, subject) for _, verb, subject in self.world.acts if verb in ("cordon", "restart")]

    def explained(self) -> list[dict[str, Any]]:
        """Everything that was ever done or refused, from the record."""
        return [result for entry in self.audit.entries() for result in entry.record.get("results") or ()]


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Asking]:
    made = Asking(tmp_path)
    yield made
    made.audit.close()


def test_a_hang_is_healed_step_by_step_with_a_word_for_each(rig: Asking) -> None:
    rig.hang()
    waiting = only(rig.results("cordon"))
    assert waiting.detail.startswith(f"waits for approval {rig.live.waiting[0].id} (until ")
    assert rig.live.waiting[0].why.startswith("engine hangs, process alive: no engine step for ")
    rig.run(4)
    assert rig.acts() == []
    assert only(rig.results("cordon")).detail == waiting.detail  # asked once, and the same act all along
    rig.approve()
    rig.run()
    assert rig.acts() == [("cordon", "a2")]
    done = only(rig.results("cordon"))
    assert (done.outcome, done.detail.startswith("approved by alice, approval ")) == ("done", True)
    while not rig.live.waiting:  # at once where it has hung for long enough meanwhile
        rig.run()
        assert rig.generation() < 120, "a restart was never proposed"
    assert [p.act for p in rig.live.waiting] == ["restart"]
    rig.approve("two.json")
    rig.run()
    assert rig.acts() == [("cordon", "a2"), ("restart", "a2")]
    recorded = [r for r in rig.explained() if r["act"] in ("cordon", "restart") and r["outcome"] == "done"]
    assert all("approved by alice" in r["detail"] for r in recorded)
    assert len(recorded) == 2


def test_what_is_asked_and_used_survives_a_reload_and_a_restart(rig: Asking) -> None:
    rig.hang()
    before = rig.live.waiting
    rig.live.replace(rig.settings)
    rig.run()
    assert [(p.id, p.since_at) for p in rig.live.waiting] == [(p.id, p.since_at) for p in before]
    content = rig.approve()
    rig.live, rig.ticks = (again := rig.a_loop()), again.ticker
    rig.run()
    assert rig.acts() == [("cordon", "a2")]
    rig.live, rig.ticks = (again := rig.a_loop()), again.ticker
    drop(rig.folder / "approvals", "again.json", content)
    rig.run()
    assert only(rig.results("approval")).detail == "refused: it is replayed: it was used before"


def test_a_kill_between_act_and_record_does_not_make_the_word_good_twice(rig: Asking) -> None:
    class Killed(BaseException):
        pass

    rig.hang()
    content = rig.approve()
    cordon = rig.world.cordon

    def then_killed(*arguments: Any) -> None:
        cordon(*arguments)
        raise Killed

    def not_recorded(*_: object) -> None:
        raise Killed

    settle = rig.audit.settle
    rig.world.cordon = then_killed  # type: ignore[method-assign]
    rig.audit.settle = not_recorded  # type: ignore[method-assign]
    with pytest.raises(Killed):
        rig.ticks.tick()
    rig.world.cordon, rig.audit.settle = cordon, settle  # type: ignore[method-assign]
    rig.live, rig.ticks = (again := rig.a_loop()), again.ticker
    drop(rig.folder / "approvals", "again.json", content)
    rig.run()
    assert rig.acts() == [("cordon", "a2")]
    assert only(rig.results("approval")).detail == "refused: it is replayed: it was used before"
    found = [r for r in rig.explained() if (r["act"], r["detail"]) == ("cordon", "the platform shows it")]
    assert len(found) == 1


def test_a_refusal_is_on_record_also_when_nothing_is_to_be_done(rig: Asking) -> None:
    rig.run(4)
    rig.approve(until_at=rig.world.clock.at + 7200.0)
    rig.run()
    entry = rig.audit.read("last")
    assert entry is not None
    assert entry.kind == "failed"
    (refused,) = entry.record["results"]
    assert (refused["act"], refused["subject"]) == ("approval", "one.json")
    assert "it holds for 7200 s; at most 3600 s are allowed" in refused["detail"]
    rig.run(2)
    assert len([r for r in rig.explained() if r["act"] == "approval"]) == 1
    again = rig.a_loop()
    assert again.ticker.tick() is not None  # and a daemon goes on from there


def test_settings_whose_approvers_cannot_be_used_are_refused_as_a_whole(rig: Asking) -> None:
    chores, cadence = rig.chores()
    rig.run()
    rig.file.write_text(rig.file.read_text().replace(f"'{public_key_text(ALICE.public)}'", "/nowhere/alice.pub"))
    cadence.do("reload")
    rig.run()
    assert "the public key of alice cannot be read" in chores.refused
    assert rig.live.settings.modes.healing is Mode.APPROVE
    assert rig.closed == 0


def test_a_mode_that_no_longer_asks_lets_go_of_what_waits(rig: Asking) -> None:
    rig.hang()
    rig.write(modes="{healing: observe}")
    rig.live.replace(rig.settings)
    rig.run()
    assert rig.live.waiting == ()
    assert only(rig.results("cordon")).detail == "mode observe"


def test_a_window_that_begins_by_a_reload_holds_and_pages_still_go_out(rig: Asking) -> None:
    rig.hang()
    window = "maintenance: [{from: 1970-01-01T00:00:00Z, until: 1980-01-01T00:00:00Z, why: a move}]"
    rig.write(modes=f"{{scaling: auto, traffic: auto, healing: auto, {window}}}")
    rig.live.replace(rig.settings)
    rig.run()
    assert only(rig.results("cordon")).detail == "maintenance: a move until 1980-01-01 00:00:00Z"
    for engine in rig.world.engines.values():
        engine.hung = True
    rig.run(12)
    assert rig.acts() == []
    assert rig.notifier.pages


def test_one_workload_may_ask_while_the_others_act(rig: Asking) -> None:
    rig.write(modes=f"{{healing: auto, workloads: {{{MODEL}: {{healing: approve}}}}}}")
    rig.live, rig.ticks = (again := rig.a_loop()), again.ticker
    rig.hang()
    assert rig.acts() == []
    assert [p.subject for p in rig.live.waiting] == [f"{KEY}/a2"]


def test_everything_laid_out_is_json_that_a_human_can_read(rig: Asking) -> None:
    rig.hang()
    told = json.loads((rig.folder / "approvals" / "proposals.json").read_text())
    (waiting,) = told["proposals"]
    assert waiting["facts"]["replica"] == "a2"
    assert waiting["facts"]["life"] == "a2#0"
