"""What does the Numenta Anomaly Benchmark (NAB) give a detector? Its scoring, written again from what it does.

Lavin and Ahmad, "Evaluating real-time anomaly detection algorithms: the Numenta Anomaly Benchmark" (2015), and the
details of its published scorer, version 1.1. Each labelled window that has a detection counts once, by its earliest, on
a sigmoid that falls from 1 at the window's first row to nearly 0 at its last; a window without one counts -A_FN; each
detection outside counts up to -A_FP, less when it follows closely on a window. The first 15 % of a series, at most 750
rows, are not looked at. One threshold, the best, is used for all series. 0 is what no detection at all gets, 100 one
detection in the first row of every window.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

PROBATION_SHARE, PROBATION_ROWS = 0.15, 750
FAR_BEHIND = 3.0
"""From as many window widths behind a window on, a detection outside costs all of A_FP."""
OUTSIDE, PROBATION = -1, -2


@dataclass(frozen=True, slots=True)
class Profile:
    """What a detected window, a false detection and a missed window count. True negatives count nothing in NAB."""

    hit: float
    false_alarm: float
    miss: float


PROFILES: Mapping[str, Profile] = {
    "standard": Profile(1.0, 0.11, 1.0),
    "low_fp": Profile(1.0, 0.22, 1.0),
    "low_fn": Profile(1.0, 0.11, 2.0),
}


@dataclass(frozen=True, slots=True)
class Labelled:
    """One series as the scorer sees it: ``windows`` are first and last row (both inside) of each, in order."""

    name: str
    rows: int
    windows: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class Sweep:
    """Score of the corpus, 0 to 100 between no detection and a perfect one, and the threshold that gives it."""

    score: float
    threshold: float


def scaled_sigmoid(position: NDArray[np.float64] | float) -> NDArray[np.float64]:
    """Return what a detection is worth at ``position``: -1 is a window's start, 0 just after its end, above 0 outside.

    >>> [round(float(scaled_sigmoid(p)), 5) for p in (-1.0, -0.5, 0.0, 1.0, 3.0)]
    [0.98661, 0.84828, 0.0, -0.98661, -1.0]
    """
    position = np.asarray(position, np.float64)
    worth = 2.0 / (1.0 + np.exp(5.0 * np.minimum(position, FAR_BEHIND))) - 1.0
    return np.where(position >= FAR_BEHIND, -1.0, worth)


def probation_rows(rows: int) -> int:
    """Return how many first rows are not scored."""
    return int(min(np.floor(PROBATION_SHARE * rows), PROBATION_ROWS))


def row_worths(series: Labelled, profile: Profile) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return what a detection in each row counts, and its window's index, ``OUTSIDE`` or ``PROBATION``."""
    rows = np.arange(series.rows)
    position = np.full(series.rows, FAR_BEHIND)
    window = np.full(series.rows, OUTSIDE, np.int64)
    weight = np.full(series.rows, profile.false_alarm)
    for index, (first, last) in enumerate(series.windows):
        width = last - first + 1
        inside, after = slice(first, last + 1), slice(last + 1, None)
        position[inside] = -(last - rows[inside] + 1) / width
        position[after] = (rows[after] - last) / (width - 1) if width > 1 else FAR_BEHIND
        window[inside] = index
        weight[inside] = profile.hit / float(scaled_sigmoid(-1.0))
    window[: probation_rows(series.rows)] = PROBATION
    return scaled_sigmoid(position) * weight, window


def sweep(
    corpus: Sequence[Labelled], scores: Sequence[NDArray[np.float64]], profile: Profile
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return every threshold, highest first, and what the corpus gets when rows at or above it are detections."""
    gains, ordered_scores = [], []
    windows = 0
    for series, given in zip(corpus, scores, strict=True):
        if len(given) != series.rows:
            raise ValueError(f"{series.name}: {len(given)} scores for {series.rows} rows")
        worth, window = row_worths(series, profile)
        order = np.argsort(-given, kind="stable")
        gain = np.where(window == OUTSIDE, worth, 0.0)[order]
        for index in np.unique(window[window >= 0]):
            mine = np.flatnonzero(window[order] == index)
            best = np.maximum.accumulate(np.concatenate([[-profile.miss], worth[order][mine]]))
            gain[mine] = np.diff(best)
            windows += 1
        looked_at = window[order] != PROBATION
        gains.append(gain[looked_at])
        ordered_scores.append(given[order][looked_at])
    all_scores = np.concatenate(ordered_scores)
    order = np.argsort(-all_scores, kind="stable")
    sums = np.cumsum(np.concatenate(gains)[order]) - profile.miss * windows
    thresholds = all_scores[order]
    last_of_ties = np.append(np.flatnonzero(np.diff(thresholds) != 0), len(thresholds) - 1)
    nothing = -profile.miss * windows
    return np.append(np.inf, thresholds[last_of_ties]), np.append(nothing, sums[last_of_ties])


def normalised(raw: NDArray[np.float64] | float, corpus: Sequence[Labelled], profile: Profile) -> NDArray[np.float64]:
    """Return raw sums on NAB's scale: 0 for no detection, 100 for the first row of every window and nothing else."""
    windows = sum(len(series.windows) for series in corpus)
    if not windows:
        raise ValueError("no series has a labelled window, so that nothing can be scored")
    lowest, highest = -profile.miss * windows, profile.hit * windows
    return 100.0 * (np.asarray(raw, np.float64) - lowest) / (highest - lowest)


def best_sweep(corpus: Sequence[Labelled], scores: Sequence[NDArray[np.float64]], profile: Profile) -> Sweep:
    """Return the best score over all thresholds."""
    thresholds, raw = sweep(corpus, scores, profile)
    best = int(np.argmax(raw))
    return Sweep(float(normalised(raw[best], corpus, profile)), float(thresholds[best]))


def score_at(
    corpus: Sequence[Labelled], scores: Sequence[NDArray[np.float64]], profile: Profile, threshold: float
) -> float:
    """Return the score of the corpus at a threshold chosen elsewhere."""
    thresholds, raw = sweep(corpus, scores, profile)
    return float(normalised(raw[np.flatnonzero(thresholds >= threshold)[-1]], corpus, profile))
