"""Which rows of the audit log belong to a window of time? Read in pages, forth and back, the chain checked on the way.

Instants grow with row numbers, so that a window is found without reading what is outside it; where the clock was set
back, rows from the time that came twice may be missed or read as well.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import sqlalchemy as sql

from controller.adapters.audit_store import TABLE, audit_errors
from controller.adapters.record_text import text_in
from controller.adapters.sql_audit import Chain, SqlAudit, fault_of
from controller.errors import AuditError
from controller.incidents.ticks import StoredRow

PAGE_ROWS = 50  # of a large fleet a row may be megabytes


class AuditWindow:
    """Reads rows of the log in an engine's database, and remembers whether they were as they were written."""

    def __init__(self, engine: sql.Engine) -> None:
        self._engine = engine
        self.chain = Chain(0, "")

    def ends(self) -> tuple[int, int, float] | None:
        """Return the first and the last row's number and the last one's instant; None when there are no rows."""
        with audit_errors("read"), self._engine.connect() as connection:
            first = connection.execute(sql.select(sql.func.min(TABLE.c.number))).scalar()
            newest = sql.select(TABLE.c.number, TABLE.c.at).order_by(TABLE.c.number.desc()).limit(1)
            last = connection.execute(newest).one_or_none()
        return None if last is None or first is None else (first, last.number, last.at)

    def first_since(self, at: float) -> int:
        """Return the number of the first row of ``at`` or later; one after the last when there is none."""
        ends = self.ends()
        if ends is None:
            return 1
        low, high = ends[0], ends[1] + 1
        with audit_errors("read"), self._engine.connect() as connection:
            while low < high:
                middle = (low + high) // 2
                query = sql.select(TABLE.c.number, TABLE.c.at).where(TABLE.c.number >= middle)
                row = connection.execute(query.order_by(TABLE.c.number).limit(1)).one()
                if row.at < at:
                    low = row.number + 1
                else:
                    high = middle
        return low

    def rows(self, first: int) -> Iterator[StoredRow]:
        """Yield the rows from ``first`` on, oldest first, up to the first that breaks the chain.

        Rows before the oldest one that is kept must have been pruned by the log's own word.
        """
        count, previous, number, pruned = 0, "", first - 1, 0
        for row in self._pages(TABLE.c.number >= first, TABLE.c.number):
            if not count:
                previous, number, pruned = self._before(row)
            count, number = count + 1, number + 1
            if what := fault_of(row, number, previous):
                self.chain = Chain(count, previous, str(row.number), what, pruned)
                return
            previous = row.hash
            self.chain = Chain(count, previous, pruned=pruned)
            yield _stored(row)

    def _before(self, row: sql.Row[Any]) -> tuple[str, int, int]:
        """Return hash and number that must come before the first row that is read, and how many were pruned."""
        ends = self.ends()
        if ends is not None and row.number > ends[0]:
            return row.previous_hash, row.number - 1, 0
        pruned, previous = SqlAudit(self._engine).pruned_before(row.number)
        return previous, pruned, pruned

    def back_from(self, number: int) -> Iterator[StoredRow]:
        """Yield the rows before ``number``, newest first."""
        yield from map(_stored, self._pages(TABLE.c.number < number, TABLE.c.number.desc()))

    def _pages(self, which: sql.ColumnElement[bool], order: sql.ColumnElement[Any]) -> Iterator[sql.Row[Any]]:
        last: int | None = None
        forth = order is TABLE.c.number
        while True:
            query = sql.select(TABLE).where(which).order_by(order).limit(PAGE_ROWS)
            if last is not None:
                query = query.where(TABLE.c.number > last if forth else TABLE.c.number < last)
            with audit_errors("read"), self._engine.connect() as connection:
                page = connection.execute(query).all()
            yield from page
            if len(page) < PAGE_ROWS:
                return
            last = page[-1].number


def _stored(row: sql.Row[Any]) -> StoredRow:
    try:
        return StoredRow(row.number, row.at, row.kind, text_in(row.record))
    except ValueError:
        raise AuditError(f"row {row.number} of the audit log holds no record", remedy="verify the chain") from None
