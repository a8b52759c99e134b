"""What became of every request: one row each, in columns."""

from __future__ import annotations

import math
from enum import IntEnum
from typing import Any

import numpy as np
import numpy.typing as npt

from forecasting.series import FloatArray
from policies.slo import ServiceObjective
from simulations.kernel.layout import ROW, Records

_FIRST_ROWS = 64


class RequestStatus(IntEnum):
    """How a request ended."""

    IN_SYSTEM = 0  # has not ended
    COMPLETED = 1
    FAILED = 2  # refused, given up by the client, or never sent to a replica in time
    DROPPED_IN_FLIGHT = 3  # its replica was taken away or died while it was being served


class Outcomes:
    """Rows of all requests that have arrived, in order of arrival. Instants are seconds since the Unix epoch.

    Args:
        rows: Rows that somebody else fills; none begins an empty table.
        count: How many of them there are.
        epoch_at: Instant of second 0 of the rows.
    """

    __slots__ = ("_count", "_epoch_at", "_rows")

    def __init__(self, rows: Records | None = None, count: int = 0, epoch_at: float = 0.0) -> None:
        self._rows = np.zeros(_FIRST_ROWS, ROW) if rows is None else rows
        self._count = count
        self._epoch_at = epoch_at

    def __len__(self) -> int:
        return self._count

    def arrived(self, at: float, prompt_tokens: int, output_tokens: int) -> int:
        """Open a row and return its number."""
        row = self._count
        if row == len(self._rows):
            self._rows = np.concatenate([self._rows, np.zeros(row, ROW)])
        in_system = RequestStatus.IN_SYSTEM
        self._rows[row] = (at - self._epoch_at, math.nan, math.nan, prompt_tokens, output_tokens, -1, in_system, 0)
        self._count += 1
        return row

    def ended(self, row: int, status: RequestStatus, pool: int, first_token_at: float, finished_at: float) -> None:
        """Close a row. ``first_token_at`` is NaN when there was none; ``pool`` is -1 when no pool took it.

        Raises:
            ValueError: If the row has been closed before.
        """
        before = self._rows[row]
        if before["status"]:
            raise ValueError(f"request {row} has ended before, as {RequestStatus(before['status']).name}")
        before["status"] = status
        before["pool"] = pool
        before["first_token_at"] = first_token_at - self._epoch_at
        before["finished_at"] = finished_at - self._epoch_at

    def count(self, status: RequestStatus) -> int:
        """Return how many requests stand so now."""
        return int((self._column("status") == status).sum())

    @property
    def arrived_at(self) -> FloatArray:
        """``float64[N]``, instant of arrival at the gateway."""
        return np.asarray(self._column("arrived_at") + self._epoch_at)

    @property
    def first_token_at(self) -> FloatArray:
        """``float64[N]``, NaN where no token was sent (or the request has not ended)."""
        return np.asarray(self._column("first_token_at") + self._epoch_at)

    @property
    def finished_at(self) -> FloatArray:
        """``float64[N]``, NaN for requests in the system."""
        return np.asarray(self._column("finished_at") + self._epoch_at)

    @property
    def prompt_tokens(self) -> npt.NDArray[np.int32]:
        """``int32[N]``."""
        return np.array(self._column("prompt"))

    @property
    def output_tokens(self) -> npt.NDArray[np.int32]:
        """``int32[N]``, tokens asked for, generated or not."""
        return np.array(self._column("output"))

    @property
    def pool_index(self) -> npt.NDArray[np.int16]:
        """``int16[N]``, which of the fleet's pools served it last; -1 for none."""
        return np.array(self._column("pool"))

    @property
    def status(self) -> npt.NDArray[np.int8]:
        """``int8[N]``, values of ``RequestStatus``."""
        return np.array(self._column("status"))

    @property
    def attempts(self) -> npt.NDArray[np.int8]:
        """``int8[N]``, how often its client had sent it before; the first attempts are those at 0."""
        return np.array(self._column("attempt"))

    @property
    def ttft_s(self) -> FloatArray:
        """``float64[N]``, first token minus arrival at the gateway; NaN where there is none."""
        return np.asarray(self._column("first_token_at") - self._column("arrived_at"))

    @property
    def tpot_s(self) -> FloatArray:
        """``float64[N]`` of completed requests, (last - first) / (output tokens - 1), 0 for one token; else NaN."""
        later_tokens = np.maximum(self._column("output") - 1, 1)
        tpot = (self._column("finished_at") - self._column("first_token_at")) / later_tokens
        return np.where(self._column("status") == RequestStatus.COMPLETED, tpot, np.nan)

    @property
    def e2e_s(self) -> FloatArray:
        """``float64[N]``, end minus arrival, however it ended."""
        return np.asarray(self._column("finished_at") - self._column("arrived_at"))

    def within(self, objective: ServiceObjective) -> npt.NDArray[np.bool_]:
        """Return ``bool[N]``: completed with both TTFT and TPOT within the objective."""
        met: npt.NDArray[np.bool_] = (self.ttft_s <= objective.ttft_s) & (self.tpot_s <= objective.tpot_s)
        return met  # TPOT is NaN, and so not within, for all that did not complete

    def _column(self, name: str) -> Any:
        return self._rows[name][: self._count]
