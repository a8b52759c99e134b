"""What does a net see: the window of one channel before an origin, scaled by itself, and what it is asked for.

Training and inference both build their inputs here, so that a net never meets a feature it was not fitted on.
Every window is expressed relative to its own level: multiplying a workload by ten changes no input, which is what
lets one net serve any workload. Channels are separate examples of one net (``B = origins x channels``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, Self, TypeAlias

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, model_validator

from forecasting.forecast import DEFAULT_LEVELS
from forecasting.series import CHANNELS, FloatArray, LoadSeries

Float32Array: TypeAlias = npt.NDArray[np.float32]
IntArray: TypeAlias = npt.NDArray[np.int64]

DAY_S = 86_400.0
WEEK_S = 7 * DAY_S

# Added to rates before a logarithm, as a share of the window's mean: keeps an idle step finite (log(0.1 / 1.1) = -2.4
# below the mean) without giving up scale equivariance.
OFFSET_RATIO = 0.1
# Log changes beyond e^6 = 400 times carry no shape any more.
CLIP = 6.0
MAX_LEADS, MAX_LEAD_STEPS = 64, 4096
MAX_LEVEL_STEPS = 64
MAX_SEASONS, MAX_SEASON_S = 4, 60 * WEEK_S
HARMONICS = (1, 2)


class NetSpec(BaseModel):
    """What a net looks at and answers: everything needed to rebuild it, besides its weights."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    kind: Literal["reference_lstm", "quantile_lstm"] = Field(description="Which architecture of quantile_net.")
    step_s: float = Field(gt=0, le=WEEK_S, description="Length of a step in seconds, of the history and of the leads.")
    context_steps: int = Field(64, ge=8, le=4096, description="Steps of history that the encoder reads.")
    lead_steps: tuple[int, ...] = Field(
        min_length=1,
        max_length=MAX_LEADS,
        description="Leads that are answered, in steps, ascending; between them answers are interpolated. "
        "A reference_lstm has exactly one, the lead time.",
    )
    levels: tuple[float, ...] = Field(
        DEFAULT_LEVELS, min_length=1, max_length=32, description="Quantile levels, ascending inside (0, 1)."
    )
    hidden: tuple[int, ...] = Field(
        (64,), min_length=1, max_length=4, description="LSTM units per layer; (128, 64) is the reference stack."
    )
    head: int = Field(64, ge=1, le=1024, description="Units of the hidden layer of a quantile head.")
    level_steps: int = Field(
        1,
        ge=1,
        le=MAX_LEVEL_STEPS,
        description="Steps averaged to the last level, from which changes are measured; noise of "
        "short steps asks for about a minute of them.",
    )
    periods_s: tuple[float, ...] = Field(
        (DAY_S, WEEK_S),
        max_length=MAX_SEASONS,
        description="Seasons in seconds whose previous turn is shown when recorded.",
    )
    calendar: bool = Field(True, description="Whether the phase within each of periods_s (UTC) is shown.")
    channels: tuple[str, ...] = Field(
        CHANNELS, min_length=1, description="Channels that training examples come from; a net answers for all."
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        leads, levels = self.lead_steps, self.levels
        if leads[0] < 1 or any(b <= a for a, b in pairwise(leads)) or leads[-1] > MAX_LEAD_STEPS:
            raise ValueError(f"lead_steps must ascend from 1 or more to {MAX_LEAD_STEPS} or less, got {leads}")
        if not (levels[0] > 0 and levels[-1] < 1) or any(b <= a for a, b in pairwise(levels)):
            raise ValueError(f"levels must ascend inside (0, 1), got {levels}")
        if self.kind == "reference_lstm" and (len(leads) != 1 or len(self.hidden) != 2):
            raise ValueError("a reference_lstm has one lead and two layers")
        if self.kind == "quantile_lstm" and leads[0] != 1:
            raise ValueError(f"the lead grid of a quantile_lstm starts at 1, got {leads}")
        if any(not 1 <= units <= 1024 for units in self.hidden):
            raise ValueError(f"hidden layers have 1 to 1024 units, got {self.hidden}")
        if self.level_steps > self.context_steps:
            raise ValueError(f"level_steps {self.level_steps} exceed context_steps {self.context_steps}")
        if any(not MAX_SEASON_S >= period >= self.step_s * (leads[-1] + self.level_steps) for period in self.periods_s):
            raise ValueError(f"periods_s must exceed the longest lead and stay under 60 weeks, got {self.periods_s}")
        unknown = set(self.channels) - set(CHANNELS)
        if unknown or len(set(self.channels)) != len(self.channels):
            raise ValueError(f"channels must be distinct ones of {CHANNELS}, got {self.channels}")
        return self

    @property
    def context_features(self) -> int:
        """Inputs per context step: the scaled rate, and whether it was observed."""
        return 2

    @property
    def static_features(self) -> int:
        """Inputs per window besides the context; 0 for the reference stack."""
        if self.kind == "reference_lstm":
            return 0
        rolling = len(_rolling_steps(self)) + 1
        seasonal = len(self.periods_s) * (len(self.lead_steps) + 2)
        return rolling + seasonal + (2 * len(HARMONICS) * len(self.periods_s) if self.calendar else 0)


@dataclass(frozen=True, slots=True, eq=False)
class WindowTensors:
    """Inputs and targets of ``B`` windows, one per origin and channel (channel varies fastest).

    With ``delta(x) = log((x + offset) / (level + offset))`` for a ``quantile_lstm`` and
    ``delta(x) = (x - level) / scale`` for a ``reference_lstm``:

    Attributes:
        context: ``float32[B, T, 2]``: ``delta`` of each step (gaps filled forward), 1 where observed.
        static: ``float32[B, S]``: rolling levels, roughness, previous turns of the seasons, calendar.
        level: ``float64[B]``: last level, the mean rate of the last observed ``level_steps``.
        scale: ``float64[B]``: mean rate of the context.
        offset: ``float64[B]``: what is added before a logarithm.
        observed_ratio: ``float64[B]``: share of the context that was observed.
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
) -> WindowTensors:
    """Build the windows that end at ``origins``; nothing at or after an origin enters its inputs.

    Args:
        series: Record at ``spec.step_s``; gaps are NaN.
        spec: What the net looks at.
        origins: ``int[N]``: steps seen, from 1 to ``len(series)``; the target of lead h is step ``origin + h - 1``
            (0-based), NaN beyond the end of the series.
        channels: Channels to take examples from; by default those of the spec.
        lead_steps: Leads of the targets; by default those of the spec.

    Raises:
        ValueError: If the steps differ or an origin lies outside the series.
    """
    if abs(series.step_s - spec.step_s) > 1e-6 * spec.step_s:
        raise ValueError(f"the series has steps of {series.step_s} s, the net of {spec.step_s} s")
    ends = np.asarray(origins, dtype=np.int64).reshape(-1)
    if len(ends) and not (ends.min() >= 1 and ends.max() <= len(series)):
        raise ValueError(f"origins must lie in [1, {len(series)}], got {ends.min()} to {ends.max()}")
    columns = np.array([CHANNELS.index(name) for name in channels or spec.channels], dtype=np.int64)
    origin, channel = np.repeat(ends, len(columns)), np.tile(columns, len(ends))
    rates = series.values

    raw = _gather(rates, origin, channel, np.arange(-spec.context_steps, 0))
    seen = np.isfinite(raw)
    scale = np.maximum(_mean(raw, seen), 1e-9)
    level = last_level(raw, spec.level_steps)
    offset = OFFSET_RATIO * scale
    change = _delta(spec, raw, level, scale, offset)
    context = np.stack([fill_forward(change), seen.astype(np.float64)], axis=2)

    leads = np.asarray(lead_steps if lead_steps is not None else spec.lead_steps, dtype=np.int64)
    future = _gather(rates, origin, channel, np.arange(int(leads.max())))
    # A window without any load has no scale to measure a change on: nothing is learned from it.
    future = np.where((level + scale > 2e-9)[:, None], future, np.nan)
    peak = np.maximum.accumulate(future, axis=1)

    static = np.zeros((len(origin), 0))
    if spec.static_features:
        instants: FloatArray = np.asarray(series.start_at + origin * series.step_s, dtype=np.float64)
        static = np.concatenate(
            [_rolling(spec, raw, seen, level, offset, change)]
            + [_season(rates, spec, period_s, origin, channel, level, offset) for period_s in spec.periods_s]
            + ([_calendar(instants, spec.periods_s)] if spec.calendar else []),
            axis=1,
        )
    return WindowTensors(
        context=context.astype(np.float32),
        static=static.astype(np.float32),
        level=level,
        scale=scale,
        offset=offset,
        observed_ratio=seen.mean(axis=1),
        target=_delta(spec, future[:, leads - 1], level, scale, offset).astype(np.float32),
        target_peak=_delta(spec, peak[:, leads - 1], level, scale, offset).astype(np.float32),
        origin=origin,
        channel=channel,
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


def _gather(rates: FloatArray, origin: IntArray, channel: IntArray, shifts: IntArray) -> FloatArray:
    """Return ``float64[B, len(shifts)]``: ``rates[origin + shift, channel]``, NaN outside the series."""
    rows = origin[:, None] + shifts[None, :]
    inside = (rows >= 0) & (rows < len(rates))
    taken = rates[np.clip(rows, 0, len(rates) - 1), channel[:, None]]
    return np.asarray(np.where(inside, taken, np.nan), dtype=np.float64)


def _mean(rows: FloatArray, seen: npt.NDArray[np.bool_]) -> FloatArray:
    total = np.where(seen, rows, 0.0).sum(axis=1)
    return np.asarray(total / np.maximum(seen.sum(axis=1), 1), dtype=np.float64)


def _delta(spec: NetSpec, rows: FloatArray, level: FloatArray, scale: FloatArray, offset: FloatArray) -> FloatArray:
    if spec.kind == "reference_lstm":
        return np.clip((rows - level[:, None]) / scale[:, None], -100.0, 100.0)
    return np.clip(np.log((rows + offset[:, None]) / (level + offset)[:, None]), -CLIP, CLIP)


def _rolling_steps(spec: NetSpec) -> list[int]:
    """Return 2, 4, 8, ... up to the context."""
    return [2**power for power in range(1, spec.context_steps.bit_length()) if 2**power <= spec.context_steps]


def _rolling(
    spec: NetSpec,
    raw: FloatArray,
    seen: npt.NDArray[np.bool_],
    level: FloatArray,
    offset: FloatArray,
    change: FloatArray,
) -> FloatArray:
    """Return levels over doubling windows against the last one, and the roughness from step to step."""
    means = [_mean(raw[:, -steps:], seen[:, -steps:]) for steps in _rolling_steps(spec)]
    against = [np.log((mean + offset) / (level + offset)) for mean in means]
    jumps = np.abs(np.diff(change, axis=1))
    known = np.isfinite(jumps)
    features = np.clip(np.stack([*against, _mean(jumps, known)], axis=1), -CLIP, CLIP)
    return np.asarray(features, dtype=np.float64)


def _season(
    rates: FloatArray,
    spec: NetSpec,
    period_s: float,
    origin: IntArray,
    channel: IntArray,
    level: FloatArray,
    offset: FloatArray,
) -> FloatArray:
    """Return ``float64[B, L + 2]``: how the load went on one period ago, its level then, and whether it is recorded."""
    # Averaged over +-(level_steps - 1) steps around each lead: one noisy step of yesterday predicts nothing.
    half = spec.level_steps - 1
    back = round(period_s / spec.step_s)
    shifts = np.concatenate([np.arange(-spec.level_steps, 0), np.arange(-half, spec.lead_steps[-1] + half)]) - back
    rows = _gather(rates, origin, channel, shifts)
    then = rows[:, : spec.level_steps]
    after = rows[:, spec.level_steps :]
    columns = [_mean(then, np.isfinite(then))]
    recorded = [np.isfinite(then).any(axis=1)]
    for lead in spec.lead_steps:
        around = after[:, lead - 1 : lead + 2 * half]
        columns.append(_mean(around, np.isfinite(around)))
        recorded.append(np.isfinite(around).any(axis=1))
    known = np.stack(recorded, axis=1).all(axis=1, keepdims=True).astype(np.float64)
    logs = np.log(np.stack(columns, axis=1) + offset[:, None])
    went_on = logs[:, 1:] - logs[:, :1]
    against_now = logs[:, :1] - np.log(level + offset)[:, None]
    features = np.clip(np.concatenate([went_on, against_now], axis=1), -CLIP, CLIP) * known
    return np.concatenate([features, known], axis=1)


def _calendar(instants: FloatArray, periods_s: tuple[float, ...]) -> FloatArray:
    """Return sine and cosine of the phase within each period, for the first harmonics."""
    turns = [2 * np.pi * order * (instants % period_s) / period_s for period_s in periods_s for order in HARMONICS]
    return np.stack([wave(turn) for turn in turns for wave in (np.sin, np.cos)], axis=1)
