"""Which of several forecasters does better on the loads of a fleet, and which is worse than another beyond doubt?

All of them are asked at the same past instants of every workload, with what was known then (``past_peaks``). Losses
are counted in those of the last value on the same workload, so that a busy workload does not outshout the others.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from forecasting.accuracy import pinball_losses
from forecasting.forecast import DEFAULT_LEVELS
from forecasting.forecaster import Forecaster
from forecasting.last_value import LastValueForecaster
from forecasting.past_peaks import Past, PastPeaks
from forecasting.series import FloatArray, LoadSeries

LEVEL = 0.95
"""Level of the bound on the peak whose misses are counted."""
MOST_LOST = 20.0
"""What one instant may count, in usual losses of the last value: one that nearly stands still must not decide alone."""
SIGMAS = 3.0
"""Standard errors that count as beyond doubt; the question is asked many times a day."""
LEAST_APART = 8.0
"""Instants that share nothing of what followed, below which nobody is convicted, however many workloads there are."""


@dataclass(frozen=True, slots=True)
class Standing:
    """How one contestant did.

    Attributes:
        forecasts: Past forecasts that came true, over all workloads.
        skill: Share of the last value's loss that it saved; NaN where there are none.
        miss_ratio: Share of peaks over its 0.95 bound; NaN where there are none.
    """

    forecasts: int
    skill: float
    miss_ratio: float


@dataclass(frozen=True, slots=True, eq=False)
class Standings:
    """What came of ``N`` past instants, workload by workload, oldest first.

    Attributes:
        losses: ``float64[N]`` by contestant: its loss over the last value's mean loss on that workload; NaN where it
            had no answer.
        shares: ``float64[N, Q]`` by contestant: 1 where what came was at or under the level, 0 where it was over.
        last_value: ``float64[N]``: the last value's losses in the same unit.
        instants: ``float64[N]``: when each was asked, Unix seconds.
        ages: ``float64[N]``: instant over the newest one of its workload, in (0, 1]; 1 is the newest.
        overlap: How many neighbours share what followed.
        workloads: Rows of each workload.
    """

    losses: Mapping[str, FloatArray]
    shares: Mapping[str, FloatArray]
    last_value: FloatArray
    instants: FloatArray
    ages: FloatArray
    overlap: float
    workloads: Mapping[str, slice] = field(default_factory=dict)

    def of(self, contestant: str, workload: str | None = None) -> Standing:
        """Return how one did, on all workloads or on one."""
        rows = slice(None) if workload is None else self.workloads[workload]
        own, shares, naive = self.losses[contestant][rows], self.shares[contestant][rows], self.last_value[rows]
        known = np.isfinite(own)
        if not known.any():
            return Standing(0, float("nan"), float("nan"))
        skill = 1.0 - own[known].mean() / max(naive[known].mean(), 1e-300)
        missed = 1.0 - shares[known, DEFAULT_LEVELS.index(LEVEL)].mean()
        return Standing(int(known.sum()), float(skill), float(missed))

    def clearly_worse(self, contestant: str, other: str | None, tolerance: float, least: int) -> str:
        """Return by how much ``contestant`` loses more than ``other``, where that is beyond doubt; else nothing.

        Args:
            contestant: Who is doubted.
            other: Another contestant; None for the last value.
            tolerance: Share by which its loss may be larger.
            least: Forecasts of both that must have come true.
        """
        theirs = self.last_value if other is None else self.losses[other]
        own = self.losses[contestant]
        known = np.isfinite(own) & np.isfinite(theirs)
        count = int(known.sum())
        if count < least or self.apart(known) < LEAST_APART:
            return ""
        beyond = own[known] - (1.0 + tolerance) * theirs[known]
        doubt = SIGMAS * self.standard_error(beyond, known)
        if not beyond.mean() > doubt:
            return ""
        more = own[known].mean() / max(theirs[known].mean(), 1e-300) - 1.0
        return f"{more:.0%} more loss than {other or 'the last value'} at {count} instants"

    def apart(self, chosen: npt.NDArray[np.bool_]) -> float:
        """Return how many of the instants at ``chosen`` rows share nothing of what followed."""
        return len(np.unique(self.instants[chosen])) / max(1.0, self.overlap)

    def standard_error(self, values: FloatArray, chosen: npt.NDArray[np.bool_]) -> float:
        """Return the standard error of the mean of ``values``, which stand at the ``chosen`` rows.

        Workloads that are served together burst together: a hundred of them at one instant are not a hundred pieces of
        evidence. So deviations are summed up by instant first (clustered errors, Liang and Zeger, 1986).
        """
        _, which = np.unique(self.instants[chosen], return_inverse=True)
        sums = np.bincount(which, values - values.mean())
        few = len(sums) / max(1, len(sums) - 1)
        return float(np.sqrt(max(1.0, self.overlap) * few * (sums**2).sum()) / len(values))


class Contest:
    """Asks contestants and keeps what they said, so that only new instants cost anything.

    Args:
        most_asked: Answers of one contestant that are asked for at once, over all workloads.
    """

    def __init__(self, most_asked: int = 2000) -> None:
        self._past_peaks, self._last_value = PastPeaks(most_asked), LastValueForecaster(0.0)

    def standings(
        self,
        histories: Mapping[str, LoadSeries],
        horizons_steps: Mapping[str, int],
        contestants: Mapping[str, Forecaster],
    ) -> Standings:
        """Return how ``contestants`` did on ``histories``, at the horizon of each."""
        pasts = [Past.of(history, horizons_steps[name]) for name, history in histories.items()]
        actual = [past.followed() for past in pasts]
        naive = [
            _losses(came, said) for came, said in zip(actual, self._past_peaks.of(self._last_value, pasts), strict=True)
        ]
        units = [float(np.nanmean(one)) if np.isfinite(one).any() else 0.0 for one in naive]
        # A load that stands still tells nobody apart.
        units = [unit if unit > 0 else np.nan for unit in units]
        losses, shares = {}, {}
        for label, forecaster in contestants.items():
            said = self._past_peaks.of(forecaster, pasts)
            own = [_losses(c, s) / u for c, s, u in zip(actual, said, units, strict=True)]
            losses[label] = np.minimum(_joined(own), MOST_LOST)
            held = [(c[:, None] <= s).astype(np.float64) for c, s in zip(actual, said, strict=True)]
            shares[label] = np.concatenate(held) if held else np.empty((0, len(DEFAULT_LEVELS)))
        ends = np.cumsum([0, *map(len, naive)]).tolist()
        return Standings(
            losses,
            shares,
            _joined([one / unit for one, unit in zip(naive, units, strict=True)]),
            _joined(
                [
                    np.float64(past.history.start_at) + past.history.step_s * past.origins.astype(np.float64)
                    for past in pasts
                ]
            ),
            _joined([np.arange(1.0, len(one) + 1) / max(1, len(one)) for one in naive]),
            max([past.overlap for past in pasts], default=1.0),
            {name: slice(*rows) for name, rows in zip(histories, pairwise(ends), strict=True)},
        )


def _losses(actual: FloatArray, said: FloatArray) -> FloatArray:
    """Return ``float64[K]``: mean pinball loss over the levels."""
    losses: FloatArray = pinball_losses(actual, said, DEFAULT_LEVELS).mean(axis=1)
    return losses


def _joined(parts: list[FloatArray]) -> FloatArray:
    return np.concatenate(parts) if parts else np.empty(0)
