"""Can this model store be opened, and where do its artifacts lie? Found out before MLflow touches anything."""

from __future__ import annotations

import re
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from controller.adapters.sqlite_reading import SQLITE_MAGIC, reading_uri, why_unreadable
from controller.errors import RegistryError
from controller.redaction import redacted

DEFAULT_STORE = "sqlite:///foresail-runs/mlflow.db"

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_SERVERS = ("http://", "https://")
_DATABASES = ("postgresql", "mysql", "mssql")
_OTHER_STORE = "give a store in a folder that you may write"
_TRAIN_FIRST = "train a model first: foresail train"


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


def check_store(store: str, may_create: bool, *, writes: bool = True) -> None:
    """Refuse a store that MLflow could not open, would retry for minutes, or would write its tables into by mistake.

    A missing folder is made for the default store only: a mistyped path must not grow a second, empty store.

    Args:
        store: URL of the store.
        may_create: Whether a store that does not exist yet is fine (publishing), or an error (reading).
        writes: Whether it is going to be written; for a file this is tried, not asked.

    Raises:
        RegistryError: If the store cannot be used.
    """
    path = sqlite_path(store)
    if path is not None:
        try:
            _check_sqlite(path, redacted(store), may_create, writes)
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            raise RegistryError(f"cannot look at {path}: {reason}", redacted(store), _OTHER_STORE) from error
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


def is_blank(path: Path) -> bool:
    """Return whether there is no store at ``path`` yet: no file, an empty one, or a database without anything in it.

    Raises:
        OSError: If the file cannot be looked at.
        sqlite3.Error: If it is no database, or one that cannot be read.
    """
    if not path.exists() or not path.stat().st_size:
        return True
    with _reading(path) as database:
        return database.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone() is None


def _check_sqlite(path: Path, store: str, may_create: bool, writes: bool) -> None:
    if store == DEFAULT_STORE and may_create:
        _make_folder(path.parent)
    _check_place(path, store, may_create)
    if writes:
        _check_writable(path, store)
    if path.exists():
        _check_tables(path, store, may_create)
        if not writes and reading_uri(path).endswith("immutable=1"):
            what = f"{path} is in WAL mode, and MLflow does not read that in a folder that cannot be written"
            raise RegistryError(what, store, "copy the store to a folder that you may write")
    elif not may_create:
        raise RegistryError("there is no model store here yet", store, _TRAIN_FIRST)


def _check_place(path: Path, store: str, may_create: bool) -> None:
    """Refuse what cannot be a file in a folder that exists."""
    if str(path) == ":memory:":
        raise RegistryError("a store in memory is gone when the command ends", store, "give sqlite:///PATH")
    if not path.name or path.is_dir():
        raise RegistryError(f"{path} is a folder, not a database file", store, f"give sqlite:///{path / 'mlflow.db'}")
    if path.parent.is_dir():
        return
    blocking = next((parent for parent in path.parents if parent.exists() and not parent.is_dir()), None)
    if blocking is not None:
        raise RegistryError(f"{blocking} is a file, not a folder", store, _OTHER_STORE)
    remedy = "create it first" if may_create else "train a model first into this store, or correct the path"
    raise RegistryError(f"the folder {path.parent} does not exist", store, remedy)


def _check_writable(path: Path, store: str) -> None:
    """Try to write: what the modes say, least of all to root, is not what a read-only file system does.

    Nothing is left behind. SQLite keeps its journal beside the file, so that the folder has to take files as well.
    """
    where = f"the folder {path.resolve().parent}"
    try:
        with tempfile.TemporaryFile(dir=path.resolve().parent):
            pass
        if path.exists():
            where = str(path)
            path.open("r+b").close()
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise RegistryError(f"{where} cannot be written: {reason}", store, _OTHER_STORE) from error


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise RegistryError(f"cannot create the folder {folder}: {reason}", DEFAULT_STORE, _OTHER_STORE) from error


def _check_tables(path: Path, store: str, may_create: bool) -> None:
    """MLflow creates its 60 tables in whatever database it is given; make sure that it is its own."""
    remedy = "give another file, or move this one away"
    try:
        with path.open("rb") as file:
            magic = file.read(len(SQLITE_MAGIC))
        if magic not in (b"", SQLITE_MAGIC):
            raise RegistryError(f"{path} is not a SQLite database", store, remedy)
        if is_blank(path):
            if may_create:
                return
            raise RegistryError(f"{path} is empty, there is no model store in it yet", store, _TRAIN_FIRST)
        with _reading(path) as database:
            tables = {row[0] for row in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
            revision = None
            if {"experiments", "registered_models", "alembic_version"} <= tables:
                revision = database.execute("SELECT version_num FROM alembic_version").fetchone()
    except sqlite3.OperationalError as error:
        what = f"{path} cannot be read: {why_unreadable(path, error)}"
        raise RegistryError(what, store, "let whoever writes it finish, or give a store that you may write") from error
    except sqlite3.Error as error:
        raise RegistryError(f"{path} is not an MLflow store: {error}", store, remedy) from error
    if revision is None:
        raise RegistryError(f"{path} is a database, but not an MLflow store", store, remedy)
    _check_revision(str(revision[0]), store)


@contextmanager
def _reading(path: Path) -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(reading_uri(path), uri=True, timeout=5.0)) as database:
        yield database


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
