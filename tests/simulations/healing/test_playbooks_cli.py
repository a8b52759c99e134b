"""Can playbooks be listed, told in words, checked, and tried before they are trusted?"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

import foresail
from controller.errors import BadInput
from controller.playbook_outline import outline
from policies.causes import CAUSES, UNKNOWN
from policies.healing_settings import HealingSettings
from policies.playbook_catalogue import shipped_playbooks
from policies.settings import PolicySettings
from simulations.healing.plans import KINDS
from simulations.healing.rehearsal import KIND_OF, cause_for, rehearse, small_world
from simulations.playbooks_cli import playbooks

OWN = """\
policy:
  healing:
    playbooks:
      quick:
        title: Restart a hung engine at once
        scope: replica
        deadline: 4000 s + 4 lead times
        until: recovered
        steps:
          - {do: cordon, deadline: 120 s, undo: uncordon}
          - {do: restart, deadline: 2 lead times}
        after:
          - {do: uncordon, deadline: 120 s}
        escalates_to: call
      call:
        title: Call somebody
        scope: replica
        deadline: 9000 s
        steps:
          - page: look at it
          - {wait_until: {not: sick}, deadline: 9000 s}
      idle:
        title: Never used
        scope: pool
        deadline: 9 s
        steps: [{page: nobody asks}]
    treatments: {hang: quick}
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "foresail.yaml"
    path.write_text(OWN)
    return path


def asked(*arguments: object) -> Result:
    return CliRunner().invoke(playbooks, [str(each) for each in arguments], standalone_mode=False)


def told(*arguments: object) -> Any:
    return json.loads(asked(*arguments, "--json").stdout)


def test_the_command_is_in_the_list_of_commands() -> None:
    assert foresail.SUB_COMMANDS["playbooks"].where == "simulations.playbooks_cli:playbooks"


def test_list_is_what_is_meant_where_no_command_is_named(file: Path) -> None:
    assert asked().stdout == asked("list").stdout
    assert asked("-c", file).stdout == asked("list", "-c", file).stdout != asked().stdout
    names = [row["name"] for row in told("list")["playbooks"]]
    assert names == list(shipped_playbooks())
    assert all(name in asked().stdout for name in names)


def test_the_list_says_whose_a_playbook_is_and_what_leads_to_it(file: Path) -> None:
    rows = {row["name"]: row for row in told("list", "-c", file)["playbooks"]}
    assert rows["quick"]["treats"] == ["hang"]
    assert (rows["call"]["treats"], rows["call"]["after"]) == ([], ["quick"])
    assert rows["eject-and-restart"]["treats"] == []
    assert (rows["quick"]["whose"], rows["hold-and-page"]["whose"]) == ("own", "shipped")
    assert (rows["quick"]["steps"], rows["quick"]["at_worst"]) == (3, "120 s + 2 lead times")


def test_a_playbook_is_told_in_words_with_what_its_facts_mean(file: Path) -> None:
    said = asked("show", "eject-and-restart").stdout
    assert "3  wait until silent_s >= 120; fails after 24 h" in said
    assert "2.then.1  wait until confirmed" in said
    assert "restart when not in_doubt; must show within 2 lead times, 2 attempts, 300 s apart" in said
    assert "if it fails, replace-elsewhere takes over" in said
    assert "another witness than the engine's own metrics" in said
    assert "taken back by uncordon if the playbook fails" in asked("show", "quick", "-c", file).stdout
    assert told("show", "quick", "-c", file)["playbook"]["steps"][0]["undo"] == "uncordon"


@pytest.mark.parametrize("name", sorted(shipped_playbooks()))
def test_every_shipped_playbook_can_be_told(name: str) -> None:
    lines = list(outline(name, HealingSettings()))
    assert lines[0] == f"{name}: {shipped_playbooks()[name].title}"
    assert any(line.startswith("  1  ") for line in lines)


def test_an_unknown_playbook_is_refused_with_the_nearest() -> None:
    with pytest.raises(BadInput, match="did you mean hold-and-page"):
        CliRunner().invoke(playbooks, ["show", "hold-and-pag"], standalone_mode=False, catch_exceptions=False)


def test_check_without_a_dry_run_tries_nothing(file: Path) -> None:
    result = asked("check", "-c", file)
    assert (result.return_value, "3 playbooks to check" in result.stdout) == (0, True)
    assert "idle: not used" in result.stdout


def test_there_is_a_world_for_every_cause_that_can_be_treated() -> None:
    assert set(KIND_OF) == set(CAUSES) - {UNKNOWN.name}
    assert set(KIND_OF.values()) <= set(KINDS)


@pytest.mark.parametrize("cause", sorted(KIND_OF))
def test_worlds_are_small_and_seeded(cause: str) -> None:
    world, again, other = small_world(cause, 1), small_world(cause, 1), small_world(cause, 2)
    assert world.settings == again.settings != other.settings
    assert world.ground.replicas == 6
    assert world.settings.faults or world.kind == "F7"


def test_a_playbook_is_tried_step_by_step_until_its_subject_is_well() -> None:
    tried = rehearse("eject-and-restart", PolicySettings())
    assert (tried.cause, tried.fit, tried.violations, tried.wrong) == ("hang", True, (), ())
    assert set(tried.ended.values()) == {"over"}
    assert tried.recovered_s < 600.0
    words = [event.what for event in tried.events]
    acts = [what for what in words if what.startswith("-> ")]
    assert acts[:1] == ["-> cordon"]
    assert "-> restart" in acts
    assert any(what.startswith("eject-and-restart begins: engine hangs") for what in words)
    assert [event.at_s for event in tried.events] == sorted(event.at_s for event in tried.events)
    assert tried == rehearse("eject-and-restart", PolicySettings())


def test_a_further_remedy_is_tried_against_what_leads_to_it() -> None:
    assert cause_for("replace-elsewhere", HealingSettings()) == "hardware"
    loose = HealingSettings(treatments={"hardware": ""})
    assert cause_for("replace-elsewhere", loose) in {"hang", "exited", "errors", "straggler", "start-overdue"}


def test_a_dry_run_tells_what_each_own_playbook_did_and_fails_where_one_could_not_be_tried(file: Path) -> None:
    result = asked("check", "-c", file, "--dry-run", "--json")
    tried = {each["playbook"]: each for each in json.loads(result.stdout)["tried"]}
    assert list(tried) == ["quick", "call", "idle"]
    assert tried["quick"]["ok"]
    assert tried["quick"]["recovered"]
    assert tried["call"]["cause"] == "hang"
    assert not tried["call"]["recovered"]
    assert (tried["idle"]["cause"], tried["idle"]["ok"]) == (None, False)
    assert result.return_value == 1
    file.write_text(OWN.replace("      idle:", "      hold-and-page:"))
    said = asked("check", "-c", file, "--dry-run").stdout
    assert "quick against hang (hang@960" in said
    assert "invariants kept" in said
    assert "recovered  after" in said


def test_a_playbook_that_ends_while_its_trouble_stands_is_shown_to_come_round(file: Path) -> None:
    file.write_text(OWN.replace("          - {wait_until: {not: sick}, deadline: 9000 s}\n", ""))
    tried = {each["playbook"]: each for each in told("check", "-c", file, "--dry-run")["tried"]}
    assert tried["call"]["begun"] >= 1
    assert tried["call"]["ok"] == (tried["call"]["begun"] <= 3)
