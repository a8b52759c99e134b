"""What does a small ARIMA expect next, as Dynamo's planner has pmdarima ask?

The order (p, d, q) is chosen once, at the first question with five points or more, and then only the coefficients follow
the data, as the planner does it: d by repeated KPSS tests at 5 %, p and q up to 2 by AIC, a constant while d is 0 or 1.
If only (0, d, 0) remains, the logarithm of 1 + value is modelled instead.

Coefficients come from conditional least squares (errors before the first value are 0) on the last ``MOST_POINTS``, kept
stationary and invertible by partial autocorrelations within (-1, 1) (Monahan 1984). statsmodels' exact likelihood takes
seconds for what takes milliseconds here and agrees with it where there is something to learn from; a planner that is
simulated for a week asks ten thousand times.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from forecasting.series import FloatArray

FEWEST_POINTS = 5
MOST_POINTS = 480
_ORDERS = tuple((p, q) for p in range(3) for q in range(3))
_KPSS_CRITICAL = 0.463  # level stationarity at 5 % (Kwiatkowski et al. 1992, table 1)
_MOST_EVALUATIONS = 60


@dataclass(frozen=True, slots=True)
class _Model:
    """An ARMA on differences: order, constant and coefficients as raw numbers whose tanh are partial autocorrelations."""

    p: int
    q: int
    with_constant: bool
    raw: tuple[float, ...]

    def coefficients(self) -> tuple[float, FloatArray, FloatArray]:
        constant = self.raw[0] if self.with_constant else 0.0
        rest = np.tanh(np.array(self.raw[int(self.with_constant) :]))
        return constant, _from_partial(rest[: self.p]), -_from_partial(rest[self.p :])


class NextValue:
    """One figure, observed once per interval, and what is expected of the next one."""

    def __init__(self) -> None:
        self._values: list[float] = []
        self._d = 0
        self._logs = False
        self._model: _Model | None = None
        self._fitted = 0

    def add(self, value: float) -> None:
        """Take the newest value. Zeros before the first load are not counted; what is not finite is a zero."""
        value = max(0.0, value) if math.isfinite(value) else 0.0
        if value > 0 or self._values:
            self._values.append(value)
            del self._values[:-MOST_POINTS]
            self._fitted = 0  # the data moved on

    def expected(self) -> float:
        """Return the next value; the last one while there are too few, 0 before the first."""
        if len(self._values) < FEWEST_POINTS:
            return self._values[-1] if self._values else 0.0
        if len(set(self._values)) == 1:
            return self._values[0]
        if self._model is None:
            self._choose()
        series = self._series()
        differences = np.diff(series, self._d)
        assert self._model is not None
        if self._fitted != len(self._values):
            self._model = _fit(differences, self._model)[0]
            self._fitted = len(self._values)
        step = _one_ahead(differences, self._model)
        tail = [float(np.diff(series, order)[-1]) for order in range(self._d)]
        answer = step + math.fsum(tail)  # y' = w + (last of each lower difference)
        if not math.isfinite(answer):
            return self._values[-1]
        return max(0.0, math.expm1(min(answer, 50.0)) if self._logs else answer)

    def _series(self) -> FloatArray:
        values = np.array(self._values)
        return np.log1p(values) if self._logs else values

    def _choose(self) -> None:
        """Choose order and space from what there is now."""
        self._d, self._model = _best(self._series())
        if self._model.p == self._model.q == 0:
            self._logs = True
            self._d, self._model = _best(self._series())


def _best(series: FloatArray) -> tuple[int, _Model]:
    d = differences_needed(series)
    w = np.diff(series, d)
    best, least = _Model(0, 0, d < 2, (float(w.mean()),) if d < 2 else ()), math.inf
    for p, q in _ORDERS:
        count = p + q + (d < 2)
        if 2 * (count + 1) > len(w):  # more unknowns than half the points explain anything
            continue
        start = _Model(p, q, d < 2, ((float(w.mean()),) if d < 2 else ()) + (0.1,) * (p + q))
        model, squares = _fit(w, start)
        aic = len(w) * math.log(max(squares / len(w), 1e-12)) + 2 * (count + 1)
        if aic < least - 1e-9:
            best, least = model, aic
    return d, best


def differences_needed(series: FloatArray) -> int:
    """Return how often ``float64[N]`` has to be differenced until a KPSS test no longer finds it wandering; at most 2."""
    for d in range(2):
        w = np.diff(series, d)
        rest = w - w.mean()
        lags = int(3 * math.sqrt(len(w)) / 13)
        variance = float(rest @ rest) / len(w)
        for lag in range(1, lags + 1):
            variance += 2 * (1 - lag / (lags + 1)) * float(rest[lag:] @ rest[:-lag]) / len(w)
        if variance <= 1e-12 or float((np.cumsum(rest) ** 2).sum()) / (len(w) ** 2 * variance) <= _KPSS_CRITICAL:
            return d
    return 2


def _errors(w: FloatArray, model: _Model) -> FloatArray:
    """Return ``float64[N]``: what each difference was off the expectation of the step before."""
    from scipy.signal import lfilter

    constant, phi, theta = model.coefficients()
    errors: FloatArray = lfilter(np.concatenate([[1.0], -phi]), np.concatenate([[1.0], theta]), w - constant)
    return errors[model.p :] if len(errors) > model.p else errors


def _fit(w: FloatArray, start: _Model) -> tuple[_Model, float]:
    """Return the model with the least squared errors near ``start``, and their sum scaled up to all of ``w``."""
    model = start
    if start.raw:
        from scipy.optimize import least_squares

        scale = np.maximum(np.abs(np.array(start.raw)), 0.1)
        found = least_squares(
            lambda raw: _errors(w, _with(start, raw)), np.array(start.raw), x_scale=scale, max_nfev=_MOST_EVALUATIONS
        )
        if np.isfinite(found.x).all():
            model = _with(start, np.clip(found.x, *_bounds(start)))
    errors = _errors(w, model)
    return model, float(errors @ errors) * len(w) / max(1, len(errors))


def _bounds(model: _Model) -> tuple[FloatArray, FloatArray]:
    free, held = int(model.with_constant), model.p + model.q
    most = np.concatenate([np.full(free, np.inf), np.full(held, 4.0)])  # tanh(4) = 0.9993
    return -most, most


def _with(model: _Model, raw: Sequence[float] | FloatArray) -> _Model:
    return _Model(model.p, model.q, model.with_constant, tuple(float(value) for value in raw))


def _one_ahead(w: FloatArray, model: _Model) -> float:
    constant, phi, theta = model.coefficients()
    errors = _errors(w, model)
    newest = w[::-1][: model.p] - constant
    recent = errors[::-1][: model.q]
    return constant + float(phi[: len(newest)] @ newest) + float(theta[: len(recent)] @ recent)


def _from_partial(partial: FloatArray) -> FloatArray:
    """Return autoregressive coefficients with these partial autocorrelations (at most two)."""
    if len(partial) < 2:
        return partial
    return np.array([partial[0] * (1.0 - partial[1]), partial[1]])
