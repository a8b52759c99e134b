"""How far off are forecasts of this kind, on this load, lately: quantiles from replayed forecasts.

A point forecaster is asked again at earlier origins of the same history, all at once, and what really followed gives
the spread around what it says now. The running maximum is compared as a path with the running maximum of the
forecast, so ``peaks`` are quantiles of the largest rate itself and not the largest of per-step quantiles.

Errors are measured in units of the square root of the forecast rate (see ``_errors``): counts of independent
arrivals scatter that way, and on recorded load of all kinds it did better than an absolute and than a relative scale.

Every column of a record is judged alone, so the channels of many workloads can stand side by side as ``K`` columns.
Arrays over origins (``float64[N, H, K]``) lie in memory with the origins of one lead and column side by side: that is
how they are summed and sorted, and three channels make no inner loop.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from scipy.special import ndtri

from forecasting.features import OFFSET_RATIO, IntArray
from forecasting.forecast import LoadForecast
from forecasting.forecaster import CannotForecast
from forecasting.series import CHANNELS, FloatArray, LoadSeries

# Recent origins all count; older ones, every fourth, keep rare bursts in sight. About 480 at most in all.
DENSE_ORIGINS, SPARSE_ORIGINS, SPARSE_STRIDE = 240, 240, 4
REPLAY_STEPS = DENSE_ORIGINS + SPARSE_ORIGINS * SPARSE_STRIDE
# Fewer errors than this at the first lead say nothing about a spread.
MIN_ERRORS = 5
# A lead with fewer errors than this takes them from a shorter lead, widened.
MIN_ERRORS_PER_LEAD = 4
# Independent errors that a drift needs before half of it is believed to go on.
DRIFT_PRIOR = 10.0
# A path may lack this share of its steps and still tell its maximum.
MAX_PATH_GAP_RATIO = 0.1
MIN_OBSERVED_RATIO = 0.5
# Newest observation older than this (or than two steps, where they are longer): the load is not known any more.
MAX_BLIND_S = 300.0


class PointReplay(Protocol):
    """A point forecaster over one record of ``K`` columns, asked at many origins at once."""

    @property
    def first_origin(self) -> int:
        """Fewest steps seen with which it can say anything."""
        ...

    def points(self, origins: IntArray, leads: IntArray) -> FloatArray:
        """Return ``float64[N, len(leads), K]``: rates expected ``leads`` steps after ``origins`` steps were seen.

        Nothing at or after an origin may enter its row. NaN where it has no answer.
        """
        ...


@dataclass(frozen=True, slots=True, eq=False)
class Futures:
    """What followed each origin: ``rates`` and the running maximum ``largest``, both ``float64[N, H, K]``."""

    rates: FloatArray
    largest: FloatArray


def check_history(history: LoadSeries, steps: int) -> int:
    """Return how many of the newest steps lack an observation in some channel, after refusing hopeless histories.

    Raises:
        CannotForecast: If there are fewer than ``steps`` steps, a channel is mostly unobserved over the steps that
            would be replayed, or its newest observation is too old.
    """
    if len(history) < steps:
        raise CannotForecast(f"history has {len(history)} of the {steps} steps needed")
    seen = np.isfinite(history.values[-REPLAY_STEPS:])
    if seen.all():
        return 0
    longest = max(2, int(MAX_BLIND_S / history.step_s))
    blind = 0
    for column, name in enumerate(CHANNELS):
        observed = float(seen[:, column].mean())
        if observed < MIN_OBSERVED_RATIO:
            raise CannotForecast(f"{name} was observed in {observed:.0%} of the last {len(seen)} steps")
        trailing = int(np.argmax(seen[::-1, column]))
        if trailing > longest:
            raise CannotForecast(f"{name} was last observed {trailing * history.step_s:g} s ago")
        blind = max(blind, trailing)
    return blind


def replay_origins(steps: int, first: int) -> IntArray:
    """Return origins (steps seen) to replay, ascending, from ``first`` to ``steps - 1``: dense lately, then sparse."""
    dense = np.arange(max(first, steps - DENSE_ORIGINS), steps, dtype=np.int64)
    oldest = max(first, steps - REPLAY_STEPS)
    sparse = np.arange(steps - DENSE_ORIGINS - SPARSE_STRIDE, oldest - 1, -SPARSE_STRIDE, dtype=np.int64)
    return np.concatenate([sparse[::-1], dense])


def futures(values: FloatArray, origins: IntArray, horizon_steps: int) -> Futures:
    """Return what followed ``origins`` in ``values`` (``float64[T, K]``); NaN beyond its end and in gaps.

    A running maximum is known while its path has not left the record and lacks at most a tenth of its steps.
    """
    rates = followed(values, origins, np.arange(1, horizon_steps + 1))
    strict = running_maximum(rates)
    if np.isfinite(values[origins[0] :] if len(origins) else values).all():
        return Futures(rates, strict)
    missing = np.isnan(rates)
    inside = (origins[:, None] + np.arange(horizon_steps)[None, :] < len(values))[:, :, None]
    allowed = np.floor(MAX_PATH_GAP_RATIO * np.arange(1, horizon_steps + 1))[None, :, None]
    known = inside & (np.cumsum(missing, axis=1) <= allowed)
    lenient = running_maximum(np.where(missing, -np.inf, rates))
    return Futures(rates, np.where(known & np.isfinite(lenient), lenient, np.nan))


def followed(values: FloatArray, origins: IntArray, leads: IntArray) -> FloatArray:
    """Return ``float64[N, len(leads), K]``: ``values`` (``float64[T, K]``) ``leads`` steps after ``origins`` were seen.

    NaN beyond the end of the record.
    """
    beyond = np.full((values.shape[1], int(leads[-1])), np.nan)
    columns = np.concatenate([values.T, beyond], axis=1)
    return columns.take(origins + leads[:, None] - 1, axis=1).T


def running_maximum(rates: FloatArray) -> FloatArray:
    """Return the running maximum of ``float64[N, H, K]`` along its leads.

    Lead by lead, many columns at once: ``np.maximum.accumulate`` goes number by number.
    """
    largest = np.empty_like(rates)
    largest[:, :1] = rates[:, :1]
    for lead in range(1, rates.shape[1]):
        np.maximum(largest[:, lead - 1], rates[:, lead], out=largest[:, lead])
    return largest


def forecast_around(
    history: LoadSeries, replay: PointReplay, horizon_steps: int, levels: Sequence[float], source: str, blind: int = 0
) -> LoadForecast:
    """Return the forecast of ``replay`` for now, with quantiles of its own recent errors.

    Args:
        history: What was seen; only ``REPLAY_STEPS`` and a horizon back enter the errors.
        replay: Point forecaster over ``history``.
        horizon_steps: Steps ahead, at least 1.
        levels: Ascending quantile levels.
        source: Name of the forecaster.
        blind: Newest steps without an observation. All origins are replayed as if equally blind, so a forecast from
            stale observations is as wide as such forecasts have been wrong.

    Raises:
        CannotForecast: If too few replayed forecasts have come true, or there is no point forecast for now.
    """
    return forecasts_around([history], history.values, replay, horizon_steps, levels, source, blind)[0]


def forecasts_around(
    histories: Sequence[LoadSeries],
    values: FloatArray,
    replay: PointReplay,
    horizon_steps: int,
    levels: Sequence[float],
    source: str,
    blind: int = 0,
) -> list[LoadForecast]:
    """Return what ``forecast_around`` returns for each of ``histories``, all of one length and step and equally blind.

    ``values`` (``float64[T, K]``) holds the channels of all of them side by side, and ``replay`` runs over those.

    Raises:
        CannotForecast: If that is so of one of them; who it was can be found out by asking for them one by one.
    """
    if horizon_steps < 1:
        raise CannotForecast(f"asked for {horizon_steps} steps")
    steps = len(values)
    origins = replay_origins(steps, replay.first_origin + blind)
    leads = np.arange(blind + 1, blind + horizon_steps + 1, dtype=np.int64)
    points = np.asfortranarray(np.maximum(replay.points(np.append(origins, steps) - blind, leads), 0.0))
    if not np.isfinite(points[-1]).all():
        raise CannotForecast("what the point forecast needs was not observed")
    after = futures(values, origins, horizon_steps)
    offset = rate_offset(values)
    highest = running_maximum(points)
    columns = values.shape[1]
    errors = np.empty((2 * columns, horizon_steps, len(origins))).T  # of the rates, and beside them of their maxima
    errors[:, :, :columns] = _errors(after.rates, points[:-1], offset)
    errors[:, :, columns:] = _errors(after.largest, highest[:-1], offset)
    independent = np.maximum(1.0, (steps - origins[0] if len(origins) else 0) / np.arange(1, horizon_steps + 1))
    spread = _spread(errors, levels, independent)
    # A drift of the errors over a few hours of record is partly luck: keep the share that its sample supports. The
    # outer bounds of the peak, which a fleet is sized by, allow for all of it going on.
    luck = spread.median[:, :columns] * (DRIFT_PRIOR / (DRIFT_PRIOR + independent))[:, None]
    inner = 1.0 - np.abs(2.0 * np.asarray(levels, dtype=np.float64) - 1.0)[:, None, None]
    rates = points[-1] + (spread.quantiles[:, :, :columns] - luck) * np.sqrt(points[-1] + offset)
    peaks = highest[-1] + (spread.quantiles[:, :, columns:] - luck * inner) * np.sqrt(highest[-1] + offset)
    return [
        LoadForecast.ordered(
            made_at=history.end_at,
            step_s=history.step_s,
            levels=np.asarray(levels, dtype=np.float64),
            values=rates[:, :, first : first + len(CHANNELS)],
            source=source,
            peaks=peaks[:, :, first : first + len(CHANNELS)],
        )
        for history, first in zip(histories, range(0, columns, len(CHANNELS)), strict=True)
    ]


def rate_offset(values: FloatArray) -> FloatArray:
    """Return ``float64[K]``: a tenth of the mean rate of the replayed steps, the least scale errors are measured on.

    Of a channel that was always zero it is tiny, so that nothing is divided by zero.
    """
    recent = np.ascontiguousarray(values[-REPLAY_STEPS:])
    seen = np.isfinite(recent)
    mean = np.where(seen, recent, 0.0).sum(axis=0) / np.maximum(seen.sum(axis=0), 1)
    return np.where(mean > 0, OFFSET_RATIO * mean, 1e-12)


def sorted_quantiles(ordered: FloatArray, ranks: FloatArray) -> FloatArray:
    """Return ``float64[Q, ...]``: values of ``ordered`` at fractional 0-based ``ranks``, per column.

    ``ordered`` (``float64[N, ...]``) ascends along its rows with NaN last, as ``np.sort`` leaves it; ``ranks``
    (``float64[Q, ...]``) stay within the numbers of its column.
    """
    lower = np.floor(ranks).astype(np.int64)
    share = ranks - lower
    low = np.take_along_axis(ordered, lower, axis=0)
    high = np.take_along_axis(ordered, np.ceil(ranks).astype(np.int64), axis=0)
    return np.asarray(low + share * (high - low), dtype=np.float64)


@dataclass(frozen=True, slots=True, eq=False)
class _Spread:
    quantiles: FloatArray
    median: FloatArray


def _errors(actual: FloatArray, point: FloatArray, offset: FloatArray) -> FloatArray:
    """Return ``(actual - point) / sqrt(point + offset)``, NaN where either is unknown."""
    scale = point + offset
    errors = actual - point
    errors /= np.sqrt(scale, out=scale)  # in place: memory that is asked for anew costs more than the arithmetic
    return np.asarray(errors, dtype=np.float64)


def _spread(errors: FloatArray, levels: Sequence[float], independent: FloatArray) -> _Spread:
    """Return quantiles of ``errors`` (``float64[N, H, K]``) per lead and column, ``float64[Q, H, K]``.

    Quantiles of few errors must not understate the tails. Of ``n`` errors the i-th smallest is taken for level
    ``i / (n + 1)``, the share of new errors that fall below it. Levels beyond the smallest or largest error extend
    its distance from the median in the ratio of normal scores: with n = 9 the largest stands for 0.9, and 0.98 is
    2.05 / 1.28 times as far. And as overlapping paths of ``h`` steps count once per ``h``, all distances are widened by
    ``1 + (z^2 + 1) / (4 n')`` for ``n'`` independent errors, the first term by which a quantile of Student's t exceeds
    the normal one (Abramowitz and Stegun 26.7.5): at level 0.95 with n' = 5 by 1 + 3.71 / 20 = 1.19. Leads with next
    to no errors take those of the longest lead that has enough, widened by the square root of the ratio of leads, as
    of a random walk.
    """
    counts = np.isfinite(errors).sum(axis=0)
    least = int(counts[0].min())
    if least < MIN_ERRORS:
        raise CannotForecast(f"{least} of the {MIN_ERRORS} replayed forecasts needed have come true")
    # The median is always among them: the other quantiles are widened around it.
    asked = np.append(np.asarray(levels, dtype=np.float64), 0.5)[:, None, None]
    known = np.maximum(counts, MIN_ERRORS_PER_LEAD)
    within = np.clip(asked, 1.0 / (known + 1), known / (known + 1.0))
    raw = sorted_quantiles(np.sort(errors, axis=0), np.clip(within * (known + 1) - 1.0, 0.0, known - 1.0))
    score, score_within = ndtri(asked), ndtri(within)
    beyond = np.divide(score, score_within, out=np.ones_like(within), where=within != asked)
    widen = beyond * (1.0 + (score**2 + 1.0) / (4.0 * independent[None, :, None]))
    center = raw[-1:]
    quantiles = center + (raw - center) * widen

    enough = counts >= MIN_ERRORS_PER_LEAD
    lead = np.arange(1, len(counts) + 1)
    # Errors only get fewer with the lead, gaps aside; a short lead always has some.
    source = np.maximum.accumulate(np.where(enough, lead[:, None], 0), axis=0)
    stretch = np.sqrt(lead[:, None] / source)
    quantiles = np.take_along_axis(quantiles, np.maximum(source - 1, 0)[None], axis=1) * stretch
    return _Spread(quantiles[:-1], quantiles[-1])
