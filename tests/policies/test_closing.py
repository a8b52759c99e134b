"""Is a playbook over at some time also when what it does at its end cannot be done, and who is called then?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from policies.decisions import Page, RestartReplica, UncordonReplica
from policies.healing_memory import CordonMemory
from policies.playbook import Playbook
from policies.treatment import UNDO_S
from tests.builders import AT, KEY
from tests.builders_treatment import DEADLINE_S, LEAD_S, LEAD_TIMES, TICK_S, Fate, Ward, drawn_truths

A0 = KEY.replica("a0")
ALLOWED_S = DEADLINE_S + LEAD_TIMES * LEAD_S
RESTART = {"do": "restart", "deadline": "2 lead times"}
GIVE_BACK = {"do": "uncordon", "deadline": 60}


def a_ward(fates: Sequence[Fate], *true: str, **written: Any) -> Ward:
    """A replica that we took out of traffic, under a playbook that restarts it as a next rung."""
    book = {"title": "x", "scope": "replica", "deadline": f"{DEADLINE_S:g} s + {LEAD_TIMES} lead times", **written}
    ward = Ward(Playbook.model_validate({"steps": [RESTART], **book}), [frozenset(true)], fates, [True])
    ward.platform.change("a0", cordoned=True)
    ward.memory = replace(ward.memory, cordons={A0: CordonMemory(AT - 60.0, "F1", "a0#0")})
    return ward


def states(ward: Ward, seconds: float) -> list[tuple[float, str]]:
    """When its run was first seen in which state, in seconds since it began."""
    found: dict[str, float] = {}
    with drawn_truths(ward):
        while ward.platform.at - AT <= seconds:
            for run in ward.tick().runs.values():
                found.setdefault(run.state, ward.platform.at - TICK_S - AT)
    return sorted((at, state) for state, at in found.items())


@pytest.mark.parametrize(
    ("fates", "step"),
    [(["done"], {"do": "uncordon", "when": "empty", "deadline": 60}), (["held"], GIVE_BACK)],
    ids=["its precondition never holds", "it is never permitted"],
)
def test_an_act_at_the_end_waits_for_as_long_as_the_playbook_may_take(fates: Sequence[Fate], step: Any) -> None:
    ward = a_ward(fates, "ready", until="ready", after=[step])
    assert states(ward, 2 * ALLOWED_S) == [(0.0, "closing"), (ALLOWED_S + TICK_S, "failed")]


def test_what_is_undone_waits_for_permission_for_as_long_as_the_playbook_may_take() -> None:
    steps = [{"do": "cordon", "deadline": 60, "undo": "uncordon"}, {"end": "failed"}]
    assert UNDO_S < ALLOWED_S
    assert states(a_ward(["held"], steps=steps), 2 * ALLOWED_S) == [(0.0, "undoing"), (ALLOWED_S + TICK_S, "failed")]


def test_what_fails_only_at_its_end_calls_a_human_and_takes_no_next_rung() -> None:
    ward = a_ward(["lost"], "ready", until="ready", after=[GIVE_BACK], escalates_to="replace-elsewhere")
    asked = []
    with drawn_truths(ward):
        for _ in range(10):
            asked += ward.tick().remediations
    assert {type(each) for each in asked} == {UncordonReplica, Page}
    assert not any(isinstance(each, RestartReplica) for each in asked)
    assert [run.state for run in ward.memory.runs.values()] == ["failed"]


def test_what_failed_at_its_end_is_tried_again_later_without_a_diagnosis() -> None:
    ward = a_ward(["lost"] * 9 + ["done"] * 99, "ready", until="ready", after=[GIVE_BACK])
    ward.sick = [False]
    ward.again_after_s = 300.0
    with drawn_truths(ward):
        for _ in range(40):
            ward.tick()
    assert not ward.platform.state.replicas[0].cordoned
    assert ward.memory.runs == {}
