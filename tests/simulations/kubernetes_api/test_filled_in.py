"""Is what the server fills in, leaves out or writes otherwise what a real one does? All of it was compared with one."""

from __future__ import annotations

import json
from typing import Any

import pytest

from simulations.kubernetes_api.quantities import canonical
from simulations.kubernetes_api.refusals import Refusal
from simulations.kubernetes_api.requests import Request
from simulations.kubernetes_api.running import RunningApi
from tests.builders_kubernetes_api import NAMESPACE, deployment

APPS, CORE = f"/apis/apps/v1/namespaces/{NAMESPACE}", f"/api/v1/namespaces/{NAMESPACE}"
QUANTITIES = {
    2: "2", 0.1: "100m", "1000m": "1", "1024Mi": "1Gi", "0.5": "500m", "1500M": "1500M", "1e3": "1e3", "2Ei": "2Ei",
    "1E": "1E", "1Ki": "1Ki", "0.5Gi": "512Mi", "1.5Gi": "1536Mi", "100Ki": "100Ki", "0": "0", "1000Ki": "1000Ki",
    "12e6": "12e6", "1024": "1024", "2048k": "2048k", "1.0": "1", "1Ti": "1Ti", "512Ki": "512Ki", "0.5Ki": "512",
}  # fmt: skip
"""As kube-apiserver 1.20.2 wrote them."""


def a_pod(name: str = "a", **resources: Any) -> dict[str, Any]:
    container = {"name": "engine", "image": "vllm:1", "resources": resources}
    return {"metadata": {"name": name}, "spec": {"containers": [container]}}


def in_form(api: RunningApi, path: str, form: str) -> dict[str, Any]:
    accept = f"application/json;as={form};g=meta.k8s.io;v=v1,application/json"
    told: dict[str, Any] = json.loads(api.api.answer(Request("GET", path, headers={"accept": accept})).text)
    return told


def test_quantities_are_written_in_their_canonical_form() -> None:
    assert {given: canonical(given) for given in QUANTITIES} == QUANTITIES
    assert [canonical(odd) for odd in ("", "1 Gi", "many", None, True, [1])] == ["", "1 Gi", "many", None, True, [1]]


def test_quantities_of_templates_and_pods_are_canonical_and_a_limit_is_asked_for(api: RunningApi) -> None:
    limits = {"cpu": 2, "memory": "1024Mi", "nvidia.com/gpu": 4}
    body = deployment()
    body["spec"]["template"]["spec"]["containers"][0]["resources"] = {"limits": limits}
    held = api.call("POST", f"{APPS}/deployments", body)["spec"]["template"]["spec"]["containers"][0]["resources"]
    told = {"cpu": "2", "memory": "1Gi", "nvidia.com/gpu": "4"}
    assert held == {"limits": told}
    pod = api.call("POST", f"{CORE}/pods", a_pod(limits=limits, requests={"cpu": "500m"}))
    assert pod["spec"]["containers"][0]["resources"] == {"limits": told, "requests": {**told, "cpu": "500m"}}


@pytest.mark.parametrize(
    ("resources", "quality"),
    [
        ({}, "BestEffort"),
        ({"limits": {"nvidia.com/gpu": 1}}, "BestEffort"),
        ({"requests": {"cpu": 1}}, "Burstable"),
        ({"limits": {"cpu": 1, "memory": "1Gi"}}, "Guaranteed"),
    ],
)
def test_a_pod_is_of_the_class_that_its_resources_put_it_into(
    api: RunningApi, resources: dict[str, Any], quality: str
) -> None:
    assert api.call("POST", f"{CORE}/pods", a_pod(**resources))["status"]["qosClass"] == quality


def test_counts_of_none_are_left_out_of_a_status(api: RunningApi) -> None:
    api.kubelet.paused.set()
    api.call("POST", f"{APPS}/deployments", deployment(replicas=2))
    api.settle()
    status = api.call("GET", f"{APPS}/deployments/engine")["status"]
    assert (status["replicas"], status["unavailableReplicas"]) == (2, 2)
    assert not {"readyReplicas", "availableReplicas"} & status.keys()
    assert api.settle() == 1  # and are not written again and again


def test_items_of_a_list_say_their_kind_only_where_that_was_defined(api: RunningApi) -> None:
    api.call("POST", f"{APPS}/deployments", deployment())
    (item,) = api.call("GET", f"{APPS}/deployments")["items"]
    assert not {"kind", "apiVersion"} & item.keys()
    one = api.call("GET", f"{APPS}/deployments/engine")
    assert (one["kind"], one["apiVersion"]) == ("Deployment", "apps/v1")
    assert {key: held for key, held in one.items() if key not in ("kind", "apiVersion")} == item


def test_metadata_alone_is_sent_where_that_is_asked_for_and_null_for_no_items(api: RunningApi) -> None:
    empty = in_form(api, f"{APPS}/deployments", "PartialObjectMetadataList")
    assert (empty["kind"], empty["items"]) == ("PartialObjectMetadataList", None)
    assert empty["metadata"]["resourceVersion"]
    api.call("POST", f"{APPS}/deployments", deployment())
    (item,) = in_form(api, f"{APPS}/deployments", "PartialObjectMetadataList")["items"]
    assert item.keys() == {"kind", "apiVersion", "metadata"}
    assert item["metadata"]["name"] == "engine"
    assert in_form(api, f"{APPS}/deployments/engine", "PartialObjectMetadata")["kind"] == "PartialObjectMetadata"


def test_a_pod_without_a_node_is_an_endpoint_without_one(api: RunningApi) -> None:
    api.kubelet.paused.set()
    service = {"metadata": {"name": "engine"}, "spec": {"selector": {"app": "engine"}, "ports": [{"port": 8000}]}}
    api.call("POST", f"{CORE}/services", service)
    api.call("POST", f"{CORE}/pods", {**a_pod(), "metadata": {"name": "a", "labels": {"app": "engine"}}})
    ready = {"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}
    status = {"phase": "Running", "podIP": "10.0.0.1", "conditions": [ready]}
    api.call("PATCH", f"{CORE}/pods/a/status", {"status": status}, "application/merge-patch+json")
    api.settle()
    (found,) = api.call("GET", f"/apis/discovery.k8s.io/v1/namespaces/{NAMESPACE}/endpointslices")["items"]
    (endpoint,) = found["endpoints"]
    assert endpoint["conditions"]["ready"] is True
    assert "nodeName" not in endpoint


def test_an_event_stands_in_the_namespace_of_what_it_is_about(api: RunningApi) -> None:
    def event(**about: str) -> dict[str, Any]:
        return {"metadata": {"generateName": "told-"}, "involvedObject": {"kind": "Pod", "name": "a", **about}}

    made = api.call("POST", f"{CORE}/events", event(namespace=NAMESPACE))
    assert (made["eventTime"], made["source"], made["reportingComponent"]) == (None, {}, "")
    api.call("POST", "/api/v1/namespaces/default/events", event())
    with pytest.raises(Refusal, match=r"does not match event\.namespace"):
        api.call("POST", f"{CORE}/events", event(namespace="kube-public"))
