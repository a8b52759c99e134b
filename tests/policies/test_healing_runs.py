"""Which playbook runs for whom: when is one begun, carried on, taken over, escalated, left, or begun anew?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from policies.anomaly import Watch
from policies.decisions import Diagnosis, Page, RestartReplica
from policies.fleet import FleetState
from policies.healing import Course, heal
from policies.healing_memory import RunMemory
from policies.healing_settings import HealingSettings
from policies.memory import PolicyMemory
from policies.playbook import Playbook
from tests.builders import AT, KEY, fleet
from tests.builders_playbooks import A0, BAD, HANG, LEAD, playbook, remembered, some

PAGE: dict[str, Any] = {"page": "look at it"}
FAILS = playbook({"wait_until": "cordoned", "deadline": 10}, deadline=100)
WAITS = playbook({"wait_until": {"not": "sick"}, "deadline": 9000}, deadline=9000)


def own(hang: str = "mine", **playbooks: Playbook) -> HealingSettings:
    return HealingSettings(playbooks=playbooks, treatments={"hang": hang})


def healed(
    settings: HealingSettings,
    *diagnoses: Diagnosis,
    before: Course | None = None,
    at: float = AT,
    state: FleetState | None = None,
) -> Course:
    state = replace(state or fleet(some()), at=at)
    known = remembered(state)
    memory = PolicyMemory()
    if before is not None:
        memory = PolicyMemory(
            actions=before.actions, cordons=before.cordons, runs=before.runs, pages=before.pages, decided_at=at - 15.0
        )
    leads, least = {str(KEY): LEAD}, {str(KEY): 0}
    return heal(state, diagnoses, Watch((), known, frozenset(known)), memory, leads, least, settings)


def the_run(course: Course, name: str = A0) -> RunMemory:
    return course.runs[name]


def messages(course: Course) -> list[str]:
    return [r.message for r in course.remediations if isinstance(r, Page)]


def test_what_is_believed_begins_the_playbook_of_its_cause_and_goes_on_with_it() -> None:
    first = healed(own(mine=WAITS), HANG)
    assert (the_run(first).playbook, the_run(first).cause, the_run(first).began_at) == ("mine", "hang", AT)
    assert the_run(first).deadline_at == AT + 9000.0
    second = healed(own(mine=WAITS), HANG, before=first, at=AT + 15.0)
    assert the_run(second).began_at == AT


def test_a_cause_without_a_playbook_is_left_alone() -> None:
    course = healed(own(hang=""), HANG)
    assert (dict(course.runs), course.remediations) == ({}, ())


def test_a_playbook_whose_steps_changed_begins_anew() -> None:
    first = healed(own(mine=WAITS), HANG)
    changed = own(mine=playbook({"wait_until": {"not": "sick"}, "deadline": 500}, PAGE, deadline=600))
    second = healed(changed, HANG, before=first, at=AT + 15.0)
    assert the_run(second).digest != the_run(first).digest
    third = healed(changed, HANG, before=second, at=AT + 30.0)
    assert (the_run(third).began_at, the_run(third).deadline_at) == (AT + 15.0, AT + 615.0)
    assert the_run(third).digest == the_run(second).digest


def test_a_playbook_that_is_not_there_any_more_gives_way_to_the_one_that_is() -> None:
    first = healed(own(mine=WAITS), HANG)
    second = healed(HealingSettings(), HANG, before=first, at=AT + 15.0)
    assert the_run(second).playbook == "eject-and-restart"


def test_a_playbook_that_fails_is_followed_by_the_one_it_names() -> None:
    settings = own(mine=playbook({"end": "failed"}, escalates_to="further"), further=WAITS)
    first = healed(settings, HANG)
    assert (the_run(first).playbook, the_run(first).began_at, the_run(first).state) == ("further", AT, "running")
    assert any(r.rule == "escalation" and "further takes over" in r.detail for r in first.reasons)
    assert messages(first) == []
    second = healed(settings, HANG, before=first, at=AT + 15.0)
    assert the_run(second).playbook == "further"


def test_the_last_one_that_fails_calls_a_human_once_and_rests() -> None:
    settings = own(mine=FAILS)
    first = healed(settings, HANG)
    failed = healed(settings, HANG, before=first, at=AT + 15.0)
    assert the_run(failed).state == "failed"
    assert "mine failed: cordoned did not come true within 10 s" in messages(failed)[0]
    again = healed(settings, HANG, before=failed, at=AT + 30.0)
    assert (messages(again), the_run(again).began_at) == ([], AT)
    rested_s = settings.again_after_s + 15.0
    assert the_run(healed(settings, HANG, before=again, at=AT + rested_s)).began_at == AT + rested_s


def test_a_graver_trouble_of_the_same_subject_takes_over_and_a_lighter_one_does_not() -> None:
    gone = Diagnosis("F9", "a0", KEY, AT, ("gpu", "platform"), "its GPU is gone", name="hardware")
    slow = Diagnosis("F8", "a0", KEY, AT, ("peers", "latency"), "it is slow", name="straggler")
    settings = HealingSettings(playbooks={"mine": WAITS}, treatments={"hang": "mine", "hardware": "mine"})
    first = healed(settings, HANG)
    assert the_run(healed(settings, slow, before=first, at=AT + 15.0)).cause == "hang"
    assert the_run(healed(settings, gone, before=first, at=AT + 15.0)).cause == "hardware"


def test_a_run_that_came_to_nothing_is_forgotten_with_its_trouble() -> None:
    settings = own(mine=playbook({"wait_until": {"running_s": 500}, "deadline": 900}))
    first = healed(settings, HANG)
    assert dict(healed(settings, before=first, at=AT + 15.0).runs) == {}


def test_a_run_that_asked_for_something_goes_on_without_its_trouble() -> None:
    settings = own(mine=playbook({"do": "restart", "deadline": "2 lead times"}))
    first = healed(settings, HANG)
    assert [type(r) for r in first.remediations] == [RestartReplica]
    assert A0 in healed(settings, before=first, at=AT + 15.0).runs


def test_a_pool_and_its_replica_are_treated_side_by_side() -> None:
    settings = HealingSettings(playbooks={"mine": WAITS}, treatments={"hang": "mine"})
    course = healed(settings, HANG, replace(BAD, name="retry-storm", cause="F17"))
    assert {name: run.playbook for name, run in course.runs.items()} == {A0: "mine", str(KEY): "ride-out-retries"}
    assert course.holding[KEY] == {"shrinking", "learning"}


def test_what_playbooks_hold_is_held_for_their_pool_and_adds_up() -> None:
    holding: Mapping[str, Any] = {"wait_until": {"not": "sick"}, "deadline": 9000, "holding": ["one more"]}
    settings = own(mine=playbook(holding, holding=["growth"]))
    course = healed(settings, HANG, replace(BAD, name="overload", cause="F7"))
    assert course.holding[KEY] == {"one more", "growth", "shrinking"}
    assert course.lost[str(KEY)] == 1


def test_what_fails_at_its_end_calls_a_human_and_takes_no_further_rung() -> None:
    """The steps did what they were to do: the next rung would do more to a replica that is well again."""
    ends = playbook({"wait_until": "sick", "deadline": 10}, after=[{"end": "failed"}], escalates_to="further")
    course = healed(own(mine=ends, further=WAITS), HANG)
    assert (the_run(course).playbook, the_run(course).state) == ("mine", "failed")
    assert len(messages(course)) == 1


def test_what_is_over_while_its_trouble_stands_is_not_begun_again_at_once() -> None:
    settings = own(mine=playbook({"end": "resolved"}))
    first = healed(settings, HANG)
    second = healed(settings, HANG, before=first, at=AT + 15.0)
    assert (the_run(second).state, the_run(second).began_at) == ("resolved", AT)
    later = AT + settings.again_after_s
    assert the_run(healed(settings, HANG, before=second, at=later)).began_at == later
    assert dict(healed(settings, before=second, at=AT + 30.0).runs) == {}


def test_a_light_trouble_that_failed_does_not_keep_a_graver_one_untreated() -> None:
    slow = replace(HANG, cause="F8", name="straggler", families=("latency", "peers"))
    settings = HealingSettings(
        playbooks={"mine": WAITS, "ends": playbook({"end": "failed"})}, treatments={"hang": "mine", "straggler": "ends"}
    )
    first = healed(settings, slow)
    assert the_run(first).state == "failed"
    assert the_run(healed(settings, HANG, before=first, at=AT + 15.0)).cause == "hang"


def test_a_replica_of_a_revision_that_fails_is_left_to_its_roll_back() -> None:
    settings = own(mine=playbook({"do": "restart", "deadline": "2 lead times"}))
    waits = own(mine=playbook({"wait_until": {"running_s": 30}, "deadline": 900},
                              {"do": "restart", "deadline": "2 lead times"}))  # fmt: skip
    assert [type(r) for r in healed(settings, HANG).remediations] == [RestartReplica]
    first = healed(waits, HANG)
    second = healed(waits, HANG, BAD, before=first, at=AT + 30.0)
    assert not any(isinstance(r, RestartReplica) for r in second.remediations)
    assert "of a revision that fails" in {r.rule for r in second.reasons}
    other = fleet(replace(some(), revision="2"))
    elsewhere = healed(waits, HANG, BAD, before=first, at=AT + 30.0, state=other)
    assert any(isinstance(r, RestartReplica) for r in elsewhere.remediations)


def test_a_run_whose_replica_is_gone_by_itself_is_over_and_one_that_had_it_restarted_is_not() -> None:
    rest = fleet(replace(some(), replicas=some().replicas[1:]))
    paged = own(mine=playbook(PAGE, {"wait_until": {"running_s": 500}, "deadline": 900}))
    first = healed(paged, HANG)
    assert dict(healed(paged, before=first, at=AT + 15.0, state=rest).runs) == {}
    restarts = own(mine=playbook({"do": "restart", "deadline": "2 lead times"}))
    first = healed(restarts, HANG)
    assert A0 in healed(restarts, before=first, at=AT + 15.0, state=rest).runs
