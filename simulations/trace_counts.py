"""How much load do given requests offer, step by step."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from controller.errors import BadInput
from simulations.trace import Float64, RequestBatch

_MOST_STEPS = 10_000_000


def counted(batches: Iterable[RequestBatch], step_s: float, steps: int | None = None) -> Float64:
    """Return ``float64[T, 3]``: requests/s, prompt tokens/s and output tokens/s of each step from 0 on.

    Args:
        batches: Requests in order of arrival; reading stops at the first one past the last step.
        step_s: Length of a step.
        steps: How many steps, whether or not anything arrives in them; None for all that are complete: the one in
            which the last request arrives is left out, because nobody knows what else would have arrived in it.

    Raises:
        BadInput: If the trace would have more than ten million steps.
    """
    sums = np.zeros((steps or 0, 3))
    last = 0
    for batch in batches:
        step = (batch.arrival_s / step_s).astype(np.int64)
        kept = len(step) if steps is None else int(np.searchsorted(step, steps))
        if kept:
            first, last = int(step[0]), int(step[kept - 1])
            sums = _grown(sums, last + 1, step_s)
            for channel, weights in enumerate((None, batch.prompt_tokens[:kept], batch.output_tokens[:kept])):
                sums[first : last + 1, channel] += np.bincount(step[:kept] - first, weights)
        if kept < len(step):
            break
    return sums[: last if steps is None else steps] / step_s


def _grown(sums: Float64, steps: int, step_s: float) -> Float64:
    if steps <= len(sums):
        return sums
    if steps > _MOST_STEPS:
        raise BadInput(f"{steps:,} steps of {step_s:g} s are too many", "step", "choose a longer step")
    return np.concatenate((sums, np.zeros((max(steps - len(sums), len(sums)), 3))))
