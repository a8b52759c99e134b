"""How much load does one replica sustain within the objective: what an operator's load test would find.

The load test holds a fixed number of requests in flight, as the benchmark tools of the field do at a given maximum
concurrency, and looks for the largest number at which the objective is met. A lone replica under Poisson arrivals would
miss earlier: in a fleet the gateway spreads bursts over the replicas, which constant concurrency comes closer to.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from policies.engine_profile import EngineProfile
from policies.slo import ServiceObjective
from simulations.replica import EngineRequest, ReplicaEngine

_COUNTED_REQUESTS = 5000  # at 99 % the standard error of the attainment is 0.14 %
_WARM_UP_TURNS = 2  # each client's first requests are not counted: the batch fills up in step
_START_SPREAD_S = 10.0  # clients begin one after the other over this time
_PRECISION_RATIO = 1.02  # the answer is within 2 % of the largest passing concurrency, or is that itself
_MOST_CLIENTS = 4096


@dataclass(frozen=True, slots=True)
class SustainedLoad:
    """The largest load found to meet the objective on one replica.

    Attributes:
        requests_per_s: Requests completed per second at that concurrency.
        concurrency: Requests in flight, running or waiting.
        prompt_tokens_per_s, output_tokens_per_s: The rate in tokens.
    """

    requests_per_s: float
    concurrency: float
    prompt_tokens_per_s: float
    output_tokens_per_s: float


def sustained_load(
    profile: EngineProfile,
    objective: ServiceObjective,
    prompt_tokens: npt.NDArray[np.int32],
    output_tokens: npt.NDArray[np.int32],
    seed: int,
) -> SustainedLoad:
    """Return the load at the largest concurrency at which enough requests are within the objective.

    Every trial serves the same requests in the same order, drawn with replacement from the pairs given, so that
    neighbouring trials differ by load and not by luck.

    Args:
        profile: The replica under test.
        objective: TTFT and TPOT limits and the share of requests that must meet both.
        prompt_tokens: ``int32[N]``, prompt lengths to draw from.
        output_tokens: ``int32[N]``, the output length of the same request.
        seed: Of the draw.

    Raises:
        ValueError: If there is nothing to draw from, or the objective is missed even by requests served one at a time.
    """
    if len(prompt_tokens) == 0 or len(prompt_tokens) != len(output_tokens):
        raise ValueError(f"need as many prompt as output lengths, got {len(prompt_tokens)} and {len(output_tokens)}")
    test = _LoadTest(profile, objective, prompt_tokens, output_tokens, np.random.default_rng(seed))
    clients, rate_per_s = 1, test.run(1)
    if rate_per_s is None:
        raise ValueError(
            f"{profile.name} cannot keep TTFT {objective.ttft_s:g} s and TPOT {objective.tpot_s:g} s for "
            f"{objective.attainment_ratio:.1%} of these requests even one at a time"
        )
    failing = math.inf
    while failing - clients > 1 and failing > clients * _PRECISION_RATIO and clients < _MOST_CLIENTS:
        tried = 2 * clients if failing == math.inf else (clients + int(failing)) // 2
        trial = test.run(tried)
        if trial is None:
            failing = tried
        else:
            clients, rate_per_s = tried, trial
    return SustainedLoad(
        requests_per_s=rate_per_s,
        concurrency=float(clients),
        prompt_tokens_per_s=rate_per_s * test.mean_prompt_tokens,
        output_tokens_per_s=rate_per_s * test.mean_output_tokens,
    )


class _Request(EngineRequest):
    __slots__ = ("first_token_at", "sent_at")

    def __init__(self, sent_at: float, prompt_tokens: int, output_tokens: int) -> None:
        super().__init__(prompt_tokens, output_tokens)
        self.sent_at = sent_at
        self.first_token_at = -1.0


class _LoadTest:
    """Trials of one replica with one sample of requests."""

    def __init__(
        self,
        profile: EngineProfile,
        objective: ServiceObjective,
        prompt_tokens: npt.NDArray[np.int32],
        output_tokens: npt.NDArray[np.int32],
        rng: np.random.Generator,
    ) -> None:
        drawn = rng.integers(len(prompt_tokens), size=_COUNTED_REQUESTS)
        self._profile = profile
        self._objective = objective
        self._prompt_tokens: list[int] = prompt_tokens[drawn].tolist()
        self._output_tokens: list[int] = output_tokens[drawn].tolist()
        self.mean_prompt_tokens = float(np.mean(self._prompt_tokens))
        self.mean_output_tokens = float(np.mean(self._output_tokens))

    def run(self, clients: int) -> float | None:
        """Return requests/s with ``clients`` requests in flight; None as soon as too many have missed the objective."""
        engine: ReplicaEngine[_Request] = ReplicaEngine(self._profile)
        misses_allowed = math.floor(_COUNTED_REQUESTS * (1.0 - self._objective.attainment_ratio) + 1e-9)
        starts = [_START_SPREAD_S * client / clients for client in range(clients)][::-1]
        skipped = _WARM_UP_TURNS * clients if clients > 1 else 0
        at, sent, ended, misses, counting_since = 0.0, 0, 0, 0, 0.0
        while ended < skipped + _COUNTED_REQUESTS and misses <= misses_allowed:
            while starts and starts[-1] <= at:
                sent += self._send(engine, sent, starts.pop())
            step_s = engine.begin_step()
            if step_s == 0.0:
                if not starts:  # every request was refused: none fits the KV cache
                    return None
                at = starts[-1]
                continue
            at += step_s
            for request in engine.first_tokens:
                if request.first_token_at < 0.0:
                    request.first_token_at = at
            engine.end_step()
            for request in tuple(engine.finished):
                ended += 1
                counting_since = at if ended <= skipped else counting_since
                misses += ended > skipped and not self._within(request, at)
                sent += self._send(engine, sent, at)
        return None if misses > misses_allowed else (ended - skipped) / (at - counting_since)

    def _send(self, engine: ReplicaEngine[_Request], sent: int, at: float) -> int:
        """Submit the next request that the engine can hold; return how many were taken from the sample."""
        for tried in range(len(self._prompt_tokens)):
            row = (sent + tried) % len(self._prompt_tokens)
            request = _Request(at, self._prompt_tokens[row], self._output_tokens[row])
            if engine.fits(request):
                engine.submit(request)
                return tried + 1
        return 0

    def _within(self, request: _Request, finished_at: float) -> bool:
        decode_s = finished_at - request.first_token_at
        tpot_s = decode_s / (request.output_tokens - 1) if request.output_tokens > 1 else 0.0
        return self._objective.met(request.first_token_at - request.sent_at, tpot_s)
