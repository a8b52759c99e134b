"""What is worth a line about a tick: what it changed, what it refused, what it could not see."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from controller.ports import ActResult, TickRecord
from policies.decisions import Decision, Reason

MOST_REASONS = 6

_LEFT_ALONE = frozenset({"other owner", "untold", "blind"})
"""Rules that leave a pool as it is for a reason that somebody has to know, although they change no number."""

_FIGURES = re.compile(r"\d[\w.]*")


@dataclass(frozen=True, slots=True)
class TickLine:
    """A line, and its ``kind``: lines of one kind say the same but for figures that move at every tick."""

    level: Literal["info", "warning", "error"]
    event: str
    fields: dict[str, Any]
    kind: str


def line_of(record: TickRecord) -> TickLine | None:
    """Return what there is to say about a tick; None when it changed and refused nothing."""
    fields: dict[str, Any] = {"at": record.at}
    if record.unrecorded:
        fields |= {"unrecorded": record.unrecorded}
    if record.gap:
        fields |= {"gap": record.gap}
    if record.decision is None:
        what = {**fields, "error": record.error}
        what |= {"told": _text(record.told)} if record.told is not None and record.told.outcome == "done" else {}
        kind = f"blind {_FIGURES.sub('#', record.error)}"
        return TickLine("warning", "nothing could be observed, so nothing was done", what, kind)
    return _decided(record, record.decision, fields)


def _decided(record: TickRecord, decision: Decision, fields: dict[str, Any]) -> TickLine | None:
    changed = [reason for reason in decision.reasons if reason.before != reason.after]
    left_alone = [reason for reason in decision.reasons if reason.rule in _LEFT_ALONE and reason.before == reason.after]
    results = {outcome: _of(record, outcome) for outcome in ("done", "held", "failed")}
    if not (changed or left_alone or record.acts_planned or record.unrecorded or record.gap):
        return None
    plans = [f"{plan.pool} {plan.current} -> {plan.desired}" for plan in decision.scaling]
    fields |= {"generation": decision.generation}
    fields |= {"scale": plans} if plans else {}
    fields |= {outcome: told for outcome, told in results.items() if told}
    fields |= {"why": _first(changed)} if changed else {}
    fields |= {"left_alone": _first(left_alone)} if left_alone else {}
    fields |= {"missing": len(record.fleet.missing)} if record.fleet and record.fleet.missing else {}
    bad = bool(results["failed"] or record.unrecorded or record.error)
    event = "acted" if results["done"] else "nothing could be done" if bad else "held" if results["held"] else "looked"
    rules = sorted({f"{r.rule} {r.subject}" for r in (*changed, *left_alone)})
    return TickLine("error" if bad else "info", event, fields, f"{event} {results} {plans} {rules}")


def _first(reasons: Sequence[Reason]) -> list[str]:
    return [str(reason) for reason in reasons[:MOST_REASONS]]


def _of(record: TickRecord, outcome: str) -> list[str]:
    return [_text(result) for result in record.results if result.outcome == outcome]


def _text(result: ActResult) -> str:
    detail = f": {result.detail}" if result.detail else ""
    return f"{result.act} {result.subject}{detail}"
