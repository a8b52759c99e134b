"""Does a real daemon act on a word once, also when it is killed between marking it as used and acting?"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from controller.adapters.approval_folder import drop, read_proposals
from controller.approval import Statement, signed
from controller.approvals import Proposal
from controller.approver_keys import public_key_text
from tests.builders_approvals import ALICE
from tests.live.daemon_world import WorldAddress, world_process
from tests.live.test_daemon import RunningDaemon, audit_of, running, settings_text, wait_for

LIFETIME_S = 3600.0
"""A minute of the wall: the fleet's clock is sixty times as fast."""


@pytest.fixture
def world() -> Iterator[WorldAddress]:
    with world_process([5.0] * 3000) as address:
        yield address


def text_of(folder: Path) -> str:
    key = public_key_text(ALICE.public)
    approvals = f"approvals: {{folder: '{folder}/approvals', approvers: {{alice: '{key}'}}}}"
    text = settings_text(folder, modes="{scaling: approve}", daemon=approvals)
    return text.replace("min_replicas: 1", "min_replicas: 4")  # of the two that there are


def the_proposal(daemon: RunningDaemon, folder: Path) -> Proposal:
    wait_for(lambda: daemon.ask("/status").json()["waiting_for_approval"], "proposal")
    status = daemon.ask("/status").json()
    (told,) = status["waiting_for_approval"]
    assert (status["error_budgets"], status["believed"]) == ({}, [])  # nothing is wrong but its size
    proposal = next(p for p in read_proposals(folder / "approvals").proposals if p.id == told["id"])
    assert told["what"].startswith("scale pool small/l40s/unified, current 2, desired ")
    return proposal


def approve(folder: Path, proposal: Proposal) -> bytes:
    statement = Statement(
        verdict="approve",
        plan=proposal.digest,
        memory=read_proposals(folder / "approvals").memory,
        approver="alice",
        from_at=proposal.since_at,
        until_at=proposal.since_at + LIFETIME_S,
    )
    content = signed(statement, ALICE)
    drop(folder / "approvals", "one.json", content)
    return content


def results(folder: Path, act: str) -> list[dict[str, Any]]:
    log = audit_of(folder)
    found = [r for entry in log.entries() for r in entry.record.get("results") or () if r["act"] == act]
    assert log.verify().intact
    log.close()
    return found


def test_what_waits_is_done_once_it_is_approved_and_on_record_with_the_name(
    tmp_path: Path, world: WorldAddress
) -> None:
    there = world.connect()
    with running(tmp_path, world, text_of(tmp_path)) as daemon:
        proposal = the_proposal(daemon, tmp_path)
        assert there.seen()[0] == []
        approve(tmp_path, proposal)
        wait_for(lambda: there.seen()[0], "write")
        wait_for(lambda: not daemon.ask("/status").json()["waiting_for_approval"], "end of the proposal")
        assert daemon.stop() == 0
    done = [r for r in results(tmp_path, "scale") if r["outcome"] == "done"]
    assert [r["detail"].startswith("approved by alice, approval ") for r in done] == [True]
    assert len(there.seen()[0]) == 1


@pytest.mark.parametrize("where", ["before", "after"])
def test_a_daemon_that_is_killed_in_the_act_does_not_use_the_word_again(
    tmp_path: Path, world: WorldAddress, where: str
) -> None:
    there = world.connect()
    there.hold(where)
    with running(tmp_path, world, text_of(tmp_path)) as daemon:
        content = approve(tmp_path, the_proposal(daemon, tmp_path))
        wait_for(lambda: there.held() == 1, "write under way")
        daemon.process.kill()
        daemon.process.join()
    used = json.loads((tmp_path / "approvals" / "memory.json").read_text())["used"]
    assert len(used) == 1
    with running(tmp_path, world) as daemon:
        wait_for(lambda: daemon.ask("/readyz").status_code == 200, "readiness")
        drop(tmp_path / "approvals", "again.json", content)
        wait_for(lambda: not (tmp_path / "approvals" / "inbox" / "again.json").exists(), "refusal")
        assert daemon.stop() == 0
    there.hold("")
    (refused,) = results(tmp_path, "approval")
    assert (refused["outcome"], "it is replayed" in refused["detail"]) == ("failed", True)
    assert len(there.seen()[0]) <= 1
