"""By how much were bounds of each level missed lately, and how far must they move to hold?

Conformal prediction on quantiles (Romano, Patterson and Candes, Conformalized quantile regression, 2019, in its form
scaled by the width of the interval) with weights that halve with age, so that it follows drift (Barber, Candes, Ramdas
and Tibshirani, Conformal prediction beyond exchangeability, 2023): a bound moves by the weighted quantile of its own
level of ``(actual - bound) / width`` over past forecasts.
"""

from __future__ import annotations

import numpy as np

from forecasting.series import FloatArray

# Past forecasts at which half of what they ask for is done; the outer quantiles of fewer are mostly luck.
PRIOR = 15.0
# A past forecast so many before the newest counts half: 16 hours at one every ten minutes.
HALF_LIFE = 96.0
MIN_KNOWN = 10
# A bound moves at most by so many widths: a spike in the record is no reason to reserve a fleet.
MAX_SHIFT = 3.0


def corrections(quantiles: FloatArray, actual: FloatArray, levels: FloatArray) -> FloatArray:
    """Return ``float64[Q, M]``: what to add to each bound, in widths (``width_of``); 0 with fewer than ten known.

    Args:
        quantiles: ``float64[K, Q, M]``: past forecasts; NaN where there was none.
        actual: ``float64[K, M]``: what followed; NaN where that is not known (yet).
        levels: ``float64[Q]``.
    """
    width = width_of(quantiles, levels)
    if not len(quantiles):
        return np.zeros(quantiles.shape[1:])
    scores = (actual[:, None] - quantiles) / np.maximum(width, 1e-300)[:, None]
    scores = np.where(((width > 0) & np.isfinite(actual))[:, None], scores, np.nan)
    seen = np.isfinite(scores)
    known = seen.sum(axis=0)  # [Q, M]
    order = np.argsort(scores, axis=0)
    ordered = np.take_along_axis(scores, order, axis=0)
    fresh = 0.5 ** (np.arange(len(scores))[::-1] / HALF_LIFE)
    counted = np.where(seen, fresh[:, None, None], 0.0)
    below = np.take_along_axis(counted, order, axis=0).cumsum(axis=0)
    # The next score is one more, as fresh as can be: of n alike the i-th is passed with probability 1 - i / (n + 1).
    wanted = levels[:, None] * (below[-1] + 1.0)
    place = np.minimum((below < wanted - 1e-9).sum(axis=0), np.maximum(known - 1, 0))
    upper = np.take_along_axis(ordered, place[None], axis=0)[0]
    lower = np.take_along_axis(ordered, np.maximum(place - 1, 0)[None], axis=0)[0]
    end = np.take_along_axis(below, place[None], axis=0)[0]
    begin = np.where(place > 0, np.take_along_axis(below, np.maximum(place - 1, 0)[None], axis=0)[0], 0.0)
    share = np.clip((wanted - begin) / np.maximum(end - begin, 1e-300), 0.0, 1.0)
    trusted = np.where(known >= MIN_KNOWN, known / (known + PRIOR), 0.0)
    shift = np.where(trusted > 0, np.clip(lower + share * (upper - lower), -MAX_SHIFT, MAX_SHIFT), 0.0)
    return np.asarray(shift * trusted, dtype=np.float64)


def width_of(quantiles: FloatArray, levels: FloatArray) -> FloatArray:
    """Return the distance of the bounds nearest to levels 0.25 and 0.95; ``quantiles`` are ``float64[..., Q, M]``."""
    low, high = int(np.abs(levels - 0.25).argmin()), int(np.abs(levels - 0.95).argmin())
    return np.asarray(quantiles[..., high, :] - quantiles[..., low, :], dtype=np.float64)
