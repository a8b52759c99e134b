"""What should be done now? The whole of Foresail's judgement, as one pipeline of pure steps.

    lead times -> evidence -> diagnosis -> healing -> need -> placement -> stabilization -> guardrails -> traffic

Each step is a module of its own and leaves a ``Reason`` for everything that it changed, refused or held.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from pydantic import BaseModel, ConfigDict, Field

from forecasting.forecast import LoadForecast
from policies import guardrails
from policies.anomaly import AnomalySettings, watch
from policies.capacity import CapacityModel, CapacitySettings, capacity_of, replicas_needed
from policies.decisions import Decision, FailOver, Reason, ScalingPlan, TrafficPlan
from policies.diagnosis import diagnose
from policies.fleet import Demand, FleetState, PoolKey, PoolState
from policies.guardrails import GuardrailSettings
from policies.healing import Course, HealingSettings, heal
from policies.lead_time import LeadTime, LeadTimeSettings, lead_time, observe_starts
from policies.memory import ModelMemory, PolicyMemory, PoolMemory
from policies.placement import PoolOption, PoolSettings, place
from policies.scaling import Need, ScalingSettings, predicted_demand, reactive_replicas, steer_margin
from policies.slo import ServiceObjective
from policies.stabilization import StabilizationSettings, stabilize
from policies.traffic import TrafficSettings, weigh
from policies.wire import digest


class PolicySettings(BaseModel):
    """Everything that an operator can tune about decisions."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    tick_s: float = Field(15.0, gt=0, description="Time between decisions, in seconds; also the step of the load history.")
    plan_expiry_s: float = Field(30.0, gt=0, description="Age in seconds from which a plan is no longer carried out.")
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

    def objective_of(self, model: str) -> ServiceObjective:
        """Return the objective that holds for ``model``."""
        return self.objectives.get(model, self.objective)


@dataclass(slots=True)
class _Draft:
    """What has been decided so far in this tick."""

    reasons: list[Reason] = field(default_factory=list)
    pools: dict[str, PoolMemory] = field(default_factory=dict)
    models: dict[str, ModelMemory] = field(default_factory=dict)
    desired: dict[PoolKey, int] = field(default_factory=dict)
    traffic: list[TrafficPlan] = field(default_factory=list)


def decide(
    fleet: FleetState, forecasts: Mapping[str, LoadForecast], memory: PolicyMemory, settings: PolicySettings
) -> Decision:
    """Return what to do about ``fleet``. Pure: the same arguments give the same decision, digest included."""
    draft = _Draft()
    for pool in fleet.pools:
        known = memory.pools.get(str(pool.key), PoolMemory())
        draft.pools[str(pool.key)] = observe_starts(pool, known, settings.lead_time)
    lead_times = {key: lead_time(known, settings.lead_time) for key, known in draft.pools.items()}

    seen = watch(fleet, memory.replicas, lead_times, settings.anomaly)
    diagnoses = diagnose(fleet, seen.anomalies, settings.anomaly)
    course = heal(fleet, diagnoses, seen.memory, memory.actions, lead_times, settings.healing)
    draft.reasons += course.reasons

    for model in fleet.models:
        known_model = memory.models.get(model, ModelMemory())
        _decide_model(fleet, model, forecasts.get(model), known_model, course, lead_times, settings, draft)
    within, why = guardrails.spend_within(draft.desired, fleet.pools, settings.guardrails)
    draft.reasons += why
    scaling = _plans(fleet, within, course)
    for key, desired in within.items():
        name = str(key)
        draft.pools[name] = guardrails.remember_desired(draft.pools[name], desired, fleet.at, settings.guardrails)

    generation = memory.generation + 1
    return Decision(
        at=fleet.at,
        generation=generation,
        input_digest=digest((fleet, sorted((m, f.source, f.made_at) for m, f in forecasts.items()), memory.generation)),
        expires_at=fleet.at + settings.plan_expiry_s,
        scaling=scaling,
        traffic=tuple(draft.traffic),
        anomalies=seen.anomalies,
        diagnoses=diagnoses,
        remediations=course.remediations,
        reasons=tuple(draft.reasons),
        memory=PolicyMemory(generation, draft.pools, draft.models, course.replicas, course.actions),
    )


@dataclass(frozen=True, slots=True)
class Foresail:
    """The policy of this project, as something that the control loop can hold."""

    settings: PolicySettings
    name: str = "foresail"

    def decide(
        self, fleet: FleetState, forecasts: Mapping[str, LoadForecast], memory: PolicyMemory
    ) -> Decision:
        """Return what to do about ``fleet``; see :func:`decide`."""
        return decide(fleet, forecasts, memory, self.settings)


def _decide_model(
    fleet: FleetState,
    model: str,
    forecast: LoadForecast | None,
    known: ModelMemory,
    course: Course,
    lead_times: Mapping[str, LeadTime],
    settings: PolicySettings,
    draft: _Draft,
) -> None:
    """Size the pools of one model and share its traffic."""
    pools = _managed(fleet, model, settings, draft)
    if not pools:
        draft.models[model] = known
        return
    objective = settings.objective_of(model)
    known, why = steer_margin(known, fleet, model, objective, settings.scaling)
    draft.reasons += why
    longest_s = max(lead_times[str(p.key)].p90_s for p in pools)
    until_at = fleet.at + longest_s + settings.tick_s
    demand = fleet.demand.get(model)
    ahead = predicted_demand(forecast, settings.scaling.level, until_at) if forecast else demand
    options = _options(pools, objective, ahead or demand, course, settings)

    blind = guardrails.blind_spot(fleet, model, settings.guardrails)
    if demand is None:
        _hold(options, model, blind, draft)
    else:
        need = _need(fleet, model, forecast, ahead or demand, options, known, objective, settings, draft)
        _size(fleet, need, options, blind, settings, draft)

    weights, why = weigh(fleet, model, options, settings.traffic)
    weights = _without_failing(weights, model, course)
    draft.reasons += why
    current = {p.key: p.weight for p in fleet.pools_of(model)}
    if weights != current and sum(weights.values()) > 0:
        draft.traffic.append(TrafficPlan(model, weights))
    draft.models[model] = replace(known, weights={str(key): weight for key, weight in weights.items()})


def _managed(fleet: FleetState, model: str, settings: PolicySettings, draft: _Draft) -> tuple[PoolState, ...]:
    """Return the pools that are ours to size: configured, and owned by no other controller (invariant I11)."""
    mine = []
    for pool in fleet.pools_of(model):
        if str(pool.key) not in settings.pools:
            detail = "not in the settings: left alone"
            draft.reasons.append(Reason("unmanaged", str(pool.key), pool.desired, pool.desired, detail))
        elif pool.owner:
            detail = f"{pool.owner} owns the replica count: left alone"
            draft.reasons.append(Reason("other owner", str(pool.key), pool.desired, pool.desired, detail))
        else:
            mine.append(pool)
    return tuple(mine)


def _options(
    pools: tuple[PoolState, ...],
    objective: ServiceObjective,
    shape: Demand | None,
    course: Course,
    settings: PolicySettings,
) -> tuple[PoolOption, ...]:
    """Return each pool with what one of its replicas carries at the token shape to come."""
    assumed = settings.capacity
    if shape is None or shape.requests_per_s <= 0:
        shape = Demand(1.0, assumed.default_prompt_tokens, assumed.default_output_tokens)
    elif shape.output_tokens_per_s <= 0:
        shape = replace(shape, output_tokens_per_s=shape.requests_per_s * assumed.default_output_tokens)
    failing = {r.origin for r in course.remediations if isinstance(r, FailOver)}
    return tuple(
        PoolOption(
            state=pool,
            settings=(mine := settings.pools[str(pool.key)]),
            capacity=capacity_of(mine.profile, objective, shape, mine.efficiency_ratio or assumed.efficiency_ratio),
            lost=course.lost.get(str(pool.key), 0),
            failing=pool.key in failing,
        )
        for pool in pools
    )


def _reference(options: tuple[PoolOption, ...]) -> CapacityModel:
    """Return the capacity that needs are counted in: the cheapest pool's."""
    return min(options, key=lambda o: (o.usd_per_request_capacity, o.state.key)).capacity


def _need(
    fleet: FleetState,
    model: str,
    forecast: LoadForecast | None,
    ahead: Demand,
    options: tuple[PoolOption, ...],
    known: ModelMemory,
    objective: ServiceObjective,
    settings: PolicySettings,
    draft: _Draft,
) -> Need:
    """Return the larger of what is coming and what already burns, in reference replicas."""
    one = _reference(options)
    serving = sum(len(o.state.serving) for o in options)
    reactive, why = reactive_replicas(fleet, model, one, objective, settings.scaling)
    draft.reasons += why
    margin = 1.0 + known.margin_ratio
    if forecast is None:
        detail = "no forecast can be trusted: reactive only"
        draft.reasons.append(Reason("reactive only", model, reactive, reactive * margin, detail))
        return Need(0.0, reactive * margin, ahead)
    predicted, why = guardrails.cap_prediction(
        replicas_needed(ahead, one) * margin, reactive, serving, model, settings.guardrails
    )
    draft.reasons += why
    detail = (
        f"{ahead.requests_per_s:.1f} requests/s at the {settings.scaling.level:.2f} level of the peak "
        f"({forecast.source}), {one.demand.requests_per_s:.2f} requests/s per replica, margin {known.margin_ratio:+.0%}"
    )
    draft.reasons.append(Reason("predictive target", model, round(reactive, 2), round(predicted, 2), detail))
    return Need(predicted, reactive, ahead)


def _size(
    fleet: FleetState,
    need: Need,
    options: tuple[PoolOption, ...],
    blind: str,
    settings: PolicySettings,
    draft: _Draft,
) -> None:
    """Turn a need into a count per pool: placement, stabilization, then the guardrails."""
    placed, why = place(need.replicas, _reference(options), options)
    draft.reasons += why
    for option in options:
        pool, name = option.state, str(option.state.key)
        count, memory, why = stabilize(placed[pool.key], pool, draft.pools[name], fleet.at, settings.stabilization)
        draft.reasons += why
        count, why = guardrails.bound(count, pool, option.settings, memory, fleet.at, settings.guardrails)
        draft.reasons += why
        if blind and count < pool.desired:
            draft.reasons.append(Reason("blind", name, count, pool.desired, f"{blind}: nothing shrinks"))
            count = pool.desired
        draft.pools[name] = memory
        draft.desired[pool.key] = count


def _hold(options: tuple[PoolOption, ...], model: str, blind: str, draft: _Draft) -> None:
    """Without observed load only the static floor may add (invariant I4)."""
    for option in options:
        pool = option.state
        draft.desired[pool.key] = max(pool.desired, option.settings.min_replicas)
        detail = f"{blind}: held"
        draft.reasons.append(Reason("blind", str(pool.key), pool.desired, draft.desired[pool.key], detail))


def _without_failing(weights: Mapping[PoolKey, float], model: str, course: Course) -> Mapping[PoolKey, float]:
    """Take the weight off pools that fail over, and share it among the others."""
    failing = {r.origin for r in course.remediations if isinstance(r, FailOver) and r.model == model}
    left = sum(weight for key, weight in weights.items() if key not in failing)
    if not failing or left <= 0:
        return weights
    return {key: 0.0 if key in failing else weight / left for key, weight in weights.items()}


def _plans(fleet: FleetState, desired: Mapping[PoolKey, int], course: Course) -> tuple[ScalingPlan, ...]:
    """Return a plan for each pool whose count changes; sick replicas are the first to go."""
    cordoned = {r.id for p in fleet.pools for r in p.replicas if r.cordoned}
    return tuple(
        ScalingPlan(
            pool=pool.key,
            current=pool.desired,
            desired=desired[pool.key],
            version=pool.version,
            retire_first=tuple(r.id for r in pool.replicas if r.id in cordoned) if desired[pool.key] < pool.desired else (),
        )
        for pool in fleet.pools
        if pool.key in desired and desired[pool.key] != pool.desired
    )
