"""What load history does an audit log hold? A ``History`` per model, from the demand that was recorded at each tick."""

from __future__ import annotations

import math
from array import array
from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from controller.errors import BadInput
from controller.redaction import redacted
from forecasting.series import CHANNELS, FloatArray, LoadSeries
from training.history import History, file_name, without_impossible_zeros

_LEAST_TICKS_RATIO = 0.5  # of a step: with fewer, its mean may well be that of its quiet half
_MOST_APART_RATIO = 1.2  # ticks of a real clock are never quite as far apart as they should be
_MOST_STEPS = 10_000_000


def histories_in_audit(place: str, step_s: float, span_s: float, show: Callable[[float], None]) -> list[History]:
    """Return the recorded load of every model, over the last ``span_s`` seconds of the log.

    A step is the mean of its ticks, a gap where fewer than half of them saw the load. Ticks are as far apart as most
    of them are; where the daemon stood still, was blind or had been told another tick, there are fewer or more.

    Args:
        place: File of the log, or the URL of its database.
        step_s: Length of a step in seconds.
        span_s: How far back is read, in seconds.
        show: Told the share that has been read.

    Raises:
        BadInput: If there is no such log, no load in it, or its ticks are further apart than ``step_s``.
        AuditError: If it cannot be read to the end.
    """
    known = _ticks(place, span_s, show)
    shown = redacted(place)
    if not known:
        remedy = "name the log of a daemon that has seen load; foresail explain --audit FILE lists what is in it"
        raise BadInput("no tick of this audit log has seen the load of any model", shown, remedy)
    apart_s = _apart(known)
    if apart_s is None or apart_s > _MOST_APART_RATIO * step_s:
        found = "one tick" if apart_s is None else f"ticks {apart_s:g} s apart"
        remedy = "let the daemon record for longer" if apart_s is None else f"give --step-s {apart_s:g} or more"
        raise BadInput(f"the log has {found}, which make no steps of {step_s:g} s", shown, remedy)
    return [_history(model, of_model, apart_s, step_s) for model, of_model in sorted(known.items())]


def _ticks(place: str, span_s: float, show: Callable[[float], None]) -> dict[str, FloatArray]:
    """Return ``float64[N, 1 + C]`` by model: instants over the last ``span_s`` seconds, ascending, and rates.

    What was recorded twice counts as it was recorded last. Held as plain numbers, 32 bytes a tick: a fortnight of a
    hundred models is 300 MB.
    """
    from controller.adapters.sql_audit import SqlAudit

    log = SqlAudit.open_existing(place)
    try:
        entries, ticks = max(1, len(log)), defaultdict[str, "array[float]"](lambda: array("d"))
        for number, entry in enumerate(log.entries()):
            show((number + 1) / entries)
            fleet = entry.record.get("fleet")
            if not isinstance(fleet, dict):
                continue  # what became of acts, or a tick that saw nothing
            for model, demand in fleet.get("demand", {}).items():
                ticks[model].extend((float(fleet["at"]), *_rates(demand)))
    finally:
        log.close()
    rows_of = {model: np.array(flat).reshape(-1, 1 + len(CHANNELS)) for model, flat in ticks.items()}
    after_at = max((rows[:, 0].max() for rows in rows_of.values()), default=0.0) - span_s
    kept = {model: _in_order(rows[rows[:, 0] > after_at]) for model, rows in rows_of.items()}
    return {model: rows for model, rows in kept.items() if len(rows)}


def _rates(demand: Mapping[str, Any]) -> list[float]:
    """Return the rate of each channel; NaN, which JSON tells as null, where it was not seen."""
    return [math.nan if demand.get(name) is None else float(demand[name]) for name in CHANNELS]


def _in_order(rows: FloatArray) -> FloatArray:
    """Return ``rows`` by instant, of equal instants the last one."""
    _, newest = np.unique(rows[::-1, 0], return_index=True)
    return rows[::-1][newest]


def _apart(known: Mapping[str, FloatArray]) -> float | None:
    """Return how far apart most ticks are, in seconds; None where no model has two."""
    apart = np.concatenate([np.diff(of_model[:, 0]) for of_model in known.values()])
    return float(np.median(apart)) if len(apart) else None


def _history(model: str, ticks: FloatArray, apart_s: float, step_s: float) -> History:
    at, rows = ticks[:, 0], ticks[:, 1:]
    # A tick tells of the time before it: its middle decides in which step it lies.
    start_at = math.floor((at[0] - apart_s) / step_s + 1e-6) * step_s
    place = np.floor((at - apart_s / 2 - start_at) / step_s).astype(np.int64)
    steps = int(place[-1]) + 1
    if steps > _MOST_STEPS:
        raise BadInput(
            f"the log spans more than {_MOST_STEPS:,} steps of {step_s:g} s", model, "give a longer --step-s"
        )
    values = np.full((steps, len(CHANNELS)), np.nan)
    for channel, column in enumerate(rows.T):
        seen = np.isfinite(column)
        count = np.bincount(place[seen], minlength=steps)
        total = np.bincount(place[seen], weights=column[seen], minlength=steps)
        enough = count >= max(1.0, _LEAST_TICKS_RATIO * step_s / apart_s)
        values[enough, channel] = total[enough] / count[enough]
    # The first and the last step are cut by where the log begins and ends.
    series = without_impossible_zeros(LoadSeries(start_at, step_s, values))
    return History(file_name(model), series, CHANNELS, 1, 1.0, (_note(series, len(at), apart_s),))


def _note(series: LoadSeries, ticks: int, apart_s: float) -> str:
    gaps = ~np.isfinite(series.values).all(axis=1)
    note = f"recorded at {ticks:,} ticks, most of them {apart_s:g} s apart"
    if gaps.any():
        edges = np.flatnonzero(np.diff(np.concatenate(([0], gaps.astype(np.int8), [0]))))
        longest_h = float((edges[1::2] - edges[::2]).max()) * series.step_s / 3600
        note += f"; {gaps.mean():.1%} of the time is not on record (the longest gap: {longest_h:.1f} h)"
    return note
