"""Which objects does the API server not take?

A selection: names, what a workload needs to make pods, what may not change, and the bounds that an autoscaler or a
traffic writer can violate. Wording follows the API server's field errors.
"""

from __future__ import annotations

import json
import re

from simulations.kubernetes_api.kinds import DEFINITION, Kind
from simulations.kubernetes_api.refusals import Faults422, Json, Refusal, bad_request
from simulations.kubernetes_api.selectors import field, matches_labels
from simulations.kubernetes_api.structural_schemas import check_schema, problems_of

_SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
_SUBDOMAIN_RULE = (
    "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and "
    "end with an alphanumeric character (e.g. 'example.com', regex used for validation is "
    "'[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"
)
_LABEL_RULE = (
    "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with "
    "an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is "
    "'[a-z0-9]([-a-z0-9]*[a-z0-9])?')"
)
_NOT_NEGATIVE = "must be greater than or equal to 0"
_IMMUTABLE = "field is immutable"
_STATEFUL_MUTABLE = frozenset(
    {
        "replicas",
        "ordinals",
        "template",
        "updateStrategy",
        "revisionHistoryLimit",
        "persistentVolumeClaimRetentionPolicy",
        "minReadySeconds",
    }
)
_POD_MUTABLE = frozenset(
    {
        "containers",
        "initContainers",
        "activeDeadlineSeconds",
        "tolerations",
        "schedulingGates",
        "terminationGracePeriodSeconds",
    }
)
APPROVED = "api-approved.kubernetes.io"
MOST_WEIGHT = 1_000_000
MOST_BACKENDS = 16


def check(kind: Kind, value: Json, before: Json | None, subresource: str = "") -> None:
    """Refuse ``value`` if it is not valid, or not as a change of ``before`` through ``subresource``.

    Raises:
        Refusal: 422 with a cause for every field.
    """
    faults = Faults422()
    name = str(value["metadata"].get("name", ""))
    _check_name(kind, name, faults)
    if kind.schema is not None:
        check_schema(kind.schema, value, faults)
    elif kind is DEFINITION:
        _check_definition(value, faults)
    elif kind.plural in ("deployments", "replicasets", "statefulsets"):
        _check_workload(kind, value, before, faults)
    elif kind.plural == "pods":
        _check_pod(value, None if subresource == "binding" else before, faults)
    elif kind.plural == "httproutes":
        _check_route(value, faults)
    elif kind.plural == "events":
        _check_event(value, faults)
    elif kind.plural == "leases":
        _check_lease(value, faults)
    elif kind.plural == "horizontalpodautoscalers":
        _check_autoscaler(value, faults)
    elif kind.plural == "poddisruptionbudgets":
        _check_budget(value, faults)
    faults.refuse(kind, name)


def check_shape(kind: Kind, value: Json) -> None:
    """Refuse what does not fit into the types of ``kind``: parts that are no maps, replicas that are no whole number.

    Raises:
        Refusal: 400.
    """
    for part in ("metadata", "spec", "status"):
        if not isinstance(value.get(part, {}), dict):
            raise _misfit(kind, part, value[part])
    replicas = field(value, "spec.replicas")
    if replicas is not None and (not isinstance(replicas, int) or isinstance(replicas, bool)):
        raise _misfit(kind, "spec.replicas", replicas)


def _misfit(kind: Kind, place: str, held: object) -> Refusal:
    sort = {str: "string", bool: "bool", float: f"number {held}", int: "number", list: "array"}.get(type(held), "null")
    return bad_request(
        f'{kind.kind} in version "{kind.version}" cannot be handled as a {kind.kind}: json: cannot unmarshal {sort} '
        f"into Go struct field {kind.kind}.{place}"
    )


def check_replicas(replicas: object, faults: Faults422) -> None:
    """Note a count of replicas below zero."""
    if isinstance(replicas, int) and replicas < 0:
        faults.invalid("spec.replicas", replicas, _NOT_NEGATIVE)


def _check_name(kind: Kind, name: str, faults: Faults422) -> None:
    if not name:
        faults.required("metadata.name", "name or generateName is required")
    elif kind.plural in ("namespaces", "services"):
        if len(name) > 63 or not _LABEL.fullmatch(name):
            faults.invalid("metadata.name", name, _LABEL_RULE)
    elif len(name) > 253 or not _SUBDOMAIN.fullmatch(name):
        faults.invalid("metadata.name", name, _SUBDOMAIN_RULE)


def _check_workload(kind: Kind, value: Json, before: Json | None, faults: Faults422) -> None:
    spec = value.get("spec") or {}
    check_replicas(spec.get("replicas"), faults)
    selector, labels = spec.get("selector"), field(spec, "template.metadata.labels")
    if not selector:
        faults.required("spec.selector")
    elif not matches_labels(selector, labels):
        faults.invalid(
            "spec.template.metadata.labels", json.dumps(labels or {}), "`selector` does not match template `labels`"
        )
    if not field(spec, "template.spec.containers"):
        faults.required("spec.template.spec.containers")
    if before is None:
        return
    held = before.get("spec") or {}
    if kind.plural == "statefulsets":
        if any(spec.get(key) != held.get(key) for key in {*spec, *held} - _STATEFUL_MUTABLE):
            faults.forbidden(
                "spec",
                "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', "
                "'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and "
                "'minReadySeconds' are forbidden",
            )
    elif selector != held.get("selector"):
        faults.invalid("spec.selector", json.dumps(selector), _IMMUTABLE)


def _check_pod(value: Json, before: Json | None, faults: Faults422) -> None:
    spec = value.get("spec") or {}
    if not spec.get("containers"):
        faults.required("spec.containers")
    if before is None:
        return
    held = before.get("spec") or {}
    if any(spec.get(key) != held.get(key) for key in {*spec, *held} - _POD_MUTABLE):
        faults.forbidden("spec", "pod updates may not change fields other than `spec.containers[*].image`")


def _check_route(value: Json, faults: Faults422) -> None:
    for at, rule in enumerate(field(value, "spec.rules") or ()):
        backends = rule.get("backendRefs") or ()
        if len(backends) > MOST_BACKENDS:
            faults.too_many(f"spec.rules[{at}].backendRefs", len(backends), MOST_BACKENDS)
        for place, backend in enumerate(backends):
            weight, where = backend.get("weight", 1), f"spec.rules[{at}].backendRefs[{place}].weight"
            if weight < 0:
                faults.invalid(where, weight, f"{where} in body should be greater than or equal to 0")
            elif weight > MOST_WEIGHT:
                faults.invalid(where, weight, f"{where} in body should be less than or equal to 1e+06")


def _check_definition(value: Json, faults: Faults422) -> None:
    spec, metadata = value.get("spec") or {}, value["metadata"]
    group, plural = spec.get("group", ""), field(spec, "names.plural")
    if metadata.get("name") != (named := f"{plural}.{group}"):
        faults.invalid("metadata.name", metadata.get("name", ""), f'must be spec.names.plural+"."+spec.group: {named}')
    protected = group.endswith((".k8s.io", ".kubernetes.io"))
    if protected and not (metadata.get("annotations") or {}).get(APPROVED):
        faults.required(f"metadata.annotations[{APPROVED}]", "protected groups must have approval annotation")
    for at, version in enumerate(spec.get("versions") or ()):
        schema, place = field(version, "schema.openAPIV3Schema"), f"spec.versions[{at}].schema.openAPIV3Schema"
        if not schema:
            faults.required(place, "schemas are required")
        for where in problems_of(schema or {"type": "object"}):
            faults.required(f"{place}{where}.type", "must not be empty for specified object fields")


def _check_event(value: Json, faults: Faults422) -> None:
    """An Event stands beside what it is about; beside what is in no namespace, in ``default``."""
    place = field(value, "involvedObject.namespace") or ""
    if (place or "default") != value["metadata"].get("namespace"):
        faults.invalid("involvedObject.namespace", place, "does not match event.namespace")


def _check_lease(value: Json, faults: Faults422) -> None:
    spec = value.get("spec") or {}
    if (duration := spec.get("leaseDurationSeconds")) is not None and duration <= 0:
        faults.invalid("spec.leaseDurationSeconds", duration, "must be greater than 0")
    if (transitions := spec.get("leaseTransitions")) is not None and transitions < 0:
        faults.invalid("spec.leaseTransitions", transitions, _NOT_NEGATIVE)


def _check_autoscaler(value: Json, faults: Faults422) -> None:
    spec = value.get("spec") or {}
    most, least = spec.get("maxReplicas", 0), spec.get("minReplicas", 1)
    if most < 1:
        faults.invalid("spec.maxReplicas", most, "must be greater than 0")
    elif most < least:
        faults.invalid("spec.maxReplicas", most, "must be greater than or equal to `minReplicas`")


def _check_budget(value: Json, faults: Faults422) -> None:
    spec = value.get("spec") or {}
    if spec.get("minAvailable") is not None and spec.get("maxUnavailable") is not None:
        faults.invalid("spec", json.dumps(spec), "minAvailable and maxUnavailable cannot be both set")
