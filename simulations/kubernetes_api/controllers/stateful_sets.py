"""What does the StatefulSet controller do next with a StatefulSet, its revisions and its pods?

Pods are ordinals. ``OrderedReady`` starts each one after all before it are Ready and removes from the highest; an
update replaces one pod at a time from the highest ordinal down to the partition, each after the one above it is Ready.
The pod template of every revision is kept in a ControllerRevision.
"""

from __future__ import annotations

from simulations.kubernetes_api.controllers.hands import Hands, copied, retried
from simulations.kubernetes_api.controllers.owned import (
    by_controller,
    differs,
    is_going,
    is_ready,
    owner_reference,
    template_hash,
)
from simulations.kubernetes_api.kinds import CONTROLLER_REVISION, POD, STATEFUL_SET
from simulations.kubernetes_api.refusals import Json

REVISION_LABEL = "controller-revision-hash"


class StatefulSets:
    """The StatefulSet controller."""

    def __init__(self, hands: Hands) -> None:
        self._hands = hands

    def step(self) -> None:
        """Take the next step with every StatefulSet."""
        sets = [one for one in self._hands.all(STATEFUL_SET) if not is_going(one)]
        if not sets:
            return
        pods, revisions = by_controller(self._hands.all(POD)), by_controller(self._hands.all(CONTROLLER_REVISION))
        for one in sets:
            uid = one["metadata"]["uid"]
            with retried():
                self._reconcile(one, pods.get(uid, []), revisions.get(uid, []))

    def _reconcile(self, held: Json, pods: list[Json], revisions: list[Json]) -> None:
        update, revisions = self._revision(held, revisions)
        current = held["status"].get("currentRevision") or update
        by_name = {revision["metadata"]["name"]: revision for revision in revisions}
        by_ordinal = {_ordinal(pod): pod for pod in pods}
        parallel = held["spec"]["podManagementPolicy"] == "Parallel"
        if not self._fill(held, by_ordinal, by_name, current, update, parallel=parallel) or parallel:
            busy = self._shrink(_ordinals(held).stop, by_ordinal, parallel=parallel)
            if not busy:
                self._update(held, by_ordinal, update)
        self._report(held, list(by_ordinal.values()), current, update)
        self._forget(held, revisions, {current, update})

    def _revision(self, held: Json, revisions: list[Json]) -> tuple[str, list[Json]]:
        template = {**held["spec"]["template"], "$patch": "replace"}
        body = {"spec": {"template": template}}
        newest = max((one["revision"] for one in revisions), default=0)
        same = next((one for one in revisions if one["data"] == body), None)
        if same is not None:
            if same["revision"] < newest:
                moved = self._hands.patch(CONTROLLER_REVISION, same, {"revision": newest + 1})
                revisions = [moved if one is same else one for one in revisions]
            return str(same["metadata"]["name"]), revisions
        name = f"{held['metadata']['name']}-{template_hash(template)}"
        wanted = {
            "metadata": {
                "name": name,
                "labels": {**template["metadata"].get("labels", {}), "controller.kubernetes.io/hash": name[-7:]},
                "ownerReferences": [owner_reference(STATEFUL_SET, held)],
            },
            "data": copied(body),
            "revision": newest + 1,
        }
        made = self._hands.create(CONTROLLER_REVISION, held["metadata"]["namespace"], wanted)
        return name, [*revisions, made]

    def _fill(
        self,
        held: Json,
        by_ordinal: dict[int, Json],
        revisions: dict[str, Json],
        current: str,
        update: str,
        *,
        parallel: bool,
    ) -> bool:
        """Create missing pods; return whether one is missing or not Ready yet."""
        partition = ((held["spec"]["updateStrategy"] or {}).get("rollingUpdate") or {}).get("partition", 0)
        busy = False
        for ordinal in _ordinals(held):
            pod = by_ordinal.get(ordinal)
            if pod is None or pod["status"].get("phase") in ("Failed", "Succeeded"):
                if pod is None:
                    old = current in revisions and ordinal < _ordinals(held).start + partition
                    self._create(held, ordinal, revisions[current] if old else None, current if old else update)
                elif not is_going(pod):
                    self._hands.delete(POD, pod)
                busy = True
            elif not is_ready(pod) or is_going(pod):
                busy = True
            if busy and not parallel:
                return True
        return busy

    def _create(self, held: Json, ordinal: int, revision: Json | None, label: str) -> None:
        metadata = held["metadata"]
        template = copied(revision["data"]["spec"]["template"] if revision else held["spec"]["template"])
        template.pop("$patch", None)
        name = f"{metadata['name']}-{ordinal}"
        labels = template["metadata"].setdefault("labels", {})
        labels |= {
            REVISION_LABEL: label,
            "statefulset.kubernetes.io/pod-name": name,
            "apps.kubernetes.io/pod-index": str(ordinal),
        }
        template["metadata"] |= {"name": name, "ownerReferences": [owner_reference(STATEFUL_SET, held)]}
        template["spec"] |= {"hostname": name, "subdomain": held["spec"].get("serviceName", "")}
        self._hands.create(POD, metadata["namespace"], template)

    def _shrink(self, end: int, by_ordinal: dict[int, Json], *, parallel: bool) -> bool:
        surplus = sorted((ordinal for ordinal in by_ordinal if ordinal >= end), reverse=True)
        for ordinal in surplus:
            if not is_going(by_ordinal[ordinal]):
                self._hands.delete(POD, by_ordinal[ordinal])
            if not parallel:
                break
        return bool(surplus)

    def _update(self, held: Json, by_ordinal: dict[int, Json], update: str) -> None:
        strategy = held["spec"]["updateStrategy"]
        if strategy.get("type") != "RollingUpdate":
            return
        for ordinal in reversed(_ordinals(held)[strategy["rollingUpdate"].get("partition", 0) :]):
            pod = by_ordinal.get(ordinal)
            if pod is None:
                return
            if pod["metadata"]["labels"].get(REVISION_LABEL) != update:
                if not is_going(pod):
                    self._hands.delete(POD, pod)
                return
            if not is_ready(pod) or is_going(pod):
                return

    def _report(self, held: Json, pods: list[Json], current: str, update: str) -> None:
        living = [pod for pod in pods if not is_going(pod)]
        on_update = sum(pod["metadata"]["labels"].get(REVISION_LABEL) == update for pod in living)
        ready = sum(map(is_ready, living))
        wanted = held["spec"]["replicas"]
        if on_update == len(living) == ready == wanted:
            current = update
        status: Json = {
            "observedGeneration": held["metadata"]["generation"],
            "replicas": len(pods),
            "readyReplicas": ready,
            "availableReplicas": ready,
            "currentReplicas": sum(pod["metadata"]["labels"].get(REVISION_LABEL) == current for pod in living),
            "updatedReplicas": on_update,
            "currentRevision": current,
            "updateRevision": update,
            "collisionCount": 0,
        }
        if differs(held["status"], status):
            self._hands.patch(STATEFUL_SET, held, {"status": status}, "status")

    def _forget(self, held: Json, revisions: list[Json], kept: set[str]) -> None:
        old = sorted((one for one in revisions if one["metadata"]["name"] not in kept), key=lambda one: one["revision"])
        for one in old[: max(0, len(old) - held["spec"].get("revisionHistoryLimit", 10))]:
            self._hands.delete(CONTROLLER_REVISION, one)


def _ordinals(held: Json) -> range:
    start = (held["spec"].get("ordinals") or {}).get("start", 0)
    return range(start, start + held["spec"]["replicas"])


def _ordinal(pod: Json) -> int:
    return int(pod["metadata"]["name"].rpartition("-")[2])
