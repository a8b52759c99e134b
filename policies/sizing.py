"""How many replicas does each pool of a model get: need, placement, stabilization and bounds, in this order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from forecasting.forecast import LoadForecast, Trust
from policies import guardrails
from policies.capacity import CapacityModel, CapacitySettings, capacity_of, replicas_needed
from policies.decisions import Reason
from policies.fleet import Demand, FleetState, PoolKey, PoolState
from policies.memory import PoolMemory
from policies.placement import PoolOption, PoolSettings, place
from policies.scaling import Need, coming_demand, peak_demand, reactive_replicas
from policies.settings import PolicySettings
from policies.slo import ServiceObjective
from policies.stabilization import on_their_way, remember_target, stabilize


@dataclass(frozen=True, slots=True)
class Outlook:
    """What a model's load is expected to be.

    Attributes:
        shape: Expected load when a replica asked for now would serve; its proportions are the token shape to size
            for. None when neither load nor forecast is known.
        coming: Load at that time, at the level to cover. None without a forecast, like ``peak``.
        peak: Largest load until then, at the same level.
        lead_time_s: Time that a replica asked for now takes to serve.
        source: Model name and version of the forecast.
        trust: How much of the forecast may be used.
        trust_reason: Why; empty where nobody judged it.
    """

    shape: Demand | None
    coming: Demand | None
    peak: Demand | None
    lead_time_s: float
    source: str
    trust: Trust = Trust.FULL
    trust_reason: str = ""


@dataclass(slots=True)
class Sized:
    """Replicas per pool, the pools' memory, and why."""

    desired: dict[PoolKey, int] = field(default_factory=dict)
    memory: dict[str, PoolMemory] = field(default_factory=dict)
    reasons: list[Reason] = field(default_factory=list)


def look_ahead(
    forecast: LoadForecast | None, demand: Demand | None, at: float, lead_time_s: float, settings: PolicySettings
) -> Outlook:
    """Return what to expect until a replica asked for at ``at`` would serve, one tick included.

    Without a forecast it is the present. Prefix caches are expected to go on hitting as they do.
    """
    if forecast is None:
        return Outlook(demand, None, None, lead_time_s, "")
    until_at, level = at + lead_time_s + settings.tick_s, settings.scaling.level
    shape = coming_demand(forecast, 0.5, until_at)
    if demand is not None:
        # What may give nothing up must not make replicas look more capable than the present does, either.
        known = demand if forecast.trust is Trust.FLOOR else shape
        shape = replace(known, cached_prompt_ratio=demand.cached_prompt_ratio)
    coming, peak = coming_demand(forecast, level, until_at), peak_demand(forecast, level, until_at)
    return Outlook(shape, coming, peak, lead_time_s, forecast.source, forecast.trust, forecast.trust_reason)


def pool_options(
    pools: Sequence[tuple[PoolState, PoolSettings]],
    objective: ServiceObjective,
    shape: Demand | None,
    lost: Mapping[str, int],
    assumed: CapacitySettings,
    waiting: Mapping[str, int] = MappingProxyType({}),
) -> tuple[PoolOption, ...]:
    """Return each pool with what one of its replicas carries at the token shape to come.

    Lengths that nobody has seen yet are assumed. ``lost`` counts replicas per pool that will not serve soon, and
    ``waiting`` those that wait for GPUs.
    """
    if shape is None or shape.requests_per_s <= 0:
        shape = Demand(1.0, assumed.default_prompt_tokens, assumed.default_output_tokens)
    elif shape.output_tokens_per_s <= 0:
        shape = replace(shape, output_tokens_per_s=shape.requests_per_s * assumed.default_output_tokens)
    return tuple(
        PoolOption(
            state=pool,
            settings=mine,
            capacity=capacity_of(
                mine.profile, objective, shape, mine.efficiency_ratio or assumed.efficiency_ratio, pool.key.role
            ),
            lost=lost.get(str(pool.key), 0),
            waiting=waiting.get(str(pool.key), 0),
        )
        for pool, mine in pools
    )


def needed_by(
    fleet: FleetState,
    model: str,
    outlook: Outlook,
    options: Sequence[PoolOption],
    margin_ratio: float,
    settings: PolicySettings,
) -> tuple[Need, tuple[Reason, ...]]:
    """Return what is coming and what already burns as one need, in replicas of the cheapest pool."""
    one, scaling = _reference(options), settings.scaling
    worth = {option.state.key: _worth(option, one) for option in options}
    reactive, burning = reactive_replicas(
        fleet, model, one, settings.objective_of(model), outlook.lead_time_s, scaling, worth
    )
    margin, spare = 1.0 + margin_ratio, scaling.unforecast_headroom_ratio
    # For the load to grow into; what burns has said already what puts it out.
    load = replicas_needed(demand, one) if (demand := fleet.demand.get(model)) else 0.0
    unforecast = max(load * (margin + spare), reactive)
    if outlook.coming is None or outlook.peak is None:
        detail = f"no forecast can be trusted: the present and {margin + spare - 1.0:.0%} more"
        reason = Reason("reactive only", model, round(reactive, 2), round(unforecast, 2), detail)
        return Need(reactive, unforecast, unforecast, forecast=False), (*burning, reason)
    margin += scaling.headroom_ratio
    serving = sum(o.state.roster.serving_count for o in options)
    grow_to, capped = guardrails.cap_prediction(
        replicas_needed(outlook.coming, one) * margin, reactive, serving, model, settings.guardrails
    )
    grow_to = max(grow_to, reactive)
    keep, also_capped = guardrails.cap_prediction(
        replicas_needed(outlook.peak, one) * margin, reactive, serving, model, settings.guardrails
    )
    keep = max(grow_to, keep)
    detail = (
        f"{outlook.coming.requests_per_s:.1f} requests/s in {outlook.lead_time_s:.0f} s and up to "
        f"{outlook.peak.requests_per_s:.1f} until then ({outlook.source}, level {scaling.level:.2f}); "
        f"{one.demand.requests_per_s:.2f} requests/s per replica, headroom {margin - 1.0:.0%}"
    )
    detail += f"; {outlook.trust_reason}" if outlook.trust_reason else ""
    reason = Reason("predictive target", model, round(grow_to, 2), round(keep, 2), detail)
    why = (*burning, *(capped or also_capped), reason)
    if outlook.trust is Trust.FULL:
        return Need(reactive, grow_to, keep, forecast=True), why
    held = max(keep, unforecast)
    detail = "the forecast may add replicas, and give none up"
    floor = Reason("forecast is a floor", model, round(keep, 2), round(held, 2), detail)
    return Need(reactive, max(grow_to, unforecast), held, forecast=False), (*why, floor)


def size(
    at: float,
    need: Need,
    options: Sequence[PoolOption],
    why_not: str,
    known: Mapping[str, PoolMemory],
    settings: PolicySettings,
) -> Sized:
    """Turn a need into a count per pool. ``why_not`` says why nothing may shrink; empty when it may."""
    one = _reference(options)
    have = sum(o.here * _worth(o, one) for o in options if not o.failing)
    wanted, put_off = _worth_a_start(need, have, options, settings)
    placed, why = place(wanted, one, options)
    spare = settings.stabilization.tolerance_replicas if wanted > 0 else 0.0
    roomy, _ = place(wanted + spare, one, options)
    starting = on_their_way((o.state for o in options), at, settings.stabilization)
    sized = Sized(reasons=[*put_off, *why])
    for option in options:
        pool, name = option.state, str(option.state.key)
        count, memory, why = stabilize(
            placed[pool.key],
            roomy[pool.key],
            pool,
            known[name],
            at,
            settings.stabilization,
            starting=starting,
            forecast=need.forecast,
        )
        sized.reasons += why
        if why_not and count < pool.desired:
            sized.reasons.append(Reason("no shrink", name, count, pool.desired, why_not))
            count = pool.desired
        count, why = guardrails.bound(count, pool, option.settings, memory, at, settings.guardrails)
        sized.reasons += why
        sized.memory[name] = memory
        sized.desired[pool.key] = count
    return sized


def hold(
    fleet: FleetState,
    model: str,
    options: Sequence[PoolOption],
    blind: str,
    known: Mapping[str, PoolMemory],
    settings: PolicySettings,
) -> Sized:
    """Without observed load only the static floor may add (I4), and one replica where requests wait for the first."""
    waited_for = fleet.gateway_queued.get(model, 0.0) > 0 and not any(o.state.desired for o in options)
    first = min(options, key=lambda o: (o.usd_per_request_capacity, o.state.key)) if waited_for else None
    sized = Sized()
    for option in options:
        pool, name = option.state, str(option.state.key)
        memory = remember_target(known[name], pool.desired, fleet.at, settings.stabilization)
        wanted = max(pool.desired, 1) if option is first else pool.desired
        count, why = guardrails.bound(wanted, pool, option.settings, memory, fleet.at, settings.guardrails)
        sized.reasons += (Reason("blind", name, pool.desired, wanted, f"{blind}: held"), *why)
        sized.memory[name] = memory
        sized.desired[pool.key] = count
    return sized


def _worth_a_start(
    need: Need, have: float, options: Sequence[PoolOption], settings: PolicySettings
) -> tuple[float, tuple[Reason, ...]]:
    """Return the replicas to have, in those of the reference pool, and why they are fewer than what is coming."""
    tolerance = settings.scaling.growth_tolerance_ratio
    wanted, without = need.settled(have, tolerance), need.settled(have)
    if wanted >= without:
        return wanted, ()
    detail = f"no more than {tolerance:.0%} above what there is"
    return wanted, (Reason("growth tolerance", options[0].state.key.model, round(without, 2), wanted, detail),)


def _reference(options: Sequence[PoolOption]) -> CapacityModel:
    """Return the capacity that needs are counted in: the cheapest pool's."""
    return min(options, key=lambda o: (o.usd_per_request_capacity, o.state.key)).capacity


def _worth(option: PoolOption, one: CapacityModel) -> float:
    return option.capacity.demand.requests_per_s / one.demand.requests_per_s
