"""How is a trace written to a file, whole or not at all, and does it fit on the disk?"""

from __future__ import annotations

import io
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import chain, islice
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from controller.errors import BadInput
from simulations.output_places import check_file, refusing
from simulations.trace import RequestBatch, Trace, joined
from simulations.trace_notes import TraceNotes
from simulations.trace_tables import NOTES_KEY
from simulations.workload import DrawnTrace

_ROW_GROUP_BATCHES = 8
_KEPT_FREE_BYTES = 256 << 20
"""Room on the disk that no trace takes."""
_CAUTION = 1.1
"""The first rows stand for all; later ones may be longer, and arrivals take more digits."""


def write_trace(trace: Trace, path: Path, on_share: Callable[[float], None] = lambda _: None) -> int:
    """Write ``trace`` as Parquet and return how many requests it has.

    The requests are counted first, so that a mistake in them or a disk too small shows before anything is written
    (rates are not drawn for that: their expected number is known). The file appears when it is complete.

    Args:
        trace: What to write.
        path: Where to; a file that is there is replaced.
        on_share: Told which share is done, now and then.

    Raises:
        BadInput: If it would not fit, cannot be written, or a row of a source is wrong.
    """
    check_file(path, "--out")
    count = _requests(trace)
    batches = trace.batches()
    first = list(islice(batches, _ROW_GROUP_BATCHES))
    if not first:
        raise BadInput("no request is left", trace.name, "make the trace of something longer")
    _check_room(path, first, count)
    # Beside the file and not in the folder for temporary files: renaming must not copy.
    # Of this process alone, for another one may be making the same file.
    half = path.with_name(f".{path.name}.{os.getpid()}")
    written = 0
    try:
        with refusing(f"--out {path}", "name a file on a disk with room for it"):
            with pq.ParquetWriter(half, _schema(first[0], trace), compression="zstd", compression_level=1) as writer:
                for group in _groups(chain(first, batches)):
                    writer.write_table(_table(group, writer.schema))
                    written += len(group)
                    on_share(min(written / max(count, 1.0), 1.0))
            half.replace(path)
    except BaseException:
        with suppress(OSError):
            half.unlink()
        raise
    return written


def _requests(trace: Trace) -> float:
    """Return how many requests there are, or are to be expected."""
    if isinstance(trace, DrawnTrace):
        return trace.expected_requests(0.0, trace.duration_s)
    return float(sum(len(batch) for batch in trace.batches()))


def _check_room(path: Path, first: list[RequestBatch], count: float) -> None:
    sample = joined(first)
    buffer = io.BytesIO()
    table = _table(sample, _schema(sample, None))
    pq.write_table(table, buffer, compression="zstd", compression_level=1)
    needed = buffer.tell() / len(sample) * max(count, len(sample)) * _CAUTION
    with refusing(f"--out {path}", "name a file in a folder that exists"):
        free = shutil.disk_usage(path.absolute().parent).free
    if needed > free - _KEPT_FREE_BYTES:
        what = f"{_count(count)} requests take about {_size(needed)}, and the disk has {_size(free)} free"
        remedy = "make a shorter trace, or name a place with more room; `simulate --scenario` needs no file"
        raise BadInput(what, f"--out {path}", remedy)


def _groups(batches: Iterator[RequestBatch]) -> Iterator[RequestBatch]:
    while group := list(islice(batches, _ROW_GROUP_BATCHES)):
        yield joined(group)


def _schema(batch: RequestBatch, trace: Trace | None) -> pa.Schema:
    fields = [("arrival_s", pa.float64()), ("prompt_tokens", pa.int32()), ("output_tokens", pa.int32())]
    fields += [("model", pa.dictionary(pa.int32(), pa.string()))] if batch.model is not None else []
    fields += [("session", pa.int64())] if batch.session is not None else []
    fields += [("block_hashes", pa.list_(pa.uint64()))] if batch.block_hashes is not None else []
    schema = pa.schema([pa.field(name, kind, nullable=name in ("model", "session")) for name, kind in fields])
    if trace is None:
        return schema
    notes = TraceNotes(begins_at=trace.begins_at, generated=trace.generated, made=trace.describe()[:4000])
    return schema.with_metadata({NOTES_KEY: notes.model_dump_json().encode()})


def _table(batch: RequestBatch, schema: pa.Schema) -> pa.Table:
    columns = [pa.array(batch.arrival_s), pa.array(batch.prompt_tokens), pa.array(batch.output_tokens)]
    if batch.model is not None and "model" in schema.names:
        # Parquet takes no null in the list of names, so a request without a name is null itself.
        unnamed = np.isin(batch.model, [code for code, name in enumerate(batch.models) if not name])
        codes = pa.array(batch.model, mask=unnamed)
        columns.append(pa.DictionaryArray.from_arrays(codes, pa.array(batch.models, pa.string())))
    if batch.session is not None and "session" in schema.names:
        columns.append(pa.array(batch.session, mask=np.asarray(batch.session < 0)))
    if batch.block_hashes is not None and "block_hashes" in schema.names:
        offsets, hashes = batch.block_hashes.offsets, batch.block_hashes.hashes
        columns.append(pa.LargeListArray.from_arrays(pa.array(offsets), pa.array(hashes)).cast(pa.list_(pa.uint64())))
    return pa.Table.from_arrays(columns, schema=schema)


def _size(size: float) -> str:
    for unit in ("B", "kB", "MB", "GB", "TB", "PB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} EB"


def _count(number: float) -> str:
    return f"{number:,.0f}" if number < 1e15 else f"{number:.3g}"
