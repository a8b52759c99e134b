"""Which columns does a table file have, and what are its rows: Parquet, CSV or JSON lines, piece by piece."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.json as pa_json
import pyarrow.parquet as pq

from controller.errors import BadInput
from simulations.trace import BATCH_REQUESTS
from simulations.trace_bytes import decompressed, reading, seekable
from simulations.trace_pieces import Piece, place_of

Kind: TypeAlias = Literal["parquet", "csv", "jsonl"]

NOTES_KEY = b"foresail.trace"
"""Where in a Parquet file's metadata ``simulations.trace_notes`` are."""

_TEXT_BLOCK_BYTES = 1 << 20
_HEAD_BYTES = _TEXT_BLOCK_BYTES
_PARQUET_BUFFER_BYTES = 1 << 18
_ZONE_AT_END = re.compile(r"\d(Z|[+-]\d\d:?\d\d)$")
_CSV_BAD_CELL = re.compile(r"In CSV column #(\d+): (?:Row #(\d+): )?CSV conversion error to \S+: (.*)")
_CSV_BAD_ROW = re.compile(r"CSV parse error: Row #(\d+): (.*)")
_JSON_BAD_ROW = re.compile(r"JSON parse error: (.*?)\.? in row (\d+)")


@dataclass(frozen=True, slots=True)
class TableFile:
    """A file of rows whose column names are known.

    Attributes:
        path: The file.
        columns: Column names; for JSON lines the keys of the first line.
        kind: How the rows are written.
        zoned_columns: Text columns whose first cell ends in a time zone.
        notes: What a Parquet file says about itself under ``NOTES_KEY``; empty without.
        numeric_columns: Of JSON lines, what is a number in the first line.
    """

    path: Path
    columns: tuple[str, ...]
    kind: Kind
    zoned_columns: tuple[str, ...] = ()
    notes: bytes = b""
    numeric_columns: tuple[str, ...] = ()

    def pieces(self, types: Mapping[str, Any]) -> Iterator[Piece]:
        """Yield the columns named by ``types`` from the first row to the last, as often as asked.

        Args:
            types: For each column to read the pyarrow type to read it as from text; Parquet keeps its own.

        Raises:
            BadInput: If the file is damaged, or a cell cannot be read as its type.
        """
        reader = {"parquet": self._parquet_rows, "csv": self._csv_rows, "jsonl": self._json_rows}[self.kind]
        first_row = 0
        rows = reader(types)
        while True:
            with reading(self.path):
                try:
                    batch = next(rows, None)
                except pa.ArrowInvalid as error:
                    raise self._named(str(error), first_row) from error
            if batch is None:
                return
            if batch.num_rows:
                yield Piece(batch, self.path, first_row, self.kind)
                first_row += batch.num_rows

    def _parquet_rows(self, types: Mapping[str, Any]) -> Iterator[pa.RecordBatch]:
        # Without these two settings pyarrow holds whole row groups, and a file may be one single row group.
        with (
            seekable(self.path) as source,
            pq.ParquetFile(source, buffer_size=_PARQUET_BUFFER_BYTES, pre_buffer=False) as file,
        ):
            yield from file.iter_batches(batch_size=BATCH_REQUESTS, columns=list(types), use_threads=False)

    def _csv_rows(self, types: Mapping[str, Any]) -> Iterator[pa.RecordBatch]:
        # A column of instants has one type in pyarrow: with zone or without, as its first cell has it.
        typed = {
            name: pa.timestamp("ns", "UTC") if pa.types.is_timestamp(kind) and name in self.zoned_columns else kind
            for name, kind in types.items()
        }
        convert = pa_csv.ConvertOptions(column_types=typed, include_columns=list(types), strings_can_be_null=True)
        read = pa_csv.ReadOptions(block_size=_TEXT_BLOCK_BYTES, use_threads=False)
        with (
            decompressed(self.path) as plain,
            pa_csv.open_csv(plain, read_options=read, convert_options=convert) as rows,
        ):
            yield from rows

    def _json_rows(self, types: Mapping[str, Any]) -> Iterator[pa.RecordBatch]:
        parse = pa_json.ParseOptions(explicit_schema=pa.schema(list(types.items())), unexpected_field_behavior="ignore")
        read = pa_json.ReadOptions(block_size=_TEXT_BLOCK_BYTES, use_threads=False)
        with (
            decompressed(self.path) as plain,
            pa_json.open_json(plain, read_options=read, parse_options=parse) as rows,
        ):
            yield from rows

    def _named(self, message: str, rows_before: int) -> BadInput | pa.ArrowInvalid:
        """Return what pyarrow says about a row or cell with the place it says it about."""
        if cell := _CSV_BAD_CELL.search(message):
            column, line, what = cell.groups()
            row = int(line) - 2 if line else None
            place = place_of(self.path, self.kind, row, self.columns[int(column)])
            return BadInput(f"unreadable cell: {what}", place, "correct the cell, or remove the row")
        if ragged := _CSV_BAD_ROW.search(message):
            place = place_of(self.path, self.kind, int(ragged[1]) - 2)
            return BadInput(ragged[2].splitlines()[0], place, "correct the row, or remove it")
        if line_error := _JSON_BAD_ROW.search(message):
            place = place_of(self.path, self.kind, rows_before + int(line_error[2]))
            return BadInput(f"not a readable JSON line ({line_error[1]})", place, "correct the line, or remove it")
        return pa.ArrowInvalid(message)


def open_table(path: Path) -> TableFile:
    """Return the table in the file.

    Raises:
        BadInput: If the file is damaged, nothing is in it, or it is neither Parquet nor CSV nor JSON lines.
    """
    start = _first_bytes(path)
    if start.startswith(b"PAR1"):
        with reading(path), seekable(path) as source, pq.ParquetFile(source) as file:
            notes = (file.schema_arrow.metadata or {}).get(NOTES_KEY, b"")
            return TableFile(path, _distinct(path, file.schema_arrow.names), "parquet", notes=notes)
    lines = start.decode("utf-8", errors="replace").removeprefix("\ufeff").splitlines()[:2]
    if "\0" in lines[0] or "\ufffd" in lines[0]:
        what = "this is neither Parquet nor text in UTF-8"
        remedy = "give Parquet, or save it as UTF-8: CSV with a header line, or JSON lines (gzip, bzip2, zstd)"
        raise BadInput(what, str(path), remedy)
    if len(start) == _HEAD_BYTES and b"\n" not in start:
        what = f"the first line is longer than {_HEAD_BYTES:,} bytes"
        raise BadInput(what, str(path), "give one row per line, and end each line")
    if lines[0].lstrip().startswith("{"):
        first_line = _json_line(path, lines[0])
        numeric = tuple(name for name, cell in first_line.items() if type(cell) in (int, float))
        return TableFile(path, tuple(first_line), "jsonl", numeric_columns=numeric)
    try:
        columns, *first = csv.reader(io.StringIO("\n".join(lines)))
    except csv.Error as error:
        what = f"this is neither Parquet nor JSON lines, and no CSV: {error}"
        raise BadInput(what, f"{path}:1", "give Parquet, CSV with a header line, or one JSON object per line") from None
    cells = dict(zip(columns, first[0], strict=False)) if first else {}
    return TableFile(
        path, _distinct(path, columns), "csv", tuple(name for name in cells if _ZONE_AT_END.search(cells[name]))
    )


def _distinct(path: Path, columns: list[str]) -> tuple[str, ...]:
    twice = [name for number, name in enumerate(columns) if name in columns[:number]]
    if twice:
        raise BadInput(f"column {twice[0]!r} occurs twice", str(path), "leave one of them out")
    return tuple(columns)


def _json_line(path: Path, line: str) -> dict[str, Any]:
    try:
        return dict(json.loads(line))
    except (ValueError, RecursionError) as error:
        what = f"not a readable JSON line ({error})"
        raise BadInput(what, place_of(path, "jsonl", 0), "write one JSON object per line") from None


def _first_bytes(path: Path) -> bytes:
    with reading(path), decompressed(path) as plain:
        start = bytes(plain.read(_HEAD_BYTES)).lstrip()
    if not start:
        raise BadInput("the file is empty", str(path), "export or download it again")
    return start
