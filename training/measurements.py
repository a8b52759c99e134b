"""What was measured on an engine: a load, and how its requests were answered one by one or in summary."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from controller.errors import BadInput
from forecasting.series import FloatArray
from policies.engine_profile import EngineProfile
from simulations.engine_runs import DoesNotFit, IntArray, Replayed, Times, hold_concurrency, replay

STATISTICS = ("mean", "p50", "p90", "p99")
_LEVELS = {"p50": 0.5, "p90": 0.9, "p99": 0.99}

Figures = Mapping[tuple[str, str], float]
"""Seconds by measure (``ttft_s``, ``tpot_s``, ``e2e_s``) and statistic (``mean``, ``p90``, ...)."""


@dataclass(frozen=True, slots=True, eq=False)
class Measurement:
    """One load on one engine and what came of it.

    Attributes:
        name: File and part of it.
        prompt_tokens, output_tokens: ``int32[N]`` of the requests in the order in which they were sent.
        arrived_at: ``float64[N]`` seconds, ascending; None when ``concurrency`` requests were kept in flight.
        concurrency: Requests kept in flight; 0 when they came at given instants.
        times: Answer times of every request; None when only ``summary`` is known.
        summary: Statistics over all requests, where the file has no more.
    """

    name: str
    prompt_tokens: IntArray
    output_tokens: IntArray
    arrived_at: FloatArray | None = None
    concurrency: int = 0
    times: Times | None = None
    summary: Figures = field(default_factory=dict)

    def __post_init__(self) -> None:
        if (self.arrived_at is None) != (self.concurrency > 0) or (self.times is None and not self.summary):
            raise ValueError(f"{self.name}: either instants or a concurrency, and times or a summary")
        if not len(self.prompt_tokens) == len(self.output_tokens) > 0:
            raise ValueError(f"{self.name}: {len(self.prompt_tokens)} prompts and {len(self.output_tokens)} outputs")

    def __len__(self) -> int:
        return len(self.prompt_tokens)

    @property
    def load(self) -> str:
        """Return how much load it was, in a few words."""
        if self.arrived_at is None:
            return f"{self.concurrency} in flight"
        span_s = float(self.arrived_at[-1] - self.arrived_at[0])
        return f"{(len(self) - 1) / span_s:.3g} requests/s" if span_s > 0 else f"{len(self)} at once"

    def replay(self, profile: EngineProfile) -> Replayed:
        """Return the same load on the simulated engine.

        Raises:
            BadInput: If a request is longer than the engine's KV cache.
        """
        try:
            if self.arrived_at is None:
                return hold_concurrency(profile, self.concurrency, self.prompt_tokens, self.output_tokens)
            return replay(profile, self.arrived_at, self.prompt_tokens, self.output_tokens)
        except DoesNotFit:
            longest = int((self.prompt_tokens + self.output_tokens).max())
            what = f"a request of {longest:,} tokens does not fit {profile.kv_cache_tokens:,} KV tokens"
            raise BadInput(what, self.name, "give the engine's true --kv-cache-tokens") from None

    def varied(self, spread: float, seed: int = 0) -> Measurement:
        """Return a summary's requests with lengths drawn evenly from ``1 - spread`` to ``1 + spread`` of what they are.

        Requests of equal lengths that were sent together stay together in a closed loop: they end in one step, are sent
        anew and prefilled in one batch. Benchmarks whose lengths vary do not do that. Single requests stay as they are.
        """
        if self.times is not None or spread == 0.0:
            return self
        rng = np.random.default_rng(seed)
        drawn = [
            np.maximum(1, np.rint(tokens * rng.uniform(1.0 - spread, 1.0 + spread, len(self)))).astype(np.int32)
            for tokens in (self.prompt_tokens, self.output_tokens)
        ]
        return replace(self, prompt_tokens=drawn[0], output_tokens=drawn[1])

    def measured(self, rows: npt.NDArray[np.bool_] | None = None) -> Figures:
        """Return the statistics over all requests, or over ``rows`` of them."""
        if self.times is None:
            return self.summary
        return statistics(self.times, np.ones(len(self), dtype=np.bool_) if rows is None else rows)


def statistics(times: Times, rows: npt.NDArray[np.bool_]) -> Figures:
    """Return mean and percentiles of every measure over some requests; TPOT only of those with two tokens or more."""
    figures = {}
    for measure in ("ttft_s", "tpot_s", "e2e_s"):
        values = times.of(measure)[rows]
        values = values[values > 0] if measure == "tpot_s" else values
        if len(values):
            figures[measure, "mean"] = float(values.mean())
            figures |= {(measure, name): float(np.quantile(values, level)) for name, level in _LEVELS.items()}
    return figures
