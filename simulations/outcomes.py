"""What became of every request: one row each, in columns."""

from __future__ import annotations

import math
from array import array
from enum import IntEnum

import numpy as np
import numpy.typing as npt

from forecasting.series import FloatArray
from policies.slo import ServiceObjective


class RequestStatus(IntEnum):
    """How a request ended."""

    IN_SYSTEM = 0  # has not ended
    COMPLETED = 1
    FAILED = 2  # refused, given up by the client, or never sent to a replica in time
    DROPPED_IN_FLIGHT = 3  # its replica was taken away or died while it was being served


class Outcomes:
    """Rows of all requests that have arrived, in order of arrival. Instants are seconds since the Unix epoch."""

    __slots__ = (
        "_arrived_at",
        "_finished_at",
        "_first_token_at",
        "_output_tokens",
        "_pool",
        "_prompt_tokens",
        "_status",
    )

    def __init__(self) -> None:
        self._arrived_at = array("d")
        self._first_token_at = array("d")
        self._finished_at = array("d")
        self._prompt_tokens = array("i")
        self._output_tokens = array("i")
        self._pool = array("h")
        self._status = array("b")

    def __len__(self) -> int:
        return len(self._status)

    def arrived(self, at: float, prompt_tokens: int, output_tokens: int) -> int:
        """Open a row and return its number."""
        row = len(self._status)
        self._arrived_at.append(at)
        self._first_token_at.append(math.nan)
        self._finished_at.append(math.nan)
        self._prompt_tokens.append(prompt_tokens)
        self._output_tokens.append(output_tokens)
        self._pool.append(-1)
        self._status.append(RequestStatus.IN_SYSTEM)
        return row

    def ended(self, row: int, status: RequestStatus, pool: int, first_token_at: float, finished_at: float) -> None:
        """Close a row. ``first_token_at`` is NaN when there was none; ``pool`` is -1 when no pool took it.

        Raises:
            ValueError: If the row has been closed before.
        """
        if self._status[row]:
            raise ValueError(f"request {row} has ended before, as {RequestStatus(self._status[row]).name}")
        self._status[row] = status
        self._pool[row] = pool
        self._first_token_at[row] = first_token_at
        self._finished_at[row] = finished_at

    def count(self, status: RequestStatus) -> int:
        """Return how many requests stand so now."""
        return self._status.count(status)

    @property
    def arrived_at(self) -> FloatArray:
        """``float64[N]``, instant of arrival at the gateway."""
        return np.array(self._arrived_at)

    @property
    def first_token_at(self) -> FloatArray:
        """``float64[N]``, NaN where no token was sent (or the request has not ended)."""
        return np.array(self._first_token_at)

    @property
    def finished_at(self) -> FloatArray:
        """``float64[N]``, NaN for requests in the system."""
        return np.array(self._finished_at)

    @property
    def prompt_tokens(self) -> npt.NDArray[np.int32]:
        """``int32[N]``."""
        return np.array(self._prompt_tokens, dtype=np.int32)

    @property
    def output_tokens(self) -> npt.NDArray[np.int32]:
        """``int32[N]``, tokens asked for, generated or not."""
        return np.array(self._output_tokens, dtype=np.int32)

    @property
    def pool_index(self) -> npt.NDArray[np.int16]:
        """``int16[N]``, which of the fleet's pools served it last; -1 for none."""
        return np.array(self._pool, dtype=np.int16)

    @property
    def status(self) -> npt.NDArray[np.int8]:
        """``int8[N]``, values of ``RequestStatus``."""
        return np.array(self._status, dtype=np.int8)

    @property
    def ttft_s(self) -> FloatArray:
        """``float64[N]``, first token minus arrival at the gateway; NaN where there is none."""
        return self.first_token_at - self.arrived_at

    @property
    def tpot_s(self) -> FloatArray:
        """``float64[N]`` of completed requests, (last - first) / (output tokens - 1), 0 for one token; else NaN."""
        later_tokens = np.maximum(self.output_tokens - 1, 1)
        tpot = (self.finished_at - self.first_token_at) / later_tokens
        return np.where(self.status == RequestStatus.COMPLETED, tpot, np.nan)

    @property
    def e2e_s(self) -> FloatArray:
        """``float64[N]``, end minus arrival, however it ended."""
        return self.finished_at - self.arrived_at

    def within(self, objective: ServiceObjective) -> npt.NDArray[np.bool_]:
        """Return ``bool[N]``: completed with both TTFT and TPOT within the objective."""
        met: npt.NDArray[np.bool_] = (self.ttft_s <= objective.ttft_s) & (self.tpot_s <= objective.tpot_s)
        return met  # TPOT is NaN, and so not within, for all that did not complete
