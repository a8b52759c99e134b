"""What would an engine have answered to a given load, and how much of each kind of work lies in every answer?

A step's time is a sum of coefficients times amounts of work, so every TTFT, TPOT and end-to-end time is one too: its
amounts are the work of the steps it spans. That makes them the rows of a regression for the coefficients.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from forecasting.series import FloatArray
from policies.engine_profile import EngineProfile
from simulations.replica import EngineRequest, ReplicaEngine

IntArray = npt.NDArray[np.int32]

COEFFICIENTS = (
    "decode_base_s",
    "prefill_base_s",
    "decode_per_sequence_s",
    "decode_per_kv_token_s",
    "prefill_per_token_s",
    "prefill_per_token2_s",
)
"""Fields of ``EngineProfile`` that multiply work, in the order of the last axis of ``Replayed.work``."""

MEASURES = ("ttft_s", "tpot_s", "e2e_s")


class DoesNotFit(ValueError):
    """A request is longer than the engine's KV cache."""


@dataclass(frozen=True, slots=True, eq=False)
class Times:
    """When requests were answered; TPOT is 0 for one output token.

    Attributes:
        ttft_s: ``float64[N]``, first token minus arrival.
        tpot_s: ``float64[N]``, time per output token after the first.
        e2e_s: ``float64[N]``, end minus arrival.
    """

    ttft_s: FloatArray
    tpot_s: FloatArray
    e2e_s: FloatArray

    def of(self, measure: str) -> FloatArray:
        """Return the times of one of ``MEASURES``."""
        times: FloatArray = getattr(self, measure)
        return times


@dataclass(frozen=True, slots=True, eq=False)
class RecordedRun:
    """What one engine was given and when it answered; instants in seconds of one clock.

    Attributes:
        arrived_at: ``float64[N]``, ascending.
        prompt_tokens, output_tokens: ``int32[N]``, output tokens as generated.
        first_token_at, finished_at: ``float64[N]``.
    """

    arrived_at: FloatArray
    prompt_tokens: IntArray
    output_tokens: IntArray
    first_token_at: FloatArray
    finished_at: FloatArray

    @property
    def times(self) -> Times:
        """Return the times that the instants make."""
        gaps = np.maximum(self.output_tokens - 1, 1)
        return Times(
            self.first_token_at - self.arrived_at,
            (self.finished_at - self.first_token_at) / gaps,
            self.finished_at - self.arrived_at,
        )


@dataclass(frozen=True, slots=True, eq=False)
class Replayed:
    """A load as the simulated engine answers it.

    Attributes:
        run: Its instants, requests in the order in which they were given.
        work: ``float64[3, N, 6]``: per measure, request and coefficient the work in that time; the product with the
            coefficients is the time.
    """

    run: RecordedRun
    work: FloatArray


def replay(
    profile: EngineProfile, arrived_at: FloatArray, prompt_tokens: IntArray, output_tokens: IntArray
) -> Replayed:
    """Return what happens when requests arrive at given instants, ascending.

    Raises:
        DoesNotFit: If a request does not fit the engine.
    """
    trial = _Trial(profile, prompt_tokens, output_tokens)
    instants, total, sent, now = arrived_at.tolist(), len(arrived_at), 0, 0.0
    while trial.ended < total:
        while sent < total and instants[sent] <= now:
            trial.send(sent, instants[sent])
            sent += 1
        ended_at = trial.step(now)
        now = instants[sent] if ended_at is None else ended_at
    return trial.replayed()


def hold_concurrency(
    profile: EngineProfile, concurrency: int, prompt_tokens: IntArray, output_tokens: IntArray
) -> Replayed:
    """Return what happens when ``concurrency`` requests are sent at once and each end sends the next, in order.

    This is what benchmark tools do at a given maximum concurrency. Their first burst is counted, as they count it.

    Raises:
        DoesNotFit: If a request does not fit the engine.
    """
    trial = _Trial(profile, prompt_tokens, output_tokens)
    total, now = len(prompt_tokens), 0.0
    for sent in range(min(concurrency, total)):
        trial.send(sent, 0.0)
    sent = min(concurrency, total)
    while trial.ended < total:
        before = trial.ended
        now = trial.step(now) or now
        for _ in range(min(trial.ended - before, total - sent)):
            trial.send(sent, now)
            sent += 1
    return trial.replayed()


class _Trial:
    """One engine, its clock and what was seen at the end of every step."""

    def __init__(self, profile: EngineProfile, prompt_tokens: IntArray, output_tokens: IntArray) -> None:
        lengths = zip(prompt_tokens.tolist(), output_tokens.tolist(), strict=True)
        self._engine: ReplicaEngine[EngineRequest] = ReplicaEngine(profile)
        self._requests = [EngineRequest(prompt, output) for prompt, output in lengths]
        if not all(self._engine.fits(request) for request in self._requests):
            raise DoesNotFit(f"{profile.name}: a request does not fit {profile.kv_cache_tokens} KV tokens")
        self._row = {request: row for row, request in enumerate(self._requests)}
        self._lengths = (prompt_tokens, output_tokens)
        self._decode_base_wins = profile.decode_base_s >= profile.prefill_base_s
        self._steps: list[tuple[int, int, int, int, int, int]] = [(0, 0, 0, 0, 0, 0)]
        self._ends_at = [0.0]
        self._arrived_at = np.full(len(self._requests), np.nan)
        self._first_step = np.full(len(self._requests), -1)
        self._last_step = np.full(len(self._requests), -1)
        self.ended = 0

    def send(self, row: int, at: float) -> None:
        """Let a request arrive."""
        self._arrived_at[row] = at
        self._engine.submit(self._requests[row])

    def step(self, now: float) -> float | None:
        """Do one step from ``now`` on and return when it ends; None when there is nothing to do."""
        engine = self._engine
        step_s = engine.begin_step()
        if step_s == 0.0:
            return None
        if now > self._ends_at[-1]:  # an idle span is a step without work
            self._steps.append((0, 0, 0, 0, 0, 0))
            self._ends_at.append(now)
        decodes, prompts = engine.step_decodes > 0, engine.step_prompt_tokens > 0
        by_decodes = decodes and (self._decode_base_wins or not prompts)
        self._steps.append(
            (
                by_decodes,
                prompts and not by_decodes,
                engine.step_decodes,
                engine.step_kv_tokens if decodes else 0,
                engine.step_prompt_tokens,
                engine.step_prompt_squares,
            )
        )
        self._ends_at.append(now + step_s)
        done = len(self._steps) - 1
        for request in engine.first_tokens:
            if self._first_step[self._row[request]] < 0:
                self._first_step[self._row[request]] = done
        engine.end_step()
        for request in engine.finished:
            self._last_step[self._row[request]] = done
        self.ended += len(engine.finished)
        return now + step_s

    def replayed(self) -> Replayed:
        """Return instants and work of all requests."""
        done = np.cumsum(np.array(self._steps, dtype=np.float64), axis=0)
        ends_at = np.array(self._ends_at)
        arrived = np.stack([np.interp(self._arrived_at, ends_at, column) for column in done.T], axis=1)
        first, last = done[self._first_step], done[self._last_step]
        prompt_tokens, output_tokens = self._lengths
        gaps = np.maximum(output_tokens - 1, 1)[:, np.newaxis]
        run = RecordedRun(
            self._arrived_at, prompt_tokens, output_tokens, ends_at[self._first_step], ends_at[self._last_step]
        )
        return Replayed(run, np.stack([first - arrived, (last - first) / gaps, last - arrived]))


def with_coefficients(profile: EngineProfile, values: Sequence[float] | FloatArray) -> EngineProfile:
    """Return the profile with other step-time coefficients, in the order of ``COEFFICIENTS``."""
    return profile.model_copy(update=dict(zip(COEFFICIENTS, map(float, values), strict=True)))


def coefficients_of(profile: EngineProfile) -> FloatArray:
    """Return ``float64[6]``, the step-time coefficients in the order of ``COEFFICIENTS``."""
    return np.array([getattr(profile, name) for name in COEFFICIENTS], dtype=np.float64)
