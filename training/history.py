"""What load history is in this file? A ``LoadSeries`` from any trace or series file, with what had to be assumed."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from controller.errors import BadInput
from forecasting.series import CHANNELS, OUTPUT_TOKENS, PROMPT_TOKENS, REQUESTS, FloatArray, LoadSeries
from simulations.client_files import has_clients, read_clients, summed
from simulations.generator import DAY_S, GeneratedTrace, GeneratorSettings
from simulations.load_series_files import RATE, SeriesFile, load_column, read_series
from simulations.token_shapes import TokenShape, token_shape_named
from simulations.trace import Trace
from simulations.trace_bytes import checked_file
from simulations.trace_files import GENERATED, open_trace
from simulations.trace_load import load_series
from simulations.trace_tables import TableFile, open_table
from simulations.trace_views import sliced
from training.settings import MAX_STEP_S, MIN_STEP_S

DEFAULT_STEP_S = 15.0

# A Poisson count with mean 50 is zero with probability 2e-22: a zero there is a collector that slept.
_CERTAIN_REQUESTS = 50.0
# Beyond two hours a silence may well be the truth (a service switched off for the night).
_LONGEST_GAP_S = 7200.0
_NEIGHBOURS = 6
_SUFFIXES = frozenset({".parquet", ".pq", ".csv", ".jsonl", ".json", ".gz", ".bz2", ".zst"})


@dataclass(frozen=True, slots=True, eq=False)
class History:
    """A load history and where its numbers come from.

    Attributes:
        name: The file's name without its endings.
        series: The load; gaps are NaN.
        observed_channels: Channels that were recorded; the others are requests times mean tokens of a named shape.
        rows_per_step: Rows of the source in a step.
        unit_ratio: What turns requests/s into the unit of the source's column: 1 for rates, the source's step for
            counts per step.
        notes: What was assumed, in sentences for the user.
    """

    name: str
    series: LoadSeries
    observed_channels: tuple[str, ...]
    rows_per_step: int = 1
    unit_ratio: float = 1.0
    notes: tuple[str, ...] = ()


def load_history(
    path: str | Path,
    step_s: float | None = None,
    *,
    model: str | None = None,
    token_shape: str = "chat",  # noqa: S107 - not a password
    seed: int = 0,
    may_draw: bool = True,
) -> History:
    """Read the load history in ``path``: a request trace or a load series of any format that simulations read.

    Args:
        path: The file; or ``simulations.trace_files.GENERATED``, for the days before the one that is replayed.
        step_s: Length of a step, from a second to a week; None takes the file's own, or 15 s for a request trace.
        model: Only the requests of this model; for a load series the column that counts them.
        token_shape: Mean tokens of a request where the file has none (``simulations.token_shapes``).
        seed: For steps that are drawn.
        may_draw: Whether steps shorter than those of a load series may be drawn from its rates (fit for training a
            model for that step), or are refused (a backtest on them would score the made-up noise).

    Raises:
        BadInput: If the file is missing, empty, of no known format or has a wrong row, or the step does not fit.
    """
    if step_s is not None and not MIN_STEP_S <= step_s <= MAX_STEP_S:
        remedy = f"give from {MIN_STEP_S:g} to {MAX_STEP_S:g} (a week)"
        raise BadInput(f"a step cannot be {step_s:g} s long", "--step-s", remedy)
    if str(path) == GENERATED:
        return _generated(float(step_s or DEFAULT_STEP_S), seed)
    shape = token_shape_named(token_shape)
    table = open_table(checked_file(Path(path)))
    if has_clients(table):
        recorded = _recorded(table, RATE, summed(read_clients(table, model)), shape)
    elif (column := load_column(table, model)) is not None:
        recorded = _recorded(table, column, read_series(table, column), shape)
    else:
        return _counted(Path(path), float(step_s or DEFAULT_STEP_S), model)
    if step_s is None or abs(step_s - recorded.series.step_s) <= 1e-6 * step_s:
        return recorded
    if step_s > recorded.series.step_s:
        return _coarser(recorded, step_s, path)
    if not may_draw:
        raise BadInput(
            f"the series has steps of {recorded.series.step_s:g} s, shorter ones of {step_s:g} s are not in it",
            str(path),
            f"give --step-s {recorded.series.step_s:g} or a whole multiple",
        )
    trace = open_trace(path, seed=seed, model=model, token_shape=token_shape)
    note = f"steps of {step_s:g} s drawn from recorded rates of {recorded.series.step_s:g} s (Poisson, seed {seed})"
    series = on_its_clock(load_series(trace, step_s), trace)
    return replace(recorded, series=series, unit_ratio=step_s, notes=(*recorded.notes, note))


def without_impossible_zeros(series: LoadSeries) -> LoadSeries:
    """Return the series with zeros that no live service shows turned into gaps.

    A run of zeros up to two hours long is a gap when the observed steps on either side of it say that at least 50
    requests per step were due.
    """
    requests = series.values[:, REQUESTS] * series.step_s
    edges = np.flatnonzero(np.diff(np.concatenate(([0], (requests == 0).astype(np.int8), [0]))))
    busy = np.flatnonzero(requests > 0)
    values = np.array(series.values)
    for first, last in zip(edges[::2], edges[1::2], strict=True):
        if (last - first) * series.step_s <= _LONGEST_GAP_S and _due(requests, busy, first, last) >= _CERTAIN_REQUESTS:
            values[first:last] = np.nan
    return LoadSeries(series.start_at, series.step_s, values)


def file_name(model: str) -> str:
    """Return a model's name as that of a history, which may become part of a file's name."""
    return "".join(letter if letter.isalnum() or letter in "._-" else "_" for letter in model)


def _due(requests: FloatArray, busy: np.ndarray, first: int, last: int) -> float:
    """Return the lower of the median requests per step just before and just after a run of zeros."""
    before = busy[: np.searchsorted(busy, first)][-_NEIGHBOURS:]
    after = busy[np.searchsorted(busy, last) :][:_NEIGHBOURS]
    sides = [float(np.median(requests[side])) for side in (before, after) if len(side)]
    return min(sides, default=0.0)


def _recorded(table: TableFile, column: str, file: SeriesFile, shape: TokenShape) -> History:
    """Return the load series of a file at its own step."""
    rates = file.requests_per_s
    means = {PROMPT_TOKENS: file.prompt_mean, OUTPUT_TOKENS: file.output_mean}
    assumed = {PROMPT_TOKENS: shape.prompt_mean, OUTPUT_TOKENS: shape.output_mean}
    values = np.empty((len(rates), len(CHANNELS)))
    values[:, REQUESTS] = rates
    for channel, mean in means.items():
        values[:, channel] = rates * (assumed[channel] if mean is None else mean)
    observed = tuple(name for index, name in enumerate(CHANNELS) if means.get(index, rates) is not None)
    read = LoadSeries(file.start_at, file.step_s, values)
    series = without_impossible_zeros(read)
    masked = int(np.isnan(series.values[:, REQUESTS]).sum() - np.isnan(rates).sum())
    notes = []
    if len(observed) < len(CHANNELS):
        missing = " and ".join(name for name in CHANNELS if name not in observed)
        notes.append(f"{missing} not recorded: requests times the mean of shape {shape.name}")
    if masked:
        notes.append(f"{masked} steps of zero requests amid heavy load taken as gaps")
    unit = 1.0 if column == RATE else file.step_s
    return History(_stem(table.path), series, observed, 1, unit, tuple(notes))


def on_its_clock(series: LoadSeries, trace: Trace) -> LoadSeries:
    """Return a series that counts from second 0 of the trace with the instants of the trace, in whole seconds."""
    return LoadSeries(series.start_at + math.floor(trace.begins_at), series.step_s, series.values)


def _generated(step_s: float, seed: int) -> History:
    """Return the days before the one that `simulate` replays; as noisy as if its requests had been counted."""
    trace = GeneratedTrace(GeneratorSettings(), seed)
    days_s = trace.settings.replay_start_s
    note = f"generated load, not recorded: the {days_s / DAY_S:g} days before the one that is replayed"
    return History(GENERATED, load_series(sliced(trace, 0.0, days_s), step_s), CHANNELS, 1, step_s, (note,))


def _coarser(history: History, step_s: float, path: str | Path) -> History:
    try:
        series = history.series.resampled(step_s)
    except ValueError as error:
        raise BadInput(str(error), str(path), f"give a whole multiple of {history.series.step_s:g} s") from error
    return replace(history, series=series, rows_per_step=round(step_s / history.series.step_s))


def _counted(path: Path, step_s: float, model: str | None) -> History:
    """Return requests counted per step; one row of the source is one step."""
    trace = open_trace(path, model=model)
    series = on_its_clock(load_series(trace, step_s), trace)
    if not len(series):
        raise BadInput(f"the trace is shorter than one step of {step_s:g} s", str(path), "give a shorter --step-s")
    return History(_stem(path), without_impossible_zeros(series), CHANNELS, 1, step_s)


def _stem(path: Path) -> str:
    while path.suffix.lower() in _SUFFIXES:
        path = path.with_suffix("")
    return path.name
