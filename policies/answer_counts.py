"""How many answers of each replica count now, good and failed, with which half-lives and since when?"""

from __future__ import annotations

import numpy as np

from policies.failing_settings import FailingSettings
from policies.roster import Bools, Floats, Integers
from policies.watched import ANSWER_ROW

_TOTALS = slice(ANSWER_ROW["answered_total"], ANSWER_ROW["failed_total"] + 1)
_TOLD_AT, _ENDED_AT = ANSWER_ROW["told_at"], ANSWER_ROW["ended_at"]
COUNTING = slice(ANSWER_ROW["answered"], ANSWER_ROW["failed"] + 1)
LONG = slice(ANSWER_ROW["answered_long"], ANSWER_ROW["failed_long"] + 1)
LEVEL, _RUN_AT = ANSWER_ROW["run_level"], ANSWER_ROW["run_at"]
RUN = slice(ANSWER_ROW["run_answered"], ANSWER_ROW["run_failed"] + 1)
_PEERS = slice(ANSWER_ROW["peers_answered"], ANSWER_ROW["peers_failed"] + 1)
_COUNTED = slice(ANSWER_ROW["answered"], ANSWER_ROW["peers_failed"] + 1)


def counted(
    before: Floats, at: Floats, totals: Floats, settings: FailingSettings, stages: Integers
) -> tuple[Floats, Bools]:
    """Return the answers of N replicas counted on by both witnesses, and ``bool[2, N]``, whose count begins anew.

    It stays as it was where a counter is not given, and begins anew where one fell (F14).

    Args:
        before: ``float64[2, 14, N]``, as ``WatchedReplicas.answers``; NaN where nothing was counted.
        at: ``float64[2, N]``, when the counters were read.
        totals: ``float64[2, 2, N]``, answers that ended as they should and errors so far; NaN where nobody counts them.
        settings: Half-lives and look-back.
        stages: ``int64[N]``, numbers of the stages that they serve: who shares one gets the same requests.
    """
    growth = totals - before[:, _TOTALS]
    elapsed_s = at - before[:, _TOLD_AT]
    given = ~np.isnan(totals[:, 0] + totals[:, 1])
    late = ~(elapsed_s <= settings.look_back_s)  # or never counted
    later = given & ~late & (elapsed_s > 0)
    fell = later & ((growth[:, 0] < 0) | (growth[:, 1] < 0))
    grown, new = later & ~fell, (given & late) | fell
    ended = grown & (growth[:, 0] + growth[:, 1] > 0)
    after = before.copy()
    np.copyto(after[:, _TOTALS], totals, where=(grown | new)[:, None])
    np.copyto(after[:, _TOLD_AT], at, where=grown | new)
    np.copyto(after[:, _ENDED_AT], at, where=ended)
    for rows, half_life_s in ((COUNTING, settings.half_life_s), (LONG, settings.long_half_life_s)):
        kept = _kept(elapsed_s, grown, half_life_s)
        counting = rounded(before[:, rows] * kept[:, None] + growth)
        np.copyto(after[:, rows], counting, where=grown[:, None])
    _run_on(after, np.where(grown[:, None], growth, 0.0), at, settings, stages)
    if np.count_nonzero(new):
        np.copyto(after[:, _COUNTED], 0.0, where=new[:, None])
        for row in (_ENDED_AT, _RUN_AT):
            np.copyto(after[:, row], np.nan, where=new)
    return after, new


def _run_on(after: Floats, growth: Floats, at: Floats, settings: FailingSettings, stages: Integers) -> None:
    """Count on, in ``after``, what has ended since a run of errors began, of each replica and of all others beside it.

    The level is a cumulative sum (CUSUM) of errors less ``even_ratio`` of all answers, never below 0, where the run is
    over, nor above ``most_level``. What is compared was counted over the same time, so that an outage behind all of
    them, or a share of errors that they all have, shows in both.

    Args:
        after: ``float64[2, 14, N]``, without what is new.
        growth: ``float64[2, 2, N]``, good answers and errors since the last look; 0 where that is not known.
        at: ``float64[2, N]``, when the counters were read.
        settings: When a run is over.
        stages: ``int64[N]``.
    """
    level = after[:, LEVEL] + growth[:, 1] - settings.even_ratio * growth.sum(axis=1)
    level = rounded(np.clip(level, 0.0, settings.most_level))
    runs, ran = level > 0.0, after[:, LEVEL] > 0.0
    np.copyto(after[:, LEVEL], level, where=~np.isnan(level))
    if not np.count_nonzero(runs | ran):
        return
    of_stages = np.stack([np.bincount(stages, row)[stages] for row in growth.reshape(4, -1)]).reshape(growth.shape)
    others = np.maximum(of_stages - growth, 0.0)
    for rows, more in ((RUN, growth), (_PEERS, others)):
        counting = rounded(after[:, rows] * ran[:, None] + more)
        np.copyto(after[:, rows], np.where(runs[:, None], counting, 0.0), where=(runs | ran)[:, None])
    np.copyto(after[:, _RUN_AT], at, where=runs & ~ran)
    np.copyto(after[:, _RUN_AT], np.nan, where=ran & ~runs)


def _kept(elapsed_s: Floats, grown: Bools, half_life_s: float) -> Floats:
    """Return which share of what was counted still counts, by Python's power, whose last bit is the same everywhere."""
    halvings = np.where(grown, elapsed_s / half_life_s, 0.0).ravel().tolist()  # replicas share a few lengths of time
    weight = {exponent: 0.5**exponent for exponent in set(halvings)}
    return np.array([weight[exponent] for exponent in halvings]).reshape(elapsed_s.shape)


def rounded(values: Floats) -> Floats:
    """Return ``values``, not negative, rounded to three digits just as ``round`` does, which takes ten times as long.

    A thousandth is rounded as ``round`` would unless it lies so near to a half that scaling may have moved it.

    >>> rounded(np.array([2.6745, 2.0005, 0.1234])).tolist() == [round(x, 3) for x in (2.6745, 2.0005, 0.1234)]
    True
    """
    scaled = values * 1000.0
    near = np.rint(scaled)
    answer: Floats = near / 1000.0
    unsure = (np.abs(scaled - near) > 0.5 - 1e-6) | (scaled > 2.0**30)
    if np.count_nonzero(unsure):
        answer[unsure] = [round(value, 3) for value in values[unsure].tolist()]
    return answer
