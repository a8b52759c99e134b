"""What load does a trace offer: per step, before an instant, and in what mix of request lengths."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from controller.errors import BadInput
from forecasting.series import LoadSeries
from simulations.trace import Int32, Trace
from simulations.trace_counts import counted
from simulations.trace_views import between
from simulations.workload import DrawnTrace

_SAMPLED_FROM = 1_000_000


@dataclass(frozen=True, slots=True, eq=False)
class TokenSample:
    """Lengths of some requests: ``int32[N]`` prompt and output tokens, position by position of one request."""

    prompt_tokens: Int32
    output_tokens: Int32

    def __len__(self) -> int:
        return len(self.prompt_tokens)


def load_series(trace: Trace, step_s: float) -> LoadSeries:
    """Return the offered load per step, from second 0 of the trace to its last complete step.

    Requests are counted. Where there are only rates to draw from and more than two million requests would have to be
    drawn, what such counting would give is drawn instead (``DrawnTrace.observed``); gaps of the series are NaN.
    """
    _check_step(step_s)
    if isinstance(trace, DrawnTrace):
        return trace.observed(0.0, trace.duration_s, step_s)
    return LoadSeries(0.0, step_s, counted(trace.batches(), step_s))


def load_before(trace: Trace, start_s: float, step_s: float, span_s: float) -> LoadSeries:
    """Return the history that a controller would have at ``start_s``: whole steps, the last of which ends there.

    It covers ``span_s`` seconds, or what there is since the trace began (no step at all for ``start_s`` 0), in seconds
    of ``trace``; ``sliced(trace, start_s)`` continues it. Noise as in ``load_series``.
    """
    _check_step(step_s)
    steps = max(math.floor(min(span_s, start_s) / step_s + 1e-9), 0)
    first_s = start_s - steps * step_s
    if not steps:
        return LoadSeries(start_s, step_s, np.zeros((0, 3)))
    if isinstance(trace, DrawnTrace):
        return trace.observed(first_s, start_s, step_s)
    return LoadSeries(first_s, step_s, counted(between(trace, max(first_s, 0.0), start_s), step_s, steps))


def token_shape(trace: Trace, limit: int = 20_000) -> TokenSample:
    """Return up to ``limit`` requests' lengths, evenly spread over the trace.

    Rates are sampled over their whole span, recorded requests over the first million.
    """
    if isinstance(trace, DrawnTrace):
        return TokenSample(*trace.sample(limit))
    prompts, outputs, count = [], [], 0
    for batch in trace.batches():
        prompts.append(batch.prompt_tokens)
        outputs.append(batch.output_tokens)
        count += len(batch)
        if count >= _SAMPLED_FROM:
            break
    rows = np.linspace(0, count - 1, min(limit, count)).astype(np.int64)
    return TokenSample(np.concatenate(prompts)[rows], np.concatenate(outputs)[rows])


def _check_step(step_s: float) -> None:
    if not (math.isfinite(step_s) and step_s > 0):
        raise BadInput(f"a step cannot be {step_s:g} s long", "step", "give seconds > 0")
