"""What replica does a group of a LeaderWorkerSet become?"""

from __future__ import annotations

import math
from typing import Any

from controller.adapters.kube.groups import Group, group_replica, groups_of
from controller.adapters.kube.pods import Engine, Pod, read_pod
from policies.replica import Phase
from tests.builders_kube import T0, exited, pod_json, ready_pod, running, stamp, waiting

LEADER, WORKER = Engine("vllm", 8000, "foresail.dev/serving"), Engine("vllm", None, "foresail.dev/serving")


def _labels(index: int) -> dict[str, str]:
    prefix = "leaderworkerset.sigs.k8s.io"
    return {
        f"{prefix}/name": "big",
        f"{prefix}/group-index": "0",
        f"{prefix}/worker-index": str(index),
        f"{prefix}/template-revision-hash": "f00",
        "controller-revision-hash": "big-0-77",
    }


def _pod(told: dict[str, Any]) -> Pod:
    pod = read_pod(told, frozenset())
    assert isinstance(pod, Pod)
    return pod


def _leader(**more: Any) -> Pod:
    return _pod(ready_pod("big-0", owner=("StatefulSet", "big"), labels=_labels(0), **more))


def _worker(index: int = 1, **more: Any) -> Pod:
    told = {"owner": ("StatefulSet", "big-0"), "labels": _labels(index), "at": T0 + 1, **more}
    return _pod(ready_pod(f"big-0-{index}", **told))


def test_a_group_that_is_all_ready_is_one_replica_at_its_leader() -> None:
    (group,) = groups_of([_leader(), _worker(), _worker(2, ready_at=T0 + 150)])
    replica = group_replica(group, 3, LEADER, WORKER)
    assert (replica.id, replica.phase, replica.since_at) == ("big-0", Phase.READY, T0 + 150)
    assert (replica.revision, replica.address, replica.requested_at) == ("f00", "10.0.0.7:8000", T0)


def test_a_worker_that_lags_keeps_its_replica_from_serving() -> None:
    loading = _pod(pod_json("big-0-1", running(at=T0 + 40), owner=("StatefulSet", "big-0"), labels=_labels(1)))
    replica = group_replica(Group(_leader(), (loading,)), 2, LEADER, WORKER)
    assert (replica.phase, replica.since_at) == (Phase.LOADING, T0 + 40)


def test_a_worker_without_a_node_leaves_the_whole_replica_without_gpus() -> None:
    unplaced = _pod(pod_json("big-0-1", node="", owner=("StatefulSet", "big-0"), labels=_labels(1)))
    replica = group_replica(Group(_leader(), (unplaced,)), 2, LEADER, WORKER)
    assert (replica.phase, replica.node, replica.waiting_reason) == (Phase.PENDING, "", "Unschedulable")
    assert math.isnan(replica.placed_at)
    assert replica.unplaced


def test_a_worker_that_is_missing_leaves_the_replica_pending() -> None:
    replica = group_replica(Group(_leader()), 2, LEADER, WORKER)
    assert (replica.phase, replica.node) == (Phase.PENDING, "")


def test_a_worker_that_crashes_is_a_crash_of_its_replica() -> None:
    status = waiting("CrashLoopBackOff", restarts=1, last=exited(T0 + 500, "OOMKilled"))
    crashed = _pod(pod_json("big-0-1", status, owner=("StatefulSet", "big-0"), labels=_labels(1)))
    replica = group_replica(Group(_leader(), (crashed,)), 2, LEADER, WORKER)
    assert (replica.phase, replica.life, replica.requested_at) == (Phase.FAILED, "big-0#uid-big-.2", T0 + 500)
    assert (replica.exit_reason, replica.waiting_reason) == ("OOMKilled", "CrashLoopBackOff")


def test_a_worker_made_after_the_leader_was_ready_does_not_shorten_its_lead_time() -> None:
    replica = group_replica(Group(_leader(), (_worker(at=T0 + 125),)), 2, LEADER, WORKER)
    assert replica.requested_at == T0


def test_a_leader_on_its_way_out_takes_its_replica_along() -> None:
    leader = _leader(deletionTimestamp=stamp(T0 + 900), deletionGracePeriodSeconds=100)
    replica = group_replica(Group(leader, (_worker(),)), 2, LEADER, WORKER)
    assert (replica.phase, replica.since_at) == (Phase.DRAINING, T0 + 800)


def test_labels_alone_put_no_pod_into_a_group() -> None:
    stray = _pod(ready_pod("stray", owner=("ReplicaSet", "other"), labels=_labels(0)))
    of_another_set = _pod(ready_pod("odd", owner=("StatefulSet", "other"), labels=_labels(0)))
    assert groups_of([stray, of_another_set]) == ()
    (group,) = groups_of([_leader(), _pod(ready_pod("odd", owner=("StatefulSet", "other"), labels=_labels(1)))])
    assert group.workers == ()


def test_a_worker_of_the_group_before_is_no_part_of_it() -> None:
    old = _worker(deletionTimestamp=stamp(T0 + 10), deletionGracePeriodSeconds=0)
    assert group_replica(Group(_leader(), (old,)), 2, LEADER, WORKER).phase is Phase.PENDING
    assert group_replica(Group(_leader(), (old, _worker(2))), 2, LEADER, WORKER).phase is Phase.READY
