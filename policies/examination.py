"""What is there to be believed of the fleet: evidence against replicas and pools, and what follows from it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from forecasting.forecast import LoadForecast
from policies.anomaly import AnomalySettings, Watch, watch
from policies.burn import Burn, burn_of, note_level
from policies.canary_evidence import hear
from policies.causes import CAUSES, COLD_START, COUNTER_RESET, EXPORTER
from policies.cohorts import cohorts
from policies.decisions import Anomaly, Diagnosis
from policies.diagnosis import diagnose
from policies.failures import with_beliefs, with_exits
from policies.fleet import FleetState, Phase, PoolKey, PoolState
from policies.gpu_faults import gpu_evidence, with_reports
from policies.grounds import grounded
from policies.healing_memory import CanaryBooks, XidMemory
from policies.latency_residual import LATENCY, look_at_latency
from policies.lead_time import LeadTime
from policies.load_residual import LOAD, LoadLook, look_at_load
from policies.memory import ModelMemory, PolicyMemory, PoolMemory
from policies.pace import paces
from policies.patience import one_prompt_s, patience_s
from policies.pool_evidence import watch_pools
from policies.residual_memory import LatencyMemory, LoadMemory
from policies.revisions import watch_revisions
from policies.rollouts import rollout_evidence
from policies.settings import PolicySettings
from policies.watched import WatchedReplicas

_HARMLESS = (COLD_START.name, COUNTER_RESET.name, EXPORTER.name)


@dataclass(frozen=True, slots=True)
class Examination:
    """What one look at the fleet gave.

    Attributes:
        watch: Of the replicas.
        anomalies: All evidence.
        diagnoses: What is believed.
        pools, models: What is remembered of each now.
        burn: How fast the error budgets of models are spent, where that is measured.
        xids: What GPUs reported of late, by node.
        canaries: What is remembered of requests for one token, with the answers that came.
        surging: Models of which far more is offered than was forecast.
    """

    watch: Watch
    anomalies: tuple[Anomaly, ...]
    diagnoses: tuple[Diagnosis, ...]
    pools: Mapping[str, PoolMemory]
    models: Mapping[str, ModelMemory]
    burn: Mapping[str, Burn]
    xids: Mapping[str, XidMemory]
    canaries: CanaryBooks
    surging: frozenset[str] = frozenset()


def examine(
    fleet: FleetState,
    memory: PolicyMemory,
    known: Mapping[str, PoolMemory],
    lead_times: Mapping[str, LeadTime],
    settings: PolicySettings,
    forecasts: Mapping[str, LoadForecast] = MappingProxyType({}),
    unlearned: Collection[str] = (),
) -> Examination:
    """Return what is believed of ``fleet``.

    Args:
        fleet: As observed.
        memory: Of earlier ticks.
        known: What is known of each pool that is listed, with the starts of this tick.
        lead_times: By pool key.
        settings: When evidence counts.
        forecasts: Of the load of each model, as of now; nothing is held against one that is missing.
        unlearned: Models whose load is not what clients want, so that nothing is learned from it.
    """
    anomaly, at = settings.anomaly, fleet.at
    patience = patience_s(fleet, settings.pools, anomaly.frozen_after_s)
    seen = watch(fleet, memory.replicas, lead_times, anomaly, patience, one_prompt_s(fleet, settings.pools))
    pools = {
        str(pool.key): with_exits(pool, known[str(pool.key)], memory.replicas, at, first_look=_unseen(pool, memory))
        for pool in fleet.pools
    }
    mine = [name for name in fleet.models if any(str(pool.key) in settings.pools for pool in fleet.pools_of(name))]
    remembered, odd = _loads(fleet, memory.models, mine, forecasts, unlearned, anomaly)
    wide = watch_pools(fleet, WatchedReplicas.of(seen.memory), pools, remembered, mine, anomaly.pools, odd)
    pools = dict(wide.pools)
    of_revisions: list[Anomaly] = []
    xids = with_reports(fleet, memory.xids)
    first, watched = 0, WatchedReplicas.of(seen.memory)
    for pool in fleet.pools:
        part = slice(first, first + len(pool.roster))
        first = part.stop
        found = cohorts(pool, watched, part)
        look = rollout_evidence(at, pool, pools[str(pool.key)], found, anomaly.rollouts, settings.healing, xids)
        of_revisions += look.anomalies
        pools[str(pool.key)] = look.memory
    heard = hear(fleet, memory.canaries, watched, anomaly.canary, anomaly.max_metrics_age_s)
    of_replicas = (*seen.anomalies, *heard.anomalies)
    evidence = [*of_replicas, *gpu_evidence(fleet, xids, of_replicas), *wide.anomalies, *of_revisions]
    evidence += _slow_pools(fleet, watched, pools, {a.pool for a in evidence}, unlearned, settings)
    evidence += [
        Anomaly(LOAD, "", pool.key, load.stray.score, load.stray.since_at, str(load), 0.0, load.stray.coverage_ratio)
        for model, load in odd.items()
        if load.stray.told
        for pool in fleet.pools_of(model)
    ]
    anomalies = grounded(fleet, evidence, watched, heard.books, xids, anomaly.max_metrics_age_s)
    diagnoses = diagnose(fleet, anomalies)
    about: dict[PoolKey, list[Diagnosis]] = {}
    for diagnosis in diagnoses:
        about.setdefault(diagnosis.pool, []).append(diagnosis)
    for pool in fleet.pools:
        name, believed = str(pool.key), about.get(pool.key, [])
        sick = {d.subject for d in believed if d.subject and d.name not in _HARMLESS}
        pools[name] = with_beliefs(pool, _served(pool, pools[name]), believed, at)
        if not pool.untold:
            pools[name] = watch_revisions(pool, pools[name], sick, at, settings.healing)
    models = dict(wide.models)
    models |= {name: note_level(models[name], fleet.service.get(name), at) for name in mine}
    burn = {
        name: spent
        for name in mine
        if (level := fleet.service.get(name))
        and (
            spent := burn_of(models[name].levels, level, settings.objective_of(name).attainment_ratio, at, anomaly.burn)
        )
    }
    surging = frozenset(model for model, load in odd.items() if load.stray.lasting and load.stray.above)
    return Examination(seen, anomalies, diagnoses, pools, models, burn, xids, heard.books, surging)


def _loads(
    fleet: FleetState,
    known: Mapping[str, ModelMemory],
    models: Collection[str],
    forecasts: Mapping[str, LoadForecast],
    unlearned: Collection[str],
    settings: AnomalySettings,
) -> tuple[Mapping[str, ModelMemory], Mapping[str, LoadLook]]:
    """Return what is remembered of each model, its load seen, and the loads that are not what was forecast."""
    learned, odd = dict(known), {}
    for model in models:
        before = known.get(model, ModelMemory())
        demand = fleet.demand.get(model)
        load, found = look_at_load(
            before.load or LoadMemory(),
            fleet.at,
            math.nan if demand is None else demand.requests_per_s,
            forecasts.get(model),
            settings.load,
            learning=model not in unlearned,
        )
        learned[model] = replace(before, load=load)
        if found is not None:
            odd[model] = found
    return learned, odd


def _slow_pools(
    fleet: FleetState,
    watched: WatchedReplicas,
    pools: dict[str, PoolMemory],
    troubled: Collection[PoolKey],
    unlearned: Collection[str],
    settings: PolicySettings,
) -> list[Anomaly]:
    """Return evidence against pools that are slower than their load explains, and put down in ``pools`` what it is.

    Where there is other evidence of a pool, ``troubled``, its pace is not learned.
    """
    found: list[Anomaly] = []
    chosen, at = settings.anomaly.latency, fleet.at
    profiles = {key: pool.profile for key, pool in settings.pools.items()}
    there = sum(len(pool.roster) for pool in fleet.pools)
    prefilled = watched.of_row("prompt_tokens_per_s")[:there]  # behind them are those that have vanished
    for pool, pace in zip(fleet.pools, paces(at, fleet.pools, prefilled, profiles, chosen.max_age_s), strict=True):
        name = str(pool.key)
        if name not in profiles:
            continue
        learning = pool.key not in troubled and pool.key.model not in unlearned
        before = pools[name].latency or LatencyMemory()
        after, slow = look_at_latency(before, at, pace, chosen, learning=learning)
        pools[name] = replace(pools[name], latency=after)
        if slow is not None and slow.stray.above and slow.stray.told:
            seen_ratio = min(slow.replicas / slow.serving, slow.stray.coverage_ratio)
            evidence = Anomaly(LATENCY, "", pool.key, slow.stray.score, slow.stray.since_at, str(slow))
            found.append(replace(evidence, coverage_ratio=seen_ratio))
    return found


def room_elsewhere(fleet: FleetState, diagnoses: tuple[Diagnosis, ...]) -> Mapping[PoolKey, bool]:
    """Return of each pool whether another one of its stage serves and nothing is wrong with that as a whole."""
    wrong = {d.pool for d in diagnoses if not d.subject and CAUSES[d.name].gravity >= _GRAVE}
    sound = {p.key for p in fleet.pools if p.key not in wrong and p.roster.serving_count}
    per_stage = Counter(key.stage for key in sound)
    return {pool.key: per_stage[pool.key.stage] > (pool.key in sound) for pool in fleet.pools}


_GRAVE = 6
"""From this gravity on, a pool is no place to send more to."""


def _unseen(pool: PoolState, memory: PolicyMemory) -> bool:
    before = memory.pools.get(str(pool.key))
    return before is None or before.listed_at is None


def _served(pool: PoolState, known: PoolMemory) -> PoolMemory:
    newest = max((r.since_at for r in pool.roster.replicas if r.phase is Phase.READY), default=None)
    if newest is None or (known.served_at is not None and newest <= known.served_at):
        return known
    return replace(known, served_at=newest)
