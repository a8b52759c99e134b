"""What shows at a pool as a whole, and at no single replica of it?

Each sign is a comparison of figures at one look; it counts as evidence once it was seen at ``looks`` looks within the
look-back, and no longer than it goes on. Families are as for replicas: independent kinds of witnesses. What is missing
is no sign of anything but of missing metrics.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from policies.causes import (
    CAUSES,
    METRICS_LOST,
    NODE_TROUBLE,
    OVERLOAD,
    PREEMPTIONS,
    RETRY_STORM,
    UNREACHABLE,
    Cause,
)
from policies.decisions import Anomaly
from policies.fleet import FleetState, PoolKey, PoolState
from policies.load_residual import LoadLook
from policies.memory import ModelMemory, PoolMemory
from policies.progress import UNREACHED_S
from policies.roster import Bools, Floats
from policies.watched import WatchedReplicas


class PoolEvidenceSettings(BaseModel):
    """When figures of a pool count as a sign."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    look_back_s: float = Field(120.0, gt=0, description="Look-back of the k-of-n rule, in seconds.")
    looks: int = Field(3, ge=1, description="Looks within the look-back at which a sign must be seen (k of n).")
    max_age_s: float = Field(60.0, gt=0, description="Metrics older than this, in seconds, are no evidence.")
    most_ratio: float = Field(
        0.7, gt=0.5, le=1, description="Share of the serving replicas that must show it alike: else it is single ones."
    )
    unreached_ratio: float = Field(
        0.5, gt=0, le=1, description="Share of what was sent to the pool that found no connection."
    )
    kv_cache_full_ratio: float = Field(0.95, gt=0, le=1, description="KV cache use at which engines preempt.")
    preempted_ratio: float = Field(
        0.1,
        gt=0,
        description="Preemptions per running request and look: at a healthy level, 7 % of requests are preempted once "
        "in all their life, which is some tens of looks.",
    )
    queued_ratio: float = Field(0.1, gt=0, description="Queued requests per running one that make a pool overloaded.")
    given_up_ratio: float = Field(
        0.2, gt=0, le=1, description="Share of the requests that end of which the client gave up or got an error."
    )
    surge_ratio: float = Field(1.4, gt=1, description="Load as a multiple of what is usual that is a surge.")
    usual_half_life_s: float = Field(
        1200.0, gt=0, description="Time in seconds in which what is usual follows half of a lasting change of load."
    )
    unseen_ratio: float = Field(
        0.5, gt=0, le=1, description="Share of the READY replicas without metrics that is a failure of the metrics."
    )


AFTER_S = 300.0
"""How long what showed at a pool may still account for what shows at its replicas: requests last for minutes."""


def lately(known: Mapping[str, PoolMemory]) -> Mapping[PoolKey, str]:
    """Return, of pools at which a sign was seen more than once within ``AFTER_S``, the name of what it speaks for."""
    found = {}
    for key, memory in known.items():
        names = [name for name, times in memory.signs.items() if len(times) > 1 and name in CAUSES]
        if names:
            found[PoolKey.parse(key)] = max(names, key=lambda name: (CAUSES[name].gravity, name))
    return found


@dataclass(frozen=True, slots=True)
class PoolWatch:
    """Evidence against pools (``replica`` is empty), and what to remember."""

    anomalies: tuple[Anomaly, ...]
    pools: Mapping[str, PoolMemory]
    models: Mapping[str, ModelMemory]


@dataclass(frozen=True, slots=True)
class _Look:
    """The figures of one pool at one look: ``bool[R]`` and ``float64[R]`` of its serving replicas that reported."""

    serving: int
    settled: int
    reporting: int
    ready: int
    running: Floats
    queued: Floats
    kv_cache: Floats
    preempted: float
    given_up: float
    ended: float
    unreached: float
    cut_off: int
    sent: float
    tokens_per_s: float


def watch_pools(
    fleet: FleetState,
    replicas: WatchedReplicas,
    known: Mapping[str, PoolMemory],
    models: Mapping[str, ModelMemory],
    models_of: Collection[str],
    settings: PoolEvidenceSettings,
    loads: Mapping[str, LoadLook] = MappingProxyType({}),
) -> PoolWatch:
    """Return evidence against pools as wholes.

    Args:
        fleet: What is there.
        replicas: What is known of the fleet's replicas now, in its order.
        known: By pool key.
        models: What is known of each.
        models_of: Those of which something is to be learned.
        settings: When figures count.
        loads: Load that is outside of what was forecast for now, by model.
    """
    found: list[Anomaly] = []
    pools, learned = {}, dict(models)
    first = 0
    for pool in fleet.pools:
        part = slice(first, first + len(pool.roster))
        first = part.stop
        name, model = str(pool.key), pool.key.model
        look = _look(fleet.at, pool, replicas, part, settings)
        usual = _usual(models.get(model, ModelMemory()), fleet.at, settings)
        earlier = known.get(name, PoolMemory())
        before = _lost_nodes(fleet, pool, earlier, settings.look_back_s)
        signs = _signs(fleet, pool, look, usual, loads.get(model), settings)
        signs[NODE_TROUBLE] = _node_trouble(fleet, pool, earlier, before)
        given, renamed = _given(fleet.at, pool, before.given, settings)
        signs[METRICS_LOST] = signs[METRICS_LOST] or renamed
        seen = noted(before.signs, [cause.name for cause, said in signs.items() if said], fleet.at)
        pools[name] = replace(before, signs=seen, given=given)
        for cause, said in signs.items():
            times = tuple(t for t in seen.get(cause.name, ()) if fleet.at - t <= settings.look_back_s)
            if said and len(times) >= _LOOKS.get(cause, settings.looks):
                found += [Anomaly(family, "", pool.key, 1.0, times[0], words) for family, words in said]
    for model in models_of:
        wrong = any(a.pool.model == model for a in found)
        learned[model] = _learned(models.get(model, ModelMemory()), fleet, model, settings, wrong=wrong)
    return PoolWatch(tuple(found), pools, learned)


def _look(at: float, pool: PoolState, replicas: WatchedReplicas, part: slice, settings: PoolEvidenceSettings) -> _Look:
    told, serving = pool.told, pool.roster.serving
    fresh: Bools = told.fresh(at, settings.max_age_s)
    here = serving & fresh

    def grown(row: str, where: Bools = here) -> float:
        return float(np.nansum(replicas.of_row(row)[part][where]))

    answers = replicas.answers[:, :, part]  # counted with a half-life, by the gateway and by engines
    ended = float(np.nansum(answers[0, 4:6][:, serving]))
    failed = float(np.nansum(answers[0, 5][serving]))
    aborted = grown("aborted")
    unreached = float(np.nansum(replicas.of_row("unreached")[part]))
    lately_ended = _NEW_SHARE * max(0.0, ended)
    return _Look(
        serving=int(np.count_nonzero(serving)),
        settled=int(np.count_nonzero(serving & (at - pool.roster.since_at > settings.max_age_s))),
        reporting=int(np.count_nonzero(here)),
        ready=pool.roster.ready_count,
        running=told.of("running_requests")[here],
        queued=told.of("queued_requests")[here],
        kv_cache=told.of("kv_cache_ratio")[here],
        preempted=grown("preempted"),
        given_up=failed + aborted,
        ended=ended + aborted,
        unreached=unreached,
        cut_off=int(np.count_nonzero(serving & (at - replicas.of_row("unreached_at")[part] <= UNREACHED_S))),
        sent=unreached + lately_ended,
        tokens_per_s=grown("output_tokens_per_s"),
    )


_NEW_SHARE = 0.35
"""Of answers that count half after 30 s, about a third came within the last 15 s while they come evenly."""

_Said = list[tuple[str, str]]

_LOOKS: Mapping[Cause, int] = {NODE_TROUBLE: 1, UNREACHABLE: 2}
"""Looks that are enough where one witness is the platform itself, or requests are lost meanwhile."""


def _signs(
    fleet: FleetState,
    pool: PoolState,
    look: _Look,
    usual: float | None,
    load: LoadLook | None,
    settings: PoolEvidenceSettings,
) -> dict[Cause, _Said]:
    """Return, by the cause that it speaks for, what is seen at this look: families with their words; empty for none."""
    pressed = _pressed(look, settings)
    surge = _surge(fleet, pool, usual)
    unforeseen = load is not None and load.stray.above and load.times >= settings.surge_ratio
    given_up = look.given_up / look.ended if look.ended >= 5.0 else 0.0
    retrying = given_up >= settings.given_up_ratio and (unforeseen or surge >= settings.surge_ratio)
    storming = _storming(look, settings)
    return {
        UNREACHABLE: _unreachable(fleet.at, pool, look, settings),
        METRICS_LOST: _unseen(fleet, pool, settings),
        RETRY_STORM: [
            ("aborts", f"{given_up:.0%} of the requests that end are given up or fail"),
            ("demand", str(load) if unforeseen else f"{surge:.1f} times the usual load is offered"),
        ]
        * retrying,
        PREEMPTIONS: storming,
        OVERLOAD: pressed if not storming and not retrying else [],
    }


def _pressed(look: _Look, settings: PoolEvidenceSettings) -> _Said:
    """Queues at most replicas alike, while tokens flow: it is the load."""
    if look.reporting == 0 or look.reporting < settings.most_ratio * look.settled:
        return []
    queueing = np.nan_to_num(look.queued) > settings.queued_ratio * np.maximum(np.nan_to_num(look.running), 1.0)
    share = float(np.mean(queueing))
    if share < settings.most_ratio or not look.tokens_per_s > 0:
        return []
    queued = float(np.nansum(look.queued))
    return [
        ("queue", f"{queued:.0f} requests queue at {share:.0%} of {look.reporting} replicas alike"),
        ("throughput", f"which turn out {look.tokens_per_s:.0f} tokens/s meanwhile"),
    ]


def _storming(look: _Look, settings: PoolEvidenceSettings) -> _Said:
    running = float(np.nansum(look.running))
    full = look.kv_cache >= settings.kv_cache_full_ratio
    if not (running > 0 and np.count_nonzero(full)):
        return []
    if look.preempted < settings.preempted_ratio * running:
        return []
    return [
        ("preemptions", f"{look.preempted:.0f} preemptions since the last look, with {running:.0f} requests running"),
        ("cache", f"the KV cache is full at {np.count_nonzero(full)} of {look.reporting} replicas"),
    ]


def _unreachable(at: float, pool: PoolState, look: _Look, settings: PoolEvidenceSettings) -> _Said:
    """The gateway finds no connection to most of them, while the engines report as always, or nobody tells of them.

    One alone can have most of the requests: where no connection comes about, the fewest are in flight.
    """
    if 2 * look.cut_off <= look.serving:
        return []
    if look.unreached < 1.0 or look.unreached < settings.unreached_ratio * look.sent:
        return []
    lost = f"{look.unreached:.0f} requests found no connection since the last look"
    gateway = ("gateway", f"{lost}, of late to {look.cut_off} of {look.serving} replicas")
    if look.reporting >= settings.most_ratio * max(1, look.serving):
        return [gateway, ("engines", f"{look.reporting} of {look.serving} replicas report as always")]
    if pool.untold:
        silent = f"its cluster has said nothing for {at - pool.last_told_at:.0f} s"
        return [gateway, ("cluster", f"{silent}, and {look.reporting} of {look.serving} replicas report")]
    return []


def _unseen(fleet: FleetState, pool: PoolState, settings: PoolEvidenceSettings) -> _Said:
    """Most are READY and say nothing, or nothing of use, all at once: that is the metrics, not the engines."""
    reports = pool.told.fresh(fleet.at, settings.max_age_s) & ~np.isnan(pool.told.of("queued_requests"))
    settled = pool.roster.serving & (fleet.at - pool.roster.since_at > settings.max_age_s)
    silent, there = int(np.count_nonzero(settled & ~reports)), int(np.count_nonzero(settled))
    if silent < 2 or silent < settings.unseen_ratio * there:
        return []
    return [
        ("store", f"{silent} of {there} READY replicas have no metrics, or not all"),
        ("platform", f"the platform finds {there} READY, none of them new"),
    ]


ALWAYS_GIVEN = (
    "running_requests",
    "queued_requests",
    "kv_cache_ratio",
    "steps_total",
    "prompt_tokens_total",
    "output_tokens_total",
)
"""Figures that an engine which gives them at all gives at every scrape."""

RENAMED_S = 3600.0
"""How long a figure is missed that nobody gives any more: an upgrade may have dropped it for good."""


def _given(
    at: float, pool: PoolState, before: Mapping[str, float], settings: PoolEvidenceSettings
) -> tuple[Mapping[str, float], _Said]:
    """Return when each figure was last given by most replicas that report, and what is said if one is not any more."""
    fresh = pool.roster.serving & pool.told.fresh(at, settings.max_age_s)
    reporting = int(np.count_nonzero(fresh))
    if reporting < 2:
        return before, []
    shares = {name: float(np.mean(~np.isnan(pool.told.of(name)[fresh]))) for name in ALWAYS_GIVEN}
    given = {name: last_at for name, last_at in before.items() if at - last_at <= RENAMED_S}
    given |= {name: at for name, share in shares.items() if share >= settings.unseen_ratio}
    gone = sorted(name for name in given if shares[name] < settings.unseen_ratio)
    if not gone:
        return given, []
    return given, [
        ("store", f"{' and '.join(gone)} of {reporting} replicas came before and does not any more"),
        ("platform", f"the platform finds {reporting} of them READY, and they are scraped"),
    ]


def _lost_nodes(fleet: FleetState, pool: PoolState, before: PoolMemory, keep_s: float) -> PoolMemory:
    """Return ``before`` with where its replicas are now, and with nodes of late that went away with some of them.

    A node can be gone before it was ever seen not to be in order, and what was on it with it.
    """
    there = pool.roster.staying_by_node if fleet.nodes else {}
    lost = {name: (at, count) for name, (at, count) in before.lost.items() if fleet.at - at <= keep_s}
    if fleet.nodes and there != before.nodes:
        on = pool.roster.by_node
        gone = {name: n for name, n in before.nodes.items() if name not in fleet.nodes and name not in on}
        lost |= {name: (fleet.at, count) for name, count in gone.items()}
    if not fleet.nodes or (there == before.nodes and lost == before.lost):
        return before
    return replace(before, nodes=dict(there), lost=lost)


def _node_trouble(fleet: FleetState, pool: PoolState, before: PoolMemory, now: PoolMemory) -> _Said:
    """Nodes that are not in order or leave, and what is or was on them; nodes that went away with it."""
    if not fleet.nodes:
        return []
    on, was = pool.roster.by_node, before.nodes
    bad = {
        name: max(on.get(name, 0), was.get(name, 0))
        for name in {**on, **was}
        if (node := fleet.nodes.get(name)) is not None and (not node.ready or node.leaving)
    }
    said: _Said = []
    if bad:
        told = ", ".join(f"{name} ({count} of its replicas)" for name, count in sorted(bad.items()))
        said.append(("node", f"not in order or leaving: {told}"))
    if now.lost:
        told = ", ".join(f"{name} ({count} of its replicas)" for name, (_, count) in sorted(now.lost.items()))
        said.append(("node", f"gone: {told}"))
    return [*said, ("platform", "as the platform says of the node itself")] if said else []


def _usual(known: ModelMemory, at: float, settings: PoolEvidenceSettings) -> float | None:
    """Return the usual load, once it was watched for half the time in which it follows a change; else None."""
    if known.usual_from is None or at - known.usual_from < settings.usual_half_life_s / 2.0:
        return None
    return known.usual_per_s


def _surge(fleet: FleetState, pool: PoolState, usual: float | None) -> float:
    demand = fleet.demand.get(pool.key.model)
    if demand is None or not usual:
        return math.nan
    return demand.requests_per_s / usual


def noted(before: Mapping[str, tuple[float, ...]], seen: Collection[str], at: float) -> dict[str, tuple[float, ...]]:
    """Return the instants of each sign of late, this look's among them."""
    kept = {name: recent for name, times in before.items() if (recent := tuple(t for t in times if at - t <= AFTER_S))}
    for name in seen:
        kept[name] = (*kept.get(name, ()), at)
    return kept


def _learned(
    known: ModelMemory, fleet: FleetState, model: str, settings: PoolEvidenceSettings, *, wrong: bool
) -> ModelMemory:
    """Return what is usual, this look learned unless something is wrong."""
    demand = fleet.demand.get(model)
    if demand is None or wrong:
        return known if known.usual_at is None else replace(known, usual_at=fleet.at)
    if known.usual_per_s is None or known.usual_at is None:
        return replace(known, usual_per_s=round(demand.requests_per_s, 6), usual_at=fleet.at, usual_from=fleet.at)
    weight = 0.5 ** (max(0.0, fleet.at - known.usual_at) / settings.usual_half_life_s)
    usual = known.usual_per_s * weight + demand.requests_per_s * (1.0 - weight)
    return replace(known, usual_per_s=round(usual, 6), usual_at=fleet.at)
