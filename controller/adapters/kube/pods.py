"""What does a pod say of itself, and what replica is it?

Only the engine's container counts for exits and waits: a proxy beside it that restarts says nothing of the engine.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from sys import intern
from typing import Any, Literal

from controller.adapters.kube.json_reading import (
    Refused,
    count,
    entries,
    flag,
    instant,
    subject,
    text,
    under,
    word,
    words,
)
from controller.adapters.kube.templates import gpus_of
from policies.replica import Phase, ReplicaState

DELETION_COST = "controller.kubernetes.io/pod-deletion-cost"

_TOLD_OF_UID = 8
_ON_ITS_WAY = frozenset(("ContainerCreating", "PodInitializing"))
_REVISION_LABELS = (
    "rollouts-pod-template-hash",
    "pod-template-hash",
    "leaderworkerset.sigs.k8s.io/template-revision-hash",
    "controller-revision-hash",
)


@dataclass(frozen=True, slots=True)
class Container:
    """One container of a pod.

    Attributes:
        exits: How often it has exited; kubelet's count of restarts, and one more where it has not been started again.
        running_at: Since when it runs; NaN when it does not.
        exited_at: When it last exited; NaN when it never did, or nobody knows any more.
        exit_reason: Why, in kubelet's words.
        waiting_reason: What keeps it from being started; empty where nothing does.
        gone: Whether it has exited and was not started again.
    """

    name: str
    exits: int
    running_at: float
    exited_at: float
    exit_reason: str
    waiting_reason: str
    gone: bool


@dataclass(frozen=True, slots=True)
class Owner:
    """The controller of an object."""

    kind: str
    name: str
    uid: str


@dataclass(frozen=True, slots=True)
class Pod:
    """What is kept of a pod.

    Attributes:
        owner: Its controller; None where nobody cares for it.
        node: Empty until it is placed.
        placed_at: When that was; NaN before.
        held_by: Why it is not placed.
        ready_at: Since when it is ready, or is not.
        leaving_at: When its deletion was asked for; NaN where it was not.
        over: Whether none of its containers will be started again.
        over_reason: Why the pod as a whole has ended, as after an eviction.
        gpus: GPUs that it holds or asks for.
        deletion_cost: What is noted of how early its ReplicaSet gives it up; empty where nothing is.
        manifest: Names of its containers, in order; ``containers`` lacks those that nothing is known of yet.
    """

    namespace: str
    name: str
    uid: str
    owner: Owner | None
    labels: Mapping[str, str]
    node: str
    created_at: float
    placed_at: float
    held_by: str
    ready: bool
    ready_at: float
    leaving_at: float
    over: bool
    over_reason: str
    address: str
    gpus: int
    manifest: tuple[str, ...]
    containers: tuple[Container, ...]
    deletion_cost: str = ""

    @property
    def revision(self) -> str:
        """What names the template that it was made from; empty where nothing does."""
        return next((self.labels[label] for label in _REVISION_LABELS if self.labels.get(label)), "")

    def container(self, name: str) -> Container | None:
        """Return the container of that name."""
        return next((found for found in self.containers if found.name == name), None)


@dataclass(frozen=True, slots=True)
class Engine:
    """How engines of a pool are told from what is beside them.

    Attributes:
        container: Name of their container.
        port: Where they are asked; None where that is not known.
        serving_label: Label of pods that is ``false`` while one is taken out of traffic.
    """

    container: str
    port: int | None
    serving_label: str


def read_pod(told: object, gpu_resources: frozenset[str]) -> Pod | Refused:
    """Return what is kept of the pod that the API server tells of."""
    namespace, name, uid = (word(told, "metadata", key) for key in ("namespace", "name", "uid"))
    created_at = instant(told, "metadata", "creationTimestamp")
    if not (namespace and name and uid) or math.isnan(created_at):
        return Refused(subject(told, "pod"), "without namespace, name, uid or creationTimestamp")
    conditions = {text(entry, "type"): entry for entry in entries(told, "status", "conditions")}
    scheduled, ready = conditions.get("PodScheduled"), conditions.get("Ready")
    node = word(told, "spec", "nodeName")
    ended = text(told, "status", "phase") in ("Failed", "Succeeded")
    return Pod(
        namespace=namespace,
        name=name,
        uid=uid,
        owner=read_owner(told),
        labels=words(told, "metadata", "labels"),
        node=node,
        created_at=created_at,
        placed_at=instant(scheduled, "lastTransitionTime")
        if node and text(scheduled, "status") == "True"
        else math.nan,
        held_by="" if node or text(scheduled, "status") != "False" else word(scheduled, "reason"),
        ready=text(ready, "status") == "True",
        ready_at=instant(ready, "lastTransitionTime"),
        leaving_at=_leaving_at(told, created_at),
        over=ended,
        over_reason=word(told, "status", "reason") if ended else "",
        address=_address(text(told, "status", "podIP")),
        gpus=gpus_of(under(told, "spec"), gpu_resources),
        manifest=tuple([word(entry, "name") for entry in entries(told, "spec", "containers")]),
        containers=tuple([_container(entry) for entry in entries(told, "status", "containerStatuses")]),
        deletion_cost=word(told, "metadata", "annotations", DELETION_COST),
    )


def read_owner(told: object) -> Owner | None:
    """Return the controller of an object; None where it has none."""
    for entry in entries(told, "metadata", "ownerReferences"):
        if flag(entry, "controller"):
            owner = Owner(word(entry, "kind"), word(entry, "name"), word(entry, "uid"))
            return owner if owner.uid else None
    return None


def replica_of(pod: Pod, engine: Engine) -> ReplicaState:
    """Return the replica that a pod is.

    Its id is that of the pod, which pods of a StatefulSet get again: ``incarnation`` tells them apart.
    ``restarts`` counts exits of the engine, as what makes a life end: while it waits to be started again that is one
    more than kubelet's restarts. The latest restart was asked for when the engine exited.
    """
    container = pod.container(engine.container)
    phase, since_at = _phase(pod, container)
    exits = container.exits if container else 0
    requested_at = pod.created_at
    if container and exits:
        asked_at = container.exited_at if not math.isnan(container.exited_at) else container.running_at
        requested_at = max(requested_at, asked_at)  # the first where the second is NaN
    return ReplicaState(
        id=pod.name,
        phase=phase,
        requested_at=requested_at,
        since_at=since_at,
        revision=pod.revision,
        node=pod.node,
        restarts=exits,
        cordoned=pod.labels.get(engine.serving_label) == "false",
        placed_at=pod.placed_at,
        exit_reason=pod.over_reason or (container.exit_reason if container else ""),
        waiting_reason=pod.held_by or (container.waiting_reason if container and phase is not Phase.READY else ""),
        address=f"{pod.address}:{engine.port}" if pod.address and engine.port else "",
        incarnation=_incarnation(pod),
    )


def _incarnation(pod: Pod) -> str:
    """Return what tells a pod from an earlier one of its name: a StatefulSet gives names again, nobody else does."""
    return intern(f"{pod.uid[:_TOLD_OF_UID]}.") if pod.owner and pod.owner.kind == "StatefulSet" else ""


def _phase(pod: Pod, container: Container | None) -> tuple[Phase, float]:
    """Return its phase, and when it came into that."""
    if not math.isnan(pod.leaving_at):
        return Phase.DRAINING, pod.leaving_at
    if pod.over or (container and container.gone):
        exited_at = container.exited_at if container else math.nan
        return Phase.FAILED, _first_known(exited_at, pod.ready_at, pod.created_at)
    if pod.ready:
        return Phase.READY, _first_known(pod.ready_at, container.running_at if container else math.nan, pod.created_at)
    if container and not math.isnan(container.running_at):
        return Phase.LOADING, max(container.running_at, pod.ready_at)  # also when it was ready and is no more
    return Phase.PENDING, pod.created_at


def _first_known(*instants: float) -> float:
    return next((at for at in instants if not math.isnan(at)), math.nan)


def _leaving_at(told: object, created_at: float) -> float:
    """Return when the deletion was asked for: the server tells when its grace ends."""
    end_at = instant(told, "metadata", "deletionTimestamp")
    return (
        max(created_at, end_at - (count(told, "metadata", "deletionGracePeriodSeconds") or 0)) if end_at > 0 else end_at
    )


def _address(told: str) -> str:
    try:
        found = ip_address(told)
    except ValueError:
        return ""
    return told if found.version == 4 else f"[{told}]"


_State = Literal["running", "terminated", "waiting"]


def _container(told: dict[str, Any]) -> Container:
    state: _State | None = next((s for s in _STATES if isinstance(under(told, "state", s), dict)), None)
    ended = under(told, "state" if state == "terminated" else "lastState", "terminated")
    has_ended = isinstance(ended, dict)
    reason = word(told, "state", "waiting", "reason")
    gone = state == "terminated" or (state != "running" and has_ended)
    return Container(
        name=word(told, "name"),
        exits=(count(told, "restartCount") or 0) + gone,
        running_at=instant(told, "state", "running", "startedAt"),
        exited_at=instant(ended, "finishedAt"),
        exit_reason=(word(ended, "reason") or "Error") if has_ended else "",
        waiting_reason="" if reason in _ON_ITS_WAY else reason,
        gone=gone,
    )


_STATES: tuple[_State, ...] = ("running", "terminated", "waiting")
