"""What does a scalable object say of itself: how many replicas it wants, of which template, and how far it has got?"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

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
from controller.adapters.kube.ownership import Writer, writer_of
from controller.adapters.kube.settings import CustomKind
from controller.adapters.kube.templates import Template, read_template

_WORKER = ("spec", "leaderWorkerTemplate", "workerTemplate")
_LEADER = ("spec", "leaderWorkerTemplate", "leaderTemplate")


@dataclass(frozen=True, slots=True)
class Workload:
    """What is kept of a Deployment, StatefulSet, LeaderWorkerSet, Rollout, or another object that can be scaled.

    Attributes:
        annotations: Only ours.
        generation: Counts changes of what is wanted; ``observed`` is the one that its controller has seen, None where
            it does not tell.
        template: Of the pod that serves; None where the object has none of its own.
        worker: Of the other pods of a replica, where there are ``size`` of them.
        writer: Who set the number of replicas last; None where that is not noted.
        revision: What the object itself tells of its newest revision: a number of a Deployment, else a name.
        stable: The revision that the object itself holds good; empty where it does not tell.
        restored: The revision that Foresail went back to and when, as long as nobody has changed the template since.
        selector: Which pods are its own, as text, for kinds that are known by their scale subresource alone.
    """

    kind: str
    namespace: str
    name: str
    uid: str
    labels: Mapping[str, str]
    annotations: Mapping[str, str]
    created_at: float
    generation: int
    observed: int | None
    desired: int
    paused: bool
    template: Template | None
    worker: Template | None = None
    writer: Writer | None = None
    size: int = 1
    revision: str = ""
    stable: str = ""
    selector: str = ""
    restored: tuple[str, float] | None = None

    @property
    def title(self) -> str:
        """How people call it: ``Deployment prod/llama``."""
        return f"{self.kind} {self.namespace}/{self.name}"

    @property
    def behind(self) -> bool:
        """Whether its controller has not seen what is wanted now."""
        return self.observed is not None and self.observed < self.generation


@dataclass(frozen=True, slots=True)
class Reading:
    """What is read the same way of all workloads: resources that are GPUs, and the prefix of our annotations."""

    gpu_resources: frozenset[str]
    prefix: str


def read_workload(told: object, kind: str, reading: Reading, custom: CustomKind | None = None) -> Workload | Refused:
    """Return what is kept of the object that the API server tells of; ``custom`` says how a kind not in KINDS is."""
    namespace, name, uid = (word(told, "metadata", key) for key in ("namespace", "name", "uid"))
    generation = count(told, "metadata", "generation")
    created_at = instant(told, "metadata", "creationTimestamp")
    if not (namespace and name and uid) or generation is None or math.isnan(created_at):
        return Refused(subject(told, kind), "without namespace, name, uid, generation or creationTimestamp")
    desired_path = custom.replicas_path if custom else "spec.replicas"
    said, desired = under(told, *desired_path.split(".")), count(told, *desired_path.split("."))
    if desired is None and (said is not None or custom):
        return Refused(subject(told, kind), f"{desired_path} is no number of replicas")
    replicas = 1 if desired is None else desired
    has = _custom(told, custom, reading) if custom else _known(told, kind, replicas, reading)
    return Workload(
        kind=kind,
        namespace=namespace,
        name=name,
        uid=uid,
        labels=words(told, "metadata", "labels"),
        writer=writer_of(told, desired_path.split(".")),
        annotations=_ours(told, reading.prefix),
        created_at=created_at,
        generation=generation,
        desired=replicas,
        restored=_restored(told, kind, reading.prefix),
        **{
            "paused": False,
            "observed": count(told, "status", "observedGeneration"),
            "template": read_template(under(told, "spec", "template"), reading.gpu_resources),
            **has,
        },
    )


_LONGEST_SELECTOR = 4096
_LONGEST_ANNOTATION = 1024
_MOST_DIGITS = 18


def _ours(told: object, prefix: str) -> Mapping[str, str]:
    found = words(told, "metadata", "annotations")
    return {
        name: said for name, said in found.items() if name.startswith(f"{prefix}/") and len(said) <= _LONGEST_ANNOTATION
    }


def _restored(told: object, kind: str, prefix: str) -> tuple[str, float] | None:
    """Return what we went back to, and when: as long as some of the template is still noted as set by us."""
    said = text(told, "metadata", "annotations", restored_annotation(prefix))
    if not said or len(said) > _LONGEST_ANNOTATION:
        return None
    fields = [f"f:{key}" for key in template_path(kind)]
    ours = any(
        word(entry, "manager").startswith("foresail") and under(entry, "fieldsV1", *fields) is not None
        for entry in entries(told, "metadata", "managedFields")
    )
    at = instant({"at": said.rpartition(" ")[2]}, "at")
    return (said.partition(" ")[0], at) if ours and not math.isnan(at) else None


def template_path(kind: str) -> tuple[str, str]:
    """Return where a known kind keeps what a revision is made of."""
    return "spec", "leaderWorkerTemplate" if kind == "LeaderWorkerSet" else "template"


def restored_annotation(prefix: str) -> str:
    """Return the annotation that says to which revision we went back, and when."""
    return f"{prefix}/rolled-back"


def _custom(told: object, kind: CustomKind, reading: Reading) -> dict[str, Any]:
    selector = text(told, *kind.selector_path.split("."))
    return {
        "template": read_template(under(told, *kind.template_path.split(".")), reading.gpu_resources),
        "selector": selector if len(selector) <= _LONGEST_SELECTOR else "",
    }


def _known(told: object, kind: str, replicas: int, reading: Reading) -> dict[str, Any]:
    """Return what is told in its own way by one of KINDS."""
    match kind:
        case "Deployment":
            number = word(told, "metadata", "annotations", "deployment.kubernetes.io/revision")
            return {"paused": flag(told, "spec", "paused"), "revision": number}
        case "Rollout":
            observed = text(told, "status", "observedGeneration")  # a text, of old versions no number
            counted = observed.isascii() and observed.isdigit() and len(observed) <= _MOST_DIGITS
            stable = word(told, "status", "stableRS")
            aborted = stable if flag(told, "status", "abort") else ""  # what new replicas get from then on
            return {
                "paused": flag(told, "spec", "paused"),
                "revision": aborted
                or word(told, "status", "currentPodHash")
                or word(told, "metadata", "annotations", "rollout.argoproj.io/revision"),
                "stable": stable,
                "observed": int(observed) if counted else None,
            }
        case "StatefulSet":
            held = count(told, "spec", "updateStrategy", "rollingUpdate", "partition") or 0
            return {"paused": held >= replicas > 0, "revision": word(told, "status", "updateRevision")}
        case _:
            return _leader_worker_set(told, replicas, reading)


def _leader_worker_set(told: object, replicas: int, reading: Reading) -> dict[str, Any]:
    worker = read_template(under(told, *_WORKER), reading.gpu_resources)
    leader = read_template(under(told, *_LEADER), reading.gpu_resources)
    held = count(told, "spec", "rolloutStrategy", "rollingUpdateConfiguration", "partition") or 0
    return {
        "paused": held >= replicas > 0,
        "template": leader or worker,
        "worker": worker,
        "size": max(1, count(told, "spec", "leaderWorkerTemplate", "size") or 1),
    }
