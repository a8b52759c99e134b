"""What is an incident? The values that the fold makes and everything else reads. Instants are Unix seconds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from controller.incidents.ticks import Belief, Subject

Condition: TypeAlias = Literal["serving", "replaced", "gone", "out", "starting", "failed", "draining", "missing"]
"""Where a replica is: ``out`` is cordoned, ``missing`` gone with nobody in its place yet, ``replaced`` gone with
somebody, ``gone`` with a pool that is not there any more. What is no replica is always ``serving``."""

State: TypeAlias = Literal["ill", "recovering", "recovered", "unresolved"]
What: TypeAlias = Literal[
    "believed", "rule", "done", "held", "failed", "unknown", "state", "checked", "playbook", "blind"
]

WELL: frozenset[Condition] = frozenset(("serving", "replaced", "gone"))
"""Conditions that need nobody's help."""


@dataclass(frozen=True, slots=True)
class Span:
    """A time, both ends seen, in which nothing changed.

    Attributes:
        life: What tells one life of the subject from the next: of a pool or model its revision. Empty for what has
            none, or is not there.
        cause: What was believed to be wrong; empty when nothing was.
        cordon_is_ours: Whether it was we who took it out of traffic.
        under_way: Whether an act of ours was not verified yet.
    """

    from_at: float
    until_at: float
    life: str
    condition: Condition
    cause: str = ""
    cordon_is_ours: bool = False
    under_way: bool = False

    @property
    def well(self) -> bool:
        """Whether it served, nothing was believed to be wrong, and nothing of ours was under way."""
        return not self.cause and self.condition in WELL and not self.under_way


@dataclass(frozen=True, slots=True)
class Event:
    """One line of the story.

    ``name`` is the cause, act or rule that it is about, if one, and ``row`` the tick's row in the audit log.
    """

    at: float
    what: What
    name: str
    text: str
    row: str


@dataclass(frozen=True, slots=True)
class HeldAct:
    """An act that would have been done to one life, had it been allowed.

    Attributes:
        first_at, last_at: First and last tick in which it was wanted.
        why: What held it.
        life: Of the subject, at ``first_at``.
        condition: Of the subject, at ``first_at``.
        remedy_s: How long it would have taken to help, in seconds.
        worked_at: First tick at which the subject was seen to work while it was wanted and the diagnosis stood; None
            when it was not.
    """

    verb: str
    first_at: float
    last_at: float
    why: str
    life: str
    condition: Condition
    remedy_s: float
    worked_at: float | None = None


@dataclass(frozen=True, slots=True)
class Incident:
    """An episode of one subject, from its first evidence until it was well for a quiet time.

    Attributes:
        id: Row of the first tick in which it was believed ill, and the place of its diagnosis there.
        node, revision: Of the replica when it fell ill; empty when not told, and for what is no replica.
        began_at: Since when the evidence has it.
        suspected_at: First diagnosis, of unknown cause too.
        diagnosed_at: First diagnosis with a cause; None when there was none.
        first_act_at: First act that was done; None when none was.
        recovered_at: Since when it has been well; None while it is not.
        seen_until_at: Last tick that counts towards it.
        over: Whether it was well for the quiet time.
        failed_requests: Answers that failed meanwhile, by the gateway's count or else the engine's; None if untold.
        lost_inside: Requests that the gateway last saw inside lives that ended; None if untold.
        left_out: Events that were not kept, after the first ones.
    """

    id: str
    subject: Subject
    node: str
    revision: str
    began_at: float
    suspected_at: float
    diagnosed_at: float | None
    first_act_at: float | None
    recovered_at: float | None
    seen_until_at: float
    over: bool
    beliefs: tuple[Belief, ...]
    events: tuple[Event, ...]
    held: tuple[HeldAct, ...]
    spans: tuple[Span, ...]
    failed_requests: float | None
    lost_inside: float | None
    left_out: int = 0

    @property
    def cause(self) -> str:
        """The last cause that was believed; ``unknown`` when there was none but that."""
        named = [belief.cause for belief in self.beliefs if belief.cause != "unknown"]
        return named[-1] if named else "unknown"

    @property
    def causes(self) -> tuple[str, ...]:
        """Every cause that was believed, in order, each once."""
        return tuple(dict.fromkeys(belief.cause for belief in self.beliefs))

    @property
    def state(self) -> State:
        """Where it stands at the end of what was read."""
        if self.recovered_at is not None:
            return "recovered"
        if self.over:
            return "unresolved"
        return "ill" if self.spans[-1].cause else "recovering"

    @property
    def detect_s(self) -> float | None:
        """From the first evidence to the first diagnosis with a cause."""
        return None if self.diagnosed_at is None else self.diagnosed_at - self.began_at

    @property
    def first_act_s(self) -> float | None:
        """From the first evidence to the first act."""
        return None if self.first_act_at is None else self.first_act_at - self.began_at

    @property
    def recover_s(self) -> float | None:
        """From the first evidence to recovery."""
        return None if self.recovered_at is None else self.recovered_at - self.began_at
