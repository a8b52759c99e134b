"""What do pools, settings and objective of a simulated fleet come to for its gateway and its kernel?"""

from __future__ import annotations

import math
from collections.abc import Sequence

from policies.fleet import PoolKey, Role
from policies.slo import ServiceObjective
from simulations.kernel.arrays import Timing
from simulations.pool import PoolSpec
from simulations.serving import Serving
from simulations.settings import FleetSettings


def one_model(keys: Sequence[PoolKey]) -> str:
    """Return the model that all pools serve.

    Raises:
        ValueError: If they serve several, or none, or names repeat.
    """
    models = {key.model for key in keys}
    if len(models) != 1:
        raise ValueError(f"a simulated fleet serves one model with at least one pool, got {sorted(models)}")
    if len({key.pool for key in keys}) != len(keys):
        raise ValueError(f"pool names repeat: {[key.pool for key in keys]}")
    return models.pop()


def first_shares(pools: Sequence[PoolSpec]) -> list[float]:
    """Return the first weights, scaled to a sum of one in each stage; equal ones where all of a stage are zero."""
    stages = [[other for other in pools if _decodes(other) == _decodes(spec)] for spec in pools]
    totals = [math.fsum(spec.first_weight for spec in stage) for stage in stages]
    return [
        spec.first_weight / total if total else 1.0 / len(stage)
        for spec, stage, total in zip(pools, stages, totals, strict=True)
    ]


def _decodes(spec: PoolSpec) -> bool:
    """Return whether the pool is of the second stage."""
    return spec.key.role is Role.DECODE


def serving(pools: Sequence[PoolSpec], settings: FleetSettings, seed: int, unit_tokens: int) -> Serving:
    """Return how the pools serve requests together; a hash of a prompt covers ``unit_tokens``.

    Raises:
        ValueError: If their roles do not belong together.
    """
    roles = tuple(spec.key.role for spec in pools)
    if set(roles) not in ({Role.UNIFIED}, {Role.PREFILL, Role.DECODE}):
        raise ValueError(
            f"pools are all unified, or there are prefill and decode pools and no others: {[str(s.key) for s in pools]}"
        )
    return Serving(
        roles=() if Role.UNIFIED in roles else roles,
        routing=settings.routing,
        seed=seed,
        unit_tokens=unit_tokens,
        prefix_match_ratio=settings.prefix_match_ratio,
        prefix_most_ahead=settings.prefix_most_ahead,
        prefix_most_ratio=settings.prefix_most_ratio,
        kv_bytes_per_s=settings.kv_gb_per_s * 1e9,
        kv_latency_s=settings.kv_latency_s,
    )


def timing(settings: FleetSettings, objective: ServiceObjective) -> Timing:
    """Return the time-outs and rhythms of the kernel."""
    return Timing(
        hold_s=settings.gateway_timeout_s,
        patience_s=settings.request_timeout_s,
        scrape_interval_s=settings.scrape_interval_s,
        ttft_s=objective.ttft_s,
        tpot_s=objective.tpot_s,
        connect_s=settings.connect_timeout_s,
    )
