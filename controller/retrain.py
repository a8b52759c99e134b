"""Who trains a new model? A command of the operator's, as a child process: the daemon never imports ``training``.

What it trains reaches the daemon as everything does: through the registry, once somebody promotes it.
"""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import tempfile
import threading
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from pydantic import BaseModel, ConfigDict, Field

TAIL_BYTES = 2_000
END_WITHIN_S = 10.0
WATCH_S = 0.5
STOPPED = "the daemon stopped"


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
    max_memory_mib: int = Field(
        4096, ge=64, description="Most memory of the run and its children together, in MiB; beyond it, it is ended."
    )
    niceness: int = Field(10, ge=0, le=19, description="How far it stands back behind others that want the processor.")
    on_drift: bool = Field(True, description="Whether drift of load or forecasts begins a run between the intervals.")
    drift_quiet_s: float = Field(
        6 * 3600.0, ge=0, description="Seconds after a run in which drift begins no other: it may not go away."
    )


@dataclass(frozen=True, slots=True)
class RetrainResult:
    """How a run ended.

    Attributes:
        code: Exit code; None when it was ended by us.
        tail: End of what it printed.
        ended: Why it was ended by us, empty when it was not.
    """

    code: int | None
    tail: str
    ended: str = ""


class Retraining:
    """Runs the command, one run at a time, in a process group of its own."""

    def __init__(self) -> None:
        self._child: subprocess.Popen[bytes] | None = None
        self._guard = threading.Lock()
        self._stopped = False

    def run(self, settings: RetrainSettings) -> RetrainResult:
        """Run ``settings.command`` to its end, or until time or memory are used up or ``stop`` is called."""
        with tempfile.TemporaryFile() as output:
            try:
                child = self._start(settings, output)
            except OSError as error:
                return RetrainResult(127, f"{settings.command[0]}: {error.strerror}")
            if child is None:
                return RetrainResult(None, "", STOPPED)
            code, ended = _watched(child, settings)
            _end(child)
            with self._guard:
                self._child = None  # by the time of ``stop`` its number may be another's
            if self._is_stopped():
                code, ended = None, STOPPED
            return RetrainResult(code, _tail(output), ended)

    def _start(self, settings: RetrainSettings, output: IO[bytes]) -> subprocess.Popen[bytes] | None:
        with self._guard:
            if self._stopped:
                return None
            self._child = subprocess.Popen(  # noqa: S603 - the operator's own command, without a shell
                ["nice", "-n", str(settings.niceness), *settings.command] if settings.niceness else settings.command,
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
            child = self._child
        if child is not None:
            _end(child)


def _watched(child: subprocess.Popen[bytes], settings: RetrainSettings) -> tuple[int | None, str]:
    """Return the exit code, or why the run must end.

    Memory is looked at and not limited by the kernel: a limit on addresses would end what merely maps libraries.
    """
    looks = max(1, round(settings.timeout_s / WATCH_S))
    for _ in range(looks):
        with suppress(subprocess.TimeoutExpired):
            return child.wait(min(WATCH_S, settings.timeout_s)), ""
        used_mib = group_memory_mib(child.pid)
        if used_mib > settings.max_memory_mib:
            return None, f"it used {used_mib:.0f} MiB, more than the {settings.max_memory_mib} of max_memory_mib"
    return None, f"its time of {settings.timeout_s:g} s was up"


def group_memory_mib(group: int) -> float:
    """Return the resident memory of all processes of a group in MiB; 0 where the system does not tell."""
    pages = 0
    for place in Path("/proc").glob("[0-9]*"):
        with suppress(OSError, ValueError, IndexError):
            fields = (place / "stat").read_text().rpartition(")")[2].split()
            if int(fields[2]) == group:
                pages += int(fields[21])
    return pages * resource.getpagesize() / 2**20


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
