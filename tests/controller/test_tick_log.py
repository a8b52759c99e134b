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


def test_a_pool_that_is_left_alone_is_named_although_no_rule_changed_anything() -> None:
    record = quiet_tick(60.0)
    assert record.decision is not None
    owned = Reason("other owner", str(POOL), 3, 3, "HorizontalPodAutoscaler prod/m owns the replica count: left alone")
    line = line_of(replace(record, decision=replace(record.decision, reasons=(owned,))))
    assert line is not None
    assert (line.level, line.event, line.fields["left_alone"]) == ("info", "looked", [str(owned)])
    assert "why" not in line.fields
    both = replace(record.decision, reasons=(*record.decision.reasons, owned))
    line = line_of(replace(record, decision=both))
    assert line is not None
    assert line.fields["left_alone"] == [str(owned)]
    assert "predictive target" in line.fields["why"][0]


def test_one_trouble_whose_age_grows_is_of_one_kind() -> None:
    first, second, other = (
        line_of(replace(blind_tick(60.0), error=f"list {what} in prod: nothing was heard of them for {age_s} s"))
        for what, age_s in (("pods", 90), ("pods", 105), ("nodes", 90))
    )
    assert first is not None
    assert second is not None
    assert other is not None
    assert first.kind == second.kind != other.kind
