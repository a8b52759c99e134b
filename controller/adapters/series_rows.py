"""What do the rows of an answer say, as arrays? Label values on one side, ``float64`` figures on the other."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from controller.adapters.prometheus_http import Row
from controller.errors import QueryRefused
from forecasting.series import FloatArray

MAX_LABEL = 1024

_K = TypeVar("_K", bound=Hashable)


def labels_of(rows: Sequence[Row], label: str) -> list[str]:
    """Return one label of every row, empty where it has none; raises QueryRefused.

    A value of more than ``MAX_LABEL`` characters names nothing of ours, and would grow the queries that quote it.
    """
    try:
        values = [row["metric"].get(label, "") for row in rows]
        longest = max(map(len, values), default=0)
    except (KeyError, TypeError, AttributeError) as error:
        raise _malformed(error) from error
    if longest > MAX_LABEL or not all(isinstance(value, str) for value in values):
        raise _malformed(ValueError(label))
    return values


def keys_of(rows: Sequence[Row], labels: Sequence[str]) -> list[tuple[str, ...]]:
    """Return several labels of every row; raises QueryRefused."""
    return list(zip(*(labels_of(rows, label) for label in labels), strict=True))


def values_of(rows: Sequence[Row]) -> FloatArray:
    """Return the figure of every row of an instant, ``float64[N]``; raises QueryRefused."""
    try:
        return np.fromiter((float(row["value"][1]) for row in rows), np.float64, len(rows))
    except (TypeError, ValueError, LookupError, OverflowError) as error:
        raise _malformed(error) from error


def range_of(row: Row) -> tuple[FloatArray, FloatArray]:
    """Return instants and figures of one row of a range, ``float64[T]`` each; raises QueryRefused."""
    try:
        pairs = row["values"]
        at = np.fromiter((float(pair[0]) for pair in pairs), np.float64, len(pairs))
        values = np.fromiter((float(pair[1]) for pair in pairs), np.float64, len(pairs))
    except (TypeError, ValueError, LookupError, OverflowError) as error:
        raise _malformed(error) from error
    return at, values


def aligned(index: Mapping[_K, int], keys: Sequence[_K], values: FloatArray) -> FloatArray:
    """Return ``values`` in the places that ``index`` gives their keys, NaN elsewhere; unknown keys are left out."""
    places: npt.NDArray[np.intp] = np.fromiter((index.get(key, -1) for key in keys), np.intp, len(keys))
    known = places >= 0
    column = np.full(len(index), np.nan)
    column[places[known]] = values[known]
    return column


def _malformed(error: Exception) -> QueryRefused:
    return QueryRefused(f"an answer holds a row of another shape: {type(error).__name__}", "the metrics store")
