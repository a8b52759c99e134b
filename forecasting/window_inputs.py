"""What is told to a net of one window? Its steps, levels, roughness, earlier turns of the seasons, the calendar.

Everything is relative to the window's own level, on a logarithm; nothing at or after the origin is looked at.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from forecasting.net_spec import HARMONICS, NetSpec, rolling_peak_steps, rolling_steps, turns_of
from forecasting.series import FloatArray

Float32Array: TypeAlias = npt.NDArray[np.float32]
BoolArray: TypeAlias = npt.NDArray[np.bool_]

# Log changes beyond e^6 = 400 times carry no shape any more.
CLIP = 6.0
# Newest steps over which roughness is told apart from that of the whole context.
RECENT_JUMPS = 8

Take: TypeAlias = Callable[[int, int], FloatArray]
"""``take(first, count)``: ``float64[B, count]``, the rates from ``first`` steps after the origin on (mostly negative),
NaN where there is no record. What it returns is not written to."""


def fill_forward(rows: FloatArray) -> FloatArray:
    """Return ``rows`` (``float64[B, T]``) with each NaN replaced by the last value before it, 0 before the first."""
    steps = np.where(np.isfinite(rows), np.arange(rows.shape[1])[None, :], -1)
    last = np.maximum.accumulate(steps, axis=1)
    filled = np.take_along_axis(rows, np.maximum(last, 0), axis=1)
    return np.where(last >= 0, filled, 0.0)


def last_level(rows: FloatArray, steps: int) -> FloatArray:
    """Return ``float64[B]``: the mean of the last ``steps`` of ``rows`` that were observed.

    Where none of them was, the last observed value counts; without any, 0.
    """
    recent = rows[:, -steps:]
    seen = np.isfinite(recent)
    return np.where(seen.any(axis=1), _mean(recent, seen), fill_forward(rows)[:, -1])


def _mean(rows: FloatArray, seen: BoolArray) -> FloatArray:
    total = np.where(seen, rows, 0.0).sum(axis=1)
    return np.asarray(total / np.maximum(seen.sum(axis=1), 1), dtype=np.float64)


def usual_of(rows: FloatArray, seen: BoolArray, trimmed: int) -> FloatArray:
    """Return the mean of what was seen without the ``trimmed`` largest, or of all of it where the rest is zero.

    One poisoned step would make a plain mean, and with it the width of a forecast, as large as it likes.
    """
    filled = np.where(seen, rows, 0.0)
    lower = np.partition(filled, rows.shape[1] - trimmed, axis=1)[:, : rows.shape[1] - trimmed]
    usual = lower.sum(axis=1) / np.maximum(seen.sum(axis=1) - trimmed, 1)
    return np.asarray(np.where(usual > 0, usual, _mean(rows, seen)), dtype=np.float64)


def delta_of(spec: NetSpec, rows: FloatArray, level: FloatArray, scale: FloatArray, offset: FloatArray) -> FloatArray:
    """Return ``rows`` (``float64[B, N]``) as changes from the level: relative ones, or logarithms, within bounds."""
    if spec.kind == "reference_lstm":
        return np.clip((rows - level[:, None]) / scale[:, None], -100.0, 100.0)
    return np.clip(np.log((rows + offset[:, None]) / (level + offset)[:, None]), -CLIP, CLIP)


def context_of(
    spec: NetSpec, raw: FloatArray, seen: BoolArray, level: FloatArray, scale: FloatArray, offset: FloatArray
) -> Float32Array:
    """Return ``float32[B, T, F]``."""
    if spec.kind == "reference_lstm":
        change = delta_of(spec, raw, level, scale, offset)
        return np.stack([fill_forward(change), seen], axis=2).astype(np.float32)
    means = largest = raw
    share = seen.astype(np.float64)
    if spec.block_steps > 1:
        coarse = spec.context_steps - spec.fine_steps
        blocks = raw[:, :coarse].reshape(len(raw), coarse // spec.block_steps, spec.block_steps)
        there = seen[:, :coarse].reshape(blocks.shape)
        count = there.sum(axis=2)
        total = np.where(there, blocks, 0.0).sum(axis=2)
        mean = np.where(count > 0, total / np.maximum(count, 1), np.nan)
        top = np.where(count > 0, np.where(there, blocks, 0.0).max(axis=2), np.nan)
        means = np.concatenate([mean, raw[:, coarse:]], axis=1)
        largest = np.concatenate([top, raw[:, coarse:]], axis=1)
        share = np.concatenate([count / spec.block_steps, share[:, coarse:]], axis=1)
    changes = [fill_forward(delta_of(spec, rows, level, scale, offset)) for rows in (means, largest)]
    return np.stack([*changes, share], axis=2).astype(np.float32)


def rolling_of(spec: NetSpec, raw: FloatArray, seen: BoolArray, level: FloatArray, offset: FloatArray) -> FloatArray:
    """Return levels and maxima over growing windows against the last one, and how rough the steps are.

    Windows without any observation say nothing, which is 0.
    """
    base = np.log(level + offset)
    filled = np.where(seen, raw, 0.0)
    columns = []
    for steps in rolling_steps(spec):
        count = seen[:, -steps:].sum(axis=1)
        mean = filled[:, -steps:].sum(axis=1) / np.maximum(count, 1)
        columns.append(np.where(count > 0, np.log(mean + offset) - base, 0.0))
    for steps in rolling_peak_steps(spec):
        some = seen[:, -steps:].any(axis=1)
        columns.append(np.where(some, np.log(filled[:, -steps:].max(axis=1) + offset) - base, 0.0))
    logs = np.log(filled + offset[:, None])
    jumps = np.abs(np.diff(logs, axis=1))
    both = seen[:, 1:] & seen[:, :-1]
    recent = min(RECENT_JUMPS, both.shape[1])
    # A poisoned step is two jumps.
    usual = usual_of(jumps, both, max(2, jumps.shape[1] // 10))
    columns += [_mean(jumps[:, -recent:], both[:, -recent:]), usual]
    return np.asarray(np.clip(np.stack(columns, axis=1), -CLIP, CLIP), dtype=np.float64)


def season_of(spec: NetSpec, take: Take, period_s: float, level: FloatArray, offset: FloatArray) -> FloatArray:
    """Return ``float64[B, 2 L + 2]``: how the load and its maximum went on in earlier turns of a season.

    Per lead the change of the load and of the running maximum, each against the level of that time; then that level
    against the present one, and the share of the turns that is recorded. Averages over the recorded turns.
    """
    back = round(period_s / spec.step_s)
    leads = spec.lead_steps
    then_steps = spec.then_steps(period_s)
    ahead = leads[-1] + spec.around_steps(period_s, leads[-1])
    lead_in = max(then_steps, spec.around_steps(period_s, leads[0]))
    total = np.zeros((len(level), 2 * len(leads) + 1))
    turns = np.zeros(len(level))
    now = np.log(level + offset)
    for turn in range(1, turns_of(period_s) + 1):
        # A turn ends where the next one is not over yet: nothing after the origin is looked at.
        rows = take(-turn * back - lead_in, lead_in + min(ahead, turn * back))
        spans = [(lead_in - then_steps, lead_in)]
        for lead in leads:
            around = spec.around_steps(period_s, lead)
            spans.append((lead_in + lead - 1 - around, min(lead_in + lead + around, rows.shape[1])))
        first, last = np.array(spans).T
        there = np.isfinite(rows)
        filled, count = rows, np.broadcast_to(last - first, (len(rows), len(spans)))
        if not there.all():
            filled, counts = np.where(there, rows, 0.0), _running_sums(there)
            count = counts[:, last] - counts[:, first]
        sums = _running_sums(filled)
        known = np.all(count > 0, axis=1)
        mean = (sums[:, last] - sums[:, first]) / np.maximum(count, 1)
        largest = np.maximum.accumulate(filled[:, lead_in:], axis=1)[:, np.array(leads) - 1]
        logs = np.log(np.concatenate([np.maximum(mean, 0.0), largest], axis=1) + offset[:, None])
        features = np.concatenate([logs[:, 1:] - logs[:, :1], logs[:, :1] - now[:, None]], axis=1)
        total += np.where(known[:, None], np.clip(features, -CLIP, CLIP), 0.0)
        turns += known
    share = turns / turns_of(period_s)
    return np.concatenate([total / np.maximum(turns, 1)[:, None], share[:, None]], axis=1)


def _running_sums(rows: npt.NDArray[np.float64] | BoolArray) -> FloatArray:
    """Return ``float64[B, T + 1]``: sums of the first 0, 1, ... of the ``T`` columns."""
    sums = np.zeros((len(rows), rows.shape[1] + 1))
    np.cumsum(rows, axis=1, out=sums[:, 1:])
    return sums


def calendar_of(instants: FloatArray, periods_s: tuple[float, ...]) -> FloatArray:
    """Return sine and cosine of the phase within each period, for the first harmonics."""
    turns = [2 * np.pi * order * (instants % period_s) / period_s for period_s in periods_s for order in HARMONICS]
    return np.stack([wave(turn) for turn in turns for wave in (np.sin, np.cos)], axis=1)
