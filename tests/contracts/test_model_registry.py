"""What every model registry must do, MLflow's and the fake alike."""

from __future__ import annotations

from pathlib import Path

import pytest

from controller.adapters.mlflow_registry import MlflowRegistry
from controller.errors import RegistryError
from controller.ports import ModelRegistry
from tests.builders_training import FolderRegistry, a_store


@pytest.fixture(scope="module", params=["mlflow", "folder"])
def registry(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> ModelRegistry:
    """One store for the module, since opening an MLflow store takes a while; every test uses names of its own."""
    folder = tmp_path_factory.mktemp("registry")
    if request.param == "folder":
        return FolderRegistry(folder)
    return MlflowRegistry.open(a_store(folder))


@pytest.fixture
def artifact(tmp_path: Path) -> Path:
    folder = tmp_path / "artifact"
    folder.mkdir()
    (folder / "manifest.json").write_text('{"kind": "test"}')
    (folder / "weights.safetensors").write_bytes(bytes(range(256)) * 40)
    return folder


def test_what_was_published_is_fetched_byte_for_byte(registry: ModelRegistry, artifact: Path) -> None:
    version = registry.publish("bytes", artifact, {})
    fetched = registry.fetch("bytes", version.version)
    assert fetched != artifact
    assert {f.name: f.read_bytes() for f in fetched.iterdir()} == {f.name: f.read_bytes() for f in artifact.iterdir()}


def test_versions_come_newest_first_with_their_tags(registry: ModelRegistry, artifact: Path) -> None:
    for seed in range(11):  # more than nine, so that an order by text would show
        registry.publish("order", artifact, {"seed": str(seed)})
    versions = registry.versions("order")
    assert [v.version for v in versions] == [str(n) for n in range(11, 0, -1)]
    assert versions[0].tags["seed"] == "10"
    assert all(v.aliases == () for v in versions)


def test_an_alias_names_one_version_and_moves(registry: ModelRegistry, artifact: Path) -> None:
    first = registry.publish("alias", artifact, {})
    (artifact / "manifest.json").write_text('{"kind": "second"}')
    second = registry.publish("alias", artifact, {})
    registry.point("alias", "champion", first.version)
    registry.point("alias", "challenger", second.version)
    assert [v.aliases for v in registry.versions("alias")] == [("challenger",), ("champion",)]
    registry.point("alias", "champion", second.version)
    assert [v.aliases for v in registry.versions("alias")] == [("challenger", "champion"), ()]
    assert "second" in (registry.fetch("alias", "champion") / "manifest.json").read_text()


def test_nothing_published_means_no_versions(registry: ModelRegistry) -> None:
    assert registry.versions("never-published") == ()


@pytest.mark.parametrize("asked", ["champion", "7"])
def test_an_unknown_version_or_alias_is_a_registry_error_that_names_it(
    registry: ModelRegistry, artifact: Path, asked: str
) -> None:
    registry.publish("unknown", artifact, {})
    with pytest.raises(RegistryError, match=asked):
        registry.fetch("unknown", asked)
    with pytest.raises(RegistryError, match=asked):
        registry.fetch("never-published", asked)


def test_an_alias_cannot_point_at_a_version_that_does_not_exist(registry: ModelRegistry, artifact: Path) -> None:
    registry.publish("dangling", artifact, {})
    with pytest.raises(RegistryError, match="9"):
        registry.point("dangling", "champion", "9")
    assert registry.versions("dangling")[0].aliases == ()


def test_a_missing_or_empty_artifact_is_not_published(registry: ModelRegistry, tmp_path: Path) -> None:
    with pytest.raises(RegistryError):
        registry.publish("absent", tmp_path / "nowhere", {})
    (tmp_path / "empty").mkdir()
    with pytest.raises(RegistryError):
        registry.publish("absent", tmp_path / "empty", {})
    assert registry.versions("absent") == ()


def test_a_name_that_is_a_path_is_refused(registry: ModelRegistry, artifact: Path) -> None:
    with pytest.raises(RegistryError):
        registry.publish("../escape", artifact, {})
