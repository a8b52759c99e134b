"""Does the gate stop each write: by the switch that is heeded now, at the end of the process, and where others lead?"""

from __future__ import annotations

from pathlib import Path

import pytest

from controller.write_gate import ENDING, WriteGate, is_thrown


def test_a_kill_switch_that_leads_nowhere_or_cannot_be_seen_lets_nothing_through(tmp_path: Path) -> None:
    switch = tmp_path / "STOP"
    gate = WriteGate(switch)
    assert (is_thrown(switch), gate.why_not(1.0)) == (False, "")
    switch.symlink_to(tmp_path / "nowhere")
    assert (is_thrown(switch), gate.why_not(1.0)) == (True, "kill switch")
    (tmp_path / "file").touch()
    gate.heed(tmp_path / "file" / "STOP")
    assert gate.stopped() == gate.why_not(1.0)
    assert gate.stopped().startswith("the kill switch cannot be read: NotADirectoryError")
    with pytest.raises(OSError, match="Not a directory"):
        is_thrown(tmp_path / "file" / "STOP")


def test_only_the_switch_that_is_heeded_now_counts(tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    gate = WriteGate(old)
    new.touch()
    assert gate.why_not() == ""
    gate.heed(new)
    assert gate.why_not() == "kill switch"
    new.unlink()
    old.touch()
    assert gate.why_not() == ""


def test_whoever_else_leads_is_asked_all_the_same(tmp_path: Path) -> None:
    gate = WriteGate(tmp_path / "STOP", lambda needs_s: f"{needs_s:g} s are too long")
    assert (gate.stopped(), gate.why_not(4.0)) == ("", "4 s are too long")


def test_what_was_shut_stays_shut(tmp_path: Path) -> None:
    gate = WriteGate(tmp_path / "STOP")
    assert not gate.wait_shut(0.0)
    gate.shut()
    gate.heed(tmp_path / "other")
    assert gate.wait_shut(0.0)
    assert gate.stopped() == gate.why_not(1.0) == ENDING
