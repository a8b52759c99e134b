"""How good were the forecasts: scores of quantiles and points against what followed.

Targets that were not observed (NaN) are skipped; without any observed target a score is NaN. All scores are means
over origins, so models are compared on the same origins only.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from forecasting.series import FloatArray


def pinball_losses(actual: npt.ArrayLike, quantiles: npt.ArrayLike, levels: npt.ArrayLike) -> FloatArray:
    """Return ``float64[..., Q]``: ``max(a (y - q), (a - 1) (y - q))`` for level ``a``, NaN where ``y`` is.

    Args:
        actual: ``[...]``, what followed.
        quantiles: ``[..., Q]``.
        levels: ``[Q]`` inside (0, 1).

    Raises:
        ValueError: If the shapes do not fit.
    """
    observed, forecast, level = (np.asarray(array, dtype=np.float64) for array in (actual, quantiles, levels))
    if forecast.shape != (*observed.shape, len(level)):
        raise ValueError(f"quantiles must have shape {(*observed.shape, len(level))}, got {forecast.shape}")
    miss = observed[..., None] - forecast
    return np.asarray(np.maximum(level * miss, (level - 1.0) * miss), dtype=np.float64)


def pinball(actual: npt.ArrayLike, quantiles: npt.ArrayLike, levels: npt.ArrayLike) -> float:
    """Return the pinball loss, mean over targets and levels, in the unit of the load (Koenker and Bassett, 1978).

    >>> pinball([10.0], [[8.0, 11.0]], [0.5, 0.9])
    0.55
    """
    # 0.5 * (10 - 8) = 1.0 and (1 - 0.9) * (11 - 10) = 0.1.
    return _mean(pinball_losses(actual, quantiles, levels))


def crps(actual: npt.ArrayLike, quantiles: npt.ArrayLike, levels: npt.ArrayLike) -> float:
    """Return the continuous ranked probability score from quantiles, in the unit of the load.

    ``CRPS = 2 * integral of the pinball loss over the level`` (Gneiting and Ranjan, 2011), each level standing
    for the levels nearest to it: the levels of a forecast are denser in the upper tail, a plain mean would count that
    tail several times.

    >>> round(crps([10.0], [[8.0, 10.0, 12.0]], [0.25, 0.5, 0.75]), 3)
    0.75
    """
    level = np.asarray(levels, dtype=np.float64)
    middles = (level[1:] + level[:-1]) / 2
    weights = np.diff(np.concatenate([[0.0], middles, [1.0]]))
    return _mean(2.0 * pinball_losses(actual, quantiles, level) @ weights)


def wape(actual: npt.ArrayLike, point: npt.ArrayLike) -> float:
    """Return the weighted absolute percentage error ``sum |y - f| / sum |y|``; NaN when all that followed was 0."""
    observed, forecast = np.asarray(actual, dtype=np.float64), np.asarray(point, dtype=np.float64)
    seen = np.isfinite(observed)
    total = float(np.abs(observed[seen]).sum())
    return float(np.abs(observed[seen] - forecast[seen]).sum()) / total if total > 0 else float("nan")


def coverage(actual: npt.ArrayLike, bound: npt.ArrayLike) -> float:
    """Return the share of targets at or under an upper ``bound``; a calibrated quantile of level 0.9 gives 0.9."""
    return interval_coverage(actual, np.full(np.shape(bound), -np.inf), bound)


def interval_coverage(actual: npt.ArrayLike, lower: npt.ArrayLike, upper: npt.ArrayLike) -> float:
    """Return the share of targets inside ``[lower, upper]``."""
    observed = np.asarray(actual, dtype=np.float64)
    inside = (np.asarray(lower) <= observed) & (observed <= np.asarray(upper))
    return _mean(np.where(np.isfinite(observed), inside, np.nan))


def normalised(score: float, actual: npt.ArrayLike) -> float:
    """Return ``score`` over the mean of what followed, so that busy and quiet workloads compare; NaN if it was 0."""
    mean = _mean(np.asarray(actual, dtype=np.float64))
    return score / mean if mean > 0 else float("nan")


def skill_vs_last_value(score: float, last_value_score: float) -> float:
    """Return ``1 - score / last_value_score``: 1 perfect, 0 no better than the last value, negative worse.

    Both must be losses over the same origins. NaN when the last value was already perfect.
    """
    return 1.0 - score / last_value_score if last_value_score > 0 else float("nan")


def _mean(values: FloatArray) -> float:
    seen = np.isfinite(values)
    return float(values[seen].mean()) if seen.any() else float("nan")
