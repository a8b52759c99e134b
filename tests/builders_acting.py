"""Foresail as it acts on the namespace of a test run, and what it sees there."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np

from controller.adapters.kube.changes import Fence, unfenced
from controller.adapters.kube.cluster_writes import KubernetesCluster
from controller.adapters.kube.settings import KubernetesSettings
from controller.adapters.system_clock import SystemClock
from controller.errors import StalePlan
from policies.fleet import PoolKey, PoolState
from policies.replica import Phase
from tests.builders_any_cluster import Place

T = TypeVar("T")

_MOST_PLANS = 20


class Acting:
    """A ``KubernetesCluster`` of a namespace. Workloads in it are pools of their own name by the label of a model."""

    def __init__(self, cluster: KubernetesCluster, place: Place) -> None:
        self.cluster, self.place = cluster, place

    def pool(self, model: str) -> PoolState | None:
        """Return the pool of a model, as the cache has it now."""
        return next((pool for pool in self.cluster.pools() if pool.key.model == model), None)

    def seen(self, model: str, found: Callable[[PoolState], T]) -> T:
        """Return what is found in the pool of a model as soon as it is true."""

        def look() -> T | None:
            pool = self.pool(model)
            return found(pool) if pool else None

        what = self.place.hands.until(look)
        assert what is not None
        return what

    def at_rest(self, model: str, replicas: int) -> PoolState:
        """Return a pool once its replicas are as wanted, all Ready, and its controller has nothing left to do."""

        def rested(pool: PoolState) -> PoolState | None:
            ready = [one for one in pool.replicas if one.phase is Phase.READY and one.revision == pool.revision]
            calm = len(ready) == len(pool.replicas) == pool.desired == replicas
            return pool if calm and pool.key not in self.cluster.view.behind() else None

        found = self.seen(model, rested)
        assert found is not None
        return found

    def scale(self, model: str, replicas: int, retire_first: tuple[str, ...] = ()) -> None:
        """Scale a pool as the loop does: where something changes in that moment, by a new plan."""
        for left in reversed(range(_MOST_PLANS)):
            pool = self.pool(model)
            assert pool is not None
            try:
                self.cluster.scale(pool.key, replicas, pool.version, retire_first)
            except StalePlan:
                if not left:
                    raise
            else:
                return

    def labelled(self, name: str, replicas: int, **spec: Any) -> PoolState:
        """Create a Deployment that is the pool of the model of its name, and return that once it is at rest."""
        self.place.hands.deployment(name, replicas, {"foresail.dev/model": name}, **spec)
        return self.at_rest(name, replicas)


def key_of(name: str) -> PoolKey:
    """Return the pool that a workload is that bears its own name as its model."""
    return PoolKey(name, name)


@contextmanager
def acting_on(place: Place, fence: Fence = unfenced, **settings: Any) -> Iterator[Acting]:
    """Let Foresail watch the namespace, with further ``settings``, and act in it as far as ``fence`` lets it."""
    update = {**place.hands.settings.model_dump(), **settings}
    chosen = KubernetesSettings.model_validate(update)
    cluster = KubernetesCluster(chosen, SystemClock().elapsed, place.hours.now, np.random.default_rng(0), fence)
    cluster.start()
    try:
        yield Acting(cluster, place)
    finally:
        cluster.close()
