"""Does a ReplicaSet give up the pods that were chosen, and does nobody lose a pod that nobody chose?"""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from controller.adapters.kube.pods import Pod, read_pod
from controller.adapters.kube.victims import FIRST_TO_GO, costs, ordinal, out_of_turn, standing, victims
from simulations.kubernetes_api.controllers.replica_sets import deletion_order
from tests.builders_kube import T0, pod_json, running, waiting
from tests.builders_kube_writes import COST, LABEL

Json = dict[str, Any]


def _pod(number: int, state: str, node: str, *, cordoned: bool, cost: str = "", age_s: int = 0) -> Json:
    at, name = T0 - age_s, f"llama-{number}"
    labels = {LABEL: "false" if cordoned else "true"}
    if state == "unplaced":
        told = pod_json(name, node="", at=at, labels=labels)
    elif state == "pending":
        told = pod_json(name, waiting("ContainerCreating"), node=node, at=at, labels=labels, phase="Pending")
    else:
        ready_at = at + 60 if state == "ready" else None
        told = pod_json(name, running(at=at + 20), node=node, at=at, labels=labels, ready_at=ready_at)
    if cost:
        told["metadata"]["annotations"] = {COST: cost}
    return told


def _read(told: Json) -> Pod:
    pod = read_pod(told, frozenset())
    assert isinstance(pod, Pod)
    return pod


PODS = st.lists(
    st.builds(
        dict,
        state=st.sampled_from(["ready", "ready", "ready", "loading", "pending", "unplaced"]),
        node=st.sampled_from(["a", "b"]),
        cordoned=st.booleans(),
        cost=st.sampled_from(["", FIRST_TO_GO, "-5", "100"]),
        age_s=st.integers(0, 3) | st.just(10_000),
    ),
    min_size=1,
    max_size=8,
).map(lambda drawn: [_pod(number, **one) for number, one in enumerate(drawn)])


@given(told=PODS, replicas=st.integers(0, 8), named=st.lists(st.integers(0, 9), max_size=4, unique=True))
def test_a_replica_set_gives_up_what_was_chosen(told: list[Json], replicas: int, named: list[int]) -> None:
    retire_first = tuple(f"llama-{number}" for number in named)
    pods = [_read(one) for one in told]
    going = victims(pods, replicas, retire_first, LABEL)
    assert len(going) == max(0, len(pods) - replicas)
    for name, cost in costs(pods, going, retire_first, LABEL).items():
        annotations = told[int(name.rpartition("-")[2])]["metadata"].setdefault("annotations", {})
        annotations.pop(COST, None)
        if cost is not None:
            annotations[COST] = cost
    gone = {pod["metadata"]["name"] for pod in deletion_order(told)[: len(going)]}
    chosen = {pod.name for pod in going if pod.name in retire_first or pod.labels[LABEL] == "false"}
    assert chosen <= gone
    marks = {pod["metadata"]["name"] for pod in told if pod["metadata"].get("annotations", {}).get(COST) == FIRST_TO_GO}
    assert marks == chosen


def test_pods_on_their_way_out_are_no_replicas() -> None:
    leaving = pod_json("llama-1", running(), deletionTimestamp="2026-09-21T14:13:50Z", deletionGracePeriodSeconds=30)
    pods = [_read(leaving), _read(pod_json("llama-2", phase="Failed")), _read(_pod(3, "ready", "a", cordoned=False))]
    assert [pod.name for pod in standing(pods)] == ["llama-3"]
    assert victims(pods, 1, (), LABEL) == ()


def test_the_highest_ordinals_go_and_nobody_else_can() -> None:
    names = ("llama-2", "llama-3", "llama-4")
    assert out_of_turn(names, 2, 2, ("llama-4",)) == ()
    assert out_of_turn(names, 2, 2, ("llama-3",)) == ("llama-3",)
    assert out_of_turn(names, 2, 2, ("llama-4", "llama-3")) == ()  # no more go than one
    assert out_of_turn(names, 1, 2, ("gone-9", "llama-4", "llama-3")) == ()
    assert ordinal("llama") is None
