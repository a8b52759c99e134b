"""What is remembered of troubles, and of what was done about them: immutable, in instants of Unix seconds.

A new instant must also be moved by ``policies.set_back`` when the clock goes back.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from policies.remembered import STRICT, Count, PoolText, Total


@dataclass(frozen=True, slots=True)
class MoveMemory:
    """A change of a pool's share of the traffic, or of how many replicas it is asked to have, by whomever.

    ``began_at`` is its first step and ``at`` its last; ``ours`` says whether it came about as we had asked for.
    """

    __pydantic_config__ = STRICT

    what: Literal["traffic", "size"]
    began_at: float
    at: float
    before: float
    after: float
    ours: bool = False


@dataclass(frozen=True, slots=True)
class TroubleMemory:
    """What came before a trouble that stands, or stood until a moment ago, as its first diagnosis told it."""

    __pydantic_config__ = STRICT

    seen_at: float
    beside: tuple[str, ...] = ()
    ours: str = ""


@dataclass(frozen=True, slots=True)
class XidMemory:
    """An Xid error on a node that asks for more than a restart of the engine: first seen, and last told."""

    __pydantic_config__ = STRICT

    code: Count
    since_at: float
    seen_at: float


@dataclass(frozen=True, slots=True)
class CordonMemory:
    """A replica that we took out of traffic, and how far it had come by then: only more shows that it works again.

    ``confirmed`` says whether another witness than its own metrics spoke against it, then or later.
    """

    __pydantic_config__ = STRICT

    at: float
    cause: str
    life: str
    steps_total: Total | None = None
    output_tokens_total: Total | None = None
    confirmed: bool = False


@dataclass(frozen=True, slots=True)
class CanaryMemory:
    """A replica that was asked for one token.

    Attributes:
        life: Whose; another life starts from nothing.
        asked_at: When it was last asked.
        outcome: What became of that (``CanaryOutcome``); empty while that is open, ``unheard`` when it will stay so.
        kind: How those failed that failed in a row; empty when none did.
        failed: How many failed in a row, all in that way.
        first_at: When the first of those was asked; None when none failed.
        told_at: At which look the newest outcome was told; None when none was.
    """

    __pydantic_config__ = STRICT

    life: str
    asked_at: float
    outcome: Literal["", "unheard", "answered", "error", "late", "unreached", "refused"] = ""
    kind: Literal["", "error", "late", "unreached"] = ""
    failed: Count = 0
    first_at: float | None = None
    told_at: float | None = None


@dataclass(frozen=True, slots=True)
class CanaryBooks:
    """What is remembered of canary requests.

    Attributes:
        asked_at: When each model was sent one, within the last hour; oldest first.
        heard_at: When the newest one was sent that a replica of a pool has answered.
        replicas: Those of which an answer is still open, did not come or came lately, by their name in the whole fleet.
    """

    __pydantic_config__ = STRICT

    asked_at: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    heard_at: Mapping[PoolText, float] = field(default_factory=dict)
    replicas: Mapping[str, CanaryMemory] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ActionMemory:
    """A disruptive act: it counts against the budget until verified or past its deadline, then as a cooldown.

    ``target`` is the id of the replica of ``pool`` that it was done to, on ``node`` where that is known; the
    replacement may have another or the same. Of a roll-back it is the revision that the pool is to leave.
    """

    __pydantic_config__ = STRICT

    target: str
    kind: str
    model: str
    pool: str
    started_at: float
    deadline_at: float
    open: bool = True
    verified: bool = False
    node: str = ""


@dataclass(frozen=True, slots=True)
class StepMemory:
    """How far one step of a playbook has come.

    Attributes:
        began_at: When it was reached.
        asked_at: When its act was last asked for; None when it was not.
        attempts: How often it was asked for, or begun.
        outcome: How it ended; empty while it has not.
        choice: Of a branch, the way that was chosen.
    """

    __pydantic_config__ = STRICT

    began_at: float
    asked_at: float | None = None
    attempts: Count = 0
    outcome: Literal["", "done", "failed"] = ""
    choice: str = ""


@dataclass(frozen=True, slots=True)
class RunMemory:
    """A playbook that is, or was, carried out for one subject.

    Attributes:
        playbook: Its name; ``digest`` is that of its steps when the run began.
        cause: What it treats, by the name of the cause; ``code`` is that of the failure catalogue.
        pool: Where.
        subject: Id of the replica; empty when it is about the pool.
        life: Of the replica, or the revision of the pool, when it began.
        began_at, deadline_at: When it began, and when it fails if it is not over.
        sentence: Why it began.
        state: ``running`` its steps, ``closing`` those at the end, ``undoing`` what it did; or over.
        ended_at: When it was over; None while it is not.
        why: Why it failed.
        steps: By the path of the step; those that were reached.
        holding: What it holds until the next tick (``playbook.Hold``).
        soft: Whether nothing but latency was ever shown for it (``burn_gate``).
    """

    __pydantic_config__ = STRICT

    playbook: str
    digest: str
    cause: str
    code: str
    pool: PoolText
    subject: str
    life: str
    began_at: float
    deadline_at: float
    sentence: str = ""
    state: Literal["running", "closing", "undoing", "resolved", "failed"] = "running"
    ended_at: float | None = None
    why: str = ""
    steps: Mapping[str, StepMemory] = field(default_factory=dict)
    holding: tuple[str, ...] = ()
    soft: bool = False

    @property
    def over(self) -> bool:
        """Whether nothing more comes of it."""
        return self.state in ("resolved", "failed")
