"""What do lags, earlier turns and the time of day add up to? A ridge regression of the log change, refitted at times.

The inputs are those of the trees. Coefficients come from whole blocks of the clock before now, so they are a function
of the history alone and stay put while a block fills; a cache of fits, keyed by the very numbers fitted, saves time and
changes nothing.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from forecasting.features import DAY_S, IntArray
from forecasting.forecast import DEFAULT_LEVELS, LoadForecast
from forecasting.forecaster import CannotForecast
from forecasting.residuals import REPLAY_STEPS, check_history, forecast_around
from forecasting.series import CHANNELS, FloatArray, LoadSeries
from forecasting.spikes import without_spikes
from forecasting.tree_features import TreeSpec, tree_targets, tree_windows

REFIT_S = 6 * 3600.0
FIT_DAYS = 13
MOST_WINDOWS, MIN_WINDOWS = 1500, 96
RIDGE = 0.15
HARMONICS = 6
# A target counts at most as if it were so many median absolute targets away: one spike bends nothing.
OUTLIER_SCALES = 8.0
_CACHE_ENTRIES = 256


@dataclass(frozen=True, slots=True, eq=False)
class Coefficients:
    """Per lead of ``spec``: what inputs are centred and scaled by, ``float64[L, F]``, and ``float64[L, F + 1, C]``."""

    spec: TreeSpec
    center: FloatArray
    scale: FloatArray
    weights: FloatArray


class RegressionForecaster:
    """Direct regression of the log change at a few leads, with quantiles of its recent errors.

    Attributes:
        fits_made: How often coefficients had to be estimated.
    """

    def __init__(self, refit_s: float = REFIT_S) -> None:
        if not refit_s > 0:
            raise ValueError(f"refit_s must be positive, got {refit_s}")
        self._refit_s = refit_s
        self._fits: OrderedDict[bytes, Coefficients] = OrderedDict()
        self.fits_made = 0

    @property
    def name(self) -> str:
        """``regression``."""
        return "regression"

    def forecast(
        self, history: LoadSeries, horizon_steps: int, levels: Sequence[float] = DEFAULT_LEVELS
    ) -> LoadForecast:
        """Forecast ``horizon_steps`` steps after ``history.end_at``.

        Raises:
            CannotForecast: If whole blocks hold fewer than 96 windows with a known target, or the history is mostly
                unobserved or its newest observation too old.
        """
        if horizon_steps < 1:
            raise CannotForecast(f"asked for {horizon_steps} steps")
        history = without_spikes(history)
        blind = check_history(history, MIN_WINDOWS)
        fit = self._fitted(history, horizon_steps + blind)
        recent = history.tail(REPLAY_STEPS + fit.spec.most_steps)
        replay = _Regressed(recent.values, recent.start_at, fit, min(len(recent) - 1, 32))
        return forecast_around(recent, replay, horizon_steps, levels, self.name, blind)

    def _fitted(self, history: LoadSeries, reach: int) -> Coefficients:
        leads = tuple(sorted({1, *(max(1, round(reach * share)) for share in (0.25, 0.5, 1.0))}))
        spec = TreeSpec(step_s=history.step_s, lead_steps=leads, levels=DEFAULT_LEVELS)
        block = max(12, round(self._refit_s / history.step_s))
        last = len(history) - round(history.end_at / history.step_s) % block
        first = max(0, last - round(FIT_DAYS * DAY_S / history.step_s))
        past = history.window(first, last)
        if len(past) < MIN_WINDOWS + reach:
            raise CannotForecast(f"whole blocks hold {len(past)} of the {MIN_WINDOWS + reach} steps needed")
        key = hashlib.sha256(past.values.tobytes() + repr((leads, past.start_at, past.step_s)).encode()).digest()
        if key not in self._fits:
            self.fits_made += 1
            self._fits[key] = _fit(past, spec)
            if len(self._fits) > _CACHE_ENTRIES:
                self._fits.popitem(last=False)
        self._fits.move_to_end(key)
        return self._fits[key]


def _fit(past: LoadSeries, spec: TreeSpec) -> Coefficients:
    room = len(past) - spec.lead_steps[-1] + 1
    stride = max(1, room // MOST_WINDOWS)
    origins: IntArray = np.arange(len(past) - spec.lead_steps[-1], 15, -stride, dtype=np.int64)[::-1]
    windows = tree_windows(past.values, [past.start_at], spec, origins, len(CHANNELS))
    targets, _ = tree_targets(past.values, windows, spec, origins)
    channels = len(CHANNELS)
    centers, scales, weights = [], [], []
    for lead in range(len(spec.lead_steps)):
        inputs = _inputs(windows.inputs[lead].astype(np.float64))
        center, scale = inputs.mean(axis=0), inputs.std(axis=0)
        scale = np.where(scale > 1e-6, scale, 1.0)
        standard = np.column_stack([(inputs - center) / scale, np.ones(len(inputs))])
        found = np.empty((standard.shape[1], channels))
        for channel in range(channels):
            rows, target = standard[channel::channels], targets[channel::channels, lead]
            known = np.isfinite(target)
            if known.sum() < MIN_WINDOWS:
                raise CannotForecast(f"{int(known.sum())} of the {MIN_WINDOWS} windows needed have a known target")
            found[:, channel] = _ridge(rows[known], target[known])
        centers.append(center)
        scales.append(scale)
        weights.append(found)
    return Coefficients(spec, np.stack(centers), np.stack(scales), np.stack(weights))


def _ridge(rows: FloatArray, target: FloatArray) -> FloatArray:
    middle = np.median(target)
    reach = OUTLIER_SCALES * np.median(np.abs(target - middle))
    bounded = np.clip(target, middle - reach, middle + reach)
    square = rows.T @ rows + RIDGE * len(rows) * np.diag(np.append(np.ones(rows.shape[1] - 1), 0.0))
    return np.asarray(np.linalg.solve(square, rows.T @ bounded), dtype=np.float64)


def _inputs(raw: FloatArray) -> FloatArray:
    """Return what is regressed on: trees' inputs with what is missing as 0, and more waves of the day."""
    day = raw[:, -3]
    turns = 2 * np.pi * day[:, None] * np.arange(2, HARMONICS + 1)[None, :]
    whole = np.where(np.isfinite(raw), raw, 0.0)
    return np.concatenate([whole[:, :-3], whole[:, -2:], np.sin(turns), np.cos(turns)], axis=1)


@dataclass(frozen=True, slots=True, eq=False)
class _Regressed:
    """``PointReplay`` of a fitted regression over ``values`` (``float64[T, C]``)."""

    values: FloatArray
    start_at: float
    fit: Coefficients
    first_origin: int

    def points(self, origins: IntArray, leads: IntArray) -> FloatArray:
        spec, channels = self.fit.spec, self.values.shape[1]
        windows = tree_windows(self.values, [self.start_at], spec, origins, channels)
        changes = [np.zeros(len(windows.level))]
        for lead, raw in enumerate(windows.inputs):
            standard = (_inputs(raw.astype(np.float64)) - self.fit.center[lead]) / self.fit.scale[lead]
            said = standard @ self.fit.weights[lead][:-1] + self.fit.weights[lead][-1]
            changes.append(np.take_along_axis(said, (np.arange(len(said)) % channels)[:, None], axis=1)[:, 0])
        known = np.array([0.0, *spec.lead_steps])
        between = np.stack([np.interp(leads, known, unit) for unit in np.eye(len(known))], axis=1)
        change = np.clip(np.stack(changes, axis=1) @ between.T, -3.0, 3.0)
        return windows.rates(change).reshape(len(origins), channels, len(leads)).transpose(0, 2, 1)
