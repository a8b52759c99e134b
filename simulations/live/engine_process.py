"""How is an emulated engine run as a child: started, waited for, asked, stopped."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from controller.errors import ActuationError

ROOT = Path(__file__).resolve().parents[2]

_STOP_S = 5.0


@dataclass(frozen=True, slots=True)
class EngineProcess:
    """A running engine and where it listens."""

    process: subprocess.Popen[str]
    port: int
    admin_port: int

    @property
    def url(self) -> str:
        """Where it serves."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def admin_url(self) -> str:
        """Where its faults are set."""
        return f"http://127.0.0.1:{self.admin_port}"

    def inflict(self, **fault: object) -> None:
        """Let something go wrong, by the JSON of ``engine_faults``; an engine that exits of it gives no answer.

        Raises:
            ActuationError: If the engine refuses.
        """
        try:
            answer = httpx.post(f"{self.admin_url}/faults", json=fault, timeout=_STOP_S)
        except httpx.TransportError:
            if fault.get("kind") == "exit":
                return
            raise ActuationError("the engine's admin port does not answer", self.admin_url) from None
        if answer.status_code != 200:
            raise ActuationError(f"fault {fault} was refused: {answer.text}", self.admin_url)

    def clear_faults(self) -> None:
        """End all faults that last."""
        httpx.delete(f"{self.admin_url}/faults", timeout=_STOP_S).raise_for_status()

    def state(self) -> Mapping[str, Any]:
        """Return what ``GET /state`` says."""
        answer: Mapping[str, Any] = httpx.get(f"{self.admin_url}/state", timeout=_STOP_S).raise_for_status().json()
        return answer

    def kill(self) -> None:
        """End it at once, if it runs."""
        self.process.kill()
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(_STOP_S)


@contextmanager
def engine_process(*options: str) -> Iterator[EngineProcess]:
    """Start an engine on free ports with ``options`` of its command line; it is gone when the context is left.

    Yields:
        The engine, as soon as both its ports listen; it may still be starting up.

    Raises:
        ActuationError: If it ends before it listens; what it said is in the message.
    """
    command: Sequence[str] = (sys.executable, "-m", "simulations.live.engine", "--stop-with-parent", *options)
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT) as process:  # noqa: S603 - our own program
        try:
            assert process.stdout is not None  # noqa: S101 - it is a pipe
            first = process.stdout.readline()
            try:
                said = json.loads(first)
                running = EngineProcess(process, said["port"], said["admin_port"])
            except (ValueError, KeyError):
                process.kill()
                raise ActuationError(f"the engine did not start: {first}{process.stdout.read()}") from None
            yield running
        finally:
            process.kill()
