"""What has to be written so that a workload has an earlier template again, and why may it not be?

The template comes from the object that keeps the revision: a ReplicaSet, or a ControllerRevision.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from controller.adapters.kube.json_patches import Operation, annotated, pointer
from controller.adapters.kube.json_reading import entries, flag, text, under
from controller.adapters.kube.ownership import OwnerKind, OwnershipSettings, Writer, owner_of, writer_of
from controller.adapters.kube.workloads import Workload, restored_annotation, template_path
from controller.errors import ActuationError

CAUSE = "kubernetes.io/change-cause"
_HASHES = ("pod-template-hash", "rollouts-pod-template-hash")


def paused_annotation(prefix: str) -> str:
    """Return the annotation that says that a pause is ours."""
    return f"{prefix}/paused"


def paused_by_us(told: object, prefix: str) -> bool:
    """Return whether the pause of a workload is ours."""
    return bool(text(told, "metadata", "annotations", paused_annotation(prefix)))


def kept_template(kind: str, kept: object) -> Mapping[str, Any] | None:
    """Return the template that a ReplicaSet or ControllerRevision keeps; None where it keeps none.

    What controllers add for themselves is not in it: the hash that tells a ReplicaSet's pods, the directive of a patch.
    """
    path = template_path(kind)
    held = under(kept, "data", *path) if kind in ("StatefulSet", "LeaderWorkerSet") else under(kept, *path)
    if not isinstance(held, dict):
        return None
    template = {key: value for key, value in held.items() if key != "$patch"}
    labels = under(template, "metadata", "labels")
    if isinstance(labels, dict):
        mine = {key: value for key, value in labels.items() if key not in _HASHES}
        template["metadata"] = {**template["metadata"], "labels": mine}
    return template


def refusal(
    told: object, workload: Workload, at: float, prefix: str, ownership: OwnershipSettings
) -> ActuationError | None:
    """Return why the template of a workload is not ours to change; None where it is.

    Args:
        told: The workload as it is.
        workload: The same, as read.
        at: Now.
        prefix: Of our labels and annotations.
        ownership: Whom to overrule.
    """
    where = workload.title
    if f"{prefix}/model" not in workload.labels:
        remedy = f"label it {prefix}/model, which says that its template may be changed"
        return ActuationError(f"it has no label {prefix}/model", where, remedy)
    if workload.paused and not paused_by_us(told, prefix):
        how = "by its partition" if workload.kind in ("StatefulSet", "LeaderWorkerSet") else ""
        remedy = "whoever paused it knows why: roll it back by hand, or end the pause first"
        return ActuationError(" ".join(filter(None, ("its rollout was paused by somebody else", how))), where, remedy)
    if text(told, "spec", "updateStrategy", "type") == "OnDelete":
        remedy = "restore its template and delete its pods by hand, or let its updateStrategy be RollingUpdate"
        return ActuationError("its pods get another template only when somebody deletes them", where, remedy)
    for writer in writers_of(told, template_path(workload.kind)):
        owner = owner_of(None, writer, workload.created_at, at, ownership)
        if owner is not None and owner.kind is OwnerKind.GITOPS:
            remedy = "revert the change where it comes from, or add gitops to platform.ownership.take_over"
            return ActuationError(f"{owner.title} has set its template, and would set it again", where, remedy)
    return None


def writers_of(told: object, path: Sequence[str]) -> Iterator[Writer]:
    """Yield everybody who is noted as having set some of what stands at ``path``."""
    for entry in entries(told, "metadata", "managedFields"):
        writer = writer_of({"metadata": {"managedFields": [entry]}}, path)
        if writer is not None:
            yield writer


def restoring(
    told: object, kind: str, template: Mapping[str, Any], revision: str, stamp: str, prefix: str
) -> list[Operation]:
    """Return what gives a workload ``template`` and ends a pause; nothing where it has that and is not paused.

    Args:
        told: The workload as it is.
        kind: Its kind.
        template: Of ``revision``.
        revision: What it is called.
        stamp: The time, as the API has it.
        prefix: Of our annotations.
    """
    path = template_path(kind)
    made: list[Operation] = []
    annotations: dict[str, str | None] = {}
    if not has_template(told, kind, template):
        made.append({"op": "replace", "path": pointer(*path), "value": template})
        annotations[CAUSE] = f"Foresail goes back to revision {revision}"
        annotations[restored_annotation(prefix)] = f"{revision} {stamp}"
    if flag(told, "spec", "paused"):
        made += unpausing()
        annotations[paused_annotation(prefix)] = None
    return [*made, *annotated(told, annotations)]


def unpausing() -> list[Operation]:
    """Return what lets a paused rollout go on."""
    return [{"op": "replace", "path": "/spec/paused", "value": False}]


def abortable(told: object, revision: str) -> bool:
    """Return whether a Rollout goes back to ``revision`` by giving up the one that it is rolling out."""
    stable = text(told, "status", "stableRS")
    return bool(stable) and revision == stable != text(told, "status", "currentPodHash")


def has_template(told: object, kind: str, template: Mapping[str, Any]) -> bool:
    """Return whether a workload has that template: kept ones may say that they were never created."""
    return _told(under(told, *template_path(kind))) == _told(template)


def _told(template: object) -> object:
    if not isinstance(template, dict) or not isinstance(template.get("metadata"), dict):
        return template
    metadata = {key: value for key, value in template["metadata"].items() if value is not None}
    return {**template, "metadata": metadata}
