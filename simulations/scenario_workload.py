"""Which load does a scenario bring along, so that no trace is needed?"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from simulations.arrivals import ARRIVALS, arrivals_named
from simulations.generator import GeneratedTrace, GeneratorSettings
from simulations.rate_curve import RateCurve
from simulations.session_workload import SessionSettings, SessionTrace
from simulations.trace import LONGEST_S, Float64, Trace
from simulations.trace_files import lengths_of, open_trace
from simulations.workload import Client, DrawnTrace

_MOST_STEPS = 10_000_000
_KINDS = ("segments", "generator", "sessions", "trace")


class Segment(BaseModel):
    """A stretch of constant load, or a straight line from one to another."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    for_s: float = Field(gt=0, le=LONGEST_S, description="How long, in seconds.")
    requests_per_s: float = Field(ge=0, le=1e6, description="The load, or the load at the beginning.")
    to_requests_per_s: float | None = Field(None, ge=0, le=1e6, description="The load at the end; null for the same.")


class Workload(BaseModel):
    """Load that is made and not recorded; exactly one of ``segments``, ``generator``, ``sessions`` and ``trace``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    segments: tuple[Segment, ...] | None = Field(None, min_length=1, description="Stretches one after the other.")
    repeat: int = Field(1, ge=1, le=100_000, description="How often the segments follow each other.")
    step_s: float = Field(1.0, gt=0, le=3600, description="Of what seconds the lengths of segments are multiples.")
    generator: GeneratorSettings | None = Field(None, description="A made-up service: days, weeks, bursts.")
    sessions: SessionSettings | None = Field(None, description="Multi-turn chat, with block hashes.")
    trace: str | None = Field(None, min_length=1, description="A trace file, relative to where Foresail runs.")
    token_shape: str = Field(
        "chat", description="Lengths for segments, sessions and load series, as for --token-shape."
    )
    arrivals: str = Field("poisson", description="How evenly requests of segments and series come: poisson or gamma.")
    arrival_cv: float = Field(3.0, gt=0, le=30, description="Burstiness of gamma arrivals.")

    @model_validator(mode="after")
    def _one_kind(self) -> Workload:
        named = [kind for kind in _KINDS if getattr(self, kind) is not None]
        if len(named) != 1:
            raise ValueError(f"give exactly one of {', '.join(_KINDS)}, not {', '.join(named) or 'none'}")
        if self.arrivals not in ARRIVALS:
            raise ValueError(f"no arrival process is called {self.arrivals!r}; known: {', '.join(ARRIVALS)}")
        if self.segments is not None:
            self._check_segments(self.segments)
        return self

    def _check_segments(self, segments: tuple[Segment, ...]) -> None:
        total_s = self.repeat * sum(segment.for_s for segment in segments)
        if total_s > LONGEST_S or total_s / self.step_s > _MOST_STEPS:
            raise ValueError(f"{total_s:g} s in steps of {self.step_s:g} s are too long: at most {_MOST_STEPS:,} steps")
        for segment in segments:
            steps = segment.for_s / self.step_s
            if abs(steps - round(steps)) > 1e-6 or round(steps) < 1:
                raise ValueError(f"a segment of {segment.for_s:g} s is no whole number of steps of {self.step_s:g} s")
        if not any(segment.requests_per_s or segment.to_requests_per_s for segment in segments):
            raise ValueError("no segment has any load")

    def opened(self, name: str, seed: int) -> Trace:
        """Return the load as a trace called ``name``.

        Raises:
            BadInput: If a file or the token shape cannot be used.
        """
        if self.trace is not None:
            return open_trace(
                Path(self.trace), seed=seed, token_shape=self.token_shape, arrivals=self.arrivals,
                arrival_cv=self.arrival_cv,
            )  # fmt: skip
        if self.generator is not None:
            trace = GeneratedTrace(self.generator, seed)
            trace.name = name
            return trace
        shape = lengths_of(self.token_shape)
        if self.sessions is not None:
            return SessionTrace(name, self.sessions, shape, seed)
        process = arrivals_named(self.arrivals, self.arrival_cv)
        rates = np.tile(np.concatenate([self._rates(segment) for segment in self.segments or ()]), self.repeat)
        origin = f"generated load, not recorded: {len(rates) * self.step_s:g} s, {shape.name} lengths, "
        origin += f"arrival CV {process.cv:g}"
        return DrawnTrace(name, origin, True, [Client(RateCurve(self.step_s, rates), process, shape)], seed)

    def _rates(self, segment: Segment) -> Float64:
        """Return the mean rate in each step of a segment."""
        steps = round(segment.for_s / self.step_s)
        end = segment.requests_per_s if segment.to_requests_per_s is None else segment.to_requests_per_s
        at = (np.arange(steps) + 0.5) / steps
        return np.asarray(segment.requests_per_s + at * (end - segment.requests_per_s))
