"""How many replicas does a workload need: what is coming within the lead time, and what is already burning?"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Annotated

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from forecasting.forecast import LoadForecast
from policies.capacity import CapacityModel, replicas_needed
from policies.decisions import Reason
from policies.fleet import Demand, FleetState, PoolKey, PoolState
from policies.memory import ModelMemory
from policies.slo import ServiceObjective
from policies.tunable import Tunable
from policies.waiting import out_of_place


class ScalingSettings(BaseModel):
    """What is covered ahead of time, and when to add beyond it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    missed_to_idle_cost_ratio: Annotated[
        float, Tunable(0.4, 20.0, why="covers the 0.29 to the 0.95 quantile", log=True)
    ] = Field(
        1.5,
        gt=0,
        description="Cost of load beyond the headroom over the cost of the same capacity idle. The covered quantile of "
        "demand is ratio / (ratio + 1) (newsvendor): 1.5 covers the 0.6 quantile. Raise it where demand jumps; "
        "docs/benchmarks.md has the figures.",
    )
    headroom_ratio: Annotated[float, Tunable(0.0, 0.6, why="from none to twice what is kept without a forecast")] = (
        Field(
            0.22,
            ge=0,
            le=1,
            description="Spare capacity on top of what is forecast: bursts shorter than a forecast step and uneven "
            "routing are in neither the forecast nor a load test at constant concurrency. It costs less than the same "
            "attainment bought with a higher quantile.",
        )
    )
    growth_tolerance_ratio: Annotated[float, Tunable(0.0, 0.2, why="up to twice what HPA tolerates")] = Field(
        0.05,
        ge=0,
        le=1,
        description="A forecast that asks for no more than this share above what there is starts nothing: on the crest "
        "of noise a replica would be asked for and called off again, a lead time of loading for nothing. What already "
        "burns is never put off. HPA's tolerance is 0.1.",
    )
    backlog_clear_s: Annotated[
        float, Tunable(10.0, 300.0, why="from a tick to the window that attainment is judged over", log=True)
    ] = Field(
        60.0,
        gt=0,
        le=86400,
        description="Time within which a backlog should be gone once replicas asked for now serve, in seconds. Every "
        "request waits until then, so that a shorter time misses fewer and costs more replicas for a while.",
    )
    unforecast_headroom_ratio: float = Field(
        0.3,
        ge=0,
        description="Spare capacity kept while there is no forecast to trust, for the load to grow into while replicas "
        "start; about what a reactive autoscaler at a 70 % concurrency target keeps.",
    )
    kv_cache_high_ratio: float = Field(
        0.9, gt=0, le=1, description="Mean KV cache use above which replicas are added; engines preempt near 1."
    )
    burn_rate: Annotated[
        float, Tunable(1.2, 15.0, why="from the first miss too many to every seventh request missed at 99 %", log=True)
    ] = Field(
        3.0,
        gt=1,
        le=10_000,
        description="Error-budget burn over the objective's window at which a replica is added whatever the forecast "
        "says; 3 ignores single slow requests. If every request misses, it is 1 / (1 - attainment): 100 at 99 %, and "
        "what is above that never happens.",
    )
    margin_step_ratio: Annotated[
        float, Tunable(0.0, 0.1, why="from no feedback to a quarter more capacity per bad window")
    ] = Field(
        0.02, ge=0, le=0.5, description="Capacity margin added per window in which the attainment target was missed."
    )
    margin_decay_ratio: float = Field(
        0.01, ge=0, le=0.5, description="Capacity margin given back per window in which it was met with room to spare."
    )
    margin_max_ratio: float = Field(0.5, ge=0, le=2, description="Largest margin that missed attainment may build up.")
    margin_min_ratio: Annotated[
        float, Tunable(-0.2, 0.0, why="how far steady attainment may eat into the headroom")
    ] = Field(
        0.0,
        ge=-0.5,
        le=0,
        description="Most that steady attainment may take off the headroom; below 0 the controller looks for the edge, "
        "and finds it.",
    )

    @property
    def level(self) -> float:
        """Covered quantile of the demand, of what is coming and of the peak until then."""
        return self.missed_to_idle_cost_ratio / (self.missed_to_idle_cost_ratio + 1.0)


@dataclass(frozen=True, slots=True)
class Need:
    """How much capacity is wanted, in replicas of the reference pool, not rounded.

    Attributes:
        now: What the present asks for, forecast or not.
        grow_to: Fewer than this would miss load that a replica asked for now can still serve.
        keep: More than this are of no use before they could be had again.
        forecast: Whether a forecast was used; without one the last two are the same.
    """

    now: float
    grow_to: float
    keep: float
    forecast: bool

    def settled(self, have: float, tolerance_ratio: float = 0.0) -> float:
        """Return what to have: ``have`` when it lies between the two, else the nearer one.

        What is coming counts once it is more than ``tolerance_ratio`` above ``have``, what the present asks for always.

        >>> need = Need(now=9.0, grow_to=10.5, keep=12.0, forecast=True)
        >>> [need.settled(have, 0.08) for have in (8.0, 9.5, 10.0, 13.0)]
        [10.5, 10.5, 10.0, 12.0]
        """
        worth_it = self.grow_to > have * (1.0 + tolerance_ratio)
        return min(max(have, self.grow_to if worth_it else self.now), self.keep)


def peak_demand(forecast: LoadForecast, level: float, until_at: float) -> Demand:
    """Return each channel's largest rate from now until ``until_at``, at ``level``: what must not be given up now."""
    requests, prompt, output = (float(rate) for rate in forecast.peak(level, until_at))
    return Demand(requests, prompt, output)


def coming_demand(forecast: LoadForecast, level: float, at: float) -> Demand:
    """Return each channel's rate in the step that holds ``at``, at ``level``: what can still be prepared for."""
    step = int((at - forecast.start_at) / forecast.step_s)
    rates = forecast.at_level(level)
    requests, prompt, output = (float(rate) for rate in rates[min(max(step, 0), len(rates) - 1)])
    return Demand(requests, prompt, output)


def steer_margin(
    memory: ModelMemory, fleet: FleetState, model: str, objective: ServiceObjective, settings: ScalingSettings
) -> tuple[ModelMemory, tuple[Reason, ...]]:
    """Return memory with the capacity margin moved by realised attainment, at most once per objective window.

    An integral feedback: whatever is wrong in the capacity, missing the target adds margin and meeting it gives some
    back. A window in which replicas were missing or starting teaches nothing about capacity and is not counted;
    without observed requests the margin stays.
    """
    service = fleet.service.get(model)
    if service is None or service.finished < 1:
        return memory, ()
    growing = any(pool.roster.starting or pool.roster.serving_count < pool.desired for pool in fleet.pools_of(model))
    if memory.margin_at is None or growing:
        return replace(memory, margin_at=fleet.at), ()
    if fleet.at - memory.margin_at < objective.window_s:
        return memory, ()
    burn = (1.0 - service.attainment_ratio) / (1.0 - objective.attainment_ratio)
    change = settings.margin_step_ratio * min(5.0, burn) if burn > 1 else 0.0
    if burn < 0.5:  # well inside the target; between one half and one the margin rests
        change = -settings.margin_decay_ratio
    margin = min(settings.margin_max_ratio, max(settings.margin_min_ratio, memory.margin_ratio + change))
    if margin == memory.margin_ratio:
        return replace(memory, margin_at=fleet.at), ()
    reason = Reason(
        "attainment feedback",
        model,
        memory.margin_ratio,
        margin,
        f"{service.attainment_ratio:.2%} of {service.finished:.0f} requests within the objective, "
        f"target {objective.attainment_ratio:.2%}",
    )
    return replace(memory, margin_ratio=margin, margin_at=fleet.at), (reason,)


def reactive_replicas(
    fleet: FleetState,
    model: str,
    capacity: CapacityModel,
    objective: ServiceObjective,
    lead_time_s: float,
    settings: ScalingSettings,
    worth: Mapping[PoolKey, float] = MappingProxyType({}),
) -> tuple[float, tuple[Reason, ...]]:
    """Return the replicas that the present asks for, with a reason for each thing that burns.

    The answer is in replicas of ``capacity``; ``worth`` says how many of those one of a pool is, 1 where it says
    nothing. The largest of: offered load; what clears a backlog (``clearing``); the serving replicas scaled by KV
    pressure; one more than serving while the error budget burns fast. Nothing observed asks for nothing.
    """
    pools = fleet.pools_of(model)
    serving = sum(pool.roster.serving_count for pool in pools)
    coming = [(p, r) for p in pools for r in p.roster.starting if not out_of_place(r, fleet.at, lead_time_s)]
    there = math.fsum(worth.get(pool.key, 1.0) * pool.roster.serving_count for pool in pools)
    reasons: list[Reason] = []
    demand = fleet.demand.get(model)
    answer = replicas_needed(demand, capacity) if demand else 0.0
    waiting = [count for pool in pools for count in _said(pool, "queued_requests", 0.0)]
    queued = sum(waiting) + fleet.gateway_queued.get(model, 0.0)
    # A request or two waiting for the next step of each replica is how continuous batching works, not a backlog.
    backlog_s = max(0.0, queued - 2.0 * serving) / capacity.demand.requests_per_s
    if backlog_s > objective.ttft_s * there:  # the last in the queue waits longer than was promised
        started = [(fleet.at - r.requested_at, worth.get(pool.key, 1.0)) for pool, r in coming]
        wanted = clearing(answer, backlog_s, there, started, lead_time_s, settings.backlog_clear_s)
        if wanted > answer:
            detail = f"{queued:.0f} requests queue, {backlog_s / (there or 1.0):.0f} s of work"
            reasons.append(Reason("backlog", model, answer, wanted, detail))
            answer = wanted
    kv = [ratio for pool in pools for ratio in _said(pool, "kv_cache_ratio", 0.0) if ratio <= 1]
    pressure = sum(kv) / len(kv) if kv else 0.0
    if pressure > settings.kv_cache_high_ratio:
        wanted = there * pressure / settings.kv_cache_high_ratio
        if wanted > answer:
            reasons.append(Reason("KV pressure", model, answer, wanted, f"KV caches {pressure:.0%} full"))
            answer = wanted
    service = fleet.service.get(model)
    if service is not None and service.finished >= 20:  # fewer say nothing about a 99 % target
        burn = (1.0 - service.attainment_ratio) / (1.0 - objective.attainment_ratio)
        wanted = there + 1.0
        # What is on its way may be all that was missing.
        if burn >= settings.burn_rate and wanted > answer and not coming and _loaded(pools, capacity, worth):
            reasons.append(Reason("burn rate", model, answer, wanted, f"error budget burns at {burn:.1f}x"))
            answer = wanted
    return answer, tuple(reasons)


def clearing(
    needed: float,
    backlog_s: float,
    serving: float,
    started: Sequence[tuple[float, float]],
    lead_time_s: float,
    clear_s: float,
) -> float:
    """Return the replicas after which a backlog is gone ``clear_s`` after those asked for now serve.

    Until then the load goes on as it is, and whoever is starting helps from its own end of the lead time on, which is
    at most a lead time away, whatever the clocks say. Nothing that serves or starts is given up before the backlog is
    gone. All replicas are counted in those of the reference pool.

    Args:
        needed: Replicas that the load alone needs.
        backlog_s: Work that queues, in replica-seconds.
        serving: Replicas that serve.
        started: For each replica that is starting, how long ago it was asked for, in seconds, and what it is worth.
        lead_time_s: Time that a replica takes to serve.
        clear_s: As in ``ScalingSettings.backlog_clear_s``.

    >>> clearing(20.0, 100.0, 8, (), 120.0, 60.0)  # 20 * 180 + 100 wanted, 8 * 180 there: 2260 / 60 more
    45.666666666666664
    >>> clearing(20.0, 100.0, 8, [(60.0, 1.0)] * 24, 120.0, 60.0)  # 24 more help for 120 s: they are enough
    32.0
    >>> clearing(20.0, 100.0, 8, [(60.0, 2.0)] * 12, 120.0, 60.0)  # and so are 12 of twice the capacity
    32.0
    """
    until_s = lead_time_s + clear_s
    helps_s = sum(
        replica_worth * (until_s - min(lead_time_s, max(0.0, lead_time_s - age_s))) for age_s, replica_worth in started
    )
    missing_s = needed * until_s + backlog_s - serving * until_s - helps_s
    return serving + sum(replica_worth for _, replica_worth in started) + max(0.0, missing_s) / clear_s


def _said(pool: PoolState, figure: str, least: float) -> list[float]:
    """Return a figure of the pool's serving replicas, of those that gave one and of which it is at least ``least``."""
    values = pool.told.of(figure)
    said: list[float] = values[pool.roster.serving & (values >= least)].tolist()
    return said


def _loaded(pools: tuple[PoolState, ...], capacity: CapacityModel, worth: Mapping[PoolKey, float]) -> bool:
    """Return whether replicas hold nearly what they sustain: else the misses are not for want of replicas."""
    held: list[float] = []
    seen: list[float] = []
    for pool in pools:
        running, queued = pool.told.of("running_requests"), pool.told.of("queued_requests")
        scraped = pool.roster.serving & pool.told.scraped
        held += (running + queued)[scraped & (running >= 0)].tolist()
        seen += [worth.get(pool.key, 1.0)] * int(np.count_nonzero(scraped))
    return bool(seen) and sum(held) >= 0.8 * capacity.concurrency * sum(seen)
