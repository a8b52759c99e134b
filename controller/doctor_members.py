"""Do several clusters have what one fleet needs? Each is looked at by itself, their pools and routes together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from controller.adapters.kube.member_settings import ClustersSettings
from controller.adapters.system_clock import SystemClock
from controller.doctor_cluster import examine_cluster, examine_routes
from controller.doctor_findings import Findings, compare_pools
from controller.doctor_routes import NO_ROUTE
from controller.modes import ActionClass
from controller.settings import Settings
from policies.fleet import PoolKey, PoolState


def examine_members(platform: ClustersSettings, settings: Settings, findings: Findings) -> Sequence[PoolState] | None:
    """Add what is wrong with the clusters; return their pools, None where one of them does not tell."""
    clock, modes, policy = SystemClock(), settings.modes, settings.policy
    found = {
        name: examine_cluster(member, modes, policy, clock, alone=False, shard=settings.daemon.shard)
        for name, member in platform.members.items()
    }
    pools: list[PoolState] = []
    for name, examined in found.items():
        for pool in examined.pools or ():
            key = replace(pool.key, pool=f"{name}.{pool.key.pool}") if platform.pool_prefix else pool.key
            pools.append(replace(pool, key=key))
    known = all(examined.pools is not None for examined in found.values())
    for name, member in platform.members.items():
        if known and member.routes:
            examine_routes(member, modes, policy, clock, [pool.key for pool in pools], found[name])
    for name, examined in found.items():
        findings.members[name] = examined.cluster
        findings.problems += [replace(problem, what=f"{name}: {problem.what}") for problem in examined.problems]
    if modes.may_act(ActionClass.TRAFFIC) and not platform.router_of:
        findings.problems.append(NO_ROUTE)
    if not known:
        return None
    managed = {PoolKey.parse(name) for name in policy.pools}
    prefix = next(iter(platform.members.values())).prefix
    findings.problems += compare_pools(managed, {pool.key for pool in pools}, prefix)
    return pools
