"""Whether a SQLite file is read by who may not write it, and left as it was by who may."""

from __future__ import annotations

import multiprocessing
import os
import sqlite3
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing, suppress
from pathlib import Path

import pytest

from controller.adapters.registry_store import _check_revision, check_store
from controller.adapters.sql_audit import SqlAudit
from controller.errors import BadInput, RegistryError
from tests.builders_records import blind_tick
from tests.builders_training import a_store

NOBODY = 65534


def audit_said(path: Path) -> str:
    """Return how many rows a reader finds, or why there are none for it."""
    try:
        with closing(SqlAudit.open_existing(path)) as log:
            return str(len(log))
    except BadInput as error:
        return error.what


def store_said(path: Path, writes: bool) -> str:
    try:
        check_store(f"sqlite:///{path}", may_create=False, writes=writes)
    except RegistryError as error:
        return error.what
    return "fine"


def give_up_rights() -> None:
    """Root may write everywhere; whoever else runs this may not write a folder without the mode for it."""
    with suppress(RegistryError):
        _check_revision("none", "")  # imports what it needs: afterwards root's Python may be out of reach
    if os.geteuid() == 0:
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)


@pytest.fixture(scope="module")
def reader() -> Iterator[ProcessPoolExecutor]:
    """A process that may read the folders of ``read_only``, and not write them."""
    spawned = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawned, initializer=give_up_rights) as pool:
        yield pool


@pytest.fixture
def read_only() -> Iterator[Path]:
    """A folder to fill and then to close with ``closed``; pytest's own lies where nobody else may look."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)
        Path(folder).chmod(0o755)


def closed(folder: Path) -> None:
    for path in folder.iterdir():
        path.chmod(0o444)
    folder.chmod(0o555)


def crash(log: SqlAudit, path: Path) -> None:
    """As after a crash of the machine: the newest rows are in the -wal, and no -shm says which."""
    wal = path.with_name("audit.db-wal")
    held = (path.read_bytes(), wal.read_bytes())
    log.close()
    path.write_bytes(held[0])
    wal.write_bytes(held[1])


@pytest.mark.parametrize(
    ("writer", "said"),
    [("finished", "3"), ("at work", "3"), ("crashed", "audit.db-wal holds changes that are not in it yet")],
)
def test_an_audit_log_that_may_only_be_read_is_read_whole_or_says_why_not(
    reader: ProcessPoolExecutor, read_only: Path, writer: str, said: str
) -> None:
    path = read_only / "audit.db"
    log = SqlAudit.open(f"sqlite:///{path}")
    for i in range(3):
        log.append(blind_tick(float(i)))
    if writer == "finished":
        log.close()
    elif writer == "crashed":
        crash(log, path)
    closed(read_only)
    assert said in reader.submit(audit_said, path).result()
    read_only.chmod(0o755)
    log.close()


def test_a_locked_audit_log_is_said_to_be_locked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("controller.adapters.sql_audit.LOCK_WAIT_MS", 1)
    path = tmp_path / "audit.db"
    SqlAudit.open(f"sqlite:///{path}").close()
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("PRAGMA locking_mode = EXCLUSIVE")
        other.execute("BEGIN EXCLUSIVE")
        assert audit_said(path) == "the audit log cannot be read: database is locked"


def test_a_reader_leaves_nothing_behind_and_the_journal_mode_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "other.db"
    with closing(sqlite3.connect(path)) as database:
        database.execute("CREATE TABLE other (x)")
    before = path.read_bytes()
    assert "without its table" in audit_said(path)
    SqlAudit.open(f"sqlite:///{tmp_path}/audit.db").close()
    assert audit_said(tmp_path / "audit.db") == "0"
    assert path.read_bytes() == before
    assert sorted(each.name for each in tmp_path.iterdir()) == ["audit.db", "other.db"]


def test_a_path_with_marks_of_a_url_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a?b#c%20.db"
    with closing(sqlite3.connect(path)) as database:
        database.execute("CREATE TABLE other (x)")
    assert "without its table" in audit_said(path)


def test_a_store_that_may_only_be_read_serves_readers_alone(reader: ProcessPoolExecutor, read_only: Path) -> None:
    a_store(read_only)
    path = read_only / "mlflow.db"
    closed(read_only)
    assert reader.submit(store_said, path, False).result() == "fine"
    assert "cannot be written: permission denied" in reader.submit(store_said, path, True).result()
    read_only.chmod(0o755)
    with closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA journal_mode = WAL")
    closed(read_only)
    assert "is in WAL mode" in reader.submit(store_said, path, False).result()


def test_a_store_in_a_folder_that_is_closed_to_the_reader_says_so(reader: ProcessPoolExecutor, read_only: Path) -> None:
    (read_only / "mlflow.db").touch()
    read_only.chmod(0o000)
    assert "permission denied" in reader.submit(store_said, read_only / "mlflow.db", False).result()
