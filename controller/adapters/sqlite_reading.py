"""How is a SQLite file opened where only reading is needed, and what is really in the way when it cannot be?"""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path
from urllib.parse import quote

SQLITE_MAGIC = b"SQLite format 3\x00"
_READ_VERSION = 19  # offset in the header; 2 is write-ahead logging (https://www.sqlite.org/fileformat.html, 1.3)


def reading_uri(path: Path) -> str:
    """Return the SQLite URI under which ``path`` is read, without changing its journal mode.

    * Where file and folder may be written: ``mode=rw``. A reader in ``mode=ro`` would leave a ``-wal`` behind.
    * Where they may not: ``mode=ro``, which reads beside a writer at work, whose ``-shm`` is there to be shared.
    * Where they may not, and the file is in WAL mode but nobody has it open: ``immutable=1``, without which SQLite
      refuses, since it could not make a ``-shm``. Everything is in the file then, and a writer that opens it meanwhile
      puts the new pages elsewhere first.

    Raises:
        OSError: If the file cannot be looked at.
    """
    place = f"file:{quote(str(path.resolve()))}"
    if os.access(path, os.W_OK) and os.access(path.resolve().parent, os.W_OK | os.X_OK):
        return f"{place}?mode=rw"
    if _in_wal_mode(path) and not _beside(path, "-wal") and not _beside(path, "-journal"):
        return f"{place}?immutable=1"
    return f"{place}?mode=ro"


def why_unreadable(path: Path, error: sqlite3.Error) -> str:
    """Return the reason for which SQLite could not read ``path``, in words."""
    left = next((ending for ending in ("-wal", "-journal") if _beside(path, ending)), "")
    name = getattr(error, "sqlite_errorname", "") or ""
    if left and name.startswith(("SQLITE_CANTOPEN", "SQLITE_READONLY")):
        return (
            f"{path.name}{left} holds changes that are not in it yet, and SQLite cannot take them in without writing "
            f"into the folder {path.parent}"
        )
    return str(error)


def _in_wal_mode(path: Path) -> bool:
    with path.open("rb") as file:
        header = file.read(_READ_VERSION + 1)
    return len(header) > _READ_VERSION and header[_READ_VERSION] == 2


def _beside(path: Path, ending: str) -> bool:
    """Return whether SQLite's file of this ending lies beside ``path`` with something in it."""
    other = path.resolve().with_name(path.resolve().name + ending)
    return other.exists() and other.stat().st_size > 0
