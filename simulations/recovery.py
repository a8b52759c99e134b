"""How long did it take until the objective was met again: after misses began, and after each fault?

All is told from the curves of a run, by minute of arrival. A minute is *good again* when the requests that arrive in
the ``WINDOW_S`` from its beginning attain the objective together; a window without requests says nothing.

    minute           0     1     2     3     4     5     6     7     8
    within         100 %  90 %   0 %  60 % 100 % 100 % 100 % 100 % 100 %      objective 99 %, equal load
    5 min ahead     70    70    72    92   100   100   100   100   100
    missed spell           begins at 1 ........... over at 4                  three minutes to recover

The window looks ahead, so that the spell is over when misses end, not when they have been forgotten. One poor minute in
a window that attains the objective is noise and begins no spell.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from forecasting.series import FloatArray
from simulations.scorecard import BIN_S, Curves, Scorecard

WINDOW_S = 300.0
"""What has to go well to count as recovered, in seconds: long against a burst, short against a lead time of minutes."""


@dataclass(frozen=True, slots=True)
class MissedSpell:
    """The objective was missed from ``began_s`` to ``over_s``, seconds into the run.

    Not ``recovered``: it lasted to the end of the trace, and would have gone on.
    """

    began_s: float
    over_s: float
    recovered: bool

    @property
    def length_s(self) -> float:
        """How long it took to recover, at least."""
        return self.over_s - self.began_s


def missed_spells(curves: Curves, simulated_s: float, target_ratio: float) -> tuple[MissedSpell, ...]:
    """Return all spells in order.

    A spell begins with a minute that misses ``target_ratio`` in a window that misses it, and is over with the next
    minute that is good again.
    """
    ahead = _attained_ahead(curves, simulated_s)
    minutes = np.asarray(curves.within_ratio)
    begins = (minutes < target_ratio) & (ahead < target_ratio)  # NaN compares as False
    good = ahead >= target_ratio
    spells: list[MissedSpell] = []
    place = 0
    while place < len(begins):
        onsets = np.flatnonzero(begins[place:])
        if not len(onsets):
            break
        began = place + int(onsets[0])
        place, recovered = _next_good(good, began)
        spells.append(MissedSpell(began * BIN_S, place * BIN_S if recovered else simulated_s, recovered))
    return tuple(spells)


def recovery_from(fault_at_s: float, curves: Curves, simulated_s: float, target_ratio: float) -> float:
    """Return the seconds from a fault until a minute that is good again.

    0 when the minute of the fault is good: the fleet absorbed it within the objective. Misses that were under way when
    it struck count in. When it never got good again, the rest of the run; NaN when nothing arrived from there on.
    """
    ahead = _attained_ahead(curves, simulated_s)
    struck = min(int(fault_at_s / BIN_S), len(ahead) - 1)
    if np.isnan(ahead[struck:]).all():
        return math.nan
    if ahead[struck] >= target_ratio:
        return 0.0
    place, recovered = _next_good(ahead >= target_ratio, struck)
    return (place * BIN_S if recovered else simulated_s) - fault_at_s


def with_recovery(card: Scorecard, curves: Curves, target_ratio: float, faults_at_s: Sequence[float]) -> Scorecard:
    """Return the scorecard with how long recovering took; NaN where nothing was missed, or there was no fault."""
    spells = missed_spells(curves, card.simulated_s, target_ratio)
    lengths_s = [spell.length_s for spell in spells]
    faults_s = [recovery_from(at_s, curves, card.simulated_s, target_ratio) for at_s in faults_at_s]
    return replace(
        card,
        missed_spells=len(spells),
        recovered=all(spell.recovered for spell in spells),
        time_to_recover_longest_s=max(lengths_s, default=math.nan),
        time_to_recover_mean_s=math.fsum(lengths_s) / len(lengths_s) if lengths_s else math.nan,
        fault_to_recover_longest_s=max((each for each in faults_s if not math.isnan(each)), default=math.nan),
    )


def _attained_ahead(curves: Curves, simulated_s: float) -> FloatArray:
    """Return ``float64[N]``: attainment of what arrives in the window from each minute on; NaN where nothing does."""
    minutes = len(curves.within_ratio)
    lengths_s = np.minimum(BIN_S, simulated_s - BIN_S * np.arange(minutes))
    requests = np.rint(np.asarray(curves.requests_per_s) * lengths_s)
    good = np.rint(np.nan_to_num(np.asarray(curves.within_ratio)) * requests)
    ends = np.minimum(np.arange(minutes) + round(WINDOW_S / BIN_S), minutes)
    arrived, within = (np.concatenate(([0.0], np.cumsum(each))) for each in (requests, good))
    count = arrived[ends] - arrived[:-1]
    kept = within[ends] - within[:-1]
    ratio: FloatArray = np.divide(kept, count, out=np.full(minutes, np.nan), where=count > 0)
    return ratio


def _next_good(good: npt.NDArray[np.bool_], after: int) -> tuple[int, bool]:
    """Return the next good minute, and whether there is one; else the number of minutes."""
    found = np.flatnonzero(good[after + 1 :])
    return (after + 1 + int(found[0]), True) if len(found) else (len(good), False)
