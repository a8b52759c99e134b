"""Is the load, or how well it is forecast, not what it was? Three tests that a retraining can answer.

Error: forecasts lost their lead over the last value, against the rest of the day. Calibration: what came is at or
under the median, or the 0.95 bound, less or more often than these say. Input: the last day's load is distributed
unlike the week before (Kolmogorov and Smirnov's test on logs of hourly means), and of another level than the same day
of that week: a Saturday is no drift. Each asks for an effect that matters, and for more than chance gives: load has
daily shapes and long memory, so that small p-values alone mean nothing, and workloads burst together, so that many
are no more evidence than one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from forecasting.contest import LEAST_APART, Standings
from forecasting.features import DAY_S, HOUR_S
from forecasting.forecast import DEFAULT_LEVELS
from forecasting.series import REQUESTS, FloatArray, LoadSeries, block_means

DRIFT_KINDS = ("error", "calibration", "input")
SIGMAS = 4.0
LEAST_FORECASTS = 36
LEAST_RECENT = 3.0
"""Instants that share nothing of what followed, on both sides: as few have no spread worth the name."""
RECENT_SHARE = 0.25
"""Newest share of the judged instants that is held against the rest."""
ERROR_EFFECT = 0.15
"""Share of the last value's loss by which the lead must have shrunk."""
CALIBRATED_LEVELS: Mapping[float, float] = {0.5: 0.15, 0.95: 0.05}
"""Levels that are looked at, and by how much coverage may be off beside chance."""
INPUT_RATIO = 1.5
"""Ratio of the medians, or its inverse, from which another distribution matters."""
INPUT_P = 1e-4
LEAST_DAYS = 8
"""Before that nobody knows how a week goes."""


@dataclass(frozen=True, slots=True)
class Drift:
    """What drifted: ``kind`` is ``error``, ``calibration`` or ``input``."""

    kind: str
    reason: str


def drifts(standings: Standings, contestant: str, histories: Mapping[str, LoadSeries]) -> tuple[Drift, ...]:
    """Return what drifted in the forecasts of ``contestant`` and in the loads, at most one of each kind."""
    found = (
        Drift("error", error_drift(standings, contestant)),
        Drift("calibration", calibration_drift(standings, contestant)),
        Drift("input", input_drift(histories)),
    )
    return tuple(one for one in found if one.reason)


def error_drift(standings: Standings, contestant: str) -> str:
    """Return how the newest forecasts did worse than those before, against the last value; empty when they did not."""
    lead = standings.losses[contestant] - standings.last_value
    known, recent = np.isfinite(lead), standings.ages > 1.0 - RECENT_SHARE
    new, old = lead[known & recent], lead[known & ~recent]
    if len(new) + len(old) < LEAST_FORECASTS:
        return ""
    if min(standings.apart(known & recent), standings.apart(known & ~recent)) < LEAST_RECENT:
        return ""
    new_error, old_error = standings.standard_error(new, known & recent), standings.standard_error(old, known & ~recent)
    doubt = SIGMAS * float(np.hypot(new_error, old_error))
    worse = float(new.mean() - old.mean())
    if worse <= ERROR_EFFECT + doubt:
        return ""
    return f"against the last value, forecasts lose {worse:.0%} more than earlier that day ({len(new)} of them)"


def calibration_drift(standings: Standings, contestant: str) -> str:
    """Return which bound holds far more or less often than it says; empty when none does."""
    known = np.isfinite(standings.losses[contestant])
    shares = standings.shares[contestant][known]
    if len(shares) < LEAST_FORECASTS or standings.apart(known) < LEAST_APART:
        return ""
    for level, allowed in CALIBRATED_LEVELS.items():
        held = shares[:, DEFAULT_LEVELS.index(level)]
        share = float(held.mean())
        alone = float(np.sqrt(max(1.0, standings.overlap) * level * (1.0 - level) / len(shares)))
        doubt = SIGMAS * max(alone, standings.standard_error(held, known))
        if abs(share - level) > allowed + doubt:
            return f"{share:.0%} of {len(shares)} peaks were at or under their {level:g} bound"
    return ""


def input_drift(histories: Mapping[str, LoadSeries]) -> str:
    """Return of how many workloads the last day is unlike the days before; empty while it is less than half of them."""
    told = [_input_drifted(history) for history in histories.values()]
    known = [one for one in told if one is not None]
    if not known or 2 * sum(known) < len(known):
        return ""
    return f"the last day's load of {sum(known)} of {len(known)} workloads is unlike the days before"


def _input_drifted(history: LoadSeries) -> bool | None:
    """Return whether its last day is unlike the days before; None where too little is known."""
    steps = max(1, round(HOUR_S / history.step_s))
    whole = history.tail(len(history) // steps * steps)
    hourly = block_means(whole.values[:, [REQUESTS]], steps)[:, 0]
    day = round(DAY_S / (steps * history.step_s))
    if len(hourly) < LEAST_DAYS * day:
        return None
    before = _whole_days(hourly[:-day], day)
    new, old, same_day = _known(hourly[-day:]), _known(before), _known(hourly[-8 * day : -7 * day])
    if len(new) < day // 2 or len(old) < day:
        return None
    if not _of_another_level(new, old) or (len(same_day) >= day // 2 and not _of_another_level(new, same_day)):
        return False
    from scipy.stats import ks_2samp  # a second to import, and seldom needed

    return bool(ks_2samp(np.log(new), np.log(old)).pvalue < INPUT_P)


def _of_another_level(new: FloatArray, old: FloatArray) -> bool:
    return not 1.0 / INPUT_RATIO < float(np.median(new)) / float(np.median(old)) < INPUT_RATIO


def _whole_days(hourly: FloatArray, day: int) -> FloatArray:
    """Return the newest whole days, seven at most, so that both sides hold every hour of the day as often."""
    days = min(7, len(hourly) // day)
    return hourly[len(hourly) - days * day :]


def _known(rates: FloatArray | Sequence[float]) -> FloatArray:
    """Return what was observed, with idleness as a hundredth of a request/s."""
    array = np.asarray(rates, dtype=np.float64)
    return np.maximum(array[np.isfinite(array)], 0.01)
