"""What does an ARIMA expect: autoregression and moving averages of changes, with the order of least AIC?

Orders and parameters come from statsmodels, at most once per block of the clock and within bounded work; innovations
are rolled forward from them at every call. With a season, a few waves of it are taken off the logs first.
"""

from __future__ import annotations

import hashlib
import warnings
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.signal import lfilter

from forecasting.features import OFFSET_RATIO, IntArray
from forecasting.forecast import DEFAULT_LEVELS, LoadForecast
from forecasting.forecaster import CannotForecast
from forecasting.last_value import filled_from_first
from forecasting.residuals import REPLAY_STEPS, check_history, forecast_around
from forecasting.series import CHANNELS, FloatArray, LoadSeries
from forecasting.spikes import without_spikes

FIT_STEPS, MIN_FIT_STEPS, MIN_BLOCK_STEPS = 360, 32, 24
WARM_UP_STEPS = 64
# (p, d, q): what automatic searches end at on load, from a mean reverting level to a damped trend.
ORDERS = ((0, 1, 1), (1, 1, 1), (2, 1, 2), (1, 0, 1))
MOST_ITERATIONS = 30
HARMONICS, MIN_PERIODS, MAX_PERIODS = 6, 2, 7
MAX_LOG_CHANGE = 1.5
_CACHE_ENTRIES = 256


@dataclass(frozen=True, slots=True, eq=False)
class ArimaParameters:
    """One channel's fit to logs (or rates, without an offset).

    Attributes:
        ar: Coefficients of the differenced series, ``float64[p]``.
        ma: Coefficients of its innovations, ``float64[q]``.
        difference: 0 or 1.
        mean: Of the undifferenced series; 0 with a difference.
        offset: Added to rates before the logarithm; 0 for a fit to the rates themselves.
        waves: ``float64[2 * HARMONICS]``: sines and cosines of the season that are taken off; empty without one.
    """

    ar: FloatArray
    ma: FloatArray
    difference: int
    mean: float
    offset: float
    waves: FloatArray


class ArimaForecaster:
    """ARIMA with the order of least AIC among four, with quantiles of its recent errors.

    Args:
        period_s: Length of the season in seconds, if any; left out while fewer than two periods are recorded.
        logs: Whether logs are fitted, or the rates themselves as planners elsewhere do.
        fit_steps: Newest steps that parameters come from.
        refit_s: Seconds between fits; at least 24 steps.

    Attributes:
        fits_made: How often parameters had to be estimated.
    """

    def __init__(
        self, period_s: float | None = None, logs: bool = True, fit_steps: int = FIT_STEPS, refit_s: float = 3600.0
    ) -> None:
        if period_s is not None and not period_s > 0:
            raise ValueError(f"period_s must be positive, got {period_s}")
        if not refit_s > 0 or fit_steps < MIN_FIT_STEPS:
            raise ValueError(f"refit_s must be positive and fit_steps at least {MIN_FIT_STEPS}")
        self._period_s, self._logs, self._fit_steps, self._refit_s = period_s, logs, fit_steps, refit_s
        self._fits: OrderedDict[bytes, tuple[ArimaParameters, ...]] = OrderedDict()
        self.fits_made = 0

    @property
    def name(self) -> str:
        """Name, with the season and what is fitted where it differs."""
        season = "" if self._period_s is None else f"-season-{self._period_s:g}s"
        return f"arima{'' if self._logs else '-rates'}{season}"

    def forecast(
        self, history: LoadSeries, horizon_steps: int, levels: Sequence[float] = DEFAULT_LEVELS
    ) -> LoadForecast:
        """Forecast ``horizon_steps`` steps after ``history.end_at``.

        Raises:
            CannotForecast: If no whole block of at least 32 steps lies behind, the history is mostly unobserved or
                its newest observation is too old.
        """
        history = without_spikes(history)
        recent = history.tail(REPLAY_STEPS + WARM_UP_STEPS)
        blind = check_history(recent, MIN_FIT_STEPS)
        if horizon_steps < 1:
            raise CannotForecast(f"asked for {horizon_steps} steps")
        clock_step = round(recent.start_at / recent.step_s)
        period = round(self._period_s / history.step_s) if self._period_s is not None else 0
        replay = _Rolled.of(filled_from_first(recent.values), self._fitted(history, period), clock_step, period)
        return forecast_around(recent, replay, horizon_steps, levels, self.name, blind)

    def _fitted(self, history: LoadSeries, period: int) -> tuple[ArimaParameters, ...]:
        block = max(MIN_BLOCK_STEPS, round(self._refit_s / history.step_s))
        end_step = round(history.end_at / history.step_s)
        last = len(history) - end_step % block
        wanted = max(self._fit_steps, MAX_PERIODS * period)
        # Where the record is shorter than wanted, its start may be the edge of a sliding window: align it as well.
        first = last - wanted if last >= wanted else (-(end_step - len(history))) % block
        if last - first < MIN_FIT_STEPS:
            raise CannotForecast(f"whole blocks hold {max(0, last - first)} of the {MIN_FIT_STEPS} steps needed")
        past = history.window(first, last)
        clock_step = round(past.start_at / past.step_s)
        key = hashlib.sha256(past.values.tobytes() + repr((past.step_s, clock_step)).encode()).digest()
        if key not in self._fits:
            self.fits_made += 1
            filled = filled_from_first(past.values)
            fits: list[ArimaParameters] = []
            for channel in range(len(CHANNELS)):
                # Tokens in a fixed ratio to requests have the same logs up to a constant: one fit serves both.
                same = next((c for c in range(channel) if _proportional(filled[:, c], filled[:, channel])), None)
                fits.append(
                    self._fit(filled[:, channel], period, clock_step)
                    if same is None
                    else _scaled(fits[same], filled[:, same], filled[:, channel])
                )
            self._fits[key] = tuple(fits)
            if len(self._fits) > _CACHE_ENTRIES:
                self._fits.popitem(last=False)
        self._fits.move_to_end(key)
        return self._fits[key]

    def _fit(self, filled: FloatArray, period: int, clock_step: int) -> ArimaParameters:
        offset = max(OFFSET_RATIO * float(filled[-self._fit_steps :].mean()), 1e-12) if self._logs else 0.0
        shown = np.log(filled + offset) if self._logs else filled
        waves = np.zeros(0)
        if period > 2 * HARMONICS and len(filled) >= MIN_PERIODS * period:
            turns = _waves(clock_step + np.arange(len(filled)), period)
            centred = shown - shown.mean()
            waves = np.linalg.lstsq(turns, centred, rcond=None)[0]
            shown = shown - turns @ waves
        return _estimate(shown[-self._fit_steps :], offset, waves)


def _estimate(shown: FloatArray, offset: float, waves: FloatArray) -> ArimaParameters:
    """Return the fit of least AIC (statsmodels; imports it, 2 s once); a constant series is its last value."""
    from statsmodels.tsa.statespace.sarimax import SARIMAX

    none = np.zeros(0)
    scale = float(shown.std())
    if scale < 1e-9 * max(1.0, float(np.abs(shown).mean())):
        return ArimaParameters(none, none, 1, 0.0, offset, waves)
    best, chosen = np.inf, ArimaParameters(none, none, 1, 0.0, offset, waves)
    for p, d, q in ORDERS:
        mean = float(shown.mean()) if d == 0 else 0.0
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            # Parameters short of the optimum are still usable: their errors are measured afterwards.
            warnings.simplefilter("ignore")
            try:
                model = SARIMAX((shown - mean) / scale, order=(p, d, q), simple_differencing=True)
                fitted = model.fit(disp=False, maxiter=MOST_ITERATIONS, method="lbfgs", low_memory=True)
            except (np.linalg.LinAlgError, ValueError):
                continue
        aic, ar, ma = float(fitted.aic), np.asarray(fitted.arparams), np.asarray(fitted.maparams)
        if aic < best and np.isfinite(ar).all() and np.isfinite(ma).all():
            best, chosen = aic, ArimaParameters(ar, ma, d, mean, offset, waves)
    return chosen


def _proportional(one: FloatArray, other: FloatArray) -> bool:
    total = float(one.sum())
    return total > 0 and bool(np.allclose(other, one * (float(other.sum()) / total), rtol=1e-9, atol=0.0))


def _scaled(fit: ArimaParameters, one: FloatArray, other: FloatArray) -> ArimaParameters:
    """Return the fit of ``other``, which is ``one`` times a number."""
    ratio = float(other.sum() / one.sum())
    mean = fit.mean * ratio if fit.offset == 0 else fit.mean + np.log(ratio) * (fit.difference == 0)
    return ArimaParameters(fit.ar, fit.ma, fit.difference, mean, fit.offset * ratio, fit.waves)


def _waves(clock_steps: IntArray, period: int) -> FloatArray:
    turn = 2 * np.pi * (clock_steps % period)[:, None] * np.arange(1, HARMONICS + 1)[None, :] / period
    return np.concatenate([np.sin(turn), np.cos(turn)], axis=1)


@dataclass(frozen=True, slots=True, eq=False)
class _Rolled:
    """``PointReplay``: per channel the series without season, its (differenced) values and innovations."""

    shown: FloatArray
    changes: FloatArray
    innovations: FloatArray
    parameters: tuple[ArimaParameters, ...]
    clock_step: int
    period: int
    first_origin: int

    @classmethod
    def of(cls, filled: FloatArray, parameters: tuple[ArimaParameters, ...], clock_step: int, period: int) -> _Rolled:
        shown, changes, innovations = (np.empty_like(filled) for _ in range(3))
        for channel, fit in enumerate(parameters):
            rates = filled[:, channel]
            bare = np.log(rates + fit.offset) if fit.offset else rates
            if len(fit.waves):
                bare = bare - _waves(clock_step + np.arange(len(rates)), period) @ fit.waves
            shown[:, channel] = bare
            change = np.diff(bare, prepend=bare[0]) if fit.difference else bare - fit.mean
            changes[:, channel] = change
            # e = (1 - ar) w / (1 + ma), started from rest.
            innovations[:, channel] = lfilter(np.append(1.0, -fit.ar), np.append(1.0, fit.ma), change)
        return cls(shown, changes, innovations, parameters, clock_step, period, int(np.clip(len(filled) // 8, 4, 32)))

    def points(self, origins: IntArray, leads: IntArray) -> FloatArray:
        """Return ``float64[N, len(leads), C]``, as ``PointReplay`` says."""
        columns = []
        for channel, fit in enumerate(self.parameters):
            path = self._path(channel, fit, origins, int(leads[-1]))[:, leads - 1]
            if len(fit.waves):
                target = self.clock_step + origins[:, None] + leads[None, :] - 1
                path = path + (_waves(target.reshape(-1), self.period) @ fit.waves).reshape(target.shape)
            columns.append(np.exp(path) - fit.offset if fit.offset else path)
        return np.stack(columns, axis=2)

    def _path(self, channel: int, fit: ArimaParameters, origins: IntArray, reach: int) -> FloatArray:
        """Return the expected series without season, ``float64[N, reach]``."""
        p, q = len(fit.ar), len(fit.ma)
        known = [self.changes[np.maximum(origins - 1 - back, 0), channel] for back in range(max(p, 1))][::-1]
        shocks = [self.innovations[np.maximum(origins - 1 - back, 0), channel] for back in range(max(q, 1))][::-1]
        ahead = []
        for _ in range(reach):
            expected = np.zeros(len(origins))
            for order, weight in enumerate(fit.ar):
                expected = expected + weight * known[-1 - order]
            for order, weight in enumerate(fit.ma):
                expected = expected + weight * shocks[-1 - order]
            known.append(expected)
            shocks.append(np.zeros(len(origins)))
            ahead.append(expected)
        changes = np.stack(ahead, axis=1)
        last = self.shown[origins - 1, channel][:, None]
        path = last + np.cumsum(changes, axis=1) if fit.difference else fit.mean + changes
        if fit.offset:
            path = last + np.clip(path - last, -MAX_LOG_CHANGE, MAX_LOG_CHANGE)
        return np.asarray(path, dtype=np.float64)
