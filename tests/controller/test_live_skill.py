"""Does a champion lose its place when it is worse beyond doubt, and only then, whatever the registry does?"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import pytest

from controller.adapters.mlflow_registry import MlflowRegistry
from controller.adapters.registry_store import RegistrySettings
from controller.champion import Champion
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
    assert (watched.version, set(watched.rivals)) == (two[1], {PREVIOUS})
    third = published(registry, tmp_path, 3)
    registry.point(NAME, CHALLENGER, third)
    assert watched.news() is None
    assert set(watched.rivals) == {PREVIOUS, CHALLENGER}
    (tmp_path / "odd").mkdir()
    odd = write_small_artifact(tmp_path / "odd" / "net", small_spec(step_s=15.0))
    registry.point(NAME, CHALLENGER, registry.publish(NAME, odd, {}).version)
    assert watched.news() is None
    assert set(watched.rivals) == {PREVIOUS}  # one of another step can be no rival, and harms nobody


def test_a_champion_is_relegated_on_record_and_stays_away_until_promoted_anew(
    store: RegistrySettings, registry: MlflowRegistry, two: tuple[str, str]
) -> None:
    good, bad = two
    watched = Champion(store, NAME, STEP_S)
    watched.news()
    assert watched.relegate(bad, "too many misses") is watched.model
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
    assert watched.relegate(only, "bad") is None
    assert (watched.version, watched.model) == ("", None)
    assert watched.news() is None


def test_a_registry_that_refuses_keeps_nobody_from_the_roll_back(
    store: RegistrySettings, two: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    good, bad = two
    watched = Champion(store, NAME, STEP_S)
    watched.news()
    monkeypatch.setattr(MlflowRegistry, "tag", refusing)
    with pytest.raises(RegistryError):
        watched.relegate(bad, "bad")
    assert watched.version == good
    monkeypatch.undo()
    assert watched.news() is None  # the registry still says it is the champion; here it is not
    assert (watched.version, bad) == (good, "2")


def test_a_registry_that_is_away_altogether_does_not_bring_the_bad_one_back(
    store: RegistrySettings, registry: MlflowRegistry, two: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    bad = two[1]
    watched = Champion(store, NAME, STEP_S)
    watched.news()
    for call in ("versions", "tag", "point"):
        monkeypatch.setattr(MlflowRegistry, call, refusing)
    recalled = Champion(store, NAME, STEP_S)
    recalled.news()
    for daemon in (watched, recalled):
        with pytest.raises(RegistryError):
            daemon.relegate(bad, "bad")
    assert recalled.model is None  # it never saw who was champion before
    again = Champion(store, NAME, STEP_S)
    with pytest.raises(RegistryError):
        again.news()
    monkeypatch.undo()
    for daemon in (watched, recalled):
        assert daemon.news() is None
        assert daemon.version != bad
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
    assert watched.relegate(two[1], "bad") is watched.model
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
    assert (watched.version, watched.rivals) == (third, {})


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


@dataclass
class Contestants:
    """Two forecasters as the registry would tell of them."""

    model: Forecaster | None
    rivals: dict[str, Forecaster] = field(default_factory=dict)
    version: str = "2"
    forced: bool = False
    relegated: list[str] = field(default_factory=list)
    refuses: bool = False

    def seen(self) -> tuple[str, Forecaster | None, dict[str, Forecaster]]:
        return self.version, self.model, self.rivals

    def relegate(self, bad: str, reason: str) -> Forecaster | None:
        assert bad == self.version
        self.relegated.append(reason)
        self.model, self.version = self.rivals.get(PREVIOUS), "1"
        if self.refuses:
            raise RegistryError("the server does not answer", "test")
        return self.model


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
    look = skill.look(at, LOADS, dict.fromkeys(LOADS, 5), them, settings)  # type: ignore[arg-type]
    skill.act(look, at, them, settings, used.append)  # type: ignore[arg-type]
    return look, used


def test_a_champion_far_worse_than_the_one_before_it_loses_its_place() -> None:
    previous = Named(1.0, "previous")
    them = Contestants(Named(0.4, "bad"), {PREVIOUS: previous})
    look, used = looked(them)
    assert used == [previous]
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


def test_one_that_was_promoted_since_the_look_keeps_its_place() -> None:
    skill = LiveSkill(Telemetry(TelemetrySettings(), lambda: 0.0))
    them = Contestants(Named(0.4, "bad"))
    look = skill.look(0.0, LOADS, dict.fromkeys(LOADS, 5), them, SETTINGS)  # type: ignore[arg-type]
    them.model, them.version = Named(1.0, "new"), "3"
    assert look.worse
    assert not skill.act(look, 60.0, them, SETTINGS, lambda _: None)  # type: ignore[arg-type]
    assert them.relegated == []


def test_nobody_flaps_and_force_is_respected_for_a_while() -> None:
    skill = LiveSkill(Telemetry(TelemetrySettings(), lambda: 0.0))
    them = Contestants(Named(0.4, "bad"), {PREVIOUS: Named(0.4, "as bad")}, forced=True)
    assert looked(them, 0.0, skill=skill)[1] == []
    assert len(looked(them, SETTINGS.forced_quiet_s, skill=skill)[1]) == 1
    them.forced = False
    assert looked(them, SETTINGS.forced_quiet_s + 60.0, skill=skill)[1] == []
    later = SETTINGS.forced_quiet_s + SETTINGS.quiet_s
    assert len(looked(them, later, skill=skill)[1]) == 1


def test_it_can_be_switched_off() -> None:
    them = Contestants(Named(0.4, "bad"))
    look, used = looked(them, settings=SkillSettings(roll_back=False))
    assert (used, look.worse != "") == ([], True)


def test_a_registry_that_refuses_does_not_keep_the_bad_one_in_use() -> None:
    previous = Named(1.0, "previous")
    them = Contestants(Named(0.4, "bad"), {PREVIOUS: previous}, refuses=True)
    assert looked(them)[1] == [previous]


def test_without_a_champion_the_plain_forecaster_is_still_told_about() -> None:
    look, used = looked(Contestants(None, version=""))
    assert (used, look.worse, list(look.standings)) == ([], "", ["plain"])
    assert look.standings["plain"].forecasts > 0
