"""What does it cost when a right is missing, and which rule of a role gives it?"""

from __future__ import annotations

from collections.abc import Mapping

from controller.adapters.kube.installation import Right, installation_of, rights_of
from controller.adapters.kube.permissions import ROUTE_KINDS, Feature
from controller.adapters.kube.settings import KubernetesSettings
from controller.doctor_findings import RightFinding
from controller.modes import ActionClass, ModeSettings

_BLIND = "no pools are told, so nothing is decided"
_OF_READING: Mapping[str, str] = {
    "events": "why pods are not placed or started is not told",
    "poddisruptionbudgets": "which evictions will be refused is not known before",
    "horizontalpodautoscalers": "an autoscaler may set the same number of replicas, unseen",
    "scaledobjects": "KEDA may set the same number of replicas, unseen",
    "verticalpodautoscalers": "what ends pods to resize them is not seen",
    **{resource: "shares of traffic are not known, so none are changed" for _, resource in ROUTE_KINDS.values()},
}
_OF_FEATURES: Mapping[Feature, str] = {
    Feature.NODES: "no nodes are told, so nothing is decided",
    Feature.SCALE: "numbers of replicas are decided and not set",
    Feature.CORDON: "no pod is taken out of traffic, or named as the first to go",
    Feature.RESTART: "sick pods are not replaced",
    Feature.DELETE: "a sick pod stays whose eviction is refused for good",
    Feature.ROLL_BACK: "a bad rollout is neither paused nor rolled back",
    Feature.AVOID_NODES: "replicas are not kept off a bad node",
    Feature.ROUTE: "no traffic is moved, from a pool that fails either",
    Feature.LEASE: "no replica of Foresail becomes the leader, so nothing is written",
    Feature.EVENTS: "acts and refusals are told in the log and audit alone",
    Feature.POLICIES: "ScalingPolicies are not read, or do not show what became of them",
}


def wanted_rights(
    platform: KubernetesSettings, modes: ModeSettings, *, may_avoid_nodes: bool, shards: int = 1
) -> tuple[list[str], dict[Right, bool]]:
    """Return the features that are on, and every right to ask for with whether it is needed.

    What scales can do without cordoning; pods that go are then picked by their controller.
    """
    on = installation_of(platform, modes, may_avoid_nodes=may_avoid_nodes, shards=shards)
    rights = dict.fromkeys(rights_of(on, platform), True)
    if modes.may_act(ActionClass.SCALING) and Feature.CORDON not in on.features:
        for namespace in platform.namespaces:
            place = "" if namespace == "*" else namespace
            rights.setdefault(Right(Feature.CORDON, "patch", "", "pods", place), False)
    return sorted(on.features), rights


def finding_of(right: Right, needed: bool) -> RightFinding:
    """Return what is to be said of a right that is missing."""
    resource = right.resource.partition("/")[0]
    cost = _OF_READING.get(resource, _BLIND) if right.feature is Feature.READ else _OF_FEATURES[right.feature]
    rule = _rule(right)
    return RightFinding(right.feature, right.verb, right.title, right.namespace, right.name, cost, rule, needed)


def _rule(right: Right) -> str:
    named = f", resourceNames: [{right.name}]" if right.name else ""
    group = right.group or '""'
    return f"- {{apiGroups: [{group}], resources: [{right.resource}], verbs: [{right.verb}]{named}}}"
