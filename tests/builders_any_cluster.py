"""What a test needs of any cluster, real or ours: a namespace of its own, and hands that reach no further."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

from controller.adapters.kube.changes import APPLY_PATCH, JSON_PATCH, Change
from controller.adapters.kube.client import KubernetesApi
from controller.adapters.kube.kinds import DEPLOYMENTS, KINDS, NODES, PODS, Resource
from controller.adapters.kube.questions import ApiRefused, Question
from controller.adapters.kube.settings import KubernetesSettings
from controller.adapters.system_clock import SystemClock
from controller.bench_processes import pause
from simulations.kubernetes_api.kinds import BUILT_IN, COMMON_CUSTOM
from simulations.kubernetes_api.running import running_api
from simulations.kubernetes_api.writing import rfc3339

Json: TypeAlias = dict[str, Any]
T = TypeVar("T")

NAMESPACES = Resource("", "v1", "namespaces", "Namespace", namespaced=False)
CONFIG_MAPS = Resource("", "v1", "configmaps", "ConfigMap")
BUDGETS = Resource("policy", "v1", "poddisruptionbudgets", "PodDisruptionBudget")
LEASES = Resource("coordination.k8s.io", "v1", "leases", "Lease")
EVENTS = Resource("", "v1", "events", "Event")
STATEFUL_SETS = KINDS["StatefulSet"]
REVIEWS = Resource("authorization.k8s.io", "v1", "selfsubjectaccessreviews", "SelfSubjectAccessReview", False)

STRATEGIC = "application/strategic-merge-patch+json"
SUITE = "suite-of-foresail"
"""As whom the suite writes what it sets up; Foresail writes as itself, and every name of its kind begins like it."""

IMAGE = "registry.k8s.io/pause:3.10"
_DEFINED = ("foresail.dev", "gateway.networking.k8s.io")
"""Groups of which a bare cluster has nothing until they are defined."""

_LONGEST_S = 60.0  # a real kubelet pulls an image first
_POLL_S = 0.05
_MOST_TRIES = 20


class Hours:
    """The time of a cluster. That of one of ours can be moved on; that of another is waited for."""

    def __init__(self, *, ours: bool = False) -> None:
        self._ours, self._ahead_s = ours, 0.0
        self._machine = SystemClock()

    def now(self) -> float:
        """Return seconds since the epoch."""
        return self._machine.now() + self._ahead_s

    def elapsed(self) -> float:
        """Return seconds that never go back."""
        return self._machine.elapsed() + self._ahead_s

    def pass_by(self, seconds: float) -> None:
        """Let so much time pass."""
        if self._ours:
            self._ahead_s += max(0.0, seconds)
        else:
            pause(max(0.0, seconds))


@dataclass(frozen=True, slots=True)
class Cluster:
    """How a cluster is reached, and its time."""

    kubeconfig: Path
    hours: Hours


@contextmanager
def any_cluster(kubeconfig: str, folder: Path) -> Iterator[Cluster]:
    """Yield the cluster of ``kubeconfig``, or where that is empty an API server of ours."""
    if kubeconfig:
        yield Cluster(Path(kubeconfig), Hours())
        return
    hours = Hours(ours=True)
    kinds = [kind for kind in BUILT_IN + COMMON_CUSTOM if kind.group not in _DEFINED]
    with running_api(clock=hours, kinds=kinds, settle_every_s=_POLL_S) as api:
        api.kubelet.paused.set()  # there are no nodes: pods are made Ready over the API, as in a cluster without any
        api.gateways.paused.set()
        yield Cluster(api.write_kubeconfig(folder / "kubeconfig"), hours)


class Hands:
    """Writes and reads in one namespace, through the client of the adapter.

    Attributes:
        namespace: The only one that is written to.
        settings: With which Foresail would be started on it.
        kubelets: Whether there are any; where not, pods become Ready by these hands.
        sick: Names of pods that no kubelet makes Ready again, for as long as they are here.
        broken: Images whose pods never become Ready.
    """

    def __init__(self, settings: KubernetesSettings, namespace: str, hours: Hours, *, kubelets: bool) -> None:
        self.settings, self.namespace, self.kubelets = settings, namespace, kubelets
        self.sick: set[str] = set()
        self.broken: set[str] = set()
        self._hours = hours
        self._api = KubernetesApi(settings, SystemClock().elapsed)

    def close(self) -> None:
        self._api.close()

    # Any object

    def get(self, resource: Resource, name: str, subresource: str = "") -> Json:
        return self._api.get(resource, self._place(resource), name, subresource)

    def list(self, resource: Resource, **query: str) -> list[Json]:
        found: list[Json] = self.page(resource, **query)["items"]
        return found

    def page(self, resource: Resource, **query: str) -> Json:
        return self._api.page(Question("list", resource, self._place(resource)), query)

    def watch(self, resource: Resource, **query: str) -> Iterator[tuple[str, Json]]:
        """Yield what changes, until the server ends it."""
        query = {"watch": "true", "allowWatchBookmarks": "true", **query}
        yield from self._api.watch(Question("watch", resource, self._place(resource)), query, _LONGEST_S)

    def create(self, resource: Resource, body: Json, name: str = "", subresource: str = "", **query: str) -> Json:
        question = Question("create", resource, self._place(resource), name, subresource)
        group = f"{resource.group}/" if resource.group else ""
        typed = {"apiVersion": f"{group}{resource.version}", "kind": resource.kind, **body}
        return self._api.change(Change(question, typed, query={"fieldManager": SUITE, **query}))

    def update(self, resource: Resource, body: Json, subresource: str = "") -> Json:
        """Put an object as it was read and changed; as Foresail, as what follows where nobody else is named."""
        question = Question("update", resource, self._place(resource), body["metadata"]["name"], subresource)
        return self._api.change(Change(question, body))

    def patch(
        self, resource: Resource, name: str, body: Any, how: str = JSON_PATCH, subresource: str = "", by: str = ""
    ) -> Json:
        """Patch an object; ``by`` is the field manager, such as somebody's kubectl."""
        question = Question("patch", resource, self._place(resource), name, subresource)
        return self._api.change(Change(question, body, how, {"fieldManager": by} if by else {}))

    def apply(self, resource: Resource, name: str, body: Json, by: str, *, force: bool = True) -> Json:
        """Apply a configuration on the server's side, as tools do that keep what their manifests say."""
        question = Question("patch", resource, self._place(resource), name)
        typed = {"apiVersion": f"{resource.group}/{resource.version}", "kind": resource.kind, **body}
        return self._api.change(Change(question, typed, APPLY_PATCH, {"fieldManager": by, "force": str(force).lower()}))

    def delete(self, resource: Resource, name: str, **preconditions: str) -> Json:
        options: Json = {"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": "Background"}
        if preconditions:
            options["preconditions"] = preconditions
        return self._api.change(Change(Question("delete", resource, self._place(resource), name), options))

    def _place(self, resource: Resource) -> str:
        return self.namespace if resource.namespaced else ""

    # Workloads

    def deployment(self, name: str, replicas: int, labels: Mapping[str, str] | None = None, **spec: Any) -> Json:
        """Create a Deployment whose pods are labelled ``app=NAME``, and return it."""
        return self.create(DEPLOYMENTS, _workload(name, replicas, labels, **spec))

    def stateful_set(self, name: str, replicas: int, labels: Mapping[str, str] | None = None, **spec: Any) -> Json:
        """Create a StatefulSet of the same pods, and return it."""
        return self.create(STATEFUL_SETS, _workload(name, replicas, labels, serviceName=name, **spec))

    def budget(self, name: str, app: str, least: int, healthy: int) -> None:
        """Create a disruption budget over the pods of a workload, and wait until it has counted them."""
        spec = {"minAvailable": least, "selector": {"matchLabels": {"app": app}}}
        self.create(BUDGETS, {"metadata": {"name": name}, "spec": spec})
        self.until_counted(name, healthy)

    def until_counted(self, name: str, healthy: int) -> None:
        """Wait until a disruption budget knows of so many healthy pods."""

        def counted() -> bool:
            held = self.get(BUDGETS, name)
            status = held.get("status", {})
            seen = status.get("observedGeneration") == held["metadata"]["generation"]
            return bool(seen and status.get("currentHealthy") == healthy)

        self.until(counted)

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

    # Pods

    def evict(self, pod: str, **preconditions: str) -> Json:
        body: Json = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": pod}}
        if preconditions:
            body["deleteOptions"] = {"preconditions": preconditions}
        return self.create(PODS, body, pod, "eviction")

    def pods(self, name: str, *, ready: bool = True) -> list[Json]:
        """Return the pods of a workload that are to stay, and are Ready where that is asked for."""
        found = self.list(PODS, labelSelector=f"app={name}")
        return [pod for pod in found if "deletionTimestamp" not in pod["metadata"] and (_is_ready(pod) or not ready)]

    def names(self, name: str) -> set[str]:
        """Return the names of its pods that are to stay."""
        return {pod["metadata"]["name"] for pod in self.pods(name, ready=False)}

    def fall_sick(self, pod: str) -> None:
        """Let a pod be Ready no more, as a kubelet whose probe fails; only where no kubelet knows better."""
        self.sick.add(pod)
        self._report(pod, ready=False)

    def until(self, found: Callable[[], T]) -> T:
        """Return what is found as soon as it is true; until then pods become Ready, by kubelets or in their place."""
        clock = SystemClock()
        end_s = clock.elapsed() + _LONGEST_S
        while not (what := found()):
            assert clock.elapsed() < end_s, f"has not come about in {_LONGEST_S:g} s, last: {what!r}"
            if not self.kubelets:
                self._make_pods_ready()
            pause(_POLL_S)
        return what

    def until_ready(self, name: str, replicas: int) -> list[Json]:
        """Return the Ready pods of a workload once there are so many and no others."""

        def found() -> list[Json]:
            pods = self.pods(name)
            return pods if len(pods) == len(self.list(PODS, labelSelector=f"app={name}")) == replicas else []

        return self.until(found)

    def _make_pods_ready(self) -> None:
        """Do what a kubelet would, to the pods of this namespace."""
        for pod in self.list(PODS):
            name = pod["metadata"]["name"]
            ill = name in self.sick or any(one["image"] in self.broken for one in pod["spec"]["containers"])
            if not (_is_ready(pod) or "deletionTimestamp" in pod["metadata"] or ill):
                self._report(name, ready=True)

    def _report(self, name: str, *, ready: bool) -> None:
        """Tell of a pod whose engine runs whether it is Ready."""
        at, said = rfc3339(self._hours.now()), str(ready)
        container = {"image": IMAGE, "imageID": "", "ready": ready, "restartCount": 0}
        status = {
            "phase": "Running",
            "podIP": "192.0.2.7",
            "podIPs": [{"ip": "192.0.2.7"}],
            "conditions": [
                {"type": kind, "status": said, "lastTransitionTime": at} for kind in ("ContainersReady", "Ready")
            ],
            "containerStatuses": [{"name": "engine", **container, "state": {"running": {"startedAt": at}}}],
        }
        try:
            self.patch(PODS, name, {"status": status}, STRATEGIC, "status")
        except ApiRefused as error:
            if error.status not in (404, 409):  # it has gone, or has just been written
                raise


def _workload(name: str, replicas: int, labels: Mapping[str, str] | None, **spec: Any) -> Json:
    body = {"replicas": replicas, "selector": {"matchLabels": {"app": name}}, "template": template(name), **spec}
    return {"metadata": {"name": name, "labels": {"app": name, **(labels or {})}}, "spec": body}


def template(name: str, image: str = IMAGE) -> Json:
    """Return what the pods of a workload are made of."""
    container = {"name": "engine", "image": image, "ports": [{"name": "http", "containerPort": 8000}]}
    spec = {"containers": [container], "terminationGracePeriodSeconds": 0}
    return {"metadata": {"labels": {"app": name, "foresail.dev/serving": "true"}}, "spec": spec}


@dataclass(frozen=True, slots=True)
class Place:
    """A namespace of a test run's own.

    Attributes:
        hands: What reaches no further than the namespace.
        outside: What reaches objects that are in none.
    """

    kubeconfig: Path
    namespace: str
    hours: Hours
    hands: Hands
    outside: Hands


@contextmanager
def own_namespace(kubeconfig: Path, hours: Hours | None = None) -> Iterator[Place]:
    """Create a namespace with a name that nobody has, and delete it with all that is in it afterwards."""
    hours = hours or Hours()
    quick = {"timeout_s": 10.0, "watch_s": 5, "stale_after_s": 30.0}
    settings = KubernetesSettings(kubeconfig=kubeconfig, kinds=("Deployment",), **quick)
    outside = Hands(settings, "", hours, kubelets=True)
    meta = {"generateName": "foresail-suite-", "labels": {"app.kubernetes.io/managed-by": SUITE}}
    try:
        name = outside.create(NAMESPACES, {"metadata": meta})["metadata"]["name"]
        try:
            own = settings.model_copy(update={"namespaces": (name,)})
            hands = Hands(own, name, hours, kubelets=_has_kubelets(outside))
            try:
                yield Place(kubeconfig, name, hours, hands, outside)
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
