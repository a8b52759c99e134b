"""Is the registry's champion loaded when there is a new one, and the old one kept when that cannot be used?"""

from __future__ import annotations

from pathlib import Path

import pytest

from controller.adapters.mlflow_registry import MlflowRegistry
from controller.adapters.registry_store import RegistrySettings
from controller.champion import CHAMPION, Champion, chain_of
from controller.errors import RegistryError
from forecasting.artifact import load_artifact
from tests.builders_forecasting import small_spec, write_small_artifact
from tests.builders_training import a_store

STEP_S = 60.0


def written_artifact(folder: Path) -> Path:
    return write_small_artifact(folder, small_spec(step_s=STEP_S))


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> RegistrySettings:
    return a_store(tmp_path_factory.mktemp("registry"))


@pytest.fixture(scope="module")
def registry(settings: RegistrySettings) -> MlflowRegistry:
    return MlflowRegistry.open(settings, may_create=True)


def test_a_store_that_was_never_made_has_no_champion(tmp_path: Path) -> None:
    settings = RegistrySettings(store=f"sqlite:///{tmp_path / 'none.db'}")
    assert Champion(settings, "load", STEP_S).news() is None
    assert not (tmp_path / "none.db").exists()


def test_a_new_champion_is_news_once(settings: RegistrySettings, registry: MlflowRegistry, tmp_path: Path) -> None:
    watched = Champion(settings, "load", STEP_S)
    first = registry.publish("load", written_artifact(tmp_path / "a"), {})
    assert watched.news() is None
    registry.point("load", CHAMPION, first.version)
    model = watched.news()
    assert model is not None
    assert watched.version == first.version
    assert watched.news() is None
    second = registry.publish("load", written_artifact(tmp_path / "b"), {})
    registry.point("load", CHAMPION, second.version)
    assert watched.news() is not None
    assert watched.version == second.version


def test_a_champion_of_another_step_is_refused_and_the_old_one_stays(
    settings: RegistrySettings, registry: MlflowRegistry, tmp_path: Path
) -> None:
    published = registry.publish("other-step", written_artifact(tmp_path / "a"), {})
    registry.point("other-step", CHAMPION, published.version)
    watched = Champion(settings, "other-step", 15.0)
    for _ in range(2):
        with pytest.raises(RegistryError, match="trained on steps of 60 s"):
            watched.news()
    assert watched.version == ""


def test_a_store_that_does_not_answer_is_an_error_of_the_registry() -> None:
    with pytest.raises(RegistryError):
        Champion(RegistrySettings(store="http://127.0.0.1:1", request_timeout_s=1), "load", STEP_S).news()


def test_the_champion_is_asked_first_and_something_plain_after_it(tmp_path: Path) -> None:
    model = load_artifact(written_artifact(tmp_path / "a"))
    assert chain_of(model).forecasters[0].name == model.name
    assert len(chain_of(model).forecasters) == 2
    assert len(chain_of(None).forecasters) == 1
