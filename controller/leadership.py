"""Who of several controllers acts: the one that holds the lease, and only for as long as it knows that it does.

The rule is that of Kubernetes' own controllers: a lease names its holder and for how long it holds without renewing.
Whoever is not the holder watches it, and takes it once it has seen it unchanged for that long by its own clock, so that
clocks need not agree. The holder renews it every ``retry_s``, and gives up acting ``renew_within_s`` after it last sent
a renewal that was taken: earlier than anybody else may take it.

A lease alone keeps nobody from writing late: a process that was paused wakes up and goes on with what it was about to
do. ``why_not`` is therefore asked right before every write, and answers by the clock that ran on meanwhile.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Protocol

from pydantic import BaseModel, ConfigDict, Field, model_validator

from controller.errors import ForesailError, StalePlan

MOST_DURATION_S = 3600.0
"""Longest that a lease is believed to hold unrenewed, whatever it says of itself: anybody may have written it."""


class LeaseSettings(BaseModel):
    """How long the lease holds; the defaults are those of Kubernetes' own controllers."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    duration_s: float = Field(
        15.0, ge=1, le=MOST_DURATION_S, description="Seconds without a renewal after which others may take the lease."
    )
    renew_within_s: float = Field(
        10.0, gt=0, description="Seconds after its last renewal at which the holder stops acting; less than duration_s."
    )
    retry_s: float = Field(2.0, gt=0, description="Seconds between two tries to take or renew it.")

    @model_validator(mode="after")
    def _in_order(self) -> LeaseSettings:
        if not self.retry_s < self.renew_within_s < self.duration_s:
            raise ValueError(
                f"retry_s ({self.retry_s:g}) must be less than renew_within_s ({self.renew_within_s:g}), and that less "
                f"than duration_s ({self.duration_s:g}): the holder must stop before another one may begin"
            )
        return self


@dataclass(frozen=True, slots=True)
class Lease:
    """What is written where all can see it.

    Attributes:
        holder: Who acts; empty when nobody does.
        duration_s: For how long it holds without renewing.
        acquired_at, renewed_at: By the holder's clock, for people; nobody decides by them.
        transitions: How often it went from one holder to another.
        version: The precondition of writing it; empty for one that is not there yet.
    """

    holder: str
    duration_s: float
    acquired_at: float
    renewed_at: float
    transitions: int = 0
    version: str = ""


class LeaseStore(Protocol):
    """Where the lease is. Every verb has a timeout of its own, shorter than ``renew_within_s``."""

    def read(self) -> Lease | None:
        """Return it, None when there is none yet; raises ForesailError."""
        ...

    def write(self, lease: Lease) -> Lease:
        """Make or replace it, and return it as it is now.

        Raises:
            StalePlan: If it is not at ``lease.version`` any more, or is there where none was.
            ForesailError: If that cannot be done; then it may have happened.
        """
        ...


class Candidate(Protocol):
    """Who stands for a lease, or for several together. ``step`` tries once to take or renew what it takes to lead."""

    @property
    def identity(self) -> str:
        """What the lease names this one by."""
        ...

    @property
    def settings(self) -> LeaseSettings:
        """How long the lease holds."""
        ...

    @property
    def trouble(self) -> str:
        """What the newest try ran into; empty when it went well."""
        ...

    @property
    def leads(self) -> bool:
        """Whether this one may act at this moment."""
        ...

    @property
    def holder(self) -> str:
        """Who holds the lease as far as is known; empty when nobody does."""
        ...

    @property
    def transitions(self) -> int | None:
        """How often the lease went from one holder to another; None as long as it was not seen."""
        ...

    @property
    def tries(self) -> Mapping[str, int]:
        """Counts of tries by what came of them; see ``Leadership``."""
        ...

    @property
    def free_in_s(self) -> float:
        """Seconds until this one may take the lease if its holder does not renew it; 0 where it need not wait."""
        ...

    def why_not(self, needs_s: float = 0.0) -> str:
        """Return why nothing may be written now that takes ``needs_s``, empty when it may."""
        ...

    def step(self) -> bool:
        """Try once; return whether this one leads. Never raises for want of an answer."""
        ...

    def resign(self) -> None:
        """Act no more, and let the next one begin at once."""
        ...


class Leadership:
    """The ``Candidate`` for one lease. ``step`` is called by one thread; ``why_not`` may be asked by any.

    Attributes:
        identity: What the lease names this one by. No two processes may share it, nor one with its predecessor: the
            predecessor's last write may still be under way. Only of a lease that is ``shared`` it names all who may
            act side by side.
        trouble: What the newest try ran into; empty when it went well.
        settings: How long the lease holds.
        tries: Counts of tries: ``held`` (taken or renewed), ``watched`` (another one holds it), ``lost`` (somebody else
            wrote it in that moment), ``failed`` (no answer, or a refusal).
    """

    def __init__(
        self,
        store: LeaseStore,
        settings: LeaseSettings,
        identity: str,
        now: Callable[[], float],
        elapsed: Callable[[], float],
        *,
        shared: bool = False,
    ) -> None:
        """``now`` is the wall clock, for what people read; ``elapsed`` never goes back and never stops.

        Whoever has a ``shared`` lease has it together with others of its identity: their renewals hold for it as well,
        and it never resigns.
        """
        if not identity:
            raise ValueError("a candidate needs an identity")
        self.identity, self.trouble = identity, ""
        self.tries = {"held": 0, "watched": 0, "lost": 0, "failed": 0}
        self._store, self.settings, self._now, self._elapsed = store, settings, now, elapsed
        self._shared = shared
        self._seen: Lease | None = None
        self._seen_s = self._asked_s = -float("inf")
        self._lock = threading.Lock()
        self._acts_until_s = -float("inf")
        self._resigned = False

    @property
    def leads(self) -> bool:
        """Whether this one may act at this moment."""
        return not self.why_not()

    @property
    def holder(self) -> str:
        """Who holds the lease as far as is known; empty when nobody does."""
        return self._seen.holder if self._seen is not None else ""

    @property
    def transitions(self) -> int | None:
        """How often the lease went from one holder to another; None as long as it was not seen."""
        return self._seen.transitions if self._seen is not None else None

    @property
    def free_in_s(self) -> float:
        """Seconds until this one may take the lease if its holder does not renew it; 0 where it need not wait."""
        seen = self._seen
        if seen is None or self._may_take_at_once(seen):
            return 0.0
        return max(0.0, self._seen_s + _held_s(seen) - self._elapsed())

    def why_not(self, needs_s: float = 0.0) -> str:
        """Return why nothing may be written now, empty when it may.

        Args:
            needs_s: How long the write may take: it must be over while the lease still holds.
        """
        with self._lock:
            left_s = self._acts_until_s - self._elapsed()
        if left_s > needs_s:
            return ""
        if left_s > 0:
            return f"the lease holds for {left_s:.1f} s more, and the write may take {needs_s:g} s"
        holder = self.holder
        if holder == self.identity:
            return "the lease was not renewed in time"
        return f"{holder} leads" if holder else "nobody leads yet"

    def step(self) -> bool:
        """Try once to take or renew the lease; return whether this one leads. Never raises for want of an answer."""
        if self._resigned:
            return False
        sent_s = self._elapsed()
        before, asked_s = self._seen, self._asked_s
        try:
            self._look(self._store.read())
            self._asked_s = sent_s
            takes = self._takes()
            renewed = self._shared and self._renewed_since(before)
            if renewed:
                self._hold(asked_s)  # when that was asked for, the renewal was still to come
            elif takes:
                self._look(self._store.write(self._wanted()))
                self._hold(sent_s)
        except StalePlan:
            self.tries["lost"] += 1
            self.trouble = "somebody else wrote the lease in that moment"  # the next look says who holds it
        except ForesailError as error:
            self.tries["failed"] += 1
            self.trouble = str(error)
        else:
            self.tries["held" if takes or renewed else "watched"] += 1
            self.trouble = ""
        return self.leads

    def resign(self) -> None:
        """Act no more, and let the next one begin at once; what cannot be told to the store ends by itself."""
        self._resigned = True
        self._hold(-float("inf"))
        seen = self._seen
        if seen is None or seen.holder != self.identity:
            return
        try:
            self._look(self._store.write(replace(seen, holder="", duration_s=1.0, renewed_at=self._now())))
        except ForesailError as error:
            self.trouble = str(error)

    def _look(self, lease: Lease | None) -> None:
        """Note what was read; the time in which it does not change begins when it was first seen so."""
        if lease is None or lease != self._seen:
            self._seen, self._seen_s = lease, self._elapsed()
        if lease is None or lease.holder != self.identity:
            self._hold(-float("inf"))

    def _takes(self) -> bool:
        seen = self._seen
        if seen is None or self._may_take_at_once(seen):
            return True
        return self._elapsed() - self._seen_s > _held_s(seen)

    def _renewed_since(self, before: Lease | None) -> bool:
        """Return whether somebody of this identity has written the lease since it was as ``before``."""
        seen = self._seen
        return before is not None and seen is not None and seen.holder == self.identity and seen != before

    def _may_take_at_once(self, seen: Lease) -> bool:
        return not seen.holder or seen.holder == self.identity

    def _wanted(self) -> Lease:
        seen, now, duration_s = self._seen, self._now(), self.settings.duration_s
        if seen is None:
            return Lease(self.identity, duration_s, now, now)
        if seen.holder == self.identity:
            return replace(seen, duration_s=duration_s, renewed_at=now)
        return Lease(self.identity, duration_s, now, now, seen.transitions + 1, seen.version)

    def _hold(self, sent_s: float) -> None:
        with self._lock:
            self._acts_until_s = sent_s + self.settings.renew_within_s


def _held_s(lease: Lease) -> float:
    return min(lease.duration_s, MOST_DURATION_S)
