"""What happens to pods on their nodes: they are placed, start, become Ready, are troubled and go?

A double of scheduler and kubelets in one. It works over any ``Hands``, so with ``ApiHands`` it also stands in on a real
cluster that has no kubelet. Pods get the node with the fewest of them that is schedulable, matches ``nodeSelector`` and
has room for their ``nvidia.com/gpu``.
"""

from __future__ import annotations

import heapq
import threading
from collections import Counter
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from controller.ports import Clock
from simulations.kubernetes_api.controllers.deployment_status import instant
from simulations.kubernetes_api.controllers.hands import Hands
from simulations.kubernetes_api.controllers.owned import condition, is_going
from simulations.kubernetes_api.kinds import NODE, POD
from simulations.kubernetes_api.refusals import Json
from simulations.kubernetes_api.writing import rfc3339

GPU = "nvidia.com/gpu"
_SHUT = ("NoSchedule", "NoExecute")
_BACKING_OFF = "back-off 5m0s restarting failed container"
Trouble: TypeAlias = Literal["crash", "unready", "stuck", "failed", "lingering"]


@dataclass(slots=True)
class Troubles:
    """What goes wrong on the nodes; may be changed at any time.

    ``crash``: the container exits and is backed off (CrashLoopBackOff). ``unready``: the readiness probe fails.
    ``stuck``: the container is never created. ``failed``: the pod has ended for good. ``lingering``: the container
    does not stop before its grace period ends. By pod as ``namespace/name``, or by image for every pod that runs it.
    """

    pods: dict[str, Trouble] = field(default_factory=dict)
    images: dict[str, Trouble] = field(default_factory=dict)

    def of(self, pod: Json) -> Trouble | None:
        """Return what is wrong with a pod."""
        metadata = pod["metadata"]
        told = self.pods.get(f"{metadata['namespace']}/{metadata['name']}")
        images = (self.images.get(container["image"]) for container in pod["spec"]["containers"])
        return told or next((trouble for trouble in images if trouble), None)


def _gpus(resources: Json) -> int:
    return int((resources.get("limits") or resources.get("requests") or {}).get(GPU, 0))


def gpus_of(pod: Json) -> int:
    """Return how many GPUs a pod asks for."""
    return sum(_gpus(container.get("resources") or {}) for container in pod["spec"]["containers"])


class Kubelet:
    """Scheduler and kubelets.

    Args:
        hands: How pods are read and written.
        clock: Of start times and grace periods.
        start_s: Seconds from a container's creation to Ready.
        stop_s: Seconds that a container takes to stop, at most its grace period.
    """

    def __init__(self, hands: Hands, clock: Clock, *, start_s: float = 0.0, stop_s: float = 0.0) -> None:
        self.start_s, self.stop_s = start_s, stop_s
        self.troubles = Troubles()
        self.paused = threading.Event()
        self._hands, self._clock = hands, clock

    def step(self) -> None:
        """Take the next step with every pod."""
        if self.paused.is_set():
            return
        pods = self._hands.all(POD)
        self._place([pod for pod in pods if not pod["spec"].get("nodeName") and not is_going(pod)], pods)
        for pod in pods:
            if pod["spec"].get("nodeName"):
                self._live(pod)

    def _place(self, unplaced: list[Json], pods: list[Json]) -> None:
        if not unplaced:
            return
        nodes = [node for node in self._hands.all(NODE) if _takes_pods(node)]
        crowd: Counter[str] = Counter()
        used: Counter[str] = Counter()
        for pod in pods:
            if (name := pod["spec"].get("nodeName")) and pod["status"].get("phase") not in ("Succeeded", "Failed"):
                crowd[name] += 1
                used[name] += gpus_of(pod)
        by_crowd = [(crowd[node["metadata"]["name"]], node["metadata"]["name"], node) for node in nodes]
        heapq.heapify(by_crowd)
        for pod in unplaced:
            passed = []
            while by_crowd and not _fits(by_crowd[0][2], pod, used[by_crowd[0][1]]):
                passed.append(heapq.heappop(by_crowd))
            if by_crowd:
                count, name, node = by_crowd[0]
                heapq.heapreplace(by_crowd, (count + 1, name, node))
                used[name] += gpus_of(pod)
                self._hands.bind(pod, name)
            else:
                self._unschedulable(pod, len(nodes))
            for one in passed:
                heapq.heappush(by_crowd, one)

    def _unschedulable(self, pod: Json, nodes: int) -> None:
        if condition(pod, "PodScheduled") is None:
            message = f"0/{nodes} nodes are available."
            told = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message}
            self._write(pod, {"phase": "Pending"}, [told])

    def _live(self, pod: Json) -> None:
        if is_going(pod):
            self._stop(pod)
            return
        phase, trouble = pod["status"].get("phase"), self.troubles.of(pod)
        if phase in ("Succeeded", "Failed"):
            return
        if not pod["status"].get("startTime"):
            self._admit(pod)
        elif trouble == "stuck":
            return
        elif trouble == "failed":
            self._write(pod, {"phase": "Failed", "reason": "Evicted"}, _readiness(ready=False, reason="PodFailed"))
        elif trouble == "crash":
            self._crash(pod)
        else:
            started = instant(pod["status"]["startTime"])
            self._run(pod, ready=trouble != "unready" and self._clock.now() >= started + self.start_s)

    def _admit(self, pod: Json) -> None:
        waiting = {"waiting": {"reason": "ContainerCreating"}}
        status = {
            "phase": "Pending",
            "startTime": rfc3339(self._clock.now()),
            "containerStatuses": _containers(pod, waiting, ready=False),
        }
        conditions: list[Json] = [
            {"type": "PodScheduled", "status": "True", "reason": None, "message": None},
            {"type": "Initialized", "status": "True"},
            *_readiness(ready=False, reason="ContainersNotReady"),
        ]
        self._write(pod, status, conditions)

    def _run(self, pod: Json, *, ready: bool) -> None:
        held = (pod["status"].get("containerStatuses") or [{}])[0]
        running = (held.get("state") or {}).get("running")
        if running and bool(held.get("ready")) is ready:
            return
        state = {"running": running or {"startedAt": rfc3339(self._clock.now())}, "waiting": None}
        digest = int(pod["metadata"]["uid"].replace("-", "")[:6], 16)
        address = f"10.{digest >> 16}.{digest >> 8 & 255}.{digest & 255}"
        status = {
            "phase": "Running",
            "podIP": pod["status"].get("podIP") or address,
            "podIPs": pod["status"].get("podIPs") or [{"ip": address}],
            "hostIP": "127.0.0.1",
            "containerStatuses": _containers(pod, state, ready=ready),
        }
        self._write(pod, status, _readiness(ready=ready, reason=None if ready else "ContainersNotReady"))

    def _crash(self, pod: Json) -> None:
        held = (pod["status"].get("containerStatuses") or [{}])[0]
        if ((held.get("state") or {}).get("waiting") or {}).get("reason") == "CrashLoopBackOff":
            return
        at = rfc3339(self._clock.now())
        state = {"waiting": {"reason": "CrashLoopBackOff", "message": _BACKING_OFF}, "running": None}
        ended = {"exitCode": 1, "reason": "Error", "startedAt": at, "finishedAt": at}
        containers = _containers(pod, state, ready=False, restarts=1)
        for container in containers:
            container["lastState"] = {"terminated": ended}
        status = {"phase": "Running", "containerStatuses": containers}
        self._write(pod, status, _readiness(ready=False, reason="ContainersNotReady"))

    def _stop(self, pod: Json) -> None:
        metadata = pod["metadata"]
        ends_at, grace = instant(metadata["deletionTimestamp"]), metadata.get("deletionGracePeriodSeconds", 0)
        stop_s = grace if self.troubles.of(pod) == "lingering" else min(self.stop_s, grace)
        if grace and self._clock.now() >= ends_at - grace + stop_s:
            self._hands.delete(POD, pod, grace_s=0)

    def _write(self, pod: Json, status: Json, wanted: list[Json]) -> None:
        at, held = rfc3339(self._clock.now()), pod["status"].get("conditions") or []
        by_type = {one["type"]: one for one in held}
        for one in wanted:
            before = by_type.get(one["type"])
            since = before["lastTransitionTime"] if before and before["status"] == one["status"] else at
            told = {key: value for key, value in one.items() if value is not None}
            by_type[one["type"]] = {**told, "lastProbeTime": None, "lastTransitionTime": since}
        self._hands.patch(POD, pod, {"status": {**status, "conditions": list(by_type.values())}}, "status")


def _takes_pods(node: Json) -> bool:
    ready, spec = condition(node, "Ready"), node.get("spec") or {}
    shut = spec.get("unschedulable") or any(one.get("effect") in _SHUT for one in spec.get("taints") or ())
    return not shut and (ready is None or bool(ready["status"] == "True"))


def _fits(node: Json, pod: Json, used: int) -> bool:
    wanted = gpus_of(pod)
    if wanted and used + wanted > int(((node.get("status") or {}).get("allocatable") or {}).get(GPU, 0)):
        return False
    labels = node["metadata"].get("labels") or {}
    return all(labels.get(key) == value for key, value in (pod["spec"].get("nodeSelector") or {}).items())


def _readiness(*, ready: bool, reason: str | None) -> list[Json]:
    status = "True" if ready else "False"
    return [
        {"type": "Ready", "status": status, "reason": reason},
        {"type": "ContainersReady", "status": status, "reason": reason},
    ]


def _containers(pod: Json, state: Json, *, ready: bool, restarts: int = 0) -> list[Json]:
    before = {one["name"]: one for one in pod["status"].get("containerStatuses") or ()}
    told = {key: held for key, held in state.items() if held is not None}
    return [
        {
            "name": container["name"],
            "image": container["image"],
            "imageID": "",
            "ready": ready,
            "started": "running" in told,
            "restartCount": before.get(container["name"], {}).get("restartCount", 0) + restarts,
            "state": told,
            "lastState": before.get(container["name"], {}).get("lastState", {}),
        }
        for container in pod["spec"]["containers"]
    ]
