"""Which points of a long curve does a screen need, so that every peak and every dip is still there?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np

from forecasting.series import FloatArray

Numbers: TypeAlias = Sequence[float] | FloatArray


def thinned(x: Numbers, y: Numbers, most: int) -> tuple[FloatArray, FloatArray]:
    """Return at most ``most`` points of a curve, in order: its ends, and the lowest and highest of equal stretches.

    A stretch that has a NaN keeps the first, so that a gap stays a gap unless the curve is denser than the screen.

    Args:
        x: ``[N]``, ascending.
        y: ``[N]``, may have NaN.
        most: At least 8.
    """
    xs, ys = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    if len(ys) <= most:
        return xs, ys
    stretches = (most - 2) // 3
    width = -(-len(ys) // stretches)
    padded = np.full(stretches * width, np.nan)
    padded[: len(ys)] = ys
    parts = padded.reshape(stretches, width)
    gaps = np.isnan(parts)
    begins = np.arange(stretches) * width
    some = ~gaps.all(axis=1)
    lowest = (begins + np.where(gaps, np.inf, parts).argmin(axis=1))[some]
    highest = (begins + np.where(gaps, -np.inf, parts).argmax(axis=1))[some]
    first_gap = (begins + gaps.argmax(axis=1))[gaps.any(axis=1)]
    places = np.unique(np.concatenate(([0, len(ys) - 1], lowest, highest, first_gap)))
    places = places[places < len(ys)]
    return xs[places], ys[places]


def without_repeats(x: Numbers, y: Numbers) -> tuple[FloatArray, FloatArray]:
    """Return the points at which a step curve changes, and its last: drawn in steps, it looks the same.

    >>> without_repeats([0, 1, 2, 3, 4], [5, 5, 7, 7, 7])
    (array([0., 2., 4.]), array([5., 7., 7.]))
    """
    xs, ys = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    if len(ys) < 3:
        return xs, ys
    before, now = ys[:-1], ys[1:]
    changes = (before != now) & ~(np.isnan(before) & np.isnan(now))
    kept = np.concatenate(([True], changes))
    kept[-1] = True
    return xs[kept], ys[kept]
