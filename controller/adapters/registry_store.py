"""Can this model store be opened, and where do its artifacts lie? Found out before MLflow touches anything."""

from __future__ import annotations

import os
import re
import sqlite3
from contextlib import closing
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from controller.errors import RegistryError
from controller.redaction import redacted

DEFAULT_STORE = "sqlite:///foresail-runs/mlflow.db"

_SQLITE_MAGIC = b"SQLite format 3\x00"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_SERVERS = ("http://", "https://")
_DATABASES = ("postgresql", "mysql", "mssql")


class RegistrySettings(BaseModel):
    """Where trained models are kept, and how patiently they are asked for."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    store: str = Field(
        DEFAULT_STORE,
        min_length=1,
        description="MLflow store: sqlite:///PATH (needs no server), postgresql://... or the http(s) URL of a server.",
    )
    cache: Path | None = Field(
        None,
        description="Folder for local copies of fetched artifacts, one folder per version, safe to delete; null is "
        "`models` beside a SQLite store, or foresail-runs/models.",
    )
    request_timeout_s: int = Field(
        10, gt=0, le=300, description="Longest wait for one answer of a tracking server, in seconds."
    )
    max_artifact_mib: int = Field(
        64,
        gt=0,
        le=4096,
        description="Largest artifact that is published or fetched, in MiB; the largest net shipped takes under 2.",
    )

    @property
    def cache_folder(self) -> Path:
        """Where local copies go."""
        if self.cache is not None:
            return self.cache
        path = sqlite_path(self.store)
        return (path or Path(DEFAULT_STORE.removeprefix("sqlite:///"))).parent / "models"


def check_name(name: str) -> None:
    """Refuse a name that could not be that of a registered model; raises RegistryError."""
    if not _NAME.fullmatch(name):
        raise RegistryError(
            f"{name!r} cannot be the name of a model",
            "--name",
            "use up to 64 letters, digits, dots, dashes, underscores",
        )


def sqlite_path(store: str) -> Path | None:
    """Return the file of a ``sqlite:///PATH`` store, parameters left out; None for any other kind."""
    return Path(store.removeprefix("sqlite:///").partition("?")[0]) if store.startswith("sqlite:///") else None


def check_store(store: str, may_create: bool) -> None:
    """Refuse a store that MLflow could not open, would retry for minutes, or would write its tables into by mistake.

    A missing folder is made for the default store only: a mistyped path must not grow a second, empty store.

    Args:
        store: URL of the store.
        may_create: Whether a file that does not exist yet is fine (publishing), or an error (reading).

    Raises:
        RegistryError: If the store cannot be used.
    """
    path = sqlite_path(store)
    if path is not None:
        _check_sqlite(path, redacted(store), may_create)
    elif store.startswith(_SERVERS):
        return
    elif store.startswith(_DATABASES) and "://" in store:
        _check_database(store)
    else:
        raise RegistryError(
            f"cannot tell what kind of model store {redacted(store)!r} is",
            "--store",
            "give sqlite:///PATH, postgresql://..., or the http(s) URL of an MLflow server",
        )


def _check_sqlite(path: Path, store: str, may_create: bool) -> None:
    if store == DEFAULT_STORE and may_create:
        _make_folder(path.parent)
    if not path.name or path.is_dir():
        raise RegistryError(f"{path} is a folder, not a database file", store, f"give {store.rstrip('/')}/mlflow.db")
    if not path.parent.is_dir():
        raise RegistryError(
            f"the folder {path.parent} does not exist", store, "create it, or train a model first into this store"
        )
    if not path.exists():
        if not may_create:
            raise RegistryError("there is no model store here yet", store, "train a model first: foresail train")
        if not os.access(path.parent, os.W_OK | os.X_OK):
            raise RegistryError(f"the folder {path.parent} is not writable", store, "give a store that you may write")
        return
    if not os.access(path, os.R_OK | os.W_OK):
        raise RegistryError(f"{path} is not readable and writable", store, "give a store that you may write")
    if path.stat().st_size:
        _check_tables(path, store)


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RegistryError(f"cannot create the folder {folder}: {error.strerror}", DEFAULT_STORE) from error


def _check_tables(path: Path, store: str) -> None:
    """MLflow creates its 60 tables in whatever database it is given; make sure that it is its own."""
    remedy = "give another file, or move this one away"
    try:
        with path.open("rb") as file:
            if file.read(len(_SQLITE_MAGIC)) != _SQLITE_MAGIC:
                raise RegistryError(f"{path} is not a SQLite database", store, remedy)
        with closing(sqlite3.connect(f"file:{path.resolve()}?mode=ro", uri=True, timeout=5.0)) as database:
            tables = {row[0] for row in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
            revision = database.execute("SELECT version_num FROM alembic_version").fetchone() if tables else None
    except (OSError, sqlite3.Error) as error:
        raise RegistryError(f"{path} is not an MLflow store: {error}", store, remedy) from error
    if not tables:
        return
    if revision is None or not {"experiments", "registered_models"} <= tables:
        raise RegistryError(f"{path} is a database, but not an MLflow store", store, remedy)
    _check_revision(str(revision[0]), store)


def _check_revision(revision: str, store: str) -> None:
    """MLflow would migrate an older store without asking, and fail obscurely on a newer one."""
    from importlib.util import find_spec

    from alembic.script import ScriptDirectory

    package = find_spec("mlflow")
    if package is None or package.origin is None:
        raise RegistryError("MLflow is not installed", store, "install the package mlflow-skinny")
    head = ScriptDirectory(str(Path(package.origin).parent / "store" / "db_migrations")).get_current_head()
    if revision != head:
        raise RegistryError(
            f"the store has schema {revision}, this MLflow expects {head}",
            store,
            "back it up and run: mlflow db upgrade, with the version of MLflow that Foresail pins",
        )


def _check_database(store: str) -> None:
    """Connect once, since MLflow would retry a refused connection for over a minute."""
    from sqlalchemy import create_engine
    from sqlalchemy.exc import SQLAlchemyError

    remedy = "check that the database runs, the address and the credentials"
    try:
        engine = create_engine(store)
        try:
            engine.connect().close()
        finally:
            engine.dispose()
    except ImportError as error:
        raise RegistryError(f"the driver is not installed: {error.name}", redacted(store), "install it") from error
    except (SQLAlchemyError, OSError) as error:
        first_line = redacted(str(error).splitlines()[0])
        raise RegistryError(f"cannot connect: {first_line}", redacted(store), remedy) from error
