"""Are tuned settings written so that they load, and so that a reader sees what changed?"""

from __future__ import annotations

from pathlib import Path

import pytest

from controller.settings import load_settings
from controller.yaml_source import Value, read_yaml
from simulations.case import SimulationSettings
from simulations.options import RunOptions, settings_of
from simulations.scenario import read_scenario
from simulations.tuning.settings_file import check_settings_file, edited, tuned_file

HEADROOM = "policy.scaling.headroom_ratio"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("", "policy:\n  scaling:\n    headroom_ratio: 0.31\n"),
        (
            "# mine\npolicy:\n  tick_s: 15 # as scraped\n",
            "# mine\npolicy:\n  scaling:\n    headroom_ratio: 0.31\n  tick_s: 15 # as scraped\n",
        ),
        (
            "policy:\n    scaling:\n        headroom_ratio: 0.2  # why\n        burn_rate: 4\n",
            "policy:\n    scaling:\n        headroom_ratio: 0.31  # why\n        burn_rate: 4\n",
        ),
        (
            "policy:\n  scaling:\n    # burn_rate: 4\nmodes:\n",
            "policy:\n  scaling:\n    headroom_ratio: 0.31\n    # burn_rate: 4\nmodes:\n",
        ),
        ("audit: {}", "audit: {}\npolicy:\n  scaling:\n    headroom_ratio: 0.31\n"),
    ],
)
def test_only_the_lines_that_change_are_touched(before: str, after: str) -> None:
    assert edited(before, {("policy", "scaling", "headroom_ratio"): 0.31}) == after


@pytest.mark.parametrize(
    "before",
    [
        "policy: {scaling: {headroom_ratio: 0.2, burn_rate: 4}}\n",
        "policy:\n  scaling: {burn_rate: 4}\n",
        "policy:\n  scaling:\n    headroom_ratio:\n      0.2\n    burn_rate: 4\n",
    ],
)
def test_what_cannot_be_edited_line_by_line_is_written_anew(before: str) -> None:
    value: Value = read_yaml(edited(before, {("policy", "scaling", "headroom_ratio"): 0.31}).encode()).value
    assert value == {"policy": {"scaling": {"headroom_ratio": 0.31, "burn_rate": 4}}}


def test_the_file_loads_and_says_all_that_the_search_was_run_with(tmp_path: Path) -> None:
    config = tmp_path / "mine.yaml"
    config.write_text("# ours\npolicy:\n  tick_s: 30\nforecast:\n  step_s: 60 # minutes\n")
    overrides = ("policy.scaling.burn_rate=4", "fleet.gateway_timeout_s=30")
    options = RunOptions(config=config, overrides=overrides, attainment_ratio=0.995)
    base, _ = settings_of(options, 0)
    file = tuned_file({HEADROOM: 0.31, "policy.scaling.burn_rate": 4.0}, base, config, overrides, "foresail")
    path = tmp_path / file.name
    path.write_text(file.text)
    check_settings_file(path, {HEADROOM: 0.31, "policy.scaling.burn_rate": 4.0, "policy.tick_s": 30.0})
    assert load_settings(path).policy.objective.attainment_ratio == 0.995
    assert "# ours" in file.text
    assert "-" not in [line[0] for line in file.diff.splitlines()[2:]]
    assert "+    headroom_ratio: 0.31\n" in file.diff
    assert file.diff.startswith("--- mine.yaml\n+++ foresail.tuned.yaml\n")


def test_without_a_file_the_diff_is_against_the_defaults() -> None:
    file = tuned_file({HEADROOM: 0.31}, SimulationSettings(), None, (), "foresail")
    assert "-    headroom_ratio: 0.22\n" in file.diff
    assert "+    headroom_ratio: 0.31\n" in file.diff
    assert file.text == "policy:\n  scaling:\n    headroom_ratio: 0.31\n"


def test_what_is_as_before_is_not_written() -> None:
    file = tuned_file({HEADROOM: 0.22, "policy.scaling.burn_rate": 5.0}, SimulationSettings(), None, (), "foresail")
    assert file.text == "policy:\n  scaling:\n    burn_rate: 5.0\n"


def test_settings_of_a_rival_become_a_scenario(tmp_path: Path) -> None:
    file = tuned_file({"hpa.target_ratio": 0.5}, SimulationSettings(), None, (), "hpa")
    (tmp_path / file.name).write_text(file.text)
    assert read_scenario(tmp_path / file.name).set == ("hpa.target_ratio=0.5",)
    assert "-  - hpa.target_ratio=0.7\n" in file.diff
