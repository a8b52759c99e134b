"""Does a playbook say what it means, is it bounded in every step, and do the shipped ones hang together?"""

from __future__ import annotations

from itertools import chain
from typing import Any

import pytest
from pydantic import ValidationError

from policies.causes import CAUSES
from policies.disagreement import Disagreement
from policies.facts import Condition
from policies.healing_settings import HealingSettings
from policies.playbook import (
    MOST_DEPTH,
    MOST_STEPS,
    SCOPE_OF,
    UNDOES,
    Branch,
    Do,
    Duration,
    End,
    Page,
    Parallel,
    Playbook,
    Repeat,
    Sequential,
    Wait,
    blocks_of,
    escalation_cycle,
    longest_of,
    walk,
)
from policies.playbook_catalogue import shipped_playbooks
from tests.builders_playbooks import playbook

SHIPPED = shipped_playbooks()
PAGE: dict[str, Any] = {"page": "hello"}
WAIT: dict[str, Any] = {"wait_until": "ready", "deadline": 60}


# durations


@pytest.mark.parametrize(
    ("written", "seconds", "lead_times"),
    [
        (90, 90.0, 0.0),
        (0.5, 0.5, 0.0),
        ("90 s", 90.0, 0.0),
        ("90s", 90.0, 0.0),
        ("1.5 seconds", 1.5, 0.0),
        ("2 lead times", 0.0, 2.0),
        ("1 lead time", 0.0, 1.0),
        ("60 s + 2 lead times", 60.0, 2.0),
        (" 60 s+0.5 lead times ", 60.0, 0.5),
    ],
)
def test_a_duration_is_seconds_lead_times_or_both(written: object, seconds: float, lead_times: float) -> None:
    assert Duration.parse(written) == Duration(seconds, lead_times)


@pytest.mark.parametrize(
    "written",
    ["", "soon", "90", "-1", -1, 0, "0 s", "1 h", "5 m", "2 lead", "1e3", "s", "+", True, None, [], float("nan"),
     float("inf"), "٣ s", "60 s +", "60 s 2 lead times", "60 + 2 lead times", "604801 s", "101 lead times",
     pytest.param(10**400, id="huge"), "9" * 30],
)  # fmt: skip
def test_what_is_no_duration_is_refused(written: object) -> None:
    with pytest.raises(ValueError, match="duration"):
        Duration.parse(written)


def test_a_duration_is_read_back_as_it_is_written() -> None:
    for duration in (Duration(90.0), Duration(0.0, 2.0), Duration(60.0, 1.5)):
        assert Duration.parse(str(duration)) == duration
    assert Duration(60.0, 2.0).over(100.0) == 260.0


# the grammar


def test_each_kind_of_step_is_told_by_its_one_word() -> None:
    steps = playbook(
        {"do": "cordon", "deadline": 60},
        WAIT,
        PAGE,
        {"end": "resolved"},
        {"if": "ready", "then": [PAGE], "else": [PAGE]},
        {"sequence": [PAGE]},
        {"parallel": [[PAGE], [PAGE]]},
        {"repeat": [WAIT], "attempts": 2},
    ).steps
    assert [type(step) for step in steps] == [Do, Wait, Page, End, Branch, Sequential, Parallel, Repeat]


@pytest.mark.parametrize(
    "step",
    [
        {},
        {"name": "x"},
        {"do": "cordon", "deadline": 60, "wait_until": "ready"},
        {"if": "ready", "then": [], "repeat": [PAGE], "attempts": 2},
        {"end": "failed", "do": "cordon", "deadline": 1},
        "cordon",
        None,
        ["cordon"],
    ],
)
def test_a_step_with_no_word_or_two_is_refused(step: object) -> None:
    with pytest.raises(ValidationError, match="exactly one of"):
        playbook(step)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["do", "wait_until"])
def test_no_act_and_no_wait_is_without_a_deadline(kind: str) -> None:
    with pytest.raises(ValidationError, match="deadline"):
        playbook({kind: {"do": "cordon", "wait_until": "ready"}[kind]})


@pytest.mark.parametrize("changes", [{"steps": []}, {"deadline": None}, {"scope": "fleet"}, {"title": ""}, {"more": 1}])
def test_a_playbook_needs_all_of_its_parts_and_no_other(changes: dict[str, object]) -> None:
    written = {**playbook(PAGE).model_dump(), **changes}
    with pytest.raises(ValidationError):
        Playbook.model_validate(written)


def test_a_playbook_written_as_json_is_the_same_playbook() -> None:
    for found in SHIPPED.values():
        assert Playbook.model_validate_json(found.model_dump_json()) == found
    branch = next(s for s in SHIPPED["fail-over"].steps if isinstance(s, Branch))
    assert {"if", "then", "else"} <= set(branch.model_dump())


# what it may not say


def test_every_action_has_a_scope_and_what_undoes_it_is_an_action_of_the_same_one() -> None:
    for action, others in UNDOES.items():
        assert {SCOPE_OF[other] for other in others} == {SCOPE_OF[action]}


@pytest.mark.parametrize("action", sorted(SCOPE_OF))
def test_an_action_is_only_done_to_what_it_can_be_done_to(action: str) -> None:
    other = {"pool": "replica", "replica": "pool"}[SCOPE_OF[action]]  # type: ignore[index]
    assert playbook({"do": action, "deadline": 1}, scope=SCOPE_OF[action]).steps  # type: ignore[index]
    with pytest.raises(ValidationError, match=f"{action} is done to a"):
        playbook({"do": action, "deadline": 1}, scope=other)


@pytest.mark.parametrize(
    ("action", "undo"), [("restart", "uncordon"), ("cordon", "cordon"), ("avoid node", "uncordon")]
)
def test_what_does_not_take_an_act_back_is_no_undo(action: str, undo: str) -> None:
    with pytest.raises(ValidationError, match=f"{undo} does not undo {action}"):
        playbook({"do": action, "deadline": 1, "undo": undo})


def test_a_fact_of_the_other_scope_is_refused_wherever_it_is_asked_for() -> None:
    places: list[dict[str, object]] = [
        {"wait_until": "sound", "deadline": 1},
        {"if": {"all": ["ready", {"not": "sound"}]}, "then": []},
        {"do": "cordon", "when": "sound", "deadline": 1},
        {"do": "cordon", "until": "sound", "deadline": 1},
        {"repeat": [{"parallel": [[PAGE], [{"wait_until": "sound", "deadline": 1}]]}], "attempts": 2},
    ]
    for step in places:
        with pytest.raises(ValidationError, match="sound is nothing that a replica has"):
            playbook(step)
    with pytest.raises(ValidationError, match="sound is nothing that a replica has"):
        playbook(PAGE, until="sound")
    with pytest.raises(ValidationError, match="sound is nothing that a replica has"):
        playbook(PAGE, after=[{"wait_until": "sound", "deadline": 1}])


def test_there_is_an_end_to_steps_and_to_their_depth() -> None:
    assert len(playbook(*[PAGE] * MOST_STEPS).steps) == MOST_STEPS
    with pytest.raises(ValidationError, match="65 steps are too many"):
        playbook(*[PAGE] * MOST_STEPS, after=[PAGE])
    step: dict[str, Any] = PAGE
    for _ in range(MOST_DEPTH - 1):
        step = {"sequence": [step]}
    assert max(placed.depth for placed in walk(playbook(step).steps, ())) == MOST_DEPTH
    with pytest.raises(ValidationError, match="nested 7 deep"):
        playbook({"sequence": [step]})


# how long it may take


@pytest.mark.parametrize(
    ("step", "longest"),
    [
        (PAGE, Duration()),
        ({"end": "failed"}, Duration()),
        (WAIT, Duration(60.0)),
        ({"do": "restart", "deadline": "2 lead times"}, Duration(0.0, 2.0)),
        # 3 x 10 s, and 60 s and 120 s between them
        ({"do": "restart", "deadline": 10, "attempts": 3}, Duration(210.0)),
        ({"repeat": [WAIT, WAIT], "attempts": 2, "back_off_s": 5}, Duration(245.0)),
        ({"sequence": [WAIT, WAIT]}, Duration(120.0)),
        ({"parallel": [[WAIT, WAIT], [{"do": "cordon", "deadline": "1 lead time"}]]}, Duration(120.0, 1.0)),
        ({"if": "ready", "then": [WAIT], "else": [{"wait_until": "ready", "deadline": 90}]}, Duration(90.0)),
    ],
)
def test_the_longest_that_a_step_may_take_is_known(step: dict[str, object], longest: Duration) -> None:
    assert playbook(step).longest == longest
    assert longest_of(playbook(step, step).steps) == Duration(2 * longest.seconds, 2 * longest.lead_times)


def test_steps_that_may_take_longer_than_their_playbook_are_refused() -> None:
    assert playbook(WAIT, WAIT, deadline="120 s").longest == Duration(120.0)
    for deadline in ("119 s", "100 lead times"):
        with pytest.raises(ValidationError, match="impossible: its steps may take 120 s"):
            playbook(WAIT, WAIT, deadline=deadline)


def test_walking_names_every_step_by_the_key_that_it_is_written_under() -> None:
    found = playbook(PAGE, {"if": "ready", "then": [{"repeat": [PAGE], "attempts": 2}]}, {"parallel": [[PAGE], [PAGE]]})
    keys = [".".join(map(str, placed.key)) for placed in walk(found.steps, ("steps",))]
    assert keys == [
        "steps.0",
        "steps.1", "steps.1.then.0", "steps.1.then.0.repeat.0",
        "steps.2", "steps.2.parallel.0.0", "steps.2.parallel.1.0",
    ]  # fmt: skip


# escalation


def escalating(**further: str | None) -> dict[str, Playbook]:
    return {name: playbook(PAGE, escalates_to=to) for name, to in further.items()}


def test_a_circle_of_escalations_is_found_wherever_it_begins() -> None:
    assert escalation_cycle(escalating(a="b", b="c", c=None)) == ()
    assert escalation_cycle(escalating(a="a")) == ("a", "a")
    assert escalation_cycle(escalating(a="b", b="c", c="b")) == ("b", "c", "b")
    assert escalation_cycle(escalating(a="elsewhere")) == ()


def test_a_circle_is_refused_in_settings_as_well() -> None:
    with pytest.raises(ValidationError, match="in a circle: a -> b -> a") as caught:
        HealingSettings(playbooks=escalating(a="b", b="a"))
    assert isinstance(caught.value.errors()[0]["ctx"]["error"], Disagreement)


# the shipped ones


@pytest.mark.parametrize("cause", sorted(CAUSES))
def test_each_cause_has_a_shipped_playbook_of_its_scope_or_none(cause: str) -> None:
    name = HealingSettings().playbook_for(cause)
    assert not name or SHIPPED[name].scope == CAUSES[cause].scope


def test_every_shipped_playbook_is_used() -> None:
    used = {cause.playbook for cause in CAUSES.values()}
    used |= {found.escalates_to for found in SHIPPED.values() if found.escalates_to is not None}
    assert used - {""} == set(SHIPPED)


@pytest.mark.parametrize("name", sorted(SHIPPED))
def test_a_shipped_playbook_ends_in_a_remedy_another_one_or_a_human(name: str) -> None:
    found = SHIPPED[name]
    steps = [placed.step for placed in chain(walk(found.steps, ()), walk(found.after, ()))]
    assert found.deadline.seconds >= found.longest.seconds
    for step in steps:
        assert all(isinstance(block, tuple) for block in blocks_of(step).values())
    if any(isinstance(step, Do) and step.do == "restart" for step in steps) and name != "replace-elsewhere":
        assert found.escalates_to == "replace-elsewhere"


@pytest.mark.parametrize("name", sorted(SHIPPED))
def test_a_shipped_playbook_that_takes_out_of_traffic_also_gives_it_back(name: str) -> None:
    acts = [p.step.do for p in walk(SHIPPED[name].steps, ()) if isinstance(p.step, Do)]
    after = [p.step.do for p in walk(SHIPPED[name].after, ()) if isinstance(p.step, Do)]
    assert ("cordon" in acts) == ("uncordon" in after)


def test_a_condition_is_written_back_as_it_was_read() -> None:
    written = {"any": ["ready", {"not": {"all": ["empty", {"silent_s": 30}]}}]}
    step = playbook({"wait_until": written, "deadline": 1}).steps[0]
    assert isinstance(step, Wait)
    assert step.wait_until == Condition(written)
    assert step.model_dump()["wait_until"] == written
