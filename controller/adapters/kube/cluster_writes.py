"""How does the control loop act on a Kubernetes cluster? The ``Cluster`` port, over the cache and single writes.

A verb acts on what ``pools`` told last: a pod is meant by its uid, a workload by its generation. Objects are read anew
right before they are written, every write is conditional on what was read, and none is sent twice.

Scaling down does not wait for requests to end: a pod that is given up is out of its Service by its deletion, and has
its grace period to finish what it has. ``terminationGracePeriodSeconds`` must be as long as the longest generation, a
``preStop`` of some seconds lets gateways hear of it first. What is out of traffic already is named to go first.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from numpy.random import Generator

from controller.adapters.kube.changes import Fence, acting, unfenced
from controller.adapters.kube.cluster import KubernetesView, Seen
from controller.adapters.kube.discovery import model_said
from controller.adapters.kube.hand import Hand
from controller.adapters.kube.json_patches import annotated, pointer
from controller.adapters.kube.json_reading import MOST, Refused, count, entries, text, word, words
from controller.adapters.kube.kinds import KINDS, NODES, PODS, Resource
from controller.adapters.kube.own_place import own_namespaces
from controller.adapters.kube.ownership import owner_of, writer_of
from controller.adapters.kube.pods import DELETION_COST, Pod
from controller.adapters.kube.rollout_writes import RolloutWrites
from controller.adapters.kube.settings import KubernetesSettings
from controller.adapters.kube.victims import costs, out_of_turn, victims
from controller.adapters.kube.workloads import Reading, Workload, read_workload
from controller.errors import ActuationError, StalePlan
from controller.shard_settings import WHOLE, ShardSettings
from policies.fleet import NodeState, PoolKey, PoolState

_LOOKS = 3
"""At a workload whose status changes while it is rolled back: that of one that is rolled out often does."""

_LONGEST_MARKING_S = 20.0
"""Of pods that are to go first. After that the number that they go for was decided too long ago."""

_BY_ORDINAL = ("StatefulSet", "LeaderWorkerSet")


class KubernetesCluster:
    """``Cluster`` of Kubernetes. Start it before use and close it after.

    Attributes:
        view: What is seen.
        api: What is written by.
    """

    def __init__(
        self,
        settings: KubernetesSettings,
        elapsed: Callable[[], float],
        now: Callable[[], float],
        rng: Generator,
        fence: Fence = unfenced,
        shard: ShardSettings = WHOLE,
    ) -> None:
        """Take seconds that never go back from ``elapsed`` and the time from ``now``; every write asks ``fence``.

        Only pools of ``shard`` are told and acted on.

        Raises:
            ObservationError: If it cannot be told how the API server is reached.
        """
        self.view = KubernetesView(settings, elapsed, rng, fence=fence, now=now, shard=shard)
        self.api = self.view.api
        self._settings, self._now, self._elapsed, self._shard = settings, now, elapsed, shard
        self._hand = Hand(self.view, delete_unevictable=settings.delete_unevictable)
        self._rollouts = RolloutWrites(self._hand, settings, now)
        self._own = own_namespaces(settings)
        self._custom = {kind.kind: kind for kind in settings.custom_kinds}
        self._resources: Mapping[str, Resource] = {
            **KINDS,
            **{k.kind: Resource(k.group, k.version, k.plural, k.kind) for k in settings.custom_kinds},
        }

    def start(self) -> None:
        """Begin to watch; returns when everything was listed, or after as long as one answer may take."""
        self.view.start()

    def close(self) -> None:
        """End the watches and give up the connections."""
        self.view.close()

    def pools(self) -> tuple[PoolState, ...]:
        """Return every pool with its replicas, without metrics and weights; raises ObservationError."""
        return self.view.pools()

    def nodes(self) -> Mapping[str, NodeState]:
        """Return the nodes by name; none where they are not read. Raises ObservationError."""
        return self.view.nodes()

    def scale(self, pool: PoolKey, replicas: int, version: int, retire_first: tuple[str, ...] = ()) -> None:
        """Ask for ``replicas``; see ``controller.ports.Cluster.scale``.

        Raises:
            StalePlan: If the workload is not at ``version``, or shrinks although its controller is behind.
            ActuationError: If somebody else owns the number, or it is refused or not answered: it may have happened.
        """
        with acting():
            seen = self._seen(pool)
            if not 0 <= replicas <= MOST:
                raise ActuationError(f"{replicas} is no number of replicas", seen.workload.title)
            told, workload = self._anew(seen)
            if workload.generation != version:
                raise StalePlan(f"it is at generation {workload.generation}, not {version}", workload.title)
            self._check_owner(seen, told, workload)
            if replicas == workload.desired:
                return
            if replicas < workload.desired:
                self._choose(seen, told, workload, replicas, retire_first)
            self._hand.scale(self._resource(seen), told, replicas)

    def cordon(self, pool: PoolKey, replica: str) -> None:
        """Take the replica out of traffic by its label; raises ActuationError."""
        self._serve(pool, replica, "false")

    def uncordon(self, pool: PoolKey, replica: str) -> None:
        """Let the replica take traffic again; raises ActuationError."""
        self._serve(pool, replica, "true")

    def restart(self, pool: PoolKey, replica: str) -> None:
        """Evict the replica's pod: its controller makes another.

        Raises:
            ActuationError: If a disruption budget or the server says no, or nothing is answered: it may have happened.
        """
        with acting():
            seen = self._still_ours(self._seen(pool))
            self._hand.evict(self._pod(seen, replica))

    def roll_back(self, pool: PoolKey, revision: str) -> None:
        """Give the workload the template of ``revision``, and end a pause of ours.

        It is looked at anew where something else about it changes in that moment: going back is tried only once.

        Raises:
            StalePlan: If it has another template by now, or changes all the time.
            ActuationError: If there is no such revision, it is somebody else's to change, or it is refused or not
                answered: it may have happened.
        """
        for left in reversed(range(_LOOKS)):
            try:
                with acting():
                    seen = self._seen(pool)
                    self._rollouts.roll_back(self._resource(seen), seen, *self._anew(seen), revision)
            except StalePlan:
                if not left:
                    raise
            else:
                return

    def pause(self, pool: PoolKey) -> None:
        """Let the rollout go no further; raises ActuationError, also for kinds that have no pause."""
        with acting():
            seen = self._seen(pool)
            self._rollouts.pause(self._resource(seen), *self._anew(seen))

    def resume(self, pool: PoolKey) -> None:
        """End a pause of ours; raises ActuationError, also where it is somebody else's."""
        with acting():
            seen = self._seen(pool)
            self._rollouts.resume(self._resource(seen), *self._anew(seen))

    def avoid(self, node: str) -> None:
        """Taint the node so that nothing more is placed there; raises ActuationError."""
        self._taint(node, shut=True)

    def stop_avoiding(self, node: str) -> None:
        """Take our taint away; raises ActuationError."""
        self._taint(node, shut=False)

    # What is meant

    def _seen(self, key: PoolKey) -> Seen:
        """Return the pool that is meant, if it may be acted on."""
        seen = self.view.seen(key)
        if seen is None:
            raise ActuationError("there is no such pool", str(key))
        workload = seen.workload
        if workload.namespace in self._own and f"{self._settings.prefix}/model" not in workload.labels:
            remedy = f"label it {self._settings.prefix}/model if it is meant all the same"
            raise ActuationError(
                "it is in the namespace of Foresail itself, which is left alone", workload.title, remedy
            )
        return seen

    def _resource(self, seen: Seen) -> Resource:
        return self._resources[seen.workload.kind]

    def _pod(self, seen: Seen, replica: str) -> Pod:
        """Return the pod that is a replica, or leads it."""
        if replica in {one.id for one in seen.state.replicas}:
            return next(pod for pod in seen.pods if pod.name == replica)
        raise ActuationError(f"there is no replica {replica}", seen.workload.title)

    def _anew(self, seen: Seen) -> tuple[dict[str, Any], Workload]:
        """Return the workload as it is now, as told and as read."""
        known, settings = seen.workload, self._settings
        told = self._hand.read(self._resource(seen), known.namespace, known.name, known.uid)
        reading = Reading(settings.gpu_resources, settings.prefix)
        workload = read_workload(told, known.kind, reading, self._custom.get(known.kind))
        if isinstance(workload, Refused):
            raise ActuationError(workload.why, workload.subject)
        model = model_said(workload, settings.prefix)
        if not self._shard.whole and model != seen.state.key.model:
            raise StalePlan(f"it is of {model or 'no model'} now, which may be another shard's", workload.title)
        return told, workload

    def _still_ours(self, seen: Seen) -> Seen:
        """Return the pool whose pods are meant, after a look at whose it is where others may think it theirs."""
        if not self._shard.whole:
            self._anew(seen)
        return seen

    # Scaling

    def _check_owner(self, seen: Seen, told: dict[str, Any], workload: Workload) -> None:
        known = self.view.owner(seen.state.key)
        if known is not None:
            raise ActuationError(f"{known.title} owns the number of replicas", workload.title, known.remedy)
        custom = self._custom.get(workload.kind)
        path = custom.replicas_path.split(".") if custom else ("spec", "replicas")
        owner = owner_of(None, writer_of(told, path), workload.created_at, self._now(), self._settings.ownership)
        if owner is not None:
            raise ActuationError(f"{owner.title} owns the number of replicas", workload.title, owner.remedy)

    def _choose(
        self, seen: Seen, told: dict[str, Any], workload: Workload, replicas: int, retire_first: tuple[str, ...]
    ) -> None:
        """See to it that those go that are to go first."""
        if workload.behind:
            raise StalePlan("its controller has not seen what was wanted last", workload.title)
        if workload.kind in _BY_ORDINAL:
            self._check_ordinals(seen, told, replicas, retire_first)
            return
        if not all(pod.owner and pod.owner.kind == "ReplicaSet" for pod in seen.pods):
            there = sorted(set(retire_first) & {pod.name for pod in seen.pods})
            if there:
                remedy = f"restart {there[0]} or take it back into traffic: then nobody is to go first"
                raise ActuationError(
                    f"a {workload.kind} cannot be told to give up {there[0]} first", workload.title, remedy
                )
            return
        label = self._settings.serving_label
        going = victims(seen.pods, replicas, retire_first, label)
        by_name = {pod.name: pod for pod in seen.pods}
        began_s = self._elapsed()
        for name, cost in costs(seen.pods, going, retire_first, label).items():
            if self._elapsed() - began_s > _LONGEST_MARKING_S:
                raise StalePlan(f"to mark who goes first has taken {_LONGEST_MARKING_S:g} s already", workload.title)
            pod = self._hand.read(PODS, workload.namespace, name, by_name[name].uid)
            if words(pod, "metadata", "annotations").get(DELETION_COST) != cost:
                self._hand.patch(PODS, pod, annotated(pod, {DELETION_COST: cost}))

    def _check_ordinals(self, seen: Seen, told: dict[str, Any], replicas: int, retire_first: tuple[str, ...]) -> None:
        first = count(told, "spec", "ordinals", "start") or 0
        names = [one.id for one in seen.state.replicas]
        kept = out_of_turn(names, replicas, first, retire_first)
        if kept:
            what = f"it gives up its highest ordinals, and {kept[0]}, which is out of traffic, is not among them"
            remedy = f"restart {kept[0]}, which is replaced in its place, or take it back into traffic"
            raise ActuationError(what, seen.workload.title, remedy)

    # Traffic

    def _serve(self, pool: PoolKey, replica: str, serving: str) -> None:
        label = self._settings.serving_label
        with acting():
            seen = self._still_ours(self._seen(pool))
            known = self._pod(seen, replica)
            told = self._hand.read(PODS, known.namespace, known.name, known.uid)
            held = word(told, "metadata", "labels", label)
            if not held:
                remedy = f'give the pod template {label}: "true", and select by it in the Service or InferencePool'
                raise ActuationError(f"it has no label {label}", f"Pod {known.namespace}/{known.name}", remedy)
            if held != serving:
                path = pointer("metadata", "labels", label)
                self._hand.patch(PODS, told, [{"op": "replace", "path": path, "value": serving}])

    # Nodes

    def _taint(self, node: str, *, shut: bool) -> None:
        if not self._settings.nodes:
            raise ActuationError("nodes are neither read nor written", f"Node {node}", "set platform.nodes")
        key = f"{self._settings.prefix}/avoid"
        with acting():
            told = self._hand.read(NODES, "", node)
            taints = entries(told, "spec", "taints")
            others = [taint for taint in taints if text(taint, "key") != key]
            if (len(others) < len(taints)) is not shut:
                ours = [{"key": key, "value": "true", "effect": "NoSchedule"}] if shut else []
                self._hand.patch(NODES, told, [{"op": "add", "path": "/spec/taints", "value": [*others, *ours]}])
