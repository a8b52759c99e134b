"""What did the detector find in a metric? Every row judged in one pass, and the alarms gathered as events."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from math import isnan, log2

from forecasting.detection.detector import Detector, DetectorSettings, Verdict
from training.metric_rows import MetricRow


@dataclass(frozen=True, slots=True)
class Judged:
    """A row, what it was found to be, and between which values it would not have been an alarm by its time of day."""

    row: MetricRow
    verdict: Verdict
    low: float
    high: float


@dataclass(slots=True)
class Event:
    """Alarms that belong together, told by the one with the highest score.

    Args:
        since: When the series began to stray.
        peak: The row with the highest score.
        last_at: When the last alarm came.
        alarms: How many there were.
    """

    since: float
    peak: Judged
    last_at: float
    alarms: int = 1


@dataclass(slots=True)
class Findings:
    """All that is told of a file beside the rows' scores.

    Args:
        events: What fired.
        rows: Rows in the file.
        missing: Rows without a value.
        backwards: Rows that are older than the one before them.
        first_at: Oldest instant.
        last_at: Newest instant.
    """

    events: list[Event] = field(default_factory=list)
    rows: int = 0
    missing: int = 0
    backwards: int = 0
    first_at: float = float("inf")
    last_at: float = float("-inf")

    def add(self, judged: Judged, threshold: float) -> None:
        """Take in one row; from ``threshold`` on its score is an alarm."""
        row = judged.row
        self.rows += 1
        self.missing += isnan(row.value)
        self.backwards += row.at < self.last_at
        self.first_at, self.last_at = min(self.first_at, row.at), max(self.last_at, row.at)
        if judged.verdict.score < threshold:
            return
        last = self.events[-1] if self.events else None
        if last is None or judged.verdict.since > last.last_at:
            self.events.append(Event(judged.verdict.since, judged, row.at))
            return
        last.last_at, last.alarms = row.at, last.alarms + 1
        if judged.verdict.score > last.peak.verdict.score:
            last.peak = judged


@dataclass(slots=True)
class Course:
    """What is drawn: float64 times, values and bands of all rows, 32 bytes a row."""

    at: array[float] = field(default_factory=lambda: array("d"))
    values: array[float] = field(default_factory=lambda: array("d"))
    lows: array[float] = field(default_factory=lambda: array("d"))
    highs: array[float] = field(default_factory=lambda: array("d"))

    def add(self, judged: Judged) -> None:
        """Take in one row."""
        self.at.append(judged.row.at)
        self.values.append(judged.row.value)
        self.lows.append(judged.low)
        self.highs.append(judged.high)


def judged_rows(rows: Iterable[MetricRow], threshold: float, banded: bool) -> Iterator[Judged]:
    """Yield every row with its verdict; with bands, NaN otherwise, when these are asked for."""
    detector = Detector()
    rarity = rarity_of(threshold, detector.settings)
    low = high = float("nan")
    for row in rows:
        if banded:
            low, high = detector.band(row.at, rarity)
        yield Judged(row, detector.step(row.at, row.value), low, high)


def rarity_of(score: float, settings: DetectorSettings) -> float:
    """Return which rarity becomes this score, above 0 and below 1."""
    return -settings.alarm_rarity * log2(1.0 - score)
