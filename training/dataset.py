"""Which windows may a net learn from, be stopped by, and be judged on? A split in time with nothing leaking back.

::

    rows      |------ train ------|gap|-- validation --|gap|------ test ------|
    origins    those whose longest target still lies inside their own part

An origin is the number of steps already seen, so its targets are rows ``origin`` to ``origin + horizon - 1``. The last
``horizon - 1`` origins of a part would reach into the next one: they are dropped, which is the gap. Inputs may reach
back into an earlier part, as they do in service.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np

from forecasting.features import IntArray, NetSpec, WindowTensors, window_tensors
from forecasting.series import FloatArray, LoadSeries

# Mean change of a load that counts as one that moves, as a share of its level.
LEAST_MOVE = 0.02


@dataclass(frozen=True, slots=True)
class Split:
    """Where the parts of a series begin, in rows: train from 0, then ``validation_from``, ``test_from``, ``end``."""

    validation_from: int
    test_from: int
    end: int

    def __post_init__(self) -> None:
        if not 0 < self.validation_from <= self.test_from <= self.end:
            raise ValueError(f"parts must follow each other: {self.validation_from}, {self.test_from}, {self.end}")

    def origins(self, part: str, horizon_steps: int, context_steps: int) -> IntArray:
        """Return the origins of ``train``, ``validation`` or ``test`` whose targets end inside that part.

        The first training origin has a full context behind it; later parts have one anyway.
        """
        first, last = {
            "train": (context_steps, self.validation_from),
            "validation": (max(self.validation_from, context_steps), self.test_from),
            "test": (max(self.test_from, context_steps), self.end),
        }[part]
        return np.arange(first, max(first, last - horizon_steps + 1), dtype=np.int64)


def split_in_time(steps: int, validation_ratio: float, test_ratio: float) -> Split:
    """Return the split of ``steps`` rows: the newest ``test_ratio`` is test, what is before it validation, then train.

    >>> split_in_time(1000, 0.15, 0.3)
    Split(validation_from=550, test_from=700, end=1000)
    """
    test_from = round(steps * (1.0 - test_ratio))
    return Split(round(steps * (1.0 - test_ratio - validation_ratio)), test_from, steps)


@dataclass(frozen=True, slots=True, eq=False)
class Examples:
    """Windows and ``float64[B]``, what each counts: money is lost in proportion to the load that was misjudged.

    The weight is the level of the window over the mean of its series and channel, within [0.1, 10], times how little
    the load of that series and channel moves: each is to be forecast better than by its last value, a smooth one too.
    """

    windows: WindowTensors
    weight: FloatArray

    def __len__(self) -> int:
        return len(self.weight)


def examples_of(
    series: Sequence[LoadSeries],
    splits: Sequence[Split],
    spec: NetSpec,
    part: str,
    max_windows: int,
    lead_steps: Sequence[int] | None = None,
    short_history_ratio: float = 0.0,
    seed: int = 0,
) -> Examples:
    """Build the windows of one part of all series, in the order of the series and of time.

    More than ``max_windows`` are thinned evenly, each series by the same factor. Windows with no recorded target, or
    with half of the context missing, are left out: the first teach nothing, the second are refused in service too.
    ``short_history_ratio`` of the origins, drawn by ``seed``, are shown as if the record had begun lately.
    """
    longest = max(lead_steps or spec.lead_steps)
    origins = [split.origins(part, longest, spec.least_steps) for split in splits]
    total = sum(len(own) for own in origins) * len(spec.channels)
    stride = max(1, -(-total // max_windows))
    built, weights = [], []
    rng = np.random.default_rng(seed)
    for one, split, own in zip(series, splits, origins, strict=True):
        ends = own[stride // 2 :: stride]
        known = _known_steps(ends, spec, short_history_ratio, rng)
        windows = window_tensors(one, spec, ends, lead_steps=lead_steps, known_steps=known)
        kept = np.flatnonzero(np.isfinite(windows.target).any(axis=1) & (windows.observed_ratio >= 0.5))
        built.append(_taken(windows, kept))
        weights.append(_weights(built[-1], one.values[: split.validation_from]))
    joined = {f.name: np.concatenate([getattr(each, f.name) for each in built]) for f in fields(WindowTensors)}
    return Examples(WindowTensors(**joined), np.concatenate(weights))


def _known_steps(ends: IntArray, spec: NetSpec, ratio: float, rng: np.random.Generator) -> IntArray:
    """Return how many steps before each origin are shown: all, or for ``ratio`` of them so few that something lacks."""
    few, many = np.log(spec.least_steps), np.log(max(spec.most_steps, spec.least_steps + 1))
    drawn = np.exp(rng.uniform(few, many, len(ends))).astype(np.int64)
    return np.where(rng.random(len(ends)) < ratio, np.minimum(ends, drawn), ends)


def _weights(windows: WindowTensors, known: FloatArray) -> FloatArray:
    seen = np.isfinite(known)
    mean = np.where(seen, known, 0.0).sum(axis=0) / np.maximum(seen.sum(axis=0), 1)
    weight = np.clip(windows.level / np.maximum(mean[windows.channel], 1e-9), 0.1, 10.0)
    moved = np.abs(windows.target.astype(np.float64))
    there = np.isfinite(moved)
    by_window = np.where(there, moved, 0.0).sum(axis=1) / np.maximum(there.sum(axis=1), 1)
    for channel in np.unique(windows.channel):
        own = windows.channel == channel
        # A load that never moves teaches nothing more by counting without end.
        weight[own] /= max(float(np.average(by_window[own], weights=weight[own])), LEAST_MOVE)
    return np.asarray(weight, dtype=np.float64)


def _taken(windows: WindowTensors, rows: IntArray) -> WindowTensors:
    return WindowTensors(**{f.name: getattr(windows, f.name)[rows] for f in fields(WindowTensors)})


def data_digest(series: Sequence[LoadSeries]) -> str:
    """Return the SHA-256 of everything a fit can see: start, step and all rates, gaps included, in order."""
    digest = hashlib.sha256()
    for one in series:
        digest.update(np.array([one.start_at, one.step_s, len(one)], dtype="<f8").tobytes())
        # One bit pattern for every gap: NaNs may differ in their payload.
        digest.update(np.where(np.isfinite(one.values), one.values, np.nan).astype("<f8").tobytes())
    return digest.hexdigest()
