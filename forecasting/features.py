"""What does a net see: the window of one channel before an origin, scaled by itself, and what it is asked for.

Training and inference both build their inputs here, so that a net never meets a feature it was not fitted on.
Every window is expressed relative to its own level: multiplying a workload by ten changes no input, which is what
lets one net serve any workload. Channels are separate examples of one net (``B = origins x channels``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from numpy.lib.stride_tricks import sliding_window_view

from forecasting.net_spec import (
    DAY_S,
    HOUR_S,
    MAX_LEAD_STEPS,
    MAX_LEADS,
    WEEK_S,
    NetSpec,
)
from forecasting.series import CHANNELS, FloatArray, LoadSeries
from forecasting.window_inputs import (
    Float32Array,
    Take,
    calendar_of,
    context_of,
    delta_of,
    fill_forward,
    last_level,
    rolling_of,
    season_of,
    usual_of,
)

__all__ = [
    "DAY_S",
    "HOUR_S",
    "MAX_LEADS",
    "MAX_LEAD_STEPS",
    "OFFSET_RATIO",
    "WEEK_S",
    "IntArray",
    "NetSpec",
    "WindowTensors",
    "fill_forward",
    "last_level",
    "present_windows",
    "rates_of",
    "window_tensors",
]

IntArray: TypeAlias = npt.NDArray[np.int64]

# Added to rates before a logarithm, as a share of the window's mean: keeps an idle step finite (log(0.1 / 1.1) = -2.4
# below the mean) without giving up scale equivariance.
OFFSET_RATIO = 0.1


@dataclass(frozen=True, slots=True, eq=False)
class WindowTensors:
    """Inputs and targets of ``B`` windows, one per origin and channel (channel varies fastest).

    ``T`` is ``spec.tokens``. With ``delta(x) = log((x + offset) / (level + offset))`` for a ``quantile_lstm`` and
    ``delta(x) = (x - level) / scale`` for a ``reference_lstm``:

    Attributes:
        context: ``float32[B, T, F]``: ``delta`` of each step or mean of each block (gaps filled forward), for a
            ``quantile_lstm`` that of the largest rate of the block, and the share of it that was observed.
        static: ``float32[B, S]``: rolling levels and maxima, roughness, previous turns of the seasons, calendar.
        level: ``float64[B]``: last level, the mean rate of the last observed ``level_steps``.
        scale: ``float64[B]``: mean rate of the context, without its largest steps.
        offset: ``float64[B]``: what is added before a logarithm.
        observed_ratio: ``float64[B]``: share of the context that was observed, since the history begins.
        blind_steps: ``int64[B]``: newest steps of the context without any observation.
        target: ``float32[B, L]``: ``delta`` of the rate at each lead; NaN where it is not recorded.
        target_peak: ``float32[B, L]``: ``delta`` of the largest rate up to each lead; NaN where a step is missing.
        origin: ``int64[B]``: steps of the series that had been seen.
        channel: ``int64[B]``: index into ``CHANNELS``.
    """

    context: Float32Array
    static: Float32Array
    level: FloatArray
    scale: FloatArray
    offset: FloatArray
    observed_ratio: FloatArray
    blind_steps: IntArray
    target: Float32Array
    target_peak: Float32Array
    origin: IntArray
    channel: IntArray

    def __len__(self) -> int:
        return len(self.level)


def window_tensors(
    series: LoadSeries,
    spec: NetSpec,
    origins: npt.ArrayLike,
    channels: Sequence[str] | None = None,
    lead_steps: Sequence[int] | None = None,
    known_steps: npt.ArrayLike | None = None,
) -> WindowTensors:
    """Build the windows that end at ``origins``; nothing at or after an origin enters its inputs.

    Args:
        series: Record at ``spec.step_s``; gaps are NaN.
        spec: What the net looks at.
        origins: ``int[N]``: steps seen, from 1 to ``len(series)``; the target of lead h is step ``origin + h - 1``
            (0-based), NaN beyond the end of the series.
        channels: Channels to take examples from; by default those of the spec.
        lead_steps: Leads of the targets; by default those of the spec.
        known_steps: ``int[N]``: how many of the steps before each origin are shown, as if the record had begun then;
            by default all.

    Raises:
        ValueError: If the steps differ or an origin lies outside the series.
    """
    if abs(series.step_s - spec.step_s) > 1e-6 * spec.step_s:
        raise ValueError(f"the series has steps of {series.step_s} s, the net of {spec.step_s} s")
    ends = np.asarray(origins, dtype=np.int64).reshape(-1)
    if len(ends) and not (ends.min() >= 1 and ends.max() <= len(series)):
        raise ValueError(f"origins must lie in [1, {len(series)}], got {ends.min()} to {ends.max()}")
    columns = np.array([CHANNELS.index(name) for name in channels or spec.channels], dtype=np.int64)
    leads = np.asarray(lead_steps if lead_steps is not None else spec.lead_steps, dtype=np.int64)
    known = ends if known_steps is None else np.minimum(ends, np.asarray(known_steps, dtype=np.int64))
    origin, channel = np.repeat(ends, len(columns)), np.tile(columns, len(ends))
    before, after = np.full((3, spec.most_steps), np.nan), np.full((3, int(leads.max())), np.nan)
    padded = np.concatenate([before, series.values.T, after], axis=1)

    def take(first: int, count: int) -> FloatArray:
        rows = sliding_window_view(padded, count, axis=1)[channel, origin + (spec.most_steps + first)]
        hidden = np.arange(first, first + count)[None, :] < -np.repeat(known, len(columns))[:, None]
        rows[hidden] = np.nan
        return rows

    instants: FloatArray = np.asarray(series.start_at + origin * series.step_s, dtype=np.float64)
    built = _inputs(spec, take, instants, np.repeat(known, len(columns)))
    level, scale, offset = built.level, built.scale, built.offset
    future = take(0, int(leads.max()))
    # A window without any load has no scale to measure a change on: nothing is learned from it.
    future = np.where((level + scale > 2e-9)[:, None], future, np.nan)
    peak = np.maximum.accumulate(future, axis=1)
    return replace(
        built,
        target=delta_of(spec, future[:, leads - 1], level, scale, offset).astype(np.float32),
        target_peak=delta_of(spec, peak[:, leads - 1], level, scale, offset).astype(np.float32),
        origin=origin,
        channel=channel,
    )


def present_windows(histories: Sequence[LoadSeries], spec: NetSpec) -> WindowTensors:
    """Return the inputs of the windows that end where each of ``histories`` does, without targets.

    ``B = len(histories) * C``, the channel varying fastest; each row has the numbers of ``window_tensors`` over its
    history alone. Steps must be ``spec.step_s`` long, which is not checked again.
    """
    rates = [history.values for history in histories]
    lengths = [len(one) for one in rates]
    shortest = min(lengths)

    def take(first: int, count: int) -> FloatArray:
        if shortest + first >= 0:
            begins = [steps + first for steps in lengths]
            parts = [one[begin : begin + count] for one, begin in zip(rates, begins, strict=True)]
            side_by_side = np.concatenate(parts).reshape(len(parts), count, len(CHANNELS))
            return np.ascontiguousarray(side_by_side.transpose(0, 2, 1)).reshape(-1, count)
        rows = np.full((len(rates), len(CHANNELS), count), np.nan)
        for own, one, steps in zip(rows, rates, lengths, strict=True):
            there = one[max(0, steps + first) : max(0, steps + first + count)]
            own[:, count - len(there) :] = there.T
        return rows.reshape(-1, count)

    ends = np.repeat(np.array([history.end_at for history in histories], dtype=np.float64), len(CHANNELS))
    known = np.repeat(np.array(lengths, dtype=np.int64), len(CHANNELS))
    return _inputs(spec, take, ends, known)


def _inputs(spec: NetSpec, take: Take, instants: FloatArray, known: IntArray) -> WindowTensors:
    """Return windows without targets; ``instants`` (``float64[B]``) is when the origins are, Unix seconds."""
    raw = take(-spec.context_steps, spec.context_steps)
    seen = np.isfinite(raw)
    scale = np.maximum(usual_of(raw, seen, max(1, raw.shape[1] // 20)), 1e-9)
    level = last_level(raw, spec.level_steps)
    offset = OFFSET_RATIO * scale
    static = np.zeros((len(raw), 0))
    if spec.static_features:
        parts = [rolling_of(spec, raw, seen, level, offset)]
        parts += [season_of(spec, take, period_s, level, offset) for period_s in spec.periods_s]
        parts += [calendar_of(instants, spec.periods_s)] if spec.calendar else []
        static = np.concatenate(parts, axis=1)
    nothing = np.zeros((len(raw), 0), dtype=np.float32)
    none = np.zeros(0, dtype=np.int64)
    return WindowTensors(
        context=context_of(spec, raw, seen, level, scale, offset),
        static=static.astype(np.float32),
        level=level,
        scale=scale,
        offset=offset,
        observed_ratio=seen.sum(axis=1) / np.minimum(np.maximum(known, 1), spec.context_steps),
        blind_steps=np.where(seen.any(axis=1), np.argmax(seen[:, ::-1], axis=1), spec.context_steps),
        target=nothing,
        target_peak=nothing,
        origin=none,
        channel=none,
    )


def rates_of(spec: NetSpec, delta: npt.NDArray[np.floating], windows: WindowTensors) -> FloatArray:
    """Return the rates that ``delta`` (``[B, ...]``, a net's answer or a target) stands for, never under zero."""
    tail = (slice(None),) + (None,) * (delta.ndim - 1)
    change = delta.astype(np.float64)
    if spec.kind == "reference_lstm":
        rates = windows.level[tail] + change * windows.scale[tail]
    else:
        rates = (windows.level + windows.offset)[tail] * np.exp(change) - windows.offset[tail]
    return np.asarray(np.maximum(rates, 0.0), dtype=np.float64)
