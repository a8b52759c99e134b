"""When was a model trained last, and how did that end? Kept on disk, so that a restart is no reason to wait anew."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from math import isfinite
from pathlib import Path

from controller.small_notes import read_note, write_note

WAITING, RUNNING, DONE, FAILED = "waiting", "running", "done", "failed"


@dataclass(frozen=True, slots=True)
class Training:
    """One run, or the wait for the first one.

    Attributes:
        at: When it began, Unix seconds.
        result: ``waiting`` for the first one, ``running``, ``done`` or ``failed``.
        why: What it was begun for, and how it ended.
    """

    at: float
    result: str
    why: str


class TrainingDiary:
    """What is on disk of the newest training, read once.

    Attributes:
        newest: The newest training; None while nobody asked.
    """

    def __init__(self) -> None:
        self.newest: Training | None = None

    def last(self, cache: Path, name: str, now: float) -> Training:
        """Return the newest training, by whoever ran before if need be; the wait for the first one begins ``now``."""
        if self.newest is not None:
            return self.newest
        found = _read(cache, name, now)
        if found is None:
            return self.note(cache, name, Training(now, WAITING, ""))
        if found.result == RUNNING:
            return self.note(cache, name, replace(found, result=FAILED, why=f"{found.why}; the daemon ended meanwhile"))
        self.newest = found
        return found

    def note(self, cache: Path, name: str, training: Training) -> Training:
        """Write it down and return it; where that cannot be done, the next start waits for a whole interval."""
        self.newest = training
        with suppress(OSError):
            write_note(_place(cache, name), asdict(training))
        return training


def _read(cache: Path, name: str, now: float) -> Training | None:
    """Return what was written down; None where that is nothing that can be read. It never lies in the future."""
    found = read_note(_place(cache, name))
    try:
        at = float(found["at"])
        training = Training(min(at, now), str(found["result"]), str(found["why"]))
    except (KeyError, TypeError, ValueError):
        return None
    return training if isfinite(at) else None


def _place(cache: Path, name: str) -> Path:
    return cache / f"{name}.last-training.json"
