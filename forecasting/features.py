"""What does a net see: the window of one channel before an origin, scaled by itself, and what it is asked for.

Training and inference both build their inputs here, so that a net never meets a feature it was not fitted on.
Every window is expressed relative to its own level: multiplying a workload by ten changes no input, which is what
lets one net serve any workload. Channels are separate examples of one net (``B = origins x channels``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal, Self, TypeAlias

import numpy as np
import numpy.typing as npt
from numpy.lib.stride_tricks import sliding_window_view
from pydantic import BaseModel, ConfigDict, Field, model_validator

from forecasting.forecast import DEFAULT_LEVELS
from forecasting.series import CHANNELS, FloatArray, LoadSeries

Float32Array: TypeAlias = npt.NDArray[np.float32]
IntArray: TypeAlias = npt.NDArray[np.int64]
BoolArray: TypeAlias = npt.NDArray[np.bool_]

HOUR_S = 3600.0
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
# Fewer steps of history show neither a level nor how much it scatters.
MIN_HISTORY_STEPS = 10
MAX_TURNS = 4
# Newest steps over which roughness is told apart from that of the whole context.
RECENT_JUMPS = 8


class NetSpec(BaseModel):
    """What a net looks at and answers: everything needed to rebuild it, besides its weights."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    kind: Literal["reference_lstm", "quantile_lstm"] = Field(description="Which architecture of quantile_net.")
    step_s: float = Field(gt=0, le=WEEK_S, description="Length of a step in seconds, of the history and of the leads.")
    context_steps: int = Field(64, ge=8, le=4096, description="Steps of history that the encoder reads.")
    fine_steps: int = Field(
        0, ge=0, le=4096, description="Newest of context_steps that are read one by one; the older ones in blocks."
    )
    block_steps: int = Field(
        1, ge=1, le=512, description="Steps averaged to one input where the context is read in blocks."
    )
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
        (HOUR_S, DAY_S, WEEK_S),
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

    @model_validator(mode="after")
    def _readable(self) -> Self:
        coarse = self.context_steps - self.fine_steps
        if coarse < 0 or coarse % self.block_steps:
            raise ValueError(
                f"context_steps {self.context_steps} must be fine_steps {self.fine_steps} and whole blocks of "
                f"{self.block_steps}"
            )
        if self.kind == "reference_lstm" and self.block_steps != 1:
            raise ValueError("a reference_lstm reads every step of its context")
        return self

    @property
    def tokens(self) -> int:
        """Inputs in a row that the encoder reads: blocks, then single steps."""
        return self.fine_steps + (self.context_steps - self.fine_steps) // self.block_steps

    @property
    def least_steps(self) -> int:
        """Fewest steps of history that a window may have; what is missing of the context is masked."""
        return self.context_steps if self.kind == "reference_lstm" else min(MIN_HISTORY_STEPS, self.context_steps)

    @property
    def most_steps(self) -> int:
        """Newest steps of a history that enter the inputs; more of them change nothing."""
        seasons = [
            turns_of(period) * round(period / self.step_s) + self.then_steps(period) for period in self.periods_s
        ]
        return max([self.context_steps, *seasons])

    @property
    def context_features(self) -> int:
        """Inputs per token: the scaled rate and whether it was observed; the largest rate of a block between them."""
        return 2 if self.kind == "reference_lstm" else 3

    @property
    def static_features(self) -> int:
        """Inputs per window besides the context; 0 for the reference stack."""
        if self.kind == "reference_lstm":
            return 0
        rolling = len(_rolling_steps(self)) + len(_rolling_peak_steps(self)) + 2
        seasonal = len(self.periods_s) * (2 * len(self.lead_steps) + 2)
        return rolling + seasonal + (2 * len(HARMONICS) * len(self.periods_s) if self.calendar else 0)

    def then_steps(self, period_s: float) -> int:
        """Return the steps averaged to the level one season ago.

        Of a day ago a few are, since one noisy step of yesterday predicts nothing; what recurs every hour recurs to
        the minute.
        """
        return max(self.level_steps, self.lead_steps[-1] // 4 if period_s >= DAY_S else 1)

    def around_steps(self, period_s: float, lead: int) -> int:
        """Return the steps to either side of ``lead`` that are averaged one season ago, as ``then_steps`` are."""
        return max(self.level_steps - 1, lead // 4 if period_s >= DAY_S else 0)


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
        target=_delta(spec, future[:, leads - 1], level, scale, offset).astype(np.float32),
        target_peak=_delta(spec, peak[:, leads - 1], level, scale, offset).astype(np.float32),
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
            return np.ascontiguousarray(np.stack(parts).transpose(0, 2, 1)).reshape(-1, count)
        rows = np.full((len(rates), len(CHANNELS), count), np.nan)
        for own, one, steps in zip(rows, rates, lengths, strict=True):
            there = one[max(0, steps + first) : max(0, steps + first + count)]
            own[:, count - len(there) :] = there.T
        return rows.reshape(-1, count)

    ends = np.repeat(np.array([history.end_at for history in histories], dtype=np.float64), len(CHANNELS))
    known = np.repeat(np.array(lengths, dtype=np.int64), len(CHANNELS))
    return _inputs(spec, take, ends, known)


Take: TypeAlias = Callable[[int, int], FloatArray]
"""``take(first, count)``: ``float64[B, count]``, the rates from ``first`` steps after the origin on (mostly negative),
NaN where there is no record. What it returns is not written to."""


def _inputs(spec: NetSpec, take: Take, instants: FloatArray, known: IntArray) -> WindowTensors:
    """Return windows without targets; ``instants`` (``float64[B]``) is when the origins are, Unix seconds."""
    raw = take(-spec.context_steps, spec.context_steps)
    seen = np.isfinite(raw)
    scale = np.maximum(_usual(raw, seen, max(1, raw.shape[1] // 20)), 1e-9)
    level = last_level(raw, spec.level_steps)
    offset = OFFSET_RATIO * scale
    static = np.zeros((len(raw), 0))
    if spec.static_features:
        parts = [_rolling(spec, raw, seen, level, offset)]
        parts += [_season(spec, take, period_s, level, offset) for period_s in spec.periods_s]
        parts += [_calendar(instants, spec.periods_s)] if spec.calendar else []
        static = np.concatenate(parts, axis=1)
    nothing = np.zeros((len(raw), 0), dtype=np.float32)
    none = np.zeros(0, dtype=np.int64)
    return WindowTensors(
        context=_context(spec, raw, seen, level, scale, offset),
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


def _usual(rows: FloatArray, seen: BoolArray, trimmed: int) -> FloatArray:
    """Return the mean of what was seen without the ``trimmed`` largest, or of all of it where the rest is zero.

    One poisoned step would make a plain mean, and with it the width of a forecast, as large as it likes.
    """
    filled = np.where(seen, rows, 0.0)
    lower = np.partition(filled, rows.shape[1] - trimmed, axis=1)[:, : rows.shape[1] - trimmed]
    usual = lower.sum(axis=1) / np.maximum(seen.sum(axis=1) - trimmed, 1)
    return np.asarray(np.where(usual > 0, usual, _mean(rows, seen)), dtype=np.float64)


def _delta(spec: NetSpec, rows: FloatArray, level: FloatArray, scale: FloatArray, offset: FloatArray) -> FloatArray:
    if spec.kind == "reference_lstm":
        return np.clip((rows - level[:, None]) / scale[:, None], -100.0, 100.0)
    return np.clip(np.log((rows + offset[:, None]) / (level + offset)[:, None]), -CLIP, CLIP)


def _context(
    spec: NetSpec, raw: FloatArray, seen: BoolArray, level: FloatArray, scale: FloatArray, offset: FloatArray
) -> Float32Array:
    """Return ``float32[B, T, F]``."""
    if spec.kind == "reference_lstm":
        change = _delta(spec, raw, level, scale, offset)
        return np.stack([fill_forward(change), seen], axis=2).astype(np.float32)
    means = largest = raw
    share = seen.astype(np.float64)
    if spec.block_steps > 1:
        coarse = spec.context_steps - spec.fine_steps
        blocks = raw[:, :coarse].reshape(len(raw), -1, spec.block_steps)
        there = seen[:, :coarse].reshape(blocks.shape)
        count = there.sum(axis=2)
        total = np.where(there, blocks, 0.0).sum(axis=2)
        mean = np.where(count > 0, total / np.maximum(count, 1), np.nan)
        top = np.where(count > 0, np.where(there, blocks, 0.0).max(axis=2), np.nan)
        means = np.concatenate([mean, raw[:, coarse:]], axis=1)
        largest = np.concatenate([top, raw[:, coarse:]], axis=1)
        share = np.concatenate([count / spec.block_steps, share[:, coarse:]], axis=1)
    changes = [fill_forward(_delta(spec, rows, level, scale, offset)) for rows in (means, largest)]
    return np.stack([*changes, share], axis=2).astype(np.float32)


def _rolling_steps(spec: NetSpec) -> list[int]:
    """Return 2, 4, 8, ... up to the context."""
    return [2**power for power in range(1, spec.context_steps.bit_length()) if 2**power <= spec.context_steps]


def _rolling_peak_steps(spec: NetSpec) -> list[int]:
    """Return 4, 16, 64, ... up to the context."""
    return _rolling_steps(spec)[1::2]


def roughness_column(spec: NetSpec) -> int:
    """Return which of the static features is the usual change from step to step in the context."""
    return len(_rolling_steps(spec)) + len(_rolling_peak_steps(spec)) + 1


def _rolling(spec: NetSpec, raw: FloatArray, seen: BoolArray, level: FloatArray, offset: FloatArray) -> FloatArray:
    """Return levels and maxima over growing windows against the last one, and how rough the steps are.

    Windows without any observation say nothing, which is 0.
    """
    base = np.log(level + offset)
    filled = np.where(seen, raw, 0.0)
    columns = []
    for steps in _rolling_steps(spec):
        count = seen[:, -steps:].sum(axis=1)
        mean = filled[:, -steps:].sum(axis=1) / np.maximum(count, 1)
        columns.append(np.where(count > 0, np.log(mean + offset) - base, 0.0))
    for steps in _rolling_peak_steps(spec):
        some = seen[:, -steps:].any(axis=1)
        columns.append(np.where(some, np.log(filled[:, -steps:].max(axis=1) + offset) - base, 0.0))
    logs = np.log(filled + offset[:, None])
    jumps = np.abs(np.diff(logs, axis=1))
    both = seen[:, 1:] & seen[:, :-1]
    recent = min(RECENT_JUMPS, both.shape[1])
    # A poisoned step is two jumps.
    usual = _usual(jumps, both, max(2, jumps.shape[1] // 10))
    columns += [_mean(jumps[:, -recent:], both[:, -recent:]), usual]
    return np.asarray(np.clip(np.stack(columns, axis=1), -CLIP, CLIP), dtype=np.float64)


def turns_of(period_s: float) -> int:
    """Return how many previous turns of a season are averaged: those of two days, at most four.

    >>> turns_of(3600.0), turns_of(86_400.0), turns_of(7 * 86_400.0)
    (4, 2, 1)
    """
    return max(1, min(MAX_TURNS, round(2 * DAY_S / period_s)))


def _season(spec: NetSpec, take: Take, period_s: float, level: FloatArray, offset: FloatArray) -> FloatArray:
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
        there = np.isfinite(rows)
        counts = np.concatenate([np.zeros((len(rows), 1)), np.cumsum(there, axis=1)], axis=1)
        filled = np.where(there, rows, 0.0)
        sums = np.concatenate([np.zeros((len(rows), 1)), np.cumsum(filled, axis=1)], axis=1)
        spans = [(lead_in - then_steps, lead_in)]
        for lead in leads:
            around = spec.around_steps(period_s, lead)
            spans.append((lead_in + lead - 1 - around, min(lead_in + lead + around, rows.shape[1])))
        first, last = np.array(spans).T
        count = counts[:, last] - counts[:, first]
        known = (count > 0).all(axis=1)
        mean = (sums[:, last] - sums[:, first]) / np.maximum(count, 1)
        largest = np.maximum.accumulate(filled[:, lead_in:], axis=1)[:, np.array(leads) - 1]
        logs = np.log(np.concatenate([np.maximum(mean, 0.0), largest], axis=1) + offset[:, None])
        features = np.concatenate([logs[:, 1:] - logs[:, :1], logs[:, :1] - now[:, None]], axis=1)
        total += np.where(known[:, None], np.clip(features, -CLIP, CLIP), 0.0)
        turns += known
    share = turns / turns_of(period_s)
    return np.concatenate([total / np.maximum(turns, 1)[:, None], share[:, None]], axis=1)


def _calendar(instants: FloatArray, periods_s: tuple[float, ...]) -> FloatArray:
    """Return sine and cosine of the phase within each period, for the first harmonics."""
    turns = [2 * np.pi * order * (instants % period_s) / period_s for period_s in periods_s for order in HARMONICS]
    return np.stack([wave(turn) for turn in turns for wave in (np.sin, np.cos)], axis=1)
