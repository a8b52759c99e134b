"""By how much were bounds of each level missed lately, and how far must they move to hold?

Conformal prediction on quantiles (Romano, Patterson and Candes, Conformalized quantile regression, 2019, in its form
scaled by the width of the interval) over a sliding window, so that it follows drift: a bound moves by the quantile of
its own level of ``(actual - bound) / width`` over the past forecasts in the window.
"""

from __future__ import annotations

import numpy as np

from forecasting.residuals import sorted_quantiles
from forecasting.series import FloatArray

# Past forecasts at which half of what they ask for is done: the outer quantiles of fewer are mostly luck.
PRIOR = 60.0
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
    scores = (actual[:, None] - quantiles) / np.maximum(width, 1e-300)[:, None]
    scores = np.where(((width > 0) & np.isfinite(actual))[:, None], scores, np.nan)
    known = np.isfinite(scores).sum(axis=0)  # [Q, M]
    ordered = np.sort(scores, axis=0)
    # Of n scores the i-th smallest is passed by a new one with probability 1 - i / (n + 1).
    least = np.maximum(known, 1)
    ranks = np.clip(levels[:, None] * (least + 1) - 1.0, 0.0, least - 1.0)
    if not len(ordered):
        return np.zeros(known.shape)
    shift = sorted_quantiles(ordered, ranks[None])[0] if ordered.ndim == 3 else ordered
    trusted = np.where(known >= MIN_KNOWN, known / (known + PRIOR), 0.0)
    return np.asarray(np.where(trusted > 0, np.clip(shift, -MAX_SHIFT, MAX_SHIFT), 0.0) * trusted, dtype=np.float64)


def width_of(quantiles: FloatArray, levels: FloatArray) -> FloatArray:
    """Return the distance of the bounds nearest to levels 0.25 and 0.95; ``quantiles`` are ``float64[..., Q, M]``."""
    low, high = int(np.abs(levels - 0.25).argmin()), int(np.abs(levels - 0.95).argmin())
    return np.asarray(quantiles[..., high, :] - quantiles[..., low, :], dtype=np.float64)
