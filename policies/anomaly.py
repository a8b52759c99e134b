"""Which replicas look wrong, by which independent kind of evidence?

A hang has three witnesses. ``progress``: the engine's own counters stand still with work inside. ``gateway``: at the
other end of the wire, requests wait and none ended; no exporter of an engine can fake that, nor can the gateway fake
the engine's counters. ``peers``: replicas that share load and scraping go on; that clears the load and the metrics
store, but not the one exporter that ``progress`` was read from, so those two alone convict nobody.

That an engine answers with errors is told in ``failing``.

The gateway's witness is its count of answers. Where it has none, its gauge of requests in flight can only acquit: each
fall means that something ended. A gauge that does not fall says little while new requests come in.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median

from pydantic import BaseModel, ConfigDict, Field

from policies.decisions import Anomaly
from policies.failing import FailingSettings, failing
from policies.fleet import FleetState, Phase, PoolState
from policies.lead_time import LeadTime
from policies.memory import ReplicaMemory
from policies.progress import exporter_stuck_s, remember, stood_s


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
    failing: FailingSettings = Field(
        default_factory=FailingSettings, description="When a replica fails requests that its peers answer."
    )
    overdue_ratio: float = Field(
        2.0, gt=1, description="A start longer than this many times the pool's p90 lead time is overdue."
    )
    keep_vanished_s: float = Field(
        300.0,
        ge=0,
        description="Time in seconds for which a replica or pool that the platform no longer lists is remembered: one "
        "incomplete answer must not make us forget what we took out of traffic.",
    )
    failed_after_s: float = Field(
        60.0, ge=0, description="Time in FAILED after which the platform's own restart no longer counts as on its way."
    )


@dataclass(frozen=True, slots=True)
class Watch:
    """What one look at the fleet found, and what to remember of it, by the replica's name in the whole fleet.

    ``fresh`` names the replicas whose newest counters are recent enough to be evidence of anything.
    """

    anomalies: tuple[Anomaly, ...]
    memory: Mapping[str, ReplicaMemory]
    fresh: frozenset[str] = frozenset()


def watch(
    fleet: FleetState,
    memory: Mapping[str, ReplicaMemory],
    lead_times: Mapping[str, LeadTime],
    settings: AnomalySettings,
) -> Watch:
    """Return anomalies of every replica, and memory of those that exist or were seen ``keep_vanished_s`` ago."""
    present = {pool.key.replica(r.id): r for pool in fleet.pools for r in pool.replicas}
    vanished = {n: m for n, m in memory.items() if n not in present and _recent(m, fleet.at, settings.keep_vanished_s)}
    seen = {
        name: known
        for name, r in present.items()
        if (known := remember(fleet.at, r, memory.get(name), settings.failing))
    }
    fresh = frozenset(name for name, m in seen.items() if _recent(m, fleet.at, settings.max_metrics_age_s))
    found: list[Anomaly] = []
    for pool in fleet.pools:
        found += _platform(fleet.at, pool, lead_times[str(pool.key)], settings)
        found += _frozen(fleet.at, pool, seen, fresh, settings)
        slow, looked = _slow(fleet.at, pool, seen, settings)
        found += slow
        seen.update(looked)
    failed, seen = failing(fleet, seen, settings.failing)
    found += failed
    return Watch(tuple(found), {**vanished, **seen}, fresh)


def _recent(known: ReplicaMemory, at: float, age_s: float) -> bool:
    return at - known.observed_at <= age_s


def _platform(at: float, pool: PoolState, lead: LeadTime, settings: AnomalySettings) -> list[Anomaly]:
    found = []
    for replica in pool.replicas:
        waited_s = at - replica.since_at
        if replica.phase is Phase.FAILED:
            score = waited_s / settings.failed_after_s if settings.failed_after_s else math.inf
            detail = f"exited {waited_s:.0f} s ago, {replica.restarts} restarts so far"
            found.append(Anomaly("platform", replica.id, pool.key, score, replica.since_at, detail))
        elif replica.starting and at - replica.begun_at > settings.overdue_ratio * lead.p90_s:
            started_s = at - replica.begun_at
            score = started_s / (settings.overdue_ratio * lead.p90_s)
            detail = f"starting for {started_s:.0f} s, 90 % of starts take {lead.p90_s:.0f} s"
            found.append(Anomaly("platform", replica.id, pool.key, score, replica.begun_at, detail))
    return found


def _frozen(
    at: float,
    pool: PoolState,
    memory: Mapping[str, ReplicaMemory],
    fresh: frozenset[str],
    settings: AnomalySettings,
) -> list[Anomaly]:
    """Nothing speaks for it for a while although it has work inside; see the module on what each witness is worth.

    Only READY replicas are watched: one that drains ends by the platform's own deadline. Counters that stood still
    while answers came from the replica are the exporter's fault, and no witness until they move again.
    """
    watched = [
        (r, memory[n]) for r in pool.replicas if r.phase is Phase.READY and (n := pool.key.replica(r.id)) in fresh
    ]
    stood = [stood_s(known, at) for _, known in watched]
    moving = sum(stood_for_s < settings.frozen_after_s for stood_for_s in stood)
    found: list[Anomaly] = []
    for (replica, known), stood_for_s in zip(watched, stood, strict=True):
        if (stuck_s := exporter_stuck_s(known)) >= 2.0 * settings.frozen_after_s:
            since_at, seconds = known.stepped_at, stuck_s
            evidence = [("exporter", f"its counters stand still for {stuck_s:.0f} s while it answers requests")]
        elif stood_for_s >= settings.frozen_after_s:
            since_at, seconds = known.progress_at, stood_for_s
            evidence = [("progress", f"no engine step for {seconds:.0f} s with requests inside")]
            peers = len(watched) - 1
            if peers and 2 * moving > peers:
                evidence.append(("peers", f"{moving} of {peers} peers went on meanwhile"))
            if replica.in_flight_requests > 0:
                waits = f"the gateway waits for {replica.in_flight_requests:.0f} requests and saw none end"
                evidence.append(("gateway", waits))
        else:
            continue
        score = seconds / settings.frozen_after_s
        found += [Anomaly(family, replica.id, pool.key, score, since_at, detail) for family, detail in evidence]
    return found


def _slow(
    at: float, pool: PoolState, memory: Mapping[str, ReplicaMemory], settings: AnomalySettings
) -> tuple[list[Anomaly], dict[str, ReplicaMemory]]:
    """TPOT far above the peers' at k of the last n scrapes; more than its load explains is the second family.

    With the evidence it returns the memory of those of whom something else is to be remembered than before.
    """
    remembered: dict[str, ReplicaMemory] = {}
    reporting = [
        (r, r.metrics)
        for r in pool.replicas
        if r.phase is Phase.READY
        and r.metrics is not None
        and at - r.metrics.observed_at <= settings.max_metrics_age_s
        and math.isfinite(r.metrics.tpot_mean_s)
    ]
    ascending = sorted(seen.tpot_mean_s for _, seen in reporting)
    found: list[Anomaly] = []
    for replica, seen in reporting:
        name = pool.key.replica(replica.id)
        before = memory[name]
        slow_at = tuple(t for t in before.slow_at if at - t <= settings.look_back_s)
        # Whoever is not far above the median of all is not far above its peers': nothing to compare one by one.
        if len(ascending) > settings.min_peers and seen.tpot_mean_s > settings.slow_ratio * _least_median(ascending):
            peers = {pool.key.replica(r.id): m.tpot_mean_s for r, m in reporting if r.id != replica.id}
            middle, z = _robust_z(seen.tpot_mean_s, list(peers.values()))
            outlying = z > settings.slow_z and seen.tpot_mean_s > settings.slow_ratio * middle
            if outlying and seen.observed_at not in slow_at:
                slow_at = (*slow_at, seen.observed_at)
            if len(slow_at) >= settings.slow_scrapes and outlying:
                detail = f"TPOT {seen.tpot_mean_s * 1000:.0f} ms, its peers' median is {middle * 1000:.0f} ms"
                found.append(Anomaly("peers", replica.id, pool.key, z / settings.slow_z, slow_at[0], detail))
                explained_s = middle * _busier(before, [memory[peer] for peer in peers])
                if seen.tpot_mean_s > 1.25 * explained_s:
                    detail = f"the work that it does explains a TPOT of {explained_s * 1000:.0f} ms at most"
                    score = seen.tpot_mean_s / explained_s
                    found.append(Anomaly("latency", replica.id, pool.key, score, slow_at[0], detail))
        if slow_at != before.slow_at:
            remembered[name] = replace(before, slow_at=slow_at)
    return found, remembered


def _busier(own: ReplicaMemory, peers: Sequence[ReplicaMemory]) -> float:
    """Return how many times the peers' work it does, at least 1; infinity where that is not known.

    Step time grows at most in proportion to the work, so that a busier replica may be slower by this much. What is
    *inside* is no measure: requests pile up just where they are worked off slowly.
    """
    ratios = []
    for mine, theirs in (
        (own.prompt_tokens_per_s, [p.prompt_tokens_per_s for p in peers]),
        (own.output_tokens_per_s, [p.output_tokens_per_s for p in peers]),
    ):
        known = [rate for rate in theirs if rate is not None]
        if mine is not None and known and median(known) > 0:
            ratios.append(mine / median(known))
    return max(1.0, *ratios) if ratios else math.inf


def _least_median(ascending: Sequence[float]) -> float:
    """Return the least that the median can become by leaving one value out, of three or more."""
    return (ascending[(len(ascending) - 2) // 2] + ascending[(len(ascending) - 1) // 2]) / 2


def _robust_z(value: float, peers: Sequence[float]) -> tuple[float, float]:
    """Return the peers' median and the z-score of ``value`` by their median absolute deviation (times 1.4826)."""
    middle = median(peers)
    spread = 1.4826 * median(abs(p - middle) for p in peers)
    return middle, (value - middle) / max(spread, 0.05 * middle, 1e-9)
