"""What does a small ARIMA expect next, as Dynamo's planner has pmdarima ask?

The order (p, d, q) is chosen at the first question with five points or more, d by repeated KPSS tests at 5 %, p and q
up to 2 by AIC, with a constant while d is 0 or 1; if only (0, d, 0) remains, the logarithm of 1 + value is modelled
instead. From then on the coefficients follow the data. The planner never chooses again, and five points suggest
anything: a random walk so begun is missed by four times as much as by its last value. In its favour the order is chosen
anew here whenever there are twice as many points; ``once`` leaves it as it is.

Coefficients come from conditional least squares (errors before the first value are 0) on the last ``MOST_POINTS``, half
a day of the planner's intervals, kept stationary and invertible by partial autocorrelations within (-1, 1) (Monahan
1984). statsmodels' exact likelihood takes a second where this takes milliseconds, and agrees with it where there is
something to learn from; a planner that is simulated for a week asks ten thousand times.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from forecasting.series import FloatArray

FEWEST_POINTS = 5
MOST_POINTS = 240
_ORDERS = tuple((p, q) for p in range(3) for q in range(3))
_KPSS_CRITICAL = 0.463  # level stationarity at 5 % (Kwiatkowski et al. 1992, table 1)
_MOST_STEPS = 20


@dataclass(frozen=True, slots=True)
class _Model:
    """An ARMA on differences; ``raw`` has its constant and numbers whose tanh are partial autocorrelations."""

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

    def __init__(self, *, once: bool = False) -> None:
        self._values: list[float] = []
        self._once, self._seen, self._chosen_at = once, 0, 0
        self._d = 0
        self._logs = False
        self._model: _Model | None = None
        self._fitted = False

    def add(self, value: float) -> None:
        """Take the newest value. Zeros before the first load are not counted; what is not finite is a zero."""
        value = max(0.0, value) if math.isfinite(value) else 0.0
        if value > 0 or self._values:
            self._values.append(value)
            self._seen += 1
            del self._values[:-MOST_POINTS]
            self._fitted = False

    def expected(self) -> float:
        """Return the next value; the last one while there are too few, 0 before the first."""
        if len(self._values) < FEWEST_POINTS:
            return self._values[-1] if self._values else 0.0
        if len(set(self._values)) == 1:
            return self._values[0]
        model = self._model
        if model is None or (not self._once and self._seen >= 2 * self._chosen_at):
            model = self._chosen()
        series = self._series()
        differences = np.diff(series, self._d)
        if not self._fitted:
            model, self._fitted = _fit(differences, model)[0], True
        self._model = model
        step = _one_ahead(differences, model)
        tail = [float(np.diff(series, order)[-1]) for order in range(self._d)]
        answer = step + math.fsum(tail)  # y' = w + (last of each lower difference)
        if not math.isfinite(answer):
            return self._values[-1]
        return max(0.0, math.expm1(min(answer, 50.0)) if self._logs else answer)

    def _series(self) -> FloatArray:
        values = np.array(self._values)
        return np.log1p(values) if self._logs else values

    def _chosen(self) -> _Model:
        """Return the model of the order, and choose the space, that suit what there is now."""
        self._chosen_at, self._logs = self._seen, False
        self._d, model = _best(self._series())
        if model.p == model.q == 0:
            self._logs = True
            self._d, model = _best(self._series())
        return model


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
    """Return how often ``float64[N]`` is to be differenced until a KPSS test finds it steady; at most 2."""
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
    """Return ``float64[N - p]``: what each difference was off the expectation of the step before."""
    constant, phi, theta = model.coefficients()
    phi1, phi2 = (*(float(each) for each in phi), 0.0, 0.0)[:2]
    theta1, theta2 = (*(float(each) for each in theta), 0.0, 0.0)[:2]
    errors = []
    x1 = x2 = e1 = e2 = 0.0
    for x in (w - constant).tolist():
        error = x - phi1 * x1 - phi2 * x2 - theta1 * e1 - theta2 * e2
        errors.append(error)
        x1, x2, e1, e2 = x, x1, error, e1
    return np.array(errors[model.p :] if len(errors) > model.p else errors)


def _fit(w: FloatArray, start: _Model) -> tuple[_Model, float]:
    """Return the model with the least squared errors near ``start``, and their sum scaled up to all of ``w``.

    Levenberg and Marquardt's steps with differences for the slopes; from the last coefficients it takes two or three.
    """
    raw, (least, most) = np.array(start.raw), _bounds(start)
    errors = _errors(w, start)
    damping = 1e-2
    for _ in range(_MOST_STEPS if start.raw else 0):
        slopes = _slopes(w, start, raw, errors)
        square, down = slopes.T @ slopes, slopes.T @ errors
        step = -np.linalg.solve(square + damping * np.diag(np.diag(square)) + 1e-12 * np.eye(len(raw)), down)
        tried = np.clip(raw + step, least, most)
        new = _errors(w, _with(start, tried))
        gained = float(errors @ errors) - float(new @ new)
        if not gained > 0:
            damping *= 10.0
            if damping > 1e8:
                break
            continue
        raw, errors, damping = tried, new, damping / 10.0
        if gained <= 1e-8 * float(errors @ errors):
            break
    return _with(start, raw), float(errors @ errors) * len(w) / max(1, len(errors))


def _slopes(w: FloatArray, model: _Model, raw: FloatArray, errors: FloatArray) -> FloatArray:
    """Return ``float64[N - p, K]``: how the errors change with each raw number."""
    columns = []
    for place in range(len(raw)):
        nudge = 1e-6 * max(1.0, abs(float(raw[place])))
        moved = raw.copy()
        moved[place] += nudge
        columns.append((_errors(w, _with(model, moved)) - errors) / nudge)
    return np.stack(columns, axis=1)


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
