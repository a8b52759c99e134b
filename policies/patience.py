"""How long may an engine stand still, or be slow, and be well: one step can prefill a very long prompt as a whole."""

from __future__ import annotations

import math
from collections.abc import Mapping

from policies.engine_profile import EngineProfile
from policies.fleet import FleetState
from policies.placement import PoolSettings

LONG_PROMPT_RATIO = 4.0
"""A prompt this many times as long as the mean is taken to be among them; the engine's step bounds it anyway."""

MARGIN_RATIO = 1.3
"""Step-time formulas are a few to ten per cent off where they were fitted, and more beyond (docs/profiles.md)."""


def longest_step_s(profile: EngineProfile, mean_prompt_tokens: float) -> float:
    """Return how long the step takes that prefills as much of a long prompt as one step can.

    8,192 tokens of a 70B model on four A100 take some 4 s; 90,000 at once, where prompts are not cut up, a minute.
    """
    tokens = min(float(profile.max_batched_tokens), LONG_PROMPT_RATIO * mean_prompt_tokens)
    return profile.prefill_base_s + profile.prefill_per_token_s * tokens + profile.prefill_per_token2_s * tokens**2


def one_prompt_s(fleet: FleetState, pools: Mapping[str, PoolSettings]) -> Mapping[str, float]:
    """Return, by pool key, how much the prefill of one more prompt adds to the TPOT of what decodes meanwhile.

    60,000 tokens of an 8B model on an H100 take 3.5 s: shared by 200 output tokens, 17 ms each.
    """
    found = {}
    for pool in fleet.pools:
        known, demand = pools.get(str(pool.key)), fleet.demand.get(pool.key.model)
        if known is None or demand is None or not min(demand.requests_per_s, demand.output_tokens_per_s) > 0:
            continue
        profile, prompt = known.profile, demand.prompt_tokens_per_s / demand.requests_per_s
        at_once = min(prompt, float(profile.max_batched_tokens))
        steps = math.ceil(prompt / max(at_once, 1.0))
        linear_s = steps * profile.prefill_base_s + prompt * profile.prefill_per_token_s
        prefill_s = linear_s + prompt * at_once * profile.prefill_per_token2_s
        found[str(pool.key)] = prefill_s * demand.requests_per_s / demand.output_tokens_per_s
    return found


def patience_s(fleet: FleetState, pools: Mapping[str, PoolSettings], least_s: float) -> Mapping[str, float]:
    """Return, by pool key, how long its engines may stand still with work inside: ``least_s`` or a long step."""
    found = {}
    for pool in fleet.pools:
        name = str(pool.key)
        known, demand = pools.get(name), fleet.demand.get(pool.key.model)
        long_s = 0.0
        if known is not None and demand is not None and demand.requests_per_s > 0:
            long_s = longest_step_s(known.profile, demand.prompt_tokens_per_s / demand.requests_per_s)
        found[name] = max(least_s, least_s / 2.0 + MARGIN_RATIO * long_s)
    return found
