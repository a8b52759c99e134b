"""Does a cluster have what Foresail needs? Its parts are looked at one after the other; nothing is changed."""

from __future__ import annotations

from collections.abc import Sequence

from numpy.random import default_rng

from controller.adapters.kube.cluster import KubernetesView
from controller.adapters.kube.neighbours import lease_of
from controller.adapters.kube.settings import KubernetesSettings, LeasePlace
from controller.adapters.system_clock import SystemClock
from controller.doctor_access import ask_kinds, ask_rights, ask_server
from controller.doctor_examination import Examination, Examined, problem_of
from controller.doctor_findings import ClusterFindings, compare_pools, shown
from controller.doctor_pools import look_at_pools
from controller.doctor_routes import NO_ROUTE, look_at_routes
from controller.errors import ObservationError
from controller.modes import ActionClass, ModeSettings
from controller.shard_settings import WHOLE, ShardSettings
from policies.fleet import PoolKey
from policies.settings import PolicySettings


def examine_cluster(
    platform: KubernetesSettings,
    modes: ModeSettings,
    policy: PolicySettings,
    clock: SystemClock,
    *,
    alone: bool = True,
    shard: ShardSettings = WHOLE,
) -> Examined:
    """Return what there is in the cluster and what is missing; never raises for what is wrong with it.

    Of the workloads only those of ``shard`` are told, and what else is there is no matter of its. One of several
    clusters, not ``alone``, knows neither which pools there should be nor all that its routes lead to: see
    ``doctor_members``.
    """
    examined = Examined(ClusterFindings(server=""))
    try:
        view = KubernetesView(platform, clock.elapsed, default_rng(0), shard=shard)
    except ObservationError as error:
        examined.problems.append(problem_of(error))
        return examined
    try:
        examination = Examination(platform, modes, policy, clock, view, examined, shard)
        _examine(examination)
        if alone:
            look_at_routes(examination, None if examined.pools is None else [pool.key for pool in examined.pools])
    except ObservationError as error:
        examined.problems.append(problem_of(error))
    finally:
        view.close()
    if alone and examined.pools is not None:
        there, prefix = {pool.key for pool in examined.pools}, platform.prefix
        examined.problems += compare_pools({PoolKey.parse(name) for name in policy.pools}, there, prefix)
        if modes.may_act(ActionClass.TRAFFIC) and not platform.routes:
            examined.problems.append(NO_ROUTE)
    return examined


def examine_routes(
    platform: KubernetesSettings,
    modes: ModeSettings,
    policy: PolicySettings,
    clock: SystemClock,
    pools: Sequence[PoolKey] | None,
    examined: Examined,
) -> None:
    """Add to ``examined``, a member that was reached, what is wrong with its routes to all ``pools`` there are."""
    view = KubernetesView(platform, clock.elapsed, default_rng(0))
    try:
        look_at_routes(Examination(platform, modes, policy, clock, view, examined), pools)
    except ObservationError as error:
        examined.problems.append(problem_of(error))
    finally:
        view.close()


def _examine(of: Examination) -> None:
    """Go from what everything else needs to what stands alone; raises ObservationError where nothing answers."""
    ask_server(of)
    blind = ask_rights(of) | ask_kinds(of)
    if blind:
        what = f"the pools were not looked at: {', '.join(sorted(blind))} cannot be read"
        of.say(what, "add the rights, or install the kinds, that are missing; then ask again", fatal=False)
    else:
        of.told(lambda: look_at_pools(of), None)
    lease = of.platform.lease
    if lease is not None:
        of.found.lease = "; ".join([_lease(of, one) for one in dict.fromkeys((lease.of_shard(of.shard), lease))])


def _lease(of: Examination, lease: LeasePlace) -> str:
    told = of.told(lambda: lease_of(of.api, lease.namespace, lease.name), "not known")
    return f"{lease.namespace}/{lease.name}: {shown(told)}"
