"""How did the requests that a load player sent fare: one row each, and a summary in the words of the scorecard."""

from __future__ import annotations

import math
from array import array
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeAlias

import numpy as np

from policies.slo import ServiceObjective
from simulations.live.load_client import Failure

Ending: TypeAlias = Failure | Literal["not-sent", "unfinished"]
"""Beside failures: never sent, for too many were in flight; or still running when the player was stopped."""


@dataclass(frozen=True, slots=True)
class LoadRow:
    """One request. Seconds ``_s`` of instants count from the start of the load; latencies are NaN where there is none.

    Attributes:
        row: Position in the trace.
        arrival_s: When it was to be sent.
        lateness_s: How much later it was sent.
        asked_tokens: Output tokens asked for.
        tokens: Output tokens received.
        ttft_s: First token minus ``arrival_s``: what a late player adds is in it, as a user would have had it.
        tpot_s: (last - first token) / (tokens - 1), 0 for one token; of completed requests.
        e2e_s: End minus ``arrival_s``.
        error: None when it completed.
    """

    row: int
    arrival_s: float
    lateness_s: float
    model: str
    prompt_tokens: int
    asked_tokens: int
    tokens: int
    status: int
    ttft_s: float
    tpot_s: float
    e2e_s: float
    error: Ending | None
    replica: str

    def as_json(self) -> dict[str, Any]:
        """Return the fields in their order, ready for ``json.dumps``: NaN becomes None."""
        return {
            name: None if isinstance(value, float) and math.isnan(value) else value
            for name, value in asdict(self).items()
        }


@dataclass(frozen=True, slots=True)
class LoadSummary:
    """All requests of one load in figures.

    Attributes:
        requests: That were due.
        failed: That ended with an error a client sees, or could not be sent; ``errors`` counts them by kind.
        client_visible_errors: Failed ones that were sent.
        unfinished: Still running when the player was stopped; in no other count.
        slo_attainment_ratio: Completed within both objectives, as a share of completed and failed.
        lateness_p50_s: How late the player itself was, over all that were sent; also p99, max.
        peak_in_flight: Most requests at a time.
        wall_s: From the start to the last end.
    """

    requests: int
    completed: int
    failed: int
    client_visible_errors: int
    unfinished: int
    errors: dict[str, int]
    slo_attainment_ratio: float
    ttft_p50_s: float
    ttft_p95_s: float
    ttft_p99_s: float
    tpot_p50_s: float
    tpot_p95_s: float
    e2e_p50_s: float
    e2e_p95_s: float
    output_tokens: int
    output_tokens_per_s: float
    lateness_p50_s: float
    lateness_p99_s: float
    lateness_max_s: float
    peak_in_flight: int
    wall_s: float

    def as_json(self) -> dict[str, Any]:
        """Return the fields in their order, ready for ``json.dumps``: NaN becomes None."""
        return {
            name: None if isinstance(value, float) and math.isnan(value) else value
            for name, value in asdict(self).items()
        }


class LoadTally:
    """Collects rows; keeps four numbers of each."""

    def __init__(self, objective: ServiceObjective) -> None:
        self._objective = objective
        self._errors: Counter[str] = Counter()
        self._completed = self._within = self._tokens = 0
        self._ttft_s, self._tpot_s, self._e2e_s, self._lateness_s = (array("d") for _ in range(4))

    def add(self, row: LoadRow) -> None:
        """Count one request."""
        self._tokens += row.tokens
        if row.error != "not-sent":
            self._lateness_s.append(row.lateness_s)
        if row.error is not None:
            self._errors[f"http-{row.status}" if row.error == "http" else row.error] += 1
            return
        self._completed += 1
        self._within += row.ttft_s <= self._objective.ttft_s and row.tpot_s <= self._objective.tpot_s
        self._ttft_s.append(row.ttft_s)
        self._tpot_s.append(row.tpot_s)
        self._e2e_s.append(row.e2e_s)

    def summary(self, peak_in_flight: int, wall_s: float) -> LoadSummary:
        """Return the figures so far."""
        errors = dict(sorted(self._errors.items()))
        unfinished = errors.pop("unfinished", 0)
        failed = sum(errors.values())
        ended = self._completed + failed
        ttft_p50_s, ttft_p95_s, ttft_p99_s = _quantiles(self._ttft_s, (0.5, 0.95, 0.99))
        tpot_p50_s, tpot_p95_s = _quantiles(self._tpot_s, (0.5, 0.95))
        e2e_p50_s, e2e_p95_s = _quantiles(self._e2e_s, (0.5, 0.95))
        late_p50_s, late_p99_s, late_max_s = _quantiles(self._lateness_s, (0.5, 0.99, 1.0))
        return LoadSummary(
            requests=ended + unfinished,
            completed=self._completed,
            failed=failed,
            client_visible_errors=failed - errors.get("not-sent", 0),
            unfinished=unfinished,
            errors=errors,
            slo_attainment_ratio=self._within / ended if ended else math.nan,
            ttft_p50_s=ttft_p50_s,
            ttft_p95_s=ttft_p95_s,
            ttft_p99_s=ttft_p99_s,
            tpot_p50_s=tpot_p50_s,
            tpot_p95_s=tpot_p95_s,
            e2e_p50_s=e2e_p50_s,
            e2e_p95_s=e2e_p95_s,
            output_tokens=self._tokens,
            output_tokens_per_s=self._tokens / wall_s if wall_s > 0 else math.nan,
            lateness_p50_s=late_p50_s,
            lateness_p99_s=late_p99_s,
            lateness_max_s=late_max_s,
            peak_in_flight=peak_in_flight,
            wall_s=wall_s,
        )


def _quantiles(values: Sequence[float], levels: Sequence[float]) -> tuple[float, ...]:
    if not len(values):
        return (math.nan,) * len(levels)
    return tuple(float(value) for value in np.quantile(np.asarray(values), levels))
