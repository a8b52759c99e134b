"""How are child processes started, watched, logged and stopped, so that none outlives its supervisor?

Each child leads a session and process group of its own, so that Ctrl-C reaches the supervisor alone and a stop reaches
the child with all that it started. The kernel kills it when the supervisor dies, however that dies (``tether``). That
is bound to the *thread* that started the child: use a supervisor from one thread that lives as long as it does.
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from controller.errors import ForesailError

MAX_LOG_BYTES = 4_000_000
"""A longer log is moved to ``NAME.log.1``, in place of the one before: two files of this size per child at most."""

LAST_LINES = 5

_TETHER = Path(__file__).with_name("tether.py")
_LOG_CHECK_S = 5.0
_PORT_TRIES = 100


class StartFailed(ForesailError):
    """A child process ended or was not ready in time."""


class Child:
    """One child process and its group."""

    def __init__(self, name: str, process: asyncio.subprocess.Process, log: Path) -> None:
        self.name, self.log = name, log
        self._process = process

    @property
    def pid(self) -> int:
        """Process id, which is also that of its group."""
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """None while it runs; the negative signal number when a signal ended it."""
        return self._process.returncode

    async def wait(self) -> int:
        """Wait until it has ended and return its exit code."""
        return await self._process.wait()

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the child and all that it started."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, number)

    async def stop(self, grace_s: float) -> int:
        """Ask it to end, kill its group after ``grace_s`` seconds, and return its exit code.

        What it started and left behind is killed as well.
        """
        if self.exit_code is None:
            self.signal(signal.SIGTERM)
            with suppress(TimeoutError):
                await asyncio.wait_for(self._process.wait(), grace_s)
        self.signal(signal.SIGKILL)
        return await self._process.wait()

    def last_words(self) -> str:
        """Return the last lines of its log."""
        try:
            with self.log.open("rb") as file:
                file.seek(max(0, self.log.stat().st_size - 4000))
                text = file.read().decode(errors="replace")
        except OSError:
            return ""
        return "\n".join(text.splitlines()[-LAST_LINES:])


class Supervisor:
    """Starts children and stops all that are left, the last one started first.

    Use it as an asynchronous context manager: leaving the block stops everything, whatever ended it.

    Args:
        logs: Folder for one log per child name; made if missing. A name that is used again goes on in its file.
        grace_s: Seconds that a child gets between SIGTERM and SIGKILL when everything is stopped.
    """

    def __init__(self, logs: Path, grace_s: float = 5.0) -> None:
        self.logs = logs
        self._grace_s = grace_s
        self._children: list[Child] = []
        self._closing = False
        self._trimming: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Supervisor:
        self.logs.mkdir(parents=True, exist_ok=True)
        self._trimming = asyncio.create_task(self._keep_logs_short())
        return self

    async def __aexit__(self, *_error: object) -> None:
        if self._trimming is not None:
            self._trimming.cancel()
        await self.stop_all()

    @property
    def children(self) -> tuple[Child, ...]:
        """Children that run, in order of their start."""
        self._children = [child for child in self._children if child.exit_code is None]
        return tuple(self._children)

    async def start(self, name: str, command: Sequence[str], environment: Mapping[str, str] | None = None) -> Child:
        """Start a child; its output goes to ``NAME.log``.

        Raises:
            StartFailed: If everything is being stopped, or there is no such program.
        """
        if self._closing:
            raise StartFailed("everything is being stopped", name)
        log = self.logs / f"{re.sub(r'[^A-Za-z0-9._-]', '_', name)}.log"
        tethered = [sys.executable, "-I", "-S", str(_TETHER), str(os.getpid()), *command]
        with log.open("ab") as output:
            try:
                process = await asyncio.create_subprocess_exec(
                    *tethered,
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    start_new_session=True,
                    env={**os.environ, **environment} if environment else None,
                )
            except OSError as error:
                raise StartFailed(error.strerror or str(error), name) from None
        child = Child(name, process, log)
        self._children.append(child)
        if self._closing:  # while it was being started
            await child.stop(0.0)
            raise StartFailed("everything is being stopped", name)
        return child

    async def stop_all(self) -> None:
        """Stop every child, each after those that were started later; afterwards nothing can be started.

        When this is cancelled (a second Ctrl-C), what is left is killed at once.
        """
        self._closing = True
        try:
            for child in reversed(self.children):
                await child.stop(self._grace_s)
        finally:
            for child in self.children:
                child.signal(signal.SIGKILL)

    def kill_all(self) -> None:
        """Kill every child at once; afterwards nothing can be started."""
        self._closing = True
        for child in self.children:
            child.signal(signal.SIGKILL)

    async def _keep_logs_short(self) -> None:
        while True:
            await asyncio.sleep(_LOG_CHECK_S)
            for log in list(self.logs.glob("*.log")):
                with suppress(OSError):
                    rotate(log)


def rotate(log: Path, most_bytes: int = MAX_LOG_BYTES) -> bool:
    """Move what ``log`` holds to ``NAME.log.1`` when it is longer than ``most_bytes``; return whether it was.

    The file itself is emptied rather than renamed: its writers have it open for appending and go on in it.
    """
    if log.stat().st_size <= most_bytes:
        return False
    older = log.with_name(log.name + ".1")
    older.write_bytes(log.read_bytes()[-most_bytes:])
    os.truncate(log, 0)
    return True


async def until_ready(
    child: Child, check: Callable[[], Awaitable[bool]], deadline_s: float, poll_s: float = 0.05
) -> None:
    """Wait until ``check`` answers true, asking every ``poll_s`` seconds.

    Raises:
        StartFailed: If the child ends before, or is not ready ``deadline_s`` seconds from now; with its last words.
    """
    loop = asyncio.get_running_loop()
    until = loop.time() + deadline_s
    while not await check():
        if child.exit_code is not None:
            raise StartFailed(f"{child.name} ended with code {child.exit_code}: {child.last_words()}", str(child.log))
        if loop.time() > until:
            what = f"{child.name} was not ready within {deadline_s:g} s: {child.last_words()}"
            raise StartFailed(what, str(child.log), "is the machine overloaded?")
        await asyncio.sleep(poll_s)


class FreePorts:
    """Hands out loopback TCP ports that nobody listens on, none twice."""

    def __init__(self) -> None:
        self._given: set[int] = set()

    def take(self) -> int:
        """Return a free port.

        Raises:
            StartFailed: If none is found.
        """
        for _ in range(_PORT_TRIES):
            with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
                probe.bind(("127.0.0.1", 0))
                port: int = probe.getsockname()[1]
            if port not in self._given:
                self._given.add(port)
                return port
        raise StartFailed("no free port on 127.0.0.1")

    def give_back(self, *ports: int) -> None:
        """Take note that nobody uses ``ports`` any more."""
        self._given.difference_update(ports)
