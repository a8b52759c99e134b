"""Which verbs on which resources does each feature need? The Helm chart grants these and no others.

There are no wildcards, no secrets and no ``exec`` among them. What a rule cannot say (which labels, how many replicas)
the chart's admission policies bound.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from controller.shard_settings import lease_name

READ = ("get", "list", "watch")
WRITE = ("get", "update", "patch")


class Feature(StrEnum):
    """What an installation may do. The values are the names under ``features`` in the chart; READ is always on."""

    READ = "read"
    NODES = "nodes"  # know which node is going away, and which GPUs share one
    SCALE = "scale"
    CORDON = "cordon"  # take a pod out of traffic, or name it as the first to go
    RESTART = "restart"  # by eviction, which disruption budgets may refuse
    DELETE = "delete"  # where an eviction is refused for good
    ROLL_BACK = "rollBack"  # and pause and resume a rollout
    AVOID_NODES = "avoidNodes"
    ROUTE = "route"
    LEASE = "lease"
    EVENTS = "events"
    POLICIES = "policies"


class Scope(StrEnum):
    """Where a rule holds."""

    WORKLOADS = "workloads"  # in each namespace with workloads
    OWN = "own"  # in the namespace of Foresail itself
    CLUSTER = "cluster"
    EVENTS_OF_NODES = "eventsOfNodes"  # in the namespace that the API has for Events of what is in none


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule of a role: ``verbs`` on a resource, a subresource after a slash.

    Attributes:
        names: Objects that it is limited to; empty for any.
    """

    feature: Feature
    group: str
    resource: str
    verbs: tuple[str, ...]
    names: tuple[str, ...] = ()
    scope: Scope = Scope.WORKLOADS


@dataclass(frozen=True, slots=True)
class Installation:
    """What an installation has switched on.

    Attributes:
        features: READ need not be named.
        kinds: Workloads that are read and acted on, keys of ``WORKLOAD_KINDS``.
        custom_kinds: (group, plural) of further kinds with a scale subresource.
        routes: Kinds that hold traffic weights, keys of ``ROUTE_KINDS``.
        beside: Kinds that are only read, keys of ``BESIDE_KINDS``.
        route_names: Routes that weights may be set on; empty for any.
        lease: Name of the lease that replicas of Foresail hold in turn.
        shards: Parts that the workloads are divided into, each with a lease of its own beside that.
    """

    features: frozenset[Feature] = frozenset()
    kinds: tuple[str, ...] = ("Deployment", "StatefulSet")
    custom_kinds: tuple[tuple[str, str], ...] = ()
    routes: tuple[str, ...] = ()
    beside: tuple[str, ...] = ()
    route_names: tuple[str, ...] = ()
    lease: str = "foresail"
    shards: int = 1

    @property
    def leases(self) -> tuple[str, ...]:
        """Names of all leases."""
        return self.lease, *(
            lease_name(self.lease, index, self.shards) for index in range(self.shards) if self.shards > 1
        )


WORKLOAD_KINDS = {
    "Deployment": ("apps", "deployments"),
    "StatefulSet": ("apps", "statefulsets"),
    "LeaderWorkerSet": ("leaderworkerset.x-k8s.io", "leaderworkersets"),
    "Rollout": ("argoproj.io", "rollouts"),
}
ROUTE_KINDS = {
    "HTTPRoute": ("gateway.networking.k8s.io", "httproutes"),
    "VirtualService": ("networking.istio.io", "virtualservices"),
}
BESIDE_KINDS = {
    "InferencePool": ("inference.networking.k8s.io", "inferencepools"),
    "ScaledObject": ("keda.sh", "scaledobjects"),
    "VerticalPodAutoscaler": ("autoscaling.k8s.io", "verticalpodautoscalers"),
}

_ALWAYS_READ = (
    ("", "pods"),
    ("", "events"),
    ("apps", "replicasets"),
    ("apps", "controllerrevisions"),
    ("policy", "poddisruptionbudgets"),
    ("autoscaling", "horizontalpodautoscalers"),
)
_READ_FOR_ROUTES = (("", "services"), ("discovery.k8s.io", "endpointslices"))


def permissions(installation: Installation) -> tuple[Rule, ...]:
    """Return what ``installation`` needs, feature by feature.

    >>> on = Installation(frozenset({Feature.SCALE}), kinds=("Deployment",))
    >>> [rule.resource for rule in permissions(on) if rule.feature is Feature.SCALE]
    ['deployments/scale']
    """
    return (*_reading(installation), *_workload_writes(installation), *_other_writes(installation))


def _reading(on: Installation) -> Iterator[Rule]:
    kinds = [WORKLOAD_KINDS[kind] for kind in on.kinds] + list(on.custom_kinds)
    beside = [BESIDE_KINDS[kind] for kind in on.beside]
    routes = [ROUTE_KINDS[kind] for kind in on.routes]
    for group, resource in (*_ALWAYS_READ, *kinds, *beside, *routes):
        yield Rule(Feature.READ, group, resource, READ)
    if Feature.NODES in on.features:
        yield Rule(Feature.NODES, "", "nodes", READ, scope=Scope.CLUSTER)


def _workload_writes(on: Installation) -> Iterator[Rule]:
    kinds = [WORKLOAD_KINDS[kind] for kind in on.kinds]
    if Feature.SCALE in on.features:
        for group, resource in (*kinds, *on.custom_kinds):
            yield Rule(Feature.SCALE, group, f"{resource}/scale", WRITE)
    if Feature.CORDON in on.features:
        yield Rule(Feature.CORDON, "", "pods", ("patch",))
    if Feature.RESTART in on.features:
        yield Rule(Feature.RESTART, "", "pods/eviction", ("create",))
    if Feature.DELETE in on.features:
        yield Rule(Feature.DELETE, "", "pods", ("delete",))
    if Feature.ROLL_BACK in on.features:
        for group, resource in kinds:
            yield Rule(Feature.ROLL_BACK, group, resource, ("update", "patch"))
        if "Rollout" in on.kinds:  # where it is told to abort
            yield Rule(Feature.ROLL_BACK, *_under("Rollout", "status"), ("get", "patch"))


def _other_writes(on: Installation) -> Iterator[Rule]:
    if Feature.AVOID_NODES in on.features:
        yield Rule(Feature.AVOID_NODES, "", "nodes", ("get", "patch"), scope=Scope.CLUSTER)
    if Feature.ROUTE in on.features:
        for group, resource in _READ_FOR_ROUTES:
            yield Rule(Feature.ROUTE, group, resource, READ)
        for kind in on.routes:
            group, resource = ROUTE_KINDS[kind]
            yield Rule(Feature.ROUTE, group, resource, ("update", "patch"), on.route_names)
    if Feature.LEASE in on.features:
        group = "coordination.k8s.io"
        yield Rule(Feature.LEASE, group, "leases", ("create",), scope=Scope.OWN)  # a name cannot bound this verb
        yield Rule(Feature.LEASE, group, "leases", WRITE, on.leases, Scope.OWN)
    if Feature.EVENTS in on.features:
        yield Rule(Feature.EVENTS, "", "events", ("create", "patch"))
        if Feature.AVOID_NODES in on.features:
            yield Rule(Feature.EVENTS, "", "events", ("create", "patch"), scope=Scope.EVENTS_OF_NODES)
    if Feature.POLICIES in on.features:
        yield Rule(Feature.POLICIES, "foresail.dev", "scalingpolicies", READ)
        yield Rule(Feature.POLICIES, "foresail.dev", "scalingpolicies/status", ("get", "update", "patch"))


def _under(kind: str, subresource: str) -> tuple[str, str]:
    group, resource = WORKLOAD_KINDS[kind]
    return group, f"{resource}/{subresource}"
