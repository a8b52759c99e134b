"""How much memory and time does it take to watch a large fleet on a Kubernetes API, and how long are ticks then?"""

from __future__ import annotations

import gc
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any, NamedTuple

import numpy as np
import yaml

from controller.adapters.kube.cluster import KubernetesView
from controller.adapters.kube.kinds import PODS
from controller.adapters.kube.settings import KubernetesSettings
from controller.adapters.kube.stores import Store
from controller.adapters.process_memory import rss_mb
from controller.adapters.system_clock import SystemClock
from controller.bench import SCRAPE_INTERVAL_S, core_s, ticks_of
from controller.bench_processes import next_line, pause, process_of, prometheus_binary
from controller.bench_world import ObservedFleet
from controller.errors import ForesailError
from controller.shard_settings import WHOLE, ShardSettings
from policies.fleet import NodeState, PoolState
from simulations.cluster_process import NAMESPACE

_SOME = 100
_ROUNDS = 5
_LOOKS = 100
_LONGEST_S = 120.0
_POLL_S = 0.001
_SHORTEST_S = 1e-6
_MIB = 1024.0**2
_CHANGED_IN_A_SECOND = 0.005
"""Of all pods: ticks follow at once on one another here, so that each sees some hundred of 10,000 pods changed."""


def measure_cluster(
    workloads: int,
    replicas: int,
    ticks: int,
    history_s: float,
    tell: Callable[[str], None] = lambda _: None,
    scrape_interval_s: float = SCRAPE_INTERVAL_S,
    shard: ShardSettings = WHOLE,
) -> dict[str, Any]:
    """Return the figures of ``bench tick --cluster --json``; ``tell`` is told what is going on.

    All that there is is watched and scraped; what is put together, forecast and decided is of ``shard``.

    Raises:
        BadInput: If there is no Prometheus.
        ForesailError: If a process does not come up, or the fleet is not seen.
    """
    prometheus_binary()
    with ExitStack() as stack:
        tell("starting an API server and filling it")
        cluster = stack.enter_context(_cluster(workloads, replicas))
        view = KubernetesView(cluster.settings, SystemClock().elapsed, np.random.default_rng(0), shard=shard)
        stack.callback(view.close)
        tell("listing and watching the fleet")
        figures = _figures(view, cluster, workloads, replicas, shard)
        everywhere = None if shard.whole else _pools_everywhere(cluster)
        rate = _CHANGED_IN_A_SECOND * replicas
        cluster.ask(f"churn {rate}")
        of_ticks = ticks_of(_WatchedFleet(view), ticks, history_s, tell, scrape_interval_s, everywhere, shard)
    core = figures.pop("core") | of_ticks.pop("core")
    asked = {"workloads": workloads, "replicas": replicas, "shards": shard.of}
    return {**asked, **figures, "changes_per_s": rate, **of_ticks, "core": core}


def _pools_everywhere(cluster: _Cluster) -> tuple[PoolState, ...]:
    """Return the pools of all shards: somebody scrapes them."""
    view = KubernetesView(cluster.settings, SystemClock().elapsed, np.random.default_rng(1))
    try:
        _list(view)
        return view.pools()
    finally:
        view.close()


def _figures(
    view: KubernetesView, cluster: _Cluster, workloads: int, replicas: int, shard: ShardSettings
) -> dict[str, Any]:
    """Return what the cache alone takes: as time passes, and the same as ``core``, in seconds that one core worked."""
    before_mb = rss_mb()
    listed = _took(lambda: _list(view))
    after_mb = rss_mb()
    first = _took(view.pools)
    seen = _check(view, workloads, replicas, shard)
    some = min(_SOME, workloads)
    spans = {
        "list_s": listed,
        "pools_first_s": first,
        "pools_unchanged_s": _median([_took(view.pools) for _ in range(_LOOKS)]),
        "pools_changed_s": _median([_after_changes(view, cluster, f"{some} 1") for _ in range(_ROUNDS)]),
        "pools_all_changed_s": _median([_after_changes(view, cluster, f"{workloads} 1") for _ in range(_ROUNDS)]),
    }
    event = _median([_per_event(view, cluster, workloads) for _ in range(_ROUNDS)])
    return {
        **({} if shard.whole else {"of_shard": seen}),
        **{name: round(span.wall_s, 6) for name, span in spans.items()},
        "events_per_s": round(1.0 / event.wall_s),
        "rss_before_list_mb": round(before_mb, 1),
        "rss_after_list_mb": round(after_mb, 1),
        "cache_mb": round(_size_mb([dict(store.snapshot(_LONGEST_S).objects) for store in _stores(view)]), 2),
        "core": {
            **{name: round(span.core_s, 6) for name, span in spans.items()},
            "events_per_s": round(1.0 / max(event.core_s, _SHORTEST_S)),
        },
    }


def _list(view: KubernetesView) -> None:
    view.start()
    for store in _stores(view):
        if not store.wait_until_listed(_LONGEST_S):
            raise ForesailError(f"{store.title} were not listed in {_LONGEST_S:g} s", "bench tick")


def _check(view: KubernetesView, workloads: int, replicas: int, shard: ShardSettings) -> dict[str, int]:
    """Return how much of the fleet is seen; raises ForesailError where that is not all that the shard has."""
    pools = view.pools()
    seen = sum(len(pool.replicas) for pool in pools)
    if shard.whole and (len(pools), seen) != (workloads, replicas):
        raise ForesailError(f"{len(pools):,} workloads with {seen:,} replicas are seen of {replicas:,}", "bench tick")
    if not pools:
        raise ForesailError(f"{shard.title} has none of {workloads:,} workloads", "bench tick", "use fewer --shards")
    return {"workloads": len(pools), "replicas": seen}


def _after_changes(view: KubernetesView, cluster: _Cluster, what: str) -> _Span:
    """Return what pools take once the cache has heard of changes."""
    _, last = cluster.touch(what)
    _reach(_pods(view), last)
    return _took(view.pools)


def _per_event(view: KubernetesView, cluster: _Cluster, workloads: int) -> _Span:
    """Return what a change takes where very many come at once, from when the first ones are there."""
    pods = _pods(view)
    first, last = cluster.touch(f"{workloads} {sys.maxsize}")
    began = _Span.now()
    _reach(pods, first)
    reached = int(pods.resource_version)
    if reached < last:  # else they were so few that they came at once
        began, first = _Span.now(), reached + 1
    _reach(pods, last)
    return began.until_now(last - first + 1)


def _reach(store: Store[Any], version: int) -> None:
    """Wait until a store has got that far; asking now and then disturbs it less than being told of every event."""
    clock = SystemClock()
    end_s = clock.elapsed() + _LONGEST_S
    while int(store.resource_version) < version:
        if clock.elapsed() > end_s:
            raise ForesailError(f"{store.title}: changes did not come in {_LONGEST_S:g} s", "bench tick")
        pause(_POLL_S)


def _pods(view: KubernetesView) -> Store[Any]:
    return view.reflectors[PODS][0].store


def _stores(view: KubernetesView) -> list[Store[Any]]:
    return [reflector.store for several in view.reflectors.values() for reflector in several]


class _Span(NamedTuple):
    """Time that has passed, and time that one core has worked for this process meanwhile."""

    wall_s: float
    core_s: float

    @classmethod
    def now(cls) -> _Span:
        return cls(SystemClock().elapsed(), core_s())

    def until_now(self, parts: int = 1) -> _Span:
        """Return what has passed since this instant, for each of so many parts."""
        now = _Span.now()
        return _Span((now.wall_s - self.wall_s) / parts, (now.core_s - self.core_s) / parts)


def _took(what: Callable[[], object]) -> _Span:
    began = _Span.now()
    what()
    return began.until_now()


def _median(spans: list[_Span]) -> _Span:
    wall_s, core_s = np.median(np.array(spans), axis=0)
    return _Span(float(wall_s), float(core_s))


def _size_mb(root: object) -> float:
    """Return the bytes of all objects that can be reached from ``root``, in MiB; shared ones count once."""
    seen, rest, size = {id(root)}, [root], 0
    while rest:
        thing = rest.pop()
        size += sys.getsizeof(thing)
        for other in gc.get_referents(thing):
            if id(other) not in seen and not isinstance(other, type | ModuleType | FunctionType):
                seen.add(id(other))
                rest.append(other)
    return size / _MIB


class _WatchedFleet(ObservedFleet):
    """A fleet whose pools and nodes are those of a cluster; its routes are values in memory."""

    def __init__(self, view: KubernetesView) -> None:
        super().__init__(view.pools())
        self._view = view

    def pools(self) -> tuple[PoolState, ...]:
        """Return what the cache has."""
        return self._view.pools()

    def nodes(self) -> Mapping[str, NodeState]:
        """Return what the cache has."""
        return self._view.nodes()


class _Cluster:
    """The process of the API server, and how it is reached."""

    def __init__(self, ask: Callable[[str], str], settings: KubernetesSettings) -> None:
        self.ask, self.settings = ask, settings

    def touch(self, what: str) -> tuple[int, int]:
        """Change pods; return the resourceVersions of the first and the last of these changes."""
        first, last = self.ask(f"touch {what}").split()
        return int(first), int(last)


@contextmanager
def _cluster(workloads: int, replicas: int) -> Iterator[_Cluster]:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="foresail-bench-")))
        log = folder / "cluster.log"
        command = [sys.executable, "-m", "simulations.cluster_process", str(workloads), str(replicas)]
        process = stack.enter_context(process_of(command, log, talks=True))
        file = folder / "kubeconfig"
        file.write_text(yaml.safe_dump(yaml.safe_load(next_line(process, log))))

        def ask(line: str) -> str:
            if process.stdin:
                process.stdin.write(f"{line}\n".encode())
                process.stdin.flush()
            return next_line(process, log)

        most = max(50_000, 2 * replicas)
        yield _Cluster(
            ask,
            KubernetesSettings(
                kubeconfig=file, namespaces=(NAMESPACE,), kinds=("Deployment",), nodes=True, max_objects=most
            ),
        )
