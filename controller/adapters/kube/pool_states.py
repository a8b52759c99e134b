"""What is the state of each pool: its workload, the revisions of that, and its pods, put together?"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from controller.adapters.kube.discovery import Place
from controller.adapters.kube.groups import Group, group_replica, groups_of
from controller.adapters.kube.json_reading import Refused
from controller.adapters.kube.label_selectors import selects
from controller.adapters.kube.pods import Pod, replica_of
from controller.adapters.kube.revisions import Revision, lineage
from controller.adapters.kube.workloads import Workload
from controller.shard_settings import Spent
from policies.fleet import PoolState
from policies.replica import ReplicaState

_OWNER_BY_REVISION = frozenset(("Deployment", "Rollout"))


@dataclass(frozen=True, slots=True)
class Objects:
    """What a cache holds, by what it is looked for.

    Attributes:
        revisions: By the uid of their workload.
        pods: By the uid of their controller.
        grouped: Those of LeaderWorkerSets, by its namespace and name.
        everywhere: All pods by namespace.
    """

    revisions: Mapping[str, Sequence[Revision]]
    pods: Mapping[str, Sequence[Pod]]
    grouped: Mapping[tuple[str, str], Sequence[Pod]]
    everywhere: Mapping[str, Sequence[Pod]]

    def pods_of(self, workload: Workload) -> tuple[Pod, ...]:
        """Return the pods of a workload, the oldest first.

        Those that have ended for good are not among them where others have taken their place: their controller no
        longer counts them, and they stay until somebody tidies up.
        """
        found = {pod.name: pod for pod in self._found(workload) if pod.namespace == workload.namespace}.values()
        standing = [pod for pod in found if not pod.over]
        if len(standing) < len(found):
            ended = sorted([pod for pod in found if pod.over], key=lambda pod: pod.created_at, reverse=True)
            standing += ended[: max(0, workload.desired * workload.size - len(standing))]
        return tuple(sorted(standing, key=lambda pod: (pod.created_at, pod.name)))

    def _found(self, workload: Workload) -> Sequence[Pod]:
        if workload.kind in _OWNER_BY_REVISION:
            sets = self.revisions.get(workload.uid, ())
            return [pod for revision in sets for pod in self.pods.get(revision.uid, ())]
        if workload.kind == "StatefulSet":
            return self.pods.get(workload.uid, ())
        if workload.kind == "LeaderWorkerSet":
            return self.grouped.get((workload.namespace, workload.name), ())
        wanted = selects(workload.selector)
        return [pod for pod in self.everywhere.get(workload.namespace, ()) if wanted(pod.labels)] if wanted else ()


def pool_state(
    workload: Workload,
    place: Place,
    revisions: Iterable[Revision],
    pods: Sequence[Pod],
    read: Callable[[Pod], ReplicaState] | None = None,
) -> PoolState:
    """Return the state of a pool.

    Args:
        workload: Its workload.
        place: What else is known of it.
        revisions: Those of the workload.
        pods: Those of the workload.
        read: Returns the replica that a pod is, for kinds whose replica is one pod; ``replica_of`` unless given.
    """
    if workload.kind == "LeaderWorkerSet":
        groups = groups_of(pods)
        replicas = tuple([group_replica(group, workload.size, place.engine, place.worker) for group in groups])
    else:
        groups = ()
        replicas = tuple([read(pod) if read else replica_of(pod, place.engine) for pod in pods])
    line = lineage(revisions, workload.revision, workload.restored)
    return PoolState(
        key=place.key,
        replicas=replicas,
        desired=workload.desired,
        gpus_per_replica=_gpus(workload, place, pods, groups),
        usd_per_replica_hour=place.usd_per_replica_hour,
        version=workload.generation,
        revision=line.current or (replicas[-1].revision if replicas and not line.names else ""),
        stable_revision=workload.stable,
        revision_at=line.current_at,
        revisions=line.names,
        paused=workload.paused,
    )


def asked_for(workload: Workload, place: Place, objects: Objects) -> Spent:
    """Return what the replicas come to that are asked of a workload."""
    pods = () if place.gpus is not None or workload.template else objects.pods_of(workload)
    gpus = _gpus(workload, place, pods, ())
    return Spent(workload.desired * gpus, workload.desired * place.usd_per_replica_hour)


def notes_of(workload: Workload, place: Place, state: PoolState) -> tuple[Refused, ...]:
    """Return what is to be said of a pool that can be read."""
    said = [place.note] if place.note else []
    if workload.behind:
        said.append(f"its controller has seen generation {workload.observed} and not yet {workload.generation}")
    if not state.gpus_per_replica:
        said.append("its GPUs are not known: no limits in its template, nor in the settings")
    if workload.kind == "LeaderWorkerSet" and workload.size > 1 and workload.worker is None:
        said.append("it has no template of its workers")
    return tuple([Refused(workload.title, what) for what in said])


def _gpus(workload: Workload, place: Place, pods: Sequence[Pod], groups: Sequence[Group]) -> int:
    """Return the GPUs of a replica: as somebody says, as its template does, or as its newest pod does."""
    if place.gpus is not None:
        return place.gpus
    if workload.template is not None:
        worker = workload.worker.gpus if workload.worker else 0
        return workload.template.gpus + (workload.size - 1) * worker
    return pods[-1].gpus if pods and not groups else 0
