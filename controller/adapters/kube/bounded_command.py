"""What does a command print, if it ends in time and does not print without end?

A command that does neither is killed with all that it has started. One that has ended and left something behind that
keeps its output open is not waited for.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from selectors import EVENT_READ, DefaultSelector
from subprocess import DEVNULL, PIPE, Popen, TimeoutExpired

_CHUNK = 64 * 1024
_LOOK_S = 0.1
"""Between looks whether a command that says nothing has ended."""

_KEPT_ERROR_BYTES = 4096
_REAPED_S = 1.0


class CommandFailed(Exception):
    """A command did not do what was asked of it; ``missing`` where there is none to be run."""

    def __init__(self, what: str, *, missing: bool = False) -> None:
        super().__init__(what)
        self.missing = missing


@dataclass(frozen=True, slots=True)
class Command:
    """A command without a shell or a terminal: name and arguments, the whole environment, and where it runs."""

    arguments: Sequence[str]
    environment: Mapping[str, str]
    folder: str | None = None


def output_of(command: Command, within_s: float, most_bytes: int, elapsed: Callable[[], float]) -> bytes:
    """Run a command, and return what it prints; ``elapsed`` are seconds that never go back.

    Raises:
        CommandFailed: If it cannot be run, fails, does not end ``within_s``, or prints more than ``most_bytes``.
    """
    end_s = elapsed() + within_s
    try:
        process = Popen(  # noqa: S603 - the kubeconfig of who runs us says which
            list(command.arguments),
            stdin=DEVNULL,
            stdout=PIPE,
            stderr=PIPE,
            env=dict(command.environment),
            cwd=command.folder,
            start_new_session=True,  # so that all of it can be killed
        )
    except (OSError, ValueError) as error:
        said = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise CommandFailed(f"it cannot be run: {said}", missing=isinstance(error, FileNotFoundError)) from None
    try:
        printed, complaint = _read(process, end_s, most_bytes, elapsed)
        code = process.wait(max(0.0, end_s - elapsed()))
    except TimeoutExpired:
        raise CommandFailed(f"it did not end within {within_s:g} s, and was killed") from None
    finally:
        _end(process)
    if code:
        said = " ".join(complaint.decode("utf-8", "replace").split())
        raise CommandFailed(f"it ended with exit code {code}{': ' if said else ', and said nothing'}{said}")
    return printed


def _read(process: Popen[bytes], end_s: float, most_bytes: int, elapsed: Callable[[], float]) -> tuple[bytes, bytes]:
    """Return what is printed, and the last of what is complained of; raises TimeoutExpired or CommandFailed."""
    printed, complaint = bytearray(), bytearray()
    with DefaultSelector() as selector:
        for stream, kept in ((process.stdout, printed), (process.stderr, complaint)):
            if stream is not None:
                selector.register(stream, EVENT_READ, kept)
        while selector.get_map():
            left_s = end_s - elapsed()
            if left_s <= 0:
                raise TimeoutExpired(process.args, 0.0)
            ready = selector.select(min(left_s, _LOOK_S))
            if not ready and process.poll() is not None:
                break
            for key, _ in ready:
                chunk = os.read(key.fd, _CHUNK)
                if not chunk:
                    selector.unregister(key.fileobj)
                key.data.extend(chunk)
            del complaint[:-_KEPT_ERROR_BYTES]
            if len(printed) > most_bytes:
                raise CommandFailed(f"it prints more than {most_bytes // 1024} KiB, and was killed")
    return bytes(printed), bytes(complaint)


def _end(process: Popen[bytes]) -> None:
    """Hear no more of a command; one that has not ended is killed, with all that it has started."""
    for stream in (process.stdout, process.stderr):
        if stream is not None:
            stream.close()
    if process.poll() is None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        with suppress(TimeoutExpired):
            process.wait(_REAPED_S)
