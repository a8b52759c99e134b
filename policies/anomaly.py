"""Which replicas look wrong, by which independent kind of evidence?"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median

from pydantic import BaseModel, ConfigDict, Field

from policies.decisions import Anomaly
from policies.fleet import FleetState, Phase, PoolState, ReplicaState
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
    """What one look at the fleet found, and what to remember of it.

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
    """Return anomalies of every replica, and memory of those that exist (the dead are forgotten)."""
    remembered = {r.id: known for p in fleet.pools for r in p.replicas if (known := _remember(fleet.at, r, memory))}
    fresh = frozenset(name for name, m in remembered.items() if fleet.at - m.observed_at <= settings.max_metrics_age_s)
    found: list[Anomaly] = []
    for pool in fleet.pools:
        found += _platform(fleet.at, pool, lead_times[str(pool.key)], settings)
        found += _frozen(pool, remembered, fresh, settings)
        slow, remembered = _slow(fleet.at, pool, remembered, settings)
        found += slow
    return Watch(tuple(found), remembered, fresh)


def life_of(replica: ReplicaState) -> str:
    """Return what names one life of a replica; a restart in place begins another."""
    return f"{replica.id}#{replica.restarts}"


def _remember(at: float, replica: ReplicaState, memory: Mapping[str, ReplicaMemory]) -> ReplicaMemory | None:
    """Progress is a step, a token, or a request that the gateway saw end; idleness counts as progress too.

    Standing still takes work inside at both ends of the time. A counter that is not given is no evidence: what was
    last known of it stands, and ``observed_at`` with it.
    """
    before = memory.get(replica.id)
    if before is not None and before.life != life_of(replica):
        before = None
    seen = replica.metrics
    if seen is None:
        return before
    steps, tokens = _known(seen.steps_total), _known(seen.output_tokens_total)
    prompt, in_flight = _known(seen.prompt_tokens_total), _known(replica.in_flight_requests)
    busy = any(count > 0 for count in (replica.in_flight_requests, seen.running_requests, seen.queued_requests))
    if before is None or _less(steps, before.steps_total) or _less(tokens, before.output_tokens_total):
        at_scrape = seen.observed_at
        return ReplicaMemory(life_of(replica), steps, prompt, tokens, in_flight, at_scrape, at_scrape, busy)
    if _less(in_flight, before.in_flight):
        before = replace(before, progress_at=max(before.progress_at, at))
    if in_flight is not None:
        before = replace(before, in_flight=in_flight)
    elapsed_s = seen.observed_at - before.observed_at
    if elapsed_s <= 0 or (steps is None and tokens is None):
        return before
    moved = _moved(before.steps_total, steps) or _moved(before.output_tokens_total, tokens)
    return replace(
        before,
        steps_total=before.steps_total if steps is None else steps,
        prompt_tokens_total=before.prompt_tokens_total if prompt is None else prompt,
        output_tokens_total=before.output_tokens_total if tokens is None else tokens,
        observed_at=seen.observed_at,
        progress_at=before.progress_at
        if busy and before.busy and not moved
        else max(before.progress_at, seen.observed_at),
        busy=busy,
        prompt_tokens_per_s=_rate(before.prompt_tokens_total, prompt, elapsed_s),
        output_tokens_per_s=_rate(before.output_tokens_total, tokens, elapsed_s),
    )


def _moved(before: float | None, now: float | None) -> bool:
    """Return whether a counter grew, or is known for the first time."""
    return now is not None and (before is None or now > before)


def _rate(before: float | None, now: float | None, elapsed_s: float) -> float | None:
    return None if before is None or now is None or now < before else (now - before) / elapsed_s


def _known(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _less(one: float | None, other: float | None) -> bool:
    """Return whether both are known and the first is smaller."""
    return one is not None and other is not None and one < other


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
    pool: PoolState, memory: Mapping[str, ReplicaMemory], fresh: frozenset[str], settings: AnomalySettings
) -> list[Anomaly]:
    """No step for a while with work inside; peers that step meanwhile and a gateway that waits are two more families.

    Only READY replicas are watched: one that drains ends by the platform's own deadline.
    """
    watched = [r for r in pool.replicas if r.phase is Phase.READY and r.id in fresh]
    still_s = {r.id: memory[r.id].observed_at - memory[r.id].progress_at for r in watched}
    moving = sum(seconds < settings.frozen_after_s for seconds in still_s.values())
    found: list[Anomaly] = []
    for replica in watched:
        seconds = still_s[replica.id]
        if seconds < settings.frozen_after_s:
            continue
        evidence = [("progress", f"no engine step for {seconds:.0f} s with requests inside")]
        peers = len(watched) - 1
        if peers and 2 * moving > peers:
            evidence.append(("peers", f"{moving} of {peers} peers went on meanwhile"))
        if replica.in_flight_requests > 0:
            waits = f"the gateway waits for {replica.in_flight_requests:.0f} requests and saw none end"
            evidence.append(("gateway", waits))
        score, since_at = seconds / settings.frozen_after_s, memory[replica.id].progress_at
        found += [Anomaly(family, replica.id, pool.key, score, since_at, detail) for family, detail in evidence]
    return found


def _slow(
    at: float, pool: PoolState, memory: Mapping[str, ReplicaMemory], settings: AnomalySettings
) -> tuple[list[Anomaly], dict[str, ReplicaMemory]]:
    """TPOT far above the peers' at k of the last n scrapes; more than its load explains is the second family."""
    remembered = dict(memory)
    reporting = [
        (r, r.metrics)
        for r in pool.replicas
        if r.phase is Phase.READY
        and r.metrics is not None
        and at - r.metrics.observed_at <= settings.max_metrics_age_s
        and math.isfinite(r.metrics.tpot_mean_s)
    ]
    found: list[Anomaly] = []
    for replica, seen in reporting:
        peers = {r.id: m.tpot_mean_s for r, m in reporting if r.id != replica.id}
        before = remembered[replica.id]
        slow_at = tuple(t for t in before.slow_at if at - t <= settings.look_back_s)
        if len(peers) >= settings.min_peers:
            middle, z = _robust_z(seen.tpot_mean_s, list(peers.values()))
            outlying = z > settings.slow_z and seen.tpot_mean_s > settings.slow_ratio * middle
            if outlying and seen.observed_at not in slow_at:
                slow_at = (*slow_at, seen.observed_at)
            if len(slow_at) >= settings.slow_scrapes and outlying:
                detail = f"TPOT {seen.tpot_mean_s * 1000:.0f} ms, its peers' median is {middle * 1000:.0f} ms"
                found.append(Anomaly("peers", replica.id, pool.key, z / settings.slow_z, slow_at[0], detail))
                explained_s = middle * _busier(before, [memory[name] for name in peers])
                if seen.tpot_mean_s > 1.25 * explained_s:
                    detail = f"the work that it does explains a TPOT of {explained_s * 1000:.0f} ms at most"
                    score = seen.tpot_mean_s / explained_s
                    found.append(Anomaly("latency", replica.id, pool.key, score, slow_at[0], detail))
        remembered[replica.id] = replace(before, slow_at=slow_at)
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


def _robust_z(value: float, peers: Sequence[float]) -> tuple[float, float]:
    """Return the peers' median and the z-score of ``value`` by their median absolute deviation (times 1.4826)."""
    middle = median(peers)
    spread = 1.4826 * median(abs(p - middle) for p in peers)
    return middle, (value - middle) / max(spread, 0.05 * middle, 1e-9)
