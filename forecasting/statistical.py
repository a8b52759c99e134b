"""What does exponential smoothing expect: a damped trend on logs, with a season where two periods of it are recorded.

Parameters come from statsmodels, at most once per block of time; states are rolled forward from them at every call.
"""

from __future__ import annotations

import hashlib
import warnings
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from scipy.signal import lfilter

from forecasting.features import OFFSET_RATIO, IntArray
from forecasting.forecast import DEFAULT_LEVELS, LoadForecast
from forecasting.forecaster import CannotForecast
from forecasting.last_value import filled_from_first
from forecasting.residuals import REPLAY_STEPS, check_history, forecast_around, rate_offset
from forecasting.series import CHANNELS, FloatArray, LoadSeries

FIT_STEPS, MIN_FIT_STEPS, MIN_BLOCK_STEPS = 480, 32, 24
WARM_UP_STEPS = 128
MIN_PERIODS, MAX_PERIODS, SEASON_BINS = 2, 7, 288
# The expected path may at most multiply or divide the smoothed level by e^1.1 = 3.
MAX_LOG_CHANGE = 1.1
_CACHE_ENTRIES = 256


@dataclass(frozen=True, slots=True, eq=False)
class HoltParameters:
    """One channel's fitted damped trend on ``log(rate + offset)``, and its season.

    Attributes:
        alpha: Smoothing of the level; 1 is the last value.
        beta: Smoothing of the trend (``beta`` of the error correction form, at most ``alpha``).
        phi: Damping of the trend per step.
        offset: Added to rates before the logarithm.
        season: ``float64[m]``: log deviation per step of the period, starting at its absolute phase 0; ``[0.0]``
            without a season.
    """

    alpha: float
    beta: float
    phi: float
    offset: float
    season: FloatArray


class ExponentialSmoothingForecaster:
    """Damped-trend exponential smoothing (ETS(A,Ad,N) on logs) with quantiles of its recent errors.

    Blocks of ``refit_s`` are aligned to the clock, and parameters come from the whole blocks before the newest one
    only. So they are a function of the history alone, stay put while a block fills, and the cache of fits, keyed by
    the very numbers that were fitted, saves time and changes nothing.

    Args:
        period_s: Length of the season in seconds, if any; it is left out while fewer than two periods are recorded.
        refit_s: Seconds between fits; at least 24 steps.

    Attributes:
        fits_made: How often parameters had to be estimated.
    """

    def __init__(self, period_s: float | None = None, refit_s: float = 600.0) -> None:
        if period_s is not None and not period_s > 0:
            raise ValueError(f"period_s must be positive, got {period_s}")
        if not refit_s > 0:
            raise ValueError(f"refit_s must be positive, got {refit_s}")
        self._period_s, self._refit_s = period_s, refit_s
        self._fits: OrderedDict[bytes, tuple[HoltParameters, ...]] = OrderedDict()
        self.fits_made = 0

    @property
    def name(self) -> str:
        """Name, with the season where there is one."""
        return "ets" if self._period_s is None else f"ets-season-{self._period_s:g}s"

    def forecast(
        self, history: LoadSeries, horizon_steps: int, levels: Sequence[float] = DEFAULT_LEVELS
    ) -> LoadForecast:
        """Forecast ``horizon_steps`` steps after ``history.end_at``.

        Raises:
            CannotForecast: If no whole block of at least 32 steps lies behind, the history is mostly unobserved or
                its newest observation is too old.
        """
        recent = history.tail(REPLAY_STEPS + WARM_UP_STEPS)
        blind = check_history(recent, MIN_FIT_STEPS)
        # Load that has just come to an idle workload must not be smoothed on the scale of its idleness.
        scale = rate_offset(recent.values)
        parameters = tuple(
            replace(fit, offset=max(fit.offset, float(scale[channel])))
            for channel, fit in enumerate(self._fitted(history))
        )
        clock_step = round(recent.start_at / recent.step_s)
        replay = RolledHolt.of(filled_from_first(recent.values), parameters, clock_step)
        return forecast_around(recent, replay, horizon_steps, levels, self.name, blind)

    def _fitted(self, history: LoadSeries) -> tuple[HoltParameters, ...]:
        period = round(self._period_s / history.step_s) if self._period_s is not None else 0
        past = _whole_blocks(history, max(MIN_BLOCK_STEPS, round(self._refit_s / history.step_s)), period)
        clock_step = round(past.start_at / past.step_s)
        key = hashlib.sha256(past.values.tobytes() + repr((past.step_s, clock_step)).encode()).digest()
        if key not in self._fits:
            self.fits_made += 1
            filled = filled_from_first(past.values)
            self._fits[key] = tuple(
                _fit(past.values[:, channel], filled[:, channel], period, clock_step)
                for channel in range(len(CHANNELS))
            )
            if len(self._fits) > _CACHE_ENTRIES:
                self._fits.popitem(last=False)
        self._fits.move_to_end(key)
        return self._fits[key]


def _whole_blocks(history: LoadSeries, block: int, period: int) -> LoadSeries:
    """Return the part of ``history`` that parameters may come from: whole clock-aligned blocks, bounded in length."""
    end_step = round(history.end_at / history.step_s)
    last = len(history) - end_step % block
    wanted = max(FIT_STEPS, MAX_PERIODS * period)
    # Where the record is shorter than wanted, its start may be the edge of a sliding window: align it as well.
    first = last - wanted if last >= wanted else (-(end_step - len(history))) % block
    if last - first < MIN_FIT_STEPS:
        raise CannotForecast(f"whole blocks hold {max(0, last - first)} of the {MIN_FIT_STEPS} steps needed")
    return history.window(first, last)


def _fit(observed: FloatArray, filled: FloatArray, period: int, clock_step: int) -> HoltParameters:
    """Fit one channel (``float64[T]``); a constant one has nothing to fit."""
    offset = max(OFFSET_RATIO * float(filled[-FIT_STEPS:].mean()), 1e-12)
    season = np.zeros(1)
    if period > 1 and len(observed) >= MIN_PERIODS * period:
        season = _season(np.log(observed + offset), period, clock_step)
    phases = (clock_step + np.arange(len(filled))) % len(season)
    logs = (np.log(filled + offset) - season[phases])[-FIT_STEPS:]
    if np.ptp(logs) < 1e-9:
        return HoltParameters(1.0, 0.0, 0.9, offset, season)
    return HoltParameters(*_estimate(logs - logs.mean()), offset, season)


def _estimate(logs: FloatArray) -> tuple[float, float, float]:
    """Return alpha, beta and phi of ETS(A,Ad,N) by maximum likelihood (statsmodels; imports it, 2 s once)."""
    from statsmodels.tools.sm_exceptions import ConvergenceWarning
    from statsmodels.tsa.exponential_smoothing.ets import ETSModel

    with warnings.catch_warnings(), np.errstate(all="ignore"):
        # Parameters short of the optimum are still usable: their errors are measured afterwards.
        warnings.simplefilter("ignore", ConvergenceWarning)
        warnings.simplefilter("ignore", RuntimeWarning)
        fitted = ETSModel(logs, error="add", trend="add", damped_trend=True, initialization_method="heuristic").fit(
            disp=False, maxiter=200
        )
    found = tuple(float(value) for value in (fitted.alpha, fitted.beta, fitted.phi))
    if not np.isfinite(found).all():
        raise CannotForecast("exponential smoothing found no parameters")
    return found[0], found[1], found[2]


def _season(logs: FloatArray, period: int, clock_step: int) -> FloatArray:
    """Return ``float64[period]``: mean log deviation from each period's mean, by absolute phase.

    Bins of at most 1/288 of the period are averaged over the recorded periods and their neighbours, and shrunk to
    what stands out of the scatter between periods, so that noise is not taken for a season.
    """
    periods = min(len(logs) // period, MAX_PERIODS)
    edges = np.arange(0, period, max(1, -(-period // SEASON_BINS)))
    turns = logs[-periods * period :].reshape(periods, period)
    seen = np.isfinite(turns)
    counts = np.add.reduceat(seen.astype(np.float64), edges, axis=1)
    bins = np.add.reduceat(np.where(seen, turns, 0.0), edges, axis=1) / np.maximum(counts, 1)
    known = counts > 0
    deviation = np.where(known, bins - _known_mean(bins, known, axis=1)[:, None], 0.0)
    mean = _known_mean(deviation, known, axis=0)
    scatter = np.where(known, deviation - mean, 0.0)
    noise = float((scatter**2).sum()) / max(int(known.sum()) - len(mean), 1) / periods
    share = max(0.0, 1.0 - noise / max(float(np.mean(mean**2)), 1e-12))
    smooth = (np.roll(mean, 1) + mean + np.roll(mean, -1)) / 3
    profile = share * np.repeat(smooth, np.diff(np.append(edges, period)))
    return np.roll(profile, (clock_step + len(logs) - periods * period) % period)


def _known_mean(values: FloatArray, known: npt.NDArray[np.bool_], axis: int) -> FloatArray:
    total = np.where(known, values, 0.0).sum(axis=axis)
    return np.asarray(total / np.maximum(known.sum(axis=axis), 1), dtype=np.float64)


@dataclass(frozen=True, slots=True, eq=False)
class RolledHolt:
    """``PointReplay`` of smoothed states, ``level`` and ``trend`` both ``float64[T, C]`` (after each step)."""

    level: FloatArray
    trend: FloatArray
    parameters: tuple[HoltParameters, ...]
    clock_step: int
    first_origin: int

    @classmethod
    def of(cls, filled: FloatArray, parameters: tuple[HoltParameters, ...], clock_step: int) -> RolledHolt:
        """Smooth ``filled`` (``float64[T, C]``, its first row step ``clock_step`` of the clock) with two filters each.

        The recursion ``l' = l + phi b + alpha e``, ``b' = phi b + beta e`` with ``e = z - l - phi b`` (Hyndman et
        al., Forecasting with Exponential Smoothing, 2008, table 2.2) is linear in the input, so it is a filter with
        the characteristic polynomial of its transition matrix. Started at the first value with no trend.
        """
        levels, trends = np.empty_like(filled), np.empty_like(filled)
        for channel, fit in enumerate(parameters):
            logs = np.log(filled[:, channel] + fit.offset) - _seasonal(fit, clock_step + np.arange(len(filled)))
            changes = logs - logs[0]
            characteristic = [1.0, fit.alpha - 1.0 - fit.phi * (1.0 - fit.beta), fit.phi * (1.0 - fit.alpha)]
            levels[:, channel] = logs[0] + lfilter(
                [fit.alpha, fit.phi * (fit.beta - fit.alpha)], characteristic, changes
            )
            trends[:, channel] = lfilter([fit.beta, -fit.beta], characteristic, changes)
        return cls(levels, trends, parameters, clock_step, int(np.clip(len(filled) // 8, 2, 32)))

    def points(self, origins: IntArray, leads: IntArray) -> FloatArray:
        """Return ``float64[N, len(leads), C]``, as ``PointReplay`` says."""
        columns = []
        for channel, fit in enumerate(self.parameters):
            level, trend = self.level[origins - 1, channel], self.trend[origins - 1, channel]
            reach = np.cumsum(fit.phi ** np.arange(1.0, leads[-1] + 1))[leads - 1]
            change = np.clip(trend[:, None] * reach[None, :], -MAX_LOG_CHANGE, MAX_LOG_CHANGE)
            target = self.clock_step + origins[:, None] + leads[None, :] - 1
            columns.append(np.exp(level[:, None] + change + _seasonal(fit, target)) - fit.offset)
        return np.stack(columns, axis=2)


def _seasonal(fit: HoltParameters, clock_steps: IntArray) -> FloatArray:
    return np.asarray(fit.season[clock_steps % len(fit.season)], dtype=np.float64)
