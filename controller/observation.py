"""What does the fleet look like now: cluster, metrics and weights joined into one state."""

from __future__ import annotations

import math
from dataclasses import replace

from controller.ports import Cluster, FleetMetrics, MetricSource, Router
from policies.fleet import FleetState, PoolState, ReplicaMetrics, ReplicaState


def observe(at: float, metrics: MetricSource, cluster: Cluster, router: Router) -> FleetState:
    """Return the fleet as of ``at``; raises ObservationError when the cluster or the metrics cannot be read."""
    pools = cluster.pools()
    seen = metrics.read(at)
    weights = {key: weight for model in {p.key.model for p in pools} for key, weight in router.weights(model).items()}
    joined = tuple(replace(_with_metrics(pool, seen), weight=weights.get(pool.key, 0.0)) for pool in pools)
    return FleetState(
        at=at,
        pools=joined,
        demand=dict(seen.demand),
        service=dict(seen.service),
        gateway_queued=dict(seen.gateway_queued),
        missing=seen.missing + _refused(pools, seen),
    )


def plausible(seen: ReplicaMetrics) -> bool:
    """Return whether an engine could have said this: metrics come from pods, and pods can be wrong or hostile."""
    counts = (
        seen.running_requests,
        seen.queued_requests,
        seen.steps_total,
        seen.prompt_tokens_total,
        seen.output_tokens_total,
        seen.finished_requests_total,
    )
    return all(math.isnan(c) or 0 <= c < 1e15 for c in counts) and not (
        seen.kv_cache_ratio < 0 or seen.kv_cache_ratio > 1.001
    )


def _with_metrics(pool: PoolState, seen: FleetMetrics) -> PoolState:
    """Give each replica that the cluster knows its metrics; series of replicas that are gone find no owner."""
    replicas = tuple(
        replace(r, metrics=_believed(seen.replicas.get(r.id), r), in_flight_requests=seen.in_flight.get(r.id, math.nan))
        for r in pool.replicas
    )
    return replace(pool, replicas=replicas)


def _believed(metrics: ReplicaMetrics | None, replica: ReplicaState) -> ReplicaMetrics | None:
    """Drop what was scraped in an earlier life of the replica, and what is impossible."""
    if metrics is None or metrics.observed_at < replica.requested_at or not plausible(metrics):
        return None
    return metrics


def _refused(pools: tuple[PoolState, ...], seen: FleetMetrics) -> tuple[str, ...]:
    """Return whose metrics were impossible and therefore not believed, as ``impossible:replica``."""
    known = [r.id for p in pools for r in p.replicas if r.id in seen.replicas]
    return tuple(f"impossible:{name}" for name in known if not plausible(seen.replicas[name]))
