"""Are objects created, changed and deleted as the API server does it?"""

from __future__ import annotations

import pytest
import urllib3
from kubernetes import client

from simulations.clock import VirtualClock
from simulations.kubernetes_api.running import RunningApi
from tests.builders_kubernetes_api import NAMESPACE, Clients, deployment, status_of

ROUTES = "/apis/gateway.networking.k8s.io/v1/namespaces/default/httproutes"


def route(*weights: int) -> dict[str, object]:
    backends = [{"name": f"pool-{at}", "port": 8000, "weight": weight} for at, weight in enumerate(weights)]
    return {
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "HTTPRoute",
        "metadata": {"name": "llm"},
        "spec": {"rules": [{"backendRefs": backends}]},
    }


def test_a_created_object_has_what_the_server_adds(k8s: Clients) -> None:
    made = k8s.apps.create_namespaced_deployment(NAMESPACE, deployment())
    assert made.metadata.uid
    assert made.metadata.generation == 1
    assert made.metadata.creation_timestamp.timestamp() == 1_780_000_000
    assert made.spec.strategy.rolling_update.max_surge == "25%"
    assert made.spec.progress_deadline_seconds == 600


def test_a_name_that_is_taken_is_a_conflict_and_one_that_is_not_valid_is_told(k8s: Clients) -> None:
    k8s.apps.create_namespaced_deployment(NAMESPACE, deployment())
    with pytest.raises(client.ApiException) as taken:
        k8s.apps.create_namespaced_deployment(NAMESPACE, deployment())
    assert (taken.value.status, status_of(taken.value)["reason"]) == (409, "AlreadyExists")
    with pytest.raises(client.ApiException) as invalid:
        k8s.apps.create_namespaced_deployment(NAMESPACE, deployment("Engine_1"))
    assert invalid.value.status == 422
    assert status_of(invalid.value)["details"]["causes"][0]["field"] == "metadata.name"


def test_an_object_that_is_not_there_is_named_with_its_group(k8s: Clients) -> None:
    with pytest.raises(client.ApiException) as missing:
        k8s.apps.read_namespaced_deployment("engine", NAMESPACE)
    told = status_of(missing.value)
    assert told["message"] == 'deployments.apps "engine" not found'
    assert told["details"] == {"name": "engine", "group": "apps", "kind": "deployments"}


def test_a_namespace_that_does_not_exist_takes_nothing(k8s: Clients) -> None:
    with pytest.raises(client.ApiException) as missing:
        k8s.apps.create_namespaced_deployment("nowhere", deployment())
    assert status_of(missing.value)["message"] == 'namespaces "nowhere" not found'


def test_a_stale_put_is_a_conflict_and_changes_nothing(k8s: Clients, api: RunningApi) -> None:
    first = k8s.apps.create_namespaced_deployment(NAMESPACE, deployment())
    k8s.apps.patch_namespaced_deployment("engine", NAMESPACE, {"metadata": {"labels": {"a": "b"}}})
    version = api.version
    first.spec.replicas = 9
    with pytest.raises(client.ApiException) as stale:
        k8s.apps.replace_namespaced_deployment("engine", NAMESPACE, first)
    assert stale.value.status == 409
    assert "the object has been modified" in status_of(stale.value)["message"]
    assert api.version == version


def test_a_stale_put_of_a_scale_or_a_lease_is_a_conflict(k8s: Clients) -> None:
    k8s.apps.create_namespaced_deployment(NAMESPACE, deployment())
    scale = k8s.apps.read_namespaced_deployment_scale("engine", NAMESPACE)
    k8s.apps.patch_namespaced_deployment_scale("engine", NAMESPACE, {"spec": {"replicas": 4}})
    scale.spec.replicas = 9
    with pytest.raises(client.ApiException) as stale:
        k8s.apps.replace_namespaced_deployment_scale("engine", NAMESPACE, scale)
    assert stale.value.status == 409
    lease = {"metadata": {"name": "leader"}, "spec": {"holderIdentity": "a", "leaseDurationSeconds": 15}}
    held = k8s.leases.create_namespaced_lease(NAMESPACE, lease)
    k8s.leases.replace_namespaced_lease("leader", NAMESPACE, held)
    held.spec.holder_identity = "b"
    k8s.leases.replace_namespaced_lease("leader", NAMESPACE, held)
    with pytest.raises(client.ApiException) as second:
        k8s.leases.replace_namespaced_lease("leader", NAMESPACE, held)
    assert second.value.status == 409
    with pytest.raises(client.ApiException) as unversioned:
        k8s.leases.replace_namespaced_lease("leader", NAMESPACE, lease)
    assert unversioned.value.status == 422


def test_only_what_is_asked_for_moves_the_generation(k8s: Clients) -> None:
    k8s.apps.create_namespaced_deployment(NAMESPACE, deployment())
    k8s.apps.patch_namespaced_deployment_status(
        "engine", NAMESPACE, {"status": {"replicas": 7}, "spec": {"replicas": 7}}
    )
    labelled = k8s.apps.patch_namespaced_deployment("engine", NAMESPACE, {"metadata": {"labels": {"a": "b"}}})
    assert (labelled.metadata.generation, labelled.spec.replicas, labelled.status.replicas) == (1, 3, 7)
    scaled = k8s.apps.patch_namespaced_deployment(
        "engine", NAMESPACE, {"spec": {"replicas": 5}, "status": {"replicas": 1}}
    )
    assert (scaled.metadata.generation, scaled.status.replicas) == (2, 7)


def test_a_change_that_changes_nothing_is_not_written(k8s: Clients, api: RunningApi) -> None:
    k8s.apps.create_namespaced_deployment(NAMESPACE, deployment())
    version = api.version
    k8s.apps.patch_namespaced_deployment("engine", NAMESPACE, {"spec": {"replicas": 3}})
    assert api.version == version


def test_a_dry_run_answers_and_writes_nothing(k8s: Clients, api: RunningApi) -> None:
    version = api.version
    made = k8s.apps.create_namespaced_deployment(NAMESPACE, deployment(), dry_run="All")
    assert made.spec.replicas == 3
    assert api.version == version
    k8s.apps.create_namespaced_deployment(NAMESPACE, deployment())
    version = api.version
    changed = k8s.apps.patch_namespaced_deployment_scale("engine", NAMESPACE, {"spec": {"replicas": 8}}, dry_run="All")
    k8s.apps.delete_namespaced_deployment("engine", NAMESPACE, dry_run="All")
    assert changed.spec.replicas == 8
    assert api.version == version


def test_a_scale_shows_the_workload_and_writes_its_replicas_only(k8s: Clients) -> None:
    made = k8s.apps.create_namespaced_deployment(NAMESPACE, deployment())
    scale = k8s.apps.read_namespaced_deployment_scale("engine", NAMESPACE)
    assert (scale.spec.replicas, scale.status.selector, scale.metadata.uid) == (3, "app=engine", made.metadata.uid)
    scale.spec.replicas = 6
    written = k8s.apps.replace_namespaced_deployment_scale("engine", NAMESPACE, scale)
    held = k8s.apps.read_namespaced_deployment("engine", NAMESPACE)
    assert held.spec.replicas == 6
    assert held.metadata.resource_version == written.metadata.resource_version
    with pytest.raises(client.ApiException) as negative:
        k8s.apps.patch_namespaced_deployment_scale("engine", NAMESPACE, {"spec": {"replicas": -1}})
    assert negative.value.status == 422
    assert "must be greater than or equal to 0" in status_of(negative.value)["message"]


def test_a_custom_resource_is_scaled_where_its_crd_says(k8s: Clients) -> None:
    place = ("leaderworkerset.x-k8s.io", "v1", NAMESPACE, "leaderworkersets")
    body = {"apiVersion": "leaderworkerset.x-k8s.io/v1", "kind": "LeaderWorkerSet", "metadata": {"name": "prefill"}}
    k8s.custom.create_namespaced_custom_object(*place, {**body, "spec": {"replicas": 2}})
    k8s.custom.patch_namespaced_custom_object_status(
        *place, "prefill", {"status": {"replicas": 2, "hpaPodSelector": "app=prefill"}}
    )
    scale = k8s.custom.patch_namespaced_custom_object_scale(*place, "prefill", {"spec": {"replicas": 4}})
    assert scale["spec"] == {"replicas": 4}
    assert scale["status"] == {"replicas": 2, "selector": "app=prefill"}
    assert k8s.custom.get_namespaced_custom_object(*place, "prefill")["metadata"]["generation"] == 2


def test_a_deployments_selector_cannot_change(k8s: Clients) -> None:
    k8s.apps.create_namespaced_deployment(NAMESPACE, deployment())
    change = {"spec": {"selector": {"matchLabels": {"app": "engine", "foresail.dev/serving": "true"}}}}
    with pytest.raises(client.ApiException) as fixed:
        k8s.apps.patch_namespaced_deployment("engine", NAMESPACE, change)
    assert fixed.value.status == 422
    assert "field is immutable" in status_of(fixed.value)["message"]


@pytest.mark.parametrize("weights", [(-1,), (1_000_001,), (1,) * 17])
def test_a_route_that_no_gateway_could_follow_is_invalid(k8s: Clients, weights: tuple[int, ...]) -> None:
    with pytest.raises(client.ApiException) as refused:
        k8s.raw("POST", ROUTES, route(*weights))
    assert refused.value.status == 422
    assert k8s.raw("GET", ROUTES)["items"] == []


def test_a_stale_put_of_a_route_is_a_conflict_and_its_list_is_replaced_as_a_whole(k8s: Clients) -> None:
    made = k8s.raw("POST", ROUTES, route(90, 10))
    moved = {"spec": {"rules": [{"backendRefs": [{"name": "pool-1", "port": 8000}]}]}}
    changed = k8s.raw("PATCH", f"{ROUTES}/llm", moved, "application/merge-patch+json")
    backends = changed["spec"]["rules"][0]["backendRefs"]
    assert [(one["name"], one["weight"]) for one in backends] == [("pool-1", 1)]
    with pytest.raises(client.ApiException) as stale:
        k8s.raw("PUT", f"{ROUTES}/llm", made)
    assert stale.value.status == 409


def test_a_pod_on_a_node_goes_after_its_grace_and_one_that_waits_goes_at_once(
    k8s: Clients, api: RunningApi, clock: VirtualClock
) -> None:
    pod = {"metadata": {"name": "one"}, "spec": {"containers": [{"name": "engine", "image": "vllm:1"}]}}
    k8s.core.create_namespaced_pod(NAMESPACE, pod)
    k8s.core.delete_namespaced_pod("one", NAMESPACE)
    assert k8s.core.list_namespaced_pod(NAMESPACE).items == []
    k8s.core.create_namespaced_pod(NAMESPACE, pod)
    api.kubelet.stop_s = 20.0
    api.settle()
    marked = k8s.core.delete_namespaced_pod("one", NAMESPACE)
    assert marked.metadata.deletion_grace_period_seconds == 30
    assert marked.metadata.deletion_timestamp.timestamp() == clock.now() + 30
    api.settle()
    assert len(k8s.core.list_namespaced_pod(NAMESPACE).items) == 1
    clock.advance_to(clock.now() + 20)
    api.settle()
    assert k8s.core.list_namespaced_pod(NAMESPACE).items == []


def test_a_finalizer_holds_a_deletion_up_and_a_precondition_refuses_it(k8s: Clients) -> None:
    made = k8s.core.create_namespaced_config_map(
        NAMESPACE, {"metadata": {"name": "c", "finalizers": ["foresail.dev/x"]}}
    )
    options = client.V1DeleteOptions(preconditions=client.V1Preconditions(uid="another"))
    with pytest.raises(client.ApiException) as refused:
        k8s.core.delete_namespaced_config_map("c", NAMESPACE, body=options)
    assert refused.value.status == 409
    k8s.core.delete_namespaced_config_map("c", NAMESPACE)
    held = k8s.core.read_namespaced_config_map("c", NAMESPACE)
    assert held.metadata.deletion_timestamp is not None
    assert held.metadata.uid == made.metadata.uid
    k8s.core.patch_namespaced_config_map("c", NAMESPACE, {"metadata": {"finalizers": None}})
    with pytest.raises(client.ApiException) as gone:
        k8s.core.read_namespaced_config_map("c", NAMESPACE)
    assert gone.value.status == 404


def test_discovery_says_what_is_served(k8s: Clients) -> None:
    resources = {one.name: one for one in k8s.apps.get_api_resources().resources}
    assert resources["deployments/scale"].group == "autoscaling"
    assert client.VersionApi(k8s.connection).get_code().minor == "36"
    with pytest.raises(client.ApiException) as unknown:
        k8s.custom.list_namespaced_custom_object("none.example", "v1", NAMESPACE, "things")
    assert unknown.value.status == 404


@pytest.mark.parametrize("replicas", [3.5, "3", True, [3]])
def test_replicas_that_are_no_whole_number_cannot_be_read(k8s: Clients, replicas: object) -> None:
    place = "/apis/apps/v1/namespaces/default/deployments"
    k8s.raw("POST", place, deployment())
    for path in (f"{place}/engine", f"{place}/engine/scale"):
        with pytest.raises(client.ApiException) as refused:
            k8s.raw("PATCH", path, {"spec": {"replicas": replicas}}, "application/merge-patch+json")
        assert refused.value.status == 400
    assert k8s.raw("GET", f"{place}/engine")["spec"]["replicas"] == 3


def test_a_body_that_is_no_object_is_a_bad_request_and_protobuf_is_not_taken(k8s: Clients) -> None:
    place = "/api/v1/namespaces/default/configmaps"
    for body in ([1], {"metadata": "x"}, {"kind": "Pod", "metadata": {"name": "x"}}):
        with pytest.raises(client.ApiException) as refused:
            k8s.raw("POST", place, body)
        assert refused.value.status == 400
    answer = urllib3.request(
        "POST",
        k8s.connection.configuration.host + place,
        body=b"k8s",
        headers={"Content-Type": "application/vnd.kubernetes.protobuf"},
    )
    assert answer.status == 415
