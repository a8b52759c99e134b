"""What does the fleet look like now: cluster, metrics and weights joined into one state."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from controller.by_replica import read_figures, read_scrapes, strangers
from controller.errors import ObservationError
from controller.ports import Canaries, Cluster, FleetMetrics, MetricSource, Router
from policies.fleet import Demand, FleetState, NodeState, PoolKey, PoolState, ServiceLevel
from policies.replica import CanaryAnswer
from policies.roster import FIGURES, ROW, Bools, Floats, told_from

CLOCK_SKEW_S = 60.0
"""What is scraped further ahead of the controller's clock than this is not believed: it would look fresh for ever."""

MAX_REQUESTS_PER_S = 1e6
"""More of one model is a broken counter: a gigabyte per second at a kilobyte a request, past any one gateway."""

MOST_COUNTED = 1e15
"""No engine lives to count as far; beyond 2^53, nine times this, floats no longer tell neighbouring counts apart."""

_COUNTS = [row for row, name in enumerate(FIGURES) if name not in ("observed_at", "kv_cache_ratio")]

_NAMED = 5
_LONGEST_NAME = 80
_MOST_XID = 1000
_UNKNOWN = re.compile(r"unknown:(\d+) pods? \(")

MAX_TOKENS_PER_REQUEST = 1e7
"""Ten times the longest context window sold; tokens are never offered faster than this many times the requests."""


def observe(
    at: float, metrics: MetricSource, cluster: Cluster, router: Router, canaries: Canaries | None = None
) -> FleetState:
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
    joined, impossible = _with_metrics(pools, weights, seen, at)
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
        missing=(
            *seen.missing,
            *unweighted,
            *(f"impossible:{what}" for what in impossible),
            *(f"platform:{pool.key}" for pool in pools if pool.untold),
            *_note_of_strangers(seen, pools),
        ),
        nodes=_with_xids(cluster.nodes(), seen.node_xids),
        canaries={} if canaries is None else _of_ours(canaries.answers(at), pools),
        gateway_oldest_at=seen.gateway_oldest_at,
        gateway_newest_at=seen.gateway_newest_at,
    )


def _with_xids(nodes: Mapping[str, NodeState], xids: Mapping[str, float]) -> Mapping[str, NodeState]:
    """Return the nodes with what their GPUs report, but for what is said of nodes that the platform does not know."""
    told = {name: xid for name, xid in xids.items() if name in nodes and 0 <= xid < _MOST_XID}
    return {**nodes, **{name: replace(nodes[name], xid=xid) for name, xid in told.items()}} if told else nodes


def _of_ours(answers: Mapping[str, CanaryAnswer], pools: Sequence[PoolState]) -> Mapping[str, CanaryAnswer]:
    """Return the answers of replicas that are there."""
    if not answers:
        return {}
    there = {name for pool in pools for name in pool.roster.names(str(pool.key))}
    return {name: answer for name, answer in answers.items() if name in there}


def unknown_pods(missing: Iterable[str]) -> int:
    """Return how many pods metrics told of that the cluster did not know, as ``missing`` of a fleet has it."""
    return sum(int(found[1]) for what in missing if (found := _UNKNOWN.match(what)))


def pods_unknown_to(pools: Sequence[PoolState], seen: FleetMetrics) -> list[str]:
    """Return the pods that metrics tell of and that are in none of the pools."""
    ids = _ids_of(pools)
    told = (seen.replicas, seen.in_flight, seen.answered, seen.failed_answers, seen.unreached)
    return sorted(set[str]().union(*(strangers(by_replica, ids) for by_replica in told)))


def _note_of_strangers(seen: FleetMetrics, pools: Sequence[PoolState]) -> list[str]:
    """Return what is to be said of pods that metrics tell of and the cluster does not know: none, or one line.

    They are ignored: whoever is scraped can claim to be any pod. Those that have just gone are among them for a while.
    """
    unknown = pods_unknown_to(pools, seen)
    if not unknown:
        return []
    named = ", ".join(name[:_LONGEST_NAME] for name in unknown[:_NAMED])
    more = ", ..." if len(unknown) > _NAMED else ""
    return [f"unknown:{len(unknown)} pod{'s' if len(unknown) > 1 else ''} ({named}{more})"]


def _ids_of(pools: Sequence[PoolState]) -> tuple[str, ...]:
    return pools[0].roster.ids if len(pools) == 1 else tuple([name for pool in pools for name in pool.roster.ids])


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


def plausible(metrics: Floats, at: float) -> Bools:
    """Return ``bool[R]``, whether an engine could have said this: metrics come from pods, some wrong, some hostile.

    NaN is always possible, but as an instant: it means that nothing was said.

    Args:
        metrics: ``float64[F, R]``, as in ``policies.roster.Told``.
        at: What the clock says.
    """
    counts = metrics[_COUNTS]
    kv_cache_ratio = metrics[ROW["kv_cache_ratio"]]
    impossible = ((counts < 0) | (counts >= MOST_COUNTED)).any(axis=0)  # of NaN neither is true
    impossible |= (kv_cache_ratio < 0) | (kv_cache_ratio > 1.001)
    possible: Bools = ~impossible & (metrics[ROW["observed_at"]] <= at + CLOCK_SKEW_S)
    return possible


def _is_count(value: float) -> bool:
    return 0 <= value < MOST_COUNTED


def _unambiguous(seen: FleetMetrics, pools: Sequence[PoolState]) -> FleetMetrics:
    """Leave out what is said of an id that two pools have: nobody can tell which of the two it is about."""
    if len(pools) == 1:
        return seen
    ids = [name for pool in pools for name in pool.roster.ids]
    if len(set(ids)) == len(ids):
        return seen
    shared = {name for name, count in Counter(ids).items() if count > 1}
    return replace(
        seen,
        replicas={name: told for name, told in seen.replicas.items() if name not in shared},
        in_flight={name: told for name, told in seen.in_flight.items() if name not in shared},
        answered={name: told for name, told in seen.answered.items() if name not in shared},
        failed_answers={name: told for name, told in seen.failed_answers.items() if name not in shared},
        unreached={name: told for name, told in seen.unreached.items() if name not in shared},
        missing=(
            *seen.missing,
            *(f"ambiguous:{p.key.replica(r.id)}" for p in pools for r in p.replicas if r.id in shared),
        ),
    )


def _with_metrics(
    pools: Sequence[PoolState], weights: Mapping[PoolKey, float], seen: FleetMetrics, at: float
) -> tuple[tuple[PoolState, ...], list[str]]:
    """Give each replica that the cluster knows its metrics; series of replicas that are gone find no owner.

    With the pools it returns the ids of those whose engine says what no engine could say.
    """
    ids = _ids_of(pools)
    said, metrics = read_scrapes(seen.replicas, ids)
    scraped = said & plausible(metrics, at)
    refused = said & ~scraped
    impossible = [ids[place] for place in np.flatnonzero(refused)] if np.count_nonzero(refused) else []
    if pools:  # what was scraped in an earlier life of a replica says nothing of this one
        scraped &= metrics[ROW["observed_at"]] >= np.concatenate([pool.roster.requested_at for pool in pools])
    if not scraped.all():
        metrics = np.where(scraped, metrics, np.nan)
    by_gateway = (seen.in_flight, seen.answered, seen.failed_answers, seen.unreached)
    counts = np.array([read_figures(told, ids) for told in by_gateway])
    counts = np.where((counts >= 0) & (counts < MOST_COUNTED), counts, np.nan)  # what nobody could have counted
    told = told_from(counts, scraped, metrics)
    joined = []
    first = 0
    for pool in pools:
        last = first + len(pool.roster)
        joined.append(pool.with_told(told if len(pools) == 1 else told.between(first, last), weights[pool.key]))
        first = last
    return tuple(joined), impossible
