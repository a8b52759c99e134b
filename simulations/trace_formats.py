"""Which request formats can be read, and what does a row of each mean."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from controller.errors import BadInput
from simulations.block_hashes import BlockHashes
from simulations.trace import LONGEST_S, Bool, Float64, Int32, Int64, RequestBatch
from simulations.trace_pieces import Piece
from simulations.trace_tables import TableFile

_NS_PER_S = 1e9
_MOST_TOKENS = np.iinfo(np.int32).max
_MOST_MODELS = 10_000


@dataclass(frozen=True, slots=True)
class RequestFormat:
    """The columns of one format, one row per request.

    Attributes:
        title: What it is called in messages.
        arrival, prompt, output: The columns every file of this format has.
        model, session, block_hashes: Columns that a file may have; empty when the format has none.
        distinctive: Further columns that tell this format from others.
        per_s: Units of ``arrival`` in a second; None when it holds date and time.
        from_first: Whether time starts at the first row, because the format's zero is arbitrary.
        zero_output_is_failure: Whether a row with 0 output tokens is a failed request, to be left out.
    """

    title: str
    arrival: str
    prompt: str
    output: str
    model: str = ""
    session: str = ""
    block_hashes: str = ""
    distinctive: tuple[str, ...] = ()
    per_s: float | None = 1.0
    from_first: bool = True
    zero_output_is_failure: bool = False

    @property
    def required(self) -> tuple[str, ...]:
        """The columns by which the format is known."""
        return (self.arrival, self.prompt, self.output, *self.distinctive)

    def types(self, columns: tuple[str, ...]) -> dict[str, Any]:
        """Return the pyarrow type of each of ``columns`` that this format reads."""
        arrival = pa.timestamp("ns") if self.per_s is None else pa.float64()
        types = {self.arrival: arrival, self.prompt: pa.float64(), self.output: pa.float64()}
        optional = {self.model: pa.string(), self.session: pa.string(), self.block_hashes: pa.string()}
        return types | {name: kind for name, kind in optional.items() if name and name in columns}


FORESAIL = RequestFormat(
    "Foresail requests",
    "arrival_s",
    "prompt_tokens",
    "output_tokens",
    model="model",
    session="session",
    block_hashes="block_hashes",
    from_first=False,
)
AZURE = RequestFormat("Azure LLM requests", "TIMESTAMP", "ContextTokens", "GeneratedTokens", per_s=None)
BURSTGPT = RequestFormat(
    "BurstGPT requests",
    "Timestamp",
    "Request tokens",
    "Response tokens",
    model="Model",
    session="Session ID",
    distinctive=("Model",),
    zero_output_is_failure=True,
)
MOONCAKE = RequestFormat(
    "Mooncake requests", "timestamp", "input_length", "output_length", block_hashes="hash_ids", per_s=1000.0
)
REQUEST_FORMATS = (FORESAIL, AZURE, BURSTGPT, MOONCAKE)


class RequestRows:
    """One pass over the requests of a file: converts and checks piece after piece.

    ``failed_at`` has the arrivals of the failed requests that were left out so far, in seconds.

    Args:
        table: The file.
        form: Its format.
        only_model: Leave out all other models; None keeps all.
    """

    def __init__(self, table: TableFile, form: RequestFormat, only_model: str | None) -> None:
        self.failed_at: list[Float64] = []
        self.models: dict[str, int] = {}
        self._table, self._form, self._only_model = table, form, only_model
        self._types = form.types(table.columns)
        if table.kind == "jsonl" and form.block_hashes in self._types:
            self._types[form.block_hashes] = pa.list_(pa.int64())
        self._last: float = -np.inf
        self._origin: float | np.int64 | None = None

    @property
    def begins_at(self) -> float:
        """Instant of second 0 as the file's clock shows it, in seconds; 0 before the first row was read."""
        if self._origin is None:
            return 0.0
        return float(self._origin) / _NS_PER_S if self._form.per_s is None else float(self._origin)

    @property
    def failed(self) -> int:
        """How many failed requests were left out so far."""
        return sum(len(each) for each in self.failed_at)

    def __iter__(self) -> Iterator[RequestBatch]:
        """Yield the requests; raises BadInput naming the first row that is wrong."""
        for piece in self._table.pieces(self._types):
            yield self._batch(piece)

    def _batch(self, piece: Piece) -> RequestBatch:
        form = self._form
        arrival_s = self._arrivals(piece)
        output = piece.numbers(form.output)
        served: Bool = output != 0 if form.zero_output_is_failure else np.ones(len(piece), dtype=np.bool_)
        prompt_tokens = _tokens(piece, form.prompt, piece.numbers(form.prompt), served)
        output_tokens = _tokens(piece, form.output, output, served)
        model = self._model_codes(piece) if form.model in self._types else None
        wanted: Bool = np.ones(len(piece), dtype=np.bool_)
        if self._only_model is not None and model is not None:
            wanted = model == self.models.get(self._only_model, -1)
        self.failed_at.append(arrival_s[wanted & ~served])
        kept = wanted & served
        batch = RequestBatch(
            arrival_s,
            prompt_tokens,
            output_tokens,
            model,
            tuple(self.models),
            _session_ids(piece, form.session) if form.session in self._types else None,
            self._hashes(piece),
        )
        return batch if kept.all() else batch.taken(kept)

    def _arrivals(self, piece: Piece) -> Float64:
        """Return seconds since the trace began."""
        column = self._form.arrival
        if self._form.per_s is None:
            instants, missing = piece.instants_ns(column)
            if missing.any():
                raise BadInput("the arrival is missing", piece.where(int(missing.argmax()), column), _ROW_REMEDY)
            # Whole nanoseconds are subtracted first: seconds since 1970 as float64 would round them to 0.2 us.
            self._origin = instants[0] if self._origin is None else self._origin
            arrival = (instants - self._origin) / _NS_PER_S
        else:
            arrival = piece.numbers(column) / self._form.per_s
            _refuse(piece, column, arrival, ~((arrival >= 0) & (arrival < np.inf)), "is not a time >= 0")
            if self._form.from_first:
                self._origin = arrival[0] if self._origin is None else self._origin
                arrival = arrival - self._origin
        self._check_order(piece, arrival)
        if arrival[-1] > LONGEST_S:
            row = int((arrival > LONGEST_S).argmax())
            what = f"{arrival[row]:g} s after the beginning is too late: a trace lasts at most {LONGEST_S:,.0f} s"
            raise BadInput(what, piece.where(row, column), f"give arrivals {_arrival_unit(self._form)}")
        return arrival

    def _check_order(self, piece: Piece, arrival: Float64) -> None:
        before = np.concatenate(([self._last], arrival[:-1]))
        if (late := arrival < before).any():
            row = int(late.argmax())
            what = f"arrivals are not sorted: this one is {before[row] - arrival[row]:.6g} s before the one above"
            remedy = f"sort the file by {self._form.arrival}"
            raise BadInput(what, piece.where(row, self._form.arrival), remedy)
        self._last = float(arrival[-1])

    def _model_codes(self, piece: Piece) -> Int32:
        codes, names = piece.texts(self._form.model)
        if (codes < 0).any():
            names, codes = [*names, ""], np.where(codes < 0, len(names), codes)
        for name in names:
            self.models.setdefault(name, len(self.models))
        if len(self.models) > _MOST_MODELS:
            what = f"more than {_MOST_MODELS} different models"
            raise BadInput(
                what, f"{piece.path} column {self._form.model}", "name the model in this column, nothing else"
            )
        return np.array([self.models[name] for name in names], dtype=np.int32)[codes]

    def _hashes(self, piece: Piece) -> BlockHashes | None:
        return piece.hashes(self._form.block_hashes) if self._form.block_hashes in self._types else None


_ROW_REMEDY = "correct the row, or remove it"


def _arrival_unit(form: RequestFormat) -> str:
    if form.per_s is None:
        return "of one recording"
    unit = "seconds" if form.per_s == 1 else "milliseconds"
    return f"in {unit}" if form.from_first else f"in {unit} since the beginning"


def _tokens(piece: Piece, column: str, tokens: Float64, kept: Bool) -> Int32:
    """Return whole tokens; rows not ``kept`` are 1."""
    good = (tokens >= 1) & (tokens <= _MOST_TOKENS) & (tokens == np.floor(tokens))
    _refuse(piece, column, tokens, kept & ~good, f"is not a whole number of tokens from 1 to {_MOST_TOKENS:,}")
    return np.where(good, tokens, 1).astype(np.int32)


def _refuse(piece: Piece, column: str, values: Float64, bad: Bool, why: str) -> None:
    if bad.any():
        row = int(bad.argmax())
        shown = "a missing value" if np.isnan(values[row]) else f"{values[row]:g}"
        raise BadInput(f"{shown} {why}", piece.where(row, column), _ROW_REMEDY)


def _session_ids(piece: Piece, column: str) -> Int64:
    """Return whole numbers >= 0 as they are, or else a 63-bit id per session text; -1 for none.

    The ids of texts are the same in every piece without remembering the texts.
    """
    ids = piece.ids(column)
    if ids is not None:
        return ids
    codes, texts = piece.texts(column)
    hashed = [int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1 for text in texts]
    return np.array([*hashed, -1], dtype=np.int64)[codes]
