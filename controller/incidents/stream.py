"""How is a log read tick by tick, each with what became of it, when almost no tick of a year matters?"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial

from controller.incidents.ticks import Json, StoredRow, Tick

LATE_ROWS = 4
"""Decisions that may be recorded before what became of an earlier one; only another writer puts any in between."""

_OUTCOMES = ("acted", "failed", "held")


@dataclass(slots=True)
class _Pending:
    """A decision whose acts may still be told of."""

    row: StoredRow
    outcome: Json | None = None

    @property
    def settled(self) -> bool:
        return self.row.kind != "intended" or self.outcome is not None


def whole_ticks(
    rows: Iterable[StoredRow], awake: Callable[[], bool]
) -> Iterator[tuple[Tick, Callable[[], Tick | None]]]:
    """Yield each tick that matters, joined with what became of it, and what returns the tick before it.

    A tick matters when a diagnosis was made in it, or when ``awake`` says that an incident is open; of all others only
    the last is kept, as text. Few rows are held at a time, however long the log is.
    """
    last: StoredRow | Tick | None = None
    for row, outcome in _joined(rows):
        if not (awake() or row.names_somebody_ill):
            last = row
            continue
        tick, before = _tick(row, outcome), last
        last = tick
        yield tick, partial(_read, before)


def _joined(rows: Iterable[StoredRow]) -> Iterator[tuple[StoredRow, Json | None]]:
    """Yield the row of each tick, in order, with the record of what became of it; None where there is none."""
    waiting: deque[_Pending] = deque()
    for row in rows:
        if row.kind == "pruned":
            continue
        if row.kind in _OUTCOMES and '"intent":' in row.text:
            outcome = row.record
            for pending in waiting:
                if str(pending.row.number) == str(outcome.get("intent")):
                    pending.outcome = outcome
        else:
            waiting.append(_Pending(row))
        while waiting and (waiting[0].settled or len(waiting) > LATE_ROWS):
            pending = waiting.popleft()
            yield pending.row, pending.outcome
    yield from ((pending.row, pending.outcome) for pending in waiting)


def _read(row: StoredRow | Tick | None) -> Tick | None:
    return _tick(row, None) if isinstance(row, StoredRow) else row


def _tick(row: StoredRow, outcome: Json | None) -> Tick:
    record = dict(row.record)
    if outcome is not None:
        record.update(results=outcome.get("results"), error=outcome.get("error") or record.get("error"))
    elif row.kind == "intended":
        record["results"] = None  # nothing is known of them
    return Tick(str(row.number), row.at, record)
