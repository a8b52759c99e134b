"""Routes, and what stands behind their backends, on the simulated API server."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from controller.adapters.kube.changes import Fence, unfenced
from controller.adapters.kube.router import KubernetesRouter
from controller.adapters.kube.routes import RouteKind, backends_of
from controller.adapters.system_clock import SystemClock
from controller.ports import Clock
from simulations.kubernetes_api.running import RunningApi
from tests.builders_kube_api import MERGE, settings_for

Json = dict[str, Any]
PATHS = {
    "HTTPRoute": "/apis/gateway.networking.k8s.io/v1/namespaces/prod/httproutes",
    "VirtualService": "/apis/networking.istio.io/v1/namespaces/prod/virtualservices",
}
GATEWAY = {"name": "public", "namespace": "infra"}


def http_route(weights: Mapping[str, int], name: str = "chat", **more: Any) -> Json:
    """Return an HTTPRoute: a rule with match, filter, time-out and these backends, and one that is none of ours."""
    ours = {
        "matches": [{"path": {"type": "PathPrefix", "value": "/v1"}}],
        "filters": [{"type": "RequestHeaderModifier", "requestHeaderModifier": {"remove": ["x-debug"]}}],
        "backendRefs": [{"name": name, "port": 8000, "weight": weight} for name, weight in weights.items()],
        "timeouts": {"request": "600s"},
    }
    admin = {"matches": [{"path": {"type": "Exact", "value": "/admin"}}], "backendRefs": [{"name": "admin"}]}
    spec = {"parentRefs": [GATEWAY], "hostnames": ["chat.example"], "rules": [ours, admin], **more}
    named = {"name": name, "namespace": "prod"}
    return {"apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute", "metadata": named, "spec": spec}


def virtual_service(weights: Mapping[str, int], name: str = "chat", **more: Any) -> Json:
    """Return a VirtualService with these destinations."""
    to = [{"destination": {"host": host}, "weight": weight} for host, weight in weights.items()]
    http = [{"match": [{"uri": {"prefix": "/v1"}}], "retries": {"attempts": 2}, "route": to}]
    spec = {"hosts": ["chat.example"], "gateways": ["public"], "http": http, **more}
    named = {"name": name, "namespace": "prod"}
    return {"apiVersion": "networking.istio.io/v1", "kind": "VirtualService", "metadata": named, "spec": spec}


def endpoint_slice(service: str, ready: Iterable[bool]) -> Json:
    """Return the EndpointSlice of a Service with one endpoint each, ready or not."""
    found = [{"addresses": [f"10.0.0.{place}"], "conditions": {"ready": one}} for place, one in enumerate(ready, 1)]
    named = {"name": f"{service}-1", "labels": {"kubernetes.io/service-name": service}}
    return {"metadata": named, "addressType": "IPv4", "endpoints": found, "ports": []}


class Routes:
    """Writes routes and endpoints into the namespace ``prod``, past every fault and role."""

    def __init__(self, api: RunningApi, kind: RouteKind = "HTTPRoute", name: str = "chat") -> None:
        self.api, self.kind, self.name = api, kind, name
        self.path = f"{PATHS[kind]}/{name}"

    def place(self, model: str, **backends: str) -> Json:
        """Return what the settings say of it, with the backend of each pool."""
        return {"kind": self.kind, "namespace": "prod", "name": self.name, "model": model, "backends": backends}

    def make(self, weights: Mapping[str, int], manager: str = "kubectl-create", **more: Any) -> Json:
        """Make the route, and let the gateway take it."""
        self.api.call("POST", "/api/v1/namespaces", {"metadata": {"name": "prod"}})
        made = self.api.call("POST", f"{PATHS[self.kind]}?fieldManager={manager}", self.route(weights, **more))
        self.api.settle()
        return made

    def route(self, weights: Mapping[str, int], **more: Any) -> Json:
        return (http_route if self.kind == "HTTPRoute" else virtual_service)(weights, self.name, **more)

    def now(self) -> Json:
        return self.api.call("GET", self.path)

    def weights(self) -> dict[str, int]:
        """Return the weights of the first rule."""
        return {one.name: one.weight for one in backends_of(self.kind, self.now()) if one.rule == 0}

    def edit(self, weights: Mapping[str, int], manager: str = "kubectl-edit") -> Json:
        """Give other weights to the backends of the first rule, as ``manager``."""
        list_at = "rules/0/backendRefs" if self.kind == "HTTPRoute" else "http/0/route"
        patch = [
            {"op": "replace", "path": f"/spec/{list_at}/{place}/weight", "value": weight}
            for place, weight in enumerate(weights.values())
        ]
        target = f"{self.path}?fieldManager={manager}"
        return self.api.call("PATCH", target, patch, "application/json-patch+json")

    def endpoints(self, service: str, *ready: bool) -> None:
        """Write a Service with one endpoint each, ready or not."""
        root = "/api/v1/namespaces/prod/services"
        port = {"port": 8000, "name": "http"}
        self.api.call("POST", root, {"metadata": {"name": service}, "spec": {"ports": [port]}})
        path = "/apis/discovery.k8s.io/v1/namespaces/prod/endpointslices"
        self.api.call("POST", path, endpoint_slice(service, ready))

    def set_ready(self, service: str, *ready: bool) -> None:
        """Let the endpoints of a Service be ready, or not, from now on."""
        path = f"/apis/discovery.k8s.io/v1/namespaces/prod/endpointslices/{service}-1"
        self.api.call("PATCH", path, {"endpoints": endpoint_slice(service, ready)["endpoints"]}, MERGE)


@contextmanager
def routing(
    api: RunningApi,
    folder: Path,
    *routes: Json,
    clock: Clock | None = None,
    fence: Fence = unfenced,
    **more: Any,
) -> Iterator[KubernetesRouter]:
    """Yield a router over these routes of the settings; ``clock`` has the time of timestamps."""
    machine = SystemClock()
    settings = settings_for(api, folder, routes=routes, **more)
    router = KubernetesRouter(settings, machine.elapsed, (clock or machine).now, np.random.default_rng(3), fence)
    router.start()
    try:
        yield router
    finally:
        router.close()
