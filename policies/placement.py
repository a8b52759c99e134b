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
    """One pool as a place for replicas. ``lost`` replicas are counted by the platform but do not serve."""

    state: PoolState
    settings: PoolSettings
    capacity: CapacityModel
    lost: int = 0
    failing: bool = False

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
    added on top where they are lost, since the platform counts them as present.
    """
    reasons: list[Reason] = []
    answer: dict[PoolKey, float] = {o.state.key: float(o.settings.min_replicas) for o in options}
    worth = {o.state.key: o.capacity.demand.requests_per_s / reference.demand.requests_per_s for o in options}
    left = needed - sum(answer[o.state.key] * worth[o.state.key] for o in options if not o.failing)
    for option in sorted(options, key=lambda o: (o.usd_per_request_capacity, o.state.key)):
        key, most = option.state.key, option.settings.max_replicas
        if option.failing:
            answer[key] = max(answer[key], float(min(option.state.desired, most)))
            reasons.append(Reason("failing pool", str(key), answer[key], answer[key], "not scaled up while it fails"))
            continue
        # Whole replicas where the pool is full, the unrounded rest where it is the last one used.
        room = max(0.0, most - option.lost - answer[key])
        share = min(room, max(0.0, left) / worth[key])
        answer[key] += share
        left -= share * worth[key]
        if option.lost:
            total = min(float(most), answer[key] + option.lost)
            reasons.append(
                Reason("lost capacity", str(key), answer[key], total, f"{option.lost} replicas are sick or cordoned")
            )
            answer[key] = total
    if left > 1e-6 and options:
        model = options[0].state.key.model
        short = whole_replicas(left)
        reasons.append(Reason("out of room", model, needed, needed - left, f"{short} more replicas would be needed"))
    return answer, tuple(reasons)
