"""What becomes of an object that is deleted?

A pod that is on a node and has not ended is marked until its grace period has passed (the kubelet then deletes it with
a grace of 0), an object with finalizers until they are taken off, a namespace until it is empty; anything else is gone.
"""

from __future__ import annotations

from dataclasses import dataclass

from simulations.kubernetes_api.kinds import NAMESPACE, POD, Kind
from simulations.kubernetes_api.refusals import Json, conflict
from simulations.kubernetes_api.store import Key, Stored
from simulations.kubernetes_api.writing import Writer, finished, rfc3339

_FINALIZERS = {"Foreground": "foregroundDeletion", "Orphan": "orphan"}


@dataclass(frozen=True, slots=True)
class Deletion:
    """``DeleteOptions``; ``grace_s`` None leaves it to the object."""

    grace_s: int | None = None
    uid: str = ""
    version: str = ""
    propagation: str = ""
    dry_run: bool = False


def delete(writer: Writer, kind: Kind, key: Key, how: Deletion) -> tuple[Stored, bool]:
    """Delete an object, or mark it; return its state and whether it is gone.

    Raises:
        Refusal: 404, or 409 where a precondition does not hold.
    """
    store = writer.store
    with store.changed:
        before = writer.held(kind, key)
        _check_preconditions(kind, key, before.value["metadata"], how)
        after = before.fresh()
        metadata = after["metadata"]
        if how.propagation in _FINALIZERS:
            metadata["finalizers"] = [*(metadata.get("finalizers") or ()), _FINALIZERS[how.propagation]]
        if not _mark(metadata, _grace(kind, after, how), writer.clock.now()):
            return before, False
        if kind is NAMESPACE:
            after.setdefault("status", {})["phase"] = "Terminating"
        gone = finished(kind, after)
        if how.dry_run:
            return Stored(after, before.version), gone
        return (store.drop(kind, key), True) if gone else (store.put(kind, key, after), False)


def _mark(metadata: Json, grace: int, now: float) -> bool:
    """Set when the object is to be gone; return False where it is to be gone by then anyway."""
    if metadata.get("deletionTimestamp"):
        if metadata.get("deletionGracePeriodSeconds", 0) <= grace:
            return False
    elif "generation" in metadata:
        metadata["generation"] += 1
    metadata["deletionTimestamp"] = rfc3339(now + grace)
    metadata["deletionGracePeriodSeconds"] = grace
    return True


def _grace(kind: Kind, value: Json, how: Deletion) -> int:
    if kind is not POD:
        return 0
    if not value["spec"].get("nodeName") or value["status"].get("phase") in ("Succeeded", "Failed"):
        return 0
    own: int = value["spec"].get("terminationGracePeriodSeconds", 30)
    return own if how.grace_s is None else how.grace_s


def _check_preconditions(kind: Kind, key: Key, metadata: Json, how: Deletion) -> None:
    for label, wanted, held in (
        ("UID", how.uid, metadata["uid"]),
        ("ResourceVersion", how.version, metadata["resourceVersion"]),
    ):
        if wanted and wanted != held:
            why = f"Precondition failed: {label} in precondition: {wanted}, {label} in object meta: {held}"
            raise conflict(kind, key[1], why)
