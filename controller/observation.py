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

MOST_COUNTED = 1e15
"""No engine lives to count as far; beyond 2^53, nine times this, floats no longer tell neighbouring counts apart."""

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
    impossible: list[str] = []
    joined = tuple(_with_metrics(pool, weights[pool.key], seen, at, impossible) for pool in pools)
    for signal, told, believed in (
        ("demand", seen.demand, demand),
        ("service", seen.service, service),
        ("gateway_queued", seen.gateway_queued, queued),
    ):
        impossible += [f"{signal}:{model}" for model in sorted(told) if model not in believed]
    return FleetState(
        at=at,
        pools=joined,
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


def plausible(seen: ReplicaMetrics, at: float) -> bool:
    """Return whether an engine could have said this: metrics come from pods, and pods can be wrong or hostile.

    NaN is always possible: it means that nothing was said.
    """
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
    if not seen.observed_at <= at + CLOCK_SKEW_S:
        return False
    for count in counts:
        if count < 0 or count >= MOST_COUNTED:  # of NaN neither is true
            return False
    return math.isnan(seen.kv_cache_ratio) or 0 <= seen.kv_cache_ratio <= 1.001


def _is_count(value: float) -> bool:
    return 0 <= value < MOST_COUNTED


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


def _with_metrics(pool: PoolState, weight: float, seen: FleetMetrics, at: float, impossible: list[str]) -> PoolState:
    """Give each replica that the cluster knows its metrics; series of replicas that are gone find no owner.

    The ids of those whose engine says what no engine could say are added to ``impossible``.
    """
    replicas = []
    for r in pool.replicas:
        metrics = seen.replicas.get(r.id)
        if metrics is not None and not plausible(metrics, at):
            impossible.append(r.id)
            metrics = None
        if metrics is not None and metrics.observed_at < r.requested_at:
            metrics = None  # scraped in an earlier life of the replica
        # Built whole, in the order of its fields: ``replace`` takes twice as long, and large fleets are joined here.
        replicas.append(
            ReplicaState(
                r.id,
                r.phase,
                r.requested_at,
                r.since_at,
                r.revision,
                r.node,
                r.restarts,
                r.cordoned,
                _count(seen.in_flight, r.id),
                metrics,
                _count(seen.answered, r.id),
                _count(seen.failed_answers, r.id),
                r.placed_at,
            )
        )
    return replace(pool, replicas=tuple(replicas), weight=weight)
