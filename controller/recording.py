"""Is it on record? Written before anything is done, and what could not be written is told with what can."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace

from controller.errors import AuditError
from controller.ports import ActResult, ActsRecord, AuditLog, TickRecord

_LOG = logging.getLogger("foresail.audit")


class Recorder:
    """Writes ticks ahead of their acts.

    A tick whose record is refused must not act. Results that are refused are owed: they are offered again before the
    next record, and while they are not taken no record is, so that acts never run ahead of the log by more than one
    tick.
    """

    def __init__(self, audit: AuditLog) -> None:
        self._audit = audit
        self._owed: ActsRecord | None = None
        self._unrecorded: list[float] = []
        self._why = ""

    def announce(self, record: TickRecord) -> tuple[TickRecord, str]:
        """Return ``record`` as it was stored, and its id; with ``unrecorded`` set and no id when it was not."""
        if gap := self._gap():
            record = replace(record, gap=gap)
        try:
            self._pay()
            entry_id = self._audit.append(record)
        except AuditError as error:
            self._unrecorded = [*self._unrecorded[:1], record.at]
            return replace(record, unrecorded=self._refused(f"tick at {record.at:.0f} not recorded", error)), ""
        self._unrecorded, self._why = [], ""
        return record, entry_id

    def settle(self, record: TickRecord, entry_id: str, results: Sequence[ActResult], error: str = "") -> TickRecord:
        """Store what became of the acts of ``record``, and return it with that."""
        record = replace(record, results=tuple(results), error=error)
        self._owed = ActsRecord(record.at, entry_id, record.results, error)
        try:
            self._pay()
        except AuditError as refused:
            why = self._refused(f"what became of the tick at {record.at:.0f} not recorded", refused)
            return replace(record, unrecorded=why)
        return record

    def _pay(self) -> None:
        if self._owed is not None:
            self._audit.settle(self._owed)
            self._owed = None

    def _refused(self, what: str, error: AuditError) -> str:
        self._why = str(error)
        _LOG.error("%s: %s", what, error)
        return self._why

    def _gap(self) -> str:
        if not self._unrecorded:
            return ""
        first, last = self._unrecorded[0], self._unrecorded[-1]
        return f"nothing was recorded, nor done, from {first:.0f} to {last:.0f}: {self._why}"
