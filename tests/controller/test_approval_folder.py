"""Is a used approval remembered whatever happens to the disk, and a lost memory never taken for an empty one?"""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest

from controller.adapters import approval_folder
from controller.adapters.approval_folder import ApprovalFolder, drop, read_proposals
from controller.approval import Statement
from controller.approvals import Proposal
from controller.errors import BadInput
from controller.plans import digest_of
from tests.builders import AT


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "approvals"


def word(box: ApprovalFolder, until_at: float = AT + 60.0, plan: int = 0) -> Statement:
    return Statement(
        verdict="approve", plan=f"{plan:064x}", memory=box.memory, approver="alice", from_at=AT, until_at=until_at
    )


def proposal(**changes: Any) -> Proposal:
    facts = {"pool": "m/a/unified", "replica": "a2"}
    said = {
        "digest": digest_of("restart", facts),
        "action_class": "healing",
        "act": "restart",
        "subject": "m/a/unified/a2",
        "facts": facts,
        "why": "it stands still",
        "since_at": AT,
        "until_at": AT + 60.0,
    }
    return Proposal(**{**said, **changes})


def test_a_used_approval_stays_used_after_a_restart(folder: Path) -> None:
    box = ApprovalFolder.open(folder)
    said = word(box)
    assert (box.used(said), box.use(said, AT), box.used(said), box.use(said, AT)) == (False, True, True, False)
    again = ApprovalFolder.open(folder)
    assert again.memory == box.memory
    assert (again.used(said), again.use(said, AT)) == (True, False)
    assert (folder / "memory.json").stat().st_mode & 0o777 == 0o600


def test_what_is_forgotten_counts_as_used_also_when_the_clock_goes_back(folder: Path) -> None:
    box = ApprovalFolder.open(folder)
    first, second = word(box, AT + 10.0, 1), word(box, AT + 100.0, 2)
    assert box.use(first, AT)
    assert box.use(second, AT + 20.0)
    assert list(json.loads((folder / "memory.json").read_text())["used"]) == [second.id]
    again = ApprovalFolder.open(folder)
    assert again.used(first)
    assert not again.use(first, AT)
    assert again.use(word(again, AT + 100.0, 3), AT)


def test_memory_is_bounded_and_what_does_not_fit_counts_as_used(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(approval_folder, "MOST_USED", 3)
    box = ApprovalFolder.open(folder)
    words = [word(box, AT + 60.0 + number, number) for number in range(6)]
    assert all(box.use(said, AT) for said in words)
    assert len(json.loads((folder / "memory.json").read_text())["used"]) == 3
    assert all(box.used(said) for said in words)
    assert not box.use(word(box, AT + 61.0, 99), AT)


@pytest.mark.parametrize(
    "damage", ["removed", "emptied", "cut short", "another version", "no id", "others may write it", "a folder of text"]
)
def test_a_lost_memory_begins_anew_under_another_id(folder: Path, damage: str) -> None:
    box = ApprovalFolder.open(folder)
    box.use(word(box), AT)
    file = folder / "memory.json"
    text = file.read_text()
    match damage:
        case "removed":
            file.unlink()
        case "emptied":
            file.write_text("")
        case "cut short":
            file.write_text(text[: len(text) // 2])
        case "another version":
            file.write_text(text.replace('"version": 1', '"version": 2'))
        case "no id":
            file.write_text(text.replace(box.memory, "zz"))
        case "others may write it":
            file.chmod(0o622)
        case "a folder of text":
            file.write_text("[" * 100_000)
    fresh = word(box, plan=7)
    assert not box.use(fresh, AT)  # noticed while running
    assert ApprovalFolder.open(folder).memory == box.memory != fresh.memory


def test_a_memory_that_is_a_link_is_not_followed(folder: Path, tmp_path: Path) -> None:
    box = ApprovalFolder.open(folder)
    elsewhere = tmp_path / "memory.json"
    (folder / "memory.json").rename(elsewhere)
    (folder / "memory.json").symlink_to(elsewhere)
    with pytest.raises(OSError, match="symbolic links"):
        box.use(word(box), AT)
    with pytest.raises(BadInput, match="cannot be used"):
        ApprovalFolder.open(folder)


def test_of_many_at_once_one_uses_an_approval(folder: Path) -> None:
    boxes = [ApprovalFolder.open(folder) for _ in range(8)]
    said = word(boxes[0])
    gate, won = threading.Barrier(len(boxes)), []

    def use(box: ApprovalFolder) -> None:
        gate.wait()
        won.append(box.use(said, AT))

    threads = [threading.Thread(target=use, args=(box,)) for box in boxes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(won) == [False] * 7 + [True]


@pytest.mark.parametrize("mode", [0o775, 0o757, 0o1777])
def test_a_folder_that_others_may_write_is_refused(folder: Path, mode: int) -> None:
    folder.mkdir()
    folder.chmod(mode)
    with pytest.raises(BadInput, match="others may write the folder of approvals"):
        ApprovalFolder.open(folder)


def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInput, match="cannot be used"):
        ApprovalFolder.open(tmp_path / "file" / "approvals")


def test_the_inbox_may_be_opened_to_approvers(folder: Path) -> None:
    ApprovalFolder.open(folder)
    (folder / "inbox").chmod(0o1770)
    drop(folder, "one.json", b"{}")
    box = ApprovalFolder.open(folder)
    assert (folder / "inbox").stat().st_mode & 0o7777 == 0o1770
    assert [(d.name, d.content) for d in box.dropped()] == [("one.json", b"{}")]
    box.discard("one.json")
    assert box.dropped() == ()


def test_nothing_outside_the_inbox_is_discarded(folder: Path) -> None:
    box = ApprovalFolder.open(folder)
    box.discard("../memory.json")
    assert (folder / "memory.json").exists()


def test_proposals_read_back_as_they_were_laid_out(folder: Path) -> None:
    box = ApprovalFolder.open(folder)
    box.lay_out((proposal(),))
    assert box.proposals() == read_proposals(folder).proposals == (proposal(),)
    (folder / "memory.json").unlink()
    assert ApprovalFolder.open(folder).proposals() == ()  # they were for approvals that would not count any more


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace('"replica": "a2"', '"replica": "a1"'),
        lambda text: text.replace('"restart"', '"cordon"'),
        lambda text: text.replace('"version": 1', '"version": 9'),
        lambda text: text.replace('"since_at": 1000000.0', '"since_at": NaN'),
        lambda text: text.replace('"why"', '"because"'),
        lambda text: text[:-20],
        lambda _: "[]",
        lambda _: "",
    ],
)
def test_proposals_that_were_changed_are_not_shown_to_who_would_sign_them(folder: Path, change: Any) -> None:
    ApprovalFolder.open(folder).lay_out((proposal(),))
    file = folder / "proposals.json"
    file.write_text(change(file.read_text()))
    with pytest.raises(BadInput, match="no proposals as the daemon writes them"):
        read_proposals(folder)
    assert ApprovalFolder.open(folder).proposals() == ()


def test_no_proposals_at_all_is_said(folder: Path) -> None:
    with pytest.raises(BadInput, match="no daemon has laid out proposals here"):
        read_proposals(folder)
    with pytest.raises(BadInput, match="the approval cannot be written"):
        drop(folder, "one.json", b"{}")
