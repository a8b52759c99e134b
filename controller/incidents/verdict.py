"""Would it have been right? What a held act would have done, judged by what came later in the log."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from controller.incidents.incident import HeldAct, Incident, Span

Word: TypeAlias = Literal["right", "needless", "wrong", "open"]

WORDS: tuple[Word, ...] = ("right", "needless", "wrong", "open")

SUSTAINED_S = 60.0
"""It has recovered when it was well for this long, in seconds; or to the end, where somebody meddled with it then."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a held act would have been, and why; ``known_at`` says when an open one can be told at the latest."""

    word: Word
    why: str
    known_at: float | None = None


def verdicts_of(incident: Incident) -> tuple[tuple[HeldAct, Verdict], ...]:
    """Return each held act of ``incident`` with its verdict."""
    return tuple((held, verdict(held, incident.spans, incident.seen_until_at)) for held in incident.held)


def verdict(held: HeldAct, spans: Sequence[Span], until_at: float) -> Verdict:
    """Return whether ``held`` would have been right.

    ``wrong``     it worked while it was believed to be ill and the act was wanted
    ``needless``  it recovered by itself, in the same life, no later than the act would have helped
    ``right``     it stayed ill until somebody ended that life or took it out of traffic, or for longer than that
    ``open``      none of it yet

    An engine that had exited has no life to recover in: there any later life counts.

    Args:
        held: The act.
        spans: Of its incident, in order.
        until_at: Up to when the log was read.
    """
    if held.worked_at is not None:
        return Verdict("wrong", f"it worked {_after(held, held.worked_at)}, while it was still believed to be ill")
    any_life = held.condition == "failed"
    later = [span for span in spans if span.until_at > held.first_at or span.from_at >= held.first_at]
    for place, span in enumerate(later):
        if not any_life and (meddled := _meddled(held, span)):
            return Verdict("right", f"it stayed ill until {meddled}, {_after(held, span.from_at)}")
        if not span.well or span.from_at < held.first_at:
            continue
        well_until = _well_until(later[place:])
        took_s = span.from_at - held.first_at
        if took_s > held.remedy_s:
            return Verdict("right", f"it stayed ill for {took_s:.0f} s; the act takes {held.remedy_s:.0f} s to help")
        if well_until - span.from_at >= SUSTAINED_S:
            return Verdict("needless", f"it recovered by itself {_after(held, span.from_at)}")
        if well_until >= until_at:
            return Verdict("open", "it has just recovered", span.from_at + SUSTAINED_S)
    if until_at - held.first_at > held.remedy_s:
        return Verdict("right", f"it was still ill after {held.remedy_s:.0f} s, which the act takes to help")
    return Verdict("open", "too early to tell", held.first_at + held.remedy_s)


def _meddled(held: HeldAct, span: Span) -> str:
    """Return how somebody ended what the act was for, as ``span`` shows it; empty when nobody did."""
    if span.condition == "out" and held.condition != "out":
        return "we took it out of traffic" if span.cordon_is_ours else "somebody took it out of traffic"
    if span.life == held.life:
        return "it was drained" if span.condition == "draining" and held.condition != "draining" else ""
    if span.life.startswith("revision"):
        return "its revision was changed"
    return "its process exited" if span.condition == "failed" else "its life ended"


def _well_until(spans: Sequence[Span]) -> float:
    """Return up to when it was well without a break, from the first of ``spans`` on."""
    until_at = spans[0].until_at
    for span in spans:
        if not span.well:
            return span.from_at
        until_at = span.until_at
    return until_at


def _after(held: HeldAct, at: float) -> str:
    return f"{at - held.first_at:.0f} s after it would have been done" if at > held.first_at else "at that instant"
