"""What pools and nodes are there, as the watched cache has it? The reading half of the ``Cluster`` port.

Nothing is asked of the API server when pools are asked for: they are put together from what watches have told, and not
told at all where a watch has been silent for too long or has not yet shown what we wrote ourselves. Only what has
changed since the last time is put together anew.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from numpy.random import Generator

from controller.adapters.kube.changes import Fence, unfenced
from controller.adapters.kube.client import KubernetesApi
from controller.adapters.kube.discovery import InferencePool, Place, discover, of_shard, read_inference_pool
from controller.adapters.kube.groups import pods_by_set
from controller.adapters.kube.health import Health
from controller.adapters.kube.json_reading import Refused
from controller.adapters.kube.kinds import (
    AUTOSCALERS,
    CONTROLLER_REVISIONS,
    INFERENCE_POOLS,
    KINDS,
    NODES,
    PODS,
    REPLICA_SETS,
    Resource,
)
from controller.adapters.kube.nodes import Node, read_node
from controller.adapters.kube.owners import NOBODY, Claims, Others, Owners, never
from controller.adapters.kube.ownership import Owner
from controller.adapters.kube.pods import Pod, read_pod, replica_of
from controller.adapters.kube.pool_states import Objects, asked_for, notes_of, pool_state
from controller.adapters.kube.reflector import Reads, Reflector, Surroundings
from controller.adapters.kube.revisions import Revision, read_revision
from controller.adapters.kube.settings import KubernetesSettings, PoolPlace
from controller.adapters.kube.stores import Snapshot
from controller.adapters.kube.watching import Watching
from controller.adapters.kube.workloads import Reading, Workload, read_workload
from controller.adapters.kube.written import Written
from controller.shard_settings import WHOLE, ShardSettings, Spent
from policies.fleet import NodeState, PoolKey, PoolState
from policies.replica import ReplicaState

MOST_NOTES = 100
_APART = frozenset((NODES, *AUTOSCALERS.values()))
"""What pools can be told without."""


@dataclass(frozen=True, slots=True)
class _Made:
    """A pool as it was put together, and of what; ``replicas`` by the uid of their pod."""

    workload: Workload
    place: Place
    revisions: tuple[Revision, ...]
    pods: tuple[Pod, ...]
    state: PoolState
    notes: tuple[Refused, ...]
    replicas: Mapping[str, tuple[Pod, ReplicaState]] = field(repr=False)
    others: Others = NOBODY


@dataclass(frozen=True, slots=True)
class Seen:
    """A pool as it was looked at last: what whoever acts on it goes by."""

    workload: Workload
    revisions: tuple[Revision, ...]
    pods: tuple[Pod, ...]
    state: PoolState


@dataclass(frozen=True, slots=True)
class _Told:
    """What was told last, for as long as nothing changes, and before ``until``."""

    versions: tuple[int, ...]
    pools: tuple[PoolState, ...]
    notes: tuple[Refused, ...]
    behind: frozenset[PoolKey]
    until: float
    owners: Mapping[PoolKey, Owner]
    spent: Mapping[int, Spent]


class KubernetesView:
    """Pools and nodes of a cluster. Start it before use and close it after."""

    def __init__(
        self,
        settings: KubernetesSettings,
        elapsed: Callable[[], float],
        rng: Generator,
        *,
        fence: Fence = unfenced,
        now: Callable[[], float] = never,
        shard: ShardSettings = WHOLE,
    ) -> None:
        """Take the time from ``elapsed``, seconds that never go back, and ``now``, seconds since the epoch.

        ``rng`` scatters waits. Without ``now`` a number of replicas that a person has set stays theirs.

        Whoever writes by way of ``api`` asks ``fence`` each time. Only pools of ``shard`` are told, though all are
        watched.

        Raises:
            ObservationError: If it cannot be told how the API server is reached.
        """
        self.api = KubernetesApi(settings, elapsed, fence)
        self._settings, self._elapsed, self._shard = settings, elapsed, shard
        self._around = Surroundings(self.api, settings, elapsed)
        self._rng = rng
        self._owners = Owners(settings, now)
        self.reflectors: dict[Resource, list[Reflector[Any]]] = {}
        self._workloads: list[Resource] = []
        self._watch_all()
        self._watching = Watching(elapsed)
        self._written = Written(elapsed, self.api.server)
        self._made: dict[str, _Made] = {}
        self._by_key: dict[PoolKey, _Made] = {}
        self._told: _Told | None = None

    def name_pools(self, pools: tuple[PoolPlace, ...]) -> None:
        """Take these workloads for pools from the next look on, whatever their labels say; to be called between two."""
        if pools != self._settings.pools:
            self._settings = self._settings.model_copy(update={"pools": pools})
            if self._told is not None:  # what was told stays so for whoever asks until then: no other thread looks
                self._told = replace(self._told, versions=())

    def start(self) -> None:
        """Begin to watch; returns when everything was listed, or after as long as one answer may take."""
        reflectors = [one for several in self.reflectors.values() for one in several]
        self._watching.start(reflectors, self._settings.timeout_s)

    def close(self) -> None:
        """End the watches and give up the connections."""
        self._watching.close()
        self.api.close()

    def health(self) -> Health:
        """Return how its watches do; to be called from any thread."""
        return Health(self.api.answers, tuple(self._watching.reflectors))

    def pools(self) -> tuple[PoolState, ...]:
        """Return every pool with its replicas, without metrics and weights, in key order.

        As long as nothing changes, these are the same objects.

        Raises:
            ObservationError: If the cache is too old, or does not show a write of ours in time.
        """
        return self._look().pools

    def nodes(self) -> Mapping[str, NodeState]:
        """Return the nodes by name; none where they are not read. Raises ObservationError, as ``pools`` does."""
        self._written.wait(self._settings.catch_up_s)
        nodes: list[Node] = [node for found in self._snapshots(NODES) for node in found.objects.values()]
        return {node.name: node.state for node in nodes}

    def notes(self) -> tuple[Refused, ...]:
        """Return what is to be said of the last look: objects that were not used, pools of which little is known."""
        told = self._told
        return told.notes if told else ()

    def behind(self) -> frozenset[PoolKey]:
        """Return the pools whose controller had, at the last look, not seen what is wanted of them.

        What such a pool's pods are says nothing yet of what becomes of the last write.
        """
        told = self._told
        return told.behind if told else frozenset()

    def seen(self, key: PoolKey) -> Seen | None:
        """Return a pool as ``pools`` told of it last, None where there was none of that key.

        Nothing is looked at anew: who acts on a replica means the pod that was seen, and no later one of its name.

        Raises:
            ObservationError: If nothing was looked at yet, and that cannot be done now.
        """
        if self._told is None:
            self._look()
        made = self._by_key.get(key)
        return Seen(made.workload, made.revisions, made.pods, made.state) if made else None

    def wrote(self, resource: Resource, namespace: str, resource_version: str) -> None:
        """Take note of a write of our own: no pools are told that are older than it."""
        self._written.note(self._reflector_of(resource, namespace), resource_version)

    def owner(self, pool: PoolKey) -> Owner | None:
        """Return who else sets that pool's number of replicas, as of the last look; also who sets what we publish."""
        told = self._told
        return told.owners.get(pool) if told else None

    def spent(self) -> Mapping[int, Spent]:
        """Return what is asked for by workloads that are told as no pools here, by shard, as of the last look."""
        told = self._told
        return told.spent if told else {}

    # Looking

    def _look(self) -> _Told:
        self._written.wait(self._settings.catch_up_s)
        found = {resource: self._snapshots(resource) for resource in self.reflectors if resource not in _APART}
        claims = self._owners.look(self._snapshots)
        versions = (*[snapshot.version for several in found.values() for snapshot in several], *claims.versions)
        told = self._told
        if told is None or told.versions != versions or self._owners.over(told.until):
            self._told = told = self._put_together(found, versions, claims)
        return told

    def _snapshots(self, resource: Resource) -> list[Snapshot[Any]]:
        stale_after_s = self._settings.stale_after_s
        return [reflector.store.snapshot(stale_after_s) for reflector in self.reflectors.get(resource, ())]

    def _reflector_of(self, resource: Resource, namespace: str) -> Reflector[Any]:
        everywhere = "*" in self._settings.namespaces or not resource.namespaced
        return self.reflectors[resource][0 if everywhere else self._settings.namespaces.index(namespace)]

    def _put_together(
        self, found: Mapping[Resource, list[Snapshot[Any]]], versions: tuple[int, ...], claims: Claims
    ) -> _Told:
        workloads: list[Workload] = [one for kind in self._workloads for one in _all(found[kind])]
        inference_pools: list[InferencePool] = _all(found.get(INFERENCE_POOLS, ()))
        everywhere, refused = discover(workloads, inference_pools, self._settings)
        places, unsaid = of_shard(workloads, everywhere, self._shard, self._settings.prefix)
        refused = (*refused, *unsaid)
        pods: list[Pod] = _all(found[PODS])
        revisions = [*_all(found.get(REPLICA_SETS, ())), *_all(found.get(CONTROLLER_REVISIONS, ()))]
        objects = _objects(pods, revisions)
        mine = [workload for workload in workloads if workload.uid in places]
        owned = self._owners.of(mine, claims)
        made = {
            workload.uid: self._pool(workload, places[workload.uid], objects, owned.get(workload.uid, NOBODY))
            for workload in mine
        }
        self._made, self._by_key = made, {pool.state.key: pool for pool in made.values()}
        unread = [one for several in found.values() for snapshot in several for one in snapshot.refused]
        notes = [*refused, *unread, *claims.refused, *(note for pool in made.values() for note in pool.notes)]
        pools = sorted([pool.state for pool in made.values()], key=lambda state: state.key)
        behind = frozenset(pool.state.key for pool in made.values() if pool.workload.behind)
        owners = {pool.state.key: owner for pool in made.values() if (owner := pool.others.owner)}
        until = min((owner.until for owner in owners.values()), default=math.inf)
        elsewhere = everywhere.keys() - places.keys()
        spent = self._spent([one for one in workloads if one.uid in elsewhere], everywhere, objects)
        return _Told(versions, tuple(pools), tuple(notes[:MOST_NOTES]), behind, until, owners, spent)

    def _pool(self, workload: Workload, place: Place, objects: Objects, others: Others) -> _Made:
        pods, revisions = objects.pods_of(workload), tuple(objects.revisions.get(workload.uid, ()))
        last = self._made.get(workload.uid)
        made_of = workload, place, revisions, pods, others
        if last and (last.workload, last.place, last.revisions, last.pods, last.others) == made_of:
            return last
        known = last.replicas if last and last.place.engine == place.engine else {}

        def seen(pod: Pod) -> ReplicaState:
            before = known.get(pod.uid)
            return before[1] if before and before[0] is pod else replica_of(pod, place.engine)

        state = others.owned(pool_state(workload, place, revisions, pods, seen))
        by_id = {replica.id: replica for replica in state.replicas}
        replicas = {pod.uid: (pod, by_id[pod.name]) for pod in pods if pod.name in by_id}
        notes = (*notes_of(workload, place, state), *others.notes(workload))
        return _Made(workload, place, revisions, pods, state, notes, replicas, others)

    def _spent(
        self, workloads: Iterable[Workload], places: Mapping[str, Place], objects: Objects
    ) -> Mapping[int, Spent]:
        found: dict[int, Spent] = {}
        for workload in workloads:
            place = places[workload.uid]
            home = self._shard.home_of(place.key.model)
            found[home] = found.get(home, Spent()) + asked_for(workload, place, objects)
        return found

    # What is watched

    def _watch_all(self) -> None:
        settings = self._settings
        reading = Reading(settings.gpu_resources, settings.prefix)
        self._add(PODS, partial(read_pod, gpu_resources=settings.gpu_resources))
        for name in settings.kinds:
            self._add(KINDS[name], partial(read_workload, kind=name, reading=reading))
            self._workloads.append(KINDS[name])
        for custom in settings.custom_kinds:
            resource = Resource(custom.group, custom.version, custom.plural, custom.kind)
            self._add(resource, partial(read_workload, kind=custom.kind, reading=reading, custom=custom))
            self._workloads.append(resource)
        if {"Deployment", "Rollout"} & set(settings.kinds):
            self._add(REPLICA_SETS, partial(read_revision, kind="ReplicaSet"))
        if {"StatefulSet", "LeaderWorkerSet"} & set(settings.kinds):
            self._add(CONTROLLER_REVISIONS, partial(read_revision, kind="ControllerRevision"))
        if settings.by_inference_pools:
            self._add(INFERENCE_POOLS, partial(read_inference_pool, prefix=settings.prefix))
        for resource, read in self._owners.watched():
            self._add(resource, read)
        if settings.nodes:
            avoid = f"{settings.prefix}/avoid"
            self._add(NODES, partial(read_node, leaving_taints=settings.leaving_taints, avoid_taint=avoid))

    def _add(self, resource: Resource, read: Reads[Any]) -> None:
        names = self._settings.namespaces if resource.namespaced else ("*",)
        self.reflectors[resource] = [
            Reflector(self._around, resource, "" if name == "*" else name, read, rng)
            for name, rng in zip(names, self._rng.spawn(len(names)), strict=True)
        ]


def _all(snapshots: Iterable[Snapshot[Any]]) -> list[Any]:
    return [thing for snapshot in snapshots for thing in snapshot.objects.values()]


def _objects(pods: Iterable[Pod], revisions: Iterable[Revision]) -> Objects:
    """Return what a cache holds, by what it is looked for."""
    by_owner: dict[str, list[Pod]] = {}
    everywhere: dict[str, list[Pod]] = {}
    for pod in pods:
        everywhere.setdefault(pod.namespace, []).append(pod)
        if pod.owner is not None:
            by_owner.setdefault(pod.owner.uid, []).append(pod)
    by_workload: dict[str, list[Revision]] = {}
    for revision in revisions:
        by_workload.setdefault(revision.owner_uid, []).append(revision)
    return Objects(by_workload, by_owner, pods_by_set(pods), everywhere)
