"""How MLflow's registry refuses stores and versions that it cannot or must not use."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from controller.adapters.mlflow_registry import MlflowRegistry, open_client
from controller.adapters.registry_store import DEFAULT_STORE, RegistrySettings, check_store
from controller.errors import RegistryError
from tests.builders_training import a_store


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> RegistrySettings:
    """A store that exists, with a small bound for artifacts."""
    return a_store(tmp_path_factory.mktemp("store")).model_copy(update={"max_artifact_mib": 1})


@pytest.fixture
def artifact(tmp_path: Path) -> Path:
    folder = tmp_path / "artifact"
    folder.mkdir()
    (folder / "manifest.json").write_text("{}")
    return folder


def test_a_store_in_a_missing_folder_is_refused_and_the_folder_not_made(tmp_path: Path) -> None:
    with pytest.raises(RegistryError, match="does not exist"):
        check_store(f"sqlite:///{tmp_path}/mistyped/mlflow.db", may_create=True)
    assert not (tmp_path / "mistyped").exists()


def test_the_default_store_makes_its_own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    check_store(DEFAULT_STORE, may_create=True)
    assert (tmp_path / "foresail-runs").is_dir()


def test_a_store_that_is_not_there_is_not_made_by_reading(tmp_path: Path) -> None:
    with pytest.raises(RegistryError, match="no model store here yet"):
        check_store(f"sqlite:///{tmp_path}/mlflow.db", may_create=False)


@pytest.mark.parametrize("content", [b"", "tableless"], ids=["no byte", "no table"])
def test_an_empty_file_is_no_store_to_read_and_not_made_one(tmp_path: Path, content: bytes | str) -> None:
    path = tmp_path / "mlflow.db"
    path.touch()
    if content:
        with sqlite3.connect(path) as database:
            database.execute("PRAGMA user_version = 1")
        database.close()
    before = path.read_bytes()
    with pytest.raises(RegistryError, match="is empty, there is no model store"):
        open_client(RegistrySettings(store=f"sqlite:///{path}"), may_create=False)
    assert path.read_bytes() == before
    check_store(f"sqlite:///{path}", may_create=True)


@pytest.mark.parametrize(
    ("store", "expected"),
    [
        ("sqlite:////proc/mlflow.db", "the folder /proc cannot be written"),
        ("sqlite:////dev/null/mlflow.db", "/dev/null is a file, not a folder"),
        ("sqlite:///:memory:", "gone when the command ends"),
    ],
)
def test_a_place_that_takes_no_store_is_refused_at_once(store: str, expected: str) -> None:
    with pytest.raises(RegistryError, match=expected):
        check_store(store, may_create=True)


def test_a_folder_is_not_a_store(tmp_path: Path) -> None:
    with pytest.raises(RegistryError, match="is a folder"):
        check_store(f"sqlite:///{tmp_path}", may_create=True)


def test_a_file_that_is_no_database_is_refused_and_kept(tmp_path: Path) -> None:
    path = tmp_path / "notes.db"
    path.write_text("my notes, not a database at all")
    with pytest.raises(RegistryError, match="not a SQLite database"):
        check_store(f"sqlite:///{path}", may_create=True)
    assert path.read_text().startswith("my notes")


def test_a_truncated_database_is_refused(settings: RegistrySettings, tmp_path: Path) -> None:
    whole = Path(settings.store.removeprefix("sqlite:///")).read_bytes()
    path = tmp_path / "cut.db"
    path.write_bytes(whole[:3000])
    with pytest.raises(RegistryError, match="not an MLflow store"):
        check_store(f"sqlite:///{path}", may_create=True)


def test_someone_elses_database_gets_no_mlflow_tables(tmp_path: Path) -> None:
    path = tmp_path / "orders.db"
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE orders (id INTEGER)")
    database.close()
    with pytest.raises(RegistryError, match="not an MLflow store"):
        check_store(f"sqlite:///{path}", may_create=True)
    with sqlite3.connect(path) as database:
        assert database.execute("SELECT name FROM sqlite_master").fetchall() == [("orders",)]
    database.close()


def test_a_store_of_another_schema_is_refused_and_not_migrated(settings: RegistrySettings, tmp_path: Path) -> None:
    path = tmp_path / "old.db"
    path.write_bytes(Path(settings.store.removeprefix("sqlite:///")).read_bytes())
    with sqlite3.connect(path) as database:
        database.execute("UPDATE alembic_version SET version_num = 'ancient'")
    database.close()
    with pytest.raises(RegistryError, match="schema ancient"):
        open_client(RegistrySettings(store=f"sqlite:///{path}"), may_create=True)


@pytest.mark.parametrize("store", ["mlflow.db", "ftp://host/x", "file:///tmp/x", "nonsense"])
def test_an_unknown_kind_of_store_is_refused_by_name(store: str) -> None:
    with pytest.raises(RegistryError, match="cannot tell what kind"):
        check_store(store, may_create=True)


def test_a_server_that_does_not_answer_is_a_registry_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(RegistryError, match="the server does not answer") as caught:
        # Port 9 (discard) is closed everywhere that this runs; the refusal is immediate.
        open_client(RegistrySettings(store="http://user:s3cret@127.0.0.1:9", request_timeout_s=2), may_create=True)
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(
    "store",
    [
        "sqlite:////nowhere/mlflow.db?password=s3cret",
        "sqlite:///?password=s3cret",
        "ftp://u:s3cret@host/x",
        "oracle://db/x?user=u&password=s3cret",
        "postgresql+nodriver://u:pa@s3cret@127.0.0.1:9/x",
    ],
)
def test_a_store_that_is_refused_keeps_its_password(store: str) -> None:
    with pytest.raises(RegistryError) as caught:
        check_store(store, may_create=False)
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(
    ("store", "folder"),
    [
        ("sqlite:////srv/models/mlflow.db", "/srv/models/models"),
        ("https://mlflow.example.org", "foresail-runs/models"),
        (DEFAULT_STORE, "foresail-runs/models"),
    ],
)
def test_copies_are_kept_beside_a_file_store(store: str, folder: str) -> None:
    assert RegistrySettings(store=store).cache_folder == Path(folder)


def test_a_fetched_copy_that_was_changed_is_replaced_from_the_store(settings: RegistrySettings, artifact: Path) -> None:
    registry = MlflowRegistry.open(settings)
    registry.publish("copy", artifact, {})
    fetched = registry.fetch("copy", "1")
    (fetched / "manifest.json").write_text('{"tampered": true}')
    assert (registry.fetch("copy", "1") / "manifest.json").read_text() == "{}"


def test_an_artifact_over_the_bound_is_neither_published_nor_fetched(
    settings: RegistrySettings, artifact: Path
) -> None:
    (artifact / "weights.safetensors").write_bytes(bytes(1024 * 1024 + 1))
    with pytest.raises(RegistryError, match="MiB"):
        MlflowRegistry.open(settings).publish("large", artifact, {})
    generous = MlflowRegistry.open(settings.model_copy(update={"max_artifact_mib": 8}))
    generous.publish("large", artifact, {})
    with pytest.raises(RegistryError, match="more than the bound"):
        MlflowRegistry.open(settings).fetch("large", "1")


def test_an_artifact_with_a_link_is_not_published(settings: RegistrySettings, artifact: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("private")
    (artifact / "weights.safetensors").symlink_to(secret)
    with pytest.raises(RegistryError, match="plain files"):
        MlflowRegistry.open(settings).publish("linked", artifact, {})


def test_a_version_that_points_elsewhere_is_refused(settings: RegistrySettings, tmp_path: Path) -> None:
    (tmp_path / "MLmodel").write_text("flavors: {}")
    client = open_client(settings, may_create=False)
    client.create_registered_model("foreign")
    client.create_model_version("foreign", tmp_path.as_uri())
    with pytest.raises(RegistryError, match="not published by Foresail"):
        MlflowRegistry.open(settings).fetch("foreign", "1")


def test_a_version_whose_files_are_gone_is_a_registry_error(settings: RegistrySettings, artifact: Path) -> None:
    registry = MlflowRegistry.open(settings)
    registry.publish("gone", artifact, {})
    store = Path(settings.store.removeprefix("sqlite:///")).parent
    newest = max((store / "artifacts").iterdir(), key=lambda folder: folder.stat().st_mtime_ns)
    (newest / "artifacts" / "model" / "manifest.json").unlink()
    with pytest.raises(RegistryError, match="gone"):
        registry.fetch("gone", "1")


def test_importing_the_adapter_imports_neither_mlflow_nor_sqlalchemy() -> None:
    code = "import sys, controller.adapters.mlflow_registry; print({'mlflow', 'sqlalchemy'} & set(sys.modules))"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, env=environment)
    assert done.stdout.strip() == "set()"
