"""Which instants and values does a file with one metric hold? Read piece by piece, whatever its length."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime
from math import isfinite, nan
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from controller.errors import BadInput
from simulations.trace_pieces import place_of
from simulations.trace_tables import TableFile, open_table

TIMESTAMP, VALUE = "timestamp", "value"
MISSING = frozenset({"", "nan", "na", "n/a", "null", "none", "-"})
"""What stands in a text cell where there is no value, in lower case."""
_SHOWN_CHARS = 60
CALENDAR_S = 253_402_300_800.0
"""Seconds from 1970 to the year 10,000; milliseconds since 1970 have been more for a long time."""


@dataclass(frozen=True, slots=True)
class MetricRow:
    """One row.

    Args:
        timestamp: As the file has it; an instant of a Parquet file as ISO text.
        at: The same in seconds since 1970, UTC where it has no zone.
        value: NaN where there is none.
    """

    timestamp: str | int | float
    at: float
    value: float


class MetricFile:
    """A table with the columns ``timestamp`` (ISO text or seconds) and ``value``: CSV, Parquet or JSON lines.

    Raises:
        BadInput: If it cannot be read, or lacks a column.
    """

    def __init__(self, path: Path) -> None:
        if not path.is_file():
            raise BadInput("there is no such file", f"--input {path}", "name a CSV or Parquet file")
        self._table = open_table(path)
        # CSV and Parquet are read as text, or as they are; JSON lines as what their first line has.
        numbers = {TIMESTAMP} & set(self._table.numeric_columns) | {VALUE} if self._table.kind == "jsonl" else set()
        self._types = {name: pa.float64() if name in numbers else pa.string() for name in (TIMESTAMP, VALUE)}
        missing = [name for name in (TIMESTAMP, VALUE) if name not in self._table.columns]
        if missing:
            has = ", ".join(repr(name[:_SHOWN_CHARS]) for name in self._table.columns[:8])
            what = f"no column {' and no column '.join(missing)} (it has {has})"
            remedy = "name the columns timestamp and value in the first line"
            if any(separator in name for name in self._table.columns for separator in ";\t"):
                remedy += ", and separate cells by commas"
            raise BadInput(what, str(path), remedy)

    def count(self) -> int:
        """Return how many rows there are."""
        return sum(len(piece) for piece in self._table.pieces({TIMESTAMP: self._types[TIMESTAMP]}))

    def rows(self) -> Iterator[MetricRow]:
        """Yield all rows in the order of the file.

        Raises:
            BadInput: If a cell is neither an instant nor a number.
        """
        row = 0
        for piece in self._table.pieces(self._types):
            columns = [_plain(piece.table.column(name)) for name in (TIMESTAMP, VALUE)]
            for timestamp, value in zip(*columns, strict=True):
                yield _row(self._table, row, timestamp, value)
                row += 1


def _plain(column: Any) -> list[Any]:
    """Return a column's cells as Python values; instants of Parquet as ISO text, since nanoseconds have no other."""
    if pa.types.is_timestamp(column.type):
        zone = "Z" if column.type.tz else ""
        wall = column.cast(pa.timestamp("us", column.type.tz), safe=False)
        return [
            None if text is None else f"{text}{zone}" for text in pc.strftime(wall, "%Y-%m-%dT%H:%M:%S").to_pylist()
        ]
    cells: list[Any] = column.to_pylist()
    return cells


def _row(table: TableFile, row: int, timestamp: Any, value: Any) -> MetricRow:
    given: str | int | float = timestamp.isoformat() if isinstance(timestamp, date) else timestamp
    at = _seconds(given)
    if at is None:
        where = place_of(table.path, table.kind, row, TIMESTAMP)
        what = f"{'an empty cell' if timestamp is None or timestamp == '' else _shown(timestamp)} is no instant"
        raise BadInput(what, where, "write 2026-05-01 12:00:00, 2026-05-01T12:00:00Z, or seconds since 1970")
    if abs(at) > CALENDAR_S:
        where = place_of(table.path, table.kind, row, TIMESTAMP)
        what = f"{timestamp!r} seconds since 1970 are beyond the year 9999"
        raise BadInput(what, where, "write seconds, not milliseconds or less, or text such as 2026-05-01T12:00:00Z")
    number = _number(value)
    if number is None:
        where = place_of(table.path, table.kind, row, VALUE)
        raise BadInput(
            f"{_shown(value)} is not a number", where, "write a number, or leave the cell empty where none is known"
        )
    return MetricRow(_as_given(given), at, number)


def _shown(cell: Any) -> str:
    """Return a cell as a message has it: where a quote is not closed, the rest of the file is one cell."""
    said = repr(cell)
    return said if len(said) <= _SHOWN_CHARS else f"{said[:_SHOWN_CHARS]}..."


def _seconds(given: Any) -> float | None:
    """Return an instant in seconds since 1970; None where it is none."""
    seconds = _number(given)
    if seconds is None and isinstance(given, str):
        try:
            at = datetime.fromisoformat(given.strip())
        except ValueError:
            return None
        seconds = (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()
    return seconds if seconds is not None and isfinite(seconds) else None


def _number(cell: Any) -> float | None:
    """Return a cell as a number, NaN where it is missing, None where it is something else."""
    if cell is None:
        return nan
    if isinstance(cell, str):
        text = cell.strip()
        if text.lower() in MISSING:
            return nan
        try:
            return float(text)
        except ValueError:
            return None
    if isinstance(cell, bool) or not hasattr(cell, "__float__"):
        return None
    return float(cell)


def _as_given(given: str | int | float) -> str | int | float:
    """Return text that is a number of seconds as that number, all else as it is."""
    if isinstance(given, float) and given.is_integer():
        return int(given)
    if not isinstance(given, str):
        return given
    for kind in (int, float):
        try:
            return kind(given)
        except ValueError:
            continue
    return given
