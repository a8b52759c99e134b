"""What do some rows of a table file hold, as numpy columns, and where in the file does each value stand."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from controller.errors import BadInput
from simulations.block_hashes import BlockHashes
from simulations.trace import Bool, Float64, Int64


def place_of(path: Path, kind: str, row: int | None, column: str | None = None) -> str:
    """Return where the 0-based ``row`` of data stands: ``file:line`` for text, ``file row n`` for Parquet."""
    text = str(path)
    if row is not None:
        text = f"{path} row {row + 1}" if kind == "parquet" else f"{path}:{row + (2 if kind == 'csv' else 1)}"
    return text if column is None else f"{text} column {column}"


_TOO_LARGE = 1 << 64
_HASHES = "leave the request's list empty, or give all its hashes"


@dataclass(frozen=True, slots=True)
class Piece:
    """Consecutive rows of a table.

    Attributes:
        table: The columns that were asked for.
        path: The file.
        first_row: 0-based position of the first row among the file's rows of data.
        kind: ``parquet``, ``csv`` or ``jsonl``.
    """

    table: pa.RecordBatch
    path: Path
    first_row: int
    kind: str

    def __len__(self) -> int:
        return int(self.table.num_rows)

    def where(self, row: int, column: str) -> str:
        """Return where the value at ``row`` of this piece and ``column`` stands in the file."""
        return place_of(self.path, self.kind, self.first_row + row, column)

    def numbers(self, column: str) -> Float64:
        """Return ``column`` as ``float64[N]``; an empty or null cell is NaN.

        Raises:
            BadInput: If the column holds something else than numbers.
        """
        values = self.table.column(column)
        try:
            return np.asarray(values.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False), dtype=np.float64)
        except pa.ArrowException as error:
            what = f"column {column} holds {values.type}, not numbers"
            raise BadInput(what, f"{self.path} column {column}", "give numbers in this column") from error

    def instants_ns(self, column: str) -> tuple[Int64, Bool]:
        """Return ``column`` as nanoseconds since 1970, and a mask of the cells that hold none.

        Raises:
            BadInput: If the column holds something else than date and time.
        """
        values = self.table.column(column)
        zone = getattr(values.type, "tz", None)
        if pa.types.is_string(values.type) and len(values) and str(values[0]).endswith(("Z", "+00:00")):
            zone = "UTC"
        try:
            stamps = values.cast(pa.timestamp("ns", zone))
        except pa.ArrowException as error:
            what = f"column {column} is not a date and time ({str(error).splitlines()[0]})"
            raise BadInput(what, f"{self.path} column {column}", "write it as 2023-11-16 18:15:46.680590") from error
        filled = pc.fill_null(stamps.cast(pa.int64()), 0).to_numpy(zero_copy_only=False)
        return np.asarray(filled, dtype=np.int64), np.asarray(stamps.is_null().to_numpy(zero_copy_only=False))

    def texts(self, column: str) -> tuple[Int64, list[str]]:
        """Return ``column`` as positions in the list of its distinct texts; an empty or null cell is -1."""
        coded = pc.dictionary_encode(self.table.column(column).cast(pa.string()))
        codes = pc.fill_null(coded.indices, -1).to_numpy(zero_copy_only=False)
        return np.asarray(codes, dtype=np.int64), [str(text) for text in coded.dictionary.to_pylist()]

    def ids(self, column: str) -> Int64 | None:
        """Return a column of whole numbers, -1 for null and negative ones; None for a column of something else."""
        values = self.table.column(column)
        if not pa.types.is_signed_integer(values.type):
            return None
        ids = pc.fill_null(values.cast(pa.int64()), -1).to_numpy(zero_copy_only=False)
        return np.asarray(np.maximum(ids, -1), dtype=np.int64)

    def hashes(self, column: str) -> BlockHashes:
        """Return a column of lists of whole numbers; text holds them separated by spaces or commas.

        Raises:
            BadInput: If an entry is something else.
        """
        values = self.table.column(column)
        if pa.types.is_string(values.type):
            return BlockHashes.of(self._hashes_in(row, column, text) for row, text in enumerate(values.to_pylist()))
        try:
            lists = values.cast(pa.list_(self._hash_type(values.type)))
        except pa.ArrowException as error:
            what = f"column {column} holds {values.type}, not lists of whole numbers"
            raise BadInput(what, f"{self.path} column {column}", "give block hashes as int64 lists") from error
        flat = lists.flatten()
        if flat.null_count:
            raise BadInput(f"column {column} has a missing hash in a list", f"{self.path} column {column}", _HASHES)
        lengths = pc.fill_null(pc.list_value_length(lists), 0).to_numpy(zero_copy_only=False)
        numbers = flat.to_numpy(zero_copy_only=False)
        return BlockHashes(np.concatenate(([0], np.cumsum(lengths))), numbers.astype(np.uint64))

    @staticmethod
    def _hash_type(kind: pa.DataType) -> pa.DataType:
        is_unsigned = pa.types.is_list(kind) and kind.value_type == pa.uint64()
        return pa.uint64() if is_unsigned else pa.int64()

    def _hashes_in(self, row: int, column: str, text: str | None) -> tuple[int, ...]:
        try:
            numbers = tuple(int(part) for part in (text or "").strip("[] ").replace(",", " ").split())
        except ValueError:
            numbers = (_TOO_LARGE,)
        if any(not -(1 << 63) <= number < _TOO_LARGE for number in numbers):
            what = f"{text!r} is not a list of whole numbers of 64 bits"
            raise BadInput(what, self.where(row, column), "separate whole numbers by spaces")
        return numbers
