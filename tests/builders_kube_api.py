"""A fleet on the simulated API server, written as controllers and kubelets would write it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from controller.adapters.kube.reflector import Reflector
from controller.adapters.kube.settings import KubernetesSettings
from controller.adapters.system_clock import SystemClock
from simulations.kubernetes_api.running import RunningApi
from tests.builders_kube import running, template_json

MERGE = "application/merge-patch+json"
Json = dict[str, Any]


def settings_for(api: RunningApi, folder: Path, **more: Any) -> KubernetesSettings:
    """Return settings whose watches last a second, of the namespace ``prod``."""
    token = more.pop("known_as", "")
    file = api.write_kubeconfig(folder / "kubeconfig", token)
    quick: dict[str, Any] = {"watch_s": 1, "stale_after_s": 30.0, "timeout_s": 5.0, "connect_timeout_s": 1.0}
    return KubernetesSettings(**{"kubeconfig": file, "namespaces": ("prod",), **quick, **more})


def caught_up(api: RunningApi, reflectors: Iterable[Reflector[Any]], within_s: float = 8.0) -> bool:
    """Wait until watches have shown all that they can; return whether they have."""
    elapsed = SystemClock().elapsed
    end_s = elapsed() + within_s
    last = [(one.store, api.last_change(one.resource.group, one.resource.plural, one.namespace)) for one in reflectors]
    return all(store.wait_for(str(version), max(0.0, end_s - elapsed())) for store, version in last)


class Fleet:
    """Writes objects past every fault and rule."""

    def __init__(self, api: RunningApi, namespace: str = "prod") -> None:
        self.api, self.namespace = api, namespace
        body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}}
        api.call("POST", "/api/v1/namespaces", body)

    def path(self, plural: str, name: str = "", sub: str = "") -> str:
        root = "/api/v1" if plural == "pods" else "/apis/apps/v1"
        return "/".join(filter(None, (f"{root}/namespaces/{self.namespace}/{plural}", name, sub)))

    def create(self, plural: str, name: str, **more: Any) -> Json:
        kind = {"pods": "Pod", "deployments": "Deployment", "replicasets": "ReplicaSet"}[plural]
        meta = {"name": name, "namespace": self.namespace, **more.pop("metadata", {})}
        body = {"apiVersion": "v1" if plural == "pods" else "apps/v1", "kind": kind, "metadata": meta, **more}
        return self.api.call("POST", self.path(plural), body)

    def patch(self, plural: str, name: str, body: Json, sub: str = "") -> Json:
        return self.api.call("PATCH", self.path(plural, name, sub), body, MERGE)

    def delete(self, plural: str, name: str) -> None:
        self.api.call("DELETE", f"{self.path(plural, name)}?gracePeriodSeconds=0")

    def deployment(self, name: str = "llama", pods: int = 2, **marks: str) -> Json:
        """Write a Deployment with its ReplicaSet and pods that serve; return the Deployment."""
        labels = {f"foresail.dev/{key}": said for key, said in {"model": name, **marks}.items()}
        template = template_json(labels={"app": name})
        spec = {"replicas": pods, "selector": {"matchLabels": {"app": name}}, "template": template}
        number = {"deployment.kubernetes.io/revision": "1"}
        owner = self.create("deployments", name, metadata={"labels": labels, "annotations": number}, spec=spec)
        replica_set = self.create(
            "replicasets",
            f"{name}-abc",
            metadata={
                "labels": {"app": name, "pod-template-hash": "abc"},
                "annotations": number,
                "ownerReferences": [self.owned_by(owner)],
            },
            spec=spec,
        )
        for count in range(pods):
            self.pod(f"{name}-abc-{count}", replica_set)
        return owner

    def owned_by(self, owner: Json) -> Json:
        meta = owner["metadata"]
        return {
            "apiVersion": owner["apiVersion"],
            "kind": owner["kind"],
            "name": meta["name"],
            "uid": meta["uid"],
            "controller": True,
        }

    def pod(self, name: str, owner: Json) -> Json:
        """Write a pod that serves."""
        labels = {**owner["metadata"]["labels"], "foresail.dev/serving": "true"}
        made = self.create(
            "pods",
            name,
            metadata={"labels": labels, "ownerReferences": [self.owned_by(owner)]},
            spec={**template_json()["spec"], "nodeName": "node-a"},
        )
        at = made["metadata"]["creationTimestamp"]
        status = {
            "phase": "Running",
            "podIP": "10.0.0.7",
            "conditions": [
                {"type": "PodScheduled", "status": "True", "lastTransitionTime": at},
                {"type": "Ready", "status": "True", "lastTransitionTime": at},
            ],
            "containerStatuses": [running()],
        }
        return self.patch("pods", name, {"status": status}, "status")
