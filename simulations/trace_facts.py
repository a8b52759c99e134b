"""What should somebody know about a trace before replaying it?"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from controller.errors import BadInput
from simulations.trace import Float64, Int64, RequestBatch, Trace

PERCENTILES = (50, 90, 99)
SILENCE_S = 60.0
_SPANS_S = (1.0, 10.0, 60.0, 600.0)
_MOST_STEPS = 2_000_000
_MOST_TOKENS = 1 << 20
_MOST_HASHES = 20_000_000
_PEAK_S = 60.0
_RATE_STEPS = ((7200.0, 60.0), (600.0, 10.0), (0.0, 1.0))
"""From which span on rates are told in which step, in seconds."""


@dataclass(frozen=True, slots=True)
class LengthFacts:
    """Tokens per request: mean, 50th, 90th and 99th percentile, and largest."""

    mean: float
    percentiles: tuple[int, ...]
    largest: int


@dataclass(frozen=True, slots=True)
class PrefixFacts:
    """Sessions and block hashes.

    Attributes:
        sessions: How many different sessions; None when not recorded.
        blocks: Blocks of all prompts.
        seen_before_ratio: Share of blocks whose hash came before: what an endless prefix cache would hit. None when
            there are too many to tell.
    """

    sessions: int | None
    blocks: int
    seen_before_ratio: float | None


@dataclass(frozen=True, slots=True, eq=False)
class TraceFacts:
    """What a trace is like.

    Attributes:
        described: Its own line.
        requests: How many.
        span_s: From second 0 to the last arrival.
        mean_requests_per_s: Over the span.
        peak_requests_per_s: The busiest minute; the busiest second of a trace of less.
        rates: ``float64[T]`` requests/s per step of ``rate_step_s``.
        prompt, output: Lengths.
        gap_cv: Coefficient of variation of the time between arrivals.
        dispersion: Variance over mean of the counts per span of seconds: 1 is Poisson at a constant rate.
        longest_gap_s, longest_gap_at_s: The longest silence, and when it began.
        silences: How many last longer than ``SILENCE_S``.
        prefix: Sessions and block hashes; None when the trace has neither.
    """

    described: str
    generated: bool
    begins_at: float
    requests: int
    span_s: float
    mean_requests_per_s: float
    peak_requests_per_s: float
    rate_step_s: float
    rates: Float64
    prompt: LengthFacts
    output: LengthFacts
    gap_cv: float
    dispersion: dict[float, float]
    longest_gap_s: float
    longest_gap_at_s: float
    silences: int
    prefix: PrefixFacts | None

    def as_json(self) -> dict[str, Any]:
        """Return everything but the rates, ready for ``json.dumps``; what cannot be told is null."""
        lengths = {
            f"{name}_tokens": {"mean": each.mean, "max": each.largest}
            | {f"p{p}": value for p, value in zip(PERCENTILES, each.percentiles, strict=True)}
            for name, each in (("prompt", self.prompt), ("output", self.output))
        }
        plain = ("generated", "begins_at", "requests", "span_s", "mean_requests_per_s", "peak_requests_per_s")
        gaps = ("longest_gap_s", "longest_gap_at_s", "silences")
        prefix = None if self.prefix is None else {
            "sessions": self.prefix.sessions, "blocks": self.prefix.blocks,
            "seen_before_ratio": self.prefix.seen_before_ratio,
        }  # fmt: skip
        return (
            {"trace": self.described, **{name: getattr(self, name) for name in plain}, **lengths}
            | {"gap_cv": self.gap_cv if math.isfinite(self.gap_cv) else None}
            | {"dispersion": {f"{span:g}": value for span, value in self.dispersion.items()}}
            | {name: getattr(self, name) for name in gaps}
            | {"prefix": prefix}
        )


def facts_of(trace: Trace, on_second: Callable[[float], None] = lambda _: None) -> TraceFacts:
    """Return the facts, after one pass over the requests in little memory; ``on_second`` is told how far it is.

    Raises:
        BadInput: If a row is wrong, or there is no request.
    """
    tally = _Tally()
    for batch in trace.batches():
        tally.add(batch)
        on_second(tally.last_s)
    if not tally.requests:
        raise BadInput("no request is left", trace.name, "show something longer, or with more load")
    return tally.facts(trace)


@dataclass(slots=True)
class _Counts:
    """Requests per step of a second; steps double when there would be too many."""

    step_s: float = 1.0
    counts: Int64 = field(default_factory=lambda: np.zeros(0, np.int64))

    def add(self, arrival_s: Float64) -> None:
        while arrival_s[-1] / self.step_s >= _MOST_STEPS:
            self.counts, self.step_s = _coarser(self.counts, 2).astype(np.int64), self.step_s * 2
        steps = (arrival_s / self.step_s).astype(np.int64)
        if steps[-1] >= len(self.counts):
            room = max(int(steps[-1]) + 1, min(2 * len(self.counts), _MOST_STEPS)) - len(self.counts)
            self.counts = np.concatenate((self.counts, np.zeros(room, np.int64)))
        self.counts[int(steps[0]) : int(steps[-1]) + 1] += np.bincount(steps - steps[0])

    def per(self, span_s: float, until_s: float) -> Float64:
        """Return counts per whole span of about ``span_s``, a multiple of the step."""
        whole = self.counts[: int(until_s // self.step_s)]
        return _coarser(whole[: len(whole) - len(whole) % self.steps_in(span_s)], self.steps_in(span_s))

    def steps_in(self, span_s: float) -> int:
        return max(1, math.ceil(span_s / self.step_s))


@dataclass(slots=True)
class _Tally:
    """What is kept of the requests seen so far."""

    requests: int = 0
    last_s: float = 0.0
    gap_sum: float = 0.0
    gap_square_sum: float = 0.0
    longest: tuple[float, float] = (0.0, 0.0)
    silences: int = 0
    counts: _Counts = field(default_factory=_Counts)
    lengths: tuple[Int64, Int64] = field(default_factory=lambda: (np.zeros(0, np.int64), np.zeros(0, np.int64)))
    totals: list[float] = field(default_factory=lambda: [0.0, 0.0])
    largest: list[int] = field(default_factory=lambda: [0, 0])
    sessions: list[Int64] | None = None
    blocks: int = 0
    hashes: list[Any] | None = None

    def add(self, batch: RequestBatch) -> None:
        arrival_s = batch.arrival_s
        # The wait for the very first request is a silence, but no gap between two.
        gaps = np.diff(arrival_s, prepend=self.last_s)
        self._silence(gaps)
        counted = gaps if self.requests else gaps[1:]
        self.gap_sum += float(counted.sum())
        self.gap_square_sum += float(counted @ counted)
        self.counts.add(arrival_s)
        self.lengths = (
            self._added(0, self.lengths[0], batch.prompt_tokens),
            self._added(1, self.lengths[1], batch.output_tokens),
        )
        if batch.session is not None:
            self.sessions = _distinct(self.sessions, batch.session[batch.session >= 0])
        if batch.block_hashes is not None:
            self.blocks += len(batch.block_hashes.hashes)
            self.hashes = _distinct(self.hashes, batch.block_hashes.hashes)
        self.requests += len(batch)
        self.last_s = float(arrival_s[-1])

    def facts(self, trace: Trace) -> TraceFacts:
        span_s = self.last_s
        step_s = self.counts.step_s * self.counts.steps_in(next(step for least, step in _RATE_STEPS if span_s >= least))
        in_steps = self.counts.counts[: int(span_s // self.counts.step_s) + 1]
        rates = _coarser(in_steps, self.counts.steps_in(step_s)) / step_s
        # What ends in the middle of the last step is no lull.
        rates[-1] *= step_s / max(span_s - (len(rates) - 1) * step_s, self.counts.step_s)
        minutes = self.counts.per(_PEAK_S, span_s) / (self.counts.step_s * self.counts.steps_in(_PEAK_S))
        gaps = max(self.requests - 1, 1)
        mean_gap = self.gap_sum / gaps
        variance = max(self.gap_square_sum / gaps - mean_gap**2, 0.0)
        spread = {span: _dispersion(self.counts.per(span, span_s)) for span in _SPANS_S if span >= self.counts.step_s}
        return TraceFacts(
            described=trace.describe(), generated=trace.generated, begins_at=trace.begins_at, requests=self.requests,
            span_s=span_s, mean_requests_per_s=self.requests / max(span_s, 1e-9) if span_s else float(self.requests),
            peak_requests_per_s=float((minutes if len(minutes) else rates).max()), rate_step_s=step_s, rates=rates,
            prompt=self._length_facts(0), output=self._length_facts(1),
            gap_cv=math.sqrt(variance) / mean_gap if mean_gap > 0 else math.nan,
            dispersion={span: value for span, value in spread.items() if value is not None},
            longest_gap_s=self.longest[0], longest_gap_at_s=self.longest[1], silences=self.silences,
            prefix=self._prefix(),
        )  # fmt: skip

    def _silence(self, gaps: Float64) -> None:
        row = int(gaps.argmax())
        if gaps[row] > self.longest[0]:
            began_s = self.last_s + float(gaps[:row].sum())
            self.longest = (float(gaps[row]), began_s)
        self.silences += int((gaps > SILENCE_S).sum())

    def _added(self, which: int, counts: Int64, tokens: Any) -> Int64:
        self.totals[which] += float(tokens.sum(dtype=np.float64))
        self.largest[which] = max(self.largest[which], int(tokens.max()))
        more = np.bincount(np.minimum(tokens, _MOST_TOKENS))
        longer, shorter = (more, counts) if len(more) >= len(counts) else (counts, more)
        longer = longer.copy()
        longer[: len(shorter)] += shorter
        return longer

    def _length_facts(self, which: int) -> LengthFacts:
        ranks = np.cumsum(self.lengths[which])
        found = [int(np.searchsorted(ranks, p / 100 * self.requests)) for p in PERCENTILES]
        return LengthFacts(self.totals[which] / self.requests, tuple(found), self.largest[which])

    def _prefix(self) -> PrefixFacts | None:
        if self.sessions is None and self.hashes is None:
            return None
        distinct = None if self.hashes is None else len(np.unique(np.concatenate(self.hashes)))
        known = distinct is not None and self.blocks > 0 and distinct < _MOST_HASHES
        sessions = None if self.sessions is None else len(np.unique(np.concatenate(self.sessions)))
        return PrefixFacts(sessions, self.blocks, 1 - (distinct or 0) / self.blocks if known else None)


def _distinct(kept: list[Any] | None, more: Any) -> list[Any]:
    """Return what was kept and more of it, without doubles once it has grown; what is far too much is dropped."""
    parts = [*(kept or []), more]
    if len(parts) > 64:
        parts = [np.unique(np.concatenate(parts))[:_MOST_HASHES]]
    return parts


def _coarser(counts: Int64, times: int) -> Float64:
    """Return sums of ``times`` neighbours, the last maybe of fewer."""
    if not len(counts):
        return np.zeros(0)
    return np.asarray(np.add.reduceat(counts, np.arange(0, len(counts), times)), dtype=np.float64)


def _dispersion(counts: Float64) -> float | None:
    mean = float(counts.mean()) if len(counts) >= 10 else 0.0
    return float(counts.var()) / mean if mean > 0 else None
