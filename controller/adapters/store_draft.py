"""How does a new store come into being? Whole or not at all: made beside its place as a draft, then renamed.

MLflow takes seconds to make its tables, one migration after the other. Whoever is interrupted meanwhile must not leave
a database that looks like a store and is none.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

_ENDINGS = ("", "-journal", "-wal", "-shm")


def make_whole(path: Path, is_made: Callable[[], bool], make: Callable[[Path], None]) -> None:
    """Have ``make`` write a draft beside ``path`` and rename it to ``path``, unless ``is_made`` by then.

    Two at once: the second waits for the first and finds its work done. A draft that is interrupted is removed; one of
    a run that was killed is overwritten by the next.

    Args:
        path: Where the file is to be.
        is_made: Whether it is there and complete; asked when nobody else is making it.
        make: Writes the file that it is given, which exists and is empty, and has it closed when it returns.

    Raises:
        OSError: If the folder cannot be written.
    """
    path = path.resolve()
    draft = path.with_name(f".{path.name}.draft")
    with _locked(draft):
        try:
            if is_made():
                return
            os.truncate(draft, 0)
            _remove(draft, _ENDINGS[1:])
            make(draft)
            draft.replace(path)
        finally:
            _remove(draft, _ENDINGS)


@contextmanager
def _locked(draft: Path) -> Iterator[None]:
    """Make sure of the file ``draft`` and hold it against every other process; a killed one lets go of it by itself."""
    while True:
        opened = os.open(draft, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
        try:
            fcntl.flock(opened, fcntl.LOCK_EX)
            if _is_still(draft, opened):
                yield
                return
        finally:
            os.close(opened)


def _is_still(draft: Path, opened: int) -> bool:
    """Return whether ``draft`` names the file that was opened: whoever held it before has renamed or removed it."""
    try:
        return draft.stat().st_ino == os.fstat(opened).st_ino
    except FileNotFoundError:
        return False


def _remove(draft: Path, endings: tuple[str, ...]) -> None:
    for ending in endings:
        draft.with_name(draft.name + ending).unlink(missing_ok=True)
