"""By how much were bounds of each level missed lately, and how far must they move to hold?

Conformal prediction on quantiles (Romano, Patterson and Candes, Conformalized quantile regression, 2019, in its form
scaled by the width of the interval) with weights that halve with age, so that it follows drift (Barber, Candes, Ramdas
and Tibshirani, Conformal prediction beyond exchangeability, 2023): a bound moves by a weighted quantile of
``(actual - bound) / width`` over past forecasts. It moves only for what luck does not explain: a bound that held as
often as it says, give or take a standard error and a half, stays where it is, and one that is off by more moves.
"""

from __future__ import annotations

import numpy as np

from forecasting.series import FloatArray

# A past forecast so many before the newest counts half: 16 hours at one every ten minutes.
HALF_LIFE = 96.0
MIN_KNOWN = 10
# Standard errors from which a miss of the level is corrected, and over how many more it comes to be so fully.
DOUBT, RAMP = 1.5, 1.0
# A bound moves at most by so many widths: a spike in the record is no reason to reserve a fleet.
MAX_SHIFT = 3.0


def corrections(quantiles: FloatArray, actual: FloatArray, levels: FloatArray) -> FloatArray:
    """Return ``float64[Q, M]``: what to add to each bound, in widths (``width_of``); 0 with fewer than ten known.

    Args:
        quantiles: ``float64[K, Q, M]``: past forecasts, oldest first; NaN where there was none.
        actual: ``float64[K, M]``: what followed; NaN where that is not known (yet).
        levels: ``float64[Q]``.
    """
    if len(quantiles) < MIN_KNOWN:
        return np.zeros(quantiles.shape[1:])
    width = width_of(quantiles, levels)
    scores = (actual[:, None] - quantiles) / np.maximum(width, 1e-300)[:, None]
    scores = np.where(((width > 0) & np.isfinite(actual))[:, None], scores, np.nan)
    seen = np.isfinite(scores)
    known = seen.sum(axis=0)  # [Q, M]
    fresh = 0.5 ** (np.arange(len(scores))[::-1] / HALF_LIFE)
    counted = np.where(seen, fresh[:, None, None], 0.0)
    total = np.maximum(counted.sum(axis=0), 1e-300)
    held = np.where(scores <= 0, counted, 0.0).sum(axis=0) / total
    wanted = levels[:, None]
    error = np.sqrt(wanted * (1.0 - wanted) * (counted * counted).sum(axis=0)) / total
    doubtless = np.clip((np.abs(held - wanted) / np.maximum(error, 1e-300) - DOUBT) / RAMP, 0.0, 1.0)
    # The next score is one more, as fresh as can be.
    aimed = (held + (wanted - held) * doubtless) * (total + doubtless)
    order = np.argsort(scores, axis=0)
    below = np.take_along_axis(counted, order, axis=0).cumsum(axis=0)
    place = np.minimum((below < aimed - 1e-9).sum(axis=0), np.maximum(known - 1, 0))
    at = np.take_along_axis(scores, np.take_along_axis(order, place[None], axis=0), axis=0)[0]
    return np.asarray(
        np.where((known >= MIN_KNOWN) & (doubtless > 0), np.clip(at, -MAX_SHIFT, MAX_SHIFT), 0.0), dtype=np.float64
    )


def width_of(quantiles: FloatArray, levels: FloatArray) -> FloatArray:
    """Return the distance of the bounds nearest to levels 0.25 and 0.95; ``quantiles`` are ``float64[..., Q, M]``."""
    low, high = int(np.abs(levels - 0.25).argmin()), int(np.abs(levels - 0.95).argmin())
    return np.asarray(quantiles[..., high, :] - quantiles[..., low, :], dtype=np.float64)
