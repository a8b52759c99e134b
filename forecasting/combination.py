"""How much is each expert worth lately? Weights by online aggregation of experts that may sleep.

Bernstein online aggregation (Wintenberger, Optimal learning with Bernstein online aggregation, 2017, algorithm 1 with
the gradient trick) over the pinball losses of past forecasts, oldest first, with a little of the weight dealt out
again after every step (Herbster and Warmuth, Tracking the best expert, 1998), so that an expert that was bad for long
can come back. Losses count in units of what the mixture lost so far, so that leads and channels compare: while a
column's own record is short, what the other columns of its workload show counts as well.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from forecasting.series import FloatArray

# Share of the weight that is dealt out again after each step.
SHARE = 0.001
# How fast weights move, over what the bound is proven for.
HASTE = 2.0
# Past forecasts of an expert at which its record in a column counts as much as that in all columns of the workload.
POOLED = 96.0
# What one forecast may count, in usual losses: after a poisoned spike the record is not all about that.
MOST_LOST = 10.0
# Forecasts from which there is such a thing as a usual loss.
USUAL = 5


def expert_weights(
    quantiles: FloatArray,
    actual: FloatArray,
    levels: FloatArray,
    awake: npt.NDArray[np.bool_],
    prior: FloatArray | None = None,
) -> FloatArray:
    """Return ``float64[E, W, M]``: what share each of ``E`` experts gets in each column; they sum to 1.

    Args:
        quantiles: ``float64[E, K, Q, W, M]``: past forecasts of ``M`` columns of ``W`` workloads, oldest first; NaN
            where an expert slept.
        actual: ``float64[K, W, M]``: what followed; NaN where that is not known (yet).
        levels: ``float64[Q]``.
        awake: ``bool[E, W]``: experts that answer now; others get nothing, and where all sleep, all get nothing.
        prior: ``float64[E]``: weights without any record, which also say how the share is dealt out; by default alike.
    """
    experts, _, _, workloads, columns = quantiles.shape
    first = np.full(experts, 1.0 / experts) if prior is None else prior / prior.sum()
    dealt = first[:, None, None]
    weights = np.broadcast_to(dealt, (experts, workloads, columns)).copy()
    seen = np.isfinite(quantiles).all(axis=2) & np.isfinite(actual)[None]  # [E, K, W, M]
    some: npt.NDArray[np.bool_] = np.any(seen, axis=0)
    reach, spent = np.zeros((workloads, columns)), np.zeros(weights.shape)
    losses, counted = np.zeros((workloads, columns)), np.zeros((workloads, columns))
    heard = np.zeros(weights.shape)
    for step in np.flatnonzero(np.any(some, axis=(1, 2))) if experts > 1 else ():
        here, known = seen[:, step], some[step]
        told = np.where(here[:, None], quantiles[:, step], 0.0)  # [E, Q, W, M]
        share = np.where(here, weights, 0.0)
        mixed = np.einsum("ewm,eqwm->qwm", share / np.maximum(share.sum(axis=0), 1e-300), told)
        miss = np.where(known, actual[step], 0.0) - mixed
        slope = (miss < 0) - levels[:, None, None]  # of the pinball loss at what the mixture said
        worse = np.where(here, (slope * (told - mixed)).mean(axis=1), 0.0)  # than the mixture; a sleeper is like it
        lost = (-slope * miss).mean(axis=0) + np.abs(worse).max(axis=0)
        usual = losses / np.maximum(counted, 1)
        losses += np.where(known, np.where(counted < USUAL, lost, np.minimum(lost, MOST_LOST * usual)), 0.0)
        counted += known
        heard += here
        usual = losses / np.maximum(counted, 1)
        np.clip(worse, -MOST_LOST * usual, MOST_LOST * usual, out=worse)
        shares = np.divide(worse, usual, out=np.zeros_like(worse), where=usual > 0)
        pooled = shares.sum(axis=2, keepdims=True) / np.maximum(known.sum(axis=1), 1)[:, None] * usual
        worse += np.where(known, POOLED / (POOLED + heard), 0.0) * (pooled - worse)
        np.maximum(reach, np.abs(worse).max(axis=0), out=reach)
        spent += worse * worse
        rate = HASTE * np.minimum(
            0.5 / np.maximum(reach, 1e-300), np.sqrt(math.log(experts) / np.maximum(spent, 1e-300))
        )
        # Those who answered share anew what they had together; a sleeper is neither better nor worse for it.
        moved = share * np.exp(-rate * worse * (1.0 + rate * worse))
        moved = np.where(here, moved * share.sum(axis=0) / np.maximum(moved.sum(axis=0), 1e-300), weights)
        moved = (1.0 - SHARE) * moved + SHARE * dealt
        weights = np.where(known, moved, weights)
    present = np.where(awake[:, :, None], weights, 0.0)
    return np.asarray(present / np.maximum(present.sum(axis=0), 1e-300), dtype=np.float64)
