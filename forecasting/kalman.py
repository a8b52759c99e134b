"""What is the level under the noise, and where does it drift? A Kalman filter on logs that knows gaps and outliers.

The model is a local level, ``z_t = m_t + e_t``, ``m_t = m_(t-1) + b_(t-1) + u_t``, with the drift ``b`` zero or a
random walk of its own (Durbin and Koopman, Time Series Analysis by State Space Methods, 2nd ed., sections 2 and 3.2).
How much of a change is noise is a ratio of variances; a few ratios run side by side and the likeliest one speaks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from forecasting.features import IntArray
from forecasting.forecast import DEFAULT_LEVELS, LoadForecast
from forecasting.residuals import REPLAY_STEPS, check_history, forecast_around, rate_offset
from forecasting.series import FloatArray, LoadSeries

MIN_STEPS = 10
WARM_UP_STEPS = 64
# Variance of a step of the level over that of the noise: from a mean of an hour of minutes to the last value.
LEVEL_RATIOS = (1e-3, 1e-2, 0.1, 0.5, 3.0)
# Variance of a step of the drift over that of the level.
TREND_RATIO = 0.02
# A drift fades by this much a step, so that it ends within the hour.
DAMPING = 0.95
MAX_LOG_CHANGE = 1.1
# Innovations beyond so many of their standard deviations count as if they were just so far out.
OUTLIER_SIGMAS = 3.0
# Weight of the newest absolute innovation in the running estimate of the noise, and sigma over it of a normal one.
_NOISE_WEIGHT, _SIGMA_PER_ERROR = 0.02, 1.2533


class KalmanForecaster:
    """The filtered level, and its drift if asked for, with quantiles of the errors that this has made lately.

    Args:
        trend: Whether the level may drift.
    """

    def __init__(self, trend: bool = False) -> None:
        self._trend = trend

    @property
    def name(self) -> str:
        """``kalman-level`` or ``kalman-trend``."""
        return "kalman-trend" if self._trend else "kalman-level"

    @property
    def most_steps(self) -> int:
        """Newest steps that it looks at."""
        return REPLAY_STEPS + WARM_UP_STEPS

    def forecast(
        self, history: LoadSeries, horizon_steps: int, levels: Sequence[float] = DEFAULT_LEVELS
    ) -> LoadForecast:
        """Forecast ``horizon_steps`` steps after ``history.end_at``.

        Raises:
            CannotForecast: If there are fewer than ten steps, they are mostly unobserved or the newest is too old.
        """
        recent = history.tail(self.most_steps)
        blind = check_history(recent, MIN_STEPS)
        replay = Filtered.of(recent.values, self._trend)
        return forecast_around(recent, replay, horizon_steps, levels, self.name, blind)


@dataclass(frozen=True, slots=True, eq=False)
class Filtered:
    """``PointReplay`` of filtered states: ``level`` and ``trend`` after each step, ``float64[T, K]``, on logs."""

    level: FloatArray
    trend: FloatArray
    offset: FloatArray
    first_origin: int

    @classmethod
    def of(cls, values: FloatArray, trend: bool) -> Filtered:
        """Filter ``values`` (``float64[T, K]``) with each ratio and keep, per column, the likeliest."""
        offset = np.maximum(rate_offset(values), 1e-12)
        logs = np.log(values + offset)
        level, drift, likelihood = _run(logs, np.array(LEVEL_RATIOS), trend)
        best = likelihood.argmax(axis=0)
        columns = np.arange(values.shape[1])
        settled = int(np.clip(len(values) // 8, 2, 32))
        return cls(level[:, best, columns], drift[:, best, columns], offset, settled)

    def points(self, origins: IntArray, leads: IntArray) -> FloatArray:
        """Return ``float64[N, len(leads), K]``, as ``PointReplay`` says."""
        reach = np.cumsum(DAMPING ** np.arange(1.0, leads[-1] + 1))[leads - 1]
        change = np.clip(self.trend[origins - 1][:, None] * reach[None, :, None], -MAX_LOG_CHANGE, MAX_LOG_CHANGE)
        return np.asarray(np.exp(self.level[origins - 1][:, None] + change) - self.offset, dtype=np.float64)


def _run(logs: FloatArray, ratios: FloatArray, trend: bool) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return levels and drifts ``float64[T, G, K]`` and the log likelihoods ``float64[G, K]``.

    The gains are those of the steady state, after a start in which the level is the mean so far. They do not depend on
    the numbers, so all columns share them; only outliers are looked at one by one.
    """
    steps, columns = logs.shape
    shape = (len(ratios), columns)
    seen = np.isfinite(logs)
    first = np.where(seen.any(axis=0), logs[seen.argmax(axis=0), np.arange(columns)], 0.0)
    changes = np.abs(np.diff(np.where(seen, logs, first), axis=0))
    levels, drifts = np.empty((steps, *shape)), np.zeros((steps, *shape))
    misses, sigmas = np.empty((steps, *shape)), np.empty((steps, *shape))
    gain, drift_gain = (part[:, None] for part in _steady_gains(ratios, trend))
    level, drift = np.tile(first, (len(ratios), 1)), np.zeros(shape)
    sigma = np.tile(np.maximum(changes.mean(axis=0) if steps > 1 else 0.0, 1e-6), (len(ratios), 1))
    whole = bool(seen.all())
    for at in range(steps):
        if trend:
            drift *= DAMPING
            level += drift
        miss = logs[at] - level
        if not whole:
            np.copyto(miss, 0.0, where=~seen[at])
        sigmas[at] = sigma
        reach = OUTLIER_SIGMAS * sigma
        np.clip(miss, -reach, reach, out=miss)
        misses[at] = miss
        sigma = np.maximum(sigma + _NOISE_WEIGHT * (_SIGMA_PER_ERROR * np.abs(miss) - sigma), 1e-6)
        level += np.maximum(gain, 1.0 / (at + 1.0)) * miss
        if trend:
            drift += drift_gain * miss
        levels[at], drifts[at] = level, drift
    told = np.where(seen[:, None, :], -np.log(sigmas) - 0.5 * (misses / sigmas) ** 2, 0.0)
    return levels, drifts, told.sum(axis=0)


def _steady_gains(ratios: FloatArray, trend: bool) -> tuple[FloatArray, FloatArray]:
    """Return what an innovation adds to the level and to the drift, ``float64[G]`` each, after many steps."""
    fade = DAMPING if trend else 0.0
    p, c, d = np.ones_like(ratios), np.zeros_like(ratios), np.zeros_like(ratios)
    gain, drift_gain = p / (p + 1.0), c
    for _ in range(500):
        p, c, d = p + 2 * fade * c + fade * fade * d + ratios, fade * (c + fade * d), fade * fade * d
        d = d + (TREND_RATIO * ratios if trend else 0.0)
        gain, drift_gain = p / (p + 1.0), c / (p + 1.0)
        p, c, d = p * (1.0 - gain), c * (1.0 - gain), d - drift_gain * c
    return gain, drift_gain
