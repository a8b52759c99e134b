"""How much load can one replica carry within the objective, for the token shape that is coming?"""

from __future__ import annotations

import math
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict, Field

from policies.engine_profile import EngineProfile
from policies.fleet import Demand
from policies.slo import ServiceObjective

KV_USABLE_RATIO = 0.95  # above it every engine starts to preempt


@dataclass(frozen=True, slots=True)
class CapacityModel:
    """What one replica sustains within the objective at one token shape.

    Attributes:
        demand: Largest sustainable load.
        concurrency: Requests in the replica at that load.
        limit: What binds: ``time`` (step time reaches the TPOT objective) or ``sequences`` (batch or KV cache full).
    """

    demand: Demand
    concurrency: float
    limit: str


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


def capacity_of(profile: EngineProfile, objective: ServiceObjective, shape: Demand, efficiency: float) -> CapacityModel:
    """Return what one replica of ``profile`` carries when requests look like those of ``shape``.

    Fluid balance of continuous batching: with ``r`` requests/s of ``P`` prompt and ``O`` output tokens and a mean
    step time ``S``, ``n = r*O*S`` sequences run (each gives one token per step) holding ``n*(P + O/2)`` KV tokens,
    and each step prefills ``r*P*S`` tokens. So ``S = base + r*S*w`` with the work of one request

        w = decode_per_sequence*O + decode_per_kv_token*O*(P + O/2) + prefill_per_token*P + prefill_per_token2*P^2

    and the load at which ``S`` reaches the TPOT objective is ``r = (1 - base/S) / w``. When the batch or the KV
    cache holds only ``m`` sequences, ``r*O*base/(1 - r*w) = m`` gives ``r = m / (O*base + m*w)`` instead. Only
    the rates' proportions in ``shape`` matter. Prefix-cache hits take away prefill, never decode.

    An objective faster than an empty step cannot be met at any load; the answer is then the load at twice the
    empty step time, which is where adding replicas stops helping.

    Raises:
        ValueError: If ``shape`` has no requests or ``efficiency`` is not positive.
    """
    if shape.requests_per_s <= 0 or efficiency <= 0:
        raise ValueError("capacity needs a token shape with requests and a positive efficiency")
    prompt = shape.prompt_tokens_per_s / shape.requests_per_s
    output = max(1.0, shape.output_tokens_per_s / shape.requests_per_s)
    fresh = prompt * (1.0 - shape.cached_prompt_ratio)
    held = prompt + output / 2.0
    work_s = (
        profile.decode_per_sequence_s * output
        + profile.decode_per_kv_token_s * output * held
        + profile.prefill_per_token_s * fresh
        + profile.prefill_per_token2_s * fresh * fresh
    )
    base_s = max(profile.decode_base_s, profile.prefill_base_s)
    step_s = max(objective.tpot_s, 2.0 * base_s)
    sequences = max(1.0, min(profile.max_running, KV_USABLE_RATIO * profile.kv_cache_tokens / held))
    by_time = (1.0 - base_s / step_s) / work_s
    by_sequences = sequences / (output * base_s + sequences * work_s)
    rate = min(by_time, by_sequences) * efficiency
    running = rate * output * base_s / max(1e-9, 1.0 - rate * work_s)
    return CapacityModel(
        demand=Demand(rate, rate * prompt, rate * output, shape.cached_prompt_ratio),
        concurrency=running,
        limit="time" if by_time <= by_sequences else "sequences",
    )


def replicas_needed(demand: Demand, capacity: CapacityModel) -> float:
    """Return how many replicas, not rounded, carry ``demand``: the scarcest of requests, prompt and output decides.

    >>> one = CapacityModel(Demand(2.0, 1000.0, 350.0), concurrency=20.0, limit="time")
    >>> replicas_needed(Demand(2.0, 900.0, 2100.0), one)
    6.0
    """
    # A request count alone misjudges a shift to longer answers: 2 requests/s fit one replica, 2100 tokens/s need 6.
    wanted = (demand.requests_per_s, demand.prompt_tokens_per_s, demand.output_tokens_per_s)
    per_replica = (
        capacity.demand.requests_per_s,
        capacity.demand.prompt_tokens_per_s,
        capacity.demand.output_tokens_per_s,
    )
    return max(want / have if have > 0 else 0.0 for want, have in zip(wanted, per_replica, strict=True))


def whole_replicas(needed: float) -> int:
    """Round up, forgiving float dust: 3.0000000001 replicas are 3."""
    return max(0, math.ceil(needed - 1e-6))
