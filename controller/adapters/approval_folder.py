"""Where do proposals lie, approvals arrive, and used ones stay remembered: a folder of the daemon's on disk.

::

    memory.json      which approvals were used; for the daemon alone
    proposals.json   what waits, for whoever may read the folder
    inbox/           approvals, each a file; may be opened to a group of approvers

The memory has a random id that every approval names. Where it is lost, damaged or somebody else's it begins anew under
another id, so that nothing that was signed for the old one can be used again.
"""

from __future__ import annotations

import fcntl
import json
import math
import os
import re
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from controller.approval import MOST_BYTES, Statement
from controller.approvals import Dropped, Proposal
from controller.errors import BadInput
from controller.plans import digest_of

MOST_FILES = 64
MOST_LISTED = 4096
MOST_USED = 4096
MOST_PROPOSALS_BYTES = 4 * 1024 * 1024
MOST_MEMORY_BYTES = 1024 * 1024
VERSION = 1
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,100}\.json")
_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH


@dataclass(frozen=True, slots=True)
class _Memory:
    """Which approvals were used.

    Attributes:
        id: 128 random bits in hexadecimal.
        used: When each used approval expires, by its id.
        forgotten_at: Approvals that expire no later may have been used and forgotten.
    """

    id: str
    used: dict[str, float]
    forgotten_at: float


class ApprovalFolder:
    """``controller.approvals.ApprovalBox`` on disk."""

    def __init__(self, folder: Path) -> None:
        """Use ``folder``, which ``open`` made sure of."""
        self._folder, self._inbox = folder, folder / "inbox"
        with self._locked():
            self._memory = self._remembered()

    @classmethod
    def open(cls, folder: Path) -> ApprovalFolder:
        """Open ``folder``; it is made where there is none.

        Raises:
            BadInput: If it cannot be used, or others than its owner may write it.
        """
        remedy = "set approvals.folder to a folder of the daemon's own"
        try:
            folder.mkdir(mode=0o755, parents=True, exist_ok=True)
            found = folder.stat()
            if found.st_mode & _OTHERS_WRITE or found.st_uid != os.geteuid():
                what = "others may write the folder of approvals, and so undo that one was used"
                raise BadInput(what, str(folder), f"chmod go-w {folder}, as its owner; only its inbox is for others")
            (folder / "inbox").mkdir(mode=0o700, exist_ok=True)
            return cls(folder)
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            raise BadInput(f"the folder of approvals cannot be used: {reason}", str(folder), remedy) from None

    @property
    def memory(self) -> str:
        """Id of the memory of used approvals."""
        return self._memory.id

    def proposals(self) -> tuple[Proposal, ...]:
        """Return what was last laid out for this memory; nothing where that cannot be read."""
        try:
            laid_out = read_proposals(self._folder)
        except BadInput:
            return ()
        return laid_out.proposals if laid_out.memory == self.memory else ()

    def lay_out(self, proposals: Sequence[Proposal]) -> None:
        """Show ``proposals``; raises OSError."""
        listed = [asdict(proposal) for proposal in proposals]
        _write(self._folder / "proposals.json", {"version": VERSION, "memory": self.memory, "proposals": listed}, 0o644)

    def dropped(self) -> tuple[Dropped, ...]:
        """Return the approvals in the inbox, of which a bounded number and size is looked at; raises OSError."""
        with os.scandir(self._inbox) as entries:
            looked_at = [entry for entry in islice(entries, MOST_LISTED) if _is_approval(entry.name)]
        looked_at.sort(key=lambda entry: (not entry.is_file(follow_symlinks=False), entry.name))
        return tuple(self._read(entry.name) for entry in looked_at[:MOST_FILES])

    def discard(self, name: str) -> None:
        """Take a file out of the inbox, if it can be."""
        with suppress(OSError):
            (self._inbox / Path(name).name).unlink()

    def used(self, statement: Statement) -> bool:
        """Return whether it was used, or may have been."""
        return _was_used(self._memory, statement)

    def use(self, statement: Statement, at: float) -> bool:
        """Remember for good that it is used; return False if it was already. Raises OSError.

        Whatever process does that at the same time, one of them gets True.
        """
        with self._locked():
            self._memory = memory = self._remembered()
            if memory.id != statement.memory or _was_used(memory, statement):
                return False
            grown = _pruned(replace(memory, used={**memory.used, statement.id: statement.until_at}), at)
            self._keep(grown)
            self._memory = grown
            return True

    def _read(self, name: str) -> Dropped:
        try:
            descriptor = os.open(self._inbox / name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            return Dropped(name, b"", "it is a link" if (self._inbox / name).is_symlink() else _reason(error))
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            os.close(descriptor)
            return Dropped(name, b"", "it is no file")
        with os.fdopen(descriptor, "rb") as file:
            if found.st_mode & _OTHERS_WRITE:
                return Dropped(name, b"", "others than its owner may write it")
            if found.st_size > MOST_BYTES:
                return Dropped(name, b"", f"it has more than {MOST_BYTES} bytes")
            try:
                return Dropped(name, file.read(MOST_BYTES + 1))
            except OSError as error:
                return Dropped(name, b"", _reason(error))

    def _remembered(self) -> _Memory:
        """Return the memory on disk, or a new one in its place where there is none that can be believed."""
        memory = _memory_in(self._folder / "memory.json")
        if memory is None:
            memory = _Memory(os.urandom(16).hex(), {}, -math.inf)
            self._keep(memory)
        return memory

    def _keep(self, memory: _Memory) -> None:
        forgotten_at = memory.forgotten_at if math.isfinite(memory.forgotten_at) else None
        kept = {"version": VERSION, "id": memory.id, "used": memory.used, "forgotten_at": forgotten_at}
        _write(self._folder / "memory.json", kept, 0o600)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Keep other processes, and other loops of this one, from changing the memory meanwhile."""
        descriptor = os.open(self._folder / ".lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


@dataclass(frozen=True, slots=True)
class LaidOut:
    """What waits, and the id of the memory that approvals must name."""

    memory: str
    proposals: tuple[Proposal, ...]


def read_proposals(folder: Path) -> LaidOut:
    """Return what a daemon has laid out in ``folder``.

    The digest of each proposal is worked out anew from what it says it would do: what one reads is what one signs.

    Raises:
        BadInput: If nothing is there, it cannot be read, or it is not what it says.
    """
    file = folder / "proposals.json"
    try:
        with file.open("rb") as opened:
            content = opened.read(MOST_PROPOSALS_BYTES + 1)
    except FileNotFoundError:
        remedy = "a daemon lays out proposals once a class of action is in mode approve; check approvals.folder"
        raise BadInput("no daemon has laid out proposals here", str(folder), remedy) from None
    except OSError as error:
        raise BadInput(f"proposals cannot be read: {_reason(error)}", str(file), "check who may read it") from None
    try:
        return _laid_out(json.loads(content[: MOST_PROPOSALS_BYTES + 1]))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        remedy = "somebody changed it; the daemon writes it anew when something else waits"
        raise BadInput("these are no proposals as the daemon writes them", str(file), remedy) from None


def drop(folder: Path, name: str, content: bytes) -> None:
    """Put an approval into the inbox of ``folder``, whole or not at all.

    Raises:
        BadInput: If it cannot be written there.
    """
    inbox = folder / "inbox"
    try:
        _write_bytes(inbox / name, content, 0o644)
    except OSError as error:
        remedy = "run this as a user who may write the inbox"
        raise BadInput(f"the approval cannot be written: {_reason(error)}", str(inbox), remedy) from None


def _is_approval(name: str) -> bool:
    """Whether a file is meant for the daemon: drafts begin with a dot, and a name is told, so it must be plain."""
    return _NAME.fullmatch(name) is not None


def _laid_out(found: Any) -> LaidOut:
    proposals = tuple(Proposal(**listed) for listed in found["proposals"])
    for proposal in proposals:
        texts = (proposal.act, proposal.subject, proposal.action_class, proposal.why)
        if not all(isinstance(text, str) for text in texts) or not isinstance(proposal.facts, dict):
            raise ValueError("no proposal")
        if not (math.isfinite(proposal.since_at) and math.isfinite(proposal.until_at)):
            raise ValueError("no instants")
        if digest_of(proposal.act, proposal.facts) != proposal.digest:
            raise ValueError("the digest is of another plan")
    if found["version"] != VERSION:
        raise ValueError("another version")
    return LaidOut(str(found["memory"]), proposals)


def _memory_in(file: Path) -> _Memory | None:
    """Return the memory in ``file``; None where there is none, or none that the daemon must have written itself."""
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    with os.fdopen(descriptor, "rb") as opened:
        held = os.fstat(opened.fileno())
        if not stat.S_ISREG(held.st_mode) or held.st_uid != os.geteuid() or held.st_mode & _OTHERS_WRITE:
            return None
        content = opened.read(MOST_MEMORY_BYTES + 1)
    try:
        found = json.loads(content)
        used = {str(name): float(at) for name, at in found["used"].items()}
        forgotten_at = -math.inf if found["forgotten_at"] is None else float(found["forgotten_at"])
        if found["version"] != VERSION or len(bytes.fromhex(found["id"])) != 16 or math.isnan(forgotten_at):
            return None
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None
    return _Memory(found["id"], used, forgotten_at)


def _was_used(memory: _Memory, statement: Statement) -> bool:
    return statement.id in memory.used or statement.until_at <= memory.forgotten_at


def _pruned(memory: _Memory, at: float) -> _Memory:
    """Return ``memory`` without what has expired, and without those that expire first beyond ``MOST_USED``.

    What was forgotten counts as used from then on, also when the clock goes back.
    """
    by_end = sorted(memory.used.items(), key=lambda item: (item[1], item[0]))
    expired = sum(until_at <= at for _, until_at in by_end)
    gone = max(expired, len(by_end) - MOST_USED)
    if gone <= 0:
        return memory
    forgotten_at = max(memory.forgotten_at, by_end[gone - 1][1])
    return replace(memory, used=dict(by_end[gone:]), forgotten_at=forgotten_at)


def _write(file: Path, value: object, mode: int) -> None:
    _write_bytes(file, json.dumps(value, allow_nan=False, indent=1).encode() + b"\n", mode)


def _write_bytes(file: Path, content: bytes, mode: int) -> None:
    """Write a file whole or not at all, so that it is there also after the machine has crashed."""
    draft = file.with_name(f".{file.name}.{os.getpid()}.draft")
    with suppress(FileNotFoundError):
        draft.unlink()
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
    try:
        with os.fdopen(descriptor, "wb") as opened:
            os.fchmod(opened.fileno(), mode)
            opened.write(content)
            opened.flush()
            os.fsync(opened.fileno())
        draft.replace(file)
    except OSError:
        with suppress(OSError):
            draft.unlink()
        raise
    folder = os.open(file.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _reason(error: OSError) -> str:
    return f"it cannot be read: {(error.strerror or str(error)).lower()}"
