"""Where do new requests go: weights follow what is ready and healthy, in bounded steps."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from policies.decisions import Reason
from policies.fleet import FleetState, PoolKey
from policies.placement import PoolOption


class TrafficSettings(BaseModel):
    """How fast traffic may move between the pools of a model."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    slow_start_s: float = Field(
        60.0, ge=0, description="Time over which a READY replica grows to its full share: caches and graphs are cold."
    )
    slow_start_floor_ratio: float = Field(0.3, gt=0, le=1, description="Share that a replica starts with when READY.")
    max_step_ratio: float = Field(
        0.2, gt=0, le=1, description="Most that a pool's weight may move per tick, so that the effect can be seen."
    )
    min_change_ratio: float = Field(0.02, ge=0, lt=1, description="Smaller changes of weight are not worth a write.")


def ready_headroom(option: PoolOption, at: float, settings: TrafficSettings) -> float:
    """Return the load in requests/s that the pool's serving replicas can take now, slow start counted."""
    roster = option.state.roster
    age_s = at - roster.since_at[roster.serving]
    grown = np.ones(len(age_s)) if settings.slow_start_s == 0 else np.clip(age_s / settings.slow_start_s, 0.0, 1.0)
    takes = settings.slow_start_floor_ratio + (1.0 - settings.slow_start_floor_ratio) * grown
    return float(sum(takes.tolist())) * option.capacity.demand.requests_per_s


def weigh(
    fleet: FleetState,
    model: str,
    options: Sequence[PoolOption],
    settings: TrafficSettings,
    burdened: Collection[PoolKey] = (),
    *,
    hold: bool = False,
) -> tuple[Mapping[PoolKey, float], tuple[Reason, ...]]:
    """Return the weight of every pool of ``model`` (they sum to one) and why they move.

    A pool without a serving replica, or given up for now, gets nothing, at once; other moves are bounded by
    ``max_step_ratio``, and there are none with ``hold``, nor while they would give more to a pool that is ``burdened``.
    Where no pool can take traffic, or a weight could not be read, the weights stay as they are: there is no better
    place, or no step from what is not known. A pool that is not among ``options`` keeps its share.
    """
    current = {p.key: p.weight for p in fleet.pools_of(model)}
    if any(math.isnan(weight) for weight in current.values()):
        return current, ()
    room = {o.state.key: 0.0 if o.failing else ready_headroom(o, fleet.at, settings) for o in options}
    total, share = sum(room.values()), 1.0 - sum(w for key, w in current.items() if key not in room)
    strange = len(room) < len(current) and sum(current.values()) <= 0  # shares of others that cannot be known
    if total <= 0 or share <= 0 or strange:
        return current, ()
    wanted = {key: share * one / total for key, one in room.items()}
    base = _scaled({key: current[key] if one > 0 else 0.0 for key, one in room.items()}, share) or wanted
    largest = max(abs(wanted[key] - base[key]) for key in room)
    more = sorted(key for key in burdened if key in room and wanted[key] - base[key] >= settings.min_change_ratio)
    step = 0.0 if hold or more or largest < settings.min_change_ratio else min(1.0, settings.max_step_ratio / largest)
    moved = {key: base[key] + step * (wanted[key] - base[key]) for key in room}
    held = tuple(
        Reason("traffic held", str(key), round(base[key], 4), round(base[key], 4), "in trouble since it got more")
        for key in more
    )
    if max(abs(moved[key] - current[key]) for key in room) < 1e-9:
        return current, held
    reasons = held + tuple(
        Reason("traffic", str(key), round(current[key], 4), round(moved[key], 4), _why(room[key]))
        for key in sorted(moved)
        if moved[key] != current[key]
    )
    return {**current, **moved}, reasons


def _scaled(weights: Mapping[PoolKey, float], total: float) -> Mapping[PoolKey, float]:
    """Return the same proportions with the given sum; empty when all are zero."""
    before = sum(weights.values())
    return {key: total * weight / before for key, weight in weights.items()} if before > 0 else {}


def _why(room: float) -> str:
    return f"ready headroom {room:.2f} requests/s" if room > 0 else "nothing here can take traffic"
