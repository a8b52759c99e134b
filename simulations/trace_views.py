"""How is a part of a trace replayed, or more or less of it."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from controller.errors import BadInput
from simulations.block_hashes import salt_of
from simulations.trace import BATCH_REQUESTS, Float64, RequestBatch, Trace, joined, rebatched
from simulations.workload import DrawnTrace

JITTER_S = 5.0
"""Most by which a copied request moves, in seconds, half of it with its copy and half on its own.

Unmoved copies would arrive K at a time, a burstiness that no service has. Real bursts last tens of seconds to minutes
and what the controller sees are scrapes some ten seconds apart, so five seconds break up the coincidences and leave
the bursts as they are.
"""

MOST_COPIES = 10_000
"""Most copies of recorded requests: each has its own random numbers, and a larger service its own trace."""

_COPIES = 1


def sliced(trace: Trace, start_s: float = 0.0, duration_s: float | None = None) -> Trace:
    """Return the requests that arrive from ``start_s`` on, for ``duration_s`` (None: to the end).

    The slice begins at second 0. Reading stops at its end. Rates are sliced without drawing what comes before.

    Raises:
        BadInput: If a bound is impossible; when nothing arrives in the slice (for a recorded file, while reading it).
    """
    length_s = math.inf if duration_s is None else duration_s
    if not (math.isfinite(start_s) and start_s >= 0):
        raise BadInput(f"a slice cannot start at {start_s:g} s", "slice start", "give seconds >= 0")
    if not length_s > 0:
        raise BadInput(f"a slice cannot last {length_s:g} s", "slice duration", "give seconds > 0")
    if start_s == 0 and math.isinf(length_s):
        return trace
    return trace.sliced(start_s, length_s) if isinstance(trace, DrawnTrace) else _Slice(trace, start_s, length_s)


def scaled(trace: Trace, factor: float, seed: int = 0) -> Trace:
    """Return ``factor`` times the load.

    Recorded requests are thinned below 1; above 1 they come with jittered copies (``JITTER_S``), the last of which is
    thinned when the factor is not whole. Copies are other users: they share no session and no prompt with the original.
    Rates are multiplied, and requests drawn from the product.

    Args:
        trace: What to scale.
        factor: 1 returns the trace itself.
        seed: For jitter and thinning.

    Raises:
        BadInput: If the factor is not finite and positive.
    """
    if not (math.isfinite(factor) and factor > 0):
        raise BadInput(f"the load cannot be scaled by {factor:g}", "scale", "give a finite factor > 0")
    if factor == 1:
        return trace
    return trace.scaled(factor) if isinstance(trace, DrawnTrace) else _Scaled(trace, factor, seed)


def length_of(trace: Trace) -> float | None:
    """Return how long a trace lasts at least where that is known before its requests are read, in seconds.

    Its last requests may arrive later: copies that jitter, and what is sent again after an outage.
    """
    length_s = trace.duration_s if isinstance(trace, DrawnTrace) else getattr(trace, "length_s", None)
    return None if length_s is None else float(length_s)


def between(trace: Trace, start_s: float, stop_s: float) -> Iterator[RequestBatch]:
    """Yield the requests that arrive from ``start_s`` to before ``stop_s``, counted from ``start_s``; maybe none."""
    for batch in trace.batches():
        first, last = (int(row) for row in np.searchsorted(batch.arrival_s, (start_s, stop_s)))
        if last > first:
            yield batch.between(first, last, -start_s)
        if last < len(batch):
            return


class _Slice:
    """Part of a recorded trace."""

    def __init__(self, trace: Trace, start_s: float, length_s: float) -> None:
        self.name, self.generated = trace.name, trace.generated
        self.begins_at = trace.begins_at + start_s
        self._trace, self._start_s, self._stop_s = trace, start_s, start_s + length_s
        whole_s = length_of(trace)
        left_s = min(length_s, math.inf if whole_s is None else max(whole_s - start_s, 0.0))
        self.length_s = None if math.isinf(left_s) else left_s

    def describe(self) -> str:
        """Return the trace's line, and which part this is."""
        return f"{self._trace.describe()}, {self._part()}"

    def batches(self) -> Iterator[RequestBatch]:
        """Yield the requests of the slice; raises BadInput when there are none."""
        empty = True
        for batch in between(self._trace, self._start_s, self._stop_s):
            empty = False
            yield batch
        if empty:
            remedy = "choose another slice: the trace ends before it, or has a gap there"
            raise BadInput(f"no request arrives in {self._part()}", self.name, remedy)

    def _part(self) -> str:
        end = "the end" if math.isinf(self._stop_s) else f"{self._stop_s:g}"
        return f"seconds {self._start_s:g} to {end}"


class _Scaled:
    """A recorded trace with jittered copies, or thinned."""

    def __init__(self, trace: Trace, factor: float, seed: int) -> None:
        self.name, self.generated, self.begins_at = trace.name, trace.generated, trace.begins_at
        self._trace, self._factor, self._seed = trace, factor, seed
        self.length_s = length_of(trace)

    def describe(self) -> str:
        """Return the trace's line, and by how much it was scaled."""
        return f"{self._trace.describe()}, load x {self._factor:g} (seed {self._seed})"

    def batches(self) -> Iterator[RequestBatch]:
        """Yield the scaled load anew."""
        whole = math.floor(self._factor)
        share = self._factor - whole
        copies = [_Copy(number, 1.0, self._seed) for number in range(whole)]
        copies += [_Copy(whole, share, self._seed)] if share > 1e-12 or not whole else []
        # Each piece becomes about a batch, whatever the factor.
        pieces = rebatched(self._trace.batches(), max(BATCH_REQUESTS // len(copies), 1))
        return rebatched(_merged(pieces, copies))


class _Copy:
    """One copy of the requests, in their order. Copy 0 is not moved."""

    def __init__(self, number: int, share: float, seed: int) -> None:
        self._number, self._share = number, share
        # One uniform per request and use, in order, so that batch borders do not matter.
        self._thinning, self._moving = (
            np.random.default_rng(np.random.SeedSequence([seed, number, use])) for use in range(2)
        )
        self._offset_s = self._moving.uniform(-JITTER_S / 2, JITTER_S / 2)

    def of(self, batch: RequestBatch) -> tuple[Float64, RequestBatch]:
        """Return the copy's arrivals, not sorted, and its requests with the arrivals of the original."""
        arrival_s = batch.arrival_s
        if self._number:
            moved = arrival_s + self._offset_s + self._moving.uniform(-JITTER_S / 2, JITTER_S / 2, len(batch))
            arrival_s = np.abs(moved)
            batch = batch.of_others(salt_of(self._number, _COPIES))
        if self._share < 1:
            kept = self._thinning.random(len(batch)) < self._share
            return arrival_s[kept], batch.taken(kept)
        return arrival_s, batch


def _merged(pieces: Iterator[RequestBatch], copies: list[_Copy]) -> Iterator[RequestBatch]:
    """Yield the copies of all pieces in order of arrival, holding back what a later piece may still precede."""
    held: list[RequestBatch] = []
    for piece in pieces:
        moved = [copy.of(piece) for copy in copies]
        arrival_s = np.concatenate([*(part.arrival_s for part in held), *(arrivals for arrivals, _ in moved)])
        order = np.argsort(arrival_s, kind="stable")
        whole = joined([*held, *(part for _, part in moved)], order, arrival_s[order])
        settled = int(np.searchsorted(whole.arrival_s, piece.arrival_s[-1] - JITTER_S))
        yield whole.between(0, settled)
        held = [whole.between(settled, len(whole))]
    yield from held
