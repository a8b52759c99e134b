"""How much is each expert worth lately? Weights by online aggregation of experts that may sleep.

Bernstein online aggregation (Wintenberger, Optimal learning with Bernstein online aggregation, 2017, algorithm 1 with
the gradient trick) over the pinball losses of past forecasts, oldest first, with a little of the weight shared out after
every step (Herbster and Warmuth, Tracking the best expert, 1998), so that an expert that was bad for long can come back.
Rates of learning are tuned by the losses themselves, so units do not matter.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from forecasting.series import FloatArray

# Share of the weight that is dealt out evenly after each step.
SHARE = 0.001
# How fast weights move, over what the bound is proven for.
HASTE = 2.0


def expert_weights(
    quantiles: FloatArray, actual: FloatArray, levels: FloatArray, awake: npt.NDArray[np.bool_]
) -> FloatArray:
    """Return ``float64[E, M]``: what share each of ``E`` experts gets in each of ``M`` columns; they sum to 1.

    Args:
        quantiles: ``float64[E, K, Q, M]``: past forecasts, oldest first; NaN where an expert slept.
        actual: ``float64[K, M]``: what followed; NaN where that is not known (yet).
        levels: ``float64[Q]``.
        awake: ``bool[E, M]``: experts that answer now; others get nothing, and in a column where all sleep, too.
    """
    experts, steps, _, columns = quantiles.shape
    weights = np.full((experts, columns), 1.0 / experts)
    if experts == 1:
        return np.where(awake, weights, 0.0)
    seen = np.isfinite(quantiles).all(axis=2) & np.isfinite(actual)[None]  # [E, K, M]
    some = seen.any(axis=0)
    bare = np.where(seen[:, :, None], quantiles, 0.0)
    reach, spent = np.zeros(columns), np.zeros((experts, columns))
    for step in np.flatnonzero(some.any(axis=1)):
        here, known = seen[:, step], some[step]
        told = bare[:, step]  # [E, Q, M]
        share = np.where(here, weights, 0.0)
        mixed = np.einsum("em,eqm->qm", share / np.maximum(share.sum(axis=0), 1e-300), told)
        slope = (actual[step] < mixed) - levels[:, None]  # of the pinball loss at what the mixture said
        worse = np.where(here, (slope * (told - mixed)).mean(axis=1), 0.0)  # than the mixture; a sleeper is like it
        np.maximum(reach, np.abs(worse).max(axis=0), out=reach)
        spent += worse * worse
        rate = HASTE * np.minimum(
            0.5 / np.maximum(reach, 1e-300), np.sqrt(math.log(experts) / np.maximum(spent, 1e-300))
        )
        moved = weights * np.exp(-rate * worse * (1.0 + rate * worse))
        moved = (1.0 - SHARE) * moved / moved.sum(axis=0) + SHARE / experts
        weights = np.where(known, moved, weights)
    present = np.where(awake, weights, 0.0)
    return np.asarray(present / np.maximum(present.sum(axis=0), 1e-300), dtype=np.float64)
