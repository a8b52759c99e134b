"""Which resources does the API server know, and what is particular about each?

Group, version, names and subresources are those of Kubernetes 1.36; custom ones are as their projects' CRDs say.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class ScalePaths:
    """Where a kind keeps what its ``/scale`` shows; ``selector`` empty where the kind has none."""

    spec: str = "spec.replicas"
    status: str = "status.replicas"
    selector: str = ""


@dataclass(frozen=True, slots=True)
class Kind:
    """One resource as it is served.

    ``custom`` resources differ as they do in a cluster: no strategic merge patch, and a PUT without a resourceVersion
    is invalid. ``generated`` says whether ``metadata.generation`` counts changes of what is asked for, and
    ``annotations_count`` whether it counts changes of annotations as well. ``schema`` and ``columns`` are what a
    definition says of them.
    """

    group: str
    version: str
    plural: str
    kind: str
    namespaced: bool = True
    short: tuple[str, ...] = ()
    status: bool = False
    generated: bool = False
    annotations_count: bool = False
    scale: ScalePaths | None = None
    custom: bool = False
    unconditional_update: bool = True
    schema: Mapping[str, Any] | None = field(default=None, compare=False)
    columns: tuple[Mapping[str, str], ...] = field(default=(), compare=False)

    @property
    def api_version(self) -> str:
        """What objects say as their ``apiVersion``."""
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def qualified(self) -> str:
        """The resource as errors name it: ``deployments.apps``, ``pods``."""
        return f"{self.plural}.{self.group}" if self.group else self.plural

    @property
    def identity(self) -> tuple[str, str]:
        """What makes it this resource: group and plural name."""
        return self.group, self.plural


_LABELLED = ScalePaths(selector="spec.selector")

NAMESPACE = Kind("", "v1", "namespaces", "Namespace", namespaced=False, short=("ns",), status=True)
POD = Kind("", "v1", "pods", "Pod", short=("po",), status=True, generated=True)
NODE = Kind("", "v1", "nodes", "Node", namespaced=False, short=("no",), status=True)
EVENT = Kind("", "v1", "events", "Event", short=("ev",))
SERVICE = Kind("", "v1", "services", "Service", short=("svc",), status=True)
DEPLOYMENT = Kind(
    "apps",
    "v1",
    "deployments",
    "Deployment",
    short=("deploy",),
    status=True,
    generated=True,
    annotations_count=True,
    scale=_LABELLED,
)
REPLICA_SET = Kind(
    "apps", "v1", "replicasets", "ReplicaSet", short=("rs",), status=True, generated=True, scale=_LABELLED
)
STATEFUL_SET = Kind(
    "apps", "v1", "statefulsets", "StatefulSet", short=("sts",), status=True, generated=True, scale=_LABELLED
)
CONTROLLER_REVISION = Kind("apps", "v1", "controllerrevisions", "ControllerRevision")
LEASE = Kind("coordination.k8s.io", "v1", "leases", "Lease", unconditional_update=False)
BUDGET = Kind(
    "policy",
    "v1",
    "poddisruptionbudgets",
    "PodDisruptionBudget",
    short=("pdb",),
    status=True,
    generated=True,
    unconditional_update=False,
)
AUTOSCALER = Kind(
    "autoscaling", "v2", "horizontalpodautoscalers", "HorizontalPodAutoscaler", short=("hpa",), status=True
)
ENDPOINT_SLICE = Kind("discovery.k8s.io", "v1", "endpointslices", "EndpointSlice", generated=True)
DEFINITION = Kind(
    "apiextensions.k8s.io",
    "v1",
    "customresourcedefinitions",
    "CustomResourceDefinition",
    namespaced=False,
    short=("crd", "crds"),
    status=True,
    generated=True,
    unconditional_update=False,
)
_RBAC = "rbac.authorization.k8s.io"
SERVICE_ACCOUNT = Kind("", "v1", "serviceaccounts", "ServiceAccount", short=("sa",))
ROLE = Kind(_RBAC, "v1", "roles", "Role")
ROLE_BINDING = Kind(_RBAC, "v1", "rolebindings", "RoleBinding")
CLUSTER_ROLE = Kind(_RBAC, "v1", "clusterroles", "ClusterRole", namespaced=False)
CLUSTER_ROLE_BINDING = Kind(_RBAC, "v1", "clusterrolebindings", "ClusterRoleBinding", namespaced=False)

BUILT_IN = (
    NAMESPACE,
    POD,
    NODE,
    EVENT,
    SERVICE,
    Kind("", "v1", "endpoints", "Endpoints", short=("ep",)),
    Kind("", "v1", "configmaps", "ConfigMap", short=("cm",)),
    DEPLOYMENT,
    REPLICA_SET,
    STATEFUL_SET,
    CONTROLLER_REVISION,
    LEASE,
    BUDGET,
    AUTOSCALER,
    ENDPOINT_SLICE,
    DEFINITION,
    SERVICE_ACCOUNT,
    ROLE,
    ROLE_BINDING,
    CLUSTER_ROLE,
    CLUSTER_ROLE_BINDING,
)


def custom(
    group: str, version: str, plural: str, kind: str, scale: ScalePaths | None = None, *, status: bool = True
) -> Kind:
    """Return a namespaced custom resource without a schema, as a CRD would register it."""
    return Kind(
        group,
        version,
        plural,
        kind,
        status=status,
        generated=True,
        scale=scale,
        custom=True,
        unconditional_update=False,
    )


HTTP_ROUTE = custom("gateway.networking.k8s.io", "v1", "httproutes", "HTTPRoute")
INFERENCE_POOL = custom("inference.networking.k8s.io", "v1", "inferencepools", "InferencePool")
LEADER_WORKER_SET = custom(
    "leaderworkerset.x-k8s.io",
    "v1",
    "leaderworkersets",
    "LeaderWorkerSet",
    ScalePaths(selector="status.hpaPodSelector"),
)
ROLLOUT = custom(
    "argoproj.io",
    "v1alpha1",
    "rollouts",
    "Rollout",
    ScalePaths(status="status.HPAReplicas", selector="status.selector"),
)
COMMON_CUSTOM = (
    HTTP_ROUTE,
    LEADER_WORKER_SET,
    ROLLOUT,
    custom("gateway.networking.k8s.io", "v1", "gateways", "Gateway"),
    INFERENCE_POOL,
    custom("keda.sh", "v1alpha1", "scaledobjects", "ScaledObject"),
    custom("autoscaling.k8s.io", "v1", "verticalpodautoscalers", "VerticalPodAutoscaler"),
    custom("networking.istio.io", "v1", "virtualservices", "VirtualService"),
    custom("foresail.dev", "v1alpha1", "scalingpolicies", "ScalingPolicy"),
)


class Catalogue:
    """The resources of one server, found by what a path or an object says. Definitions add to them and take away."""

    def __init__(self, kinds: Iterable[Kind]) -> None:
        self._index(kinds)

    def _index(self, kinds: Iterable[Kind]) -> None:
        self.kinds = tuple(kinds)
        self._by_path = {(kind.group, kind.version, kind.plural): kind for kind in self.kinds}
        self._by_object = {(kind.api_version, kind.kind): kind for kind in self.kinds}

    def define(self, kind: Kind) -> None:
        """Serve one more resource, or one otherwise than before."""
        self._index([*(one for one in self.kinds if one.identity != kind.identity), kind])

    def forget(self, group: str, plural: str) -> None:
        """Serve a resource no longer."""
        self._index([one for one in self.kinds if one.identity != (group, plural)])

    def of(self, group: str, plural: str) -> Kind | None:
        """Return the resource of that group and name, in whichever version, or None."""
        return next((one for one in self.kinds if one.identity == (group, plural)), None)

    def by_path(self, group: str, version: str, plural: str) -> Kind | None:
        """Return the resource at a path, or None."""
        return self._by_path.get((group, version, plural))

    def by_object(self, api_version: str, kind: str) -> Kind | None:
        """Return the resource of an object's ``apiVersion`` and ``kind``, or None."""
        return self._by_object.get((api_version, kind))
