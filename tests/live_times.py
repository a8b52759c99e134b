"""What the live tests measured, told where it helps: at the end of the session, in a file, and when one of them fails.

A test notes a figure in its reported properties, which also come back from the workers of pytest-xdist.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

FILE_VARIABLE = "FORESAIL_LIVE_TIMES"
"""Environment variable that names a file to write the figures to, as JSON, or as a table when it ends in ``.md``."""

PROPERTY = "measured"


class Measured:
    """The figures of one test: what happened, in words, and how much, with its unit."""

    def __init__(self, case: str, record: Callable[[str, object], None]) -> None:
        self.case = case
        self.figures: dict[str, str] = {}
        self._record = record

    def note(self, what: str, value: float, unit: str = "s") -> None:
        """Note one figure."""
        self.figures[what] = f"{value:.1f} {unit}" if unit == "s" else f"{value:g} {unit}".strip()
        sys.stdout.write(f"{self.case}: {what} {self.figures[what]}\n")
        self._record(PROPERTY, (self.case, what, self.figures[what]))

    def __str__(self) -> str:
        return f"{self.case}: " + ", ".join(f"{what} {value}" for what, value in self.figures.items())


def collected(properties: Sequence[tuple[str, object]]) -> list[tuple[str, str, str]]:
    """Return the figures among the properties of reports, in their order."""
    return [(str(value[0]), str(value[1]), str(value[2])) for name, value in properties
            if name == PROPERTY and isinstance(value, list | tuple)]  # fmt: skip


def table(figures: Sequence[tuple[str, str, str]]) -> str:
    """Return the figures as a Markdown table, one row per case."""
    rows: dict[str, list[str]] = {}
    for case, what, value in figures:
        rows.setdefault(case, []).append(f"{what} {value}")
    return "\n".join(["| case | measured |", "| --- | --- |", *(f"| {c} | {'; '.join(v)} |" for c, v in rows.items())])


def write(figures: Sequence[tuple[str, str, str]], environment: Mapping[str, str] = os.environ) -> None:
    """Write the figures to the file that the environment names, if it names one."""
    if not environment.get(FILE_VARIABLE):
        return
    file = Path(environment[FILE_VARIABLE])
    listed = [{"case": case, "what": what, "value": value} for case, what, value in figures]
    file.write_text((table(figures) if file.suffix == ".md" else json.dumps(listed, indent=2)) + "\n")
