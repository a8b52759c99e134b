"""Which pods make one replica of a LeaderWorkerSet, and in what state is it?

A group serves by its leader, and only while all of it is there: what befalls a worker befalls the replica.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from controller.adapters.kube.pods import Engine, Pod, replica_of
from policies.replica import Phase, ReplicaState

NAME_LABEL = "leaderworkerset.sigs.k8s.io/name"
GROUP_LABEL = "leaderworkerset.sigs.k8s.io/group-index"
WORKER_LABEL = "leaderworkerset.sigs.k8s.io/worker-index"

_WORST_FIRST = (Phase.FAILED, Phase.PENDING, Phase.LOADING)


@dataclass(frozen=True, slots=True)
class Group:
    """The pods of one replica; those of workers may be missing."""

    leader: Pod
    workers: tuple[Pod, ...] = field(default=())


def groups_of(pods: Iterable[Pod]) -> tuple[Group, ...]:
    """Return the groups that have a leader among the pods of one LeaderWorkerSet.

    Labels say which group a pod belongs to; its StatefulSet, which bears the name of the set or of the leader, confirms
    it: labels can be put on any pod.
    """
    leaders: dict[str, Pod] = {}
    workers: dict[str, list[Pod]] = {}
    for pod in pods:
        owner = pod.owner
        if owner is None or owner.kind != "StatefulSet":
            continue
        if pod.labels.get(WORKER_LABEL) == "0":
            if owner.name == pod.labels.get(NAME_LABEL):
                leaders[pod.name] = pod
        else:
            workers.setdefault(owner.name, []).append(pod)
    return tuple([Group(leader, tuple(workers.get(name, ()))) for name, leader in leaders.items()])


def group_replica(group: Group, size: int, leader: Engine, worker: Engine) -> ReplicaState:
    """Return the replica that a group of ``size`` pods is; workers on their way out are no part of it any more.

    Where a worker has been restarted alone, the latest such restart counts as the replica's.
    """
    first = replica_of(group.leader, leader)
    others = [replica_of(pod, worker) for pod in group.workers if math.isnan(pod.leaving_at)]
    members = (first, *others)
    complete = len(members) >= size
    placed = complete and all(member.node for member in members)
    phase = first.phase if first.phase is Phase.DRAINING else _phase(members, complete)
    exited = [member for member in members if member.exit_reason]
    return replace(
        first,
        phase=phase,
        since_at=_since_at(first, members, phase),
        requested_at=max([first.requested_at, *(member.requested_at for member in others if member.restarts)]),
        node=first.node if placed else "",
        restarts=sum(member.restarts for member in members),
        placed_at=max(member.placed_at for member in members) if placed and _all_known(members) else math.nan,
        exit_reason=max(exited, key=lambda member: member.requested_at).exit_reason if exited else "",
        waiting_reason=next((member.waiting_reason for member in members if member.waiting_reason), ""),
    )


def _phase(members: Sequence[ReplicaState], complete: bool) -> Phase:
    """Return how far a group has come whose leader stays: as far as the member that lags most."""
    phases = {member.phase for member in members}
    if not complete and Phase.FAILED not in phases:
        return Phase.PENDING
    return next((phase for phase in _WORST_FIRST if phase in phases), Phase.READY)


def _since_at(first: ReplicaState, members: Sequence[ReplicaState], phase: Phase) -> float:
    if first.phase is Phase.DRAINING:
        return first.since_at
    return max([member.since_at for member in members if member.phase is phase], default=first.since_at)


def _all_known(members: Sequence[ReplicaState]) -> bool:
    return not any(math.isnan(member.placed_at) for member in members)


def pods_by_set(pods: Iterable[Pod]) -> Mapping[tuple[str, str], list[Pod]]:
    """Return the pods of each LeaderWorkerSet, by its namespace and name."""
    found: dict[tuple[str, str], list[Pod]] = {}
    for pod in pods:
        if name := pod.labels.get(NAME_LABEL):
            found.setdefault((pod.namespace, name), []).append(pod)
    return found
