"""Which trace is in this file: its format is told by its columns."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from controller.errors import BadInput
from simulations.arrivals import ArrivalProcess, arrivals_named
from simulations.client_files import REQUIRED, has_clients, read_clients
from simulations.client_workload import RecordedClients
from simulations.generator import GeneratedTrace, GeneratorSettings
from simulations.load_series_files import load_column, read_series
from simulations.rate_curve import RateCurve
from simulations.token_shapes import TOKEN_SHAPES, EmpiricalShape, Lengths, token_shape_named
from simulations.trace import BATCH_REQUESTS, RequestBatch, Trace, rebatched
from simulations.trace_bytes import checked_file
from simulations.trace_formats import REQUEST_FORMATS, RequestFormat, RequestRows
from simulations.trace_notes import read_notes
from simulations.trace_tables import TableFile, open_table
from simulations.workload import Client, DrawnTrace

GENERATED = "generated"
"""In the place of a file: the generator's default service. A file of that name is reached by its absolute path."""

_HASHED_BATCH_REQUESTS = 4_096
"""Most requests in a batch that carries block hashes: each may have hundreds."""

_SHAPE_REQUESTS = 1_000_000
"""Most requests of a file whose lengths are drawn again."""

_SHOWN_COLUMNS = 20


class RequestFile:
    """A recorded file with one row per request."""

    def __init__(self, table: TableFile, form: RequestFormat, only_model: str | None = None) -> None:
        if only_model is not None and form.model not in table.columns:
            what = f"model {only_model!r} was asked for, but the file has no column that names models"
            raise BadInput(what, str(table.path), "leave the model out")
        self.name = table.path.name
        self._notes = read_notes(table)
        self.generated = self._notes.generated
        self._table, self._form, self._only_model = table, form, only_model
        self._failed = 0
        self._rows = RequestRows(table, form, None)
        # Also looks at the first rows now, so that a hopeless file is refused before anything is set up.
        if next(iter(self._rows), None) is None:
            raise BadInput("the file has columns but no rows", str(table.path), "export or download the trace again")
        self.begins_at = self._rows.begins_at + self._notes.begins_at

    def describe(self) -> str:
        """Return one line; how many failed requests were left out is known after one full pass."""
        parts = [f"{self.name}: {self._form.title}, {self._notes.made or 'recorded'}"]
        if self._only_model is not None:
            parts.append(f"model {self._only_model} only")
        if self._failed:
            parts.append(f"{self._failed} failed requests (0 output tokens) left out")
        return ", ".join(parts)

    def failed_between(self, start_s: float, stop_s: float) -> int:
        """Return how many failed requests were left out between two instants, as far as the latest pass has read."""
        return sum(int(np.sum((start_s <= at_s) & (at_s < stop_s))) for at_s in self._rows.failed_at)

    def batches(self) -> Iterator[RequestBatch]:
        """Yield all requests anew.

        Raises:
            BadInput: Naming the row that is wrong; or when no request is left to replay.
        """
        rows = self._rows = RequestRows(self._table, self._form, self._only_model)
        hashed = self._form.block_hashes in self._table.columns
        empty = True
        for batch in rebatched(rows, _HASHED_BATCH_REQUESTS if hashed else BATCH_REQUESTS):
            empty = False
            yield batch
        self._failed = rows.failed
        if empty:
            raise self._nothing_left(rows)

    def _nothing_left(self, rows: RequestRows) -> BadInput:
        path = str(self._table.path)
        if self._only_model is not None and rows.models and not rows.failed:
            seen = ", ".join(sorted(rows.models))
            return BadInput(f"no request for model {self._only_model!r}", path, f"models in the file: {seen}")
        if rows.failed:
            return BadInput(f"all {rows.failed} rows are failed requests", path, "give a trace with served requests")
        return BadInput("the file has columns but no rows", path, "export or download the trace again")


def open_trace(
    path: str | Path,
    *,
    seed: int = 0,
    model: str | None = None,
    token_shape: str = "chat",  # noqa: S107  (no password)
    arrivals: str = "poisson",
    arrival_cv: float = 3.0,
) -> Trace:
    """Return the trace in the file at ``path``: any format of ``REQUEST_FORMATS``, or a load series.

    Args:
        path: Parquet, CSV or JSON lines, plain or compressed with gzip, bzip2 or zstd; or ``GENERATED``.
        seed: For the requests that are drawn from a load series, and for all that is generated.
        model: Only the requests of this model; for a load series the column that counts them. None takes all.
        token_shape: How long the requests of a load series or of recorded clients are (``token_shapes.SYNTAX``); where
            a series has tokens per step, the shape is stretched to their means.
        arrivals: How evenly the requests of a load series arrive (``ARRIVALS``).
        arrival_cv: Burstiness of ``gamma`` arrivals: coefficient of variation of the gaps.

    Raises:
        BadInput: If there is no such file, nothing in it, or no known format; if a name is unknown. Rows are checked
            while they are read.
    """
    shape, process = lengths_of(token_shape), arrivals_named(arrivals, arrival_cv)
    if seed < 0:
        raise BadInput(f"the seed is {seed}", "seed", "give a whole number >= 0")
    if str(path) == GENERATED:
        if model is not None:
            what = f"model {model!r} was asked for, but generated load names no models"
            raise BadInput(what, GENERATED, "leave the model out")
        return GeneratedTrace(GeneratorSettings(), seed)
    table = open_table(checked_file(Path(path)))
    for form in REQUEST_FORMATS:
        if set(form.required) <= set(table.columns):
            return RequestFile(table, form, model)
    if has_clients(table):
        return _client_trace(table, model, shape, seed)
    column = load_column(table, model)
    if column is None:
        raise _unknown_format(table)
    return _series_trace(table, column, shape, process, seed)


def names_a_file(token_shape: str) -> bool:
    """Return whether lengths are those of a file: what is no name, and there."""
    # Unlike Path.exists() this is False, and no error, for what is too long to be a name.
    return token_shape not in TOKEN_SHAPES and os.path.exists(token_shape)  # noqa: PTH110 - see above


def lengths_of(text: str) -> Lengths:
    """Return the token shape called ``text``, or that of the requests in the file of that name.

    Raises:
        BadInput: If there is neither, or the file holds no requests.
    """
    if not names_a_file(text):
        return token_shape_named(text)
    table = open_table(checked_file(Path(text)))
    form = next((form for form in REQUEST_FORMATS if set(form.required) <= set(table.columns)), None)
    if form is None:
        raise BadInput("token lengths are taken from requests, and this file has none", text, "name a request trace")
    parts, count = [], 0
    for batch in RequestFile(table, form).batches():
        parts.append(batch)
        count += len(batch)
        if count >= _SHAPE_REQUESTS:
            break
    prompt, output = (
        np.concatenate([getattr(part, name) for part in parts]) for name in ("prompt_tokens", "output_tokens")
    )
    return EmpiricalShape(Path(text).name, prompt, output)


def _series_trace(table: TableFile, column: str, shape: Lengths, process: ArrivalProcess, seed: int) -> DrawnTrace:
    series = read_series(table, column)
    curve = RateCurve(series.step_s, series.requests_per_s)
    origin = (
        f"load series, recorded: {len(series.requests_per_s)} steps of {series.step_s:g} s (column {column}), "
        f"{shape.name} lengths, arrival CV {process.cv:g}"
    )
    client = Client(curve, process, shape, series.prompt_mean, series.output_mean)
    return DrawnTrace(table.path.name, origin, False, [client], seed, curves_begin_at=series.start_at)


def _client_trace(table: TableFile, model: str | None, shape: Lengths, seed: int) -> DrawnTrace:
    recorded = read_clients(table, model)
    clients = RecordedClients(recorded.step_s, recorded.rates, recorded.cv, recorded.is_weibull, shape)
    who = f"{len(recorded.names)} clients" if model is None else f"client {model}"
    origin = (
        f"client rates, recorded: {who}, {recorded.rates.shape[1]} windows of {recorded.step_s:g} s, "
        f"gaps as recorded, {shape.name} lengths"
    )
    return DrawnTrace(table.path.name, origin, False, [clients], seed, curves_begin_at=recorded.start_at)


def _unknown_format(table: TableFile) -> BadInput:
    shown = ", ".join(repr(name) for name in table.columns[:_SHOWN_COLUMNS])
    more = f" and {len(table.columns) - _SHOWN_COLUMNS} more" if len(table.columns) > _SHOWN_COLUMNS else ""
    tried = "; ".join(f"{form.title} ({', '.join(form.required)})" for form in REQUEST_FORMATS)
    return BadInput(
        f"no known trace format has these columns: {shown}{more}",
        str(table.path),
        f"tried: {tried}; load series (t with requests or rate); clients ({', '.join(REQUIRED)})",
    )
