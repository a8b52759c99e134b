"""Which pods does the ReplicaSet controller create or delete next?

Scaled down, pods go in the documented order: not on a node, pending, not ready, lower ``pod-deletion-cost``, on the
node with more of the same, ready for less long, more restarts, younger.
"""

from __future__ import annotations

from collections import Counter

from controller.ports import Clock
from simulations.kubernetes_api.controllers.deployment_status import instant
from simulations.kubernetes_api.controllers.hands import Hands, copied, retried
from simulations.kubernetes_api.controllers.owned import (
    by_controller,
    condition,
    differs,
    is_going,
    is_ready,
    owner_reference,
)
from simulations.kubernetes_api.kinds import POD, REPLICA_SET
from simulations.kubernetes_api.refusals import Json
from simulations.kubernetes_api.selectors import matches_labels

DELETION_COST = "controller.kubernetes.io/pod-deletion-cost"
_PHASES = {"Pending": 0, "Unknown": 1, "Running": 2}


def _ended(pod: Json) -> bool:
    return pod["status"].get("phase") in ("Succeeded", "Failed")


def _cost(pod: Json) -> int:
    told = str((pod["metadata"].get("annotations") or {}).get(DELETION_COST, "0"))
    return int(told) if told.lstrip("-").isdigit() else 0


def deletion_order(pods: list[Json]) -> list[Json]:
    """Return pods in the order in which a ReplicaSet gives them up."""
    crowd = Counter(pod["spec"].get("nodeName") for pod in pods)

    def rank(pod: Json) -> tuple[object, ...]:
        ready = condition(pod, "Ready")
        since = instant(ready["lastTransitionTime"]) if ready and is_ready(pod) else 0.0
        restarts = max((one.get("restartCount", 0) for one in pod["status"].get("containerStatuses") or ()), default=0)
        return (
            bool(pod["spec"].get("nodeName")),
            _PHASES.get(pod["status"].get("phase", ""), 0),
            is_ready(pod),
            _cost(pod),
            -crowd[pod["spec"].get("nodeName")],
            -since,
            -restarts,
            -instant(pod["metadata"]["creationTimestamp"]),
            pod["metadata"]["name"],
        )

    return sorted(pods, key=rank)


class ReplicaSets:
    """The ReplicaSet controller."""

    def __init__(self, hands: Hands, clock: Clock) -> None:
        self._hands, self._clock = hands, clock

    def step(self) -> None:
        """Take the next step with every ReplicaSet."""
        owned = by_controller(self._hands.all(POD))
        for replica_set in self._hands.all(REPLICA_SET):
            if not is_going(replica_set):
                with retried():
                    self._reconcile(replica_set, owned.get(replica_set["metadata"]["uid"], []))

    def _reconcile(self, replica_set: Json, pods: list[Json]) -> None:
        spec = replica_set["spec"]
        active = []
        for pod in pods:
            if not matches_labels(spec["selector"], pod["metadata"].get("labels")):
                self._hands.patch(POD, pod, {"metadata": {"ownerReferences": None}})
            elif not is_going(pod) and not _ended(pod):
                active.append(pod)
        missing = spec["replicas"] - len(active)
        for _ in range(missing):
            self._create(replica_set)
        for pod in deletion_order(active)[: max(0, -missing)]:
            self._hands.delete(POD, pod)
        self._report(replica_set, active)

    def _create(self, replica_set: Json) -> None:
        metadata = replica_set["metadata"]
        template = copied(replica_set["spec"]["template"])
        template["metadata"] |= {
            "generateName": f"{metadata['name']}-",
            "ownerReferences": [owner_reference(REPLICA_SET, replica_set)],
        }
        self._hands.create(POD, metadata["namespace"], template)

    def _report(self, replica_set: Json, active: list[Json]) -> None:
        lasting = replica_set["spec"].get("minReadySeconds", 0)
        ready = [pod for pod in active if is_ready(pod)]
        now = self._clock.now()
        available = [pod for pod in ready if now >= _ready_since(pod) + lasting]
        counts = {
            "replicas": len(active),
            "fullyLabeledReplicas": len(active),
            "readyReplicas": len(ready),
            "availableReplicas": len(available),
            "observedGeneration": replica_set["metadata"]["generation"],
        }
        if differs(replica_set["status"], counts):
            self._hands.patch(REPLICA_SET, replica_set, {"status": counts}, "status")


def _ready_since(pod: Json) -> float:
    ready = condition(pod, "Ready")
    return instant(ready["lastTransitionTime"]) if ready else 0.0
