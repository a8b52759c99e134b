"""When do requests arrive, given how many are expected: Poisson and burstier renewal processes at unit rate."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from controller.errors import BadInput
from simulations.trace import Float64

ARRIVALS = ("poisson", "gamma")
MOST_CV = 30.0


@dataclass(frozen=True, slots=True)
class ArrivalProcess:
    """A stationary renewal process whose gaps are gamma distributed with mean 1.

    Events at unit rate become arrivals of any rate by stretching time (the rescaling theorem): event u happens when
    the expected number of requests since the start reaches u.

    Attributes:
        cv: Coefficient of variation of the gaps: 1 is Poisson, larger comes in clumps of about ``cv**2`` requests,
            smaller is more regular. Clients in production are at 2 to 12 (ServeGen).
    """

    cv: float = 1.0

    def __post_init__(self) -> None:
        if not 0.05 <= self.cv <= MOST_CV:
            raise ValueError(f"the arrival CV must be between 0.05 and {MOST_CV:g}, got {self.cv}")

    def events(self, rng: np.random.Generator, expected: float) -> Float64:
        """Return the events in [0, ``expected``), ascending; their mean number is ``expected``.

        The process is in equilibrium at 0, so that stretches drawn one by one have the right mean.
        """
        if expected <= 0:
            return np.zeros(0)
        if self.cv == 1:
            # n uniform order statistics, without sorting: scaled sums of n + 1 exponential gaps.
            sums = np.cumsum(rng.standard_exponential(int(rng.poisson(expected)) + 1))
            return np.asarray(sums[:-1] * (expected / sums[-1]))
        shape = 1 / self.cv**2
        # Wait for the first event after a random instant: a uniform part of a length-biased gap.
        sums = np.array([rng.random() * rng.standard_gamma(shape + 1) / shape])
        while sums[-1] < expected:
            missing = expected - sums[-1]
            gaps = rng.standard_gamma(shape, int(missing + 4 * self.cv * math.sqrt(missing)) + 16) / shape
            sums = np.concatenate((sums, sums[-1] + np.cumsum(gaps)))
        return sums[sums < expected]

    def counts(self, rng: np.random.Generator, expected: Float64) -> Float64:
        """Return how many events fall into stretches of ``expected`` events each, without drawing the events.

        Mean and variance are those of the process; the distribution is Poisson's where the process is, and otherwise
        the usual one with these two moments: negative binomial for clumps, binomial for regular arrivals (whole
        trials, so only nearly their variance).
        """
        if self.cv == 1:
            return np.asarray(rng.poisson(expected), dtype=np.float64)
        spread = variance_ratio(self.cv, expected)
        some = expected > 0
        if self.cv < 1:
            share = np.clip(1 - spread, 1e-9, 1)
            trials = np.ceil(expected / share)
            share = np.divide(expected, trials, out=np.zeros_like(expected), where=some)
            return np.asarray(rng.binomial(trials.astype(np.int64), share), dtype=np.float64)
        # Poisson with a gamma-distributed mean: variance = expected * (1 + expected / size).
        extra = np.maximum(spread - 1, 1e-9)
        size = np.where(some, expected, 0.0) / extra
        return np.asarray(rng.poisson(rng.standard_gamma(size) * extra), dtype=np.float64)


def variance_ratio(cv: float, expected: Float64) -> Float64:
    """Return variance over mean of the number of events in stretches of ``expected`` events."""
    grid, ratio = _variance_ratios(cv)
    last = grid[-1]
    # Beyond the grid the variance is a straight line of slope cv**2 (Cox, Renewal Theory, 1962, section 4.5).
    beyond = cv**2 + (ratio[-1] - cv**2) * last / np.maximum(expected, last)
    near = np.interp(np.log(np.maximum(expected, grid[0])), np.log(grid), ratio)
    return np.asarray(np.where(expected > last, beyond, near))


@lru_cache(maxsize=64)
def _variance_ratios(cv: float) -> tuple[Float64, Float64]:
    """Return a grid of expected numbers t and the variance ratios there, of an equilibrium gamma renewal process.

    ``Var N(t) = t - t^2 + 2 * integral of m`` (Cox, section 4.5), where the renewal function m is the sum over n of the
    n-th event's distribution, a gamma of shape ``n / cv**2``, whose integral is an incomplete gamma function again.
    """
    from scipy.special import gammainc

    shape = 1 / cv**2
    grid = np.geomspace(1e-3, 5 * cv**2 + 5, 60)
    events = np.arange(1, int(grid[-1] + 8 * cv * math.sqrt(grid[-1])) + 20, dtype=np.float64)
    integral = [
        np.sum(t * gammainc(events * shape, t * shape) - events * gammainc(events * shape + 1, t * shape)) for t in grid
    ]
    return grid, (grid - grid**2 + 2 * np.array(integral)) / grid


def arrivals_named(name: str, cv: float) -> ArrivalProcess:
    """Return the process called ``name``; ``cv`` matters only to ``gamma``.

    Raises:
        BadInput: If there is none, naming those there are; or if ``cv`` is out of range.
    """
    if name not in ARRIVALS:
        raise BadInput(f"no arrival process is called {name!r}", "arrivals", f"known: {', '.join(ARRIVALS)}")
    try:
        return ArrivalProcess(cv if name == "gamma" else 1.0)
    except ValueError as error:
        raise BadInput(str(error), "arrival CV", "give 1 for Poisson, 2 to 10 for bursty clients") from None
