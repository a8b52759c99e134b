"""Does it matter when the controller is killed? At every step of every playbook, at every point of a tick.

Each scenario is played once without a kill and then again for each of some kills: at a tick, at a point in it (before
the decision is on record, before and on the way of each act, before the outcome is on record, after all), and followed
by a pause in which the world goes on by itself. The next controller has nothing but the audit log.

``FORESAIL_KILLS=all pytest -n 0 tests/scenarios/test_kills.py`` tries every kill, some 6,000 in a quarter of an hour;
without it, a few of each scenario are tried, spread evenly, one at least while each step was the current one.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from controller.adapters.sql_audit import SqlAudit
from policies.playbook_catalogue import shipped_playbooks
from tests.builders_kill_runs import Course, Place, aftermath, kills_of, places_of, played, sampled
from tests.builders_kill_scenarios import PLAYBOOKS, SCENARIOS, Scenario

KILLS = 5
"""Of each scenario, beside those that steps would be left out without."""

NEVER_REACHED: frozenset[Place] = frozenset()


REACHED: dict[str, frozenset[Place]] = {}
"""Steps that each scenario reaches: what is kept of those that were played, which take 100 MB each."""


def course_of(scenario: Scenario, folder: Path) -> Course:
    course = played(scenario, SqlAudit.open(f"sqlite:///{folder}/audit.db"))
    REACHED[scenario.name] = course.places
    return course


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
def test_a_controller_that_is_killed_changes_nothing_about_how_it_ends(scenario: Scenario, tmp_path: Path) -> None:
    course = course_of(scenario, tmp_path)
    kills = list(kills_of(course)) if os.environ.get("FORESAIL_KILLS") == "all" else sampled(course, KILLS)
    assert course.places_at(kills) == course.places
    wrong = {str(kill): found for kill in kills if (found := aftermath(course, kill).wrong)}
    assert not wrong
    assert course.audit.verify().intact


def test_every_step_of_every_playbook_is_reached_by_some_scenario(tmp_path: Path) -> None:
    for number, scenario in enumerate(each for each in SCENARIOS if each.name not in REACHED):
        (tmp_path / str(number)).mkdir()
        course_of(scenario, tmp_path / str(number))
    reached = frozenset[Place]().union(*(REACHED[scenario.name] for scenario in SCENARIOS))
    assert places_of(PLAYBOOKS) - reached == NEVER_REACHED
    assert shipped_playbooks().keys() <= {playbook for playbook, _ in reached}
