"""Do quick playbooks take the steps of the shipped ones, with the numbers that are given, and does the user's win?"""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from controller.settings import Settings, load_settings
from policies.playbook_catalogue import shipped_playbooks
from simulations.live.live_options import LiveOptions, LivePlaces, PoolChoice, daemon_settings
from simulations.live.quick_playbooks import quick_playbooks
from tests.builders_stack import QUICK


def test_only_the_numbers_that_are_named_change() -> None:
    quick = quick_playbooks({"silent_s": 7.0, "back_off_s": 11.0})
    shipped = shipped_playbooks()["eject-and-restart"].model_dump(mode="json", by_alias=True, exclude_unset=True)
    *before, pending, avoid, restart = shipped["steps"]
    assert pending.pop("wait_until") == {"silent_s": 120}
    assert restart.pop("back_off_s") == 300
    steps = [*before, {**pending, "wait_until": {"silent_s": 7.0}}, avoid, {**restart, "back_off_s": 11.0}]
    assert quick["eject-and-restart"] == {**shipped, "steps": steps}
    assert "fail-over" not in quick  # nothing in it is named


def test_nothing_named_nothing_changed() -> None:
    assert quick_playbooks({}) == {}
    assert quick_playbooks({"silent_s": 120}) == {}


@pytest.fixture
def options(tmp_path: Path) -> LiveOptions:
    return LiveOptions(tmp_path, (PoolChoice.parse("a=emulated-small"),))


def settings_of(options: LiveOptions, **written: object) -> Settings:
    """Return the daemon's settings as ``foresail live up`` writes them, read as the daemon reads them."""
    here = options.out
    places = LivePlaces("http://127.0.0.1:1", "http://127.0.0.1:2", here / "token", here / "a", here / "STOP", 3)
    file = here / "foresail.yaml"
    file.write_text(yaml.safe_dump(daemon_settings(options, places, written)))
    return load_settings(file)


def test_what_live_up_writes_can_be_read_and_is_quicker_than_what_is_shipped(options: LiveOptions) -> None:
    playbooks = settings_of(options).policy.healing.all_playbooks
    changed = {name for name, shipped in shipped_playbooks().items() if playbooks[name] != shipped}
    assert {"eject-and-restart", "replace-failing", "replace-slow", "fail-over"} <= changed
    assert "hold-and-page" not in changed


def test_the_settings_of_the_live_tests_can_be_read(options: LiveOptions) -> None:
    assert settings_of(options, **QUICK).policy.healing.cooldown_s == 5


def test_a_playbook_of_the_user_goes_before_as_a_whole(options: LiveOptions) -> None:
    mine = {"title": "Only tell me", "scope": "replica", "deadline": 60, "steps": [{"page": "it hangs"}]}
    written = {"healing": {"playbooks": {"eject-and-restart": mine}}}
    playbooks = settings_of(options, policy=written).policy.healing.all_playbooks
    assert playbooks["eject-and-restart"].escalates_to is None  # the squeezed one's does not shine through
    assert playbooks["replace-slow"] != shipped_playbooks()["replace-slow"]
