"""Which load series is in this table: when each step begins and how much was asked for in it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from controller.errors import BadInput
from simulations.trace import Bool, Float64
from simulations.trace_pieces import Piece, place_of
from simulations.trace_tables import TableFile

TIME = "t"
COUNTS = ("requests", "all")
RATE = "rate"
PROMPTS = ("prompt_tokens", "input_tokens")
OUTPUTS = ("output_tokens",)
_MOST_STEPS = 10_000_000
_MOST = 1e15
"""Most requests or tokens of a step. What is more is another column, or a slip."""


@dataclass(frozen=True, slots=True, eq=False)
class SeriesFile:
    """A load series as a file has it.

    Attributes:
        start_at: Instant of the first step as the file's clock shows it, in seconds.
        step_s: Length of a step.
        requests_per_s: ``float64[T]``, NaN where nothing was recorded.
        prompt_mean, output_mean: ``float64[T]`` tokens per request, the overall mean where a step has no requests;
            None when the file has no such column.
    """

    start_at: float
    step_s: float
    requests_per_s: Float64
    prompt_mean: Float64 | None
    output_mean: Float64 | None


def load_column(table: TableFile, model: str | None) -> str | None:
    """Return which column counts requests, or None when the table is no load series.

    ``model`` names a column where a file has one per workload.

    Raises:
        BadInput: If it is a load series, but ``model`` is none of its columns.
    """
    column = next((name for name in (*COUNTS, RATE) if name in table.columns), None)
    if TIME not in table.columns or model is None:
        return column if TIME in table.columns else None
    if model in table.columns:
        return model
    what = f"model {model!r} was asked for, but no column of this load series is called so"
    raise BadInput(what, str(table.path), f"leave the model out, or name a column: {', '.join(table.columns)}")


def read_series(table: TableFile, column: str) -> SeriesFile:
    """Return the load series whose requests are in ``column``.

    A missing row, an empty cell and, in a column of rates, a zero are gaps: a rate is an average over what the
    collector saw, and a service whose load is worth recording is not at exactly zero.

    Raises:
        BadInput: Naming the row: times that do not ascend or do not fit one step, negative or infinite load, tokens
            without requests or requests without tokens; or when there is nothing to replay.
    """
    prompts = next((name for name in PROMPTS if name in table.columns), None)
    outputs = next((name for name in OUTPUTS if name in table.columns), None)
    names = [TIME, column, *(name for name in (prompts, outputs) if name is not None)]
    columns = _columns(table, names)
    step_s, place = _steps(table, columns[TIME])
    amount = columns[column]
    _refuse(table, column, amount, (amount < 0) | (amount > _MOST), f"is not an amount from 0 to {_MOST:g}")
    rates = np.where(amount == 0, np.nan, amount) if column == RATE else amount / step_s
    if not (rates > 0).any():
        raise BadInput("the series has no request in any step", f"{table.path} column {column}", "give another column")
    on_grid = np.full(int(place[-1]) + 1, np.nan)
    on_grid[place] = rates
    means = [
        None if name is None else _mean_tokens(table, name, columns[name], rates * step_s, place)
        for name in (prompts, outputs)
    ]
    return SeriesFile(float(columns[TIME][0]), step_s, on_grid, *means)


def _columns(table: TableFile, names: list[str]) -> dict[str, Float64]:
    pieces: list[Piece] = []
    rows = 0
    for piece in table.pieces({name: pa.float64() for name in names}):
        pieces.append(piece)
        rows += len(piece)
        if rows > _MOST_STEPS:
            what = f"more than {_MOST_STEPS:,} steps"
            raise BadInput(what, str(table.path), "give a load series with longer steps")
    if rows < 2:
        what = f"a load series needs at least two rows to tell its step, this one has {rows}"
        raise BadInput(what, str(table.path), "give one row per step")
    return {name: np.concatenate([piece.numbers(name) for piece in pieces]) for name in names}


def _steps(table: TableFile, at_s: Float64) -> tuple[float, Float64]:
    """Return the step and each row's place on its grid."""
    _refuse(table, TIME, at_s, ~np.isfinite(at_s), "is not a time in seconds")
    apart = np.diff(at_s)
    if (apart <= 0).any():
        row = int((apart <= 0).argmax()) + 1
        remedy = "sort the rows by time and give one row per step (sum the workloads first)"
        raise BadInput("times do not ascend here", place_of(table.path, table.kind, row, TIME), remedy)
    step_s = float(apart.min())
    place = (at_s - at_s[0]) / step_s
    off = np.abs(place - np.rint(place)) > 1e-3
    if off.any():
        what = f"the step is {step_s:g} s, and this row is not a whole number of steps after the first"
        where = place_of(table.path, table.kind, int(off.argmax()), TIME)
        raise BadInput(what, where, "give evenly spaced rows; leave out those that were not recorded")
    if place[-1] >= _MOST_STEPS:
        what = f"the rows span more than {_MOST_STEPS:,} steps of {step_s:g} s"
        raise BadInput(what, str(table.path), "check the times")
    return step_s, np.rint(place).astype(np.int64)


def _mean_tokens(table: TableFile, name: str, tokens: Float64, requests: Float64, place: Float64) -> Float64:
    """Return tokens per request on the grid."""
    some = requests > 0
    bad = some & ~((tokens >= requests * (1 - 1e-9)) & (tokens <= _MOST))
    _refuse(table, name, tokens, bad, f"is not at least one token per request of this step, and at most {_MOST:g}")
    mean = float(tokens[some].sum() / requests[some].sum())
    on_grid = np.full(int(place[-1]) + 1, mean)
    on_grid[place[some]] = tokens[some] / requests[some]
    return on_grid


def _refuse(table: TableFile, column: str, values: Float64, bad: Bool, why: str) -> None:
    if bad.any():
        row = int(bad.argmax())
        shown = "a missing value" if np.isnan(values[row]) else f"{values[row]:g}"
        raise BadInput(f"{shown} {why}", place_of(table.path, table.kind, row, column), "correct the row")
