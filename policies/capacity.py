"""How much load can one replica carry within the objective, for the token shape that is coming?"""

from __future__ import annotations

import math
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict, Field

from policies.engine_profile import EngineProfile
from policies.fleet import Demand, Role
from policies.slo import ServiceObjective

KV_USABLE_RATIO = 0.95  # above it every engine starts to preempt


@dataclass(frozen=True, slots=True)
class CapacityModel:
    """What one replica sustains within the objective at one token shape.

    Attributes:
        demand: Largest sustainable load.
        concurrency: Requests in the replica at that load.
        limit: What binds: ``time`` (the step time reaches the TPOT objective, or prompts queue for as long as the TTFT
            objective allows) or ``sequences`` (batch or KV cache full).
        prefill_s_per_token: Engine time that one offered prompt token costs (cached ones included, at no cost).
        decode_s_per_token: Engine time that one output token costs beyond its share of the step's base time.
        work_ratio: Engine time per second that a replica can spend on such work within the objective.
    """

    demand: Demand
    concurrency: float
    limit: str
    prefill_s_per_token: float
    decode_s_per_token: float
    work_ratio: float


class CapacitySettings(BaseModel):
    """How far the step-time formula is trusted."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    efficiency_ratio: float = Field(
        0.75,
        gt=0,
        le=1.5,
        description="Share of the formula's load that a load test of one replica really sustained. The formula knows "
        "means only; bursts and long prompts take the rest. 0.75 until a load test says otherwise.",
    )
    default_prompt_tokens: float = Field(1000.0, gt=0, description="Prompt length assumed until requests are seen.")
    default_output_tokens: float = Field(200.0, gt=0, description="Output length assumed until requests have ended.")


def capacity_of(
    profile: EngineProfile,
    objective: ServiceObjective,
    shape: Demand,
    efficiency: float,
    role: Role = Role.UNIFIED,
) -> CapacityModel:
    """Return what one replica of ``profile`` carries when requests look like those of ``shape``.

    Fluid balance of continuous batching: with ``r`` requests/s of ``P`` prompt and ``O`` output tokens and a mean
    step time ``S``, ``n = r*O*S`` sequences run (each gives one token per step) holding ``n*(P + O/2)`` KV tokens,
    and each step prefills ``r*P*S`` tokens. So ``S = base + r*S*w`` with the work of one request

        w = decode_per_sequence*O + decode_per_kv_token*O*(P + O/2) + prefill_per_token*P + prefill_per_token2*P^2

    and the load at which ``S`` reaches the TPOT objective is ``r = (1 - base/S) / w``. When the batch or the KV
    cache holds only ``m`` sequences, ``r*O*base/(1 - r*w) = m`` gives ``r = m / (O*base + m*w)`` instead. Only
    the rates' proportions in ``shape`` matter. Prefix-cache hits take away prefill, never decode.

    Lengths beyond the KV cache, which no engine takes, count as filling it: where next to no requests are expected, the
    ratio of two forecast rates can be anything.

    An objective faster than an empty step cannot be met at any load; the answer is then the load at twice the
    empty step time, which is where adding replicas stops helping.

    A decode replica is the same without the prefill. A prefill replica is a queue of prompts (``_prefill_capacity``).

    Raises:
        ValueError: If ``shape`` has no requests or ``efficiency`` is not positive.
    """
    if shape.requests_per_s <= 0 or efficiency <= 0:
        raise ValueError("capacity needs a token shape with requests and a positive efficiency")
    prompt = min(shape.prompt_tokens_per_s / shape.requests_per_s, float(profile.kv_cache_tokens))
    output = min(max(1.0, shape.output_tokens_per_s / shape.requests_per_s), float(profile.kv_cache_tokens))
    fresh = prompt * (1.0 - shape.cached_prompt_ratio)
    held = prompt + output / 2.0
    prefill_s = (profile.prefill_per_token_s + profile.prefill_per_token2_s * fresh) * (1.0 - shape.cached_prompt_ratio)
    if role is Role.PREFILL:
        return _prefill_capacity(profile, objective, Demand(1.0, prompt, output, shape.cached_prompt_ratio), efficiency)
    if role is Role.DECODE:
        prefill_s = 0.0
    decode_s = profile.decode_per_sequence_s + profile.decode_per_kv_token_s * held
    work_s = prefill_s * prompt + decode_s * output  # the docstring's w
    base_s = profile.decode_base_s if role is Role.DECODE else max(profile.decode_base_s, profile.prefill_base_s)
    step_s = max(objective.tpot_s, 2.0 * base_s)
    sequences = max(1.0, min(profile.max_running, KV_USABLE_RATIO * profile.kv_cache_tokens / held))
    by_time = (1.0 - base_s / step_s) / work_s if work_s > 0 else math.inf
    by_sequences = sequences / (output * base_s + sequences * work_s)
    rate = min(by_time, by_sequences) * efficiency
    running = rate * output * base_s / max(1e-9, 1.0 - rate * work_s)
    return CapacityModel(
        demand=Demand(rate, rate * prompt, rate * output, shape.cached_prompt_ratio),
        concurrency=running,
        limit="time" if by_time <= by_sequences else "sequences",
        prefill_s_per_token=prefill_s,
        decode_s_per_token=decode_s,
        work_ratio=rate * work_s,
    )


def _prefill_capacity(
    profile: EngineProfile, objective: ServiceObjective, request: Demand, efficiency: float
) -> CapacityModel:
    """Return what a replica carries that only prefills, given the lengths of one ``request``.

    A prompt of ``P`` tokens, ``F`` of them not cached, takes ``s = base * F/B + q*F + r*F^2`` when steps of ``B``
    tokens are full, and ``s1``, with a base per step begun, when it is alone. Prompts of about one length come at
    random, so that one waits ``u*s / (2*(1 - u))`` at a utilisation ``u`` (M/D/1; Kleinrock, Queueing Systems I, 1975,
    section 5.6). The load is that at which this and ``s1`` make up the TTFT objective: ``u = 2*w / (s + 2*w)`` with
    ``w = TTFT - s1``. An objective below twice ``s1`` is taken for that: more replicas do not help one prompt.
    """
    fresh = max(1.0, request.prompt_tokens_per_s * (1.0 - request.cached_prompt_ratio))
    work_s = profile.prefill_per_token_s * fresh + profile.prefill_per_token2_s * fresh * fresh
    steps = fresh / profile.max_batched_tokens
    service_s, alone_s = profile.prefill_base_s * steps + work_s, profile.prefill_base_s * math.ceil(steps) + work_s
    wait_s = max(objective.ttft_s, 2.0 * alone_s) - alone_s
    busy_ratio = 2.0 * wait_s / (service_s + 2.0 * wait_s)
    rate = busy_ratio / service_s * efficiency
    return CapacityModel(
        demand=request.scaled(rate),
        concurrency=rate * (wait_s + alone_s),
        limit="time",
        prefill_s_per_token=service_s / max(1.0, request.prompt_tokens_per_s),
        decode_s_per_token=0.0,
        work_ratio=busy_ratio * efficiency,
    )


def replicas_needed(demand: Demand, capacity: CapacityModel) -> float:
    """Return how many replicas, not rounded, carry ``demand``: engine time, or sequences where those bind, decides.

    Prefill and decode share the engine, so their times add up; a count of requests would misjudge longer answers.

    >>> one = CapacityModel(Demand(2.0, 1000.0, 400.0), 20.0, "time", 0.0002, 0.0005, 0.4)
    >>> replicas_needed(Demand(2.0, 1000.0, 400.0), one)
    1.0
    >>> replicas_needed(Demand(2.0, 1000.0, 1200.0), one)
    2.0
    """
    # 1000 prompt tokens/s take 0.2 s/s, 1200 output tokens/s take 0.6 s/s: 0.8 s/s of work at 0.4 s/s per replica.
    work = demand.prompt_tokens_per_s * capacity.prefill_s_per_token
    work += demand.output_tokens_per_s * capacity.decode_s_per_token
    by_time = work / capacity.work_ratio if capacity.work_ratio > 0 else 0.0
    if capacity.limit == "time":
        return by_time
    return max(by_time, demand.output_tokens_per_s / capacity.demand.output_tokens_per_s)


def whole_replicas(needed: float) -> int:
    """Round up, forgiving float dust: 3.0000000001 replicas are 3."""
    return max(0, math.ceil(needed - 1e-6))
