"""Does a champion lose its place when it is worse beyond doubt, and only then, whatever the registry does?"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from controller.adapters.mlflow_registry import MlflowRegistry
from controller.adapters.registry_store import RegistrySettings
from controller.champion import Champion, Seats
from controller.crown import CHALLENGER, CHAMPION, PREVIOUS, ROLLED_BACK, crown, holder
from controller.errors import RegistryError
from controller.live_skill import LiveSkill, Look
from controller.skill_settings import SkillSettings
from controller.telemetry import Telemetry
from controller.telemetry_settings import TelemetrySettings
from forecasting.forecaster import Forecaster
from tests.builders_forecasting import small_spec, write_small_artifact
from tests.builders_training import a_store
from tests.forecasting.test_judged import Scaled, load, waves

STEP_S, NAME = 60.0, "load"


@pytest.fixture
def store(tmp_path: Path) -> RegistrySettings:
    return a_store(tmp_path)


@pytest.fixture
def registry(store: RegistrySettings) -> MlflowRegistry:
    return MlflowRegistry.open(store)


def published(registry: MlflowRegistry, folder: Path, seed: int) -> str:
    made = write_small_artifact(folder / f"net{seed}", small_spec(step_s=STEP_S), seed)
    return registry.publish(NAME, made, {}).version


@pytest.fixture
def two(registry: MlflowRegistry, tmp_path: Path) -> tuple[str, str]:
    """A good champion, and one that took its place."""
    good, bad = published(registry, tmp_path, 1), published(registry, tmp_path, 2)
    crown(registry, NAME, good, 1.0)
    crown(registry, NAME, bad, 2.0)
    return good, bad


def champion_version(registry: MlflowRegistry) -> str:
    found = holder(registry.versions(NAME), CHAMPION)
    return found.version if found else ""


def refusing(*_: object, **__: object) -> None:
    raise RegistryError("the server does not answer", "test")


# who was the champion


def test_promotion_remembers_who_was_champion_before(registry: MlflowRegistry, two: tuple[str, str]) -> None:
    previous = holder(registry.versions(NAME), PREVIOUS)
    assert previous is not None
    assert (previous.version, champion_version(registry)) == two


def test_rivals_are_loaded_beside_the_champion(
    store: RegistrySettings, registry: MlflowRegistry, two: tuple[str, str], tmp_path: Path
) -> None:
    watched = Champion(store, NAME, STEP_S)
    watched.news()
    assert (watched.version, set(watched.seats.rivals)) == (two[1], {PREVIOUS})
    third = published(registry, tmp_path, 3)
    registry.point(NAME, CHALLENGER, third)
    assert watched.news() is None
    assert set(watched.seats.rivals) == {PREVIOUS, CHALLENGER}
    (tmp_path / "odd").mkdir()
    odd = write_small_artifact(tmp_path / "odd" / "net", small_spec(step_s=15.0))
    registry.point(NAME, CHALLENGER, registry.publish(NAME, odd, {}).version)
    assert watched.news() is None
    assert set(watched.seats.rivals) == {PREVIOUS}  # one of another step can be no rival, and harms nobody


def test_a_champion_is_relegated_on_record_and_stays_away_until_promoted_anew(
    store: RegistrySettings, registry: MlflowRegistry, two: tuple[str, str]
) -> None:
    good, bad = two
    watched = Champion(store, NAME, STEP_S)
    watched.news()
    assert watched.relegate(bad, "too many misses", 4.0)
    assert watched.version == champion_version(registry) == good
    assert {v.version: v.tags[ROLLED_BACK] for v in registry.versions(NAME)} == {good: "", bad: "too many misses"}
    registry.point(NAME, CHAMPION, bad)
    for daemon in (watched, Champion(store, NAME, STEP_S)):
        assert daemon.news() is None
    crown(registry, NAME, bad, 3.0)
    assert watched.news() is not None
    assert watched.version == bad


def test_without_another_champion_the_plain_forecaster_is_left(
    store: RegistrySettings, registry: MlflowRegistry, tmp_path: Path
) -> None:
    only = published(registry, tmp_path, 1)
    crown(registry, NAME, only, 1.0)
    watched = Champion(store, NAME, STEP_S)
    watched.news()
    assert watched.relegate(only, "bad", 4.0)
    assert (watched.version, watched.seats.model) == ("", None)
    assert watched.news() is None


def test_a_registry_that_refuses_keeps_nobody_from_the_roll_back(
    store: RegistrySettings, registry: MlflowRegistry, two: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    good, bad = two
    watched = Champion(store, NAME, STEP_S)
    watched.news()
    monkeypatch.setattr(MlflowRegistry, "tag", refusing)
    with pytest.raises(RegistryError):
        watched.relegate(bad, "bad", 4.0)
    assert watched.version == good
    assert champion_version(registry) == bad
    with pytest.raises(RegistryError):
        watched.news()  # the registry still says that it is the champion; here it is not
    assert watched.version == good
    monkeypatch.undo()
    assert watched.news() is None  # and now it is told
    assert (watched.version, champion_version(registry)) == (good, good)
    assert {v.version: v.tags[ROLLED_BACK] for v in registry.versions(NAME)} == {good: "", bad: "bad"}


def test_a_registry_that_is_away_altogether_does_not_bring_the_bad_one_back(
    store: RegistrySettings, registry: MlflowRegistry, two: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    good, bad = two
    watched = Champion(store, NAME, STEP_S)
    watched.news()
    for call in ("versions", "tag", "point"):
        monkeypatch.setattr(MlflowRegistry, call, refusing)
    recalled = Champion(store, NAME, STEP_S)
    recalled.news()
    for daemon in (watched, recalled):
        with pytest.raises(RegistryError):
            daemon.relegate(bad, "bad", 3.0)
    assert recalled.seats.model is None  # it never saw who was champion before
    again = Champion(store, NAME, STEP_S)
    with pytest.raises(RegistryError):
        again.news()
    monkeypatch.undo()
    for daemon in (watched, recalled):
        daemon.news()
        assert daemon.version == champion_version(registry) == good
    crown(registry, NAME, bad, 3.0)
    for daemon in (watched, recalled):
        daemon.news()
        assert daemon.version == bad


def test_only_the_champion_that_was_looked_at_is_relegated(
    store: RegistrySettings, registry: MlflowRegistry, two: tuple[str, str], tmp_path: Path
) -> None:
    watched = Champion(store, NAME, STEP_S)
    watched.news()
    third = published(registry, tmp_path, 3)
    crown(registry, NAME, third, 3.0)
    watched.news()
    assert not watched.relegate(two[1], "bad", 4.0)
    assert watched.version == champion_version(registry) == third


def test_who_was_rolled_back_is_no_rival_and_is_not_remembered_as_the_one_before(
    store: RegistrySettings, registry: MlflowRegistry, two: tuple[str, str], tmp_path: Path
) -> None:
    good, bad = two
    registry.tag(NAME, bad, {ROLLED_BACK: "bad"})  # and nobody could be put in its place
    third = published(registry, tmp_path, 3)
    crown(registry, NAME, third, 3.0)
    previous = holder(registry.versions(NAME), PREVIOUS)
    assert previous is not None
    assert previous.version == good
    registry.tag(NAME, good, {ROLLED_BACK: "bad too"})
    watched = Champion(store, NAME, STEP_S)
    watched.news()
    assert (watched.version, watched.seats.rivals) == (third, {})


def test_with_the_registry_away_at_the_start_the_last_champion_forecasts(
    store: RegistrySettings, two: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = Champion(store, NAME, STEP_S)
    model = first.news()
    assert model is not None
    monkeypatch.setattr(MlflowRegistry, "versions", refusing)
    again = Champion(store, NAME, STEP_S)
    recalled = again.news()
    assert recalled is not None
    assert (recalled.name, again.version) == (model.name, two[1])
    with pytest.raises(RegistryError):
        again.news()
    (folder,) = [entry for entry in store.cache_folder.iterdir() if entry.name.startswith(f"{NAME}-{two[1]}-")]
    weights = folder / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\0")
    with pytest.raises(RegistryError):  # a damaged copy is no model
        Champion(store, NAME, STEP_S).news()


# what follows from how they did


class Contestants:
    """Two forecasters as the registry would tell of them."""

    def __init__(self, model: Forecaster | None, rivals: Mapping[str, Forecaster] | None = None, **seats: Any) -> None:
        self.seats = Seats("2" if model else "", model, rivals=rivals or {}, **seats)
        self.relegated: list[str] = []
        self.refuses = False

    @property
    def version(self) -> str:
        return self.seats.version

    def relegate(self, bad: str, reason: str, at: float) -> bool:
        if bad != self.version:
            return False
        self.relegated.append(reason)
        previous = self.seats.rivals.get(PREVIOUS)
        self.seats = Seats("1" if previous else "", previous)
        if self.refuses:
            raise RegistryError("the server does not answer", "test")
        return True


class Named(Scaled):
    def __init__(self, factor: float, name: str) -> None:
        super().__init__(factor)
        self.name = name  # type: ignore[misc]


LOADS = {f"m{seed}": load(waves(2000, seed)) for seed in range(2)}
SETTINGS = SkillSettings()


def looked(
    them: Contestants, at: float = 0.0, settings: SkillSettings = SETTINGS, skill: LiveSkill | None = None
) -> tuple[Look, list[Forecaster | None]]:
    skill = skill or LiveSkill(Telemetry(TelemetrySettings(), lambda: 0.0))
    used: list[Forecaster | None] = []
    look = skill.look(at, LOADS, dict.fromkeys(LOADS, 5), them.seats, settings)
    skill.act(look, them, settings, lambda: used.append(them.seats.model))  # type: ignore[arg-type]
    return look, used


def test_a_champion_far_worse_than_the_one_before_it_loses_its_place() -> None:
    previous = Named(1.0, "previous")
    them = Contestants(Named(0.4, "bad"), {PREVIOUS: previous})
    skill = LiveSkill(Telemetry(TelemetrySettings(), lambda: 0.0))
    look, used = looked(them, skill=skill)
    assert used == [previous]
    told = json.loads(json.dumps(skill.told(them.seats), allow_nan=False))
    assert told["champion"] == {"version": "1", "name": "previous"}
    assert told["compared"]["champion"]["version"] == "2"
    assert told["rolled_back"] == f"version 2 was rolled back, version 1 forecasts: {look.worse}"
    assert "bad: " in them.relegated[0]
    assert "more loss than previous" in them.relegated[0]
    assert look.standings["champion"].skill < 0 < look.standings[PREVIOUS].skill


def test_alone_it_is_held_against_the_last_value() -> None:
    them = Contestants(Named(0.4, "bad"))
    _, used = looked(them)
    assert used == [None]
    assert "the last value" in them.relegated[0]


@pytest.mark.parametrize("factor", [1.0, 1.005])
def test_one_that_is_as_good_keeps_its_place(factor: float) -> None:
    them = Contestants(Named(factor, "new"), {PREVIOUS: Named(1.0, "previous")})
    assert looked(them)[1] == []


def test_a_challenger_is_only_looked_at() -> None:
    challenger = Named(1.0, "challenger")
    them = Contestants(Named(1.01, "fine"), {CHALLENGER: challenger})
    look, used = looked(them)
    assert (used, look.standings[CHALLENGER].forecasts > 0) == ([], True)


def test_nobody_flaps_and_force_is_respected_for_a_while() -> None:
    skill = LiveSkill(Telemetry(TelemetrySettings(), lambda: 0.0))
    them = Contestants(Named(0.4, "bad"), {PREVIOUS: Named(0.4, "as bad")}, forced=True)
    assert looked(them, 0.0, skill=skill)[1] == []
    assert len(looked(them, SETTINGS.forced_quiet_s, skill=skill)[1]) == 1
    assert looked(them, SETTINGS.forced_quiet_s + 60.0, skill=skill)[1] == []
    later = SETTINGS.forced_quiet_s + SETTINGS.quiet_s
    assert len(looked(them, later, skill=skill)[1]) == 1


def test_a_daemon_that_was_started_anew_knows_from_the_record_who_is_to_be_left_alone() -> None:
    hours = 3600.0
    then = {"promoted_at": 100 * hours, "forced": True}
    assert looked(Contestants(Named(0.4, "bad"), **then), 101 * hours)[1] == []
    assert looked(Contestants(Named(0.4, "bad"), **then), 125 * hours)[1] == [None]
    rolled_back = {"rolled_back_at": 100 * hours}
    assert looked(Contestants(Named(0.4, "bad"), **rolled_back), 105 * hours)[1] == []
    assert looked(Contestants(Named(0.4, "bad"), **rolled_back), 107 * hours)[1] == [None]


def test_an_instant_from_another_clock_protects_nobody() -> None:
    assert looked(Contestants(Named(0.4, "bad"), rolled_back_at=1e12, promoted_at=1e12), 1e6)[1] == [None]


def test_who_took_the_place_meanwhile_does_not_lose_it() -> None:
    skill, fixed = LiveSkill(Telemetry(TelemetrySettings(), lambda: 0.0)), Named(1.0, "fixed")
    them = Contestants(Named(0.4, "bad"))
    look = skill.look(0.0, LOADS, dict.fromkeys(LOADS, 5), them.seats, SETTINGS)
    them.seats = Seats("3", fixed)
    assert look.worse
    assert skill.act(look, them, SETTINGS, lambda: pytest.fail("nobody else is to forecast")) == ""  # type: ignore[arg-type]
    assert (them.version, skill.rolled_back) == ("3", "")


def test_it_can_be_switched_off() -> None:
    them = Contestants(Named(0.4, "bad"))
    look, used = looked(them, settings=SkillSettings(roll_back=False))
    assert (used, look.worse != "") == ([], True)


def test_a_registry_that_refuses_does_not_keep_the_bad_one_in_use() -> None:
    previous = Named(1.0, "previous")
    them = Contestants(Named(0.4, "bad"), {PREVIOUS: previous})
    them.refuses = True
    assert looked(them)[1] == [previous]


def test_without_a_champion_the_plain_forecaster_is_still_told_about() -> None:
    look, used = looked(Contestants(None))
    assert (used, look.worse, list(look.standings)) == ([], "", ["plain"])
    untouched = LiveSkill(Telemetry(TelemetrySettings(), lambda: 0.0)).told(Seats())
    assert (untouched["compared"], untouched["drift"], untouched["rolled_back"]) == ({}, {}, "")
    assert look.standings["plain"].forecasts > 0
