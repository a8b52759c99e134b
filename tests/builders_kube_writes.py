"""A labelled workload on a cluster with controllers and kubelets, and a ``KubernetesCluster`` that acts on it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from controller.adapters.kube.changes import Fence, unfenced
from controller.adapters.kube.cluster_writes import KubernetesCluster
from controller.adapters.kube.kinds import KINDS
from controller.adapters.system_clock import SystemClock
from policies.fleet import PoolKey, PoolState
from policies.replica import ReplicaState
from simulations.clock import VirtualClock
from simulations.kubernetes_api.access import Rule, Subject
from simulations.kubernetes_api.running import RunningApi, running_api
from tests.builders_kube import T0, container_json, template_json
from tests.builders_kube_api import MERGE, Fleet, Json, caught_up, settings_for

KEY = PoolKey("llama", "llama")
LABEL = "foresail.dev/serving"
COST = "controller.kubernetes.io/pod-deletion-cost"
ALL_KINDS = ("Deployment", "StatefulSet", "LeaderWorkerSet", "Rollout")
_GROUPS = {
    "LeaderWorkerSet": "leaderworkerset.x-k8s.io/v1",
    "Rollout": "argoproj.io/v1alpha1",
}


class KubeWorld:
    """One workload ``prod/llama`` of a kind. Time passes, and controllers step, only when told to."""

    def __init__(self, api: RunningApi, cluster: KubernetesCluster, clock: VirtualClock, kind: str) -> None:
        self.api, self.cluster, self.clock, self.kind = api, cluster, clock, kind
        self._group = _GROUPS.get(kind, "apps/v1")
        self.resource = KINDS[kind]
        self.path = f"/apis/{self._group}/namespaces/prod/{kind.lower()}s"

    def create(self, replicas: int, labels: dict[str, str] | None = None, **spec: Any) -> None:
        """Write the workload; what it selects is also behind a Service."""
        of_kind: dict[str, Json] = {
            "StatefulSet": {"serviceName": "llama"},
            "LeaderWorkerSet": {"leaderWorkerTemplate": {"size": 2, "workerTemplate": a_template("good:1")}},
            "Rollout": {"strategy": {"canary": {"steps": [{"setWeight": 50}, {"pause": {}}]}}},
        }
        body = {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": "llama"}},
            "template": a_template("good:1"),
            **of_kind.get(self.kind, {}),
            **spec,
        }
        metadata = {"name": "llama", "labels": {"foresail.dev/model": "llama"} if labels is None else labels}
        told = {"apiVersion": self._group, "kind": self.kind, "metadata": metadata, "spec": body}
        self.api.call("POST", self.path, told)
        service = {"selector": {"app": "llama", LABEL: "true"}, "ports": [{"port": 80}]}
        whole = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "llama"}, "spec": service}
        self.api.call("POST", "/api/v1/namespaces/prod/services", whole)

    def rest(self, after_s: float = 0.0) -> PoolState:
        """Let the cluster come to rest ``after_s`` from now, and return the pool as it is seen then."""
        self.clock.advance_to(self.clock.now() + after_s)
        self.api.settle()
        return self.pool()

    def pool(self) -> PoolState:
        """Return the pool as the cache shows all that has happened."""
        self.caught_up()
        (pool,) = self.cluster.pools()
        return pool

    def caught_up(self) -> None:
        assert caught_up(self.api, chain.from_iterable(self.cluster.view.reflectors.values()))

    def replicas(self) -> dict[str, ReplicaState]:
        return {replica.id: replica for replica in self.pool().replicas}

    def workload(self) -> Json:
        return self.api.call("GET", f"{self.path}/llama")

    def change(self, body: Json) -> Json:
        """Change the workload as somebody else does."""
        return self.api.call("PATCH", f"{self.path}/llama", body, MERGE)

    def roll_out(self, image: str) -> None:
        whole = {"leaderWorkerTemplate": {"workerTemplate": a_template(image)}}
        self.change({"spec": whole if self.kind == "LeaderWorkerSet" else {"template": a_template(image)}})

    def pods(self) -> dict[str, Json]:
        told = self.api.call("GET", "/api/v1/namespaces/prod/pods")
        return {pod["metadata"]["name"]: pod for pod in told["items"]}

    def change_pod(self, name: str, body: Json, sub: str = "") -> None:
        self.api.call("PATCH", f"/api/v1/namespaces/prod/pods/{name}{sub}", body, MERGE)

    def behind_service(self) -> set[str]:
        """Return the pods that get new requests."""
        self.api.settle()
        (told,) = self.api.call("GET", "/apis/discovery.k8s.io/v1/namespaces/prod/endpointslices")["items"]
        return {one["targetRef"]["name"] for one in told["endpoints"] if one["conditions"]["ready"]}

    def budget(self, name: str = "llama", **spec: Any) -> None:
        body = {
            "apiVersion": "policy/v1",
            "kind": "PodDisruptionBudget",
            "metadata": {"name": name},
            "spec": {"selector": {"matchLabels": {"app": "llama"}}, **spec},
        }
        self.api.call("POST", "/apis/policy/v1/namespaces/prod/poddisruptionbudgets", body)
        self.api.settle()


def a_template(image: str, gpus: int = 4, **spec: Any) -> Json:
    labels = {"app": "llama", LABEL: "true"}
    return template_json({**container_json(gpus=gpus, ports=(("http", 8000),)), "image": image}, labels=labels, **spec)


@contextmanager
def a_kube_world(
    folder: Path,
    kind: str = "Deployment",
    replicas: int = 3,
    *,
    nodes: int = 4,
    start_s: float = 0.0,
    fence: Fence = unfenced,
    spec: Json | None = None,
    nodes_read: bool = False,
    made_as: type[KubernetesCluster] = KubernetesCluster,
    rules: tuple[Rule, ...] = (),
    **settings: Any,
) -> Iterator[KubeWorld]:
    """Run a cluster whose workload has come to rest, and what acts on it: with these rights, or else with all."""
    clock = VirtualClock(T0)
    with running_api(clock=clock, bookmark_every_s=0.05) as api:
        Fleet(api)
        api.add_nodes(nodes)
        api.kubelet.start_s = start_s
        if rules:
            api.grant("foresail", Subject("foresail", rules))
            settings["known_as"] = "foresail"
        chosen = settings_for(api, folder, **{"kinds": ALL_KINDS, "nodes": nodes_read, **settings})
        elapsed = SystemClock().elapsed
        cluster = made_as(chosen, elapsed, clock.now, np.random.default_rng(3), fence)
        world = KubeWorld(api, cluster, clock, kind)
        world.create(replicas, **(spec or {}))
        api.settle()
        clock.advance_to(clock.now() + start_s)
        api.settle()
        cluster.start()
        try:
            yield world
        finally:
            cluster.close()
