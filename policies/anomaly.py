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
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import compress

import numpy as np
from pydantic import Field

from policies.answer_counts import rounded
from policies.burn import BurnSettings
from policies.canary_evidence import CanarySettings
from policies.decisions import Anomaly
from policies.failing import failing
from policies.failing_settings import FailingSettings
from policies.fleet import FleetState, Phase, PoolState
from policies.latency_residual import LatencyResidualSettings
from policies.lead_time import LeadTime
from policies.load_residual import LoadResidualSettings
from policies.memory import ReplicaMemory
from policies.pool_evidence import PoolEvidenceSettings
from policies.progress import exporter_stuck_s, remembered, stood_s
from policies.rollouts import RolloutSettings
from policies.roster import Bools, Floats
from policies.stragglers import SlowSettings, slower
from policies.watched import ANSWER_ROW, ROW, WatchedReplicas


class AnomalySettings(SlowSettings):
    """When evidence counts."""

    frozen_after_s: float = Field(
        40.0,
        gt=0,
        description="Time without an engine step, in seconds, while requests are known to be inside, after which a "
        "replica looks hung. More than two intervals of 15 s: one late scrape is not enough. Where one step may take "
        "longer, by the engine profile and the prompts that come, so does this.",
    )
    max_metrics_age_s: float = Field(
        60.0, gt=0, description="Older metrics are no evidence at all: absent is not the same as stuck."
    )
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
    pools: PoolEvidenceSettings = Field(
        default_factory=PoolEvidenceSettings, description="When figures of a whole pool are a sign of trouble."
    )
    rollouts: RolloutSettings = Field(
        default_factory=RolloutSettings, description="When failures are put down to a revision, to starts or requests."
    )
    burn: BurnSettings = Field(default_factory=BurnSettings, description="When error budgets burn too fast.")
    canary: CanarySettings = Field(
        default_factory=CanarySettings, description="When idle replicas are asked for one token."
    )
    load: LoadResidualSettings = Field(
        default_factory=LoadResidualSettings, description="When load is not what was forecast."
    )
    latency: LatencyResidualSettings = Field(
        default_factory=LatencyResidualSettings, description="When a pool is slower than its load explains."
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
    patience_s: Mapping[str, float] | None = None,
    one_prompt_s: Mapping[str, float] | None = None,
) -> Watch:
    """Return anomalies of every replica, and memory of those that exist or were seen ``keep_vanished_s`` ago.

    ``patience_s`` says, by pool key, how long engines may stand still that are well; else ``frozen_after_s`` holds.
    ``one_prompt_s`` says, the same way, what one prompt adds to the TPOT of others.
    """
    allowed_s = _allowed_s(fleet, patience_s or {}, settings)
    seen, told = remembered(fleet, memory, settings.failing)
    newest = fleet.at - seen.of_row("observed_at") <= settings.max_metrics_age_s
    seen = seen.with_row("covered", _covered(seen.of_row("covered"), newest))
    heard_at, _ = fleet.gateway_heard_at
    stood = stood_s(seen, fleet.at, heard_at, settings.failing.long_half_life_s)
    frozen, slow = _suspected_frozen(fleet, seen, newest, allowed_s, stood), told.of("tpot_mean_s")
    slow = np.where(told.fresh(fleet.at, settings.max_metrics_age_s) & np.isfinite(slow), slow, np.nan)
    recent = fleet.at - seen.of_row("tpot_at") <= settings.max_metrics_age_s
    pace = np.stack((slow, np.where(recent, seen.of_row("tpot_s"), np.nan)))
    found: list[Anomaly] = []
    looked: dict[str, ReplicaMemory] = {}
    first = 0
    for pool in fleet.pools:
        part = slice(first, first + len(pool.roster))
        found += _platform(fleet.at, pool, lead_times[str(pool.key)], settings)
        if frozen[part].any():
            found += _frozen(fleet.at, pool, seen, part, newest, float(allowed_s[part][0]), stood)
        prompt_s = (one_prompt_s or {}).get(str(pool.key), 0.0)
        evidence, changed = slower(fleet.at, pool, seen, memory, pace[:, part], settings, prompt_s)
        found += evidence
        looked.update(changed)
        first = part.stop
    found += _unscraped(fleet, seen, newest, settings)
    found += _begun_anew(fleet, WatchedReplicas.of(memory), seen)
    seen = seen.changed(looked)
    failed, changed = failing(fleet, seen, settings.failing)
    found += failed
    seen = seen.changed(changed)
    fresh = frozenset(compress(seen.names, newest.tolist()))
    gone = _vanished(fleet.at, memory, seen.names, settings.keep_vanished_s)
    return Watch(tuple(found), seen.followed_by(gone), fresh)


def _covered(before: Floats, newest: Bools) -> Floats:
    """Return ``float64[N]``, the share of the looks of late at which there were counters: the last five weigh most."""
    now = newest.astype(np.float64)
    return rounded(np.where(np.isnan(before), now, 0.8 * before + 0.2 * now))


def _vanished(
    at: float, memory: Mapping[str, ReplicaMemory], present: tuple[str, ...], keep_s: float
) -> WatchedReplicas:
    """Return the memory of replicas that are not there, and were seen at most ``keep_s`` ago."""
    known = WatchedReplicas.of(memory)
    if known.names == present:
        return _NOBODY
    there = set(present)
    recent = (at - known.of_row("observed_at") <= keep_s).tolist()
    return known.at([place for place, name in enumerate(known.names) if recent[place] and name not in there])


_NOBODY = WatchedReplicas()


def _platform(at: float, pool: PoolState, lead: LeadTime, settings: AnomalySettings) -> list[Anomaly]:
    found = []
    for replica in pool.roster.unsettled:
        waited_s = at - replica.since_at
        if replica.starting and replica.restarts and at - replica.requested_at <= settings.max_metrics_age_s:
            ago_s = at - replica.requested_at
            detail = (
                f"exited {ago_s:.0f} s ago and is started again by the platform, {replica.restarts} restarts so far"
            )
            found.append(Anomaly("exit", replica.id, pool.key, 1.0, replica.requested_at, detail))
        if replica.phase is Phase.FAILED:
            score = waited_s / settings.failed_after_s if settings.failed_after_s else math.inf
            detail = f"exited {waited_s:.0f} s ago, {replica.restarts} restarts so far"
            found.append(Anomaly("platform", replica.id, pool.key, score, replica.since_at, detail))
        elif at - replica.begun_at > settings.overdue_ratio * lead.p90_s:
            started_s = at - replica.begun_at
            score = started_s / (settings.overdue_ratio * lead.p90_s)
            detail = f"starting for {started_s:.0f} s, 90 % of starts take {lead.p90_s:.0f} s"
            found.append(Anomaly("platform", replica.id, pool.key, score, replica.begun_at, detail))
    return found


def _unscraped(fleet: FleetState, memory: WatchedReplicas, fresh: Bools, settings: AnomalySettings) -> list[Anomaly]:
    """A replica that answers requests and says nothing, while most of its peers do: its exporter, or the way to it."""
    found: list[Anomaly] = []
    first = 0
    for pool in fleet.pools:
        part = slice(first, first + len(pool.roster))
        first = part.stop
        settled = pool.roster.serving & (fleet.at - pool.roster.since_at > 2.0 * settings.max_metrics_age_s)
        silent = settled & ~fresh[part]
        if not np.count_nonzero(silent) or 2 * np.count_nonzero(silent) >= np.count_nonzero(settled):
            continue
        answers = memory.answers[0][:, part]
        for place in np.flatnonzero(silent).tolist():
            at = float(memory.of_row("observed_at")[part][place])
            since_at = float(pool.roster.since_at[place]) if math.isnan(at) else at
            silent_s, ended_s = fleet.at - since_at, fleet.at - float(answers[ANSWER_ROW["ended_at"]][place])
            if not ended_s <= settings.max_metrics_age_s:
                continue  # nobody sees it work either
            for family, detail in (
                ("unscraped", f"no metrics of it for {silent_s:.0f} s, most of its peers have some"),
                ("answering", f"the gateway saw it answer {ended_s:.0f} s ago"),
            ):
                score = silent_s / settings.max_metrics_age_s
                found.append(Anomaly(family, pool.roster.ids[place], pool.key, score, since_at, detail))
    return found


def _begun_anew(fleet: FleetState, before: WatchedReplicas, now: WatchedReplicas) -> list[Anomaly]:
    """Counters that fell in a life that goes on: they were reset, or are told under other labels, and nothing more."""
    earlier = before.aligned(now.names, now.lives)
    rows = [ROW["steps_total"], ROW["output_tokens_total"]]
    with np.errstate(invalid="ignore"):
        fell = (now.columns[rows] < earlier.columns[rows]).any(axis=0)
    if not np.count_nonzero(fell):
        return []
    replicas = [(pool, replica) for pool in fleet.pools for replica in pool.roster.replicas]
    found: list[Anomaly] = []
    for place in np.flatnonzero(fell).tolist():
        pool, replica = replicas[place]
        if replica.phase is Phase.READY:
            words = "its counters fell", "the platform knows of no restart"
            for family, detail in zip(("counters", "platform"), words, strict=True):
                found.append(Anomaly(family, replica.id, pool.key, 1.0, fleet.at, detail))
    return found


def _allowed_s(fleet: FleetState, patience_s: Mapping[str, float], settings: AnomalySettings) -> Floats:
    """Return ``float64[N]``, for how long each may stand still."""
    each = [np.full(len(p.roster), patience_s.get(str(p.key), settings.frozen_after_s)) for p in fleet.pools]
    return np.concatenate(each) if each else np.zeros(0)


def _suspected_frozen(
    fleet: FleetState, memory: WatchedReplicas, fresh: Bools, allowed_s: Floats, stood: Floats
) -> Bools:
    """Return ``bool[N]``, of whom ``_frozen`` has something to say: READY, and still for long enough."""
    still = stood >= allowed_s
    still |= exporter_stuck_s(memory) >= 2.0 * allowed_s
    still &= fresh
    if still.any():
        still &= np.concatenate([pool.roster.ready for pool in fleet.pools])
    return still


UNREACHED_S = 120.0
"""How long after the gateway last found no connection its silence says nothing of the engine."""


def _frozen(
    at: float, pool: PoolState, memory: WatchedReplicas, part: slice, fresh: Bools, allowed_s: float, stood: Floats
) -> list[Anomaly]:
    """Nothing speaks for it for a while although it has work inside; see the module on what each witness is worth.

    Only READY replicas are watched: one that drains ends by the platform's own deadline. Counters that stood still
    while answers came from the replica are the exporter's fault, and no witness until they move again. ``part`` is
    where the pool's replicas are in ``memory`` and ``fresh``.
    """
    watched = (part.start + np.flatnonzero(pool.roster.ready & fresh[part])).tolist()
    still_s, stuck = stood.tolist(), exporter_stuck_s(memory).tolist()
    moving = sum(still_s[place] < allowed_s for place in watched)
    found: list[Anomaly] = []
    for place in watched:
        replica, name = pool.roster.replicas[place - part.start], memory.names[place]
        if stuck[place] >= 2.0 * allowed_s:
            since_at, seconds = memory[name].stepped_at, stuck[place]
            evidence = [("exporter", f"its counters stand still for {seconds:.0f} s while it answers requests")]
        elif still_s[place] >= allowed_s:
            since_at, seconds = memory[name].progress_at, still_s[place]
            evidence = [("progress", f"no engine step for {seconds:.0f} s with requests inside")]
            peers = len(watched) - 1
            if peers and 2 * moving > peers:
                evidence.append(("peers", f"{moving} of {peers} peers went on meanwhile"))
            unreached_at = memory[name].unreached_at
            if unreached_at is not None and at - unreached_at <= UNREACHED_S:
                # What is inside cannot end for the gateway, whatever the engine does: it is no witness.
                detail = f"the gateway found no connection to it {at - unreached_at:.0f} s ago"
                evidence.append(("unreached", detail))
            elif (in_flight := float(pool.told.in_flight[place - part.start])) > 0:
                evidence.append(("gateway", f"the gateway waits for {in_flight:.0f} requests and saw none end"))
        else:
            continue
        score = seconds / allowed_s
        found += [Anomaly(family, replica.id, pool.key, score, since_at, detail) for family, detail in evidence]
    return found
