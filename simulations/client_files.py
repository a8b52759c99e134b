"""Which clients are in this table: a rate and a burstiness per client and window."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from controller.errors import BadInput
from simulations.load_series_files import SeriesFile
from simulations.trace import Bool, Float64, Int64
from simulations.trace_pieces import place_of
from simulations.trace_tables import TableFile

REQUIRED = ("t", "client", "rate", "cv")
PATTERN = "pattern"
_PATTERNS = ("gamma", "weibull")
_MOST_CELLS = 20_000_000
"""Most windows of all clients together: 8 bytes each, several times."""
_MOST_RATE = 1e9
_SHOWN_NAMES = 12


@dataclass(frozen=True, slots=True, eq=False)
class ClientFile:
    """Recorded clients.

    Attributes:
        start_at: Instant of the first window as the file's clock shows it, in seconds.
        step_s: Length of a window.
        names: The clients, in order of their numbers or names.
        rates: ``float64[clients, T]`` requests/s; 0 where a client sent nothing, NaN where nobody did (a gap).
        cv: ``float64[clients, T]`` coefficient of variation of the gaps; 1 where a client sent nothing.
        is_weibull: ``bool[clients, T]`` whether the gaps are Weibull's; gamma otherwise.
    """

    start_at: float
    step_s: float
    names: tuple[str, ...]
    rates: Float64
    cv: Float64
    is_weibull: Bool


def has_clients(table: TableFile) -> bool:
    """Return whether the table is of this format."""
    return set(REQUIRED) <= set(table.columns)


def read_clients(table: TableFile, only: str | None = None) -> ClientFile:
    """Return the clients in the table, rows in any order; only the one named ``only``, if it is given.

    A window in which no client sent anything is a gap: what is recorded per client comes from a service with load.

    Raises:
        BadInput: Naming the row: a time, rate or CV that cannot be, two rows for one window of a client, or windows
            that overlap; or if there is no such client, or nothing to replay.
    """
    columns, codes, names = _columns(table)
    _check_rows(table, columns)
    step_s, place = _grid(table, columns["t"])
    steps = int(place.max()) + 1
    if steps * len(names) > _MOST_CELLS:
        what = f"{len(names):,} clients with {steps:,} windows of {step_s:g} s each are too many"
        raise BadInput(what, str(table.path), f"at most {_MOST_CELLS:,} together: split the file, or check the times")
    cell = codes * steps + place
    _check_once(table, cell, names, columns["t"], codes)
    rates: Float64 = np.zeros(len(names) * steps)
    cv: Float64 = np.ones(len(names) * steps)
    is_weibull: Bool = np.zeros(len(names) * steps, dtype=np.bool_)
    active = columns["rate"] > 0
    if not active.any():
        raise BadInput("no client sends anything in any window", f"{table.path} column rate", "give another recording")
    rates[cell], cv[cell[active]], is_weibull[cell] = columns["rate"], columns["cv"][active], columns["weibull"] > 0
    grid = (len(names), steps)
    rates, cv, is_weibull = rates.reshape(grid), cv.reshape(grid), is_weibull.reshape(grid)
    rates[:, ~(rates > 0).any(axis=0)] = np.nan
    order = _order(names) if only is None else [_position(table, names, only)]
    return ClientFile(
        float(columns["t"].min()),
        step_s,
        tuple(names[each] for each in order),
        rates[order],
        cv[order],
        is_weibull[order],
    )


def summed(clients: ClientFile) -> SeriesFile:
    """Return the load series of all clients together."""
    return SeriesFile(clients.start_at, clients.step_s, np.asarray(clients.rates.sum(axis=0)), None, None)


def _columns(table: TableFile) -> tuple[dict[str, Float64], Int64, list[str]]:
    """Return the numbers of all rows, each row's position among the clients, and those."""
    types = {"t": pa.float64(), "client": pa.string(), "rate": pa.float64(), "cv": pa.float64()}
    types |= {PATTERN: pa.string()} if PATTERN in table.columns else {}
    numbers: dict[str, list[Float64]] = {name: [] for name in ("t", "rate", "cv", "weibull")}
    place: dict[str, int] = {}
    codes: list[Int64] = []
    rows = 0
    for piece in table.pieces(types):
        for name in ("t", "rate", "cv"):
            numbers[name].append(piece.numbers(name))
        code, names = piece.texts("client")
        if (code < 0).any():
            where = piece.where(int((code < 0).argmax()), "client")
            raise BadInput("the client is missing", where, "name the client, or remove the row")
        codes.append(np.array([place.setdefault(name, len(place)) for name in names], dtype=np.int64)[code])
        pattern, kinds = piece.texts(PATTERN) if PATTERN in types else (np.full(len(piece), -1), [])
        wrong = [number for number, kind in enumerate(kinds) if kind.lower() not in (*_PATTERNS, "", "none", "nan")]
        if wrong:
            where = piece.where(int(np.isin(pattern, wrong).argmax()), PATTERN)
            raise BadInput(f"no gap distribution is called {kinds[wrong[0]]!r}", where, "known: Gamma, Weibull")
        numbers["weibull"].append(
            np.array([kind.lower() == "weibull" for kind in [*kinds, ""]], dtype=np.float64)[pattern]
        )
        rows += len(piece)
        if rows > _MOST_CELLS:
            raise BadInput(f"more than {_MOST_CELLS:,} rows", str(table.path), "split the file")
    if not rows:
        raise BadInput("the file has columns but no rows", str(table.path), "export or download the trace again")
    return {name: np.concatenate(parts) for name, parts in numbers.items()}, np.concatenate(codes), list(place)


def _check_rows(table: TableFile, columns: dict[str, Float64]) -> None:
    rate, cv = columns["rate"], columns["cv"]
    checks = (
        ("t", columns["t"], ~np.isfinite(columns["t"]), "is not a time in seconds"),
        ("rate", rate, ~((rate >= 0) & (rate <= _MOST_RATE)), f"is not a rate from 0 to {_MOST_RATE:g} requests/s"),
        ("cv", cv, (rate > 0) & ~((cv > 0) & (cv < np.inf)), "is not a coefficient of variation above 0"),
    )
    for name, values, bad, why in checks:
        if bad.any():
            row = int(bad.argmax())
            shown = "a missing value" if np.isnan(values[row]) else f"{values[row]:g}"
            raise BadInput(f"{shown} {why}", place_of(table.path, table.kind, row, name), "correct the row")


def _grid(table: TableFile, at_s: Float64) -> tuple[float, Int64]:
    """Return the length of a window, and each row's place among the windows."""
    starts = np.unique(at_s)
    if len(starts) < 2:
        what = f"all rows begin at {starts[0]:g} s, so that the length of a window cannot be told"
        raise BadInput(what, f"{table.path} column t", "give at least two windows")
    # The commonest distance: some windows may be missing, and some begin where they must not.
    apart, often = np.unique(np.round(np.diff(starts), 6), return_counts=True)
    step_s = float(apart[often.argmax()])
    place = (at_s - starts[0]) / step_s
    off = np.abs(place - np.rint(place)) > 1e-3
    if off.any():
        row = int(off.argmax())
        what = f"windows are {step_s:g} s long, and this one, from {at_s[row]:g} s on, overlaps its neighbours"
        raise BadInput(what, place_of(table.path, table.kind, row, "t"), "give windows of one length, side by side")
    return step_s, np.rint(place).astype(np.int64)


def _check_once(table: TableFile, cell: Int64, names: list[str], at_s: Float64, codes: Int64) -> None:
    order = np.argsort(cell, kind="stable")
    again = np.flatnonzero(np.diff(cell[order]) == 0)
    if len(again):
        row = int(order[again[0] + 1])
        what = f"client {names[codes[row]]} has a second window that begins at {at_s[row]:g} s"
        raise BadInput(what, place_of(table.path, table.kind, row, "t"), "keep one of them, or add them up")


def _order(names: list[str]) -> list[int]:
    numeric = all(name.isdecimal() for name in names)
    return sorted(range(len(names)), key=lambda each: (int(names[each]) if numeric else 0, names[each]))


def _position(table: TableFile, names: list[str], only: str) -> int:
    if only in names:
        return names.index(only)
    known = [names[each] for each in _order(names)]
    more = f" and {len(known) - _SHOWN_NAMES} more" if len(known) > _SHOWN_NAMES else ""
    remedy = f"clients in the file: {', '.join(known[:_SHOWN_NAMES])}{more}"
    raise BadInput(f"there is no client {only!r}", str(table.path), remedy)
