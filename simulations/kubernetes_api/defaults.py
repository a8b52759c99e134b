"""Which fields does the API server fill in on its own?

Only those that controllers, ``kubectl`` or a client's required fields depend on, with the values of the API reference.
"""

from __future__ import annotations

from collections.abc import Callable

from simulations.kubernetes_api.kinds import Kind
from simulations.kubernetes_api.quantities import canonical
from simulations.kubernetes_api.refusals import Json
from simulations.kubernetes_api.structural_schemas import shaped

_COUNTED = ("cpu", "memory")
_NOT_TOLD_AS_NONE = {
    "deployments": (
        "replicas", "updatedReplicas", "readyReplicas", "availableReplicas", "unavailableReplicas",
    ),
    "replicasets": ("fullyLabeledReplicas", "readyReplicas", "availableReplicas"),
    "statefulsets": ("readyReplicas", "currentReplicas", "updatedReplicas"),
    "poddisruptionbudgets": ("disruptedPods",),
}  # fmt: skip
"""Parts of a status that are left out where they are 0, or empty."""


def _put(value: Json, **wanted: object) -> None:
    for key, held in wanted.items():
        if value.get(key) is None:
            value[key] = held


def _pod_spec(spec: Json) -> None:
    _put(
        spec,
        restartPolicy="Always",
        terminationGracePeriodSeconds=30,
        dnsPolicy="ClusterFirst",
        securityContext={},
        schedulerName="default-scheduler",
    )
    for container in [*(spec.get("containers") or ()), *(spec.get("initContainers") or ())]:
        image = str(container.get("image", ""))
        latest = image.endswith(":latest") or ":" not in image.rpartition("/")[2]
        _put(
            container,
            imagePullPolicy="Always" if latest and "@" not in image else "IfNotPresent",
            resources={},
            terminationMessagePath="/dev/termination-log",
            terminationMessagePolicy="File",
        )
        _quantities(container)
        for variable in container.get("env") or ():
            if told := (variable.get("valueFrom") or {}).get("fieldRef"):
                _put(told, apiVersion="v1")
        for port in container.get("ports") or ():
            _put(port, protocol="TCP")
        for probe in ("readinessProbe", "livenessProbe", "startupProbe"):
            if container.get(probe):
                if "httpGet" in container[probe]:
                    _put(container[probe]["httpGet"], path="/", scheme="HTTP")
                _put(container[probe], timeoutSeconds=1, periodSeconds=10, successThreshold=1, failureThreshold=3)


def _quantities(container: Json) -> None:
    for amounts in (container["resources"].get("requests"), container["resources"].get("limits")):
        for name, given in (amounts or {}).items():
            amounts[name] = canonical(given)


def _template(spec: Json) -> None:
    template = spec.setdefault("template", {})
    template.setdefault("metadata", {})
    _pod_spec(template.setdefault("spec", {}))


def _deployment(value: Json) -> None:
    spec = value["spec"]
    _put(spec, replicas=1, revisionHistoryLimit=10, progressDeadlineSeconds=600, strategy={"type": "RollingUpdate"})
    if spec["strategy"].get("type", "RollingUpdate") == "RollingUpdate":
        spec["strategy"].setdefault("type", "RollingUpdate")
        _put(spec["strategy"].setdefault("rollingUpdate", {}), maxSurge="25%", maxUnavailable="25%")
    _template(spec)


def _replica_set(value: Json) -> None:
    _put(value["spec"], replicas=1)
    _template(value["spec"])
    _put(value.setdefault("status", {}), replicas=0)


def _stateful_set(value: Json) -> None:
    spec = value["spec"]
    _put(
        spec,
        replicas=1,
        podManagementPolicy="OrderedReady",
        revisionHistoryLimit=10,
        serviceName="",
        updateStrategy={"type": "RollingUpdate"},
        persistentVolumeClaimRetentionPolicy={"whenDeleted": "Retain", "whenScaled": "Retain"},
    )
    if spec["updateStrategy"].get("type") == "RollingUpdate":
        _put(spec["updateStrategy"].setdefault("rollingUpdate", {}), partition=0)
    _template(spec)
    _put(value.setdefault("status", {}), replicas=0, availableReplicas=0)


def _pod(value: Json) -> None:
    _pod_spec(value["spec"])
    for container in value["spec"].get("containers") or ():
        if limits := container["resources"].get("limits"):  # what is not asked for is asked for up to its limit
            container["resources"]["requests"] = {**limits, **(container["resources"].get("requests") or {})}
    _put(
        value["spec"],
        enableServiceLinks=True,
        serviceAccountName="default",
        preemptionPolicy="PreemptLowerPriority",
        priority=0,
    )
    keys = {one.get("key") for one in value["spec"].setdefault("tolerations", [])}
    value["spec"]["tolerations"] += [
        {"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300}
        for key in ("node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable")
        if key not in keys
    ]
    _put(value.setdefault("status", {}), phase="Pending", qosClass=_quality(value["spec"]))


def _quality(spec: Json) -> str:
    """Return the class that a pod's requests and limits of CPU and memory put it into."""
    kept = [
        {
            sort: {name: held for name, held in (container["resources"].get(sort) or {}).items() if name in _COUNTED}
            for sort in ("requests", "limits")
        }
        for container in [*(spec.get("containers") or ()), *(spec.get("initContainers") or ())]
    ]
    if not any(one["requests"] or one["limits"] for one in kept):
        return "BestEffort"
    whole = all(len(one["limits"]) == len(_COUNTED) and one["requests"] == one["limits"] for one in kept)
    return "Guaranteed" if whole else "Burstable"


def _service(value: Json) -> None:
    spec = value["spec"]
    _put(spec, type="ClusterIP", sessionAffinity="None", internalTrafficPolicy="Cluster")
    for port in spec.get("ports") or ():
        _put(port, protocol="TCP", targetPort=port.get("port"))
    _put(value.setdefault("status", {}), loadBalancer={})


def _event(value: Json) -> None:
    _put(value, source={}, reportingComponent="", reportingInstance="")
    for name in ("eventTime", "firstTimestamp", "lastTimestamp"):
        value.setdefault(name, None)


def _budget(value: Json) -> None:
    counts = {"currentHealthy": 0, "desiredHealthy": 0, "disruptionsAllowed": 0, "expectedPods": 0}
    _put(value.setdefault("status", {}), **counts)


def _autoscaler(value: Json) -> None:
    _put(value["spec"], minReplicas=1)
    _put(value.setdefault("status", {}), desiredReplicas=0, currentMetrics=None)


def _namespace(value: Json) -> None:
    _put(value.setdefault("spec", {}), finalizers=["kubernetes"])
    _put(value.setdefault("status", {}), phase="Active")
    labels = value["metadata"].setdefault("labels", {})
    labels.setdefault("kubernetes.io/metadata.name", value["metadata"]["name"])


def _http_route(value: Json) -> None:
    spec = value["spec"]
    for parent in spec.get("parentRefs") or ():
        _put(parent, group="gateway.networking.k8s.io", kind="Gateway")
    _put(spec, rules=[{}])
    for rule in spec["rules"]:
        _put(rule, matches=[{"path": {"type": "PathPrefix", "value": "/"}}])
        for backend in rule.get("backendRefs") or ():
            _put(backend, group="", kind="Service", weight=1)


def _with_status(value: Json) -> None:
    value.setdefault("status", {})


_BY_PLURAL: dict[str, Callable[[Json], None]] = {
    "deployments": _deployment,
    "replicasets": _replica_set,
    "statefulsets": _stateful_set,
    "pods": _pod,
    "services": _service,
    "events": _event,
    "poddisruptionbudgets": _budget,
    "horizontalpodautoscalers": _autoscaler,
    "namespaces": _namespace,
    "nodes": _with_status,
    "httproutes": _http_route,
}


def fill_in(kind: Kind, value: Json) -> None:
    """Fill the defaults of ``kind`` into ``value``; an object without a ``spec`` is left to validation.

    What a definition gives a schema loses what that does not know, too.
    """
    if kind.schema is not None:
        shaped(kind.schema, value)
        return
    default = _BY_PLURAL.get(kind.plural)
    if default is None:
        return
    if kind.plural in ("namespaces", "nodes", "events") or isinstance(value.get("spec"), dict):
        default(value)
    if kind.plural == "deployments":
        value.setdefault("status", {})
    for name in _NOT_TOLD_AS_NONE.get(kind.plural, ()):
        if not (value.get("status") or {}).get(name, 1):
            del value["status"][name]
