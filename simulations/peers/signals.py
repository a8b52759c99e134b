"""What can a rival read of a fleet: the few sums and means that its original gets from its own metrics.

None means that nobody said anything, which each rival answers as its original does.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np

from policies.fleet import FleetState, PoolState


def known(values: Iterable[float]) -> list[float]:
    """Return those that were observed."""
    return [value for value in values if not math.isnan(value)]


def total(values: Sequence[float]) -> float | None:
    """Return the sum of what was observed; None when there were some and none was."""
    seen = known(values)
    return math.fsum(seen) if seen or not values else None


def scraped(pool: PoolState, figure: str, *, everywhere: bool = False) -> list[float]:
    """Return a figure of the READY replicas' engines as last scraped, or of all engines, where it was told."""
    values = pool.told.of(figure)
    told = ~np.isnan(values) if everywhere else pool.roster.serving & ~np.isnan(values)
    found: list[float] = values[told].tolist()
    return found


def in_flight(pool: PoolState) -> float | None:
    """Return the requests under way in the pool's READY replicas, as the proxy before them counts."""
    return total(pool.told.in_flight[pool.roster.serving].tolist())


def ongoing(fleet: FleetState, pool: PoolState) -> float | None:
    """Return the requests under way in the pool, and its part of those held because no replica could take them."""
    under_way, held = in_flight(pool), held_for(fleet, pool)
    return held if under_way is None and held else None if under_way is None else under_way + held


def held_for(fleet: FleetState, pool: PoolState) -> float:
    """Return the pool's part of what the gateway holds for its stage; 0 when the gateway says nothing."""
    if pool.key.stage != fleet.waited_for(pool.key.model):
        return 0.0
    held = fleet.gateway_queued.get(pool.key.model, 0.0)
    return 0.0 if math.isnan(held) else held * share_of(fleet, pool)


def share_of(fleet: FleetState, pool: PoolState) -> float:
    """Return the pool's share of the requests of its stage: its weight, or an equal part while there are no weights."""
    pools = fleet.pools_in(pool.key.stage)
    weights = [0.0 if math.isnan(each.weight) else each.weight for each in pools]
    if math.fsum(weights) <= 0:
        return 1.0 / len(pools)
    return 0.0 if math.isnan(pool.weight) else pool.weight / math.fsum(weights)


def prompt_tokens(fleet: FleetState, model: str) -> float | None:
    """Return the mean prompt length of what arrives, less what prefix caches hold of it; None when unknown."""
    demand = fleet.demand.get(model)
    if demand is None or demand.requests_per_s <= 0:
        return None
    return demand.prompt_tokens_per_s / demand.requests_per_s * (1.0 - demand.cached_prompt_ratio)


def output_tokens(fleet: FleetState, model: str) -> float | None:
    """Return the recent mean output length; None when unknown."""
    demand = fleet.demand.get(model)
    if demand is None or demand.requests_per_s <= 0:
        return None
    return demand.output_tokens_per_s / demand.requests_per_s
