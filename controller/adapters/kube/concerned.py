"""Which object of the API is a pool, a replica, a node, or the route of a model?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from controller.adapters.kube.cluster import KubernetesView
from controller.adapters.kube.kinds import CLUSTER_WIDE, KINDS
from controller.adapters.kube.settings import KubernetesSettings
from policies.fleet import PoolKey

_ROUTES: Mapping[str, str] = {
    "HTTPRoute": "gateway.networking.k8s.io/v1",
    "VirtualService": "networking.istio.io/v1",
}


@dataclass(frozen=True, slots=True)
class Concerned:
    """An object of the API, as others refer to it; ``namespace`` is empty for a node, ``uid`` where it is not known."""

    api_version: str
    kind: str
    namespace: str
    name: str
    uid: str = ""


class Objects:
    """Finds them in what was looked at last; nothing is asked of the API server."""

    def __init__(self, view: KubernetesView, settings: KubernetesSettings) -> None:
        self._view = view
        known = {kind.kind: (kind.group, kind.version) for kind in KINDS.values()}
        custom = {kind.kind: (kind.group, kind.version) for kind in settings.custom_kinds}
        self._versions = {kind: "/".join(filter(None, version)) for kind, version in (known | custom).items()}
        self._routes = {
            route.model: Concerned(_ROUTES[route.kind], route.kind, route.namespace, route.name)
            for route in settings.routes
        }

        name = settings.namespaces[0]
        place = CLUSTER_WIDE if name == "*" else name
        self._namespace = Concerned("v1", "Namespace", place, place)

    def workload(self, pool: PoolKey) -> Concerned | None:
        """Return the workload of a pool."""
        seen = self._view.seen(pool)
        if seen is None:
            return None
        workload = seen.workload
        version = self._versions[workload.kind]
        return Concerned(version, workload.kind, workload.namespace, workload.name, workload.uid)

    def pod(self, pool: PoolKey, replica: str) -> Concerned | None:
        """Return the pod of a replica, the first of it where it has several; without its uid once it is gone."""
        seen = self._view.seen(pool)
        if seen is None:
            return None
        found = [pod for pod in seen.pods if pod.name == replica]
        if not found:
            return Concerned("v1", "Pod", seen.workload.namespace, replica)
        return Concerned("v1", "Pod", found[0].namespace, found[0].name, found[0].uid)

    def node(self, name: str) -> Concerned:
        """Return a node; kubelets, too, give its name as its uid, and that is how Events of it are looked for."""
        return Concerned("v1", "Node", "", name, name)

    def route(self, model: str) -> Concerned | None:
        """Return the route that shares the requests of a model out."""
        return self._routes.get(model)

    def fleet(self) -> Concerned:
        """Return what stands for the whole fleet: the namespace that workloads are looked for in, the first of them."""
        return self._namespace

    def advice(self, pool: PoolKey) -> str:
        """Return what to do about whoever else sets the number of replicas; empty where nobody does."""
        owner = self._view.owner(pool)
        return owner.remedy if owner else ""
