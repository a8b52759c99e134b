"""Which share of a trace's prompt tokens would the prefix cache of one replica hold already?"""

from __future__ import annotations

from policies.engine_profile import EngineProfile
from simulations.block_hashes import BLOCK_TOKENS
from simulations.prefix_cache import PrefixCache
from simulations.trace import Trace

_LOOKED_AT = 20_000


def cached_prompt_ratio(trace: Trace, profile: EngineProfile) -> float:
    """Return the share of prompt tokens found when the first requests come to one replica, one after the other.

    The whole KV cache is there for prefixes, as it nearly is between requests. A fleet may find more, if the gateway
    keeps alike prompts together, or less: it is an estimate for those who size without watching, in [0, 1]. 0 where
    prompts have no hashes or the engine has no prefix cache.
    """
    if profile.prefix_cache == "off":
        return 0.0
    blocks = profile.kv_cache_tokens // profile.block_tokens
    cache = PrefixCache(BLOCK_TOKENS // profile.block_tokens, profile.prefix_cache)
    prompts = found = looked_at = 0
    for batch in trace.batches():
        if batch.block_hashes is None:
            break
        for prompt, hashes in zip(batch.prompt_tokens.tolist(), batch.block_hashes, strict=True):
            units, _ = cache.found(hashes[: (prompt - 1) // BLOCK_TOKENS])
            used = list(hashes[:units])
            cache.take(used)
            used += [unit for unit in hashes[units : prompt // BLOCK_TOKENS] if cache.add(unit)]
            cache.give_back(used)
            cache.shrink_to(blocks)
            prompts += prompt
            found += units * BLOCK_TOKENS
        looked_at += len(batch)
        if looked_at >= _LOOKED_AT:
            break
    return found / prompts if prompts else 0.0
