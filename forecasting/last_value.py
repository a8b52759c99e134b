"""What if the load stays as it is: the last level, smoothed and trended as much as lately was of use."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.signal import lfilter

from forecasting.features import IntArray, fill_forward
from forecasting.forecast import DEFAULT_LEVELS, LoadForecast
from forecasting.forecaster import CannotForecast
from forecasting.residuals import REPLAY_STEPS, check_history, followed, forecasts_around, replay_origins
from forecasting.series import FloatArray, LoadSeries

MIN_STEPS = 10
# Histories worked out at once: more no longer fit the processor's cache, fewer leave it waiting for Python.
SIDE_BY_SIDE = 4
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

    @property
    def spans(self) -> tuple[float, ...]:
        """Spans of the means that it looks at."""
        return (self.span, self.slow_span) if self.slow_span else (self.span,)

    def ahead(self, means: Mapping[float, FloatArray], leads: IntArray) -> FloatArray:
        """Return ``float64[N, len(leads), ...]`` from exponential means (``float64[N, ...]`` per span)."""
        level = means[self.span][:, None]
        if not self.slow_span:
            return np.broadcast_to(level, (len(level), len(leads), *level.shape[2:]))
        age, slow_age = (self.span - 1) / 2, (self.slow_span - 1) / 2
        trend = (level - means[self.slow_span][:, None]) / (slow_age - age)
        reach = self.damping * age + np.cumsum(self.damping ** np.arange(1.0, leads[-1] + 1))[leads - 1]
        reach = reach.reshape((1, -1) + (1,) * (level.ndim - 2))
        path: FloatArray = trend * reach
        path += level
        return np.clip(path, level / MAX_TREND_RATIO, level * MAX_TREND_RATIO, out=path)


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

    @property
    def most_steps(self) -> int:
        """Newest steps that it looks at."""
        return REPLAY_STEPS + WARM_UP_STEPS

    def forecast(
        self, history: LoadSeries, horizon_steps: int, levels: Sequence[float] = DEFAULT_LEVELS
    ) -> LoadForecast:
        """Forecast ``horizon_steps`` steps after ``history.end_at``; works from ten steps on, then with wide bounds.

        Raises:
            CannotForecast: If the history is shorter, mostly unobserved, or its newest observation is too old.
        """
        (answer,) = self.forecast_many([history], [horizon_steps], levels)
        if isinstance(answer, CannotForecast):
            raise answer
        return answer

    def forecast_many(
        self, histories: Sequence[LoadSeries], horizons_steps: Sequence[int], levels: Sequence[float] = DEFAULT_LEVELS
    ) -> list[LoadForecast | CannotForecast]:
        """Return what ``forecast`` returns or raises for each; those of one length are worked out side by side."""
        answers: list[LoadForecast | CannotForecast] = [CannotForecast("not asked")] * len(histories)
        alike: dict[tuple[int, float, int, int], list[tuple[int, LoadSeries]]] = {}
        for place, (history, horizon_steps) in enumerate(zip(histories, horizons_steps, strict=True)):
            recent = history.tail(self.most_steps)
            try:
                blind = check_history(recent, MIN_STEPS)
            except CannotForecast as reason:
                answers[place] = reason
            else:
                alike.setdefault((len(recent), recent.step_s, horizon_steps, blind), []).append((place, recent))
        for (_, _, horizon_steps, blind), found in alike.items():
            for first in range(0, len(found), SIDE_BY_SIDE):
                places, part = zip(*found[first : first + SIDE_BY_SIDE], strict=True)
                for place, answer in zip(places, self._answers(part, horizon_steps, levels, blind), strict=True):
                    answers[place] = answer
        return answers

    def _answers(
        self, alike: Sequence[LoadSeries], horizon_steps: int, levels: Sequence[float], blind: int
    ) -> list[LoadForecast | CannotForecast]:
        """Return the answer for each of ``alike``: histories of one length and step, equally ``blind``."""
        try:
            values = np.asfortranarray(np.concatenate([history.values for history in alike], axis=1))
            replay = self._replay(values, alike[0].step_s, horizon_steps, blind)
            return [*forecasts_around(alike, values, replay, horizon_steps, levels, self.name, blind)]
        except CannotForecast as reason:
            if len(alike) == 1:
                return [reason]
        return [answer for one in alike for answer in self._answers([one], horizon_steps, levels, blind)]

    def _replay(self, values: FloatArray, step_s: float, horizon_steps: int, blind: int) -> _Smoothed:
        filled = filled_from_first(values)
        if self._window_s is not None:
            return _Smoothed.of(filled, (Smoother(max(1.0, self._window_s / step_s)),) * filled.shape[1])
        preferred = Smoother(max(1.0, PREFERRED_WINDOW_S / step_s))
        candidates = (preferred, *(smoother for smoother in SMOOTHERS if smoother != preferred))
        return _chosen(values, _Smoothed.of(filled, candidates), horizon_steps, blind)


def filled_from_first(values: FloatArray) -> FloatArray:
    """Return ``values`` (``float64[T, K]``) with gaps filled forward, and what precedes the first value with it.

    Only fit as input of a smoother: what is judged or counted keeps its gaps.
    """
    seen = np.isfinite(values.T)
    if seen.all():
        return values
    if not seen.any(axis=1).all():
        raise CannotForecast("a channel was never observed")
    first = seen.argmax(axis=1)
    before = np.arange(len(values))[None, :] < first[:, None]
    return np.where(before, values[first, np.arange(len(first))][:, None], fill_forward(values.T)).T


@dataclass(frozen=True, slots=True, eq=False)
class _Smoothed:
    """``PointReplay`` of one smoother per column, and the exponential means (``float64[T, K]``) it rests on."""

    means: Mapping[float, FloatArray]
    smoothers: tuple[Smoother, ...]
    first_origin: int

    @classmethod
    def of(cls, filled: FloatArray, smoothers: tuple[Smoother, ...]) -> _Smoothed:
        settled = int(np.clip(len(filled) // 8, 2, 32))
        spans = {span for smoother in set(smoothers) for span in smoother.spans}
        return cls({span: _exponential_mean(filled, span) for span in spans}, smoothers, settled)

    def points(self, origins: IntArray, leads: IntArray) -> FloatArray:
        ahead = np.empty((len(self.smoothers), len(leads), len(origins))).T
        means = self.at(origins)
        for smoother in set(self.smoothers):
            columns = np.flatnonzero([one == smoother for one in self.smoothers])
            of_these = {span: means[span].T[columns].T for span in smoother.spans}
            ahead[:, :, columns] = smoother.ahead(of_these, leads)
        return ahead

    def at(self, origins: IntArray) -> Mapping[float, FloatArray]:
        """Return the means that the smoothers look at, as of ``origins``: ``float64[N, K]`` each."""
        spans = {span for smoother in set(self.smoothers) for span in smoother.spans}
        return {span: self.means[span].T.take(origins - 1, axis=1).T for span in spans}


def _chosen(values: FloatArray, candidates: _Smoothed, horizon_steps: int, blind: int) -> _Smoothed:
    """Return, per column of ``values`` (``float64[T, K]``), the smoother with the least absolute errors when replayed.

    Errors count relative to those of the first candidate at the same lead, so that short leads weigh as much as long
    ones. Another than the first must be better by 2 % and, the fewer independent errors there are to judge by, by
    more: by 27 % with one horizon of record, by 4.5 % with ten. One with a trend must be better by four times that:
    a trend that is only luck costs replicas over the whole horizon, a late one is made up for a step later.
    """
    steps = len(values)
    columns = values.shape[1]
    origins = replay_origins(steps, candidates.first_origin + blind)
    leads = np.unique(np.linspace(1, max(horizon_steps, 1), 5).round().astype(np.int64))
    if not len(origins):
        return replace(candidates, smoothers=candidates.smoothers[:1] * columns)
    actual = followed(values, origins, leads)
    losses = np.empty((len(candidates.smoothers), len(leads), columns))
    errors, means = np.empty_like(actual), candidates.at(origins - blind)
    for place, smoother in enumerate(candidates.smoothers):
        ahead = smoother.ahead(means, leads + blind)
        # What was not observed (NaN) is no loss: of NaN and zero ``fmax`` takes the zero.
        np.abs(np.subtract(actual, ahead, out=errors), out=errors)
        losses[place] = np.fmax(errors, 0.0, out=errors).sum(axis=0)
    compared = np.divide(losses, losses[:1], out=np.ones_like(losses), where=losses[:1] > 0).mean(axis=1)
    doubt = 0.25 * leads[-1] / (steps - int(origins[0]))
    for place, smoother in enumerate(candidates.smoothers[1:], start=1):
        compared[place] *= 1.02 + doubt * (4.0 if smoother.slow_span else 1.0)
    # Rounded, so that of two that erred alike the first is kept, not the one that rounding happens to favour.
    best = compared.round(9).argmin(axis=0)
    return replace(candidates, smoothers=tuple(candidates.smoothers[place] for place in best))


def _exponential_mean(filled: FloatArray, span: float) -> FloatArray:
    """Return ``float64[T, K]``, started at the first row."""
    if span == 1:
        return filled
    weight = 2.0 / (span + 1.0)
    smoothed, _ = lfilter([weight], [1.0, weight - 1.0], filled.T, axis=1, zi=filled[:1].T * (1.0 - weight))
    return np.asarray(smoothed, dtype=np.float64).T
