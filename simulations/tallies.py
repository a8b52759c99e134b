"""What became of all requests together: counts, quantiles of their latencies, and how both went over time.

Two tell it. ``Tallies`` reads what the kernel counts as requests end: memory does not grow with the trace, and a
quantile is within 0.2 % of that of the requests themselves, that of a single minute within 3.1 %, as wide as the bins
of the histograms are. ``Exact`` works it out from a row per request, where rows are kept.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from forecasting.series import FloatArray
from policies.slo import ServiceObjective
from simulations.fleet_kernel import FleetKernel
from simulations.kernel.bins import COARSE_BITS, COARSE_FIRST, E2E, FINE_BITS, FINE_FIRST, TPOT, TTFT
from simulations.outcomes import Outcomes, RequestStatus

BIN_S = 60.0
"""Length of a step of what is told over time, in seconds."""

_Counts = npt.NDArray[np.integer]


@dataclass(frozen=True, slots=True)
class OverTime:
    """``float64[T]`` each, in steps of ``BIN_S`` from the start, by arrival.

    Attributes:
        requests: That arrived.
        within: Of those, the ones that ended within the objective.
        ttft_p95_s: NaN in steps in which no request got a token.
    """

    requests: FloatArray
    within: FloatArray
    ttft_p95_s: FloatArray


class Results(Protocol):
    """What is known of the requests of a run. Latencies at given levels are NaN when no request has one.

    Those that neither completed nor were dropped have failed, or not ended.
    """

    @property
    def requests(self) -> int:
        """Requests that have arrived."""
        ...

    @property
    def completed(self) -> int:
        """Requests that got all their tokens."""
        ...

    @property
    def dropped(self) -> int:
        """Requests lost with their replica."""
        ...

    @property
    def within(self) -> int:
        """Requests that ended within the objective."""
        ...

    @property
    def good_tokens(self) -> int:
        """Output tokens of those."""
        ...

    def ttft_s(self, levels: Sequence[float]) -> tuple[float, ...]:
        """Return quantiles of the time to first token, over all requests that got one and have ended."""
        ...

    def tpot_s(self, levels: Sequence[float]) -> tuple[float, ...]:
        """Return quantiles of the time per output token, over completed requests."""
        ...

    def e2e_s(self, levels: Sequence[float]) -> tuple[float, ...]:
        """Return quantiles of the time from arrival to end, over all requests that have ended."""
        ...

    def over_time(self, simulated_s: float) -> OverTime:
        """Return how the first ``simulated_s`` seconds went; what arrived later counts in the last step."""
        ...


class Tallies:
    """What the kernel has counted so far."""

    def __init__(self, kernel: FleetKernel) -> None:
        self._kernel = kernel

    @property
    def requests(self) -> int:
        """Requests that have arrived."""
        return int(self._kernel.world["arrivals"])

    @property
    def repeats(self) -> int:
        """Those of them that their clients had sent before."""
        return int(self._kernel.world["returned"])

    @property
    def ended(self) -> int:
        """Requests that have ended."""
        return int(self._kernel.world["ended"])

    @property
    def completed(self) -> int:
        """Requests that got all their tokens."""
        return int(self._kernel.world["completed"])

    @property
    def dropped(self) -> int:
        """Requests lost with their replica."""
        return int(self._kernel.world["dropped"])

    @property
    def within(self) -> int:
        """Requests that ended within the objective."""
        return int(self._kernel.world["within"])

    @property
    def good_tokens(self) -> int:
        """Output tokens of those."""
        return int(self._kernel.world["good_tokens"])

    @property
    def too_early(self) -> int:
        """Requests that ended before the kernel expected any to: a bug if there is one."""
        return int(self._kernel.world["too_early"])

    def ttft_s(self, levels: Sequence[float]) -> tuple[float, ...]:
        """Return quantiles of the time to first token."""
        return _fine(self._kernel.state.histograms[TTFT], levels)

    def tpot_s(self, levels: Sequence[float]) -> tuple[float, ...]:
        """Return quantiles of the time per output token."""
        return _fine(self._kernel.state.histograms[TPOT], levels)

    def e2e_s(self, levels: Sequence[float]) -> tuple[float, ...]:
        """Return quantiles of the time from arrival to end."""
        return _fine(self._kernel.state.histograms[E2E], levels)

    def over_time(self, simulated_s: float) -> OverTime:
        """Return how it went, by arrival; a step of a long run shares the figures of a bin with its neighbours."""
        state = self._kernel.state
        each = round(float(self._kernel.world["bin_s"]) / BIN_S)
        steps = max(1, math.ceil(simulated_s / BIN_S))
        bins = max(1, math.ceil(steps / each))
        counts = state.bins.astype(np.float64)
        counts[bins - 1] += counts[bins:].sum(axis=0)
        p95 = [_quantiles(row, (0.95,), COARSE_BITS, COARSE_FIRST)[0] for row in state.bin_ttft[:bins]]
        step = np.minimum(np.arange(steps) // each, bins - 1)
        length = np.bincount(step, minlength=bins)[step]
        return OverTime(counts[step, 0] / length, counts[step, 1] / length, np.array(p95)[step])


class Exact:
    """What rows of requests say, to the last digit."""

    def __init__(self, outcomes: Outcomes, objective: ServiceObjective, start_at: float = 0.0) -> None:
        self._outcomes = outcomes
        self._within = outcomes.within(objective)
        self._start_at = start_at

    @property
    def requests(self) -> int:
        """Rows."""
        return len(self._outcomes)

    @property
    def completed(self) -> int:
        """Requests that got all their tokens."""
        return self._outcomes.count(RequestStatus.COMPLETED)

    @property
    def dropped(self) -> int:
        """Requests lost with their replica."""
        return self._outcomes.count(RequestStatus.DROPPED_IN_FLIGHT)

    @property
    def within(self) -> int:
        """Requests that ended within the objective."""
        return int(self._within.sum())

    @property
    def good_tokens(self) -> int:
        """Output tokens of those."""
        return int(self._outcomes.output_tokens[self._within].sum())

    def ttft_s(self, levels: Sequence[float]) -> tuple[float, ...]:
        """Return quantiles of the time to first token."""
        return _exact(self._outcomes.ttft_s, levels)

    def tpot_s(self, levels: Sequence[float]) -> tuple[float, ...]:
        """Return quantiles of the time per output token."""
        return _exact(self._outcomes.tpot_s, levels)

    def e2e_s(self, levels: Sequence[float]) -> tuple[float, ...]:
        """Return quantiles of the time from arrival to end."""
        return _exact(self._outcomes.e2e_s, levels)

    def over_time(self, simulated_s: float) -> OverTime:
        """Return how it went, by arrival."""
        outcomes = self._outcomes
        steps = max(1, math.ceil(simulated_s / BIN_S))
        step = np.clip(((outcomes.arrived_at - self._start_at) / BIN_S).astype(int), 0, steps - 1)
        edges = np.searchsorted(step, np.arange(steps + 1))  # rows are in order of arrival
        ttft_s = outcomes.ttft_s
        p95 = [_exact(ttft_s[edges[i] : edges[i + 1]], (0.95,))[0] for i in range(steps)]
        return OverTime(
            np.bincount(step, minlength=steps).astype(np.float64),
            np.bincount(step, weights=self._within.astype(np.float64), minlength=steps).astype(np.float64),
            np.array(p95),
        )


def _exact(values: FloatArray, levels: Sequence[float]) -> tuple[float, ...]:
    seen = values[np.isfinite(values)]
    if not len(seen):
        return (math.nan,) * len(levels)
    return tuple(float(value) for value in np.quantile(seen, levels))


def _fine(counts: _Counts, levels: Sequence[float]) -> tuple[float, ...]:
    return _quantiles(counts, levels, FINE_BITS, FINE_FIRST)


def _quantiles(counts: _Counts, levels: Sequence[float], bits: int, first: int) -> tuple[float, ...]:
    """Return what numpy would for values spread evenly over their bins: between the two nearest ranks."""
    total = int(counts.sum())
    if not total:
        return (math.nan,) * len(levels)
    filled = np.flatnonzero(counts)
    upto = np.cumsum(counts[filled])
    place = np.asarray(levels) * (total - 1)
    low = np.floor(place)
    below, above = (_at_rank(rank, filled, upto, bits, first) for rank in (low, np.minimum(low + 1, total - 1)))
    return tuple((below + (above - below) * (place - low)).tolist())


def _at_rank(rank: FloatArray, filled: _Counts, upto: _Counts, bits: int, first: int) -> FloatArray:
    """Return the value of each rank, from 0: the middle of its share of its bin."""
    index = np.searchsorted(upto, rank, side="right")
    count = np.diff(upto, prepend=0)[index]
    share = (rank - (upto[index] - count) + 0.5) / count
    lower, upper = (_edge(filled[index] + more, bits, first) for more in (0, 1))
    return np.asarray(np.where(filled[index] == 0, 0.0, lower + (upper - lower) * share))


def _edge(index: _Counts, bits: int, first: int) -> FloatArray:
    """Return where the bin of that number begins, in seconds."""
    octave, piece = np.divmod(index, 1 << bits)
    return np.asarray(np.ldexp(1.0 + piece / (1 << bits), octave + first))
