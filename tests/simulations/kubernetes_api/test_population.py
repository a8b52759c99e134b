"""Is a large fleet there at once, and can the kubelet's double work over the API alone?"""

from __future__ import annotations

from typing import Any

from simulations.clock import VirtualClock
from simulations.kubernetes_api.controllers.hands import ApiHands
from simulations.kubernetes_api.controllers.kubelet import Kubelet
from simulations.kubernetes_api.running import RunningApi
from tests.builders_kubernetes_api import NAMESPACE, Clients, deployment


def test_copied_workloads_are_what_the_controllers_would_have_made(k8s: Clients, api: RunningApi) -> None:
    api.populate(deployment(replicas=2), copies=50)
    version = api.version
    assert api.settle() == 1
    assert api.version == version
    pods = k8s.core.list_namespaced_pod(NAMESPACE).items
    assert len({pod.metadata.name for pod in pods}) == len({pod.metadata.uid for pod in pods}) == 100
    k8s.apps.patch_namespaced_deployment_scale("engine-7", NAMESPACE, {"spec": {"replicas": 5}})
    api.settle()
    held = k8s.apps.read_namespaced_deployment("engine-7", NAMESPACE)
    assert held.status.available_replicas == 5
    mine = k8s.core.list_namespaced_pod(NAMESPACE, label_selector="app=engine-7").items
    assert len(mine) == 5
    assert all(pod.metadata.name.startswith("engine-7-") for pod in mine)


def test_the_kubelets_double_makes_pods_ready_over_the_api(k8s: Clients, api: RunningApi, clock: VirtualClock) -> None:
    def send(method: str, path: str, body: Any, content_type: str) -> dict[str, Any]:
        return k8s.raw(method, path, body, content_type or "application/json")

    api.kubelet.paused.set()
    k8s.apps.create_namespaced_deployment(NAMESPACE, deployment(replicas=2))
    api.settle()
    assert [pod.spec.node_name for pod in k8s.core.list_namespaced_pod(NAMESPACE).items] == [None, None]
    kubelet = Kubelet(ApiHands(send), clock)
    for _ in range(3):
        kubelet.step()
    api.settle()
    assert k8s.apps.read_namespaced_deployment("engine", NAMESPACE).status.ready_replicas == 2
    k8s.apps.patch_namespaced_deployment_scale("engine", NAMESPACE, {"spec": {"replicas": 0}})
    api.settle()
    kubelet.step()
    assert k8s.core.list_namespaced_pod(NAMESPACE).items == []
