"""What a test needs of any cluster, real or ours: a namespace of its own, and hands that reach no further."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

from controller.adapters.kube.changes import JSON_PATCH, Change
from controller.adapters.kube.client import KubernetesApi
from controller.adapters.kube.kinds import DEPLOYMENTS, NODES, PODS, Resource
from controller.adapters.kube.questions import ApiRefused, Question
from controller.adapters.kube.settings import KubernetesSettings
from controller.adapters.system_clock import SystemClock
from controller.bench_processes import pause
from simulations.kubernetes_api.running import running_api
from simulations.kubernetes_api.writing import rfc3339

Json: TypeAlias = dict[str, Any]
T = TypeVar("T")

NAMESPACES = Resource("", "v1", "namespaces", "Namespace", namespaced=False)
CONFIG_MAPS = Resource("", "v1", "configmaps", "ConfigMap")
BUDGETS = Resource("policy", "v1", "poddisruptionbudgets", "PodDisruptionBudget")
LEASES = Resource("coordination.k8s.io", "v1", "leases", "Lease")
EVENTS = Resource("", "v1", "events", "Event")
REVIEWS = Resource("authorization.k8s.io", "v1", "selfsubjectaccessreviews", "SelfSubjectAccessReview", False)

STRATEGIC = "application/strategic-merge-patch+json"
SUITE = "foresail-suite"
"""As whom the suite writes what it sets up; Foresail writes as itself."""

IMAGE = "registry.k8s.io/pause:3.10"
_LONGEST_S = 60.0  # a real kubelet pulls an image first
_POLL_S = 0.05
_MOST_TRIES = 20


@contextmanager
def any_cluster(kubeconfig: str, folder: Path) -> Iterator[Path]:
    """Yield ``kubeconfig``, or where that is empty that of an API server of ours."""
    if kubeconfig:
        yield Path(kubeconfig)
        return
    with running_api(settle_every_s=_POLL_S) as api:
        api.kubelet.paused.set()  # there are no nodes: pods are made Ready over the API, as in a cluster without any
        yield api.write_kubeconfig(folder / "kubeconfig")


class Hands:
    """Writes and reads in one namespace, through the client of the adapter.

    Attributes:
        namespace: The only one that is written to.
        settings: With which Foresail would be started on it.
    """

    def __init__(self, settings: KubernetesSettings, namespace: str, *, kubelets: bool) -> None:
        self.settings, self.namespace = settings, namespace
        self._api = KubernetesApi(settings, SystemClock().elapsed)
        self._kubelets = kubelets

    def close(self) -> None:
        self._api.close()

    def get(self, resource: Resource, name: str, subresource: str = "") -> Json:
        return self._api.get(resource, self.namespace, name, subresource)

    def list(self, resource: Resource, **query: str) -> list[Json]:
        found: list[Json] = self.page(resource, **query)["items"]
        return found

    def page(self, resource: Resource, **query: str) -> Json:
        return self._api.page(Question("list", resource, self.namespace), query)

    def watch(self, resource: Resource, **query: str) -> Iterator[tuple[str, Json]]:
        """Yield what changes, until the server ends it."""
        query = {"watch": "true", "allowWatchBookmarks": "true", **query}
        yield from self._api.watch(Question("watch", resource, self.namespace), query, _LONGEST_S)

    def create(self, resource: Resource, body: Json, name: str = "", subresource: str = "", **query: str) -> Json:
        question = Question("create", resource, self.namespace if resource.namespaced else "", name, subresource)
        group = f"{resource.group}/" if resource.group else ""
        typed = {"apiVersion": f"{group}{resource.version}", "kind": resource.kind, **body}
        return self._api.change(Change(question, typed, query={"fieldManager": SUITE, **query}))

    def update(self, resource: Resource, body: Json, subresource: str = "") -> Json:
        """Put an object as it was read and changed; as Foresail, as all that follows."""
        question = Question("update", resource, self.namespace, body["metadata"]["name"], subresource)
        return self._api.change(Change(question, body))

    def patch(self, resource: Resource, name: str, body: Any, how: str = JSON_PATCH, subresource: str = "") -> Json:
        return self._api.change(Change(Question("patch", resource, self.namespace, name, subresource), body, how))

    def delete(self, resource: Resource, name: str, **preconditions: str) -> Json:
        options: Json = {"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": "Background"}
        if preconditions:
            options["preconditions"] = preconditions
        return self._api.change(Change(Question("delete", resource, self.namespace, name), options))

    def evict(self, pod: str, **preconditions: str) -> Json:
        body: Json = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": pod}}
        if preconditions:
            body["deleteOptions"] = {"preconditions": preconditions}
        return self.create(PODS, body, pod, "eviction")

    def deployment(self, name: str, replicas: int, labels: Mapping[str, str] | None = None) -> Json:
        """Create a Deployment whose pods are labelled ``app=NAME``, and return it."""
        pods = {"app": name, "foresail.dev/serving": "true"}
        container = {"name": "engine", "image": IMAGE, "ports": [{"name": "http", "containerPort": 8000}]}
        spec = {"containers": [container], "terminationGracePeriodSeconds": 0}
        body = {
            "metadata": {"name": name, "labels": {"app": name, **(labels or {})}},
            "spec": {
                "replicas": replicas,
                "selector": {"matchLabels": {"app": name}},
                "template": {"metadata": {"labels": pods}, "spec": spec},
            },
        }
        return self.create(DEPLOYMENTS, body)

    def scaled(self, name: str, replicas: int) -> Json:
        """Scale a Deployment as Foresail does, anew where its controller has written in between; return the scale."""
        for _ in range(_MOST_TRIES):
            scale = self.get(DEPLOYMENTS, name, "scale")
            scale["spec"]["replicas"] = replicas
            try:
                return self.update(DEPLOYMENTS, scale, "scale")
            except ApiRefused as error:
                if error.status != 409:
                    raise
        raise AssertionError(f"{name} changed {_MOST_TRIES} times between reading and writing")

    def pods(self, name: str, *, ready: bool = True) -> list[Json]:
        """Return the pods of a Deployment that are to stay, and are Ready where that is asked for."""
        found = self.list(PODS, labelSelector=f"app={name}")
        return [pod for pod in found if "deletionTimestamp" not in pod["metadata"] and (_is_ready(pod) or not ready)]

    def until(self, found: Callable[[], T]) -> T:
        """Return what is found as soon as it is true; until then pods become Ready, by kubelets or in their place."""
        clock = SystemClock()
        end_s = clock.elapsed() + _LONGEST_S
        while not (what := found()):
            assert clock.elapsed() < end_s, f"has not come about in {_LONGEST_S:g} s, last: {what!r}"
            if not self._kubelets:
                self._make_pods_ready()
            pause(_POLL_S)
        return what

    def until_ready(self, name: str, replicas: int) -> list[Json]:
        """Return the Ready pods of a Deployment once there are so many and no others."""

        def found() -> list[Json]:
            pods = self.pods(name)
            return pods if len(pods) == len(self.list(PODS, labelSelector=f"app={name}")) == replicas else []

        return self.until(found)

    def _make_pods_ready(self) -> None:
        """Do what a kubelet would, to the pods of this namespace."""
        for pod in self.list(PODS):
            if _is_ready(pod) or "deletionTimestamp" in pod["metadata"]:
                continue
            at = rfc3339(SystemClock().now())
            names = [container["name"] for container in pod["spec"]["containers"]]
            container = {"image": IMAGE, "imageID": "", "ready": True, "restartCount": 0}
            status = {
                "phase": "Running",
                "podIP": "192.0.2.7",
                "podIPs": [{"ip": "192.0.2.7"}],
                "conditions": [
                    {"type": kind, "status": "True", "lastTransitionTime": at} for kind in ("ContainersReady", "Ready")
                ],
                "containerStatuses": [
                    {"name": name, **container, "state": {"running": {"startedAt": at}}} for name in names
                ],
            }
            try:
                self.patch(PODS, pod["metadata"]["name"], {"status": status}, STRATEGIC, "status")
            except ApiRefused as error:
                if error.status not in (404, 409):  # it has gone, or has just been written
                    raise


@dataclass(frozen=True, slots=True)
class Place:
    """A namespace of a test run's own."""

    kubeconfig: Path
    namespace: str
    hands: Hands


@contextmanager
def own_namespace(kubeconfig: Path) -> Iterator[Place]:
    """Create a namespace with a name that nobody has, and delete it with all that is in it afterwards."""
    quick = {"timeout_s": 10.0, "watch_s": 5, "stale_after_s": 30.0}
    settings = KubernetesSettings(kubeconfig=kubeconfig, kinds=("Deployment",), **quick)
    outside = Hands(settings, "", kubelets=True)
    meta = {"generateName": "foresail-suite-", "labels": {"app.kubernetes.io/managed-by": SUITE}}
    try:
        name = outside.create(NAMESPACES, {"metadata": meta})["metadata"]["name"]
        try:
            hands = Hands(settings.model_copy(update={"namespaces": (name,)}), name, kubelets=_has_kubelets(outside))
            try:
                yield Place(kubeconfig, name, hands)
            finally:
                hands.close()
        finally:
            outside.delete(NAMESPACES, name)
    finally:
        outside.close()


def _has_kubelets(hands: Hands) -> bool:
    """Return whether pods are run by somebody: where any node is ready, or nobody lets us look."""
    try:
        return any(_is_ready(node) for node in hands.list(NODES))
    except ApiRefused:
        return True


def _is_ready(thing: Json) -> bool:
    conditions = thing.get("status", {}).get("conditions") or ()
    return any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)
