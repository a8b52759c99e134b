"""What does the fleet look like now: cluster, metrics and weights joined into one state."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

from controller.ports import Cluster, FleetMetrics, MetricSource, Router
from policies.fleet import FleetState, PoolState, ReplicaMetrics, ReplicaState

CLOCK_SKEW_S = 60.0
"""What is scraped further ahead of the controller's clock than this is not believed: it would look fresh for ever."""


def observe(at: float, metrics: MetricSource, cluster: Cluster, router: Router) -> FleetState:
    """Return the fleet as of ``at``; raises ObservationError when the cluster or the metrics cannot be read."""
    pools = cluster.pools()
    seen = _unambiguous(metrics.read(at), pools)
    weights = {
        key: weight for model in sorted({p.key.model for p in pools}) for key, weight in router.weights(model).items()
    }
    impossible = tuple(
        f"impossible:{r.id}" for p in pools for r in p.replicas if not plausible(seen.replicas.get(r.id), at)
    )
    queued = {model: count for model, count in seen.gateway_queued.items() if _is_count(count)}
    return FleetState(
        at=at,
        pools=tuple(replace(_with_metrics(pool, seen, at), weight=weights.get(pool.key, 0.0)) for pool in pools),
        demand=dict(seen.demand),
        service=dict(seen.service),
        gateway_queued=queued,
        missing=seen.missing
        + impossible
        + tuple(f"impossible:gateway_queued:{model}" for model in sorted(seen.gateway_queued) if model not in queued),
    )


def plausible(seen: ReplicaMetrics | None, at: float) -> bool:
    """Return whether an engine could have said this: metrics come from pods, and pods can be wrong or hostile.

    NaN is always possible: it means that nothing was said.
    """
    if seen is None:
        return True
    counts = (
        seen.running_requests,
        seen.queued_requests,
        seen.steps_total,
        seen.prompt_tokens_total,
        seen.output_tokens_total,
        seen.finished_requests_total,
        seen.failed_requests_total,
        seen.ttft_p95_s,
        seen.tpot_mean_s,
    )
    if not (seen.observed_at <= at + CLOCK_SKEW_S and all(math.isnan(c) or _is_count(c) for c in counts)):
        return False
    return math.isnan(seen.kv_cache_ratio) or 0 <= seen.kv_cache_ratio <= 1.001


def _is_count(value: float) -> bool:
    return 0 <= value < 1e15


def _count(told: Mapping[str, float], name: str) -> float:
    return count if _is_count(count := told.get(name, math.nan)) else math.nan


def _unambiguous(seen: FleetMetrics, pools: Sequence[PoolState]) -> FleetMetrics:
    """Leave out what is said of an id that two pools have: nobody can tell which of the two it is about."""
    times = Counter(r.id for pool in pools for r in pool.replicas)
    shared = {name for name, count in times.items() if count > 1}
    if not shared:
        return seen
    return replace(
        seen,
        replicas={name: told for name, told in seen.replicas.items() if name not in shared},
        in_flight={name: told for name, told in seen.in_flight.items() if name not in shared},
        answered={name: told for name, told in seen.answered.items() if name not in shared},
        missing=(
            *seen.missing,
            *(f"ambiguous:{p.key.replica(r.id)}" for p in pools for r in p.replicas if r.id in shared),
        ),
    )


def _with_metrics(pool: PoolState, seen: FleetMetrics, at: float) -> PoolState:
    """Give each replica that the cluster knows its metrics; series of replicas that are gone find no owner."""
    replicas = tuple(
        replace(
            r,
            metrics=_believed(seen.replicas.get(r.id), r, at),
            in_flight_requests=_count(seen.in_flight, r.id),
            answered_requests_total=_count(seen.answered, r.id),
        )
        for r in pool.replicas
    )
    return replace(pool, replicas=replicas)


def _believed(metrics: ReplicaMetrics | None, replica: ReplicaState, at: float) -> ReplicaMetrics | None:
    """Drop what was scraped in an earlier life of the replica, and what is impossible."""
    if metrics is None or metrics.observed_at < replica.requested_at or not plausible(metrics, at):
        return None
    return metrics
