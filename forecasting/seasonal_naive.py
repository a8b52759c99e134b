"""What was the load at this time a period ago: the previous turn of the season, at today's level."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from forecasting.features import DAY_S, OFFSET_RATIO, IntArray
from forecasting.forecast import DEFAULT_LEVELS, LoadForecast
from forecasting.forecaster import CannotForecast
from forecasting.residuals import REPLAY_STEPS, check_history, forecast_around
from forecasting.series import FloatArray, LoadSeries
from forecasting.spikes import without_spikes

# Replayed origins beyond one period and a horizon, so that the spread comes from some tens of errors.
MIN_ORIGINS = 30
# Today may at most be this many times as busy as the same time a period ago.
MAX_LEVEL_RATIO = 4.0


class SeasonalNaiveForecaster:
    """Same time a period ago, times the ratio of the recent level to the level then.

    Args:
        period_s: Length of the season in seconds.
        level_window_s: Seconds over which the two levels are taken; at least one step.
    """

    def __init__(self, period_s: float = DAY_S, level_window_s: float = 600.0) -> None:
        if not period_s > 0 or not level_window_s > 0:
            raise ValueError(f"period_s and level_window_s must be positive, got {period_s} and {level_window_s}")
        self._period_s, self._level_window_s = period_s, level_window_s

    @property
    def name(self) -> str:
        """Name and period."""
        return f"seasonal-naive-{self._period_s:g}s"

    def forecast(
        self, history: LoadSeries, horizon_steps: int, levels: Sequence[float] = DEFAULT_LEVELS
    ) -> LoadForecast:
        """Forecast ``horizon_steps`` steps after ``history.end_at``.

        Raises:
            CannotForecast: If less than a period, a level window, a horizon and 30 steps are recorded, the period is
                not a whole number of steps or shorter than the horizon, or the same time a period ago is a gap.
        """
        period = round(self._period_s / history.step_s)
        if period < 1 or abs(period * history.step_s - self._period_s) > 1e-6 * self._period_s:
            raise CannotForecast(f"a period of {self._period_s:g} s is no whole number of {history.step_s:g} s steps")
        window = max(1, round(self._level_window_s / history.step_s))
        # Around each step of the previous turn half a level window is averaged: its noise predicts nothing.
        half = (window - 1) // 4
        blind = check_history(history, period + window + horizon_steps + MIN_ORIGINS)
        if period < horizon_steps + blind + half:
            raise CannotForecast(f"{horizon_steps} steps ahead is beyond the period of {period} steps")
        recent = without_spikes(history.tail(REPLAY_STEPS + period + window + half))
        replay = _PreviousTurn.of(recent.values, period, window, half)
        return forecast_around(recent, replay, horizon_steps, levels, self.name, blind)


@dataclass(frozen=True, slots=True, eq=False)
class _PreviousTurn:
    """``PointReplay`` over ``smooth`` (centred means) and ``level`` (trailing means), both ``float64[T, C]``."""

    smooth: FloatArray
    level: FloatArray
    offset: FloatArray
    period: int
    first_origin: int

    @classmethod
    def of(cls, values: FloatArray, period: int, window: int, half: int) -> _PreviousTurn:
        seen = np.isfinite(values)
        mean = np.where(seen, values, 0.0).sum(axis=0) / np.maximum(seen.sum(axis=0), 1)
        return cls(
            smooth=_window_means(values, half, half),
            level=_window_means(values, window - 1, 0),
            offset=np.maximum(OFFSET_RATIO * mean, 1e-12),
            period=period,
            first_origin=period + window,
        )

    def points(self, origins: IntArray, leads: IntArray) -> FloatArray:
        then = self.smooth[origins[:, None] + leads[None, :] - 1 - self.period] + self.offset
        ratio = (self.level[origins - 1] + self.offset) / (self.level[origins - 1 - self.period] + self.offset)
        ratio = np.clip(ratio, 1 / MAX_LEVEL_RATIO, MAX_LEVEL_RATIO)
        return np.asarray(then * ratio[:, None] - self.offset, dtype=np.float64)


def _window_means(values: FloatArray, before: int, after: int) -> FloatArray:
    """Return ``float64[T, C]``: means over ``[t - before, t + after]`` of what was observed there, else NaN."""
    seen = np.isfinite(values)
    start = np.zeros((1, values.shape[1]))
    totals = np.concatenate([start, np.where(seen, values, 0.0).cumsum(axis=0)])
    counts = np.concatenate([start, seen.cumsum(axis=0)])
    rows = np.arange(len(values))
    first, last = np.maximum(rows - before, 0), np.minimum(rows + after + 1, len(values))
    known = counts[last] - counts[first]
    means = np.divide(totals[last] - totals[first], known, out=np.full_like(values, np.nan), where=known > 0)
    return np.asarray(means, dtype=np.float64)
