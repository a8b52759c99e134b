"""Where do new requests go: weights follow what is ready and healthy, in bounded steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

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
    total = 0.0
    for replica in option.state.serving:
        age_s = at - replica.since_at
        grown = 1.0 if settings.slow_start_s == 0 else min(1.0, age_s / settings.slow_start_s)
        total += settings.slow_start_floor_ratio + (1.0 - settings.slow_start_floor_ratio) * max(0.0, grown)
    return total * option.capacity.demand.requests_per_s


def weigh(
    fleet: FleetState, model: str, options: Sequence[PoolOption], settings: TrafficSettings
) -> tuple[Mapping[PoolKey, float], tuple[Reason, ...]]:
    """Return the weight of every pool of ``model`` (they sum to one) and why they move.

    A pool with no serving replica gets nothing, at once; other moves are bounded by ``max_step_ratio``. When no
    pool serves, the weights stay as they are: there is no better place.
    """
    current = {p.key: p.weight for p in fleet.pools_of(model)}
    room = {o.state.key: ready_headroom(o, fleet.at, settings) for o in options}
    total = sum(room.values())
    if total <= 0:
        return current, ()
    wanted = {key: room.get(key, 0.0) / total for key in current}
    stepped = {key: _step(current[key], want, room.get(key, 0.0) > 0, settings) for key, want in wanted.items()}
    scale = sum(stepped.values())
    weights = {key: value / scale for key, value in stepped.items()} if scale > 0 else wanted
    moved = max(abs(weights[key] - current[key]) for key in weights)
    dead = any(current[key] > 0 and room.get(key, 0.0) <= 0 for key in current)
    if not dead and sum(current.values()) > 0 and moved < settings.min_change_ratio:
        return current, ()
    reasons = tuple(
        Reason("traffic", str(key), round(current[key], 4), round(weights[key], 4), _why(room.get(key, 0.0)))
        for key in sorted(weights)
        if weights[key] != current[key]
    )
    return weights, reasons




def _step(current: float, wanted: float, alive: bool, settings: TrafficSettings) -> float:
    if not alive:
        return 0.0
    if current == 0.0:
        return min(wanted, settings.max_step_ratio)
    return min(max(wanted, current - settings.max_step_ratio), current + settings.max_step_ratio)


def _why(room: float) -> str:
    return f"ready headroom {room:.2f} requests/s" if room > 0 else "no replica serves here"
