"""Objects of a Kubernetes API as JSON, as a server tells of them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

T0 = 1_790_000_000.0
"""When the objects were made, in seconds since the epoch."""

Json = dict[str, Any]


def stamp(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def metadata(name: str, *, at: float = T0, owner: tuple[str, str] | None = None, **more: Any) -> Json:
    """Return metadata; ``owner`` is the kind and name of the controller, whose uid is that name with ``uid-``."""
    told: Json = {"name": name, "namespace": "prod", "uid": f"uid-{name}", "creationTimestamp": stamp(at), **more}
    if owner:
        kind, owner_name = owner
        told["ownerReferences"] = [{"kind": kind, "name": owner_name, "uid": f"uid-{owner_name}", "controller": True}]
    return told


def container_json(name: str = "vllm", gpus: int | str = 0, ports: tuple[tuple[str, int], ...] = ()) -> Json:
    told: Json = {"name": name, "image": "engine:1"}
    if gpus:
        told["resources"] = {"limits": {"nvidia.com/gpu": str(gpus)}}
    if ports:
        told["ports"] = [{"name": called, "containerPort": port} for called, port in ports]
    return told


def template_json(*containers: Json, labels: dict[str, str] | None = None, **spec: Any) -> Json:
    told = list(containers) or [container_json(gpus=2, ports=(("http", 8000),))]
    return {"metadata": {"labels": labels or {"app": "llama"}}, "spec": {"containers": told, **spec}}


def running(name: str = "vllm", *, at: float = T0 + 20, restarts: int = 0, last: Json | None = None) -> Json:
    return {
        "name": name,
        "restartCount": restarts,
        "state": {"running": {"startedAt": stamp(at)}},
        "lastState": {"terminated": last} if last else {},
    }


def exited(at: float, reason: str = "Error", code: int = 1) -> Json:
    return {"finishedAt": stamp(at), "reason": reason, "exitCode": code}


def stopped(last: Json, name: str = "vllm", *, restarts: int = 0) -> Json:
    return {"name": name, "restartCount": restarts, "state": {"terminated": last}, "lastState": {}}


def waiting(reason: str, name: str = "vllm", *, restarts: int = 0, last: Json | None = None) -> Json:
    return {
        "name": name,
        "restartCount": restarts,
        "state": {"waiting": {"reason": reason, "message": "back-off 5m0s"}},
        "lastState": {"terminated": last} if last else {},
    }


def pod_json(
    name: str = "llama-1",
    *statuses: Json,
    owner: tuple[str, str] | None = ("ReplicaSet", "llama-abc"),
    at: float = T0,
    node: str = "node-a",
    placed_at: float = T0 + 5,
    ready_at: float | None = None,
    unready_at: float = T0 + 5,
    labels: dict[str, str] | None = None,
    phase: str = "Running",
    spec: Json | None = None,
    **meta: Any,
) -> Json:
    """Return a pod, placed unless ``node`` is empty, ready since ``ready_at`` unless that is None."""
    conditions = [
        {"type": "PodScheduled", "status": "True", "lastTransitionTime": stamp(placed_at)}
        if node
        else {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "lastTransitionTime": stamp(at)},
        {
            "type": "Ready",
            "status": "False" if ready_at is None else "True",
            "lastTransitionTime": stamp(unready_at if ready_at is None else ready_at),
        },
    ]
    known = {"pod-template-hash": "abc", "foresail.dev/serving": "true"} if labels is None else labels
    return {
        "metadata": metadata(name, at=at, owner=owner, labels=known, resourceVersion="1", **meta),
        "spec": {**(spec or template_json()["spec"]), **({"nodeName": node} if node else {})},
        "status": {
            "phase": phase if node else "Pending",
            "conditions": conditions,
            "containerStatuses": list(statuses),
            **({"podIP": "10.0.0.7"} if statuses else {}),
        },
    }


def ready_pod(name: str = "llama-1", **more: Any) -> Json:
    return pod_json(name, running(), **{"ready_at": T0 + 120, **more})


def workload_json(name: str = "llama", *, replicas: object = 2, generation: int = 3, **more: Any) -> Json:
    """Return a Deployment unless ``spec`` says otherwise; ``meta``, ``spec`` and ``status`` go over what is there."""
    labels = {"foresail.dev/model": "llama", "foresail.dev/pool": "a100"}
    return {
        "metadata": {
            **metadata(name, labels=labels, generation=generation, resourceVersion="1"),
            "annotations": {"deployment.kubernetes.io/revision": "2"},
            **more.get("meta", {}),
        },
        "spec": {"replicas": replicas, "template": template_json(), **more.get("spec", {})},
        "status": {"observedGeneration": generation, **more.get("status", {})},
    }


def replica_set_json(name: str = "llama-abc", number: int = 2, *, at: float = T0, owner: str = "llama") -> Json:
    return {
        "metadata": {
            **metadata(name, at=at, owner=("Deployment", owner), labels={"pod-template-hash": name.rpartition("-")[2]}),
            "annotations": {"deployment.kubernetes.io/revision": str(number)},
        }
    }
