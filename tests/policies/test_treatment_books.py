"""Do a run and the books agree on what was done, also where one of them forgot it?"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from policies.decisions import Diagnosis, RestartReplica, RollBack
from policies.healing_settings import HealingSettings
from policies.memory import PolicyMemory, PoolMemory, RevisionMemory
from policies.playbook_catalogue import shipped_playbooks
from policies.undone import unlearn
from tests.builders import AT, KEY, pool, replica
from tests.builders_playbooks import A0, BAD, Bed, playbook

GOOD = {"1": RevisionMemory(AT - 9e4, 8e4, AT - 2000.0), "2": RevisionMemory(AT - 5e4, 4e4, AT - 900.0)}


def rolling_back(**changes: Any) -> Bed:
    """The shipped playbook about a pool at revision 3, with two good ones before it."""
    given: dict[str, Any] = {"settings": HealingSettings(), **changes}
    replicas = [replica(f"a{place}", revision="3") for place in range(4)]
    state = pool(replicas, revision="3", revisions=("1", "2", "3", "4"))
    known = PoolMemory(revisions={**GOOD, "3": RevisionMemory(AT - 900.0)})
    bed = Bed(shipped_playbooks()["freeze-and-roll-back"], sick=BAD, state=state, known=known, **given)
    bed.run = replace(bed.run, life="3")
    return bed


def rolled_back(bed: Bed) -> list[tuple[str, str]]:
    return [(r.bad, r.revision) for _, r in bed.asked if isinstance(r, RollBack)]


def held(bed: Bed, act: str, subject: str) -> None:
    """A mode kept this act from being done at the last tick."""
    memory = PolicyMemory(runs={subject: bed.run}, actions=tuple(bed.actions), decided_at=bed.at)
    after = unlearn(memory, {(act, subject)}, ())
    bed.run, bed.actions = after.runs[subject], list(after.actions)


def test_scaling_that_is_held_makes_no_run_forget_its_roll_back() -> None:
    bed = rolling_back()
    while not rolled_back(bed):
        bed.tick()
    held(bed, "scale", str(KEY))
    bed.sick = None
    bed.until("resolved", at_most=5)
    assert rolled_back(bed) == [("3", "2")]


def test_a_pause_that_is_held_beside_a_roll_back_does_not_make_it_happen_twice() -> None:
    steps = {"parallel": [[{"do": "pause", "deadline": 60}], [{"do": "roll back", "deadline": 600}]]}
    bed = rolling_back()
    bed.playbook = playbook(steps, scope="pool")
    bed.tick()
    assert rolled_back(bed) == [("3", "2")]
    held(bed, "pause", str(KEY))
    bed.until("resolved", at_most=5)
    assert rolled_back(bed) == [("3", "2")]


def test_a_revision_that_came_while_the_roll_back_had_to_wait_is_left_alone() -> None:
    bed = rolling_back(settings=HealingSettings(disruption_budget=0))
    bed.tick(times=5)
    assert "disruption budget" in bed.notes
    bed.state = replace(bed.state, revision="4", replicas=tuple(replace(r, revision="4") for r in bed.state.replicas))
    bed.sick, bed.settings = None, HealingSettings()
    bed.until("resolved", at_most=5)
    assert rolled_back(bed) == []


def test_a_good_revision_that_does_not_come_up_in_time_is_not_rolled_back_itself() -> None:
    bed = rolling_back()
    bed.playbook = playbook({"do": "roll back", "deadline": 60, "attempts": 3, "back_off_s": 0}, scope="pool")
    bed.state = replace(bed.state, desired=9)  # never served in full
    bed.until("failed")
    assert rolled_back(bed) == [("3", "2")]


def test_two_restarts_side_by_side_are_one() -> None:
    restart = {"do": "restart", "deadline": 600}
    bed = Bed(playbook({"parallel": [[restart], [restart]]}))
    bed.until("resolved")
    assert bed.acts() == ["restart"]


def test_attempts_count_for_longer_than_the_books_keep_them() -> None:
    restart = {"do": "restart", "deadline": 100, "attempts": 2, "back_off_s": 7200}
    bed = Bed(playbook(restart), deaf=(RestartReplica,), settings=HealingSettings(cooldown_s=0.0))
    bed.until("failed", at_most=1000)
    assert bed.when("restart") == [0.0, 7305.0]


def test_a_restart_that_worked_long_ago_is_not_late_before_its_deadline() -> None:
    restart = {"do": "restart", "deadline": 9000, "until": {"running_s": 6000}}
    bed = Bed(playbook(restart), settings=HealingSettings(attempt_window_s=600.0))
    assert bed.until("resolved", at_most=600) == 6000.0
    assert bed.acts() == ["restart"]
    assert bed.about.subject not in bed.state.roster.ids
    assert A0 not in bed.cordons


def test_no_revision_is_rolled_back_that_is_not_believed_to_fail() -> None:
    bed = rolling_back()
    bed.playbook = playbook({"do": "roll back", "deadline": 60}, scope="pool", deadline=90)
    bed.sick = Diagnosis("F12", "", KEY, AT, ("engines", "gateway"), "cut off", scope="pool", name="unreachable")
    bed.run = replace(bed.run, cause="unreachable", code="F12", deadline_at=AT + 90.0)
    bed.tick()
    assert "its revision is worse" in bed.pages[0]
    bed.until("failed")
    assert rolled_back(bed) == []


def test_what_somebody_else_paused_is_not_resumed() -> None:
    steps = ({"do": "pause", "deadline": 60, "undo": "resume"}, {"end": "failed"})
    theirs = Bed(playbook(*steps, scope="pool"), sick=BAD, state=replace(pool(4), paused=True))
    theirs.until("failed")
    assert (theirs.acts(), theirs.state.paused) == ([], True)
    ours = Bed(playbook(*steps, scope="pool"), sick=BAD, state=pool(4))
    ours.until("failed")
    assert (ours.acts(), ours.state.paused) == (["pause", "resume"], False)


def test_a_cordon_on_the_books_is_undone_though_the_run_forgot_it() -> None:
    bed = Bed(playbook({"do": "cordon", "deadline": 60, "undo": "uncordon"}, {"end": "failed"}))
    bed.tick()
    held(bed, "avoid", "n0")
    bed.until("failed")
    assert bed.acts() == ["cordon", "uncordon"]
