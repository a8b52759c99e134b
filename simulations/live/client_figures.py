"""What have clients got so far? The load player's rows, read as they are written."""

from __future__ import annotations

import json
import math
from collections import deque
from dataclasses import fields
from pathlib import Path
from typing import Any

from policies.slo import ServiceObjective
from simulations.live.load_report import LoadRow, LoadSummary, LoadTally

WINDOW_S = 30.0
"""Arrivals of this long, in seconds, before the newest end make the rate that is shown."""

_MOST_BYTES = 8_000_000
"""Read at a time; what is beyond comes with the next look."""

_NUMBERS = {field.name for field in fields(LoadRow) if field.type in ("float", float)}


class ClientFigures:
    """The figures of one load so far; ``look`` reads what is new."""

    def __init__(self, file: Path, objective: ServiceObjective) -> None:
        self._file, self._tally = file, LoadTally(objective)
        self._offset = 0
        self._ends: deque[float] = deque()
        self._last_end_s = 0.0

    def look(self) -> None:
        """Read the rows that have been written since the last look; a row that is half written waits."""
        try:
            with self._file.open("rb") as opened:
                opened.seek(self._offset)
                fresh = opened.read(_MOST_BYTES)
        except OSError:
            return
        whole = fresh[: fresh.rfind(b"\n") + 1]
        self._offset += len(whole)
        for line in whole.splitlines():
            row = row_of(json.loads(line))
            self._tally.add(row)
            end_s = row.arrival_s + row.e2e_s
            if math.isfinite(end_s):
                self._last_end_s = max(self._last_end_s, end_s)
                self._ends.append(end_s)
        while self._ends and self._ends[0] < self._last_end_s - WINDOW_S:
            self._ends.popleft()

    @property
    def requests_per_s(self) -> float:
        """Requests that ended in the last window, per second; NaN before the first."""
        window_s = min(WINDOW_S, self._last_end_s)
        return len(self._ends) / window_s if window_s > 0 else math.nan

    def summary(self) -> LoadSummary:
        """Return everything so far."""
        return self._tally.summary(0, self._last_end_s)


def row_of(written: dict[str, Any]) -> LoadRow:
    """Return the row that a line of the load player holds: a null is a latency that there was none of."""
    values: dict[str, Any] = {
        name: math.nan if value is None and name in _NUMBERS else value for name, value in written.items()
    }
    return LoadRow(**values)
