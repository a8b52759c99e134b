"""What becomes of a workload, its revisions and its pods?"""

from __future__ import annotations

from typing import Any

import pytest

from controller.adapters.kube.discovery import Place
from controller.adapters.kube.groups import pods_by_set
from controller.adapters.kube.label_selectors import selects
from controller.adapters.kube.nodes import Node, read_node
from controller.adapters.kube.pods import Engine, Pod, read_pod
from controller.adapters.kube.pool_states import Objects, notes_of, pool_state
from controller.adapters.kube.revisions import Revision, read_revision
from controller.adapters.kube.settings import CustomKind
from controller.adapters.kube.workloads import Reading, Workload, read_workload
from policies.fleet import NodeState, PoolKey
from policies.replica import Phase
from tests.builders_kube import (
    T0,
    container_json,
    metadata,
    pod_json,
    ready_pod,
    replica_set_json,
    running,
    stamp,
    template_json,
    workload_json,
)

GPUS = frozenset(("nvidia.com/gpu",))
ENGINE = Engine("vllm", 8000, "foresail.dev/serving")
PLACE = Place(PoolKey("llama", "a100"), ENGINE, ENGINE, usd_per_replica_hour=3.0)


def _workload(told: object, kind: str = "Deployment", custom: CustomKind | None = None) -> Workload:
    found = read_workload(told, kind, Reading(GPUS, "foresail.dev"), custom)
    assert isinstance(found, Workload)
    return found


def _objects(pods: list[dict[str, Any]], sets: list[dict[str, Any]] | None = None) -> Objects:
    read = [pod for told in pods if isinstance(pod := read_pod(told, GPUS), Pod)]
    revisions = [r for told in sets or [] if isinstance(r := read_revision(told, "ReplicaSet"), Revision)]
    by_owner: dict[str, list[Pod]] = {}
    for pod in read:
        by_owner.setdefault(pod.owner.uid if pod.owner else "", []).append(pod)
    return Objects({"uid-llama": revisions}, by_owner, pods_by_set(read), {"prod": read})


def test_a_rollout_under_way_lists_replicas_of_both_revisions() -> None:
    sets = [replica_set_json("llama-old", 1), replica_set_json("llama-new", 2, at=T0 + 900)]
    pods = [
        ready_pod("llama-old-1", owner=("ReplicaSet", "llama-old"), labels={"pod-template-hash": "old"}),
        pod_json(
            "llama-new-1",
            running(at=T0 + 920),
            at=T0 + 901,
            owner=("ReplicaSet", "llama-new"),
            labels={"pod-template-hash": "new"},
        ),
        ready_pod("other-1", owner=("ReplicaSet", "other")),
    ]
    objects, workload = _objects(pods, sets), _workload(workload_json())
    state = pool_state(workload, PLACE, objects.revisions["uid-llama"], objects.pods_of(workload))
    assert [(r.id, r.revision, r.phase) for r in state.replicas] == [
        ("llama-old-1", "old", Phase.READY),
        ("llama-new-1", "new", Phase.LOADING),
    ]
    assert (state.desired, state.version, state.gpus_per_replica, state.usd_per_replica_hour) == (2, 3, 2, 3.0)
    assert (state.revision, state.revisions, state.revision_at) == ("new", ("old", "new"), T0 + 900)
    assert (state.stable_revision, state.paused) == ("", False)
    assert notes_of(workload, PLACE, state) == ()


def test_pods_that_ended_for_good_count_only_until_others_stand_in_for_them() -> None:
    evicted = [pod_json(f"llama-{n}", phase="Failed", owner=("StatefulSet", "llama"), at=T0 + n) for n in range(5)]
    workload = _workload(workload_json(), "StatefulSet")
    alone = _objects(evicted).pods_of(workload)
    assert [pod.name for pod in alone] == ["llama-3", "llama-4"]
    replaced = _objects([*evicted, ready_pod("llama-8", owner=("StatefulSet", "llama"))]).pods_of(workload)
    assert [pod.name for pod in replaced] == ["llama-8", "llama-4"]


def test_a_leader_worker_set_costs_the_gpus_of_all_its_pods() -> None:
    templates = {"size": 3, "workerTemplate": template_json(container_json(gpus=8))}
    workload = _workload(workload_json("big", spec={"leaderWorkerTemplate": templates}), "LeaderWorkerSet")
    name, index = "leaderworkerset.sigs.k8s.io/name", "leaderworkerset.sigs.k8s.io/worker-index"
    pods = [
        ready_pod("big-0", owner=("StatefulSet", "big"), labels={name: "big", index: "0"}),
        ready_pod("big-0-1", owner=("StatefulSet", "big-0"), labels={name: "big", index: "1"}),
    ]
    state = pool_state(workload, PLACE, (), _objects(pods).pods_of(workload))
    assert state.gpus_per_replica == 24
    assert [(replica.id, replica.phase) for replica in state.replicas] == [("big-0", Phase.PENDING)]


def test_another_kind_has_the_pods_that_its_selector_names() -> None:
    told = {
        "metadata": metadata("foo", generation=1),
        "spec": {"replicas": 1},
        "status": {"selector": "app=foo,tier in (a,b)"},
    }
    workload = _workload(told, "Foo", CustomKind(kind="Foo", group="x.io", plural="foos"))
    mine = ready_pod("foo-1", labels={"app": "foo", "tier": "b"}, spec=template_json(container_json(gpus=4))["spec"])
    objects = _objects([mine, ready_pod("foo-2", labels={"app": "foo", "tier": "c"})])
    state = pool_state(workload, PLACE, (), objects.pods_of(workload))
    assert ([replica.id for replica in state.replicas], state.gpus_per_replica) == (["foo-1"], 4)
    lost = _workload({**told, "status": {}}, "Foo", CustomKind(kind="Foo", group="x.io", plural="foos"))
    assert objects.pods_of(lost) == ()  # no selector selects nothing, not everything


def test_a_controller_that_lags_is_noted() -> None:
    workload = _workload(workload_json(status={"observedGeneration": 1}))
    (note,) = notes_of(workload, PLACE, pool_state(workload, PLACE, (), ()))
    assert "generation 1 and not yet 3" in note.why


@pytest.mark.parametrize(
    ("selector", "labels", "selected"),
    [
        ("a=b", {"a": "b"}, True),
        ("a==b, c!=d", {"a": "b", "c": "e"}, True),
        ("a!=b", {}, True),
        ("a notin (b, c)", {"a": "c"}, False),
        ("a in (b)", {}, False),
        ("a", {"a": ""}, True),
        ("!a", {"a": ""}, False),
        ("x.io/a=", {"x.io/a": ""}, True),
    ],
)
def test_selectors_are_read_as_the_api_writes_them(selector: str, labels: dict[str, str], selected: bool) -> None:
    wanted = selects(selector)
    assert wanted is not None
    assert wanted(labels) is selected


@pytest.mark.parametrize(
    "selector", ["", "  ", "a=b,,c", "a in b", "a in (", "=b", "a=b c", ",", "a in (" + " ," * 3000]
)
def test_what_is_no_selector_selects_nothing(selector: str) -> None:
    assert selects(selector) is None


def test_a_node_tells_whether_it_is_in_order_and_stays() -> None:
    def state(**more: Any) -> NodeState:
        told = {
            "metadata": metadata("node-a"),
            "spec": more.get("spec", {}),
            "status": {
                "conditions": [
                    {"type": "Ready", "status": more.get("ready", "True"), "lastTransitionTime": stamp(T0 + 30)}
                ]
            },
        }
        node = read_node(told, frozenset(("karpenter.sh/disrupted",)), "foresail.dev/avoid")
        assert isinstance(node, Node)
        return node.state

    assert repr(state()) == repr(NodeState(ready=True, since_at=T0 + 30))
    assert not state(ready="Unknown").ready
    assert state(spec={"unschedulable": True}).avoided
    assert state(spec={"taints": [{"key": "foresail.dev/avoid", "effect": "NoSchedule"}]}).avoided
    assert not state(spec={"taints": [{"key": "foresail.dev/avoid", "effect": "PreferNoSchedule"}]}).avoided
    assert state(spec={"taints": [{"key": "karpenter.sh/disrupted", "effect": "NoSchedule"}]}).leaving
