"""How is the platform opened that settings name: which adapters stand behind its ports, and who closes them?"""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass

from controller.adapters.kube.changes import Fence, unfenced
from controller.adapters.kube.member_settings import ClustersSettings
from controller.adapters.kube.settings import KubernetesSettings
from controller.adapters.live_platform import LivePlatform, PlatformSettings
from controller.adapters.system_clock import SystemClock
from controller.cluster_figures import ClusterFigures, no_figures
from controller.platform_settings import AnyPlatform
from controller.ports import Cluster, Router, Witness
from controller.shard_settings import WHOLE, ShardSettings, Spent


def nothing_elsewhere() -> Mapping[int, Spent]:
    """Return nothing: all that there is are the pools that are told."""
    return {}


def _nothing(_: AnyPlatform) -> None:
    """Other settings than those that it was opened under change nothing."""


def nothing_waits(_: float) -> None:
    """Send nothing: nothing waits to be told."""


@dataclass(frozen=True, slots=True)
class Platform:
    """Where replicas live and traffic is shared out; ``close`` gives up the connections.

    ``spent`` tells what is asked for elsewhere than in the pools of ``cluster``, by shard. ``adapt_to`` follows
    settings that differ in nothing but what it can stay open under, see ``kept_platform``, between two ticks.
    ``figures`` tell how its watches do, and may be asked for by any thread. ``flush`` sends, for at most so many
    seconds, what ``witness`` still has to tell; no tick follows.
    """

    cluster: Cluster
    router: Router
    close: Callable[[], None]
    witness: Witness | None = None
    spent: Callable[[], Mapping[int, Spent]] = nothing_elsewhere
    adapt_to: Callable[[AnyPlatform], None] = _nothing
    figures: Callable[[], ClusterFigures] = no_figures
    flush: Callable[[float], None] = nothing_waits


def nobody() -> bool:
    """Nothing keeps us from telling."""
    return False


def open_platform(
    named: AnyPlatform,
    fence: Fence = unfenced,
    silenced: Callable[[], bool] = nobody,
    shard: ShardSettings = WHOLE,
) -> Platform:
    """Return the platform, watched from now on where it is one that is watched.

    Every write asks ``fence`` first; nothing is told of ticks while ``silenced`` says so, or cannot. Of a cluster only
    pools of ``shard`` are told.

    Raises:
        ObservationError: If it cannot be told how a cluster is reached. One that does not answer is looked for on.
    """
    if isinstance(named, PlatformSettings):
        live = LivePlatform(named)
        return Platform(live, live, live.close)
    if isinstance(named, ClustersSettings):
        return _clusters(named, fence, silenced, shard)
    return _kubernetes(named, fence, silenced, shard)


def _kubernetes(
    named: KubernetesSettings, fence: Fence, silenced: Callable[[], bool], shard: ShardSettings
) -> Platform:
    from numpy.random import default_rng

    from controller.adapters.kube.cluster_writes import KubernetesCluster
    from controller.adapters.kube.events import KubernetesEvents
    from controller.adapters.kube.health import figures_of
    from controller.adapters.kube.router import KubernetesRouter

    clock, rng = SystemClock(), default_rng()
    with ExitStack() as opened:
        cluster = KubernetesCluster(named, clock.elapsed, clock.now, rng, fence, shard)
        opened.callback(cluster.close)
        router = KubernetesRouter(named, clock.elapsed, clock.now, rng, fence)
        opened.callback(router.close)
        events = KubernetesEvents(named, cluster.view, clock.elapsed, socket.gethostname(), silenced)
        cluster.start()
        router.start()
        events.start()
        opened.callback(events.close)

        def adapt_to(settings: AnyPlatform) -> None:
            if isinstance(settings, KubernetesSettings):
                cluster.view.name_pools(settings.pools)

        def figures() -> ClusterFigures:
            return figures_of([("", cluster.view.health()), ("", router.health())], events.counts)

        spent, close = cluster.view.spent, opened.pop_all().close
        return Platform(cluster, router, close, events, spent, adapt_to, figures, events.flush)


def _clusters(named: ClustersSettings, fence: Fence, silenced: Callable[[], bool], shard: ShardSettings) -> Platform:
    from numpy.random import default_rng

    from controller.adapters.kube.cluster_writes import KubernetesCluster
    from controller.adapters.kube.health import figures_of
    from controller.adapters.kube.member_events import MemberEvents
    from controller.adapters.kube.member_routers import MemberRouters
    from controller.adapters.kube.members import MemberClusters
    from controller.adapters.kube.router import KubernetesRouter

    clock, rng = SystemClock(), default_rng()
    with ExitStack() as opened:
        clusters, routers = {}, {}
        for name, member in named.members.items():
            clusters[name] = KubernetesCluster(member, clock.elapsed, clock.now, rng.spawn(1)[0], fence, shard)
            if member.routes:
                routers[name] = KubernetesRouter(member, clock.elapsed, clock.now, rng.spawn(1)[0], fence)
                opened.callback(routers[name].close)
        together = MemberClusters(
            clusters, clock.now, optional=named.optional, pool_prefix=named.pool_prefix, hold_s=named.hold_s
        )
        opened.callback(together.close)
        views = {name: cluster.view for name, cluster in clusters.items()}
        events = MemberEvents(named, views, together, clock.elapsed, socket.gethostname(), silenced)
        together.start()
        for router in routers.values():
            router.start()
        events.start()
        opened.callback(events.close)

        def spent() -> Mapping[int, Spent]:
            told = [cluster.view.spent() for cluster in clusters.values()]
            homes = {index for one in told for index in one}
            return {index: sum([one.get(index, Spent()) for one in told], Spent()) for index in homes}

        def figures() -> ClusterFigures:
            parts = [(name, cluster.view.health()) for name, cluster in clusters.items()]
            parts += [(name, router.health()) for name, router in routers.items()]
            return figures_of(parts, events.counts)

        shares, close = MemberRouters(routers, named.router_of), opened.pop_all().close
        return Platform(together, shares, close, events, spent, figures=figures, flush=events.flush)
