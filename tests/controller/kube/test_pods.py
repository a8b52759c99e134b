"""What replica does a pod of each state become?"""

from __future__ import annotations

import math
from typing import Any

import pytest

from controller.adapters.kube.json_reading import Refused
from controller.adapters.kube.pods import Engine, Pod, read_pod, replica_of
from policies.replica import Phase, ReplicaState
from tests.builders_kube import T0, exited, pod_json, ready_pod, running, stamp, stopped, template_json, waiting

GPUS = frozenset(("nvidia.com/gpu",))
ENGINE = Engine("vllm", 8000, "foresail.dev/serving")


def _read(told: object) -> Pod:
    pod = read_pod(told, GPUS)
    assert isinstance(pod, Pod)
    return pod


def _replica(told: object) -> ReplicaState:
    return replica_of(_read(told), ENGINE)


def test_a_pod_that_serves_is_a_ready_replica() -> None:
    assert _replica(ready_pod()) == ReplicaState(
        id="llama-1",
        phase=Phase.READY,
        requested_at=T0,
        since_at=T0 + 120,
        revision="abc",
        node="node-a",
        placed_at=T0 + 5,
        address="10.0.0.7:8000",
    )


def test_a_pod_without_a_node_is_pending_and_says_why() -> None:
    replica = _replica(pod_json(node=""))
    assert (replica.phase, replica.since_at, replica.node, replica.waiting_reason) == (
        Phase.PENDING, T0, "", "Unschedulable",
    )  # fmt: skip
    assert replica.unplaced
    assert math.isnan(replica.placed_at)
    assert replica.address == ""


def test_a_placed_pod_is_pending_until_its_engine_runs() -> None:
    pulling = _replica(pod_json("llama-1", waiting("ImagePullBackOff")))
    assert (pulling.phase, pulling.waiting_reason) == (Phase.PENDING, "ImagePullBackOff")
    assert not pulling.unplaced
    on_its_way = _replica(pod_json("llama-1", waiting("ContainerCreating")))
    assert (on_its_way.phase, on_its_way.waiting_reason) == (Phase.PENDING, "")


def test_an_engine_that_runs_and_is_not_ready_is_loading() -> None:
    replica = _replica(pod_json("llama-1", running(at=T0 + 30)))
    assert (replica.phase, replica.since_at, replica.begun_at) == (Phase.LOADING, T0 + 30, T0 + 5)


def test_an_engine_that_lost_readiness_has_been_so_since_it_lost_it() -> None:
    replica = _replica(pod_json("llama-1", running(at=T0 + 30), unready_at=T0 + 900))
    assert (replica.phase, replica.since_at, replica.life) == (Phase.LOADING, T0 + 900, "llama-1#0")


@pytest.mark.parametrize(
    "status",
    [
        stopped(exited(T0 + 400, "OOMKilled", 137), restarts=2),
        waiting("CrashLoopBackOff", restarts=2, last=exited(T0 + 400, "OOMKilled", 137)),
    ],
    ids=["exited", "waits to be started again"],
)
def test_an_engine_that_exited_begins_another_life_at_once(status: dict[str, Any]) -> None:
    replica = _replica(pod_json("llama-1", status))
    assert (replica.phase, replica.since_at, replica.requested_at) == (Phase.FAILED, T0 + 400, T0 + 400)
    assert (replica.restarts, replica.life, replica.exit_reason) == (3, "llama-1#3", "OOMKilled")


def test_a_life_goes_on_when_the_engine_is_started_again() -> None:
    before = _replica(pod_json("llama-1", waiting("CrashLoopBackOff", restarts=2, last=exited(T0 + 400))))
    after = _replica(pod_json("llama-1", running(at=T0 + 460, restarts=3, last=exited(T0 + 400))))
    assert before.waiting_reason == "CrashLoopBackOff"
    assert (after.life, after.phase, after.waiting_reason) == (before.life, Phase.LOADING, "")
    assert after.requested_at == T0 + 400  # its lead time begins with the exit
    assert after.placed_at == T0 + 5


def test_a_restart_that_nobody_remembers_was_asked_for_when_it_began() -> None:
    replica = _replica(pod_json("llama-1", running(at=T0 + 460, restarts=1)))
    assert (replica.restarts, replica.requested_at, replica.exit_reason) == (1, T0 + 460, "")


def test_what_runs_beside_the_engine_does_not_count() -> None:
    told = ready_pod()
    told["status"]["containerStatuses"].append(
        waiting("CrashLoopBackOff", "proxy", restarts=9, last=exited(T0 + 700, "OOMKilled"))
    )
    told["status"]["initContainerStatuses"] = [stopped(exited(T0 + 9, "Error"), "fetch", restarts=5)]
    replica = _replica(told)
    assert (replica.phase, replica.restarts, replica.exit_reason, replica.waiting_reason) == (Phase.READY, 0, "", "")


def test_a_pod_on_its_way_out_drains_since_that_was_asked_for() -> None:
    told = ready_pod(deletionTimestamp=stamp(T0 + 1000), deletionGracePeriodSeconds=600)
    replica = _replica(told)
    assert (replica.phase, replica.since_at) == (Phase.DRAINING, T0 + 400)


def test_a_pod_that_was_evicted_has_failed_for_that_reason() -> None:
    told = pod_json("llama-1", phase="Failed", unready_at=T0 + 500)
    told["status"]["reason"] = "Evicted"
    replica = _replica(told)
    assert (replica.phase, replica.since_at, replica.exit_reason) == (Phase.FAILED, T0 + 500, "Evicted")


def test_a_pod_whose_label_says_so_is_cordoned() -> None:
    assert not _replica(ready_pod(labels={})).cordoned
    assert _replica(ready_pod(labels={"foresail.dev/serving": "false"})).cordoned


@pytest.mark.parametrize(("told", "address"), [("fd00::7", "[fd00::7]:8000"), ("x.example", ""), ("", "")])
def test_an_address_is_that_of_an_ip_address(told: str, address: str) -> None:
    pod = ready_pod()
    pod["status"]["podIP"] = told
    assert _replica(pod).address == address


def test_gpus_are_those_of_containers_and_sidecars_or_of_the_hungriest_step_before() -> None:
    spec = template_json()["spec"]  # 2 of the engine
    limits = {"resources": {"limits": {"nvidia.com/gpu": "1", "memory": "8Gi"}}}
    spec["initContainers"] = [{"name": "side", "restartPolicy": "Always", **limits}, {"name": "warm", **limits}]
    assert _read(pod_json(spec=spec)).gpus == 3
    spec["initContainers"].append({"name": "big", "resources": {"limits": {"nvidia.com/gpu": 8}}})
    assert _read(pod_json(spec=spec)).gpus == 9


@pytest.mark.parametrize("key", ["name", "namespace", "uid", "creationTimestamp"])
def test_a_pod_without_what_names_it_is_refused(key: str) -> None:
    told = ready_pod()
    del told["metadata"][key]
    assert isinstance(read_pod(told, GPUS), Refused)
