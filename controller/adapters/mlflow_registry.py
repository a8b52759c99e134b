"""Where are trained models kept? In MLflow's registry, as plain folders: no flavour is ever written or loaded."""

from __future__ import annotations

import hashlib
import logging
import os
import re
import shutil
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from controller.adapters.registry_store import RegistrySettings, check_name, check_store, is_blank, sqlite_path
from controller.adapters.store_draft import make_whole
from controller.errors import RegistryError
from controller.ports import ModelVersion
from controller.redaction import redacted

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion as MlflowVersion

EXPERIMENT = "foresail"
ARTIFACT_PATH = "model"

_MAX_FILES = 64
_MAX_VERSIONS = 1000
_MIB = 1024 * 1024
_REFUSED = re.compile(r"^\((?:sqlite3|psycopg\w*|pymysql)\.[\w.]+\) (.+)", re.MULTILINE)
_UNREACHED = re.compile(r"Max retries exceeded.*Caused by (\w+)")


def open_client(settings: RegistrySettings, may_create: bool, *, writes: bool = True) -> MlflowClient:
    """Return a client of the store, after one question that shows it answers.

    A new SQLite store takes about four seconds, MLflow's own schema migrations. It appears when they are done.

    Args:
        settings: Which store.
        may_create: Whether one that does not exist yet is made.
        writes: Whether more than reading is meant; a file that can only be read is refused then.

    Raises:
        RegistryError: If the store cannot be opened.
    """
    check_store(settings.store, may_create, writes=writes)
    # MLflow takes these from the environment only, and telemetry before the import; what the user has set stays.
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", str(settings.request_timeout_s))
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    from mlflow import MlflowClient

    # Its tracebacks and migration notes go to stderr; what matters of them comes back as a RegistryError.
    for logger in ("mlflow", "alembic", "urllib3.connectionpool"):
        logging.getLogger(logger).setLevel(logging.CRITICAL)
    with registry_errors(settings.store), warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # MLflow's own use of SQLAlchemy
        path = sqlite_path(settings.store)
        if path is not None and is_blank(path):
            make_whole(path, lambda: not is_blank(path), _make_tables)
        client = MlflowClient(settings.store, settings.store)
        client.search_experiments(max_results=1)
    return client


def _make_tables(path: Path) -> None:
    """Make MLflow's tables in the empty SQLite file ``path``, with an engine of its own that is let go of."""
    from mlflow.store.db import utils
    from sqlalchemy import create_engine

    engine = create_engine(f"sqlite:///{path}")
    try:
        # Not public, and MLflow is pinned: a client would do the same, but keep the file open for as long as it lives.
        utils._initialize_tables(engine)  # type: ignore[no-untyped-call]  # MLflow has no types here
    finally:
        engine.dispose()


@contextmanager
def registry_errors(store: str) -> Iterator[None]:
    """Turn every error of MLflow, SQLAlchemy and the file system into a RegistryError that names ``store``."""
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (MlflowException, SQLAlchemyError, OSError) as error:
        first_line = (str(error).splitlines() or [type(error).__name__])[0]
        unreached, refused = _UNREACHED.search(first_line), _REFUSED.search(str(error))
        what = f"the server does not answer ({unreached[1]})" if unreached else first_line
        what = f"the database refuses: {refused[1]}" if refused else what
        raise RegistryError(
            redacted(what)[:400], redacted(store), "check that the store exists, answers and may be written"
        ) from error


def experiment_id(client: MlflowClient, store: str) -> str:
    """Return the id of Foresail's experiment; a file store keeps its artifacts in a folder beside the file."""
    found = client.get_experiment_by_name(EXPERIMENT)
    if found is not None:
        if found.lifecycle_stage != "active":
            raise RegistryError(f"the experiment {EXPERIMENT!r} is deleted", redacted(store), "restore it in MLflow")
        return str(found.experiment_id)
    path = sqlite_path(store)
    location = None if path is None else (path.resolve().parent / "artifacts").as_uri()
    return client.create_experiment(EXPERIMENT, artifact_location=location)


class MlflowRegistry:
    """``ModelRegistry`` over the registry of MLflow.

    A version is a folder logged to a run under ``ARTIFACT_PATH``; a version that points anywhere else was not
    published by Foresail and is refused.
    """

    def __init__(self, client: MlflowClient, settings: RegistrySettings) -> None:
        self._client = client
        self._settings = settings

    @classmethod
    def open(cls, settings: RegistrySettings, may_create: bool = False, *, writes: bool = True) -> MlflowRegistry:
        """Return the registry of the store; raises RegistryError if it cannot be opened, see ``open_client``."""
        return cls(open_client(settings, may_create, writes=writes), settings)

    def fetch(self, name: str, alias_or_version: str) -> Path:
        """Return a local copy of the artifact, made anew from the store on every call.

        A copy that is already there and equal is kept, so that a reader of it is not disturbed.
        """
        with self._errors():
            found = self._version(name, alias_or_version)
            run_id = self._run_of(found)
            self._check_size(run_id, f"{name} version {found.version}")
            cache = self._settings.cache_folder
            _make_cache(cache)
            with tempfile.TemporaryDirectory(dir=cache, prefix=".fetch-") as scratch:
                fetched = Path(self._client.download_artifacts(run_id, ARTIFACT_PATH, scratch))
                return _settle(fetched, cache / f"{name}-{found.version}-{run_id[:8]}")

    def versions(self, name: str) -> tuple[ModelVersion, ...]:
        """Return all versions, newest first; none when nothing was ever published under ``name``."""
        with self._errors():
            check_name(name)
            found = self._client.search_model_versions(f"name='{name}'", max_results=_MAX_VERSIONS)
            if not found:
                return ()
            # A search leaves the aliases of a version out; the registered model has them all.
            aliases = self._client.get_registered_model(name).aliases
            newest_first = sorted(found, key=lambda version: -int(version.version))
            return tuple(_as_version(version, aliases) for version in newest_first)

    def publish(self, name: str, artifact: Path, tags: Mapping[str, str]) -> ModelVersion:
        """Register the artifact folder as a new version, in a run of its own."""
        with self._errors():
            run = self._client.create_run(experiment_id(self._client, self._settings.store), run_name=name)
            version = self.register(run.info.run_id, name, artifact, tags)
            self._client.set_terminated(run.info.run_id)
            return version

    def register(self, run_id: str, name: str, artifact: Path, tags: Mapping[str, str]) -> ModelVersion:
        """Log the artifact folder to a run that exists, and register it as a new version of ``name``."""
        with self._errors():
            check_name(name)
            _check_folder(artifact, self._settings.max_artifact_mib)
            self._client.log_artifacts(run_id, str(artifact), ARTIFACT_PATH)
            if not self._client.search_registered_models(f"name='{name}'", max_results=1):
                self._client.create_registered_model(name)
            source = f"{self._client.get_run(run_id).info.artifact_uri}/{ARTIFACT_PATH}"
            version = self._client.create_model_version(name, source, run_id, tags=dict(tags))
            return ModelVersion(name, str(version.version), (), dict(tags))

    def point(self, name: str, alias: str, version: str) -> None:
        """Let ``alias`` name ``version``; a version that held it loses it."""
        with self._errors():
            found = self._version(name, version)
            self._client.set_registered_model_alias(name, alias, str(found.version))

    def tag(self, name: str, version: str, tags: Mapping[str, str]) -> None:
        """Put ``tags`` on ``version``, over those of the same key."""
        with self._errors():
            for key, value in tags.items():
                self._client.set_model_version_tag(name, version, key, value)

    def discard(self, version: ModelVersion) -> None:
        """Delete a version that nobody was told of yet."""
        with self._errors():
            self._client.delete_model_version(version.name, version.version)

    def _version(self, name: str, alias_or_version: str) -> MlflowVersion:
        from mlflow.exceptions import MlflowException

        check_name(name)
        try:
            if alias_or_version.isdecimal():
                return self._client.get_model_version(name, alias_or_version)
            return self._client.get_model_version_by_alias(name, alias_or_version)
        except MlflowException as error:
            if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                raise
            known = [f"{v.version}{''.join(f' ({a})' for a in v.aliases)}" for v in self.versions(name)[:5]]
            raise RegistryError(
                f"there is no version or alias {alias_or_version!r} of {name!r}",
                redacted(self._settings.store),
                f"known versions: {', '.join(known)}" if known else f"publish one first: foresail train --name {name}",
            ) from error

    def _run_of(self, version: MlflowVersion) -> str:
        run_id = version.run_id or ""
        expected = f"{self._client.get_run(run_id).info.artifact_uri}/{ARTIFACT_PATH}" if run_id else ""
        if not expected or version.source != expected:
            raise RegistryError(
                f"{version.name} version {version.version} was not published by Foresail "
                f"(source {redacted(version.source or 'none')})",
                redacted(self._settings.store),
                "publish it with foresail train",
            )
        return run_id

    def _check_size(self, run_id: str, what: str) -> None:
        entries = self._client.list_artifacts(run_id, ARTIFACT_PATH)
        total = sum(int(entry.file_size or 0) for entry in entries)
        where = redacted(self._settings.store)
        if not entries:
            raise RegistryError(f"the files of {what} are gone", where, "train and publish it again")
        if any(entry.is_dir for entry in entries) or len(entries) > _MAX_FILES:
            raise RegistryError(f"{what} is no flat folder of at most {_MAX_FILES} files", where, "publish it again")
        if total > self._settings.max_artifact_mib * _MIB:
            raise RegistryError(
                f"{what} has {total / _MIB:.1f} MiB, more than the bound of {self._settings.max_artifact_mib}",
                where,
                "raise registry.max_artifact_mib if that is meant",
            )

    @contextmanager
    def _errors(self) -> Iterator[None]:
        with registry_errors(self._settings.store):
            yield


def _make_cache(cache: Path) -> None:
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=cache):
            pass
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        what = f"no local copy of the model can be kept in {cache}: {reason}"
        raise RegistryError(what, "registry.cache", "set registry.cache to a folder that may be written") from error


def _check_folder(artifact: Path, max_mib: int) -> None:
    """An artifact is a small flat folder of plain files."""
    if not artifact.is_dir():
        raise RegistryError("the artifact folder does not exist", str(artifact))
    entries = list(artifact.iterdir())
    if not entries or len(entries) > _MAX_FILES or any(e.is_symlink() or not e.is_file() for e in entries):
        raise RegistryError(f"an artifact is a folder of 1 to {_MAX_FILES} plain files", str(artifact))
    total = sum(entry.stat().st_size for entry in entries)
    if total > max_mib * _MIB:
        raise RegistryError(f"the artifact has {total / _MIB:.1f} MiB, more than {max_mib}", str(artifact))


def _as_version(version: MlflowVersion, aliases: Mapping[str, object]) -> ModelVersion:
    number = str(version.version)
    own = tuple(sorted(alias for alias, target in aliases.items() if str(target) == number))
    return ModelVersion(str(version.name), number, own, dict(version.tags))


def _settle(fetched: Path, target: Path) -> Path:
    """Move a fetched folder to its place unless an equal one is there."""
    if target.is_dir():
        if _digests(target) == _digests(fetched):
            return target
        shutil.rmtree(target)
    return fetched.rename(target)


def _digests(folder: Path) -> dict[str, str]:
    return {entry.name: hashlib.sha256(entry.read_bytes()).hexdigest() for entry in folder.iterdir()}
