"""What does a large fleet show over a Kubernetes API? A server of its own, as a process, whose pods change on demand.

Run as a process of its own, so that neither its memory nor its time are those of what is measured:
``python -m simulations.cluster_process WORKLOADS REPLICAS``. It prints its kubeconfig as one line of JSON, and answers
each line of its standard input by one:

* ``touch WORKLOADS PODS``: change so many pods in each of so many workloads at once; the answer is the resourceVersion
  of the first of these changes and that of the last.
* ``churn RATE``: change so many pods a second from now on, one after the other; 0 ends that.
"""

from __future__ import annotations

import json
import sys
import threading
from typing import Any

from simulations.kubernetes_api.kinds import POD
from simulations.kubernetes_api.running import RunningApi, running_api

NAMESPACE = "fleet"
_GPUS_PER_NODE = 8
_STEP_S = 0.1
_MODEL = "foresail.dev/model"


def engines(name: str, replicas: int) -> dict[str, Any]:
    """Return a Deployment of engines, written down as fully as people do."""
    labels = {"app.kubernetes.io/name": "vllm", "app.kubernetes.io/instance": name, _MODEL: name}
    probe = {"httpGet": {"path": "/health", "port": "http"}, "periodSeconds": 5, "timeoutSeconds": 3}
    container = {
        "name": "engine",
        "image": "registry.example.com/serving/vllm-openai:v0.11.0",
        "args": ["--model=/models/weights", f"--served-model-name={name}", "--gpu-memory-utilization=0.92"],
        "ports": [{"name": "http", "containerPort": 8000}],
        "env": [
            {"name": "POD_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
            {"name": "VLLM_LOGGING_LEVEL", "value": "INFO"},
            {"name": "HF_TOKEN", "valueFrom": {"secretKeyRef": {"name": "hub", "key": "token"}}},
        ],
        "resources": {
            "requests": {"cpu": "8", "memory": "64Gi", "nvidia.com/gpu": "1"},
            "limits": {"memory": "64Gi", "nvidia.com/gpu": "1"},
        },
        "startupProbe": {**probe, "failureThreshold": 180},
        "readinessProbe": probe,
        "livenessProbe": {**probe, "failureThreshold": 6},
        "volumeMounts": [
            {"name": "weights", "mountPath": "/models", "readOnly": True},
            {"name": "shm", "mountPath": "/dev/shm"},  # noqa: S108 - a mount in a pod, no file of ours
        ],
    }
    spec = {
        "containers": [container],
        "terminationGracePeriodSeconds": 120,
        "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}],
        "volumes": [
            {"name": "weights", "persistentVolumeClaim": {"claimName": "weights", "readOnly": True}},
            {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": "16Gi"}},
        ],
    }
    template = {"metadata": {"labels": {**labels, "foresail.dev/serving": "true"}}, "spec": spec}
    selector = {"matchLabels": {"app.kubernetes.io/instance": name}}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "namespace": NAMESPACE, "labels": labels},
        "spec": {"replicas": replicas, "selector": selector, "template": template},
    }


class LargeFleet:
    """The pods of a fleet on an API server, which can be changed fast: past the API, as ``populate`` makes them."""

    def __init__(self, api: RunningApi, workloads: int, replicas: int) -> None:
        self._store = api.api.store
        self._compact = api.compact
        api.add_nodes(replicas // _GPUS_PER_NODE + 1, gpus=_GPUS_PER_NODE)
        api.call("POST", "/api/v1/namespaces", {"metadata": {"name": NAMESPACE}})
        size, more = divmod(replicas, workloads)
        for name, count, copies in (("qwen3-8b", size + 1, more), ("llama-3.1-8b", size, workloads - more)):
            if copies:
                api.populate(engines(name, count), copies)
        self._pods: dict[str, list[tuple[str, str]]] = {}
        for stored in self._store.all(POD, NAMESPACE):
            metadata = stored.value["metadata"]
            self._pods.setdefault(metadata["labels"][_MODEL], []).append((NAMESPACE, metadata["name"]))
        self._round = 0
        self._rate = 0.0

    def touch(self, workloads: int, pods: int) -> tuple[int, int]:
        """Change pods at once; return the first and the last resourceVersion. Earlier changes are forgotten."""
        self._compact()
        with self._store.changed:
            before = self._store.version
            for keys in list(self._pods.values())[:workloads]:
                for key in keys[:pods]:
                    self._change(key)
            return before + 1, self._store.version

    def churn(self, rate: float) -> None:
        """Change so many pods a second from now on. Earlier changes are forgotten."""
        self._compact()
        self._rate = rate

    def run(self, ended: threading.Event) -> None:
        """Change pods at the rate that was asked for; the body of a thread."""
        keys = [key for several in self._pods.values() for key in several]
        place, due = 0, 0.0
        while not ended.wait(_STEP_S):
            due += self._rate * _STEP_S
            for _ in range(int(due)):
                self._change(keys[place % len(keys)])
                place += 1
            due %= 1.0

    def _change(self, key: tuple[str, str]) -> None:
        with self._store.changed:
            held = self._store.get(POD, key)
            if held is not None:
                value = held.fresh()
                self._round += 1
                value["metadata"]["labels"]["bench.example.com/change"] = str(self._round)
                self._store.put(POD, key, value)


def serve(workloads: int, replicas: int) -> None:
    """Serve the fleet until there is nobody any more who could say a line."""
    with running_api(kept_changes=2 * replicas + 1000) as api:
        fleet = LargeFleet(api, workloads, replicas)
        _say(json.dumps(api.kubeconfig(namespace=NAMESPACE)))
        ended = threading.Event()
        threading.Thread(target=fleet.run, args=(ended,), daemon=True).start()
        for line in sys.stdin:
            match line.split():
                case ["touch", count, pods]:
                    _say("{} {}".format(*fleet.touch(int(count), int(pods))))
                case ["churn", rate]:
                    fleet.churn(float(rate))
                    _say("ok")
        ended.set()


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    serve(*map(int, sys.argv[1:3]))
