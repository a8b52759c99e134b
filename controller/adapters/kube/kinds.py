"""Which kinds of objects of the API are read, and where are they found?"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Resource:
    """A kind of object of the API.

    Attributes:
        group: Empty for the core of the API.
        metadata_only: Whether no more than its metadata is asked for; a server that cannot do that sends all.
    """

    group: str
    version: str
    plural: str
    kind: str
    namespaced: bool = True
    metadata_only: bool = False

    def path(self, namespace: str = "") -> str:
        """Return the path of its collection, of all namespaces where none is given."""
        root = f"/apis/{self.group}/{self.version}" if self.group else f"/api/{self.version}"
        return (
            f"{root}/namespaces/{namespace}/{self.plural}" if namespace and self.namespaced else f"{root}/{self.plural}"
        )

    @property
    def title(self) -> str:
        """Its name as rules of roles have it: ``deployments.apps``."""
        return f"{self.plural}.{self.group}" if self.group else self.plural


HORIZONTAL_POD_AUTOSCALERS = Resource("autoscaling", "v2", "horizontalpodautoscalers", "HorizontalPodAutoscaler")
SCALED_OBJECTS = Resource("keda.sh", "v1alpha1", "scaledobjects", "ScaledObject")
VERTICAL_POD_AUTOSCALERS = Resource("autoscaling.k8s.io", "v1", "verticalpodautoscalers", "VerticalPodAutoscaler")
EVENTS = Resource("", "v1", "events", "Event")
CLUSTER_WIDE = "default"
"""Namespace of Events about objects that are in none."""

PODS = Resource("", "v1", "pods", "Pod")
NODES = Resource("", "v1", "nodes", "Node", namespaced=False)
DEPLOYMENTS = Resource("apps", "v1", "deployments", "Deployment")
STATEFUL_SETS = Resource("apps", "v1", "statefulsets", "StatefulSet")
LEADER_WORKER_SETS = Resource("leaderworkerset.x-k8s.io", "v1", "leaderworkersets", "LeaderWorkerSet")
ROLLOUTS = Resource("argoproj.io", "v1alpha1", "rollouts", "Rollout")
REPLICA_SETS = Resource("apps", "v1", "replicasets", "ReplicaSet", metadata_only=True)
CONTROLLER_REVISIONS = Resource("apps", "v1", "controllerrevisions", "ControllerRevision")
SERVICES = Resource("", "v1", "services", "Service")
ENDPOINT_SLICES = Resource("discovery.k8s.io", "v1", "endpointslices", "EndpointSlice")
HTTP_ROUTES = Resource("gateway.networking.k8s.io", "v1", "httproutes", "HTTPRoute")
VIRTUAL_SERVICES = Resource("networking.istio.io", "v1", "virtualservices", "VirtualService")
INFERENCE_POOLS = Resource("inference.networking.k8s.io", "v1", "inferencepools", "InferencePool")

AUTOSCALERS = {kind.kind: kind for kind in (HORIZONTAL_POD_AUTOSCALERS, SCALED_OBJECTS, VERTICAL_POD_AUTOSCALERS)}
"""What scales workloads beside us, or ends their pods."""
ROUTES = {kind.kind: kind for kind in (HTTP_ROUTES, VIRTUAL_SERVICES)}
"""Objects whose weights share requests out."""

KINDS = {kind.kind: kind for kind in (DEPLOYMENTS, STATEFUL_SETS, LEADER_WORKER_SETS, ROLLOUTS)}
"""Workloads that are understood beyond their scale subresource."""
