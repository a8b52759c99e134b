"""What does a tree see: logs of the newest load and of earlier turns of the seasons, each against the level now.

Everything is a difference of logarithms or a phase of the clock, so that a workload times ten gives the same inputs.
Training and serving both build their inputs here.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Self, TypeAlias

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, model_validator

from forecasting.features import DAY_S, OFFSET_RATIO, WEEK_S, IntArray, fill_forward
from forecasting.series import FloatArray

Float32Array: TypeAlias = npt.NDArray[np.float32]

HALF_HOUR_S, HOUR_S = 1800.0, 3600.0
CLIP = 6.0
MAX_LEADS, MAX_LEAD_STEPS = 16, 4096

_LAGS = (1, 2, 3, 4, 5, 6, 8, 10, 12, 15, 20, 30, 45, 60)
_MEANS = (2, 4, 8, 16, 32, 64, 128, 256)
_EXTREMES = (8, 32, 128)
# How long ago the largest of so many steps was.
_AGES = (16, 64)
_CONTEXT = 128
_SHORTEST_PERIOD_STEPS = 6
# Earlier turns of a season that are averaged.
_TURNS = {HALF_HOUR_S: 4, HOUR_S: 6, DAY_S: 7, WEEK_S: 1}
_OF_A_TURN = 8


class TreeSpec(BaseModel):
    """What trees look at and answer."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    step_s: float = Field(gt=0, le=DAY_S, description="Length of a step in seconds.")
    lead_steps: tuple[int, ...] = Field(
        min_length=1, max_length=MAX_LEADS, description="Leads that are answered, in steps, ascending."
    )
    levels: tuple[float, ...] = Field(min_length=2, max_length=32, description="Quantile levels, ascending.")

    @model_validator(mode="after")
    def _ascending(self) -> Self:
        for name, axis in (("lead_steps", self.lead_steps), ("levels", self.levels)):
            if any(b <= a for a, b in pairwise(axis)):
                raise ValueError(f"{name} must ascend, got {axis}")
        if self.lead_steps[0] < 1 or self.lead_steps[-1] > MAX_LEAD_STEPS:
            raise ValueError(f"lead_steps must lie in 1 to {MAX_LEAD_STEPS}, got {self.lead_steps}")
        if not 0 < self.levels[0] <= self.levels[-1] < 1:
            raise ValueError(f"levels must lie inside (0, 1), got {self.levels}")
        return self

    @property
    def periods_s(self) -> tuple[float, ...]:
        """Seasons that are looked at: those that are many steps long and longer than the longest lead."""
        least = max(_SHORTEST_PERIOD_STEPS, self.lead_steps[-1] + 1) * self.step_s
        return tuple(period for period in _TURNS if period >= least and _whole(period, self.step_s))

    @property
    def most_steps(self) -> int:
        """Newest steps that any feature reaches back to."""
        turns = [round(period / self.step_s) * _TURNS[period] for period in self.periods_s]
        return max([*turns, max(_MEANS)]) + _CONTEXT

    @property
    def features(self) -> int:
        """Inputs per window and lead."""
        common = len(_LAGS) + len(_MEANS) + 3 * len(_EXTREMES) + len(_AGES)
        return common + _OF_A_TURN * len(self.periods_s) + 7


@dataclass(frozen=True, slots=True, eq=False)
class Windows:
    """``N`` windows: one per origin and column, column fastest.

    Attributes:
        level: ``float64[N]``: log of the last observed rate plus ``offset``.
        offset: ``float64[N]``: a tenth of the recent mean, added before logarithms.
        inputs: ``float32[N, F]`` per lead of the spec; NaN where something is not recorded.
    """

    level: FloatArray
    offset: FloatArray
    inputs: tuple[Float32Array, ...]

    def rates(self, change: FloatArray) -> FloatArray:
        """Return rates for log changes ``float64[N, ...]`` against the level, never negative."""
        tail = (slice(None),) + (None,) * (change.ndim - 1)
        return np.asarray(np.maximum(np.exp(self.level[tail] + change) - self.offset[tail], 0.0), dtype=np.float64)


def tree_windows(
    values: FloatArray, clocks: Sequence[float], spec: TreeSpec, origins: IntArray, per_clock: int = 1
) -> Windows:
    """Return the windows that end at ``origins`` (steps seen, at least 1) of ``values`` (``float64[T, K]``).

    Nothing at or after an origin enters its inputs. ``clocks`` are the instants at which the first row begins, one for
    each ``per_clock`` columns.
    """
    columns = values.shape[1]
    padded = _Padded(values)
    raw = padded.window(origins, np.arange(-_CONTEXT, 0))
    seen = np.isfinite(raw)
    mean = np.where(seen, raw, 0.0).sum(axis=1) / np.maximum(seen.sum(axis=1), 1)
    offset = np.maximum(OFFSET_RATIO * mean, 1e-9)
    logs = np.log(np.where(seen, raw, np.nan) + offset[:, None])
    filled = fill_forward(np.where(seen, logs, np.nan))
    # Before the first observation of a window nothing is known; ``fill_forward`` says 0 there.
    filled = np.where(np.maximum.accumulate(seen, axis=1), filled, np.nan)
    level = np.where(np.isfinite(filled[:, -1]), filled[:, -1], np.log(offset))
    context = filled - level[:, None]
    common = [context[:, -1 - np.array(_LAGS)]]
    common.append(np.log(padded.means(origins, _MEANS) + offset[:, None]) - level[:, None])
    steps = np.diff(context, axis=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # windows without any observation answer NaN, as they should
        for width in _EXTREMES:
            recent = context[:, -width:]
            spread = np.sqrt(np.nanmean(steps[:, -width:] ** 2, axis=1))
            common.append(np.stack([np.nanmax(recent, axis=1), np.nanmin(recent, axis=1), spread], axis=1))
    for width in _AGES:
        recent = np.where(np.isfinite(context[:, -width:]), context[:, -width:], -np.inf)
        common.append(np.log1p(recent[:, ::-1].argmax(axis=1))[:, None])
    instants = np.repeat(
        np.asarray(clocks, dtype=np.float64)[None, :] + origins[:, None] * spec.step_s, per_clock, axis=1
    )
    shared = np.concatenate(common, axis=1)
    inputs = []
    for lead in spec.lead_steps:
        seasons = [_turns(padded, spec, period, lead, origins, offset, level) for period in spec.periods_s]
        at = (instants + (lead - 0.5) * spec.step_s).reshape(-1)
        both = np.concatenate([shared, *seasons, _clock(at)], axis=1)
        inputs.append(np.clip(both, -CLIP, CLIP).astype(np.float32))
    if len(level) != len(origins) * columns:
        raise ValueError(f"{len(level)} windows of {len(origins)} origins and {columns} columns")
    return Windows(level, offset, tuple(inputs))


def tree_targets(
    values: FloatArray, windows: Windows, spec: TreeSpec, origins: IntArray
) -> tuple[FloatArray, FloatArray]:
    """Return log changes that followed, ``float64[N, L]``: of the rate at each lead and of the largest up to it."""
    longest = spec.lead_steps[-1]
    after = _Padded(values).window(origins, np.arange(longest))
    largest = np.maximum.accumulate(after, axis=1)  # NaN from the first gap on
    leads = np.array(spec.lead_steps) - 1
    change = [np.log(rows[:, leads] + windows.offset[:, None]) - windows.level[:, None] for rows in (after, largest)]
    return np.clip(change[0], -CLIP, CLIP), np.clip(change[1], -CLIP, CLIP)


class _Padded:
    """``float64[T, K]`` that can be asked for rows before its start and after its end, and for means."""

    def __init__(self, values: FloatArray) -> None:
        self.values = values
        seen = np.isfinite(values)
        start = np.zeros((1, values.shape[1]))
        self._totals = np.concatenate([start, np.where(seen, values, 0.0).cumsum(axis=0)])
        self._counts = np.concatenate([start, seen.cumsum(axis=0)])

    def window(self, origins: IntArray, shifts: IntArray) -> FloatArray:
        """Return ``float64[N * K, len(shifts)]``: rows ``origin + shift``, NaN outside."""
        rows = origins[:, None] + shifts[None, :]
        inside = (rows >= 0) & (rows < len(self.values))
        taken = self.values[np.clip(rows, 0, len(self.values) - 1)]
        found = np.where(inside[:, :, None], taken, np.nan)
        return np.asarray(found.transpose(0, 2, 1).reshape(-1, len(shifts)), dtype=np.float64)

    def mean(self, first: IntArray, last: IntArray) -> FloatArray:
        """Return ``float64[N * K]``: the mean over rows ``[first, last)`` of what was observed; NaN where nothing."""
        first, last = (np.clip(rows, 0, len(self.values)) for rows in (first, last))
        counts = self._counts[last] - self._counts[first]
        totals = self._totals[last] - self._totals[first]
        means = np.divide(totals, counts, out=np.full(totals.shape, np.nan), where=counts > 0)
        return np.asarray(np.maximum(means, 0.0).reshape(-1), dtype=np.float64)  # sums of what cancels end below zero

    def means(self, origins: IntArray, widths: Sequence[int]) -> FloatArray:
        """Return ``float64[N * K, len(widths)]``: means over so many rows before ``origins``."""
        return np.stack([self.mean(origins - width, origins) for width in widths], axis=1)


def _turns(
    padded: _Padded,
    spec: TreeSpec,
    period_s: float,
    lead: int,
    origins: IntArray,
    offset: FloatArray,
    level: FloatArray,
) -> FloatArray:
    """Return ``float64[N, 8]``: what was at the target, on the way there and just before, a turn and several ago."""
    period, turns = round(period_s / spec.step_s), _TURNS[period_s]
    around = max(1, lead // 4)
    then = origins - period
    at_target = padded.window(then, np.array([lead - 1]))[:, 0]
    near = padded.mean(then + lead - 1 - around, then + lead + around)
    recent = padded.mean(then - 2 * around, then)
    back = -period * np.arange(1, turns + 1)
    several = padded.window(origins, lead - 1 + back)
    paths = padded.window(origins, (back[:, None] + np.arange(lead)[None, :]).reshape(-1))
    tops = paths.reshape(-1, turns, lead).max(axis=2)  # NaN where a step of the way is missing
    columns = [at_target, near, recent, tops[:, 0], *_mean_and_largest(several), *_mean_and_largest(tops)]
    logs = np.log(np.stack(columns, axis=1) + offset[:, None])
    against = logs - level[:, None]
    against[:, 1] = logs[:, 1] - logs[:, 2]  # how the load went on then
    return np.asarray(against, dtype=np.float64)


def _mean_and_largest(rows: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return ``float64[N]`` each over what is known of ``rows`` (``float64[N, M]``); NaN where nothing is."""
    known = np.isfinite(rows)
    some = known.any(axis=1)
    mean = np.where(known, rows, 0.0).sum(axis=1) / np.maximum(known.sum(axis=1), 1)
    return np.where(some, mean, np.nan), np.where(some, np.where(known, rows, -np.inf).max(axis=1), np.nan)


def _clock(at: FloatArray) -> FloatArray:
    """Return ``float64[N, 7]``: phases of the day, the week, the hour and half of it (UTC)."""
    day, week, hour, half = (at % period / period for period in (DAY_S, WEEK_S, HOUR_S, HALF_HOUR_S))
    turn = 2 * np.pi * day
    return np.stack([np.sin(turn), np.cos(turn), np.sin(2 * turn), half, day, week, hour], axis=1)


def _whole(period_s: float, step_s: float) -> bool:
    return abs(round(period_s / step_s) * step_s - period_s) <= 1e-6 * period_s
