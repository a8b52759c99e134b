"""What does the LeaderWorkerSet controller make of a set of groups?

As LWS has it: a StatefulSet of leaders under the set's own name, and for every leader a StatefulSet of ``size - 1``
workers that starts at ordinal 1 and is owned by the leader's pod, so that a group goes with its leader. A new template
gets a revision hash and is rolled by the leaders' StatefulSet.
"""

from __future__ import annotations

from simulations.kubernetes_api.controllers.hands import Hands, copied, retried
from simulations.kubernetes_api.controllers.owned import (
    by_controller,
    is_going,
    is_ready,
    owner_reference,
    template_hash,
)
from simulations.kubernetes_api.kinds import LEADER_WORKER_SET, POD, STATEFUL_SET
from simulations.kubernetes_api.refusals import Json

_PREFIX = "leaderworkerset.sigs.k8s.io"
NAME, GROUP, WORKER = f"{_PREFIX}/name", f"{_PREFIX}/group-index", f"{_PREFIX}/worker-index"
REVISION = f"{_PREFIX}/template-revision-hash"


class LeaderWorkerSets:
    """The LeaderWorkerSet controller."""

    def __init__(self, hands: Hands) -> None:
        self._hands = hands

    def step(self) -> None:
        """Take the next step with every LeaderWorkerSet."""
        sets = [one for one in self._hands.all(LEADER_WORKER_SET) if not is_going(one)]
        if not sets:
            return
        stateful, pods = by_controller(self._hands.all(STATEFUL_SET)), by_controller(self._hands.all(POD))
        for one in sets:
            with retried():
                self._reconcile(one, stateful, pods)

    def _reconcile(self, held: Json, stateful: dict[str, list[Json]], pods: dict[str, list[Json]]) -> None:
        leaders = next(iter(stateful.get(held["metadata"]["uid"], ())), None)
        members = pods.get(leaders["metadata"]["uid"], []) if leaders else []
        self._ask(held, leaders)
        groups = [(pod, next(iter(stateful.get(pod["metadata"]["uid"], ())), None)) for pod in members]
        self._report(held, groups, pods)
        for pod, workers in groups:
            if not is_going(pod):
                self._group(held, pod, workers)

    def _revision(self, held: Json) -> str:
        return template_hash(held["spec"]["leaderWorkerTemplate"])

    def _template(self, held: Json, labels: Json, *, leader: bool) -> Json:
        group = held["spec"]["leaderWorkerTemplate"]
        template = copied((group.get("leaderTemplate") if leader else None) or group["workerTemplate"])
        told: Json = template.setdefault("metadata", {}).setdefault("labels", {})
        told |= labels
        return template

    def _ask(self, held: Json, leaders: Json | None) -> None:
        name, replicas = held["metadata"]["name"], held["spec"].get("replicas", 1)
        labels = {NAME: name, WORKER: "0"}
        template = self._template(held, {**labels, REVISION: self._revision(held)}, leader=True)
        if leaders is None:
            self._create(
                held,
                owner_reference(LEADER_WORKER_SET, held),
                name,
                labels,
                {"replicas": replicas, "template": template},
            )
        elif leaders["spec"]["template"]["metadata"]["labels"].get(REVISION) != self._revision(held):
            self._hands.patch(STATEFUL_SET, leaders, {"spec": {"replicas": replicas, "template": template}})
        elif leaders["spec"]["replicas"] != replicas:
            self._hands.patch(STATEFUL_SET, leaders, {"spec": {"replicas": replicas}})

    def _group(self, held: Json, leader: Json, workers: Json | None) -> None:
        metadata = leader["metadata"]
        number = metadata["name"].rpartition("-")[2]
        if GROUP not in metadata["labels"]:
            self._hands.patch(POD, leader, {"metadata": {"labels": {GROUP: number}}})
        size = held["spec"]["leaderWorkerTemplate"].get("size", 1)
        if workers is None and size > 1:
            labels = {NAME: held["metadata"]["name"], GROUP: number}
            template = self._template(held, {**labels, REVISION: metadata["labels"][REVISION]}, leader=False)
            spec = {"replicas": size - 1, "ordinals": {"start": 1}, "template": template}
            self._create(held, owner_reference(POD, leader), metadata["name"], labels, spec)

    def _create(self, held: Json, owner: Json, name: str, labels: Json, spec: Json) -> None:
        wanted = {
            "metadata": {"name": name, "labels": labels, "ownerReferences": [owner]},
            "spec": {
                **spec,
                "selector": {"matchLabels": labels},
                "serviceName": held["metadata"]["name"],
                "podManagementPolicy": "Parallel",
            },
        }
        self._hands.create(STATEFUL_SET, held["metadata"]["namespace"], wanted)

    def _report(self, held: Json, groups: list[tuple[Json, Json | None]], pods: dict[str, list[Json]]) -> None:
        size = held["spec"]["leaderWorkerTemplate"].get("size", 1)

        def whole(leader: Json, workers: Json | None) -> bool:
            others = pods.get(workers["metadata"]["uid"], []) if workers else []
            return is_ready(leader) and sum(map(is_ready, others)) == size - 1

        living = [(leader, workers) for leader, workers in groups if not is_going(leader)]
        updated = [pair for pair in living if pair[0]["metadata"]["labels"].get(REVISION) == self._revision(held)]
        status: Json = {
            "observedGeneration": held["metadata"]["generation"],
            "replicas": len(living),
            "readyReplicas": sum(whole(*pair) for pair in living),
            "updatedReplicas": len(updated),
            "hpaPodSelector": f"{NAME}={held['metadata']['name']},{WORKER}=0",
        }
        before = held.get("status") or {}
        if any(before.get(key) != value for key, value in status.items()):
            self._hands.patch(LEADER_WORKER_SET, held, {"status": status}, "status")
