"""Whatever a valid playbook says and whatever becomes of its acts: it ends, and it asks for nothing that it must not.

Playbooks, truths of facts and fates of acts are drawn; healing itself is the real one, tick after tick.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice

from hypothesis import given
from hypothesis import strategies as st

from policies.decisions import (
    AvoidNode,
    CordonReplica,
    Page,
    PauseRollout,
    Remediation,
    RestartReplica,
    ResumeRollout,
    RollBack,
    UncordonReplica,
)
from policies.facts import FACTS
from policies.healing import Course
from policies.ledger import ROLL_BACK
from policies.memory import PolicyMemory
from policies.playbook import SCOPE_OF, Action, Do, Playbook, Step, walk
from policies.treatment import UNDO_S
from tests.builders_treatment import DEADLINE_S, LEAD_S, LEAD_TIMES, TICK_S, Ward, drawn_truths, playbooks

_TRUTHS = st.lists(st.frozensets(st.sampled_from(list(FACTS))), min_size=1, max_size=12)
_FATES = st.lists(st.sampled_from(["done", "held", "lost"]), min_size=1, max_size=8)
_SICK = st.lists(st.booleans(), min_size=1, max_size=8)
WARDS = st.builds(Ward, st.sampled_from(["replica", "pool"]).flatmap(playbooks), _TRUTHS, _FATES, _SICK)

_ACTS: Mapping[type[Remediation], Action] = {
    CordonReplica: "cordon",
    UncordonReplica: "uncordon",
    RestartReplica: "restart",
    AvoidNode: "avoid node",
    PauseRollout: "pause",
    ResumeRollout: "resume",
    RollBack: "roll back",
}


def ticks_of(ward: Ward) -> Iterator[Course]:
    """Heal for as long as the playbook may take, what it undoes and what it closes with included."""
    with drawn_truths(ward):
        for _ in range(math.ceil(_most_s(ward.playbook) / TICK_S) + 1):
            yield ward.tick()


def _most_s(playbook: Playbook) -> float:
    undos = sum(isinstance(step, Do) and step.undo is not None for step in _steps(playbook.steps))
    return DEADLINE_S + LEAD_TIMES * LEAD_S + undos * (UNDO_S + TICK_S) + 2 * TICK_S


def _steps(steps: Sequence[Step]) -> list[Step]:
    return [placed.step for placed in walk(steps, ())]


@given(WARDS)
def test_a_playbook_ends_within_its_deadline_and_what_it_takes_to_undo(ward: Ward) -> None:
    for course in ticks_of(ward):
        at = ward.platform.at - TICK_S
        late = [run for run in course.runs.values() if not run.over and at - run.began_at > _most_s(ward.playbook)]
        assert not late


@given(WARDS)
def test_only_acts_of_the_playbook_are_asked_for_and_only_of_its_scope(ward: Ward) -> None:
    steps = [step for step in _steps((*ward.playbook.steps, *ward.playbook.after)) if isinstance(step, Do)]
    named = {act for step in steps for act in (step.do, step.undo) if act is not None}
    for course in islice(ticks_of(ward), 40):
        asked = {_ACTS[type(remedy)] for remedy in course.remediations if not isinstance(remedy, Page)}
        assert asked <= named
        assert {SCOPE_OF[act] for act in asked} <= {ward.playbook.scope}


@given(WARDS)
def test_no_restart_and_no_roll_back_is_asked_for_while_one_is_open(ward: Ward) -> None:
    for course in islice(ticks_of(ward), 60):
        still = {
            (act.kind, act.target) for act in course.actions if act.open and act.started_at < ward.memory.decided_at
        }
        for remedy in course.remediations:
            if isinstance(remedy, RestartReplica):
                assert ("restart", remedy.replica) not in still
            if isinstance(remedy, RollBack):
                assert (ROLL_BACK, remedy.bad) not in still


@given(WARDS)
def test_what_is_remembered_goes_through_text_and_nothing_changes(ward: Ward) -> None:
    with drawn_truths(ward):
        for _ in range(30):
            read = PolicyMemory.from_json(ward.memory.to_json())
            assert read == ward.memory
            assert ward.course(read) == ward.course(ward.memory)
            ward.tick()


@given(WARDS)
def test_a_page_is_sent_once_and_again_only_when_it_reached_nobody(ward: Ward) -> None:
    reached: set[tuple[str, str]] = set()
    with drawn_truths(ward):
        for _ in range(25):
            before = ward.acts
            for place, remedy in enumerate(ward.tick().remediations, before + 1):
                if isinstance(remedy, Page):
                    assert (remedy.subject, remedy.cause) not in reached
                    if ward.fates[place % len(ward.fates)] == "done":
                        reached.add((remedy.subject, remedy.cause))


@given(st.sampled_from(["replica", "pool"]).flatmap(playbooks))
def test_a_playbook_reads_back_as_it_was_written(playbook: Playbook) -> None:
    assert Playbook.model_validate(playbook.model_dump(mode="json", by_alias=True, exclude_unset=True)) == playbook
