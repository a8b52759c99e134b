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
from policies.fleet import Role
from policies.slo import ServiceObjective
from simulations.kernel.arrays import Timing, new_state
from simulations.kernel.compiled import announce
from simulations.kernel.load_test import hold_concurrency
from simulations.kernel.platform import BEGIN_LIFE, act
from simulations.prefill_test import sustained_prefills
from simulations.serving import Serving

_COUNTED_REQUESTS = 5000  # at 99 % the standard error of the attainment is 0.14 %
_WARM_UP_TURNS = 2  # each client's first requests are not counted: the batch fills up in step
_START_SPREAD_S = 10.0  # clients begin one after the other over this time
_PRECISION_RATIO = 1.02  # the answer is within 2 % of the largest passing concurrency, or is that itself
_MOST_CLIENTS = 4096
_UNUSED = Timing(hold_s=1.0, patience_s=1.0, scrape_interval_s=1.0, ttft_s=1.0, tpot_s=1.0)
"""There is no gateway and nobody scrapes."""


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


class OutOfReach(ValueError):
    """The objective is missed even by requests that are served one at a time.

    Attributes:
        within_reach: The objective relaxed as far as it takes, with some room; None when none will do.
        remedy: What else to do, in words.
    """

    def __init__(self, what: str, within_reach: ServiceObjective | None, remedy: str) -> None:
        super().__init__(what)
        self.within_reach = within_reach
        self.remedy = remedy


def sustained_load(
    profile: EngineProfile,
    objective: ServiceObjective,
    prompt_tokens: npt.NDArray[np.int32],
    output_tokens: npt.NDArray[np.int32],
    seed: int,
    role: Role = Role.UNIFIED,
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
        role: What the replica does. One that prefills has the limit of TTFT alone and is tested otherwise
            (``prefill_test``); one that decodes gets the requests of more than one output token with the first, and has
            the limit of TPOT, from then on.

    Raises:
        OutOfReach: If the objective is missed even by requests served one at a time.
        ValueError: If there is nothing to draw from.
    """
    if len(prompt_tokens) == 0 or len(prompt_tokens) != len(output_tokens):
        raise ValueError(f"need as many prompt as output lengths, got {len(prompt_tokens)} and {len(output_tokens)}")
    if role is Role.PREFILL:
        return _prefills(profile, objective, prompt_tokens, seed)
    if role is Role.DECODE:
        longer = output_tokens > 1
        if not longer.any():
            what = "no request has more than one output token: there is nothing to decode"
            raise OutOfReach(what, None, "give unified pools, or a trace with longer outputs")
        prompt_tokens, output_tokens = prompt_tokens[longer], output_tokens[longer]
    test = _LoadTest(profile, objective, prompt_tokens, output_tokens, np.random.default_rng(seed), role)
    clients, rate_per_s = 1, test.run(1)
    if rate_per_s is None:
        raise test.out_of_reach()
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


def _prefills(
    profile: EngineProfile, objective: ServiceObjective, prompt_tokens: npt.NDArray[np.int32], seed: int
) -> SustainedLoad:
    blocks = -(-prompt_tokens // profile.block_tokens)
    fitting = prompt_tokens[blocks <= profile.kv_cache_tokens // profile.block_tokens]
    found = sustained_prefills(profile, objective, fitting, seed) if len(fitting) else None
    if found is None:
        # With one output token each there is no time per output token, so that TTFT alone is relaxed.
        ones = np.ones_like(prompt_tokens)
        rng = np.random.default_rng(seed)
        raise _LoadTest(profile, objective, prompt_tokens, ones, rng, Role.PREFILL).out_of_reach()
    rate_per_s, in_flight = found
    return SustainedLoad(rate_per_s, max(1.0, in_flight), rate_per_s * float(fitting.mean()), 0.0)


class _LoadTest:
    """Trials of one replica with one sample of requests."""

    def __init__(
        self,
        profile: EngineProfile,
        objective: ServiceObjective,
        prompt_tokens: npt.NDArray[np.int32],
        output_tokens: npt.NDArray[np.int32],
        rng: np.random.Generator,
        role: Role,
    ) -> None:
        drawn = rng.integers(len(prompt_tokens), size=_COUNTED_REQUESTS)
        self._profile = profile
        self._serving = Serving(roles=(role,))
        self._prefills = role is Role.PREFILL
        self._objective = objective
        lengths = np.stack([prompt_tokens[drawn], output_tokens[drawn]], axis=1).astype(np.int32)
        self._spread_s = _START_SPREAD_S
        if role is Role.DECODE:  # requests are short without their prefill: all clients are to be there soon
            self._spread_s = min(_START_SPREAD_S, float(lengths[:, 1].mean()) * profile.decode_base_s)
        self.mean_prompt_tokens, self.mean_output_tokens = lengths.mean(axis=0).tolist()
        blocks = -(-(lengths.sum(axis=1) - 1) // profile.block_tokens)
        # A served model refuses a request longer than its cache, and the client sends its next.
        self._lengths = np.ascontiguousarray(lengths[blocks <= profile.kv_cache_tokens // profile.block_tokens])
        self._served = np.zeros((_COUNTED_REQUESTS, 2))

    def run(self, clients: int) -> float | None:
        """Return requests/s with ``clients`` requests in flight; None as soon as too many have missed the objective."""
        asked = self._objective
        if not len(self._lengths):
            return None
        misses_allowed = math.floor(_COUNTED_REQUESTS * (1.0 - asked.attainment_ratio) + 1e-9)
        rate_per_s = self._trial(clients, np.array([asked.ttft_s, asked.tpot_s]), misses_allowed)
        return None if math.isnan(rate_per_s) else rate_per_s

    def _trial(self, clients: int, limits_s: npt.NDArray[np.float64], misses_allowed: int) -> float:
        state = new_state([self._profile], _UNUSED, 1, 1, requests=clients, serving=self._serving)
        act(state, BEGIN_LIFE, 0, np.zeros(0, np.int32), 0.0)
        starts = self._spread_s * np.arange(clients) / clients
        skipped = _WARM_UP_TURNS * clients if clients > 1 else 0
        announce(hold_concurrency)
        return float(hold_concurrency(state, 0, self._lengths, starts, skipped, self._served, limits_s, misses_allowed))

    def out_of_reach(self) -> OutOfReach:
        """Return what one at a time misses the objective by."""
        asked, name = self._objective, self._profile.name
        if not len(self._lengths):
            remedy = "choose an engine profile with more GPU memory (--profile), or a trace with shorter requests"
            return OutOfReach(f"none of these requests fits the KV cache of {name}", None, remedy)
        self._trial(1, np.full(2, math.inf), _COUNTED_REQUESTS)
        limits = f"TTFT {asked.ttft_s:g} s"
        if not self._prefills:
            limits += f" and TPOT {asked.tpot_s:g} s"
        what = f"{name} cannot keep {limits} for {asked.attainment_ratio:.1%} of these requests even one at a time"
        return OutOfReach(what, _relaxed(asked, *self._served.T), "choose a faster engine profile (--profile)")


def _relaxed(
    asked: ServiceObjective, ttft_s: npt.NDArray[np.float64], tpot_s: npt.NDArray[np.float64]
) -> ServiceObjective:
    """Return the objective that enough requests with these times meet: with one limit relaxed where that will do."""
    for level in (asked.attainment_ratio, 1.0):
        ttft = {"ttft_s": max(asked.ttft_s, _room_above(ttft_s, level))}
        tpot = {"tpot_s": max(asked.tpot_s, _room_above(tpot_s, level))}
        for limits in (ttft, tpot, ttft | tpot):
            relaxed = asked.model_copy(update=limits)
            met = (ttft_s <= relaxed.ttft_s) & (tpot_s <= relaxed.tpot_s)
            if met.mean() >= asked.attainment_ratio:
                return relaxed
    raise AssertionError("all requests are below their maxima")


def _room_above(seconds: npt.NDArray[np.float64], level: float) -> float:
    """Return the quantile of ``seconds`` with half as much again for company, in two digits."""
    most = 1.5 * max(float(np.quantile(seconds, level)), 1e-6)
    unit: float = 10.0 ** (math.floor(math.log10(most)) - 1)
    return float(f"{math.ceil(most / unit) * unit:.6g}")
