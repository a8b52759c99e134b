"""What of the settings holds for one shard of several, and which settings can no two shards have together?

Workloads are divided, and so is everything that is said of a workload. Budgets of the whole fleet are divided exactly.
What can be neither is refused: a limit is never multiplied by the number of shards.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from controller.adapters.kube.member_settings import ClustersSettings
from controller.adapters.kube.settings import KubernetesSettings
from controller.modes import ModeSettings
from controller.platform_settings import AnyPlatform, cluster_of_lease
from controller.shard_settings import CENTS, PLACEHOLDER, Rest, ShardSettings
from policies.disagreement import Disagreement
from policies.fleet import PoolKey, Role
from policies.guardrails import GuardrailSettings
from policies.memory import PolicyMemory
from policies.settings import PolicySettings

if TYPE_CHECKING:
    from controller.settings import Settings

_ROLES = frozenset(Role)
_T = TypeVar("_T")
_Cluster = TypeVar("_Cluster", bound=KubernetesSettings)


def check_shards(settings: Settings) -> None:
    """Raise Disagreement where several shards cannot have these settings together, on their platform if they name one.

    What ScalingPolicies ask for is tried without one.
    """
    shard, platform = settings.daemon.shard, settings.platform
    if shard.whole:
        return
    several = f"daemon.shard.of is {shard.of}"
    if platform is not None and not isinstance(platform, KubernetesSettings | ClustersSettings):
        what = f"{several}, and only workloads on Kubernetes can be divided"
        raise Disagreement(("daemon", "shard", "of"), what, "set it to 1")
    if platform is not None and cluster_of_lease(platform) is None:
        what = f"{several}, and without a lease nothing keeps a change of it from giving a workload two writers"
        remedy = "name platform.lease (of several clusters, that of a member)"
        raise Disagreement(("daemon", "shard", "of"), what, remedy)
    for key, name in _own_places(settings):
        if PLACEHOLDER not in name:
            what = f"{several}, and all shards would share {name}"
            raise Disagreement(key, what, f"put {PLACEHOLDER} into its name ({'.'.join(key)}): each shard has its own")
    if settings.policy.healing.may_avoid_nodes:
        what = f"{several}, and how many nodes are avoided is a limit of the whole fleet, which no shard keeps alone"
        raise Disagreement(("policy", "healing", "may_avoid_nodes"), what, "switch it off, or set daemon.shard.of to 1")
    for key, budget in _budgets(settings.policy):
        least = min(shard.model_copy(update={"index": index}).share_of(budget) for index in range(shard.of))
        if budget and not least:
            what = f"{several}, and of {'.'.join(key)} ({budget:g}) one of them would have none"
            remedy = f"raise it to {shard.of} or more, change daemon.shard.shares, or use fewer shards"
            raise Disagreement(key, what, remedy)


def own_part(settings: Settings) -> Settings:
    """Return what of ``settings`` holds for the shard that they name; the same object where that is the whole fleet."""
    shard = settings.daemon.shard
    places = {
        "audit": settings.audit.model_copy(
            update={"url": shard.named(settings.audit.url), "archive": _named(shard, settings.audit.archive)}
        ),
        "approvals": settings.approvals.model_copy(update={"folder": _named(shard, settings.approvals.folder)}),
    }
    if shard.whole:
        return settings if _same(settings, places) else settings.model_copy(update=places)
    elsewhere = tuple(key for key in map(PoolKey.parse, settings.policy.pools) if not shard.has(key.model))
    gpus, usd = settings.policy.guardrails.gpu_budget, settings.policy.guardrails.usd_per_hour_budget
    rest = Rest(elsewhere, gpus, None if usd is None else _cents(usd))
    daemon: dict[str, object] = {"shard": shard.beside(rest)}
    if shard.index:  # models are everybody's: one shard trains and deposes them
        daemon["retrain"] = settings.daemon.retrain.model_copy(update={"command": ()})
        daemon["skill"] = settings.daemon.skill.model_copy(update={"roll_back": False})
    update = {
        **places,
        "policy": _policy(settings.policy, shard),
        "modes": _modes(settings.modes, shard),
        "daemon": settings.daemon.model_copy(update=daemon),
        "platform": _platform(settings.platform, shard),
    }
    return settings.model_copy(update=update)


def part_told(settings: Settings) -> dict[str, Any] | None:
    """Return what a shard of several has of the pools and budgets, as JSON; None where it has the whole fleet."""
    shard = settings.daemon.shard
    if shard.whole:
        return None
    budgets: dict[str, float] = {".".join(key): shard.share_of(budget) for key, budget in _budgets(settings.policy)}
    usd = settings.policy.guardrails.usd_per_hour_budget
    if usd is not None:
        budgets["policy.guardrails.usd_per_hour_budget"] = shard.share_of(_cents(usd)) / CENTS
    pools = sorted(own_part(settings).policy.pools)
    return {**shard.told(), "pools": pools, "of_pools": len(settings.policy.pools), "budgets": budgets}


def part_text(part: Mapping[str, Any]) -> str:
    """Return what ``part_told`` told, in a line for people."""
    budgets = ", ".join(f"{key} {share}" for key, share in part["budgets"].items())
    pools = f"{len(part['pools'])} of {part['of_pools']} pools"
    return f"shard {part['index']} of {part['of']} ({part['layout']}): {pools}; its part of the budgets: {budgets}"


def own_memory(memory: PolicyMemory, shard: ShardSettings) -> PolicyMemory:
    """Return what is remembered of our workloads: what another division had may be another shard's by now."""
    if shard.whole:
        return memory

    def of_pools(told: Mapping[str, _T]) -> dict[str, _T]:
        return {name: one for name, one in told.items() if shard.has(_model_in(name))}

    return replace(
        memory,
        pools=of_pools(memory.pools),
        models={model: one for model, one in memory.models.items() if shard.has(model)},
        replicas=of_pools(memory.replicas),
        actions=tuple(act for act in memory.actions if shard.has(act.model)),
        cordons=of_pools(memory.cordons),
        runs=of_pools(memory.runs),
    )


def _model_in(name: str) -> str:
    """Return the model in the key of a pool, or in the name of a replica, which is that and the id of the replica."""
    pool, _, last = name.rpartition("/")
    return PoolKey.parse(name if last in _ROLES else pool).model


def _own_places(settings: Settings) -> Iterator[tuple[tuple[str, ...], str]]:
    """Yield the keys and names of what one process alone may write."""
    yield ("audit", "url"), settings.audit.url
    if settings.audit.archive is not None:
        yield ("audit", "archive"), str(settings.audit.archive)
    if any(settings.modes.asking()):
        yield ("approvals", "folder"), str(settings.approvals.folder)


def _budgets(policy: PolicySettings) -> Iterator[tuple[tuple[str, ...], int]]:
    """Yield the keys and sizes of what the whole fleet has together."""
    guardrails = policy.guardrails
    yield ("policy", "healing", "fleet_disruption_budget"), policy.healing.fleet_disruption_budget
    if guardrails.gpu_budget is not None:
        yield ("policy", "guardrails", "gpu_budget"), guardrails.gpu_budget
    if guardrails.usd_per_hour_budget is not None:
        yield ("policy", "guardrails", "usd_per_hour_budget"), _cents(guardrails.usd_per_hour_budget)
    if policy.anomaly.canary.enabled:
        yield ("policy", "anomaly", "canary", "most_per_tick"), policy.anomaly.canary.most_per_tick


def _policy(policy: PolicySettings, shard: ShardSettings) -> PolicySettings:
    healing, canary = policy.healing, policy.anomaly.canary
    fewer = {"fleet_disruption_budget": shard.share_of(healing.fleet_disruption_budget)}
    # A share of none stands only where canaries are not sent: see check_shards.
    asked = canary.model_copy(update={"most_per_tick": max(1, shard.share_of(canary.most_per_tick))})
    return policy.model_copy(
        update={
            "pools": {key: pool for key, pool in policy.pools.items() if shard.has(PoolKey.parse(key).model)},
            "objectives": {model: one for model, one in policy.objectives.items() if shard.has(model)},
            "guardrails": _guardrails(policy.guardrails, shard),
            "healing": healing.model_copy(update=fewer),
            "anomaly": policy.anomaly.model_copy(update={"canary": asked}),
        }
    )


def _guardrails(guardrails: GuardrailSettings, shard: ShardSettings) -> GuardrailSettings:
    gpus, usd = guardrails.gpu_budget, guardrails.usd_per_hour_budget
    update = {
        "gpu_budget": None if gpus is None else shard.share_of(gpus),
        "usd_per_hour_budget": None if usd is None else shard.share_of(_cents(usd)) / CENTS,
    }
    return guardrails.model_copy(update=update)


def _cents(usd: float) -> int:
    """Return whole cents, so that the parts of a budget sum to no more than it."""
    return math.floor(usd * CENTS + 1e-6)


def _modes(modes: ModeSettings, shard: ShardSettings) -> ModeSettings:
    return modes.model_copy(update={"workloads": {m: one for m, one in modes.workloads.items() if shard.has(m)}})


def _platform(platform: AnyPlatform | None, shard: ShardSettings) -> AnyPlatform | None:
    if isinstance(platform, ClustersSettings):
        members = {name: _cluster(member, shard) for name, member in platform.members.items()}
        return platform.model_copy(update={"members": members})
    return _cluster(platform, shard) if isinstance(platform, KubernetesSettings) else platform


def _cluster(cluster: _Cluster, shard: ShardSettings) -> _Cluster:
    """Return a cluster with the routes of our models. What it names pools stays: who is a pool is told of all."""
    return cluster.model_copy(update={"routes": tuple(route for route in cluster.routes if shard.has(route.model))})


def _named(shard: ShardSettings, path: Path | None) -> Path | None:
    return None if path is None else Path(shard.named(str(path)))


def _same(settings: Settings, places: Mapping[str, object]) -> bool:
    return all(getattr(settings, name) == place for name, place in places.items())
