"""Traces and trace files for tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from simulations.arrivals import ArrivalProcess
from simulations.rate_curve import RateCurve
from simulations.token_shapes import token_shape_named
from simulations.trace import RequestBatch, Trace, joined
from simulations.workload import Client, DrawnTrace


class ListedTrace:
    """A recorded trace held in memory, handed out in batches of a chosen size."""

    def __init__(self, whole: RequestBatch, size: int = 100) -> None:
        self.name, self.generated, self.begins_at = "listed", False, 0.0
        self.whole, self._size = whole, size

    def describe(self) -> str:
        return "listed: for tests"

    def batches(self) -> Iterator[RequestBatch]:
        for first in range(0, len(self.whole), self._size):
            yield self.whole.between(first, min(first + self._size, len(self.whole)))


def requests_at(arrival_s: Sequence[float] | np.ndarray, prompt: int = 100, output: int = 10) -> RequestBatch:
    """Requests of one length at the given instants."""
    count = len(arrival_s)
    return RequestBatch(
        np.asarray(arrival_s, dtype=np.float64), np.full(count, prompt, np.int32), np.full(count, output, np.int32)
    )


def drawn_trace(
    rates: Sequence[float] | np.ndarray,
    step_s: float = 60.0,
    cv: float = 1.0,
    seed: int = 0,
    shape: str = "chat",
    prompt_mean: np.ndarray | None = None,
) -> DrawnTrace:
    """Requests drawn from rates, of one client."""
    curve = RateCurve(step_s, np.asarray(rates, dtype=np.float64))
    client = Client(curve, ArrivalProcess(cv), token_shape_named(shape), prompt_mean)
    return DrawnTrace("drawn", "made for a test", True, [client], seed)


def all_requests(trace: Trace) -> RequestBatch:
    """Every request of a trace in one batch."""
    return joined(list(trace.batches()))


def write_text(path: Path, *lines: str, compress: Callable[[bytes], bytes] = bytes) -> Path:
    """Write lines, compressed if asked for."""
    path.write_bytes(compress(("\n".join(lines) + "\n").encode()))
    return path


def write_parquet(path: Path, **columns: object) -> Path:
    """Write columns as Parquet."""
    pq.write_table(pa.table(columns), path)
    return path
