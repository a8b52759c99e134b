"""What would KEDA do on tokens of outstanding work, as llm-d configures it?

llm-d's experimental guide "Token-Aware Autoscaling" (``guides/workload-autoscaling/keda-epp-token-aware`` of October
2026, co-located topology) has two triggers, of which the larger answer counts:

    prefill   ceil(tokens waiting for prefill / V_P / 1.5 s)      V_P: prompt tokens that one replica prefills per
    second decode    ceil(sum of KV cache use / 0.8)

and a behaviour of its own: at most one replica more in 3 minutes and one less in 5.

V_P is calibrated as in the guide, from one prompt as long as a whole chunk on an idle engine: its tokens over its TTFT.
The endpoint picker counts prompt tokens that it sent and that are not prefilled yet; here these are the requests that
wait in an engine times the recent mean prompt length, less what prefix caches hold. Prompts in the middle of their
prefill are not seen. KV use is what Prometheus last scraped. ``or vector(0)`` makes silence a zero.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from pydantic import Field

from forecasting.forecast import LoadForecast
from policies.decisions import Decision
from policies.engine_profile import EngineProfile
from policies.fleet import FleetState, PoolState
from policies.memory import PolicyMemory
from policies.placement import PoolSettings
from simulations.peers.hpa import autoscaled, shared_out
from simulations.peers.keda import ScaledObjectSettings, ToAndFromZero, routed, waiting
from simulations.peers.rhythm import KvRhythm
from simulations.peers.signals import prompt_tokens, scraped


class KedaTokensSettings(ScaledObjectSettings, KvRhythm):
    """Thresholds and behaviour of the guide's ``ScaledObject``."""

    prefill_s: float = Field(
        1.5,
        gt=0,
        description="Seconds of prefill backlog per replica to aim at: the TTFT objective less the idle TTFT.",
    )
    kv_cache_ratio: float = Field(0.8, gt=0, le=1, description="KV cache use per replica to aim at.")
    polling_interval_s: float = Field(15.0, gt=0, description="As the guide sets it, in seconds.")
    up_ratio: float = Field(0.0, ge=0, description="The guide has no such limit.")
    up_replicas: int = Field(1, ge=0, description="Replicas more per period.")
    up_period_s: float = Field(180.0, gt=0, description="Period of the growth limit, in seconds.")
    down_ratio: float = Field(0.0, ge=0, le=1, description="The guide has no such limit.")
    down_replicas: int = Field(1, ge=0, description="Replicas less per period.")
    down_period_s: float = Field(300.0, gt=0, description="Period of the shrinking limit, in seconds.")


@dataclass(slots=True)
class KedaTokens:
    """A ``ScaledObject`` with two triggers per pool.

    ``pools`` has their bounds and profiles, ``kv_full`` what counts as a full cache, by key text.
    """

    pools: Mapping[str, PoolSettings]
    settings: KedaTokensSettings
    kv_full: Mapping[str, float] = field(default_factory=dict)
    name: str = "keda-tokens"
    _zero: ToAndFromZero = field(init=False)

    def __post_init__(self) -> None:
        self._zero = ToAndFromZero(self.pools, self.settings)

    def decide(self, fleet: FleetState, forecasts: Mapping[str, LoadForecast], memory: PolicyMemory) -> Decision:
        """Return what the HPA objects and KEDA itself ask for."""

        def answers(pool: PoolState) -> list[int | None]:
            name, settings = str(pool.key), self.settings
            waits_s = backlog_tokens(fleet, pool) / prefill_tokens_per_s(self.pools[name].profile)
            used = kv_used(pool) / self.kv_full.get(name, 1.0)
            triggers = ((waits_s, settings.prefill_s), (used, settings.kv_cache_ratio))
            return [shared_out(value, target, pool.desired, settings.tolerance_ratio) for value, target in triggers]

        decision = autoscaled(fleet, memory, self.pools, answers, self.settings)
        active = {str(pool.key): kv_used(pool) > 0 or routed(fleet, pool) for pool in fleet.pools}
        return self._zero.beside(decision, fleet, active)


def prefill_tokens_per_s(profile: EngineProfile) -> float:
    """Return V_P: the tokens of one whole chunk over the time that an idle engine takes for it."""
    chunk = profile.max_batched_tokens
    took_s = profile.prefill_base_s + profile.prefill_per_token_s * chunk + profile.prefill_per_token2_s * chunk**2
    return chunk / took_s


def backlog_tokens(fleet: FleetState, pool: PoolState) -> float:
    """Return the prompt tokens that wait in the pool's engines for their prefill."""
    return waiting(pool) * (prompt_tokens(fleet, pool.key.model) or 0.0)


def kv_used(pool: PoolState) -> float:
    """Return the KV cache in use, in replicas' worth."""
    return math.fsum(scraped(pool, "kv_cache_ratio", everywhere=True))
