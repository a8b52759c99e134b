"""How are the forecasts of a backtest handed on? One long Parquet table, one row per number."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from forecasting.forecast import DEFAULT_LEVELS
from training.backtest import ASKED_LEVELS, Answers, Examination

SCHEMA = pa.schema(
    [
        ("model", pa.dictionary(pa.int32(), pa.string())),
        ("series", pa.dictionary(pa.int32(), pa.string())),
        ("origin", pa.int64()),
        ("lead", pa.int32()),
        ("level", pa.float64()),
        ("value", pa.float64()),
        ("kind", pa.dictionary(pa.int32(), pa.string())),
    ]
)


def forecasts_table(exam: Examination, answers: Answers) -> pa.Table:
    """Return every number that one model said about one series.

    Columns: ``origin``, 0-based row of the source of the last row seen; ``lead`` in rows of the source; ``level``;
    ``value`` in the unit of the source's column; ``kind``, ``point`` for the rate at the lead and ``max`` for the
    largest rate up to it.
    """
    kept = [ASKED_LEVELS.index(level) for level in DEFAULT_LEVELS]
    rows = np.stack([answers.values[:, :, kept], answers.peaks[:, :, kept]])
    kinds, origins, leads, levels = np.meshgrid(
        np.arange(2), exam.origins, np.array(exam.lead_steps), np.array(DEFAULT_LEVELS), indexing="ij"
    )
    said = np.isfinite(rows).reshape(-1)
    count, per_step = int(said.sum()), exam.history.rows_per_step
    return pa.table(
        [
            _repeated(answers.model, count),
            _repeated(exam.history.name, count),
            pa.array(origins.reshape(-1)[said] * per_step - 1),
            pa.array((leads.reshape(-1)[said] * per_step).astype(np.int32)),
            pa.array(levels.reshape(-1)[said]),
            pa.array(rows.reshape(-1)[said] * exam.history.unit_ratio),
            pa.DictionaryArray.from_arrays(kinds.reshape(-1)[said].astype(np.int32), pa.array(["point", "max"])),
        ],
        schema=SCHEMA,
    )


def write_forecasts(path: Path, tables: Sequence[pa.Table]) -> None:
    """Write all tables as one file, whole or not at all."""
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as scratch:
        try:
            pq.write_table(pa.concat_tables(tables), scratch)
        except BaseException:
            Path(scratch.name).unlink(missing_ok=True)
            raise
    Path(scratch.name).chmod(0o644)
    Path(scratch.name).rename(path)


def _repeated(text: str, count: int) -> pa.DictionaryArray:
    return pa.DictionaryArray.from_arrays(np.zeros(count, dtype=np.int32), pa.array([text]))
