"""What can be tuned about decisions: the settings of every step, in one place."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import BaseModel, ConfigDict, Field, field_validator

from policies.anomaly import AnomalySettings
from policies.capacity import CapacitySettings
from policies.failover import FailoverSettings
from policies.fleet import PoolKey, Role
from policies.guardrails import GuardrailSettings
from policies.healing_settings import HealingSettings
from policies.lead_time import LeadTimeSettings
from policies.placement import PoolSettings
from policies.scaling import ScalingSettings
from policies.slo import ServiceObjective
from policies.stabilization import StabilizationSettings
from policies.traffic import TrafficSettings


class PolicySettings(BaseModel):
    """Everything that an operator can tune about decisions."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    tick_s: float = Field(
        15.0,
        ge=1,
        le=3600,
        description="Time between decisions, in seconds; also the step of the load history. Metrics change with each "
        "scrape, some ten seconds apart: a shorter tick sees nothing new. A fleet left alone for an hour is static.",
    )
    plan_expiry_s: float = Field(
        30.0, gt=0, le=86400, description="Age in seconds from which a plan is no longer carried out."
    )
    objective: ServiceObjective = Field(default_factory=ServiceObjective, description="Objective of every model.")
    objectives: Mapping[str, ServiceObjective] = Field(
        default_factory=dict, description="Objective of single models, by model name, instead of the common one."
    )
    pools: Mapping[str, PoolSettings] = Field(
        default_factory=dict, description="Pools by key (model/pool/role). A pool that is not listed is left alone."
    )
    lead_time: LeadTimeSettings = Field(default_factory=LeadTimeSettings, description="Start-up time of replicas.")
    capacity: CapacitySettings = Field(default_factory=CapacitySettings, description="Load that a replica carries.")
    scaling: ScalingSettings = Field(default_factory=ScalingSettings, description="How much capacity is wanted.")
    stabilization: StabilizationSettings = Field(
        default_factory=StabilizationSettings, description="How slowly capacity is given up."
    )
    guardrails: GuardrailSettings = Field(default_factory=GuardrailSettings, description="What may never happen.")
    traffic: TrafficSettings = Field(default_factory=TrafficSettings, description="How traffic is shared.")
    anomaly: AnomalySettings = Field(default_factory=AnomalySettings, description="When a replica looks wrong.")
    healing: HealingSettings = Field(default_factory=HealingSettings, description="What is done about it.")
    failover: FailoverSettings = Field(default_factory=FailoverSettings, description="When a pool is given up for now.")

    @field_validator("pools")
    @classmethod
    def _pools_that_serve_whole_requests(cls, pools: Mapping[str, PoolSettings]) -> Mapping[str, PoolSettings]:
        roles: dict[str, set[Role]] = {}
        for key in map(PoolKey.parse, pools):
            roles.setdefault(key.model, set()).add(key.role)
        for model, found in roles.items():
            if found not in ({Role.UNIFIED}, {Role.PREFILL, Role.DECODE}):
                said = ", ".join(sorted(found))
                raise ValueError(
                    f"{model} has pools of role {said}: name unified ones only, or both prefill and decode"
                )
        return pools

    def objective_of(self, model: str) -> ServiceObjective:
        """Return the objective that holds for ``model``."""
        return self.objectives.get(model, self.objective)
