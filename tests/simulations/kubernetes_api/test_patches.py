"""Do patches, server-side apply and the owners of fields behave as documented?"""

from __future__ import annotations

from typing import Any

import pytest
from kubernetes import client

from tests.builders_kubernetes_api import NAMESPACE, Clients, deployment, status_of

PATH = "/apis/apps/v1/namespaces/default/deployments/engine"
JSON = "application/json-patch+json"
MERGE = "application/merge-patch+json"
STRATEGIC = "application/strategic-merge-patch+json"
APPLY = "application/apply-patch+yaml"


@pytest.fixture(autouse=True)
def held(k8s: Clients) -> None:
    """Every test finds a Deployment made by ``helm``."""
    k8s.raw("POST", f"{PATH.rpartition('/')[0]}?fieldManager=helm", deployment())


def containers(value: dict[str, Any]) -> list[tuple[str, str]]:
    return [(one["name"], one["image"]) for one in value["spec"]["template"]["spec"]["containers"]]


def managers(value: dict[str, Any]) -> dict[tuple[str, str, str], dict[str, Any]]:
    entries = value["metadata"]["managedFields"]
    return {(one["manager"], one["operation"], one.get("subresource", "")): one["fieldsV1"] for one in entries}


def apply(k8s: Clients, manager: str, spec: dict[str, Any], query: str = "") -> dict[str, Any]:
    body = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "engine"}, "spec": spec}
    return k8s.raw("PATCH", f"{PATH}?fieldManager={manager}{query}", body, APPLY)


def test_a_strategic_patch_merges_containers_and_a_merge_patch_replaces_them(k8s: Clients) -> None:
    sidecar = {"spec": {"template": {"spec": {"containers": [{"name": "proxy", "image": "envoy:1"}]}}}}
    assert containers(k8s.raw("PATCH", PATH, sidecar, STRATEGIC)) == [("engine", "vllm:1"), ("proxy", "envoy:1")]
    assert containers(k8s.raw("PATCH", PATH, sidecar, MERGE)) == [("proxy", "envoy:1")]


def test_a_strategic_patch_deletes_by_directive(k8s: Clients) -> None:
    both = [{"name": "proxy", "image": "envoy:1"}, {"name": "engine", "$patch": "delete"}]
    change = {"spec": {"template": {"spec": {"containers": both}}}}
    assert containers(k8s.raw("PATCH", PATH, change, STRATEGIC)) == [("proxy", "envoy:1")]


def test_a_custom_resource_takes_no_strategic_patch(k8s: Clients) -> None:
    place = ("argoproj.io", "v1alpha1", NAMESPACE, "rollouts")
    k8s.custom.create_namespaced_custom_object(
        *place, {"apiVersion": "argoproj.io/v1alpha1", "kind": "Rollout", "metadata": {"name": "r"}, "spec": {}}
    )
    with pytest.raises(client.ApiException) as refused:
        k8s.raw("PATCH", "/apis/argoproj.io/v1alpha1/namespaces/default/rollouts/r", {}, STRATEGIC)
    assert refused.value.status == 415


def test_a_json_patch_is_all_or_nothing(k8s: Clients) -> None:
    version = k8s.raw("GET", PATH)["metadata"]["resourceVersion"]
    guarded = [
        {"op": "replace", "path": "/spec/replicas", "value": 7},
        {"op": "test", "path": "/metadata/resourceVersion", "value": "1"},
    ]
    with pytest.raises(client.ApiException) as refused:
        k8s.raw("PATCH", PATH, guarded, JSON)
    assert refused.value.status == 422
    assert k8s.raw("GET", PATH)["metadata"]["resourceVersion"] == version
    guarded[1]["value"] = version
    guarded.append({"op": "add", "path": "/metadata/annotations", "value": {"a/b": "c"}})
    guarded.append({"op": "remove", "path": "/metadata/annotations/a~1b"})
    assert k8s.raw("PATCH", PATH, guarded, JSON)["spec"]["replicas"] == 7


def test_a_merge_patch_with_a_stale_version_is_a_conflict(k8s: Clients) -> None:
    version = k8s.raw("GET", PATH)["metadata"]["resourceVersion"]
    change = {"metadata": {"resourceVersion": version}, "spec": {"replicas": 4}}
    assert k8s.raw("PATCH", PATH, change, MERGE)["spec"]["replicas"] == 4
    with pytest.raises(client.ApiException) as stale:
        k8s.raw("PATCH", PATH, {**change, "spec": {"replicas": 5}}, MERGE)
    assert stale.value.status == 409


def test_who_changes_a_field_owns_it_from_then_on(k8s: Clients) -> None:
    k8s.raw("PATCH", f"{PATH}/scale?fieldManager=foresail", {"spec": {"replicas": 5}}, MERGE)
    found = managers(k8s.raw("GET", PATH))
    assert found[("foresail", "Update", "scale")] == {"f:spec": {"f:replicas": {}}}
    assert "f:replicas" not in found[("helm", "Update", "")]["f:spec"]
    assert "f:template" in found[("helm", "Update", "")]["f:spec"]


def test_applying_what_somebody_else_owns_names_them_and_force_takes_it_over(k8s: Clients) -> None:
    with pytest.raises(client.ApiException) as owned:
        apply(k8s, "foresail", {"replicas": 9})
    told = status_of(owned.value)
    assert owned.value.status == 409
    assert told["message"].startswith('Apply failed with 1 conflict: conflict with "helm" using apps/v1')
    assert told["details"]["causes"][0]["field"] == ".spec.replicas"
    taken = apply(k8s, "foresail", {"replicas": 9}, "&force=true")
    assert taken["spec"]["replicas"] == 9
    assert managers(taken)[("foresail", "Apply", "")] == {"f:spec": {"f:replicas": {}}}


def test_equal_values_are_shared_and_what_nobody_says_any_more_goes(k8s: Clients) -> None:
    apply(k8s, "foresail", {"replicas": 3, "minReadySeconds": 5})
    kept = apply(k8s, "foresail", {"replicas": 3})
    assert "minReadySeconds" not in kept["spec"]
    assert "f:replicas" in managers(kept)[("helm", "Update", "")]["f:spec"]


def test_an_apply_adds_to_keyed_lists_and_makes_what_is_missing(k8s: Clients) -> None:
    sidecar = {"template": {"spec": {"containers": [{"name": "proxy", "image": "envoy:1"}]}}}
    both = apply(k8s, "mesh", sidecar)
    assert sorted(containers(both)) == [("engine", "vllm:1"), ("proxy", "envoy:1")]
    alone = apply(k8s, "mesh", {})
    assert containers(alone) == [("engine", "vllm:1")]
    place = "/api/v1/namespaces/default/configmaps/c?fieldManager=x"
    body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}, "data": {"a": "b"}}
    assert k8s.raw("PATCH", place, body, APPLY)["data"] == {"a": "b"}
    with pytest.raises(client.ApiException) as unnamed:
        k8s.raw("PATCH", place.partition("?")[0], body, APPLY)
    assert unnamed.value.status == 422
