"""What may never happen, whatever the rules say: bounds, budgets, rate limits, and no shrinking in the dark."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

from pydantic import BaseModel, ConfigDict, Field

from policies.decisions import Reason
from policies.fleet import FleetState, PoolKey, PoolState
from policies.memory import PoolMemory
from policies.placement import PoolSettings

JITTER_RATIO = 0.1
"""Share of the up window by which a tick may come early: growth must not wait another tick for a few milliseconds."""


class GuardrailSettings(BaseModel):
    """Limits that hold for every decision."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    gpu_budget: int | None = Field(None, ge=0, description="Most GPUs of all pools together; none means no budget.")
    usd_per_hour_budget: float | None = Field(
        None, ge=0, description="Most US dollars per hour of all pools together; none means no budget."
    )
    up_ratio: float = Field(1.0, gt=0, description="Most growth of a pool per up window, as a share of what it had.")
    up_replicas: int = Field(4, ge=1, description="Growth per up window that is always allowed, in replicas.")
    up_window_s: float = Field(
        15.0,
        gt=0,
        description="Window of the growth limit, in seconds: doubling every 15 s is what HPA allows. A flash crowd is "
        "over before a slower limit lets enough replicas start.",
    )
    down_ratio: float = Field(0.5, gt=0, le=1, description="Most shrinking of a pool per down window, as a share.")
    down_window_s: float = Field(60.0, gt=0, description="Window of the shrinking limit, in seconds.")
    min_coverage_ratio: float = Field(
        0.6, ge=0, le=1, description="Share of serving replicas that must report before anything may shrink."
    )
    max_metrics_age_s: float = Field(
        60.0, gt=0, description="Age in seconds from which a replica's metrics no longer count as reporting."
    )
    predictive_cap_ratio: float = Field(
        3.0,
        gt=1,
        description="Most that a forecast may ask for, as a multiple of what the present needs; bounds what a fooled "
        "or broken forecast can cost.",
    )


def cap_prediction(
    predicted: float, reactive: float, serving: int, model: str, settings: GuardrailSettings
) -> tuple[float, tuple[Reason, ...]]:
    """Return ``predicted`` bounded by a multiple of the present need or of what already serves."""
    cap = settings.predictive_cap_ratio * max(1.0, reactive, serving)
    if predicted <= cap:
        return predicted, ()
    detail = f"a forecast may ask for at most {settings.predictive_cap_ratio:g} times the present"
    return cap, (Reason("predictive cap", model, predicted, cap, detail),)


def blind_spot(fleet: FleetState, model: str, settings: GuardrailSettings, *, taking_prompts: bool = False) -> str:
    """Return why ``model`` must not shrink for want of data; empty when it is well observed.

    A load of zero while its engines are ``taking_prompts`` comes from counters that stand still, not from clients.
    """
    if model not in fleet.demand:
        return "offered load is not observed"
    if taking_prompts and fleet.demand[model].requests_per_s <= 0:
        return "no load is said to be offered, but its engines take in prompts"
    pools = fleet.pools_of(model)
    if (desired := sum(pool.desired for pool in pools)) and not any(len(pool.roster) for pool in pools):
        return f"none of its {desired} replicas is listed"
    coverage = fleet.coverage_ratio(model, settings.max_metrics_age_s)
    if coverage < settings.min_coverage_ratio:
        return f"only {coverage:.0%} of the serving replicas report"
    for pool in pools:
        if pool.untold:
            alone = replace(fleet, pools=(pool,)).coverage_ratio(model, settings.max_metrics_age_s)
            if alone < settings.min_coverage_ratio:
                return f"{pool.key} cannot be asked about, and {alone:.0%} of its serving replicas report"
    return ""


def bound(
    desired: int,
    pool: PoolState,
    pool_settings: PoolSettings,
    memory: PoolMemory,
    at: float,
    settings: GuardrailSettings,
) -> tuple[int, tuple[Reason, ...]]:
    """Return ``desired`` within the pool's rate limits and bounds; bounds win over rate limits."""
    reasons: list[Reason] = []
    counts = (*(memory.desired or ((at, pool.desired),)), (at, pool.desired))
    lowest = min(n for _, n in _within(counts, at, settings.up_window_s * (1.0 - JITTER_RATIO)))
    highest = max(n for _, n in _within(counts, at, settings.down_window_s))
    most = max(int(lowest * (1.0 + settings.up_ratio)), lowest + settings.up_replicas)
    least = int(highest * (1.0 - settings.down_ratio))
    limited = min(max(desired, min(least, pool.desired)), max(most, pool.desired))
    if limited != desired:
        up_s, down_s = settings.up_window_s, settings.down_window_s
        detail = f"at most {most} within {up_s:g} s, at least {least} within {down_s:g} s"
        reasons.append(Reason("rate limit", str(pool.key), desired, limited, detail))
    bounded = min(max(limited, pool_settings.min_replicas), pool_settings.max_replicas)
    if bounded != limited:
        detail = f"bounds are {pool_settings.min_replicas} to {pool_settings.max_replicas}"
        reasons.append(Reason("bounds", str(pool.key), limited, bounded, detail))
    return bounded, tuple(reasons)


def spend_within(
    desired: Mapping[PoolKey, int],
    pools: tuple[PoolState, ...],
    settings: GuardrailSettings,
    in_vain: Mapping[PoolKey, int] = MappingProxyType({}),
) -> tuple[Mapping[PoolKey, int], tuple[Reason, ...]]:
    """Return ``desired`` with wishes taken back, dearest first, until the GPU and money budgets hold.

    Replicas that wait for GPUs cost nothing and yet count: the platform places them when GPUs come back and asks
    nobody, and a budget that had been given away meanwhile would be broken. Those of them that wait ``in_vain``, as
    many per pool, are therefore given up before growth elsewhere is. Pools that are not in ``desired`` count with what
    they were asked for. Replicas that have their GPUs are not taken away here: a budget cut below what runs stops
    growth only.
    """
    answer = dict(desired)
    reasons: list[Reason] = []
    states = {p.key: p for p in pools}
    budgets = (
        ("GPU budget", settings.gpu_budget, {k: float(p.gpus_per_replica) for k, p in states.items()}),
        ("money budget", settings.usd_per_hour_budget, {k: p.usd_per_replica_hour for k, p in states.items()}),
    )
    for rule, budget, cost in budgets:
        if budget is None:
            continue
        before = dict(answer)
        over = sum(answer.get(k, p.desired) * cost[k] for k, p in states.items()) - budget
        dearest = sorted((k for k in answer if cost[k] > 0), key=lambda k: (-cost[k], k))
        least = {k: states[k].desired - in_vain.get(k, 0) for k in dearest}
        floors = [(k, least[k]) for k in dearest if in_vain.get(k)] + [(k, states[k].desired) for k in dearest]
        for key, floor in floors:
            while over > 1e-9 and answer[key] > floor:
                answer[key] -= 1
                over -= cost[key]
        for key, count in answer.items():
            if count != before[key]:
                reasons.append(Reason(rule, str(key), before[key], count, f"budget of {budget:g} for all pools"))
    return answer, tuple(reasons)


def remember_desired(
    memory: PoolMemory, pool: PoolState, desired: int, at: float, settings: GuardrailSettings
) -> PoolMemory:
    """Return ``memory`` with this tick's count added, and without what the rate limits no longer look at.

    Before the first count, what the pool had is remembered.
    """
    known = memory.desired or ((at, pool.desired),)
    longest_s = max(settings.up_window_s, settings.down_window_s)
    return replace(memory, desired=(*_within(known, at, longest_s), (at, desired)))


def _within(counts: tuple[tuple[float, int], ...], at: float, window_s: float) -> tuple[tuple[float, int], ...]:
    """Return the counts that held within the window: one holds until the next, so the last from before it counts."""
    opening = sum(at - t >= window_s for t, _ in counts) - 1
    return counts[max(0, opening) :]
