"""Can results be written where they are wanted? Asked before hours are spent on them."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from controller.errors import BadInput

_TRIES = 20
"""How often a folder is made that comes and goes: two commands that begin together meet once or twice."""


def check_folder(folder: Path, option: str = "--out", files: Sequence[str] = ()) -> None:
    """Make sure that ``files`` can be written to ``folder``, by writing there; what that made is gone again.

    Raises:
        BadInput: If they cannot, naming ``option``.
    """
    where = f"{option} {folder}"
    with refusing(where, "name a folder that can be made and written to"):
        for name in files:
            _check_replaceable(folder / name, where)
        for tries_left in reversed(range(_TRIES)):
            try:
                _make_and_write_in(folder)
            except NotADirectoryError:
                existing = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
                raise BadInput(f"{existing} is not a folder", where, "name a folder") from None
            except (FileExistsError, FileNotFoundError):
                # Another command that checks the same folder has made it, or removed it again, at this very moment.
                if not tries_left:
                    raise
            else:
                return


def check_file(path: Path, option: str) -> None:
    """Make sure that the file ``path`` can be written in a folder that exists, by writing beside it.

    Raises:
        BadInput: If it cannot, naming ``option``.
    """
    where = f"{option} {path}"
    with refusing(where, "name a file in a folder that exists and can be written to"):
        _check_replaceable(path, where)
        if not path.parent.is_dir():
            raise BadInput(f"cannot write into {path.parent}: there is no such folder", where, "make it first")
        _write_in(path.parent)


def check_room(folder: Path, needed_bytes: int, option: str = "--out") -> None:
    """Make sure that ``needed_bytes`` fit where ``folder`` is or will be.

    Raises:
        BadInput: If they do not, naming ``option``.
    """
    where = f"{option} {folder}"
    with refusing(where, "name a folder that can be made and written to"):
        existing = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
        free_bytes = shutil.disk_usage(existing).free
    if free_bytes < needed_bytes:
        what = f"some {needed_bytes / 1e6:,.0f} MB will be written, and {free_bytes / 1e6:,.0f} MB are free there"
        raise BadInput(what, where, "make room, or name a folder on another disk")


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Wait until no other command replaces files in ``folder``, and let none begin: several belong together.

    A file system without locks is written to all the same.

    Raises:
        OSError: If there is no such folder.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def refusing(where: str, remedy: str) -> Iterator[None]:
    """Turn what the system says about a place into BadInput.

    Raises:
        BadInput: If something cannot be written.
    """
    try:
        yield
    except OSError as error:
        raise BadInput(f"cannot be written: {(error.strerror or str(error)).lower()}", where, remedy) from None


def _make_and_write_in(folder: Path) -> None:
    made: list[Path] = []
    try:
        for path in reversed([path for path in (folder.absolute(), *folder.absolute().parents) if not path.exists()]):
            path.mkdir()
            made.append(path)
        _write_in(folder)
    finally:
        for path in reversed(made):
            with suppress(OSError):  # somebody else has put something there by now
                path.rmdir()


def _check_replaceable(path: Path, where: str) -> None:
    if path.is_dir():
        raise BadInput(f"{path} is a folder", where, "give a file, or remove the folder")
    if path.exists() and not path.is_file():
        raise BadInput(f"{path} is not an ordinary file", where, "give a file that may be replaced")


def _write_in(folder: Path) -> None:
    with tempfile.TemporaryFile(dir=folder, prefix=".foresail-") as probe:
        probe.write(b"?")
