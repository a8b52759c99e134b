"""How fast do requests arrive at any instant, given mean rates per step."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from simulations.trace import Float64, Int64


@dataclass(frozen=True, slots=True, eq=False)
class RateCurve:
    """Linear within each step, with exactly the step's mean, never negative, no higher than the neighbours' means.

    The slope is van Leer's harmonic mean of the differences to both neighbours (J. Comput. Phys. 14, 1974), zero at
    peaks, troughs and beside gaps. A smooth series becomes nearly continuous and every step keeps its total; joining
    step centres by lines would instead flatten peaks, and a continuous curve with the same totals would overshoot.

    Attributes:
        step_s: Length of a step; the first begins at 0.
        rates: ``float64[T]``, mean requests/s of each step; NaN is a gap, in which nothing arrives.
    """

    step_s: float
    rates: Float64
    _left: Float64 = field(init=False, repr=False)
    _slope: Float64 = field(init=False, repr=False)
    _before: Float64 = field(init=False, repr=False)
    _covered: Float64 = field(init=False, repr=False)

    def __post_init__(self) -> None:
        seen = np.isfinite(self.rates)
        rates = np.where(seen, self.rates, 0.0)
        padded = np.concatenate(([np.nan], self.rates, [np.nan]))
        up, down = padded[1:-1] - padded[:-2], padded[2:] - padded[1:-1]
        monotone = up * down > 0
        rise = np.divide(2 * up * down, up + down, out=np.zeros_like(rates), where=monotone)
        object.__setattr__(self, "_left", rates - rise / 2)
        object.__setattr__(self, "_slope", rise / self.step_s)
        object.__setattr__(self, "_before", np.concatenate(([0.0], np.cumsum(rates * self.step_s))))
        object.__setattr__(self, "_covered", np.concatenate(([0.0], np.cumsum(seen * self.step_s))))

    @property
    def end_s(self) -> float:
        """When the last step ends."""
        return len(self.rates) * self.step_s

    @property
    def peak(self) -> float:
        """The largest mean rate of a step, in requests/s."""
        return float(np.nanmax(self.rates, initial=0.0))

    def expected(self, at_s: Float64) -> Float64:
        """Return the expected number of requests before each instant of ``at_s``."""
        step, within = self._split(at_s)
        return np.asarray(self._before[step] + within)

    def weighted(self, weights: Float64, at_s: Float64) -> Float64:
        """Return the expected sum, over requests before each instant, of their step's weight in ``weights``."""
        step, within = self._split(at_s)
        before = np.concatenate(([0.0], np.cumsum(weights * np.diff(self._before))))
        return np.asarray(before[step] + weights[step] * within)

    def covered_s(self, at_s: Float64) -> Float64:
        """Return how many seconds before each instant lie outside gaps."""
        return np.asarray(np.interp(at_s, np.arange(len(self._covered)) * self.step_s, self._covered))

    @property
    def lines(self) -> tuple[Float64, Float64]:
        """``float64[T]`` rate at the beginning of each step, and its slope."""
        return self._left, self._slope

    def instants(self, expected: Float64) -> tuple[Float64, Int64]:
        """Return when the expected number of requests reaches each of ``expected``, and the step that is in.

        The inverse of ``expected()``: ascending where its argument is.
        """
        if not len(expected):
            return np.zeros(0), np.zeros(0, np.int64)
        # Only the few steps that a block is in are searched.
        ends = np.searchsorted(self._before, (expected.min(), expected.max()), side="right")
        low, high = max(int(ends[0]) - 1, 0), int(ends[1])
        step = low + np.searchsorted(self._before[low:high], expected, side="right") - 1
        step = np.clip(step, 0, len(self.rates) - 1)
        rest = np.maximum(expected - self._before[step], 0.0)
        left, slope = self._left[step], self._slope[step]
        # The root of left * x + slope * x^2 / 2 = rest, in the form that does not cancel when the slope is small.
        root = left + np.sqrt(np.maximum(left * left + 2 * slope * rest, 0.0))
        into = np.divide(2 * rest, root, out=np.zeros_like(rest), where=root > 0)
        at_s = step * self.step_s + np.minimum(into, self.step_s)
        return np.maximum.accumulate(at_s), step

    def _split(self, at_s: Float64) -> tuple[Int64, Float64]:
        """Return the step each instant is in, and the expected number of requests since that step began."""
        at_s = np.clip(at_s, 0.0, self.end_s)
        step = np.minimum((at_s / self.step_s).astype(np.int64), len(self.rates) - 1)
        into = at_s - step * self.step_s
        return step, into * (self._left[step] + self._slope[step] * into / 2)

    def scaled(self, factor: float) -> RateCurve:
        """Return the curve of ``factor`` times the rate."""
        return RateCurve(self.step_s, self.rates * factor)
