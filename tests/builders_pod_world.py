"""The fluid world of ``builders_world`` on the project's API server: its engines are the pods that run there.

Time is virtual for the fleet and for the cluster's controllers; requests to the API and watches are real ones, over
HTTP. After each step of time whoever watches is waited for, so that what a tick sees does not depend on the machine.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from policies.fleet import Phase, PoolKey
from simulations.kubernetes_api.running import RunningApi
from tests.builders_world import Engine, World

NAMESPACE = "prod"
SETTLE_S = 5.0
BAD_IMAGE = "vllm:bad"
Json = dict[str, Any]


@dataclass
class PodWorld(World):
    """Deployments, Services and one HTTPRoute per model, and the engines in their pods."""

    api: RunningApi = field(kw_only=True)
    apps: dict[str, PoolKey] = field(default_factory=dict)
    restarts: dict[str, int] = field(default_factory=dict)

    # Setting up

    def begin(self, *keys: PoolKey, replicas: int = 3, nodes: int = 4) -> None:
        """Create the pools of one model, each with ``replicas`` that serve, all weight on the first."""
        self.api.add_nodes(nodes)
        self.api.kubelet.start_s, self.api.kubelet.stop_s = self.lead_s, self.drain_s
        self._write("POST", "/api/v1/namespaces", {"metadata": {"name": NAMESPACE}})
        for key in keys:
            self.apps[app_of(key)], self.prices[key], self.wanted[key] = key, 2.0, replicas
            self._write("POST", place("deployments"), deployment_of(key, replicas))
        self._open_to_traffic(keys)
        self.api.settle()
        self.clock.at += self.lead_s + 1.0
        self.api.settle()
        self.clock.at += 1000.0
        self.mirror()

    def _open_to_traffic(self, keys: Sequence[PoolKey]) -> None:
        for key in keys:
            self._write("POST", place("services"), service_of(key))
        self._write("POST", place("httproutes"), route_of(keys))

    def release(self, key: PoolKey, image: str) -> None:
        """Roll another image out, as a pipeline would."""
        container = {"name": "engine", "image": image}
        patch = {"spec": {"template": {"spec": {"containers": [container]}}}}
        path = place("deployments", app_of(key))
        self.api.call("PATCH", path, patch, "application/strategic-merge-patch+json")

    # What is there

    def deployment(self, key: PoolKey) -> Json:
        return self.api.call("GET", place("deployments", app_of(key)))

    def image(self, key: PoolKey) -> str:
        """The image of the pool's template."""
        return str(self.deployment(key)["spec"]["template"]["spec"]["containers"][0]["image"])

    def events(self) -> list[Json]:
        """Foresail's Events, the oldest first."""
        found: list[Json] = self.api.call("GET", place("events"))["items"]
        ours = [event for event in found if event.get("reportingComponent") == "foresail"]
        return sorted(ours, key=lambda event: int(event["metadata"]["resourceVersion"]))

    # Time

    def _live(self) -> None:
        if self.clock.at % SETTLE_S < 1.0:
            self.api.settle()
            self.mirror()

    def mirror(self) -> None:
        """Let the engines be those of the pods that run, and the shares those of the route."""
        seen = set()
        for pod in self.api.call("GET", place("pods"))["items"]:
            key = self.apps.get(pod["metadata"]["labels"].get("app", ""))
            if key is None or not _runs(pod):
                continue
            name = pod["metadata"]["name"]
            seen.add(name)
            engine = self.engines.get(name)
            restarts = sum(one["restartCount"] for one in pod["status"].get("containerStatuses", ()))
            if engine is None or engine.restarts != restarts:
                engine = Engine(name, key, Phase.READY, self.clock.at, self.clock.at, self.lead_s, restarts)
                if pod["spec"]["containers"][0]["image"] == BAD_IMAGE:
                    engine.error_ratio = 0.6
                self.engines[name] = engine
            engine.phase = Phase.DRAINING if "deletionTimestamp" in pod["metadata"] else Phase.READY
            engine.cordoned = pod["metadata"]["labels"].get("foresail.dev/serving") != "true"
        for name in set(self.engines) - seen:
            del self.engines[name]
        self.shares = self._shares()

    def _shares(self) -> dict[PoolKey, float]:
        rule = self.api.call("GET", place("httproutes", "chat"))["spec"]["rules"][0]
        total = sum(ref["weight"] for ref in rule["backendRefs"])
        return {self.apps[ref["name"]]: ref["weight"] / total for ref in rule["backendRefs"]}

    def _write(self, method: str, path: str, body: Json) -> Json:
        return self.api.call(method, path, body)


def app_of(key: PoolKey) -> str:
    """What Deployment and Service of a pool are called."""
    return f"{key.model}-{key.pool}"


_ROOTS = {
    "horizontalpodautoscalers": "/apis/autoscaling/v2",
    "deployments": "/apis/apps/v1",
    "httproutes": "/apis/gateway.networking.k8s.io/v1",
}


def place(plural: str, name: str = "") -> str:
    """The path of an object, or of a collection, of the world's namespace."""
    root = _ROOTS.get(plural, "/api/v1")
    return "/".join(filter(None, (f"{root}/namespaces/{NAMESPACE}/{plural}", name)))


def deployment_of(key: PoolKey, replicas: int, image: str = "vllm:1") -> Json:
    name = app_of(key)
    ours = {"foresail.dev/model": key.model, "foresail.dev/pool": key.pool}
    container = {
        "name": "engine",
        "image": image,
        "ports": [{"name": "http", "containerPort": 8000}],
        "resources": {"limits": {"nvidia.com/gpu": "2"}},
    }
    template = {
        "metadata": {"labels": {"app": name, "foresail.dev/serving": "true"}},
        "spec": {"containers": [container], "terminationGracePeriodSeconds": 120},
    }
    spec = {"replicas": replicas, "selector": {"matchLabels": {"app": name}}, "template": template}
    metadata = {"name": name, "namespace": NAMESPACE, "labels": {"app": name, **ours}}
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata, "spec": spec}


def service_of(key: PoolKey) -> Json:
    name = app_of(key)
    spec = {"selector": {"app": name, "foresail.dev/serving": "true"}, "ports": [{"name": "http", "port": 8000}]}
    return {
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": NAMESPACE}, "spec": spec,
    }  # fmt: skip


def route_of(keys: Sequence[PoolKey]) -> Json:
    refs = [{"name": app_of(key), "port": 8000, "weight": 0 if number else 10_000} for number, key in enumerate(keys)]
    return {
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "HTTPRoute",
        "metadata": {"name": "chat", "namespace": NAMESPACE},
        "spec": {"parentRefs": [{"name": "edge"}], "rules": [{"backendRefs": refs}]},
    }


def _runs(pod: Json) -> bool:
    conditions = {one["type"]: one["status"] for one in pod.get("status", {}).get("conditions", ())}
    return conditions.get("Ready") == "True" or (
        "deletionTimestamp" in pod["metadata"] and bool(pod["spec"].get("nodeName"))
    )
