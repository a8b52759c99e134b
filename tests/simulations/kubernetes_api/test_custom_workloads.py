"""Do LeaderWorkerSets, Argo Rollouts and HTTPRoutes behave as their own controllers make them?"""

from __future__ import annotations

from typing import Any

import pytest

from simulations.clock import VirtualClock
from simulations.kubernetes_api.running import RunningApi
from tests.builders_kubernetes_api import NAMESPACE, Clients, deployment

LWS = ("leaderworkerset.x-k8s.io", "v1", NAMESPACE, "leaderworkersets")
ROLLOUTS = ("argoproj.io", "v1alpha1", NAMESPACE, "rollouts")
NEW_IMAGE = {"spec": {"template": {"spec": {"containers": [{"name": "engine", "image": "vllm:2"}]}}}}


def pods(k8s: Clients, image: str = "") -> list[str]:
    found = k8s.core.list_namespaced_pod(NAMESPACE).items
    return [pod.metadata.name for pod in found if not image or pod.spec.containers[0].image == image]


def rollout(k8s: Clients) -> dict[str, Any]:
    told: dict[str, Any] = k8s.custom.get_namespaced_custom_object(*ROLLOUTS, "engine")
    return told


@pytest.fixture
def _canary(k8s: Clients, api: RunningApi) -> None:
    """A healthy Rollout of four pods whose next template pauses at a quarter."""
    steps = [{"setWeight": 25}, {"pause": {}}, {"setWeight": 50}, {"pause": {"duration": "60s"}}]
    body = deployment(replicas=4, strategy={"canary": {"steps": steps}})
    body |= {"apiVersion": "argoproj.io/v1alpha1", "kind": "Rollout"}
    k8s.custom.create_namespaced_custom_object(*ROLLOUTS, body)
    api.settle()
    assert rollout(k8s)["status"]["phase"] == "Healthy"
    k8s.custom.patch_namespaced_custom_object(*ROLLOUTS, "engine", NEW_IMAGE)
    api.settle()


@pytest.mark.usefixtures("_canary")
def test_a_canary_waits_at_its_pause_and_goes_on_when_promoted(
    k8s: Clients, api: RunningApi, clock: VirtualClock
) -> None:
    status = rollout(k8s)["status"]
    assert (status["phase"], status["currentStepIndex"]) == ("Paused", 1)
    assert (len(pods(k8s, "vllm:1")), len(pods(k8s, "vllm:2"))) == (3, 1)
    k8s.custom.patch_namespaced_custom_object_status(*ROLLOUTS, "engine", {"status": {"pauseConditions": None}})
    api.settle()
    assert (len(pods(k8s, "vllm:1")), len(pods(k8s, "vllm:2"))) == (2, 2)
    clock.advance_to(clock.now() + 60)
    api.settle()
    assert (pods(k8s, "vllm:1"), len(pods(k8s, "vllm:2"))) == ([], 4)
    assert rollout(k8s)["status"]["phase"] == "Healthy"


@pytest.mark.usefixtures("_canary")
def test_an_aborted_canary_is_degraded_until_its_template_is_the_stable_one(k8s: Clients, api: RunningApi) -> None:
    k8s.custom.patch_namespaced_custom_object_status(*ROLLOUTS, "engine", {"status": {"abort": True}})
    api.settle()
    assert (len(pods(k8s, "vllm:1")), pods(k8s, "vllm:2")) == (4, [])
    assert rollout(k8s)["status"]["phase"] == "Degraded"
    back = {"spec": {"template": {"spec": {"containers": [{"name": "engine", "image": "vllm:1"}]}}}}
    k8s.custom.patch_namespaced_custom_object(*ROLLOUTS, "engine", back)
    api.settle()
    assert rollout(k8s)["status"]["phase"] == "Healthy"


@pytest.mark.usefixtures("_canary")
def test_the_template_that_a_replica_set_keeps_is_its_old_revision(k8s: Clients, api: RunningApi) -> None:
    good = rollout(k8s)["status"]["stableRS"]
    sets = k8s.raw("GET", f"/apis/apps/v1/namespaces/{NAMESPACE}/replicasets")["items"]
    kept = next(one for one in sets if one["metadata"]["name"] == f"engine-{good}")["spec"]["template"]
    del kept["metadata"]["labels"]["rollouts-pod-template-hash"]
    assert kept != rollout(k8s)["spec"]["template"]
    k8s.raw(
        "PATCH",
        f"/apis/argoproj.io/v1alpha1/namespaces/{NAMESPACE}/rollouts/engine",
        [{"op": "replace", "path": "/spec/template", "value": kept}],
        "application/json-patch+json",
    )
    api.settle()
    status = rollout(k8s)["status"]
    assert (status["currentPodHash"], status["stableRS"], status["phase"]) == (good, good, "Healthy")
    assert (len(pods(k8s, "vllm:1")), pods(k8s, "vllm:2")) == (4, [])


def test_groups_of_a_leader_worker_set_are_made_scaled_and_rolled_whole(k8s: Clients, api: RunningApi) -> None:
    template = {"spec": {"containers": [{"name": "engine", "image": "vllm:1"}]}}
    body = {
        "apiVersion": "leaderworkerset.x-k8s.io/v1",
        "kind": "LeaderWorkerSet",
        "metadata": {"name": "prefill"},
        "spec": {"replicas": 2, "leaderWorkerTemplate": {"size": 3, "workerTemplate": template}},
    }
    k8s.custom.create_namespaced_custom_object(*LWS, body)
    api.settle()
    group = ["prefill-0", "prefill-0-1", "prefill-0-2"]
    assert pods(k8s) == [*group, "prefill-1", "prefill-1-1", "prefill-1-2"]
    status = k8s.custom.get_namespaced_custom_object_status(*LWS, "prefill")["status"]
    assert (status["replicas"], status["readyReplicas"], status["updatedReplicas"]) == (2, 2, 2)
    change = {
        "spec": {
            "leaderWorkerTemplate": {
                "workerTemplate": {"spec": {"containers": [{"name": "engine", "image": "vllm:2"}]}}
            }
        }
    }
    k8s.custom.patch_namespaced_custom_object(*LWS, "prefill", change)
    api.settle()
    assert len(pods(k8s, "vllm:2")) == 6
    k8s.custom.patch_namespaced_custom_object_scale(*LWS, "prefill", {"spec": {"replicas": 1}})
    api.settle()
    assert pods(k8s) == group


def test_a_route_is_acknowledged_by_generation_and_tells_a_backend_that_is_missing(
    k8s: Clients, api: RunningApi
) -> None:
    routes = ("gateway.networking.k8s.io", "v1", NAMESPACE, "httproutes")
    backends = [{"name": "pool-a", "port": 8000, "weight": 1}, {"name": "pool-b", "port": 8000, "weight": 0}]
    body = {
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "HTTPRoute",
        "metadata": {"name": "llm"},
        "spec": {"parentRefs": [{"name": "inference"}], "rules": [{"backendRefs": backends}]},
    }
    k8s.custom.create_namespaced_custom_object(*routes, body)
    for name in ("pool-a", "pool-b"):
        k8s.core.create_namespaced_service(NAMESPACE, {"metadata": {"name": name}, "spec": {"ports": [{"port": 8000}]}})
    api.settle()

    def conditions() -> dict[str, tuple[str, int]]:
        [parent] = k8s.custom.get_namespaced_custom_object(*routes, "llm")["status"]["parents"]
        return {one["type"]: (one["reason"], one["observedGeneration"]) for one in parent["conditions"]}

    assert conditions() == {"Accepted": ("Accepted", 1), "ResolvedRefs": ("ResolvedRefs", 1)}
    api.gateways.paused.set()
    backends[1]["name"] = "pool-c"
    k8s.custom.patch_namespaced_custom_object(*routes, "llm", {"spec": {"rules": [{"backendRefs": backends}]}})
    api.settle()
    assert conditions()["Accepted"] == ("Accepted", 1)
    api.gateways.paused.clear()
    api.settle()
    assert conditions() == {"Accepted": ("Accepted", 2), "ResolvedRefs": ("BackendNotFound", 2)}
