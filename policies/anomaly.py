"""Which replicas look wrong, by which independent kind of evidence?"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median

from pydantic import BaseModel, ConfigDict, Field

from policies.decisions import Anomaly
from policies.fleet import FleetState, Phase, PoolState, ReplicaMetrics, ReplicaState
from policies.lead_time import LeadTime
from policies.memory import ReplicaMemory


class AnomalySettings(BaseModel):
    """When evidence counts."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    frozen_after_s: float = Field(
        45.0,
        gt=0,
        description="Time without an engine step, in seconds, while requests are known to be inside, after which a "
        "replica looks hung. Three scrapes of 15 s: one late scrape or one long prefill is not enough.",
    )
    max_metrics_age_s: float = Field(
        60.0, gt=0, description="Older metrics are no evidence at all: absent is not the same as stuck."
    )
    slow_z: float = Field(
        5.0, gt=0, description="Robust z-score of TPOT against peers from which a replica counts as slow."
    )
    slow_ratio: float = Field(
        1.6, gt=1, description="TPOT must also be this many times the peers' median: tiny spreads make large z-scores."
    )
    min_peers: int = Field(4, ge=2, description="Fewer reporting peers give no median worth comparing with.")
    slow_scrapes: int = Field(4, ge=1, description="Scrapes within the look-back that must agree (k of n).")
    look_back_s: float = Field(120.0, gt=0, description="Look-back of the k-of-n rule, in seconds.")
    overdue_ratio: float = Field(
        2.0, gt=1, description="A start longer than this many times the pool's p90 lead time is overdue."
    )
    failed_after_s: float = Field(
        60.0, ge=0, description="Time in FAILED after which the platform's own restart no longer counts as on its way."
    )


@dataclass(frozen=True, slots=True)
class Watch:
    """What one look at the fleet found, and what to remember of it."""

    anomalies: tuple[Anomaly, ...]
    memory: Mapping[str, ReplicaMemory]


def watch(
    fleet: FleetState,
    memory: Mapping[str, ReplicaMemory],
    lead_times: Mapping[str, LeadTime],
    settings: AnomalySettings,
) -> Watch:
    """Return anomalies of every replica, and memory of those that exist (the dead are forgotten)."""
    remembered: dict[str, ReplicaMemory] = {}
    found: list[Anomaly] = []
    for pool in fleet.pools:
        for replica in pool.replicas:
            if replica.metrics is not None:
                remembered[replica.id] = _remember(replica, replica.metrics, memory.get(replica.id))
            elif replica.id in memory and memory[replica.id].life == _life(replica):
                remembered[replica.id] = memory[replica.id]
    for pool in fleet.pools:
        found += _platform(fleet.at, pool, lead_times[str(pool.key)], settings)
        found += _frozen(fleet.at, pool, remembered, settings)
        slow, remembered = _slow(fleet.at, pool, remembered, settings)
        found += slow
    return Watch(tuple(found), remembered)


def _life(replica: ReplicaState) -> str:
    return f"{replica.id}#{replica.restarts}"


def _remember(replica: ReplicaState, seen: ReplicaMetrics, before: ReplicaMemory | None) -> ReplicaMemory:
    """Progress is a step, a token, or a request that the gateway saw end; idleness counts as progress too."""
    if before is None or before.life != _life(replica) or seen.steps_total < before.steps_total:
        return ReplicaMemory(
            life=_life(replica),
            steps_total=seen.steps_total,
            output_tokens_total=seen.output_tokens_total,
            in_flight=replica.in_flight_requests if math.isfinite(replica.in_flight_requests) else 0.0,
            observed_at=seen.observed_at,
            progress_at=seen.observed_at,
        )
    in_flight = replica.in_flight_requests if math.isfinite(replica.in_flight_requests) else 0.0
    moved = (
        seen.steps_total > before.steps_total
        or seen.output_tokens_total > before.output_tokens_total
        or in_flight < before.in_flight
        or not _has_work(replica, seen)
    )
    return replace(
        before,
        steps_total=seen.steps_total,
        output_tokens_total=seen.output_tokens_total,
        in_flight=in_flight,
        observed_at=seen.observed_at,
        progress_at=max(seen.observed_at, before.progress_at) if moved else before.progress_at,
    )


def _has_work(replica: ReplicaState, seen: ReplicaMetrics) -> bool:
    """Work is known by any witness: a wedged engine may say that nothing is running."""
    return any(count > 0 for count in (replica.in_flight_requests, seen.running_requests, seen.queued_requests))


def _platform(at: float, pool: PoolState, lead: LeadTime, settings: AnomalySettings) -> list[Anomaly]:
    found = []
    for replica in pool.replicas:
        waited_s = at - replica.since_at
        if replica.phase is Phase.FAILED:
            score = waited_s / settings.failed_after_s if settings.failed_after_s else math.inf
            detail = f"exited {waited_s:.0f} s ago, {replica.restarts} restarts so far"
            found.append(Anomaly("platform", replica.id, pool.key, score, replica.since_at, detail))
        elif replica.starting and at - replica.requested_at > settings.overdue_ratio * lead.p90_s:
            started_s = at - replica.requested_at
            score = started_s / (settings.overdue_ratio * lead.p90_s)
            detail = f"starting for {started_s:.0f} s, 90 % of starts take {lead.p90_s:.0f} s"
            found.append(Anomaly("platform", replica.id, pool.key, score, replica.requested_at, detail))
    return found


def _frozen(
    at: float, pool: PoolState, memory: Mapping[str, ReplicaMemory], settings: AnomalySettings
) -> list[Anomaly]:
    """No step for a while with work inside; peers that step meanwhile and a gateway that waits are two more families."""
    found: list[Anomaly] = []
    watched = [r for r in pool.replicas if r.phase in (Phase.READY, Phase.DRAINING) and r.id in memory]
    still = {r.id: memory[r.id].observed_at - memory[r.id].progress_at for r in watched}
    fresh = [r for r in watched if at - memory[r.id].observed_at <= settings.max_metrics_age_s]
    for replica in fresh:
        if still[replica.id] < settings.frozen_after_s:
            continue
        since = memory[replica.id].progress_at
        score = still[replica.id] / settings.frozen_after_s
        detail = f"no engine step for {still[replica.id]:.0f} s with requests inside"
        found.append(Anomaly("progress", replica.id, pool.key, score, since, detail))
        peers = [r for r in fresh if r.id != replica.id and r.metrics is not None]
        moving = [r for r in peers if still[r.id] < settings.frozen_after_s]
        if peers and 2 * len(moving) > len(peers):
            detail = f"{len(moving)} of {len(peers)} peers went on meanwhile"
            found.append(Anomaly("peers", replica.id, pool.key, score, since, detail))
        if replica.in_flight_requests > 0:
            detail = f"the gateway waits for {replica.in_flight_requests:.0f} requests and saw none end"
            found.append(Anomaly("gateway", replica.id, pool.key, score, since, detail))
    return found


def _slow(
    at: float, pool: PoolState, memory: dict[str, ReplicaMemory], settings: AnomalySettings
) -> tuple[list[Anomaly], dict[str, ReplicaMemory]]:
    """TPOT far above the peers' at k of the last n scrapes; more requests inside than peers is the second family."""
    reporting = [
        (r, r.metrics)
        for r in pool.replicas
        if r.phase is Phase.READY
        and r.metrics is not None
        and r.id in memory
        and at - r.metrics.observed_at <= settings.max_metrics_age_s
        and math.isfinite(r.metrics.tpot_mean_s)
    ]
    found: list[Anomaly] = []
    for replica, seen in reporting:
        peers = [m.tpot_mean_s for r, m in reporting if r.id != replica.id]
        before = memory[replica.id]
        slow_at = tuple(t for t in before.slow_at if at - t <= settings.look_back_s)
        if len(peers) >= settings.min_peers:
            middle, z = _robust_z(seen.tpot_mean_s, peers)
            outlying = z > settings.slow_z and seen.tpot_mean_s > settings.slow_ratio * middle
            if outlying and seen.observed_at not in slow_at:
                slow_at = (*slow_at, seen.observed_at)
            if len(slow_at) >= settings.slow_scrapes and outlying:
                detail = f"TPOT {seen.tpot_mean_s * 1000:.0f} ms, its peers' median is {middle * 1000:.0f} ms"
                found.append(Anomaly("peers", replica.id, pool.key, z / settings.slow_z, slow_at[0], detail))
                found += _holds_more(replica, seen, reporting, slow_at[0], pool)
        memory[replica.id] = replace(before, slow_at=slow_at)
    return found, memory


def _holds_more(
    replica: ReplicaState,
    seen: ReplicaMetrics,
    reporting: Sequence[tuple[ReplicaState, ReplicaMetrics]],
    since: float,
    pool: PoolState,
) -> list[Anomaly]:
    """Equal shares of traffic pile up only where they are worked off slowly; a slow but busier replica is just busy."""
    middle, _ = _robust_z(seen.tpot_mean_s, [m.tpot_mean_s for r, m in reporting if r.id != replica.id])
    inside = [m.running_requests + m.queued_requests for r, m in reporting if r.id != replica.id]
    own = seen.running_requests + seen.queued_requests
    # Step time grows at most in proportion to what is inside, so a busier replica explains no more than that.
    explained = middle * max(1.0, own / max(1.0, median(inside)))
    if seen.tpot_mean_s <= 1.25 * explained:
        return []
    detail = f"its {own:.0f} requests inside explain a TPOT of {explained * 1000:.0f} ms at most"
    return [Anomaly("latency", replica.id, pool.key, seen.tpot_mean_s / explained, since, detail)]


def _robust_z(value: float, peers: Sequence[float]) -> tuple[float, float]:
    """Return the peers' median and the z-score of ``value`` by their median absolute deviation (times 1.4826)."""
    middle = median(peers)
    spread = 1.4826 * median(abs(p - middle) for p in peers)
    return middle, (value - middle) / max(spread, 0.05 * middle, 1e-9)
