"""Who trains a new model? A command of the operator's, as a child process: the daemon never imports ``training``.

What it trains reaches the daemon as everything does: through the registry, once somebody promotes it.
"""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import IO

from pydantic import BaseModel, ConfigDict, Field

TAIL_BYTES = 2_000
END_WITHIN_S = 10.0


class RetrainSettings(BaseModel):
    """When a new model is trained, and by which command."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    command: tuple[str, ...] = Field(
        (),
        max_length=64,
        description="Program and arguments, run without a shell, such as [foresail, train, --data, load.parquet]; an "
        "empty list trains nothing.",
    )
    every_s: float = Field(86_400.0, ge=60, description="Seconds between runs; load changes its shape over days.")
    timeout_s: float = Field(3_600.0, gt=0, description="Longest run in seconds; then it is ended.")


@dataclass(frozen=True, slots=True)
class RetrainResult:
    """How a run ended: ``code`` is None when it was ended by us, ``tail`` the end of what it printed."""

    code: int | None
    tail: str


class Retraining:
    """Runs the command, one run at a time, in a process group of its own."""

    def __init__(self) -> None:
        self._child: subprocess.Popen[bytes] | None = None
        self._guard = threading.Lock()
        self._stopped = False

    def run(self, settings: RetrainSettings) -> RetrainResult:
        """Run ``settings.command`` to its end, or until its time is up or ``stop`` is called."""
        with tempfile.TemporaryFile() as output:
            try:
                child = self._start(settings.command, output)
            except OSError as error:
                return RetrainResult(127, f"{settings.command[0]}: {error.strerror}")
            if child is None:
                return RetrainResult(None, "")
            code: int | None
            try:
                code = child.wait(settings.timeout_s)
            except subprocess.TimeoutExpired:
                code = None
            _end(child)
            return RetrainResult(None if self._is_stopped() else code, _tail(output))

    def _start(self, command: Sequence[str], output: IO[bytes]) -> subprocess.Popen[bytes] | None:
        with self._guard:
            if self._stopped:
                return None
            self._child = subprocess.Popen(  # noqa: S603 - the operator's own command, without a shell
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            return self._child

    def _is_stopped(self) -> bool:
        return self._stopped

    def stop(self) -> None:
        """End the run that is under way, and begin no other."""
        with self._guard:
            self._stopped = True
        if self._child is not None:
            _end(self._child)


def _end(child: subprocess.Popen[bytes]) -> None:
    """Ask the whole group to end, then make it: its own children may have outlived it."""
    with suppress(ProcessLookupError, PermissionError):
        if child.poll() is None:
            os.killpg(child.pid, signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                child.wait(END_WITHIN_S)
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()


def _tail(output: IO[bytes]) -> str:
    output.seek(0, os.SEEK_END)
    output.seek(max(0, output.tell() - TAIL_BYTES))
    return output.read().decode(errors="replace").strip()
