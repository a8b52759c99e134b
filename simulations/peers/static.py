"""How many GPU hours does a fleet cost that is sized for its peak and never changes?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict, Field

from forecasting.forecast import LoadForecast
from policies.decisions import Decision
from policies.fleet import FleetState, PoolKey
from policies.memory import PolicyMemory
from simulations.peers.answer import decision_of


class StaticSettings(BaseModel):
    """What counts as the peak."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    peak_window_s: float = Field(
        300.0, gt=0, description="Window whose largest mean load is the peak that the fleet is sized for, in seconds."
    )
    utilisation_ratio: float = Field(
        0.9,
        gt=0,
        le=1.5,
        description="Share of the load-tested capacity that the peak may take; what is left is for bursts within it.",
    )


@dataclass(frozen=True, slots=True)
class Static:
    """A fixed number of replicas per pool; a replica that is lost is replaced by the platform, not by the policy."""

    replicas: Mapping[PoolKey, int]
    name: str = "static"

    def decide(self, fleet: FleetState, forecasts: Mapping[str, LoadForecast], memory: PolicyMemory) -> Decision:
        """Return the same counts as ever."""
        return decision_of(fleet, memory, self.replicas)
