"""When has the cluster come to rest?

All controllers step in one fixed order, again and again, until a whole round has changed nothing.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial

from controller.ports import Clock
from simulations.kubernetes_api.api import Api
from simulations.kubernetes_api.controllers.budgets import Budgets
from simulations.kubernetes_api.controllers.definitions import Definitions
from simulations.kubernetes_api.controllers.deployments import Deployments
from simulations.kubernetes_api.controllers.endpoints import Endpoints
from simulations.kubernetes_api.controllers.garbage import Garbage
from simulations.kubernetes_api.controllers.gateways import Gateways
from simulations.kubernetes_api.controllers.hands import StoreHands
from simulations.kubernetes_api.controllers.kubelet import Kubelet
from simulations.kubernetes_api.controllers.leader_worker_sets import LeaderWorkerSets
from simulations.kubernetes_api.controllers.replica_sets import ReplicaSets
from simulations.kubernetes_api.controllers.rollouts import Rollouts
from simulations.kubernetes_api.controllers.stateful_sets import StatefulSets
from simulations.kubernetes_api.kinds import HTTP_ROUTE, LEADER_WORKER_SET, ROLLOUT, Catalogue, Kind

MOST_ROUNDS = 1000


class Controllers:
    """Everything that runs in a cluster beside its API server; stepped, or kept running by a thread.

    Args:
        api: The server that they work on.
        clock: Of their deadlines and start times.
    """

    def __init__(self, api: Api, clock: Clock) -> None:
        hands = StoreHands(api.writer, "kube-controller-manager")
        self.kubelet = Kubelet(StoreHands(api.writer, "kubelet"), clock)
        self.gateways = Gateways(StoreHands(api.writer, "gateway"), clock)
        self._store = api.store
        self._lock = threading.Lock()
        optional: tuple[tuple[Kind, Callable[[], None]], ...] = (
            (LEADER_WORKER_SET, LeaderWorkerSets(hands).step),
            (HTTP_ROUTE, self.gateways.step),
            (ROLLOUT, Rollouts(hands, clock).step),
        )
        self._steps: list[Callable[[], None]] = [
            Definitions(StoreHands(api.writer, "kube-apiserver"), api.catalogue, clock).step,
            Deployments(hands, clock).step,
            *[partial(_where_served, api.catalogue, kind, step) for kind, step in optional],
            ReplicaSets(hands, clock).step,
            StatefulSets(hands).step,
            self.kubelet.step,
            Endpoints(hands).step,
            Budgets(hands, clock).step,
            Garbage(hands, api.catalogue).step,
        ]

    def step(self) -> bool:
        """Let every controller take one step; return whether anything changed."""
        with self._lock:
            before = self._store.version
            for step in self._steps:
                with self._store.changed:
                    step()
            return self._store.version != before

    def settle(self) -> int:
        """Step until nothing changes; return the number of rounds.

        Raises:
            RuntimeError: If there is no end to it.
        """
        for rounds in range(1, MOST_ROUNDS + 1):
            if not self.step():
                return rounds
        raise RuntimeError(f"the cluster has not come to rest in {MOST_ROUNDS} rounds")

    def run(self, every_s: float, ended: threading.Event) -> None:
        """Step every so many seconds until ``ended``."""
        while not ended.wait(every_s):
            self.step()


def _where_served(catalogue: Catalogue, kind: Kind, step: Callable[[], None]) -> None:
    """Let the controller of a custom kind step where that is installed."""
    if kind in catalogue.kinds:
        step()
