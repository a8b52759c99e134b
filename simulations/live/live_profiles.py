"""Which engines suit one machine: profiles that saturate at a few requests per second, beside the catalogue's.

A GPU's replica yields thousands of tokens per second, each of which costs an emulated one, Envoy and a client some
hundred microseconds of a processor together. These two are slow enough for ten replicas on two cores, and otherwise
like big engines: as load grows the time per token grows, then a queue. With the chat shape (1155 prompt and 211 output
tokens) the larger carries some 1.7 requests/s within 2 s and 0.1 s, the smaller 0.9.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from policies.engine_profile import EngineProfile
from policies.profile_catalogue import profile_named

MODEL = "emulated/chat-small"

_SOURCE = "made for the live stack: slow enough to be emulated ten at a time"


def _profile(gpu: str, slowness: float, max_running: int, usd_per_gpu_hour: float) -> EngineProfile:
    return EngineProfile(
        name=f"emulated-{gpu}",
        model=MODEL,
        gpu=gpu,
        gpus=1,
        decode_base_s=0.030 * slowness,
        decode_per_sequence_s=0.0010 * slowness,
        decode_per_kv_token_s=0.0,
        prefill_base_s=0.030 * slowness,
        prefill_per_token_s=0.00008 * slowness,
        prefill_per_token2_s=0.0,
        kv_cache_tokens=60_000,
        max_running=max_running,
        max_batched_tokens=2048,
        usd_per_gpu_hour=usd_per_gpu_hour,
        source=_SOURCE,
    )


LIVE_PROFILES: Mapping[str, EngineProfile] = MappingProxyType(
    {profile.name: profile for profile in (_profile("large", 1.0, 24, 2.0), _profile("small", 1.5, 16, 1.2))}
)


def live_profile_named(name: str) -> EngineProfile:
    """Return the profile of that name, one of these or of the catalogue.

    Raises:
        ValueError: If there is none; the message lists those that there are.
    """
    if name in LIVE_PROFILES:
        return LIVE_PROFILES[name]
    try:
        return profile_named(name)
    except ValueError as error:
        raise ValueError(f"{error}, {', '.join(LIVE_PROFILES)}") from None
