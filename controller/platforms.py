"""How is the platform opened that settings name: which adapters stand behind its ports, and who closes them?"""

from __future__ import annotations

import socket
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass

from controller.adapters.kube.changes import Fence, unfenced
from controller.adapters.kube.member_settings import ClustersSettings
from controller.adapters.kube.settings import KubernetesSettings
from controller.adapters.live_platform import LivePlatform, PlatformSettings
from controller.adapters.system_clock import SystemClock
from controller.platform_settings import AnyPlatform
from controller.ports import Cluster, Router, Witness


def nothing_waits(_: float) -> None:
    """Send nothing: nothing waits to be told."""


@dataclass(frozen=True, slots=True)
class Platform:
    """Where replicas live and traffic is shared out; ``close`` gives up the connections.

    Attributes:
        flush: Sends, for at most so many seconds, what ``witness`` still has to tell; no tick follows.
    """

    cluster: Cluster
    router: Router
    close: Callable[[], None]
    witness: Witness | None = None
    flush: Callable[[float], None] = nothing_waits


def nobody() -> bool:
    """Nothing keeps us from telling."""
    return False


def open_platform(named: AnyPlatform, fence: Fence = unfenced, silenced: Callable[[], bool] = nobody) -> Platform:
    """Return the platform, watched from now on where it is one that is watched.

    Every write asks ``fence`` first; nothing is told of ticks while ``silenced`` says so, or cannot.

    Raises:
        ObservationError: If it cannot be told how a cluster is reached. One that does not answer is looked for on.
    """
    if isinstance(named, PlatformSettings):
        live = LivePlatform(named)
        return Platform(live, live, live.close)
    if isinstance(named, ClustersSettings):
        return _clusters(named, fence, silenced)
    return _kubernetes(named, fence, silenced)


def _kubernetes(named: KubernetesSettings, fence: Fence, silenced: Callable[[], bool]) -> Platform:
    from numpy.random import default_rng

    from controller.adapters.kube.cluster_writes import KubernetesCluster
    from controller.adapters.kube.events import KubernetesEvents
    from controller.adapters.kube.router import KubernetesRouter

    clock, rng = SystemClock(), default_rng()
    with ExitStack() as opened:
        cluster = KubernetesCluster(named, clock.elapsed, clock.now, rng, fence)
        opened.callback(cluster.close)
        router = KubernetesRouter(named, clock.elapsed, clock.now, rng, fence)
        opened.callback(router.close)
        events = KubernetesEvents(named, cluster.view, clock.elapsed, socket.gethostname(), silenced)
        cluster.start()
        router.start()
        events.start()
        opened.callback(events.close)
        return Platform(cluster, router, opened.pop_all().close, events, events.flush)


def _clusters(named: ClustersSettings, fence: Fence, silenced: Callable[[], bool]) -> Platform:
    from numpy.random import default_rng

    from controller.adapters.kube.cluster_writes import KubernetesCluster
    from controller.adapters.kube.member_events import MemberEvents
    from controller.adapters.kube.member_routers import MemberRouters
    from controller.adapters.kube.members import MemberClusters
    from controller.adapters.kube.router import KubernetesRouter

    clock, rng = SystemClock(), default_rng()
    with ExitStack() as opened:
        clusters, routers = {}, {}
        for name, member in named.members.items():
            clusters[name] = KubernetesCluster(member, clock.elapsed, clock.now, rng.spawn(1)[0], fence)
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
        shares = MemberRouters(routers, named.router_of)
        return Platform(together, shares, opened.pop_all().close, events, events.flush)
