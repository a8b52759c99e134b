"""Which rows must be read to tell the incidents of a time, or one incident, as the whole log would tell them?"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

from controller.adapters.audit_window import AuditWindow
from controller.errors import BadInput, ForesailError
from controller.incidents.fold import QUIET_S, Fold, incidents_in
from controller.incidents.incident import Incident
from controller.incidents.related import TOGETHER_S
from controller.incidents.stream import LATE_ROWS
from controller.incidents.ticks import StoredRow

_BACK = re.compile(r"(\d+(?:\.\d+)?)([smhdw])")
_UNIT_S = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
_IN_TROUBLE = ('"open":true', '"phase":"failed"', '"phase":"loading"', '"phase":"pending"')


def instant_of(text: str | None, option: str, newest_at: float) -> float | None:
    """Return the instant that an option names, in Unix seconds: ISO 8601, Unix seconds, or a time back from the newest.

    What names no time zone is UTC.

    Raises:
        BadInput: If it is none of them.

    >>> instant_of("90m", "--since", 10_000.0), instant_of("1970-01-01T01:00", "--since", 0.0)
    (4600.0, 3600.0)
    """
    if text is None:
        return None
    text = text.strip()
    if back := _BACK.fullmatch(text):
        return newest_at - float(back[1]) * _UNIT_S[back[2]]
    try:
        return float(text) if re.fullmatch(r"\d{1,12}(\.\d+)?", text) else _in_calendar(text)
    except ValueError:
        remedy = (
            "write an instant such as 2026-03-01T08:00, Unix seconds, or a time back from the newest row such as 6h"
        )
        raise BadInput(f"{text!r} is no instant", option, remedy) from None


def incidents_between(window: AuditWindow, since_at: float | None, until_at: float | None) -> list[Incident]:
    """Return the incidents of which any part lies between two instants, by their beginning.

    What was going on at ``since_at`` is read from its start, and what is at ``until_at`` to its end.

    Raises:
        ForesailError: If a record has another shape than any that is written.
    """
    ends = window.ends()
    if ends is None:
        return []
    first = ends[0] if since_at is None else _settled_before(window, window.first_since(since_at))
    fold = Fold()

    def enough(row: StoredRow) -> bool:
        return until_at is not None and row.at > until_at and all(e.suspected_at > until_at for e in fold.open)

    with _readable():
        found = list(incidents_in(window.rows(first), fold, enough))
    return sorted(
        (
            incident
            for incident in found
            if (since_at is None or incident.seen_until_at >= since_at)
            and (until_at is None or incident.suspected_at <= until_at)
        ),
        key=lambda incident: (incident.suspected_at, _place(incident.id)),
    )


def incident_named(window: AuditWindow, entry_id: str, where: str) -> tuple[Incident, list[Incident]]:
    """Return the incident with that id, and all that were read beside it.

    Raises:
        BadInput: If there is none.
        ForesailError: If a record has another shape than any that is written.
    """
    ends = window.ends()
    found = re.fullmatch(r"(\d{1,18})\.(\d{1,9})", entry_id)
    remedy = "`foresail incidents` lists those that there are"
    if found is None:
        raise BadInput(f"{entry_id!r} is no id of an incident, such as 812.1", where, remedy)
    number, fold = int(found[1]), Fold()
    if ends is None or not ends[0] <= number <= ends[1]:
        kept = f"; rows {ends[0]} to {ends[1]} are kept" if ends else ""
        raise BadInput(f"there is no incident {entry_id!r}{kept}", where, remedy)
    begun_at: list[float] = []

    def enough(row: StoredRow) -> bool:
        if row.number == number:
            begun_at.append(row.at)
        read = row.number > number + 2 * LATE_ROWS and all(episode.id != entry_id for episode in fold.open)
        return read and row.at > begun_at[0] + TOGETHER_S

    with _readable():
        near = list(incidents_in(window.rows(_settled_before(window, number)), fold, enough))
    for incident in near:
        if incident.id == entry_id:
            return incident, near
    raise BadInput(f"there is no incident {entry_id!r}", where, remedy)


def _settled_before(window: AuditWindow, number: int) -> int:
    """Return a row, not after ``number``, before which nothing was going on for the quiet time.

    From there on the same incidents are found, with the same ids, as from the first row.
    """
    first, quiet_from = number, None
    for row in window.back_from(number):
        first = row.number
        if _in_trouble(row):
            quiet_from = None
        elif quiet_from is None:
            quiet_from = row.at
        elif quiet_from - row.at > QUIET_S:
            break
    return first


def _in_trouble(row: StoredRow) -> bool:
    """Whether an incident could be going on, told without reading the JSON."""
    if row.names_somebody_ill or ('"cordons":{' in row.text and '"cordons":{}' not in row.text):
        return True
    return any(sign in row.text for sign in _IN_TROUBLE)


def _in_calendar(text: str) -> float:
    found = datetime.fromisoformat(text)
    return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()


def _place(entry_id: str) -> tuple[int, ...]:
    return tuple(int(part) for part in entry_id.split("."))


@contextmanager
def _readable() -> Iterator[None]:
    """Turn a record of another shape into a message: only one that was changed by hand has it."""
    try:
        yield
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        what = "the audit log holds a record of another shape than any that is written"
        raise ForesailError(what, remedy="check the chain with foresail explain --verify") from error
