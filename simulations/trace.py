"""What is a trace: requests in order of arrival, batch by batch, as often as asked."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

from simulations.block_hashes import BlockHashes, joined_hashes

Float64: TypeAlias = npt.NDArray[np.float64]
Int32: TypeAlias = npt.NDArray[np.int32]
Int64: TypeAlias = npt.NDArray[np.int64]
Bool: TypeAlias = npt.NDArray[np.bool_]

_Scalar = TypeVar("_Scalar", bound=np.generic)

BATCH_REQUESTS = 65_536
"""Most requests in one batch: some 2 MB, so that a trace of any length passes through little memory."""

LONGEST_S = 1e8
"""Longest a trace may be, in seconds: three years. What is later is another unit or a slip, and would run for ever."""


@dataclass(frozen=True, slots=True, eq=False)
class RequestBatch:
    """A stretch of N requests, in order of arrival. All arrays are read-only.

    Attributes:
        arrival_s: ``float64[N]``, seconds since the trace began, ascending (equal instants are allowed).
        prompt_tokens: ``int32[N]``, at least 1.
        output_tokens: ``int32[N]``, at least 1.
        model: ``int32[N]`` positions in ``models``; None when the trace names no model.
        models: Names of the models, by position; later batches of one trace only append to it.
        session: ``int64[N]`` session ids, equal for the turns of one session, -1 for none; None when not known.
        block_hashes: For each request the hashes of its prompt's KV blocks in order, as ``int64[N + 1]`` offsets into
            ``uint64[M]``; None when not known.

    Raises:
        ValueError: If lengths differ, an arrival is not finite, negative or out of order, or tokens are below 1.
    """

    arrival_s: Float64
    prompt_tokens: Int32
    output_tokens: Int32
    model: Int32 | None = None
    models: tuple[str, ...] = field(default=())
    session: Int64 | None = None
    block_hashes: BlockHashes | None = None

    def __post_init__(self) -> None:
        arrival = _frozen(self.arrival_s, np.float64)
        object.__setattr__(self, "arrival_s", arrival)
        # NaN fails every comparison, so these two tests also catch it; an ascending batch is bounded by its ends.
        if not (arrival[1:] >= arrival[:-1]).all():
            raise ValueError("arrivals are not in ascending order")
        if len(arrival) and not (arrival[0] >= 0 and np.isfinite(arrival[-1])):
            raise ValueError("arrivals must be finite and not negative")
        for name in ("prompt_tokens", "output_tokens"):
            tokens = _frozen(getattr(self, name), np.int32)
            object.__setattr__(self, name, tokens)
            if len(tokens) and tokens.min() < 1:
                raise ValueError(f"{name} must be at least 1")
        if self.model is not None:
            object.__setattr__(self, "model", _frozen(self.model, np.int32))
            if len(self.model) and not 0 <= self.model.min() <= self.model.max() < len(self.models):
                raise ValueError("model holds a position outside models")
        if self.session is not None:
            object.__setattr__(self, "session", _frozen(self.session, np.int64))
        columns = (self.prompt_tokens, self.output_tokens, self.model, self.session, self.block_hashes)
        if any(column is not None and len(column) != len(arrival) for column in columns):
            raise ValueError("all columns of a batch must have one length")

    def __len__(self) -> int:
        return len(self.arrival_s)

    def taken(self, rows: Int64 | Bool, arrival_s: Float64 | None = None) -> RequestBatch:
        """Return the requests at ``rows`` (positions or a mask), arriving at ``arrival_s`` where it is given."""
        hashes = self.block_hashes
        if hashes is not None:
            hashes = hashes.taken(np.flatnonzero(rows) if rows.dtype == np.bool_ else rows.astype(np.int64))
        return RequestBatch(
            self.arrival_s[rows] if arrival_s is None else arrival_s,
            self.prompt_tokens[rows],
            self.output_tokens[rows],
            None if self.model is None else self.model[rows],
            self.models,
            None if self.session is None else self.session[rows],
            hashes,
        )

    def between(self, first: int, last: int, later_s: float = 0.0) -> RequestBatch:
        """Return requests ``first`` (inclusive) to ``last`` (exclusive), arriving ``later_s`` seconds later."""
        cut = slice(first, last)
        return RequestBatch(
            self.arrival_s[cut] + later_s if later_s else self.arrival_s[cut],
            self.prompt_tokens[cut],
            self.output_tokens[cut],
            None if self.model is None else self.model[cut],
            self.models,
            None if self.session is None else self.session[cut],
            None if self.block_hashes is None else self.block_hashes.between(*cut.indices(len(self))[:2]),
        )

    def at(self, arrival_s: Float64) -> RequestBatch:
        """Return the requests arriving at ``arrival_s``."""
        return replace(self, arrival_s=arrival_s)

    def of_others(self, salt: int) -> RequestBatch:
        """Return the same requests by other users: with session and block hashes that nothing else has."""
        if not salt or (self.session is None and self.block_hashes is None):
            return self
        session, hashes = self.session, self.block_hashes
        return replace(
            self,
            session=None if session is None else np.where(session < 0, session, session ^ salt),
            block_hashes=None if hashes is None else hashes.salted(salt),
        )


class Trace(Protocol):
    """A workload that can be replayed."""

    @property
    def name(self) -> str:
        """Short name for tables: the file's name, or one that says that the trace is generated."""
        ...

    @property
    def generated(self) -> bool:
        """Whether Foresail made it up; False for anything recorded."""
        ...

    @property
    def begins_at(self) -> float:
        """Instant of second 0, seconds since the Unix epoch; what decides the hour of the day and the day of the week.

        A source whose own clock begins with it has no other calendar than that clock: then this counts from its start.
        """
        ...

    def describe(self) -> str:
        """Return one line on what it is and where it comes from."""
        ...

    def batches(self) -> Iterator[RequestBatch]:
        """Yield all requests anew, ascending over the whole trace, at most ``BATCH_REQUESTS`` at a time.

        Raises:
            BadInput: If the file behind it turns out to be wrong.
        """
        ...


def joined(parts: Sequence[RequestBatch], order: Int64 | None = None, arrival_s: Float64 | None = None) -> RequestBatch:
    """Return the requests of all ``parts`` one after the other, or in ``order`` (positions in that concatenation).

    ``arrival_s`` replaces the arrivals of the result. An optional column is kept only when every part that has
    requests has it.
    """
    filled = [part for part in parts if len(part)] or list(parts[:1])
    if len(filled) == 1 and order is None and arrival_s is None:
        return filled[0]
    model, names = _joined_models(filled)
    sessions = [part.session for part in filled if part.session is not None]
    session = np.concatenate(sessions) if len(sessions) == len(filled) else None
    hashes = _joined_hashes(filled)
    arrivals, prompts, outputs = (
        np.concatenate([getattr(part, column) for part in filled])
        for column in ("arrival_s", "prompt_tokens", "output_tokens")
    )
    if order is not None:
        arrivals, prompts, outputs = arrivals[order], prompts[order], outputs[order]
        model = None if model is None else model[order]
        session = None if session is None else session[order]
        hashes = None if hashes is None else hashes.taken(order)
    return RequestBatch(arrivals if arrival_s is None else arrival_s, prompts, outputs, model, names, session, hashes)


def rebatched(parts: Iterable[RequestBatch], size: int = BATCH_REQUESTS) -> Iterator[RequestBatch]:
    """Yield the requests of ``parts`` in batches of exactly ``size`` and a shorter last one; never an empty one."""
    waiting: list[RequestBatch] = []
    held = 0
    for part in parts:
        first = 0
        while len(part) - first >= size - held:
            cut = first + size - held
            yield joined([*waiting, part.between(first, cut)])
            waiting, held, first = [], 0, cut
        if first < len(part):
            waiting.append(part.between(first, len(part)))
            held += len(part) - first
    if held:
        yield joined(waiting)


def _frozen(column: npt.ArrayLike, dtype: type[_Scalar]) -> npt.NDArray[_Scalar]:
    """Return a read-only view of ``column`` (a copy only where the type differs)."""
    view = np.asarray(column, dtype=dtype).view()
    if view.ndim != 1:
        raise ValueError(f"a column of a batch has one dimension, got shape {view.shape}")
    view.setflags(write=False)
    return view


def _joined_models(parts: Sequence[RequestBatch]) -> tuple[Int32 | None, tuple[str, ...]]:
    if any(part.model is None for part in parts):
        return None, ()
    names = tuple(dict.fromkeys(name for part in parts for name in part.models))
    place = {name: code for code, name in enumerate(names)}
    codes = [
        np.array([place[name] for name in part.models], dtype=np.int32)[part.model]
        for part in parts
        if part.model is not None
    ]
    return np.concatenate(codes), names


def _joined_hashes(parts: Sequence[RequestBatch]) -> BlockHashes | None:
    columns = [part.block_hashes for part in parts if part.block_hashes is not None]
    return joined_hashes(columns) if len(columns) == len(parts) else None
