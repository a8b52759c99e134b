"""Is a held act judged by what came later, and by nothing else?"""

from __future__ import annotations

from dataclasses import replace

import pytest

from controller.incidents.incident import Condition, HeldAct, Span
from controller.incidents.verdict import SUSTAINED_S, verdict

HELD = HeldAct("restart", 100.0, 160.0, "mode observe", "a#0", "serving", remedy_s=200.0)


def span(from_at: float, until_at: float, condition: Condition = "serving", cause: str = "", life: str = "a#0") -> Span:
    return Span(from_at, until_at, life, condition, cause)


ILL = span(40.0, 160.0, cause="F1")


def test_it_was_wrong_if_the_engine_worked_meanwhile_whatever_came_later() -> None:
    worked = replace(HELD, worked_at=115.0)
    for later in (span(175.0, 900.0), span(175.0, 900.0, cause="F1"), span(175.0, 900.0, "failed", life="a#1")):
        found = verdict(worked, (ILL, later), 900.0)
        assert (found.word, found.known_at) == ("wrong", None)
        assert "15 s after" in found.why


def test_it_was_needless_if_it_recovered_by_itself_before_the_act_would_have_helped() -> None:
    found = verdict(HELD, (ILL, span(175.0, 175.0 + SUSTAINED_S)), 900.0)
    assert found.word == "needless"
    assert "75 s after" in found.why


def test_it_was_right_if_it_recovered_by_itself_only_later() -> None:
    assert verdict(HELD, (replace(ILL, until_at=300.0), span(301.0, 900.0)), 900.0).word == "right"
    assert verdict(HELD, (replace(ILL, until_at=299.0), span(300.0, 900.0)), 900.0).word == "needless"


def test_a_recovery_that_does_not_last_is_none() -> None:
    flicker = (ILL, span(175.0, 190.0), span(205.0, 900.0, cause="F1"))
    assert verdict(HELD, flicker, 900.0).word == "right"


@pytest.mark.parametrize(
    ("then", "said"),
    [
        (span(175.0, 900.0, "failed", "F2", "a#1"), "its process exited"),
        (span(175.0, 900.0, "starting", life="a#1"), "its life ended"),
        (span(175.0, 900.0, "missing", life=""), "its life ended"),
        (span(175.0, 900.0, "replaced", life=""), "its life ended"),
        (span(175.0, 900.0, "draining"), "it was drained"),
        (span(175.0, 900.0, "out"), "somebody took it out of traffic"),
        (replace(span(175.0, 900.0, "out"), cordon_is_ours=True), "we took it out of traffic"),
    ],
)
def test_it_was_right_if_it_stayed_ill_until_somebody_meddled(then: Span, said: str) -> None:
    found = verdict(HELD, (ILL, then), 900.0)
    assert found.word == "right"
    assert said in found.why


def test_a_pool_whose_revision_somebody_changed_was_rightly_to_be_rolled_back() -> None:
    held = replace(HELD, verb="roll back", life="revision 2")
    ill, back = replace(ILL, life="revision 2"), span(175.0, 900.0, life="revision 1")
    assert verdict(held, (ill, back), 900.0).why.startswith("it stayed ill until its revision was changed")


def test_what_had_exited_may_recover_in_another_life() -> None:
    held = replace(HELD, condition="failed", life="a#1")
    exited = (span(40.0, 160.0, "failed", "F2", "a#1"), span(175.0, 190.0, "starting", life="a#1"))
    assert verdict(held, (*exited, span(205.0, 900.0, life="a#1")), 900.0).word == "needless"
    assert verdict(held, (*exited, span(205.0, 900.0, "replaced", life="")), 900.0).word == "needless"
    assert verdict(held, (*exited, span(320.0, 900.0, life="a#2")), 900.0).word == "right"


def test_it_is_open_until_the_act_would_have_helped_and_then_right() -> None:
    still_ill = (replace(ILL, until_at=300.0),)
    found = verdict(HELD, still_ill, 300.0)
    assert (found.word, found.known_at) == ("open", 300.0)
    assert verdict(HELD, (replace(ILL, until_at=301.0),), 301.0).word == "right"


def test_it_is_open_while_its_recovery_is_young() -> None:
    found = verdict(HELD, (ILL, span(175.0, 190.0)), 190.0)
    assert (found.word, found.known_at) == ("open", 175.0 + SUSTAINED_S)


def test_what_came_before_the_act_was_wanted_does_not_count() -> None:
    before = (span(0.0, 85.0), span(90.0, 160.0, cause="F1"))
    assert verdict(HELD, before, 160.0).word == "open"
