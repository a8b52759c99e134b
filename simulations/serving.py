"""How do the pools of a simulated fleet serve a request together: roles, routing, prefixes, and KV transfer?"""

from __future__ import annotations

from dataclasses import dataclass

from policies.fleet import Role
from simulations.block_hashes import BLOCK_TOKENS
from simulations.routings import Routing


@dataclass(frozen=True, slots=True)
class Serving:
    """What the gateway does with a request once its pool is chosen by weight.

    Attributes:
        roles: One per pool; empty when all are unified.
        routing: How a replica is chosen among those of the pool that take traffic.
        seed: Of the draws of ``power_of_two``.
        unit_tokens: Prompt tokens that one hash covers.
        prefix_match_ratio: ``prefix_aware`` follows a prefix that makes up at least this share of the prompt's units.
        prefix_most_ahead: It does not follow when the replica has this many requests more in flight than the least
            busy one of its pool, and
        prefix_most_ratio: more than so many times as many.
        kv_bytes_per_s: Rate at which a prefill replica sends keys and values, one request after the other.
        kv_latency_s: What each such transfer takes beside.
    """

    roles: tuple[Role, ...] = ()
    routing: Routing = "least_connections"
    seed: int = 0
    unit_tokens: int = BLOCK_TOKENS
    prefix_match_ratio: float = 0.3
    prefix_most_ahead: int = 64
    prefix_most_ratio: float = 1.5
    kv_bytes_per_s: float = 25e9
    kv_latency_s: float = 0.01

    def role(self, pool: int) -> Role:
        """Return the role of the pool at that position."""
        return self.roles[pool] if self.roles else Role.UNIFIED


PLAIN = Serving()
"""Unified pools, and whoever has least to do."""
