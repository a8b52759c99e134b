"""Is this a valid word of an approver about that plan, at this instant? Pure: bytes in, a statement or a refusal out.

What is signed names the plan by its digest, the daemon's memory of used approvals by its id, and the span in which it
holds. So it is good for one plan, with one daemon, for a while; that it is good only once is for whoever remembers
which ones were used.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from hashlib import sha256
from typing import Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from controller.approver_keys import SIGNATURE_BYTES, PrivateKey, signed_by
from controller.instants import instant
from policies.wire import canonical_json

MOST_BYTES = 4096
_PREFIX = b"foresail approval 1\n"

Verdict: TypeAlias = Literal["approve", "reject"]


class Refused(Exception):
    """A statement does not count; the text says why."""


class Statement(BaseModel):
    """What an approver signs.

    Attributes:
        plan: Digest of the plan, in full.
        memory: Id of the memory of used approvals that it is for.
        from_at: Instant from which it holds.
        until_at: Instant from which it no longer does.
        why: For people.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    verdict: Verdict
    plan: str = Field(pattern=r"^[0-9a-f]{64}$")
    memory: str = Field(pattern=r"^[0-9a-f]{32}$")
    approver: str = Field(min_length=1, max_length=64)
    from_at: float
    until_at: float
    why: str = Field("", max_length=200, pattern=r"^[^\x00-\x1f\x7f-\x9f]*$")

    @property
    def payload(self) -> bytes:
        """The bytes that are signed, the same however the file was laid out."""
        return _PREFIX + canonical_json(self).encode("ascii")

    @property
    def id(self) -> str:
        """What names it among those that were used; another signature of the same words is the same approval."""
        return sha256(self.payload).hexdigest()


class _Signed(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    statement: Statement
    signature: str


def signed(statement: Statement, key: PrivateKey) -> bytes:
    """Return ``statement`` with its signature, as it is put into the inbox."""
    signature = base64.b64encode(key.sign(statement.payload)).decode("ascii")
    return _Signed(statement=statement, signature=signature).model_dump_json(indent=1).encode() + b"\n"


def statement_in(content: bytes, approvers: Mapping[str, bytes]) -> Statement:
    """Return the statement in ``content``, once it is known that the approver it names has signed it.

    Raises:
        Refused: If it is too long, no such statement, by somebody unknown, or not signed by who it says.
    """
    if len(content) > MOST_BYTES:
        raise Refused(f"it has more than {MOST_BYTES} bytes")
    try:
        found = _Signed.model_validate_json(content)
        signature = base64.b64decode(found.signature, validate=True)
    except (ValidationError, binascii.Error, ValueError):
        raise Refused("it is malformed") from None
    statement = found.statement
    key = approvers.get(statement.approver)
    if key is None:
        raise Refused(f"{statement.approver!r} is not among approvals.approvers")
    if len(signature) != SIGNATURE_BYTES or not signed_by(key, statement.payload, signature):
        raise Refused(f"the signature is not that of {statement.approver}")
    return statement


def why_refused(statement: Statement, memory: str, most_s: float, at: float) -> str:
    """Return why a statement that is known to be its approver's does not hold at ``at``, nor later; empty when it may.

    Args:
        statement: What was signed.
        memory: Id of the memory of used approvals that there is.
        most_s: Longest that a statement may hold.
        at: Now.
    """
    if statement.memory != memory:
        return "it is for another daemon, or for one that has lost its memory of used approvals since"
    if not 0 < statement.until_at - statement.from_at <= most_s:
        return f"it holds for {statement.until_at - statement.from_at:g} s; at most {most_s:g} s are allowed"
    if at >= statement.until_at:
        return f"it is late: it expired at {instant(statement.until_at)}"
    return ""


def why_early(statement: Statement, at: float) -> str:
    """Return why a statement that will hold does not yet; empty when it does."""
    if at >= statement.from_at:
        return ""
    return f"it is not valid yet, but from {instant(statement.from_at)} on: is a clock wrong?"
