"""What does ``/scale`` show of a workload, and what does writing it change?

The ``Scale`` of autoscaling/v1 has the workload's resourceVersion, so a stale PUT of it is a conflict. Only
``spec.replicas`` of the workload is written; its generation counts that as any change of the specification.
"""

from __future__ import annotations

from simulations.kubernetes_api.kinds import Kind, ScalePaths
from simulations.kubernetes_api.refusals import Faults422, Json
from simulations.kubernetes_api.selectors import field, selector_text
from simulations.kubernetes_api.validation import check_replicas, check_shape

_SCALE = Kind("autoscaling", "v1", "scales", "Scale")


def scale_of(paths: ScalePaths, value: Json) -> Json:
    """Return the ``Scale`` of a workload."""
    metadata = value["metadata"]
    shown = {
        key: metadata[key]
        for key in ("name", "namespace", "uid", "resourceVersion", "creationTimestamp")
        if key in metadata
    }
    status: Json = {"replicas": field(value, paths.status) or 0}
    selector = field(value, paths.selector) if paths.selector else None
    if text := selector if isinstance(selector, str) else selector_text(selector):
        status["selector"] = text
    return {
        "kind": "Scale",
        "apiVersion": "autoscaling/v1",
        "metadata": shown,
        "spec": {"replicas": field(value, paths.spec) or 0},
        "status": status,
    }


def with_scale(kind: Kind, paths: ScalePaths, value: Json, scale: Json) -> Json:
    """Write the replicas of ``scale`` into ``value``, a copy of the workload, and return it.

    Raises:
        Refusal: 400 for what is no whole number, 422 for fewer than none.
    """
    check_shape(_SCALE, scale)
    replicas = (scale.get("spec") or {}).get("replicas", 0)
    faults = Faults422()
    check_replicas(replicas, faults)
    faults.refuse(kind, value["metadata"]["name"], as_kind="Scale", as_group="autoscaling")
    *parents, last = paths.spec.split(".")
    place = value
    for name in parents:
        place = place.setdefault(name, {})
    place[last] = replicas
    asked = scale.get("metadata") or {}
    for name in ("resourceVersion", "uid"):
        if asked.get(name):
            value["metadata"][name] = asked[name]
    return value
