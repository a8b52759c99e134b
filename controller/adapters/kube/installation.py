"""Which features does an installation have on, as its settings say, and which rights does that come to, place by place?

The Helm chart has the same switches under ``features``: a test holds the two to each other.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from controller.adapters.kube.kinds import CLUSTER_WIDE
from controller.adapters.kube.permissions import ROUTE_KINDS, Feature, Installation, Rule, Scope, permissions
from controller.adapters.kube.settings import KubernetesSettings
from controller.modes import ActionClass, ModeSettings


@dataclass(frozen=True, slots=True)
class Right:
    """One verb on one resource, a subresource after a slash.

    Attributes:
        namespace: Empty for all of them, and for what is in none.
        name: Empty for any.
    """

    feature: Feature
    verb: str
    group: str
    resource: str
    namespace: str = ""
    name: str = ""

    @property
    def title(self) -> str:
        """The resource as people write it: ``deployments/scale.apps``."""
        return f"{self.resource}.{self.group}" if self.group else self.resource

    @property
    def place(self) -> str:
        """Where it holds, for people."""
        return self.namespace or "the whole cluster"


def installation_of(
    platform: KubernetesSettings, modes: ModeSettings, *, may_avoid_nodes: bool, shards: int = 1
) -> Installation:
    """Return what the settings have switched on; a mode that only recommends writes nothing."""
    heals = modes.may_act(ActionClass.HEALING)
    on = {
        Feature.NODES: platform.nodes,
        Feature.SCALE: modes.may_act(ActionClass.SCALING),
        Feature.CORDON: heals,
        Feature.RESTART: heals,
        Feature.DELETE: heals and platform.delete_unevictable,
        Feature.ROLL_BACK: heals,
        Feature.AVOID_NODES: heals and may_avoid_nodes,
        Feature.ROUTE: modes.may_act(ActionClass.TRAFFIC),
        Feature.LEASE: platform.lease is not None,
        Feature.EVENTS: platform.events,
        Feature.POLICIES: platform.policies,
    }
    beside = ["InferencePool"] if platform.by_inference_pools else []
    beside += [kind for kind in platform.autoscalers if kind != "HorizontalPodAutoscaler"]  # that one is always read
    return Installation(
        features=frozenset(feature for feature, is_on in on.items() if is_on),
        kinds=platform.kinds,
        custom_kinds=tuple((kind.group, kind.plural) for kind in platform.custom_kinds),
        routes=tuple(kind for kind in ROUTE_KINDS if any(route.kind == kind for route in platform.routes)),
        beside=tuple(beside),
        route_names=tuple(sorted({route.name for route in platform.routes})),
        lease=platform.lease.name if platform.lease else "foresail",
        shards=shards,
    )


def rights_of(installation: Installation, platform: KubernetesSettings) -> tuple[Right, ...]:
    """Return every right that ``installation`` needs in the places that ``platform`` names, each once."""
    found: dict[tuple[str, ...], Right] = {}
    for rule in permissions(installation):
        for namespace, name in _places(rule, platform):
            for verb in rule.verbs:
                right = Right(rule.feature, verb, rule.group, rule.resource, namespace, name)
                found.setdefault((verb, rule.group, rule.resource, namespace, name), right)
    return tuple(found.values())


def _places(rule: Rule, platform: KubernetesSettings) -> Iterator[tuple[str, str]]:
    """Yield the namespaces and names that a rule is needed for."""
    if rule.scope is Scope.CLUSTER:
        yield "", ""
    elif rule.scope is Scope.EVENTS_OF_NODES:
        if "*" not in platform.namespaces:
            yield CLUSTER_WIDE, ""
    elif rule.scope is Scope.OWN:
        for name in rule.names or ("",):
            yield (platform.lease.namespace if platform.lease else "default"), name
    elif (rule.group, rule.resource) in ROUTE_KINDS.values():
        for route in platform.routes:
            if ROUTE_KINDS[route.kind] == (rule.group, rule.resource):
                yield route.namespace, route.name if rule.names else ""
    elif rule.feature is Feature.ROUTE:
        yield from ((namespace, "") for namespace in _namespaces_of_backends(platform))
    else:
        yield from ((namespace, "") for namespace in _namespaces_of(rule, platform))


def _namespaces_of(rule: Rule, platform: KubernetesSettings) -> list[str]:
    """Return the namespaces with workloads, empty for all of them; Events are written where a route is as well."""
    namespaces = ["" if namespace == "*" else namespace for namespace in platform.namespaces]
    if rule.feature is Feature.EVENTS and "" not in namespaces:
        namespaces += sorted({route.namespace for route in platform.routes} - set(namespaces))
    return namespaces


def _namespaces_of_backends(platform: KubernetesSettings) -> list[str]:
    """Return the namespaces of the Services behind routes: that of the route, unless a backend names another."""
    found = set()
    for route in platform.routes:
        for backend in route.backends.values():
            namespace, slash, _ = backend.partition("/")
            found.add(namespace if slash and route.kind == "HTTPRoute" else route.namespace)
    return sorted(found)
