"""Which step times make the simulated engine behave like a recorded one: a profile fitted to a run's request times."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from forecasting.series import FloatArray
from policies.engine_profile import EngineProfile
from simulations.replica import EngineRequest, ReplicaEngine, run_alone

_MOST_REPLAYS = 80  # of the whole run; a replay of 300 requests takes some 50 ms


@dataclass(frozen=True, slots=True, eq=False)
class RecordedRun:
    """What one engine was given and when it answered; instants in seconds of one clock.

    Attributes:
        arrived_at: ``float64[N]``, ascending.
        prompt_tokens, output_tokens: ``int32[N]``, output tokens as generated.
        first_token_at, finished_at: ``float64[N]``.
    """

    arrived_at: FloatArray
    prompt_tokens: npt.NDArray[np.int32]
    output_tokens: npt.NDArray[np.int32]
    first_token_at: FloatArray
    finished_at: FloatArray

    @property
    def ttft_s(self) -> FloatArray:
        """``float64[N]``, first token minus arrival."""
        return self.first_token_at - self.arrived_at

    @property
    def tpot_s(self) -> FloatArray:
        """``float64[N]``, time per output token after the first; 0 for one token."""
        return (self.finished_at - self.first_token_at) / np.maximum(self.output_tokens - 1, 1)

    @property
    def e2e_s(self) -> FloatArray:
        """``float64[N]``, end minus arrival."""
        return self.finished_at - self.arrived_at


def replay(profile: EngineProfile, run: RecordedRun) -> RecordedRun:
    """Return the run as the simulated engine would have answered it.

    Raises:
        ValueError: If a request does not fit the engine.
    """
    engine: ReplicaEngine[EngineRequest] = ReplicaEngine(profile)
    lengths = zip(run.prompt_tokens.tolist(), run.output_tokens.tolist(), strict=True)
    requests = [EngineRequest(prompt, output) for prompt, output in lengths]
    if not all(engine.fits(request) for request in requests):
        raise ValueError(f"{profile.name}: a recorded request does not fit {profile.kv_cache_tokens} KV tokens")
    row = {request: position for position, request in enumerate(requests)}
    first_token_at = np.full(len(requests), np.nan)
    finished_at = np.full(len(requests), np.nan)
    for at in run_alone(engine, list(zip(run.arrived_at.tolist(), requests, strict=True))):
        for request in engine.first_tokens:
            if math.isnan(first_token_at[row[request]]):
                first_token_at[row[request]] = at
        for request in engine.finished:
            finished_at[row[request]] = at
    return RecordedRun(run.arrived_at, run.prompt_tokens, run.output_tokens, first_token_at, finished_at)


def fit_profile(start: EngineProfile, run: RecordedRun, rows: npt.NDArray[np.bool_]) -> EngineProfile:
    """Return ``start`` with step times scaled so that a replay matches the recorded times of ``rows``.

    Three factors are sought (Nelder-Mead on their logarithms): one on what moves memory (both bases and the time per
    KV token), one on the time per sequence, one on what computes (the two prefill terms). ``start`` should come from
    hardware arithmetic: the ratio of weights to KV bytes, and of linear to squared prefill time, is kept. The loss is
    the mean absolute logarithm of simulated over recorded TTFT, TPOT and end-to-end time.

    Args:
        start: Engine with its true limits (KV tokens, batch sizes) and first guesses of its step times.
        run: The whole run; requests outside ``rows`` load the engine, but when they were answered is not looked at.
        rows: ``bool[N]``, requests to fit.
    """
    from scipy.optimize import minimize

    def loss(logs: FloatArray) -> float:
        simulated = replay(_scaled(start, *np.exp(logs).tolist()), run)
        pairs = (
            (simulated.ttft_s, run.ttft_s),
            (simulated.tpot_s, run.tpot_s),
            (simulated.e2e_s, run.e2e_s),
        )
        return float(np.mean([np.abs(np.log(ours[rows] / theirs[rows])).mean() for ours, theirs in pairs]))

    simplex = np.array([[0.0, 0.0, 0.0], [0.3, 0.0, 0.0], [0.0, 0.6, 0.0], [0.0, 0.0, 0.3]])
    best = minimize(
        loss,
        np.zeros(3),
        method="Nelder-Mead",
        options={"maxfev": _MOST_REPLAYS, "initial_simplex": simplex, "xatol": 0.01, "fatol": 1e-4},
    )
    return _scaled(start, *np.exp(best.x).tolist())


def _scaled(start: EngineProfile, memory: float, sequence: float, compute: float) -> EngineProfile:
    return start.model_copy(
        update={
            "decode_base_s": start.decode_base_s * memory,
            "prefill_base_s": start.prefill_base_s * memory,
            "decode_per_kv_token_s": start.decode_per_kv_token_s * memory,
            "decode_per_sequence_s": start.decode_per_sequence_s * sequence,
            "prefill_per_token_s": start.prefill_per_token_s * compute,
            "prefill_per_token2_s": start.prefill_per_token2_s * compute,
        }
    )
