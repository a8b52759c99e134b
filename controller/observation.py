"""What does the fleet look like now: cluster, metrics and weights joined into one state."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

from controller.errors import ObservationError
from controller.ports import Cluster, FleetMetrics, MetricSource, Router
from policies.fleet import (
    Demand,
    FleetState,
    PoolKey,
    PoolState,
    ReplicaMetrics,
    ReplicaState,
    ServiceLevel,
)

CLOCK_SKEW_S = 60.0
"""What is scraped further ahead of the controller's clock than this is not believed: it would look fresh for ever."""

MAX_REQUESTS_PER_S = 1e6
"""More of one model is a broken counter: a gigabyte per second at a kilobyte a request, past any one gateway."""

MAX_TOKENS_PER_REQUEST = 1e7
"""Ten times the longest context window sold; tokens are never offered faster than this many times the requests."""


def observe(at: float, metrics: MetricSource, cluster: Cluster, router: Router) -> FleetState:
    """Return the fleet as of ``at``; raises ObservationError when the cluster or the metrics cannot be read.

    What is missing of one model, its traffic weights included, is told in ``missing`` and leaves the others alone.
    """
    pools = cluster.pools()
    seen = _unambiguous(metrics.read(at), pools)
    models = sorted({pool.key.model for pool in pools})
    weights, unweighted = _weights(models, pools, router)
    demand = {model: load for model, load in seen.demand.items() if _offered(load)}
    service = {model: level for model, level in seen.service.items() if _measured(level)}
    queued = {model: count for model, count in seen.gateway_queued.items() if _is_count(count)}
    impossible = [r.id for p in pools for r in p.replicas if not plausible(seen.replicas.get(r.id), at)]
    for signal, told, believed in (
        ("demand", seen.demand, demand),
        ("service", seen.service, service),
        ("gateway_queued", seen.gateway_queued, queued),
    ):
        impossible += [f"{signal}:{model}" for model in sorted(told) if model not in believed]
    return FleetState(
        at=at,
        pools=tuple(replace(_with_metrics(pool, seen, at), weight=weights[pool.key]) for pool in pools),
        demand=demand,
        service=service,
        gateway_queued=queued,
        missing=(*seen.missing, *unweighted, *(f"impossible:{what}" for what in impossible)),
    )


def _weights(
    models: Sequence[str], pools: Sequence[PoolState], router: Router
) -> tuple[Mapping[PoolKey, float], list[str]]:
    """Return every pool's share of its model's requests, NaN where it is not known, and what is missing.

    A pool that a route leaves out gets nothing; a route that names none of the model's pools says nothing.
    """
    weights: dict[PoolKey, float] = {}
    missing = []
    keys_of: dict[str, list[PoolKey]] = {model: [] for model in models}
    for pool in pools:
        keys_of[pool.key.model].append(pool.key)
    for model, keys in keys_of.items():
        try:
            shares = router.weights(model)
        except ObservationError:
            shares = {}
        known = any(key in shares for key in keys)
        weights |= {key: _share(shares.get(key, 0.0)) if known else math.nan for key in keys}
        if any(math.isnan(weights[key]) for key in keys):
            missing.append(f"weights:{model}")
    return weights, missing


def _share(weight: float) -> float:
    return weight if 0 <= weight <= 1 + 1e-6 else math.nan


def _offered(demand: Demand) -> bool:
    """Return whether clients could have offered this; a forecast made from what they could not is wrong for days."""
    most_tokens = MAX_TOKENS_PER_REQUEST * max(1.0, demand.requests_per_s)
    return demand.requests_per_s <= MAX_REQUESTS_PER_S and (
        max(demand.prompt_tokens_per_s, demand.output_tokens_per_s) <= most_tokens
    )


def _measured(level: ServiceLevel) -> bool:
    return _is_count(level.finished) and math.isfinite(level.window_s)


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
        failed_answers={name: told for name, told in seen.failed_answers.items() if name not in shared},
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
            failed_answers_total=_count(seen.failed_answers, r.id),
        )
        for r in pool.replicas
    )
    return replace(pool, replicas=replicas)


def _believed(metrics: ReplicaMetrics | None, replica: ReplicaState, at: float) -> ReplicaMetrics | None:
    """Drop what was scraped in an earlier life of the replica, and what is impossible."""
    if metrics is None or metrics.observed_at < replica.requested_at or not plausible(metrics, at):
        return None
    return metrics
