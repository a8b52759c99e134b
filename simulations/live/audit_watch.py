"""What does the daemon do? Its audit log, read while it is written, as the view that the demo shows.

The log is what the daemon itself leaves; nothing is asked of its process, so that it may die meanwhile.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from controller.adapters.sql_audit import AuditEntry, SqlAudit
from controller.errors import AuditError
from controller.ports import ActResult, TickRecord
from policies.wire_reader import read_back
from simulations.live_state import Tally, ViewState, advance

_MOST_ENTRIES = 400
"""Read at one look; ticks come every few seconds."""

NOT_OVER = "intended"


class AuditWatch:
    """Follows the audit log of a running daemon.

    Attributes:
        view: What it has led to so far.
        acts: How often each act came to what, as ``(act, outcome)``.
    """

    def __init__(self, file: Path, view: ViewState) -> None:
        self.view = view
        self.acts: Counter[tuple[str, str]] = Counter()
        self._file = file
        self._last = 0
        self._log: SqlAudit | None = None

    def look(self, tally: Tally) -> None:
        """Read what is new; without a log, or one that cannot be read just now, nothing is."""
        try:
            if self._log is None:
                self._log = SqlAudit.open_existing(self._file)
            newest = self._log.recent(_MOST_ENTRIES)
        except AuditError:
            return
        fresh = sorted((entry for entry in newest if int(entry.id) > self._last), key=lambda entry: int(entry.id))
        outcomes = {str(e.record["intent"]): e for e in fresh if "intent" in e.record}
        for entry in fresh:
            if entry.kind == NOT_OVER and entry.id not in outcomes and entry is fresh[-1]:
                break  # its outcome comes with the next look
            self._take(entry, outcomes.get(entry.id), tally)
            self._last = int(entry.id)

    def close(self) -> None:
        """Let go of the log."""
        if self._log is not None:
            self._log.close()

    def _take(self, entry: AuditEntry, outcome: AuditEntry | None, tally: Tally) -> None:
        if entry.record.get("type") != "TickRecord":
            return
        record = _record_of(entry.record)
        if outcome is not None:
            record = replace(record, results=read_back(tuple[ActResult, ...], outcome.record["results"]))
        self.acts.update((result.act, result.outcome) for result in record.results)
        self.view = advance(self.view, record, record.forecasts, tally)


def _record_of(written: Mapping[str, Any]) -> TickRecord:
    return read_back(TickRecord, written)
