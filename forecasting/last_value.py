"""What if the load stays as it is: the last level, smoothed and trended as much as lately was of use."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.signal import lfilter

from forecasting.features import IntArray, fill_forward
from forecasting.forecast import DEFAULT_LEVELS, LoadForecast
from forecasting.forecaster import CannotForecast
from forecasting.residuals import REPLAY_STEPS, check_history, forecast_around, futures, replay_origins
from forecasting.series import CHANNELS, FloatArray, LoadSeries

MIN_STEPS = 10
# Smoothing of the level until the record shows that another does better.
PREFERRED_WINDOW_S = 45.0
# Steps before the replayed ones that let the slowest smoother forget where it started.
WARM_UP_STEPS = 64
# A trend may at most multiply or divide the level by this much over the horizon.
MAX_TREND_RATIO = 3.0


@dataclass(frozen=True, slots=True)
class Smoother:
    """An exponential mean over about ``span`` steps, with a damped trend when ``slow_span`` is given.

    The weight of the newest step is ``2 / (span + 1)``. The trend is the difference of the means over ``span`` and
    ``slow_span`` per step of the difference of their ages; it is kept up by ``damping`` to the power of the lead.
    """

    span: float
    slow_span: float = 0.0
    damping: float = 0.0

    def ahead(self, means: Mapping[float, FloatArray], leads: IntArray) -> FloatArray:
        """Return ``float64[N, len(leads), ...]`` from exponential means (``float64[N, ...]`` per span)."""
        level = means[self.span][:, None]
        if not self.slow_span:
            return np.repeat(level, len(leads), axis=1)
        age, slow_age = (self.span - 1) / 2, (self.slow_span - 1) / 2
        trend = (level - means[self.slow_span][:, None]) / (slow_age - age)
        reach = self.damping * age + np.cumsum(self.damping ** np.arange(1.0, leads[-1] + 1))[leads - 1]
        reach = reach.reshape((1, -1) + (1,) * (level.ndim - 2))
        return np.clip(level + trend * reach, level / MAX_TREND_RATIO, level * MAX_TREND_RATIO)


# From "the last value" to "the mean of a quarter of an hour of 15 s steps", and from no trend to one that lasts.
SMOOTHERS = (
    Smoother(1),
    Smoother(2),
    Smoother(4),
    Smoother(8),
    Smoother(16),
    Smoother(1, 4, 0.7),
    Smoother(2, 8, 0.8),
    Smoother(4, 16, 0.9),
    Smoother(8, 32, 0.95),
)


class LastValueForecaster:
    """The last level with quantiles of the errors that this has made lately.

    Args:
        window_s: Seconds averaged to the level; 0 is the very last value. By default the smoothing and a damped
            trend are chosen per channel, by which ones would have erred least lately; a mean of 45 s is kept unless
            another is clearly better.
    """

    def __init__(self, window_s: float | None = None) -> None:
        if window_s is not None and not window_s >= 0:
            raise ValueError(f"window_s must not be negative, got {window_s}")
        self._window_s = window_s

    @property
    def name(self) -> str:
        """``local-level`` when it chooses its smoothing, else ``last-value`` with the window."""
        if self._window_s is None:
            return "local-level"
        return f"last-value-{self._window_s:g}s" if self._window_s else "last-value"

    def forecast(
        self, history: LoadSeries, horizon_steps: int, levels: Sequence[float] = DEFAULT_LEVELS
    ) -> LoadForecast:
        """Forecast ``horizon_steps`` steps after ``history.end_at``; works from ten steps on, then with wide bounds.

        Raises:
            CannotForecast: If the history is shorter, mostly unobserved, or its newest observation is too old.
        """
        recent = history.tail(REPLAY_STEPS + WARM_UP_STEPS)
        blind = check_history(recent, MIN_STEPS)
        filled = filled_from_first(recent.values)
        if self._window_s is None:
            candidates = (Smoother(max(1.0, PREFERRED_WINDOW_S / history.step_s)), *SMOOTHERS)
            replay = _Smoothed.of(filled, candidates)
            replay = _chosen(recent, replay, horizon_steps, blind)
        else:
            replay = _Smoothed.of(filled, (Smoother(max(1.0, self._window_s / history.step_s)),) * len(CHANNELS))
        return forecast_around(recent, replay, horizon_steps, levels, self.name, blind)


def filled_from_first(values: FloatArray) -> FloatArray:
    """Return ``values`` (``float64[T, C]``) with gaps filled forward, and what precedes the first value with it.

    Only fit as input of a smoother: what is judged or counted keeps its gaps.
    """
    columns = []
    for column in values.T:
        seen = np.flatnonzero(np.isfinite(column))
        if not len(seen):
            raise CannotForecast("a channel was never observed")
        columns.append(np.where(np.arange(len(column)) < seen[0], column[seen[0]], fill_forward(column[None])[0]))
    return np.stack(columns, axis=1)


@dataclass(frozen=True, slots=True, eq=False)
class _Smoothed:
    """``PointReplay`` of one smoother per channel, and the exponential means (``float64[T, C]``) it rests on."""

    means: Mapping[float, FloatArray]
    smoothers: tuple[Smoother, ...]
    first_origin: int

    @classmethod
    def of(cls, filled: FloatArray, smoothers: tuple[Smoother, ...]) -> _Smoothed:
        settled = int(np.clip(len(filled) // 8, 2, 32))
        spans = {smoother.span for smoother in smoothers} | {smoother.slow_span for smoother in smoothers}
        return cls({span: _exponential_mean(filled, span) for span in spans if span}, smoothers, settled)

    def points(self, origins: IntArray, leads: IntArray) -> FloatArray:
        columns = []
        for channel, smoother in enumerate(self.smoothers):
            at_origins = {span: mean[origins - 1, channel] for span, mean in self.means.items()}
            columns.append(smoother.ahead(at_origins, leads))
        return np.stack(columns, axis=2)


def _chosen(recent: LoadSeries, candidates: _Smoothed, horizon_steps: int, blind: int) -> _Smoothed:
    """Return, per channel, the smoother whose absolute errors over the replayed origins are least.

    Errors count relative to those of the first candidate at the same lead, so that short leads weigh as much as long
    ones. Another than the first must be better by 2 % and, the fewer independent errors there are to judge by, by
    more: by 27 % with one horizon of record, by 4.5 % with ten. One with a trend must be better by four times that:
    a trend that is only luck costs replicas over the whole horizon, a late one is made up for a step later.
    """
    steps = len(recent)
    origins = replay_origins(steps, candidates.first_origin + blind)
    leads = np.unique(np.linspace(1, max(horizon_steps, 1), 5).round().astype(np.int64))
    if not len(origins):
        return replace(candidates, smoothers=candidates.smoothers[:1] * len(CHANNELS))
    actual = futures(recent.values, origins, int(leads[-1])).rates[:, leads - 1]
    seen = np.isfinite(actual)
    at_origins = {span: mean[origins - blind - 1] for span, mean in candidates.means.items()}
    losses = np.stack(
        [
            np.abs(np.where(seen, actual - smoother.ahead(at_origins, leads + blind), 0.0)).sum(axis=0)
            for smoother in candidates.smoothers
        ]
    )
    compared = np.divide(losses, losses[:1], out=np.ones_like(losses), where=losses[:1] > 0).mean(axis=1)
    doubt = 0.25 * leads[-1] / (steps - int(origins[0]))
    for place, smoother in enumerate(candidates.smoothers[1:], start=1):
        compared[place] *= 1.02 + doubt * (4.0 if smoother.slow_span else 1.0)
    # Rounded, so that of two that erred alike the first is kept, not the one that rounding happens to favour.
    best = compared.round(9).argmin(axis=0)
    return replace(candidates, smoothers=tuple(candidates.smoothers[place] for place in best))


def _exponential_mean(filled: FloatArray, span: float) -> FloatArray:
    """Return ``float64[T, C]``, started at the first row."""
    weight = 2.0 / (span + 1.0)
    smoothed, _ = lfilter([weight], [1.0, weight - 1.0], filled, axis=0, zi=filled[:1] * (1.0 - weight))
    return np.asarray(smoothed, dtype=np.float64)
