"""What load is expected, and between which bounds: quantiles per lead time, and of the peak on the way."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from forecasting.series import CHANNELS, FloatArray, read_only

DEFAULT_LEVELS: tuple[float, ...] = (0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.98)


@dataclass(frozen=True, slots=True, eq=False)
class LoadForecast:
    """Quantiles of offered load over the steps ahead.

    Attributes:
        made_at: Instant of the newest observation used.
        start_at: Instant at which the first forecast step begins.
        step_s: Length of a step.
        levels: ``float64[Q]``, ascending, inside (0, 1).
        values: ``float64[Q, H, C]``, quantile of the mean rate in each step; non-decreasing along Q.
        peaks: ``float64[Q, H, C]``, quantile of the *largest* rate from the first step to each step. The running
            maximum of ``values`` under-covers it, so forecasters that can, forecast it directly. Non-decreasing
            along Q and H, and never under ``values``.
        source: Model name and version.

    Raises:
        ValueError: If shapes disagree, levels do not ascend or quantiles cross.
    """

    made_at: float
    start_at: float
    step_s: float
    levels: FloatArray
    values: FloatArray
    peaks: FloatArray
    source: str

    def __post_init__(self) -> None:
        levels, values, peaks = read_only(self.levels), read_only(self.values), read_only(self.peaks)
        if levels.ndim != 1 or not len(levels) or (np.diff(levels) <= 0).any() or not (0 < levels[0] <= levels[-1] < 1):
            raise ValueError(f"levels must ascend inside (0, 1), got {levels.tolist()}")
        if (
            values.ndim != 3
            or values.shape[0] != len(levels)
            or values.shape[2] != len(CHANNELS)
            or not values.shape[1]
        ):
            raise ValueError(f"values must have shape [{len(levels)}, H, {len(CHANNELS)}], got {values.shape}")
        if peaks.shape != values.shape:
            raise ValueError(f"peaks have shape {peaks.shape}, values {values.shape}")
        if not (np.isfinite(values).all() and np.isfinite(peaks).all()) or (values < 0).any():
            raise ValueError("a forecast holds no missing, infinite or negative rate")
        if (np.diff(values, axis=0) < 0).any() or (np.diff(peaks, axis=0) < 0).any():
            raise ValueError("quantiles cross")
        if (np.diff(peaks, axis=1) < 0).any() or (peaks < values).any():
            raise ValueError("a peak never falls with a longer horizon and is never under the step itself")
        if not self.step_s > 0:
            raise ValueError(f"step_s must be positive, got {self.step_s}")
        for name, array in (("levels", levels), ("values", values), ("peaks", peaks)):
            object.__setattr__(self, name, array)

    @classmethod
    def ordered(
        cls,
        made_at: float,
        step_s: float,
        levels: FloatArray,
        values: FloatArray,
        source: str,
        peaks: FloatArray | None = None,
    ) -> LoadForecast:
        """Build a forecast from raw model output: clip at zero, sort crossing quantiles, complete the peaks."""
        rates = np.sort(np.maximum(values, 0.0), axis=0)
        running = np.maximum.accumulate(rates, axis=1)
        if peaks is not None:
            raw = np.sort(np.maximum(peaks, 0.0), axis=0)
            running = np.maximum(running, np.maximum.accumulate(raw, axis=1))
        return cls(made_at, made_at, step_s, read_only(levels), rates, running, source)

    @classmethod
    def ordered_many(
        cls,
        made_at: Sequence[float],
        step_s: float,
        levels: FloatArray,
        values: FloatArray,
        peaks: FloatArray,
        source: str,
    ) -> list[LoadForecast]:
        """Build what ``ordered`` builds for each of ``N``, checked all at once: one by one is a second for 10,000.

        Args:
            made_at: Instant of each.
            step_s: Length of a step.
            levels: ``float64[Q]``.
            values: ``float64[N, Q, H, C]``; where quantiles cross, the higher level is raised to the lower one.
            peaks: ``float64[N, Q, H, C]``.
            source: Model name and version.

        Raises:
            ValueError: If a rate is not finite, or as ``LoadForecast`` says.
        """
        rates = _ascending(np.maximum(values, 0.0), 1)
        running = _ascending(np.maximum(_ascending(np.maximum(peaks, 0.0), 1), rates), 2)
        if not (np.isfinite(rates).all() and np.isfinite(running).all()):
            raise ValueError("a forecast holds no missing or infinite rate")
        for array in (rates, running):
            array.setflags(write=False)
        if not len(made_at):
            return []
        # The first one is checked as any other: shapes, levels and step are the same for all.
        known = cls(made_at[0], made_at[0], step_s, levels, rates[0], running[0], source)
        built = []
        for at, own, own_peaks in zip(made_at, rates, running, strict=True):
            one = object.__new__(cls)
            parts = (at, at, step_s, known.levels, own, own_peaks, source)
            for name, part in zip(cls.__slots__, parts, strict=True):
                object.__setattr__(one, name, part)
            built.append(one)
        return built

    @property
    def horizon_s(self) -> float:
        """Seconds from the start of the first step to the end of the last."""
        return float(self.values.shape[1]) * self.step_s

    def at_level(self, level: float) -> FloatArray:
        """Return ``float64[H, C]`` at ``level``, linear between the two nearest levels, flat outside them."""
        return self._between(self.values, level)

    def peak(self, level: float, until_at: float) -> FloatArray:
        """Return ``float64[C]``: the quantile of the largest rate from now until ``until_at``.

        An instant inside a step counts the whole step; one beyond the horizon counts the horizon.
        """
        steps = int(np.ceil((until_at - self.start_at) / self.step_s - 1e-9))
        steps = min(max(steps, 1), self.peaks.shape[1])
        return read_only(self._between(self.peaks, level)[steps - 1])

    def _between(self, quantiles: FloatArray, level: float) -> FloatArray:
        position = float(np.interp(level, self.levels, np.arange(len(self.levels), dtype=np.float64)))
        lower = int(np.floor(position))
        upper = min(lower + 1, len(self.levels) - 1)
        share = position - lower
        return read_only((1.0 - share) * quantiles[lower] + share * quantiles[upper])


def _ascending(array: FloatArray, axis: int) -> FloatArray:
    """Raise each slice of ``array`` along ``axis`` to the one before, in place, and return it.

    Slice by slice: ``np.maximum.accumulate`` goes number by number.
    """
    slices = np.moveaxis(array, axis, 0)
    for before, after in pairwise(slices):
        np.maximum(before, after, out=after)
    return array
