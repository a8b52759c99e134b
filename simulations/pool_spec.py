"""What is a pool of a simulated fleet made of?"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from policies.engine_profile import EngineProfile
from policies.fleet import PoolKey
from simulations.startup import LEAD_TIME_S, StartupModel


@dataclass(frozen=True, slots=True)
class PoolSpec:
    """What a pool is made of.

    Attributes:
        key: Model, name and role.
        profile: The engine of each replica.
        replicas: Replicas that are READY when the simulation begins.
        lead_time_s: Median seconds from placement to READY.
        startup: Phases of a start, and how starts scatter.
        gpu_stock: GPUs that the pool can get, None for no limit; further replicas stay PENDING, unpaid, until some are
            given back.
        usd_per_gpu_hour: Price; None takes the profile's.
        weight: First share of the model's requests, relative to other pools; None takes the number of GPUs.
        revisions: Revisions that can be rolled back to; new replicas get the last.
        stable_revision: The one recorded as good.

    Raises:
        ValueError: If a figure is impossible.
    """

    key: PoolKey
    profile: EngineProfile
    replicas: int
    lead_time_s: float = LEAD_TIME_S
    startup: StartupModel = field(default_factory=StartupModel)
    gpu_stock: int | None = None
    usd_per_gpu_hour: float | None = None
    weight: float | None = None
    revisions: tuple[str, ...] = ("1",)
    stable_revision: str = "1"

    def __post_init__(self) -> None:
        if self.replicas < 0:
            raise ValueError(f"pool {self.key}: replicas cannot be negative, got {self.replicas}")
        if not 0 <= self.lead_time_s < math.inf:
            raise ValueError(f"pool {self.key}: impossible lead time")
        if self.gpu_stock is not None and self.gpu_stock < self.replicas * self.profile.gpus:
            raise ValueError(f"pool {self.key}: {self.replicas} replicas do not fit {self.gpu_stock} GPUs")
        if not self.revisions or (self.weight is not None and not self.weight >= 0):
            raise ValueError(f"pool {self.key}: needs a revision and a weight that is not negative")

    @property
    def first_weight(self) -> float:
        """First share of the model's requests, before it is scaled to a sum of one."""
        return float(self.replicas * self.profile.gpus) if self.weight is None else self.weight

    @property
    def price_usd(self) -> float:
        """US dollars per GPU hour."""
        return self.profile.usd_per_gpu_hour if self.usd_per_gpu_hour is None else self.usd_per_gpu_hour
