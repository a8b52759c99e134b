"""Is a champion that was rolled back gone, whatever happens to the registry, to the daemon and in between?

With a real registry in a file; where it is away, its adapter refuses.
"""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from controller import last_good
from controller.adapters.mlflow_registry import MlflowRegistry
from controller.adapters.registry_store import RegistrySettings
from controller.champion import CHALLENGER, CHAMPION, PREVIOUS, Champion
from controller.crown import FORCED, PROMOTED_AT, ROLLED_BACK, crown, holder, instant_in
from controller.errors import RegistryError
from forecasting.artifact import load_artifact
from tests.builders_forecasting import small_spec, write_small_artifact
from tests.builders_training import a_store

STEP_S, NAME = 60.0, "load"
VERBS = ("versions", "fetch", "tag", "point")


@pytest.fixture
def store(tmp_path: Path) -> RegistrySettings:
    return a_store(tmp_path)


@pytest.fixture
def registry(store: RegistrySettings) -> MlflowRegistry:
    return MlflowRegistry.open(store)


def published(registry: MlflowRegistry, folder: Path, seed: int, **tags: str) -> str:
    made = write_small_artifact(folder / f"net{seed}", small_spec(step_s=STEP_S), seed)
    return registry.publish(NAME, made, tags).version


@pytest.fixture
def three(registry: MlflowRegistry, tmp_path: Path) -> tuple[str, str, str]:
    first, second, third = (published(registry, tmp_path, seed) for seed in (1, 2, 3))
    crown(registry, NAME, first, 1.0)
    crown(registry, NAME, second, 2.0)
    return first, second, third


def started(store: RegistrySettings) -> Champion:
    watched = Champion(store, NAME, STEP_S)
    watched.news()
    return watched


def champion_in(registry: MlflowRegistry) -> str:
    found = holder(registry.versions(NAME), CHAMPION)
    return found.version if found else ""


def refusing(*_: object, **__: object) -> None:
    raise RegistryError("the server does not answer", "test")


def take_away(monkeypatch: pytest.MonkeyPatch, verbs: tuple[str, ...] = VERBS) -> None:
    for verb in verbs:
        monkeypatch.setattr(MlflowRegistry, verb, refusing)


# ---- the registry is away


def test_what_was_rolled_back_while_the_registry_was_away_does_not_come_back_with_it(
    store: RegistrySettings, registry: MlflowRegistry, three: tuple[str, str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second, _ = three
    watched = started(store)
    with monkeypatch.context() as away:
        take_away(away)
        with pytest.raises(RegistryError):
            watched.relegate(second, "bad", 3.0)
        assert watched.version == first
    assert watched.news() is None
    assert (watched.version, champion_in(registry)) == (first, first)
    bad = next(version for version in registry.versions(NAME) if version.version == second)
    assert bad.tags[ROLLED_BACK] == "bad"


@pytest.mark.parametrize("away", [VERBS, ("tag", "point")])
def test_a_daemon_that_was_started_anew_still_refuses_what_it_rolled_back(
    store: RegistrySettings,
    registry: MlflowRegistry,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    away: tuple[str, ...],
) -> None:
    only = published(registry, tmp_path, 1)
    crown(registry, NAME, only, 1.0)
    watched = started(store)
    with monkeypatch.context() as patched:
        take_away(patched, away)
        with pytest.raises(RegistryError):
            watched.relegate(only, "bad", 3.0)
        again = Champion(store, NAME, STEP_S)
        if away == VERBS:
            with pytest.raises(RegistryError):
                again.news()
        else:
            assert again.news() is None
        assert again.seats.model is None
    assert Champion(store, NAME, STEP_S).news() is None
    crown(registry, NAME, only, 4.0)
    assert Champion(store, NAME, STEP_S).news() is not None


def test_one_loaded_from_disk_alone_can_be_rolled_back_as_well(
    store: RegistrySettings, registry: MlflowRegistry, three: tuple[str, str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    second = three[1]
    started(store)
    with monkeypatch.context() as away:
        take_away(away)
        watched = Champion(store, NAME, STEP_S)
        assert watched.news() is not None
        with pytest.raises(RegistryError):
            watched.relegate(second, "bad", 3.0)
        assert (watched.version, watched.seats.model) == ("", None)
        with pytest.raises(RegistryError):
            watched.news()
        assert watched.version == ""
    assert watched.news() is None or watched.version != second
    assert watched.version != second
    bad = next(version for version in registry.versions(NAME) if version.version == second)
    assert bad.tags[ROLLED_BACK] == "bad"


def test_a_cache_that_cannot_be_written_keeps_nobody_from_a_roll_back(
    store: RegistrySettings, three: tuple[str, str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    watched = started(store)
    monkeypatch.setattr(last_good, "remember", full)
    assert watched.relegate(three[1], "bad", 3.0)
    assert watched.version == three[0]


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"last": 3, "banned": {}}', '{"last": null, "banned": []}', "[" * 9000]
)
def test_a_note_that_cannot_be_read_is_no_note(tmp_path: Path, text: str) -> None:
    (tmp_path / f"{NAME}.last-good.json").write_text(text)
    assert last_good.recall(tmp_path, NAME) == last_good.Kept(None, {})


def test_a_note_comes_back_as_it_was_written_but_leads_nowhere_else(tmp_path: Path) -> None:
    kept = last_good.Kept(last_good.LastGood("2", "2.000", "load-2-abc", "d" * 64), {"3": "3.000"})
    last_good.remember(tmp_path, NAME, kept)
    assert last_good.recall(tmp_path, NAME) == kept
    last_good.remember(tmp_path, NAME, last_good.Kept(last_good.LastGood("2", "", "../other", "d"), {}))
    assert last_good.recall(tmp_path, NAME).last is None
    assert [entry.name for entry in tmp_path.iterdir()] == [f"{NAME}.last-good.json"]


# ---- somebody else decides meanwhile


def test_the_champion_that_somebody_promoted_meanwhile_keeps_its_place(
    store: RegistrySettings, registry: MlflowRegistry, three: tuple[str, str, str]
) -> None:
    _, second, third = three
    watched = started(store)
    crown(registry, NAME, third, 3.0)
    assert watched.relegate(second, "bad", 4.0)
    assert champion_in(registry) == third
    assert watched.news() is not None
    assert watched.version == third


def test_only_the_one_that_was_judged_is_rolled_back(
    store: RegistrySettings, registry: MlflowRegistry, three: tuple[str, str, str]
) -> None:
    _, second, third = three
    watched = started(store)
    crown(registry, NAME, third, 3.0)
    watched.news()
    assert not watched.relegate(second, "bad", 4.0)
    assert not watched.relegate("", "bad", 4.0)
    assert (watched.version, champion_in(registry)) == (third, third)


def test_one_that_was_promoted_anew_meanwhile_is_not_marked(
    store: RegistrySettings, registry: MlflowRegistry, three: tuple[str, str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second, _ = three
    watched = started(store)
    with monkeypatch.context() as away:
        take_away(away)
        with pytest.raises(RegistryError):
            watched.relegate(second, "bad", 3.0)
    crown(registry, NAME, first, 4.0)
    registry.tag(NAME, second, {FORCED: "we know better"})
    crown(registry, NAME, second, 5.0)
    assert watched.news() is not None
    assert (watched.version, watched.seats.forced, watched.seats.promoted_at) == (second, True, 5.0)
    bad = next(version for version in registry.versions(NAME) if version.version == second)
    assert bad.tags[ROLLED_BACK] == ""


def test_one_pointed_to_by_hand_gives_way_to_the_one_that_it_displaced(
    store: RegistrySettings, registry: MlflowRegistry, three: tuple[str, str, str]
) -> None:
    """Not to the one before that, which the record still calls the previous one."""
    _, second, third = three
    watched = started(store)
    registry.point(NAME, CHAMPION, third)
    watched.news()
    assert watched.seats.versions == {PREVIOUS: second}
    assert watched.relegate(third, "bad", 3.0)
    assert (watched.version, champion_in(registry)) == (second, second)


def test_two_threads_never_see_half_of_a_change(
    store: RegistrySettings, registry: MlflowRegistry, three: tuple[str, str, str]
) -> None:
    """One looks at the registry, one rolls back: in the end the bad one is gone, in either order."""
    first, second, _ = three
    watched = started(store)
    together = threading.Barrier(2)

    def look() -> None:
        together.wait()
        watched.news()

    thread = threading.Thread(target=look)
    thread.start()
    together.wait()
    assert watched.relegate(second, "bad", 3.0)
    thread.join()
    assert (watched.version, champion_in(registry)) == (first, first)
    assert watched.seats.model is not None
    assert watched.seats.model.name.startswith("small@")


# ---- what is on record


def test_when_and_whether_by_force_it_was_promoted_is_read_from_the_record(
    store: RegistrySettings, registry: MlflowRegistry, three: tuple[str, str, str]
) -> None:
    second = three[1]
    assert (started(store).seats.forced, started(store).seats.promoted_at) == (False, 2.0)
    registry.tag(NAME, second, {FORCED: "a demonstration", PROMOTED_AT: "soon"})
    assert (started(store).seats.forced, started(store).seats.promoted_at) == (True, float("-inf"))
    version = next(version for version in registry.versions(NAME) if version.version == second)
    assert instant_in(version, PROMOTED_AT) == float("-inf")


def test_who_was_rolled_back_is_not_remembered_as_the_one_before(
    store: RegistrySettings, registry: MlflowRegistry, tmp_path: Path
) -> None:
    bad, good = published(registry, tmp_path, 1), published(registry, tmp_path, 2)
    crown(registry, NAME, bad, 1.0)
    assert started(store).relegate(bad, "bad", 2.0)
    assert champion_in(registry) == bad  # nobody to take its place
    crown(registry, NAME, good, 3.0)
    assert holder(registry.versions(NAME), PREVIOUS) is None


# ---- what is loaded


def test_an_artifact_that_is_not_the_one_registered_is_not_loaded(
    store: RegistrySettings, registry: MlflowRegistry, tmp_path: Path
) -> None:
    swapped = published(registry, tmp_path, 4, artifact_digest="0" * 64)
    registry.point(NAME, CHAMPION, swapped)
    with pytest.raises(RegistryError, match="another artifact than was registered"):
        Champion(store, NAME, STEP_S).news()
    made = write_small_artifact(tmp_path / "net5", small_spec(step_s=STEP_S), 5)
    digest = load_artifact(made).manifest.digest
    registry.point(NAME, CHAMPION, registry.publish(NAME, made, {"artifact_digest": digest}).version)
    assert Champion(store, NAME, STEP_S).news() is not None


def test_why_a_challenger_cannot_be_compared_is_told_and_harms_nobody(
    store: RegistrySettings, registry: MlflowRegistry, three: tuple[str, str, str], tmp_path: Path
) -> None:
    odd = registry.publish(NAME, write_small_artifact(tmp_path / "odd", small_spec(step_s=15.0)), {})
    registry.point(NAME, CHALLENGER, odd.version)
    watched = started(store)
    assert watched.version == three[1]
    assert "trained on steps of 15 s" in str(watched.seats.unusable[CHALLENGER])
    assert CHALLENGER not in watched.seats.rivals
