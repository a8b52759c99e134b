"""Do the controllers' doubles roll, scale, report and clean up as the real ones do?"""

from __future__ import annotations

import pytest

from simulations.clock import VirtualClock
from simulations.kubernetes_api.controllers.rollout_arithmetic import Room, SetSize, old_sizes, room_of, spread
from simulations.kubernetes_api.running import RunningApi
from tests.builders_kubernetes_api import NAMESPACE, Clients, deployment, stateful_set

REVISION = "deployment.kubernetes.io/revision"


def images(k8s: Clients) -> list[str]:
    return sorted(pod.spec.containers[0].image for pod in k8s.core.list_namespaced_pod(NAMESPACE).items)


def image(name: str) -> dict[str, object]:
    return {"spec": {"template": {"spec": {"containers": [{"name": "engine", "image": name}]}}}}


def condition(k8s: Clients, sort: str) -> tuple[str, str]:
    held = k8s.apps.read_namespaced_deployment("engine", NAMESPACE)
    return next((one.status, one.reason) for one in held.status.conditions if one.type == sort)


def revisions(k8s: Clients) -> dict[str, str]:
    """Return the image of every revision that is kept."""
    sets = k8s.apps.list_namespaced_replica_set(NAMESPACE).items
    return {one.metadata.annotations[REVISION]: one.spec.template.spec.containers[0].image for one in sets}


def test_a_deployment_becomes_ready_pods_on_nodes(k8s: Clients, api: RunningApi) -> None:
    made = k8s.apps.create_namespaced_deployment(NAMESPACE, deployment())
    assert made.status.observed_generation is None
    api.settle()
    held = k8s.apps.read_namespaced_deployment("engine", NAMESPACE)
    assert (held.status.observed_generation, held.status.available_replicas, held.status.updated_replicas) == (1, 3, 3)
    assert condition(k8s, "Progressing") == ("True", "NewReplicaSetAvailable")
    [replica_set] = k8s.apps.list_namespaced_replica_set(NAMESPACE).items
    assert replica_set.metadata.owner_references[0].uid == made.metadata.uid
    pods = k8s.core.list_namespaced_pod(NAMESPACE).items
    assert {pod.spec.node_name for pod in pods} == {"node-0", "node-1"}
    for pod in pods:
        assert pod.metadata.owner_references[0].uid == replica_set.metadata.uid
        assert pod.metadata.labels["pod-template-hash"] == replica_set.metadata.labels["pod-template-hash"]
        assert pod.status.container_statuses[0].ready
        assert pod.status.pod_ip


def test_pods_take_their_time_to_become_ready(k8s: Clients, api: RunningApi, clock: VirtualClock) -> None:
    api.kubelet.start_s = 90.0
    k8s.apps.create_namespaced_deployment(NAMESPACE, deployment())
    api.settle()
    assert condition(k8s, "Available")[0] == "False"
    clock.advance_to(clock.now() + 89)
    api.settle()
    assert not k8s.apps.read_namespaced_deployment("engine", NAMESPACE).status.ready_replicas
    clock.advance_to(clock.now() + 1)
    api.settle()
    assert k8s.apps.read_namespaced_deployment("engine", NAMESPACE).status.ready_replicas == 3


def test_a_rolling_update_keeps_within_its_room_at_every_step(k8s: Clients, api: RunningApi) -> None:
    k8s.apps.create_namespaced_deployment(NAMESPACE, deployment(replicas=4))
    api.settle()
    k8s.apps.patch_namespaced_deployment("engine", NAMESPACE, image("vllm:2"))
    while api.step():
        sets = k8s.apps.list_namespaced_replica_set(NAMESPACE).items
        held = k8s.apps.read_namespaced_deployment("engine", NAMESPACE)
        assert sum(one.spec.replicas for one in sets) <= 5
        assert held.status.available_replicas >= 3
    assert images(k8s) == ["vllm:2"] * 4
    assert revisions(k8s) == {"1": "vllm:1", "2": "vllm:2"}


def test_an_old_template_that_comes_back_gets_a_new_highest_revision(k8s: Clients, api: RunningApi) -> None:
    k8s.apps.create_namespaced_deployment(NAMESPACE, deployment())
    for name in ("vllm:2", "vllm:1"):
        api.settle()
        k8s.apps.patch_namespaced_deployment("engine", NAMESPACE, image(name))
    api.settle()
    assert revisions(k8s) == {"2": "vllm:2", "3": "vllm:1"}
    held = k8s.apps.read_namespaced_deployment("engine", NAMESPACE)
    assert held.metadata.annotations[REVISION] == "3"


def test_history_is_kept_to_its_limit(k8s: Clients, api: RunningApi) -> None:
    k8s.apps.create_namespaced_deployment(NAMESPACE, deployment(revisionHistoryLimit=1))
    for number in (2, 3, 4):
        api.settle()
        k8s.apps.patch_namespaced_deployment("engine", NAMESPACE, image(f"vllm:{number}"))
    api.settle()
    assert revisions(k8s) == {"3": "vllm:3", "4": "vllm:4"}


def test_a_rollout_that_stalls_is_reported_and_left_alone(k8s: Clients, api: RunningApi, clock: VirtualClock) -> None:
    k8s.apps.create_namespaced_deployment(NAMESPACE, deployment())
    api.settle()
    api.kubelet.troubles.images["vllm:bad"] = "crash"
    k8s.apps.patch_namespaced_deployment("engine", NAMESPACE, image("vllm:bad"))
    api.settle()
    assert condition(k8s, "Progressing") == ("True", "ReplicaSetUpdated")
    clock.advance_to(clock.now() + 601)
    api.settle()
    assert condition(k8s, "Progressing") == ("False", "ProgressDeadlineExceeded")
    assert images(k8s) == ["vllm:1"] * 3 + ["vllm:bad"]
    sick = next(pod for pod in k8s.core.list_namespaced_pod(NAMESPACE).items if "bad" in pod.spec.containers[0].image)
    assert sick.status.container_statuses[0].state.waiting.reason == "CrashLoopBackOff"


def test_a_paused_deployment_is_scaled_and_not_rolled(k8s: Clients, api: RunningApi) -> None:
    k8s.apps.create_namespaced_deployment(NAMESPACE, deployment(paused=False))
    api.settle()
    k8s.apps.patch_namespaced_deployment("engine", NAMESPACE, {"spec": {"paused": True, "replicas": 5}})
    k8s.apps.patch_namespaced_deployment("engine", NAMESPACE, image("vllm:2"))
    api.settle()
    assert images(k8s) == ["vllm:1"] * 5
    assert condition(k8s, "Progressing") == ("Unknown", "DeploymentPaused")


def test_scaling_in_mid_rollout_spreads_over_the_broken_replica_set_too(k8s: Clients, api: RunningApi) -> None:
    k8s.apps.create_namespaced_deployment(NAMESPACE, deployment(replicas=8))
    api.settle()
    api.kubelet.troubles.images["vllm:bad"] = "unready"
    k8s.apps.patch_namespaced_deployment("engine", NAMESPACE, image("vllm:bad"))
    api.settle()
    before = images(k8s).count("vllm:bad")
    k8s.apps.patch_namespaced_deployment_scale("engine", NAMESPACE, {"spec": {"replicas": 16}})
    api.step()
    api.step()
    assert images(k8s).count("vllm:bad") > before
    assert images(k8s).count("vllm:1") > 6


def test_a_recreate_starts_nothing_before_the_old_pods_are_gone(
    k8s: Clients, api: RunningApi, clock: VirtualClock
) -> None:
    k8s.apps.create_namespaced_deployment(NAMESPACE, deployment(strategy={"type": "Recreate"}))
    api.settle()
    api.kubelet.stop_s = 10.0
    k8s.apps.patch_namespaced_deployment("engine", NAMESPACE, image("vllm:2"))
    api.settle()
    assert images(k8s) == ["vllm:1"] * 3
    clock.advance_to(clock.now() + 10)
    api.settle()
    assert images(k8s) == ["vllm:2"] * 3


def test_scaled_down_the_unready_go_first_and_then_the_cheapest(k8s: Clients, api: RunningApi) -> None:
    k8s.apps.create_namespaced_deployment(NAMESPACE, deployment(replicas=4))
    api.settle()
    names = [pod.metadata.name for pod in k8s.core.list_namespaced_pod(NAMESPACE).items]
    api.kubelet.troubles.pods[f"{NAMESPACE}/{names[0]}"] = "unready"
    cost = {"metadata": {"annotations": {"controller.kubernetes.io/pod-deletion-cost": "-10"}}}
    k8s.core.patch_namespaced_pod(names[2], NAMESPACE, cost)
    api.settle()
    k8s.apps.patch_namespaced_deployment_scale("engine", NAMESPACE, {"spec": {"replicas": 2}})
    api.settle()
    left = [pod.metadata.name for pod in k8s.core.list_namespaced_pod(NAMESPACE).items]
    assert left == [names[1], names[3]]


def test_a_pod_that_leaves_the_services_selector_leaves_its_endpoints_and_not_its_workload(
    k8s: Clients, api: RunningApi
) -> None:
    k8s.apps.create_namespaced_deployment(NAMESPACE, deployment())
    selector = {"app": "engine", "foresail.dev/serving": "true"}
    k8s.core.create_namespaced_service(
        NAMESPACE, {"metadata": {"name": "engine"}, "spec": {"selector": selector, "ports": [{"port": 8000}]}}
    )
    api.settle()
    pod = k8s.core.list_namespaced_pod(NAMESPACE).items[0].metadata.name
    k8s.core.patch_namespaced_pod(pod, NAMESPACE, {"metadata": {"labels": {"foresail.dev/serving": "false"}}})
    api.settle()
    slices = k8s.raw("GET", "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices")["items"]
    reached = [one["targetRef"]["name"] for one in slices[0]["endpoints"]]
    assert len(reached) == 2
    assert pod not in reached
    assert len(k8s.core.list_namespaced_pod(NAMESPACE).items) == 3


def test_dependents_of_a_deleted_workload_go_unless_orphaned(k8s: Clients, api: RunningApi) -> None:
    k8s.apps.create_namespaced_deployment(NAMESPACE, deployment())
    api.settle()
    k8s.apps.delete_namespaced_deployment("engine", NAMESPACE, propagation_policy="Orphan")
    api.settle()
    assert len(k8s.core.list_namespaced_pod(NAMESPACE).items) == 3
    [replica_set] = k8s.apps.list_namespaced_replica_set(NAMESPACE).items
    assert replica_set.metadata.owner_references is None
    k8s.apps.delete_namespaced_replica_set(replica_set.metadata.name, NAMESPACE, propagation_policy="Foreground")
    api.settle()
    assert k8s.core.list_namespaced_pod(NAMESPACE).items == []
    assert k8s.apps.list_namespaced_replica_set(NAMESPACE).items == []


def test_a_deleted_namespace_is_emptied_and_takes_nothing_new(k8s: Clients, api: RunningApi) -> None:
    k8s.core.create_namespace({"metadata": {"name": "gone"}})
    k8s.apps.create_namespaced_deployment("gone", deployment())
    api.settle()
    k8s.core.delete_namespace("gone")
    api.settle()
    assert k8s.core.list_pod_for_all_namespaces().items == []
    assert "gone" not in [one.metadata.name for one in k8s.core.list_namespace().items]


def test_pods_without_room_for_their_gpus_stay_pending(k8s: Clients, api: RunningApi) -> None:
    body = deployment(replicas=5)
    body["spec"]["template"]["spec"]["containers"][0]["resources"] = {"limits": {"nvidia.com/gpu": "4"}}
    k8s.apps.create_namespaced_deployment(NAMESPACE, body)
    api.settle()
    pods = k8s.core.list_namespaced_pod(NAMESPACE).items
    assert sum(pod.spec.node_name is not None for pod in pods) == 4
    waiting = next(pod for pod in pods if pod.spec.node_name is None)
    assert waiting.status.conditions[0].reason == "Unschedulable"


def test_nothing_more_is_placed_on_a_node_with_a_taint_that_shuts_it(k8s: Clients, api: RunningApi) -> None:
    nodes = [node.metadata.name for node in k8s.core.list_node().items]
    for name in nodes[1:]:
        k8s.core.patch_node(name, {"spec": {"taints": [{"key": "a", "effect": "NoSchedule"}]}})
    k8s.core.patch_node(nodes[0], {"spec": {"taints": [{"key": "a", "effect": "PreferNoSchedule"}]}})
    k8s.apps.create_namespaced_deployment(NAMESPACE, deployment(replicas=2))
    api.settle()
    assert {pod.spec.node_name for pod in k8s.core.list_namespaced_pod(NAMESPACE).items} == {nodes[0]}


def test_a_stateful_set_is_ordinals_one_after_the_other(k8s: Clients, api: RunningApi, clock: VirtualClock) -> None:
    api.kubelet.start_s = 5.0
    k8s.apps.create_namespaced_stateful_set(NAMESPACE, stateful_set())
    for count in (1, 2, 3):
        api.settle()
        assert [pod.metadata.name for pod in k8s.core.list_namespaced_pod(NAMESPACE).items] == [
            f"engine-{at}" for at in range(count)
        ]
        clock.advance_to(clock.now() + 5)
    api.settle()
    k8s.apps.patch_namespaced_stateful_set_scale("engine", NAMESPACE, {"spec": {"replicas": 1}})
    api.settle()
    assert [pod.metadata.name for pod in k8s.core.list_namespaced_pod(NAMESPACE).items] == ["engine-0"]


def test_a_stateful_set_is_updated_down_to_its_partition_and_keeps_its_revisions(k8s: Clients, api: RunningApi) -> None:
    strategy = {"type": "RollingUpdate", "rollingUpdate": {"partition": 1}}
    k8s.apps.create_namespaced_stateful_set(NAMESPACE, stateful_set(updateStrategy=strategy))
    api.settle()
    k8s.apps.patch_namespaced_stateful_set("engine", NAMESPACE, image("vllm:2"))
    api.settle()
    assert images(k8s) == ["vllm:1", "vllm:2", "vllm:2"]
    held = k8s.apps.read_namespaced_stateful_set("engine", NAMESPACE).status
    assert held.current_revision != held.update_revision
    assert (held.updated_replicas, held.current_replicas) == (2, 1)
    kept = k8s.apps.list_namespaced_controller_revision(NAMESPACE).items
    assert sorted(one.revision for one in kept) == [1, 2]
    k8s.apps.patch_namespaced_stateful_set("engine", NAMESPACE, image("vllm:1"))
    api.settle()
    assert images(k8s) == ["vllm:1"] * 3
    newest = max(k8s.apps.list_namespaced_controller_revision(NAMESPACE).items, key=lambda one: one.revision)
    assert (newest.revision, newest.metadata.name) == (3, held.current_revision)


@pytest.mark.parametrize(("told", "room"), [("25%", Room(3, 2)), ("0%", Room(0, 1)), (1, Room(1, 1))])
def test_surge_rounds_up_and_unavailable_down(told: object, room: Room) -> None:
    assert room_of({"rollingUpdate": {"maxSurge": told, "maxUnavailable": told}}, 10) == room


def test_unavailable_old_replicas_go_before_available_ones() -> None:
    old = [SetSize("sick", 3, 0, 10), SetSize("well", 7, 7, 10)]
    sizes = old_sizes(SetSize("new", 3, 0, 10), old, 10, Room(3, 3))
    assert sizes == {"sick": 0, "well": 7}


def test_a_spread_hands_out_exactly_what_is_allowed() -> None:
    sets = [SetSize("new", 3, 0, 13), SetSize("old", 10, 10, 13)]
    for replicas in range(41):
        room = room_of({}, replicas)
        assert sum(spread(sets, replicas, room).values()) == (replicas + room.surge if replicas else 0)
