"""How do several streams of requests become one, in order of arrival and in little memory?"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace

import numpy as np

from simulations.block_hashes import BlockHashes
from simulations.trace import RequestBatch, Trace, joined


@dataclass(slots=True)
class Columns:
    """Which optional columns a mixture has, and one list of model names for all its parts.

    A part that lacks a column which another has is filled: with a model without a name, no session, no hashes.
    """

    model: bool
    session: bool
    block_hashes: bool
    names: dict[str, int] = field(default_factory=dict)

    @classmethod
    def of(cls, traces: Iterable[Trace]) -> Columns:
        """Return the columns of a mixture of ``traces``, by the first requests of each."""
        firsts = [next(iter(trace.batches()), None) for trace in traces]
        known = [first for first in firsts if first is not None]
        return cls(
            model=any(first.model is not None for first in known),
            session=any(first.session is not None for first in known),
            block_hashes=any(first.block_hashes is not None for first in known),
        )

    def filled(self, batch: RequestBatch) -> RequestBatch:
        """Return the batch with the columns of the mixture."""
        model, session, hashes = batch.model, batch.session, batch.block_hashes
        if self.model:
            names = batch.models if model is not None else ("",)
            codes = np.array([self.names.setdefault(name, len(self.names)) for name in names], dtype=np.int32)
            model = codes[model] if model is not None else np.full(len(batch), codes[0], np.int32)
        if self.session and session is None:
            session = np.full(len(batch), -1, np.int64)
        if self.block_hashes and hashes is None:
            hashes = BlockHashes(np.zeros(len(batch) + 1, np.int64), np.zeros(0, np.uint64))
        return replace(batch, model=model, models=tuple(self.names), session=session, block_hashes=hashes)


def merged(first: Iterator[RequestBatch], second: Iterator[RequestBatch]) -> Iterator[RequestBatch]:
    """Yield the requests of both in order of arrival; of equal instants those of ``first`` come first."""
    streams = (_Stream(first), _Stream(second))
    while streams[0].fill() and streams[1].fill():
        until_s = min(stream.last_s for stream in streams)
        parts = [stream.upto(until_s) for stream in streams]
        order = np.argsort(np.concatenate([part.arrival_s for part in parts]), kind="stable")
        if len(order):
            yield joined(parts, order) if all(len(part) for part in parts) else joined(parts)
    for stream in streams:
        yield from stream.rest()


def moved(batches: Iterable[RequestBatch], later_s: float) -> Iterator[RequestBatch]:
    """Yield the requests ``later_s`` seconds later."""
    return (batch.between(0, len(batch), later_s) for batch in batches)


class _Stream:
    """A stream with what was taken from it and not used yet."""

    def __init__(self, batches: Iterator[RequestBatch]) -> None:
        self._batches = batches
        self._held: RequestBatch | None = None

    @property
    def last_s(self) -> float:
        return float(self._held.arrival_s[-1]) if self._held is not None else 0.0

    def fill(self) -> bool:
        """Make sure that something is held; False at the end."""
        while self._held is None or not len(self._held):
            self._held = next(self._batches, None)
            if self._held is None:
                return False
        return True

    def upto(self, until_s: float) -> RequestBatch:
        """Take what is held and arrives at ``until_s`` or before."""
        held = self._held
        assert held is not None, "fill() was not asked"  # noqa: S101 - a slip of ours, not of the user
        cut = int(np.searchsorted(held.arrival_s, until_s, side="right"))
        self._held = held.between(cut, len(held))
        return held.between(0, cut)

    def rest(self) -> Iterator[RequestBatch]:
        if self._held is not None and len(self._held):
            yield self._held
        self._held = None
        yield from self._batches
