"""Which numbers were shown? Digests of many windows of one history at once, to find again what was made from each.

A digest is a sum of well mixed numbers, each with its place in time, so that a window's is the difference of two sums.
It names what nobody wants to forge; it is no signature.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from forecasting.features import IntArray
from forecasting.series import FloatArray, LoadSeries

_MIX = tuple(np.uint64(word) for word in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))


def clock_of(history: LoadSeries) -> int:
    """Return the number of the first step of ``history``, counted from the epoch."""
    return round(history.start_at / history.step_s)


def window_digests(history: LoadSeries, begins: IntArray, ends: IntArray) -> list[int]:
    """Return a digest of steps ``begins`` (inclusive) to ``ends`` (exclusive) for each pair, instants included."""
    totals = np.concatenate([np.zeros(1, dtype=np.uint64), _mixed(history.values, clock_of(history)).cumsum()])
    digests: list[int] = (totals[ends] - totals[begins]).tolist()
    return digests


def _mixed(values: FloatArray, clock: int) -> npt.NDArray[np.uint64]:
    """Return ``uint64[T]``: each number and its place in time through the finisher of splitmix64, added per row."""
    bits = np.where(np.isnan(values), np.nan, values).view(np.uint64)
    places = np.arange(values.size, dtype=np.uint64).reshape(values.shape) + np.uint64(clock * values.shape[1] % 2**64)
    word = bits ^ (places * _MIX[0])
    word = (word ^ (word >> np.uint64(30))) * _MIX[1]
    word = (word ^ (word >> np.uint64(27))) * _MIX[2]
    return np.asarray((word ^ (word >> np.uint64(31))).sum(axis=1), dtype=np.uint64)
