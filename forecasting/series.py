"""What did the load look like: an evenly spaced, possibly gappy record of offered load."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

FloatArray: TypeAlias = npt.NDArray[np.float64]

CHANNELS: tuple[str, ...] = ("requests_per_s", "prompt_tokens_per_s", "output_tokens_per_s")
REQUESTS, PROMPT_TOKENS, OUTPUT_TOKENS = range(3)


def read_only(array: npt.ArrayLike) -> FloatArray:
    """Return a float64 copy of ``array`` that refuses writes."""
    copy = np.array(array, dtype=np.float64)
    copy.setflags(write=False)
    return copy


@dataclass(frozen=True, slots=True, eq=False)
class LoadSeries:
    """Offered load of one workload, in rates per second.

    Attributes:
        start_at: Instant at which the first step begins.
        step_s: Length of a step.
        values: ``float64[T, C]``, mean rate over each step, one column per entry of ``CHANNELS``.
            NaN means not observed; zero means observed and idle.

    Raises:
        ValueError: If the shape, the step or a value is impossible.
    """

    start_at: float
    step_s: float
    values: FloatArray

    def __post_init__(self) -> None:
        values = read_only(self.values)
        if values.ndim != 2 or values.shape[1] != len(CHANNELS):
            raise ValueError(f"a load series has shape [T, {len(CHANNELS)}], got {values.shape}")
        if not (np.isfinite(self.step_s) and self.step_s > 0):
            raise ValueError(f"step_s must be positive, got {self.step_s}")
        if not np.isfinite(self.start_at):
            raise ValueError(f"start_at must be finite, got {self.start_at}")
        if np.isinf(values).any() or (values < 0).any():
            raise ValueError("a load series holds no negative and no infinite rate")
        object.__setattr__(self, "values", values)

    def __len__(self) -> int:
        return int(self.values.shape[0])

    @property
    def end_at(self) -> float:
        """Instant at which the last step ends."""
        return self.start_at + len(self) * self.step_s

    @property
    def coverage_ratio(self) -> float:
        """Share of steps in which requests were observed; 0 for an empty series."""
        return float(np.isfinite(self.values[:, REQUESTS]).mean()) if len(self) else 0.0

    def tail(self, steps: int) -> LoadSeries:
        """Return the last ``steps`` steps (all of them when there are fewer)."""
        return self.window(max(0, len(self) - steps), len(self))

    def window(self, first: int, last: int) -> LoadSeries:
        """Return steps ``first`` (inclusive) to ``last`` (exclusive)."""
        first, last = max(0, first), min(len(self), last)
        return LoadSeries(self.start_at + first * self.step_s, self.step_s, self.values[first:last])

    def resampled(self, step_s: float) -> LoadSeries:
        """Return means over longer steps; ``step_s`` must be a whole multiple, a ragged tail is dropped.

        A long step is NaN only when every short step in it is NaN.
        """
        factor = round(step_s / self.step_s)
        if factor < 1 or abs(factor * self.step_s - step_s) > 1e-6 * step_s:
            raise ValueError(f"cannot resample steps of {self.step_s} s to {step_s} s: not a whole multiple")
        steps = len(self) // factor
        return LoadSeries(self.start_at, step_s, block_means(self.values[: steps * factor], factor))


def block_means(rows: FloatArray, factor: int) -> FloatArray:
    """Return the mean of every ``factor`` rows of ``float64[T, C]``, over those that were observed; NaN where none was.

    ``T`` must be a multiple of ``factor``.
    """
    # Row by row of the blocks, so that each addition runs over all of them: three columns make no inner loop.
    total = rows[::factor].copy()
    for row in range(1, factor):
        total += rows[row::factor]
    if np.isfinite(total).all():
        whole: FloatArray = total / factor
        return whole
    blocks = rows.reshape(-1, factor, rows.shape[1])
    seen = np.isfinite(blocks).sum(axis=1)
    observed = np.nansum(blocks, axis=1)
    means: FloatArray = np.divide(observed, seen, out=np.full_like(observed, np.nan), where=seen > 0)
    return means
