"""Which requests did recorded clients send, of whom there is a count and a burstiness per window?"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import lru_cache

import numpy as np

from simulations.arrivals import MOST_CV, variance_ratio
from simulations.rate_curve import RateCurve
from simulations.token_shapes import Lengths, covariance, whole_tokens
from simulations.trace import Bool, Float64, Int32, Int64, RequestBatch

BLOCK_REQUESTS = 1 << 18
"""Requests drawn at once in a busy window; a window of more is cut into equal parts."""

_LEAST_GAP_SHAPE = 1 / 150.0**2
"""Nothing recorded varies more."""
_WEIBULL_GRID = np.geomspace(0.06, 60.0, 60)
_CV_GRID = np.geomspace(0.05, MOST_CV, 48)

Random = Callable[[int], np.random.Generator]


@dataclass(frozen=True, slots=True, eq=False)
class RecordedClients:
    """Clients of a service, each a renewal process of its own.

    A recorded rate is a count of what arrived, not a mean about which counts vary: a window holds as many requests of a
    client as were recorded (times ``factor``, rounded at random), and chance decides only where in the window they are.
    Their gaps are gamma or Weibull distributed with the recorded variation and laid around the window as on a circle,
    turned by chance: it begins and ends inside a gap, as it would at any instant. Inside, the rate runs from that of
    the window before to that of the one after (``RateCurve``), so that it does not jump at borders.

    Attributes:
        step_s: Length of a window.
        rates: ``float64[clients, T]`` requests/s, times ``factor``; 0 where idle, NaN where nobody was recorded.
        cv: ``float64[clients, T]`` recorded coefficient of variation of the gaps; any number where idle.
        is_weibull: ``bool[clients, T]`` whether the gaps are Weibull's; gamma otherwise.
        shape: How long requests are.
        factor: By what the recorded rates were multiplied.
    """

    step_s: float
    rates: Float64
    cv: Float64
    is_weibull: Bool
    shape: Lengths
    factor: float = 1.0
    curve: RateCurve = field(init=False, repr=False)
    _lines: tuple[Float64, Float64] = field(init=False, repr=False)
    _gap_shape: Float64 = field(init=False, repr=False)
    _drawn_cv: Float64 = field(init=False, repr=False)

    def __post_init__(self) -> None:
        requests = np.nan_to_num(self.rates) * self.step_s
        gap_shape = _gamma_shape(self.cv, requests / self.factor)
        lines = [RateCurve(self.step_s, each).lines for each in self.rates]
        drawn_cv = 1 / np.sqrt(gap_shape)
        for name, value in (
            ("curve", RateCurve(self.step_s, self.rates.sum(axis=0))),
            ("_lines", (np.array([left for left, _ in lines]), np.array([slope for _, slope in lines]))),
            ("_drawn_cv", drawn_cv),
            ("_gap_shape", np.where(self.is_weibull, _weibull_shape(self.cv, requests / self.factor), gap_shape)),
        ):
            object.__setattr__(self, name, value)

    @property
    def parts(self) -> int:
        """In how many equal parts the windows are drawn."""
        return max(1, int(np.ceil(self.curve.peak * self.step_s / BLOCK_REQUESTS)))

    def scaled(self, factor: float) -> RecordedClients:
        """Return ``factor`` times the load, in clumps as large as before."""
        return replace(self, rates=self.rates * factor, factor=self.factor * factor)

    def drawn(self, random: Random, of_window: Random, block: int) -> RequestBatch:
        """Return the requests of a block: part ``block % parts`` of window ``block // parts``."""
        window, part = divmod(block, self.parts)
        if window >= self.rates.shape[1]:
            return _NOTHING
        counts = self._counts(of_window(window), window)[:, part]
        active = np.flatnonzero(counts)
        rng = random(block)
        at_s = self._arrivals(rng, window, part, active, counts[active])
        return RequestBatch(at_s, *self.lengths(rng, np.zeros(len(at_s), np.int64)))

    def lengths(self, rng: np.random.Generator, step: Int64) -> tuple[Int32, Int32]:
        """Return prompt and output tokens of as many requests as there are steps."""
        prompt, output = self.shape.draw(rng, len(step))
        return whole_tokens(prompt), whole_tokens(output)

    def expected_sums(self, edges_s: Float64) -> Float64:
        """Return ``float64[T, 3]``: expected requests, prompt and output tokens between consecutive edges."""
        requests = np.diff(self.curve.expected(edges_s))
        return np.outer(requests, (1.0, self.shape.prompt_mean, self.shape.output_mean))

    def observed_sums(self, rng: np.random.Generator, edges_s: Float64) -> Float64:
        """Return such sums as somebody who counts requests would see them, without drawing the requests.

        Each client's counts vary as those of its renewal process do, and add up to the recorded count over a window
        that the edges cut into whole steps; tokens come from the central limit theorem.
        """
        window = np.minimum((edges_s[:-1] / self.step_s + 1e-9).astype(np.int64), self.rates.shape[1] - 1)
        count = np.zeros(len(window))
        for rates, cv in zip(self.rates, self._drawn_cv, strict=True):
            count += _observed(rng, np.diff(RateCurve(self.step_s, rates).expected(edges_s)), cv, window)
        prompt_var, output_var, _ = covariance(self.shape)
        first, second = rng.standard_normal((2, len(count)))
        prompt = np.maximum(count * self.shape.prompt_mean + np.sqrt(count * prompt_var) * first, count)
        output = np.maximum(count * self.shape.output_mean + np.sqrt(count * output_var) * second, count)
        return np.stack([count, prompt, output], axis=1)

    def _counts(self, rng: np.random.Generator, window: int) -> Int64:
        """Return ``int64[clients, parts]`` requests in each part of a window."""
        requests = np.nan_to_num(self.rates[:, window]) * self.step_s
        # Recorded rates times a window are whole, but for their own rounding (float32).
        nearly = np.abs(requests - np.rint(requests)) < 1e-4 * np.maximum(requests, 1)
        whole = np.where(nearly, np.rint(requests), np.floor(requests + rng.random(len(requests))))
        if self.parts == 1:
            return whole.astype(np.int64)[:, None]
        # How long n / parts gaps take varies like a gamma variable of that many times the shape of one.
        shape = np.maximum(whole / self.parts / self._drawn_cv[:, window] ** 2, 0.05)
        shares = rng.standard_gamma(np.repeat(shape[:, None], self.parts, axis=1)) * np.diff(
            self._before(window), axis=1
        )
        total = np.maximum(shares.sum(axis=1, keepdims=True), 1e-300)
        ends = np.rint(whole[:, None] * np.cumsum(shares, axis=1) / total)
        counts: Int64 = np.diff(ends, axis=1, prepend=0.0).astype(np.int64)
        return counts

    def _before(self, window: int) -> Float64:
        """Return ``float64[clients, parts + 1]`` expected requests from the window's beginning to the ends of parts."""
        left, slope = (line[:, window, None] for line in self._lines)
        into = np.linspace(0.0, self.step_s, self.parts + 1)
        return np.asarray(into * (left + slope * into / 2))

    def _arrivals(self, rng: np.random.Generator, window: int, part: int, active: Int64, counts: Int64) -> Float64:
        """Return when the ``counts`` requests of the ``active`` clients arrive, ascending."""
        ends = np.cumsum(counts)
        gaps: Float64 = np.empty(int(counts.sum()))
        for client, first, last in zip(active, ends - counts, ends, strict=True):
            _draw_gaps(rng, gaps[first:last], float(self._gap_shape[client, window]), self.is_weibull[client, window])
        if not len(gaps):
            return gaps
        sums = np.add.reduceat(gaps, ends - counts)
        # All gaps of clients with very large CVs may underflow to 0: then one clump is what is left.
        gaps[(ends - counts)[sums == 0]] = 1.0
        gaps *= np.repeat(1 / np.where(sums == 0, 1.0, sums), counts)
        # One sum over all clients: client i's events are in (i, i + 1], turned on their circle.
        at: Float64 = np.cumsum(gaps)
        at -= np.repeat(np.arange(len(counts)) - rng.random(len(counts)), counts)
        at -= np.floor(at)
        # From the share of the part's expected requests to the instant: the root of left * x + slope * x^2 / 2 = share.
        before = self._before(window)[active, part : part + 2]
        left, slope = (line[active, window] for line in self._lines)
        at *= np.repeat(before[:, 1] - before[:, 0], counts)
        at += np.repeat(before[:, 0], counts)
        lefts = np.repeat(left, counts)
        root = np.repeat(2 * slope, counts)
        root *= at
        root += lefts * lefts
        np.sqrt(np.maximum(root, 0.0, out=root), out=root)
        root += lefts
        at *= 2
        np.divide(at, root, out=at, where=root > 0)
        at += window * self.step_s
        begin_s = (window + part / self.parts) * self.step_s
        np.clip(at, begin_s, begin_s + self.step_s / self.parts, out=at)
        at.sort()
        return at


_NOTHING = RequestBatch(np.zeros(0), np.zeros(0, np.int32), np.zeros(0, np.int32))


def _draw_gaps(rng: np.random.Generator, out: Float64, shape: float, is_weibull: bool) -> None:
    """Fill ``out`` with gaps of any scale."""
    if is_weibull:
        rng.standard_exponential(out=out)
        np.power(out, 1 / shape, out=out)
    else:
        rng.standard_gamma(shape, out=out)


def _gamma_shape(cv: Float64, requests: Float64) -> Float64:
    """Return the shape of gamma gaps such that n of them, as long together as the window, vary by ``cv``.

    Of n gamma gaps with shape k, divided by their sum (Dirichlet), the squared CV is ``(n - 1) / (n k + 1)`` on
    average: a CV of 8.6 over 799 requests takes k = 0.0123, not ``1 / cv**2`` = 0.0135. n gaps cannot vary by more
    than sqrt(n - 1).
    """
    count = np.maximum(requests, 2.0)
    wanted = ((count - 1) / np.clip(np.nan_to_num(cv, nan=1.0), 0.05, None) ** 2 - 1) / count
    return np.asarray(np.clip(wanted, _LEAST_GAP_SHAPE, 400.0))


def _weibull_shape(cv: Float64, requests: Float64) -> Float64:
    """Return the shape of Weibull gaps of which n vary by ``cv``: interpolated in a table of n and CV.

    The tail is heavy: the distribution of shape 0.2 has a CV of 15.8, and 3,000 gaps drawn from it show one of 10 to
    11, because the longest ones are rarer than that.
    """
    levels, table = _weibull_table()
    wanted = np.log(np.clip(np.nan_to_num(cv, nan=1.0), 0.05, None))
    at = np.interp(np.log(np.maximum(requests, 2.0)), np.log(levels), np.arange(len(levels)))
    shapes = np.stack([np.interp(wanted, each, _WEIBULL_GRID[::-1]) for each in table])
    lower = np.minimum(at.astype(np.int64), len(levels) - 2)
    rows = [np.take_along_axis(shapes, (lower + more)[None], axis=0)[0] for more in (0, 1)]
    return np.asarray(rows[0] + (at - lower) * (rows[1] - rows[0]))


@lru_cache(maxsize=1)
def _weibull_table() -> tuple[Float64, Float64]:
    """Return numbers of gaps n, and for each n the logarithms of the CVs of n evenly spaced quantiles, ascending."""
    levels = np.unique(np.rint(np.geomspace(4, 1 << 17, 12)))
    table = []
    for count in levels:
        waits = -np.log1p(-(np.arange(count) + 0.5) / count)
        gaps = [waits ** (1 / shape) for shape in _WEIBULL_GRID[::-1]]
        table.append(np.maximum.accumulate([np.log(each.std() / each.mean()) for each in gaps]))
    return levels, np.array(table)


def _observed(rng: np.random.Generator, expected: Float64, cv: Float64, window: Int64) -> Float64:
    """Return one client's counts in steps, as drawn without requests; ``window`` is each step's."""
    spread = np.maximum(_spread(cv[window], expected) - 1, 1e-9)
    count = rng.poisson(rng.standard_gamma(expected / spread) * spread).astype(np.float64)
    due, came = (np.bincount(window, each, len(cv)) for each in (expected, count))
    count *= np.divide(due, came, out=np.zeros_like(due), where=came > 0)[window]
    return np.asarray(np.where(came[window] > 0, count, expected))


def _spread(cv: Float64, expected: Float64) -> Float64:
    """Return variance over mean of counts, by the nearest of 48 CVs."""
    nearest = np.clip(np.searchsorted(_CV_GRID, cv), 0, len(_CV_GRID) - 1)
    spread = np.ones_like(expected)
    for number in np.unique(nearest[expected > 0]):
        some = (nearest == number) & (expected > 0)
        spread[some] = variance_ratio(float(_CV_GRID[number]), expected[some])
    return spread
