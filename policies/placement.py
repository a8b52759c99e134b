"""Which pools get the replicas: the cheapest capacity first, within each pool's bounds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from policies.capacity import CapacityModel, whole_replicas
from policies.decisions import Reason
from policies.engine_profile import EngineProfile
from policies.fleet import PoolKey, PoolState
from policies.profile_catalogue import profile_named


class PoolSettings(BaseModel):
    """What a pool's replicas are and how many there may be."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    profile: EngineProfile = Field(description="A profile's name from the catalogue, or a whole profile.")
    min_replicas: int = Field(1, ge=0, le=10_000, description="Never fewer than this, whatever the load.")
    max_replicas: int = Field(64, ge=0, le=10_000, description="Never more than this, whatever the load.")
    efficiency_ratio: float | None = Field(
        None, gt=0, le=1.5, description="Overrides capacity.efficiency_ratio where this pool was load-tested."
    )

    @field_validator("profile", mode="before")
    @classmethod
    def _by_name(cls, value: Any) -> Any:
        return profile_named(value) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _bounds(self) -> PoolSettings:
        if self.min_replicas > self.max_replicas:
            raise ValueError(f"min_replicas {self.min_replicas} is more than max_replicas {self.max_replicas}")
        return self


@dataclass(frozen=True, slots=True)
class PoolOption:
    """One pool as a place for replicas.

    The platform counts ``lost`` replicas, but they do not serve, and ``waiting`` ones, but it has no GPUs for them.
    """

    state: PoolState
    settings: PoolSettings
    capacity: CapacityModel
    lost: int = 0
    failing: bool = False
    waiting: int = 0

    @property
    def here(self) -> int:
        """Replicas that serve or will serve soon."""
        return max(0, self.state.desired - self.lost - self.waiting)

    @property
    def room(self) -> int:
        """Most replicas that can be counted on: where some wait for GPUs, those that are here."""
        most = self.settings.max_replicas - self.lost
        return max(0, min(most, self.here) if self.waiting else most)

    @property
    def usd_per_request_capacity(self) -> float:
        """Price of carrying one request/s for an hour; pools without a price compare by GPUs."""
        hourly = self.state.usd_per_replica_hour or float(self.state.gpus_per_replica)
        return hourly / max(1e-9, self.capacity.demand.requests_per_s)


def place(
    needed: float, reference: CapacityModel, options: Sequence[PoolOption]
) -> tuple[Mapping[PoolKey, float], tuple[Reason, ...]]:
    """Return how many replicas, not rounded, each pool should have to carry ``needed`` reference replicas.

    Every pool keeps its minimum; what is left goes to the cheapest capacity up to its maximum, then to the next.
    A failing pool takes no traffic, so that it counts for nothing and gets no more than it has. Lost replicas are
    added on top where they are lost, since the platform counts them as present. A pool in which replicas wait for GPUs
    counts with those that are here: others take the rest. It goes on waiting for as many as would be of use, and asks
    for more where no pool has room.
    """
    reasons: list[Reason] = []
    answer: dict[PoolKey, float] = {o.state.key: float(o.settings.min_replicas) for o in options}
    worth = {o.state.key: o.capacity.demand.requests_per_s / reference.demand.requests_per_s for o in options}
    counted = {
        o.state.key: min(answer[o.state.key], float(o.room)) if o.waiting else answer[o.state.key] for o in options
    }
    left = needed - sum(counted[o.state.key] * worth[o.state.key] for o in options if not o.failing)
    cheapest_first = sorted(options, key=lambda o: (o.usd_per_request_capacity, o.state.key))
    for option in cheapest_first:
        key, most = option.state.key, option.settings.max_replicas
        if option.failing:
            answer[key] = max(answer[key], float(min(option.state.desired, most)))
            reasons.append(Reason("failing pool", str(key), answer[key], answer[key], "not scaled up while it fails"))
            continue
        # Whole replicas where the pool is full, the unrounded rest where it is the last one used.
        share = min(max(0.0, option.room - counted[key]), max(0.0, left) / worth[key])
        left -= share * worth[key]
        waiting = min(float(option.waiting), max(0.0, left) / worth[key])
        answer[key] = min(float(most), max(answer[key], counted[key] + share + waiting))
        if option.lost:
            total = min(float(most), answer[key] + option.lost)
            reasons.append(
                Reason("lost capacity", str(key), answer[key], total, f"{option.lost} replicas are sick or cordoned")
            )
            answer[key] = total
    for option in (o for o in cheapest_first if o.waiting and not o.failing):
        key, more = option.state.key, max(0.0, left / worth[option.state.key] - option.waiting)
        asked = answer[key]
        answer[key] = max(asked, min(float(option.settings.max_replicas), asked + more))
        detail = f"{option.waiting} replicas have no GPUs: they are not counted on"
        reasons.append(Reason("waiting for GPUs", str(key), counted[key], answer[key], detail))
    if left > 1e-6 and options:
        model = options[0].state.key.model
        short = whole_replicas(left)
        reasons.append(Reason("out of room", model, needed, needed - left, f"{short} more replicas would be needed"))
    return answer, tuple(reasons)
