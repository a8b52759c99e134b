"""How far does a run come at each tick: is each kind of step carried out as it is written, once, and in bounds?"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from policies.decisions import CordonReplica, RestartReplica, RollBack
from policies.fleet import Phase
from policies.memory import PolicyMemory, PoolMemory, RevisionMemory
from policies.treatment import MOST_PAGES, UNDO_S, paths
from policies.undone import unlearn
from tests.builders import AT, replica
from tests.builders_playbooks import A0, BAD, FREE, HANG, LEAD_S, Bed, playbook, some

PAGE: dict[str, Any] = {"page": "look at it"}
CORDON: dict[str, Any] = {"do": "cordon", "deadline": 60}
RESTART: dict[str, Any] = {"do": "restart", "deadline": "2 lead times"}


def wait(until: object = "cordoned", deadline: object = 60, **more: Any) -> dict[str, Any]:
    return {"wait_until": until, "deadline": deadline, **more}


def outcomes(bed: Bed) -> dict[str, str]:
    return {path: step.outcome for path, step in bed.run.steps.items()}


# waiting


def test_a_wait_ends_as_soon_as_its_condition_holds() -> None:
    bed = Bed(playbook(wait({"running_s": 40}), CORDON))
    assert bed.tick().run.state == "running"
    assert bed.until("resolved") == 60.0
    assert bed.when("cordon") == [45.0]


def test_a_wait_that_holds_already_takes_no_tick() -> None:
    bed = Bed(playbook(wait("ready"), wait("sick"), CORDON))
    bed.tick()
    assert bed.acts() == ["cordon"]


def test_a_wait_past_its_deadline_fails_its_playbook() -> None:
    bed = Bed(playbook(wait(deadline=60), CORDON))
    assert bed.until("failed") == 75.0
    assert bed.run.why == "cordoned did not come true within 60 s"
    assert bed.acts() == []


def test_a_wait_past_its_deadline_may_also_go_on() -> None:
    bed = Bed(playbook(wait(deadline=60, late="go on"), CORDON))
    bed.until("resolved")
    assert bed.when("cordon") == [75.0]


def test_a_deadline_in_lead_times_follows_the_pool() -> None:
    assert Bed(playbook(wait(deadline="1 lead time"))).until("failed") == LEAD_S + 5.0


def test_a_wait_says_what_it_waits_for_or_pages_once() -> None:
    quiet = Bed(playbook(wait(name="patience")))
    quiet.tick()
    assert (quiet.notes, quiet.pages) == (["patience"], [])
    loud = Bed(playbook(wait(page="somebody should look")))
    loud.tick()
    assert "somebody should look" in loud.pages[0]


# acts


def test_an_act_is_done_once_its_effect_shows() -> None:
    bed = Bed(playbook(CORDON, PAGE))
    bed.tick(times=2)
    assert outcomes(bed)["steps.0"] == "done"
    assert bed.acts() == ["cordon"]


def test_an_act_whose_effect_shows_already_is_not_asked_for() -> None:
    bed = Bed(playbook(CORDON), state=some(cordoned=True))
    assert bed.tick().run.state == "resolved"
    assert bed.acts() == []


def test_an_act_that_does_not_show_is_asked_for_again_at_every_tick_of_its_attempt() -> None:
    """What can be done twice without harm is, for a write may have been lost."""
    bed = Bed(playbook(CORDON), deaf=(CordonReplica,))
    assert bed.until("failed") == 75.0
    assert bed.when("cordon") == [0.0, 15.0, 30.0, 45.0, 60.0]
    assert bed.run.why == "cordon did not work within 60 s"


def test_a_restart_is_asked_for_once_however_long_it_takes() -> None:
    bed = Bed(playbook(RESTART), deaf=(RestartReplica,))
    assert bed.until("failed") > 2 * LEAD_S
    assert bed.when("restart") == [0.0]
    assert [act.open for act in bed.actions] == [False]


def test_a_restart_is_done_when_what_replaces_it_serves() -> None:
    bed = Bed(playbook(RESTART))
    assert [bed.tick().run.state, bed.tick().run.state] == ["running", "resolved"]
    assert bed.actions[0].verified


def test_attempts_are_apart_by_a_back_off_that_doubles() -> None:
    bed = Bed(playbook({**RESTART, "deadline": 100, "attempts": 3, "back_off_s": 50}), deaf=(RestartReplica,))
    ended_s = bed.until("failed")
    first, second, third = bed.when("restart")
    # an attempt has 100 s; its end shows at the next tick, and the back-off counts from the deadline
    assert 150.0 <= second - first < 150.0 + 30.0
    assert 200.0 <= third - second < 200.0 + 30.0
    assert 100.0 < ended_s - third < 100.0 + 30.0


def test_a_precondition_keeps_an_act_from_being_asked_for_but_not_from_going_on() -> None:
    bed = Bed(playbook({**CORDON, "when": {"running_s": 30}, "page": "not yet"}))
    bed.tick()
    assert (bed.acts(), "not yet" in bed.pages[0]) == ([], True)
    bed.until("resolved")
    assert bed.when("cordon") == [30.0]


def test_a_precondition_matters_only_until_the_act_was_asked_for() -> None:
    bed = Bed(playbook({**CORDON, "when": {"not": {"running_s": 20}}}), deaf=(CordonReplica,))
    bed.until("failed")
    assert bed.when("cordon") == [0.0, 15.0, 30.0, 45.0, 60.0]


def test_a_restart_that_is_not_on_the_books_was_never_asked_for() -> None:
    bed = Bed(playbook(RESTART), deaf=(RestartReplica,))
    bed.tick()
    bed.actions = []
    bed.tick(times=3)
    assert bed.when("restart") == [0.0, 15.0]
    step = bed.run.steps["steps.0"]
    assert (step.asked_at, step.attempts) == (AT + 15.0, 1)


def test_a_postcondition_is_asked_for_beside_the_effect() -> None:
    bed = Bed(playbook({**CORDON, "until": {"running_s": 45}}))
    assert bed.until("resolved") == 45.0
    never = Bed(playbook({**CORDON, "until": "empty"}))
    assert never.until("failed") == 75.0


def test_what_an_act_holds_up_waits_for_it_and_nothing_else_does() -> None:
    held = Bed(playbook(CORDON, RESTART), deaf=(CordonReplica,))
    held.tick(times=3)
    assert "restart" not in held.acts()
    free = Bed(playbook({**CORDON, "holds_up": False}, RESTART), deaf=(CordonReplica,))
    free.tick()
    assert free.acts() == ["cordon", "restart"]


def test_an_act_that_is_refused_waits_says_so_and_has_not_begun() -> None:
    bed = Bed(playbook(CORDON), stopped=True)
    bed.tick(times=10)
    assert (bed.acts(), bed.notes, bed.run.steps["steps.0"].attempts) == ([], ["breaker"], 0)
    bed.stopped = False
    assert bed.until("resolved") > 150.0
    assert bed.acts() == ["cordon"]


def test_a_refusal_that_only_a_human_can_lift_is_a_page() -> None:
    bed = Bed(playbook({"do": "roll back", "deadline": 900}, scope="pool"), sick=BAD)
    bed.tick()
    assert (bed.acts(), "none served healthy" in bed.pages[0]) == ([], True)


def test_what_is_not_there_any_more_needs_nothing_and_gets_nothing() -> None:
    bed = Bed(playbook(CORDON, {"do": "avoid node", "deadline": 60}), state=some())
    bed.state = replace(bed.state, replicas=bed.state.replicas[1:])
    assert bed.tick().run.state == "resolved"
    assert bed.acts() == []


# acts on a pool


GOOD = PoolMemory(revisions={"0": RevisionMemory(AT - 9e3, 5e3, AT - 99.0), "1": RevisionMemory(AT, looked_at=AT)})


def on_pool(*steps: dict[str, Any], **changes: Any) -> Bed:
    state = replace(some(), revisions=("0", "1"))
    return Bed(playbook(*steps, scope="pool"), sick=BAD, state=state, known=GOOD, **changes)


def test_a_rollout_is_paused_and_resumed() -> None:
    bed = on_pool({"do": "pause", "deadline": 60}, {"do": "resume", "deadline": 60})
    bed.until("resolved")
    assert bed.acts() == ["pause", "resume"]


def test_a_rollout_of_another_revision_is_not_paused_for_this_one() -> None:
    bed = on_pool({"do": "pause", "deadline": 60})
    bed.state = replace(bed.state, revision="2")
    assert bed.tick().run.state == "resolved"
    assert bed.acts() == []


def test_a_roll_back_is_asked_for_once_and_done_when_all_of_it_serves() -> None:
    bed = on_pool({"do": "roll back", "deadline": "5 lead times"})
    bed.until("resolved")
    assert bed.acts() == ["roll back"]
    assert [(act.target, act.verified) for act in bed.actions] == [("1", True)]


def test_a_roll_back_that_does_not_work_is_not_tried_twice() -> None:
    bed = on_pool({"do": "roll back", "deadline": 100}, deaf=(RollBack,))
    assert bed.until("failed") <= 130.0
    assert bed.acts() == ["roll back"]


# branches


@pytest.mark.parametrize(("condition", "acts"), [("ready", ["cordon"]), ("cordoned", ["restart"])])
def test_one_of_two_ways_is_taken(condition: str, acts: list[str]) -> None:
    bed = Bed(playbook({"if": condition, "then": [CORDON], "else": [RESTART]}))
    bed.until("resolved")
    assert bed.acts() == acts


def test_a_way_is_chosen_once() -> None:
    bed = Bed(playbook({"if": {"not": "cordoned"}, "then": [CORDON, wait({"running_s": 60})], "else": [RESTART]}))
    assert bed.until("resolved") == 60.0
    assert (bed.acts(), bed.run.steps["steps.0"].choice) == (["cordon"], "then")


def test_a_way_without_steps_is_done_at_once() -> None:
    assert Bed(playbook({"if": "cordoned", "then": [CORDON]})).tick().run.state == "resolved"


# several ways at once


def test_ways_go_on_beside_each_other_until_all_are_done() -> None:
    bed = Bed(playbook({"parallel": [[wait({"running_s": 45}), CORDON], [wait({"running_s": 15}), PAGE]]}, RESTART))
    bed.tick(times=2)
    assert "look at it" in bed.pages[0]
    bed.until("resolved")
    assert (bed.when("cordon"), bed.when("restart")) == ([45.0], [60.0])


def test_one_way_that_fails_fails_them_all() -> None:
    bed = Bed(playbook({"parallel": [[wait(deadline=30)], [wait({"running_s": 300}, 900)]]}))
    assert bed.until("failed") == 45.0


def test_the_end_on_one_way_is_the_end() -> None:
    bed = Bed(playbook({"parallel": [[wait(deadline=900)], [wait({"running_s": 30}), {"end": "resolved"}]]}, RESTART))
    assert bed.until("resolved") == 30.0
    assert bed.acts() == []


# again


def test_what_fails_is_begun_again_after_a_back_off_that_doubles() -> None:
    bed = Bed(playbook({"repeat": [PAGE, wait(deadline=30)], "attempts": 3, "back_off_s": 60}))
    began = set()
    while bed.run.state == "running":
        bed.tick()
        if "steps.0.0" in bed.run.steps:
            began.add(bed.run.steps["steps.0.0"].began_at - AT)
    first, second, third = sorted(began)
    assert 90.0 <= second - first <= 150.0
    assert 150.0 <= third - second <= 210.0
    assert bed.run.state == "failed"


def test_what_works_is_not_begun_again() -> None:
    bed = Bed(playbook({"repeat": [CORDON], "attempts": 3}))
    bed.until("resolved")
    assert bed.acts() == ["cordon"]


# the end


@pytest.mark.parametrize(("end", "state"), [("resolved", "resolved"), ("failed", "failed")])
def test_a_playbook_may_say_where_it_ends(end: str, state: str) -> None:
    bed = Bed(playbook({"end": end}, RESTART))
    assert bed.tick().run.state == state
    assert bed.acts() == []


def test_as_soon_as_it_holds_the_rest_is_left_and_the_end_is_done() -> None:
    bed = Bed(
        playbook(CORDON, wait({"running_s": 900}, 1000), RESTART, until={"running_s": 60}, after=[
            {"do": "uncordon", "deadline": 60}])
    )  # fmt: skip
    bed.until("resolved")
    assert bed.acts() == ["cordon", "uncordon"]
    assert bed.when("uncordon") == [60.0]


def test_the_end_is_also_done_where_the_steps_were_done() -> None:
    bed = Bed(playbook(CORDON, after=[{"do": "uncordon", "deadline": 60}]))
    bed.until("resolved")
    assert bed.acts() == ["cordon", "uncordon"]


def test_the_end_is_not_done_where_the_steps_failed() -> None:
    bed = Bed(playbook(CORDON, {"end": "failed"}, after=[{"do": "uncordon", "deadline": 60}]))
    bed.until("failed")
    assert bed.acts() == ["cordon"]


def test_a_run_that_is_not_over_in_time_fails() -> None:
    bed = Bed(playbook(wait(deadline=300), deadline=300))
    bed.run = replace(bed.run, deadline_at=AT + 100.0)
    assert bed.until("failed") == 105.0
    assert bed.run.why == "it was not over in time"


def test_an_end_that_is_never_permitted_does_not_keep_a_run_for_ever() -> None:
    bed = Bed(playbook(PAGE, after=[{**RESTART, "deadline": 60}], deadline=300), stopped=True)
    assert bed.until("failed") <= 330.0
    assert (bed.acts(), bed.run.why) == ([], "it was not over in time")


def test_what_is_over_holds_nothing() -> None:
    bed = Bed(playbook(wait({"running_s": 60}), holding=["shrinking"]))
    assert bed.tick().holding == {"shrinking"}
    bed.until("resolved")
    assert bed.run.holding == ()


# taking back


UNDONE = {**CORDON, "undo": "uncordon"}


def test_what_was_done_is_taken_back_where_the_playbook_fails() -> None:
    bed = Bed(playbook(UNDONE, wait("empty", 30)))
    bed.until("failed")
    assert bed.acts() == ["cordon", "uncordon"]


def test_what_was_not_done_is_not_taken_back() -> None:
    bed = Bed(playbook(wait("empty", 30), UNDONE))
    bed.until("failed")
    assert bed.acts() == []


def test_the_last_is_taken_back_first() -> None:
    bed = on_pool(
        {"do": "pause", "deadline": 60, "undo": "resume"},
        {"sequence": [{"do": "resume", "deadline": 60}, {"do": "pause", "deadline": 60, "undo": "resume"}]},
        wait("sound", 30),
    )
    bed.until("failed")
    undone = [path for path in bed.run.steps if path.startswith("undo.")]
    assert undone == ["undo.steps.1.1", "undo.steps.0"]
    assert all(bed.run.steps[path].outcome == "done" for path in undone)


def test_what_cannot_be_taken_back_is_given_up_and_the_rest_is_not() -> None:
    from policies.decisions import UncordonReplica

    bed = Bed(playbook(UNDONE, wait("empty", 30)), deaf=(UncordonReplica,))
    assert bed.until("failed") <= 45.0 + UNDO_S + 30.0
    assert bed.run.steps["undo.steps.0"].outcome == "failed"


def test_nothing_is_taken_back_where_the_playbook_worked() -> None:
    bed = Bed(playbook(UNDONE))
    bed.until("resolved")
    assert bed.acts() == ["cordon"]


# pages


def test_a_human_is_told_once_and_the_playbook_goes_on() -> None:
    bed = Bed(playbook(PAGE, CORDON))
    bed.tick()
    assert (bed.run.steps["steps.0"].attempts, bed.acts()) == (1, [])
    bed.tick()
    assert (bed.pages, bed.acts()) == ([], ["cordon"])


def test_a_page_that_reaches_nobody_is_sent_again_but_does_not_stop_a_remedy_for_ever() -> None:
    bed = Bed(playbook(PAGE, CORDON), heard=False)
    bed.tick(times=MOST_PAGES)
    assert (len(bed.pages), bed.acts()) == (1, [])
    bed.tick()
    assert bed.acts() == ["cordon"]


# holds


def test_holds_last_as_long_as_their_step_or_their_playbook() -> None:
    bed = Bed(playbook(wait({"running_s": 30}, holding=["traffic"]), wait({"running_s": 60}), holding=["growth"]))
    assert bed.tick().holding == {"traffic", "growth"}
    assert bed.tick(times=2).holding == {"growth"}
    assert bed.run.holding == ("growth",)
    assert bed.tick(times=2).holding == frozenset()


# what a mode keeps from being done


def test_an_act_that_was_held_is_asked_for_again() -> None:
    bed = Bed(playbook(RESTART))
    bed.tick()
    memory = PolicyMemory(runs={A0: bed.run}, actions=tuple(bed.actions), decided_at=bed.at)
    after = unlearn(memory, {("restart", A0)}, ())
    assert after.actions == ()
    assert (after.runs[A0].steps["steps.0"].asked_at, after.runs[A0].steps["steps.0"].attempts) == (None, 0)
    bed.run, bed.actions, bed.state = after.runs[A0], [], some()
    bed.tick()
    assert bed.when("restart") == [0.0, 15.0]
    assert bed.run.steps["steps.0"].attempts == 1


def test_what_was_done_is_not_asked_for_again_when_something_else_was_held() -> None:
    bed = Bed(playbook(RESTART))
    bed.tick()
    memory = PolicyMemory(runs={A0: bed.run}, actions=tuple(bed.actions), decided_at=bed.at)
    assert unlearn(memory, {("scale", "m/a/unified")}, ()).runs == memory.runs
    assert unlearn(replace(memory, decided_at=bed.at + 15.0), {("restart", A0)}, ()).runs == memory.runs


# going on where it was


def test_a_run_goes_on_from_what_is_remembered_and_from_what_shows() -> None:
    """Nothing but memory, the books and the platform is left of a controller that was ended."""
    steps = (CORDON, wait({"running_s": 60}), RESTART)
    through = Bed(playbook(*steps))
    through.until("resolved")
    for ended_after in range(1, 8):
        bed = Bed(playbook(*steps))
        bed.tick(times=ended_after)
        again = Bed(
            bed.playbook, state=bed.state, at=bed.at, cordons=dict(bed.cordons), actions=list(bed.actions),
            told=dict(bed.told), asked=list(bed.asked),
        )  # fmt: skip
        again.run = bed.run
        if again.run.state == "running":
            again.until("resolved")
        assert again.acts() == through.acts()


def test_paths_name_every_step_once() -> None:
    found = playbook(
        PAGE, {"if": "ready", "then": [PAGE], "else": [PAGE]}, {"parallel": [[PAGE], [PAGE]]},
        {"sequence": [PAGE]}, {"repeat": [PAGE], "attempts": 2},
    )  # fmt: skip
    names = [path for path, _ in paths("steps", found.steps)]
    assert len(names) == len(set(names)) == 11
    assert {"steps.1.then.0", "steps.1.else.0", "steps.2.1.0", "steps.3.0", "steps.4.0"} <= set(names)


def test_the_run_of_a_replica_that_left_ends_with_its_restart() -> None:
    bed = Bed(playbook(RESTART), settings=FREE)
    bed.tick()
    bed.state = replace(bed.state, replicas=(*some().replicas[1:], replica("b", Phase.LOADING, requested_at=AT)))
    bed.sick = None
    bed.tick(times=3)
    assert bed.run.state == "running"
    bed.state = replace(bed.state, replicas=(*some().replicas[1:], replica("b", requested_at=AT)))
    assert bed.tick().run.state == "resolved"
    assert HANG.subject not in bed.state.roster.ids
