"""What does Foresail's detector get on the Numenta Anomaly Benchmark? ``python -m tests.reference.nab_corpus FOLDER``.

FOLDER holds ``series.parquet`` (timestamp, value, series) and ``combined_windows.json``, or is a copy of the
benchmark's repository with its ``data`` and ``labels``. The data do not come with Foresail: github.com/numenta/NAB.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from math import nan
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from forecasting.detection.detector import ALARM_SCORE, Detector, DetectorSettings
from tests.reference.nab_scorer import OUTSIDE, PROFILES, Labelled, best_sweep, normalised, row_worths, score_at, sweep

Floats = NDArray[np.float64]
DAY_S = 86_400.0


@dataclass(frozen=True, slots=True)
class Series:
    """One series of the benchmark: its labels, times in seconds, and values, all as its file has them."""

    labelled: Labelled
    at: Floats
    values: Floats


@dataclass(frozen=True, slots=True)
class Events:
    """What an operator would see at one threshold, outside the first 15 % of each series.

    Args:
        precision: Share of alarms within labelled windows.
        recall: Share of windows with an alarm.
        false_alarms_per_day: Alarms outside of windows, per day of data.
        median_position: Where in its window the first alarm came, from 0 (its first row) to 1.
    """

    precision: float
    recall: float
    false_alarms_per_day: float
    median_position: float


def corpus_in(folder: Path) -> list[Series]:
    """Return the benchmark's series that ``folder`` holds, in the order of their names."""
    if (folder / "series.parquet").is_file():
        rows = pd.read_parquet(folder / "series.parquet")
        tables = {str(name): table for name, table in rows.groupby("series")}
        labels = folder / "combined_windows.json"
    else:
        files = sorted((folder / "data").rglob("*.csv"))
        tables = {file.relative_to(folder / "data").as_posix(): pd.read_csv(file) for file in files}
        labels = folder / "labels" / "combined_windows.json"
    windows = json.loads(labels.read_text())
    return [_series(name, table, windows[name]) for name, table in sorted(tables.items())]


def scores_of(series: Series, settings: DetectorSettings | None = None) -> Floats:
    """Return the shipped detector's score of every row, in one pass."""
    detector = Detector(settings)
    return np.array([detector.step(*row).score for row in zip(series.at.tolist(), series.values.tolist(), strict=True)])


def elsewhere_score(corpus: Sequence[Series], scores: Sequence[Floats], whole_folders: bool = False) -> float:
    """Return the standard score when each series is judged at the threshold that is best for all others.

    ``whole_folders`` leaves out all series of a folder together: ``realTweets`` is judged by what is not tweets.
    """
    labelled, profile = [each.labelled for each in corpus], PROFILES["standard"]
    groups = [each.name.split("/")[0].removesuffix("NoAnomaly").removesuffix("WithAnomaly") for each in labelled]
    raw = 0.0
    for index, group in enumerate(groups):
        others = [n for n in range(len(corpus)) if n != index and not (whole_folders and groups[n] == group)]
        threshold = best_sweep([labelled[n] for n in others], [scores[n] for n in others], profile).threshold
        thresholds, sums = sweep([labelled[index]], [scores[index]], profile)
        raw += float(sums[np.flatnonzero(thresholds >= threshold)[-1]])
    return float(normalised(raw, labelled, profile))


def events_of(corpus: Sequence[Series], scores: Sequence[Floats], threshold: float) -> Events:
    """Return what the alarms of ``scores`` from ``threshold`` on are worth to an operator."""
    inside = alarms = found = windows = 0
    days, positions = 0.0, []
    for series, given in zip(corpus, scores, strict=True):
        _, window = row_worths(series.labelled, PROFILES["standard"])
        looked_at, fired = window >= OUTSIDE, (given >= threshold) & (window >= OUTSIDE)
        alarms, inside = alarms + int(fired.sum()), inside + int((fired & (window >= 0)).sum())
        days += float(np.ptp(series.at[looked_at])) / DAY_S
        for index, (first, last) in enumerate(series.labelled.windows):
            windows += 1
            hits = np.flatnonzero(fired & (window == index))
            if len(hits):
                found += 1
                positions.append((hits[0] - first) / max(last - first, 1))
    return Events(inside / alarms, found / windows, (alarms - inside) / days, float(np.median(positions)))


def _series(name: str, table: pd.DataFrame, windows: Sequence[Sequence[str]]) -> Series:
    times = pd.to_datetime(table["timestamp"]).to_numpy().astype("datetime64[us]")
    limits = [[np.datetime64(pd.Timestamp(limit), "us") for limit in window] for window in windows]
    rows = tuple((int(np.argmax(times == first)), int(np.argmax(times == last))) for first, last in limits)
    at = times.astype(np.int64) / 1e6
    return Series(Labelled(name, len(table), rows), at, table["value"].to_numpy(np.float64))


def main(folder: Path) -> None:
    """Print the scores of the corpus, of each series at the corpus's threshold, and what an operator would see."""
    corpus = corpus_in(folder)
    scores = [scores_of(series) for series in corpus]
    labelled = [series.labelled for series in corpus]
    found = {name: best_sweep(labelled, scores, profile) for name, profile in PROFILES.items()}
    lines = [f"{name:10} {best.score:6.2f}   at threshold {best.threshold:.4f}" for name, best in found.items()]
    lines.append(f"standard, each series at the best threshold of all others: {elsewhere_score(corpus, scores):.2f}")
    by_folder = elsewhere_score(corpus, scores, whole_folders=True)
    lines.append(f"standard, each folder at the best threshold of all others: {by_folder:.2f}")
    at_default = score_at(labelled, scores, PROFILES["standard"], ALARM_SCORE)
    lines.append(f"standard, at the default threshold of {ALARM_SCORE}: {at_default:.2f}, with {_told(corpus, scores)}")
    for series, given in zip(labelled, scores, strict=True):
        fired = int((given >= found["standard"].threshold).sum())
        own = score_at([series], [given], PROFILES["standard"], found["standard"].threshold) if series.windows else nan
        lines.append(f"  {series.name:56} {len(series.windows)} windows, {fired:2} alarms, {own:6.1f}")
    print("\n".join(lines))  # noqa: T201 - a command prints


def _told(corpus: Sequence[Series], scores: Sequence[Floats]) -> str:
    """Return what an operator sees at the default threshold, in words."""
    events = events_of(corpus, scores, ALARM_SCORE)
    return (
        f"{events.recall:.0%} of windows found, {events.precision:.0%} of alarms in a window, "
        f"{events.false_alarms_per_day:.3f} false alarms per day of data, median first alarm "
        f"{events.median_position:.0%} into the window"
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
