"""Does a tick leave one line when it changed or refused something, and none otherwise?"""

from __future__ import annotations

from dataclasses import replace

from controller.ports import ActResult
from controller.tick_log import line_of
from policies.decisions import Reason
from tests.builders_records import POOL, blind_tick, busy_tick, quiet_tick, scaling_tick


def test_a_tick_that_acted_says_what_and_why() -> None:
    line = line_of(scaling_tick(60.0, 4))
    assert line is not None
    assert (line.level, line.event) == ("info", "acted")
    assert line.fields["scale"] == [f"{POOL} 3 -> 5"]
    assert line.fields["done"] == [f"scale {POOL}"]
    assert line.fields["generation"] == 4


def test_what_was_held_or_failed_is_named_with_its_reason() -> None:
    line = line_of(busy_tick(60.0))
    assert line is not None
    assert line.level == "error"
    assert any("mode observe" in text for text in line.fields["held"])
    assert any("no route to the pager" in text for text in line.fields["failed"])


def test_a_quiet_tick_in_which_no_rule_changed_anything_says_nothing() -> None:
    record = quiet_tick(60.0)
    assert record.decision is not None
    held = Reason("no shrink", "m", 3, 3, "one is starting")
    assert line_of(replace(record, decision=replace(record.decision, reasons=(held,)))) is None


def test_a_blind_tick_and_an_unrecorded_one_say_so() -> None:
    blind = line_of(blind_tick(60.0))
    assert blind is not None
    assert (blind.level, blind.fields["error"]) == ("warning", "metrics store: connection refused")
    lost = line_of(replace(quiet_tick(60.0), unrecorded="disk full"))
    assert lost is not None
    assert (lost.level, lost.fields["unrecorded"]) == ("error", "disk full")


def test_lines_that_differ_in_figures_alone_are_of_one_kind() -> None:
    first, second = line_of(scaling_tick(60.0, 4)), line_of(scaling_tick(75.0, 5))
    held = line_of(replace(scaling_tick(60.0), results=(ActResult("scale", str(POOL), "held", "mode observe"),)))
    assert first is not None
    assert second is not None
    assert held is not None
    assert first.kind == second.kind != held.kind
