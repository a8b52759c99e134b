"""Which templates has a workload had, in what order, and since when is the newest one that?"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from controller.adapters.kube.json_reading import Refused, count, instant, subject, text, word
from controller.adapters.kube.pods import read_owner

NUMBER_ANNOTATIONS = ("deployment.kubernetes.io/revision", "rollout.argoproj.io/revision")
_HISTORY_ANNOTATIONS = ("deployment.kubernetes.io/revision-history", "rollout.argoproj.io/revision-history")
_HASH_LABELS = ("rollouts-pod-template-hash", "pod-template-hash", "leaderworkerset.sigs.k8s.io/template-revision-hash")
_MOST_DIGITS = 18


@dataclass(frozen=True, slots=True)
class Revision:
    """A template that a workload has or had, as a ReplicaSet or a ControllerRevision keeps it.

    Attributes:
        uid: Of the object that keeps it, which a ReplicaSet's pods name as their owner.
        keeper: Name of that object.
        owner_uid: Of the workload.
        name: What pods made from it bear.
        number: Grows with each change of the workload's template, also when it goes back to an old one.
        reused: Whether the workload is known to have come back to it.
    """

    uid: str
    namespace: str
    owner_uid: str
    name: str
    number: int
    created_at: float
    reused: bool
    keeper: str = ""


def read_revision(told: object, kind: str) -> Revision | Refused | None:
    """Return the revision that a ReplicaSet or ControllerRevision keeps; None where that is nobody's."""
    owner = read_owner(told)
    if owner is None:
        return None
    annotated = next((said for name in NUMBER_ANNOTATIONS if (said := text(told, "metadata", "annotations", name))), "")
    number = count(told, "revision") if kind == "ControllerRevision" else _number(annotated)
    uid, own_name = word(told, "metadata", "uid"), word(told, "metadata", "name")
    created_at = instant(told, "metadata", "creationTimestamp")
    if number is None or not uid or math.isnan(created_at):
        return Refused(subject(told, kind), "without uid, creationTimestamp or number of its revision")
    hashed = next((said for label in _HASH_LABELS if (said := word(told, "metadata", "labels", label))), "")
    history = any(text(told, "metadata", "annotations", name) for name in _HISTORY_ANNOTATIONS)
    return Revision(
        uid, word(told, "metadata", "namespace"), owner.uid, hashed or own_name, number, created_at, history, own_name
    )


def _number(told: str) -> int | None:
    return int(told) if told.isascii() and told.isdigit() and len(told) <= _MOST_DIGITS else None


@dataclass(frozen=True, slots=True)
class Lineage:
    """The revisions of one workload.

    Attributes:
        names: All that are kept, the oldest first.
        current: What new replicas get; empty where that is not known.
        current_at: Since when; NaN where nobody tells, as after it came back to an old one.
    """

    names: tuple[str, ...] = ()
    current: str = ""
    current_at: float = math.nan


def lineage(revisions: Iterable[Revision], told: str, restored: tuple[str, float] | None = None) -> Lineage:
    """Return the order of a workload's revisions.

    Args:
        revisions: Those that are kept of it.
        told: The number or name of the newest one, as the workload says; empty where it does not. Of a number whose
            keeper has not been heard of yet, the newest that is known holds on.
        restored: The one that we went back to ourselves, and when.
    """
    known = sorted(revisions, key=lambda revision: (revision.number, revision.created_at, revision.name))
    by_age = sorted(known, key=lambda revision: revision.created_at)
    names = tuple(dict.fromkeys([revision.name for revision in by_age]))
    named = [revision for revision in known if told and told in (revision.name, str(revision.number))]
    if told and not named and not told.isdigit():
        return Lineage(names, told)
    current = (named or known)[-1] if known else None
    if current is None:
        return Lineage(names)
    if restored and restored[0] == current.name:
        return Lineage(names, current.name, restored[1])
    return Lineage(names, current.name, current.created_at if _came_once(current, known) else math.nan)


def _came_once(current: Revision, known: Sequence[Revision]) -> bool:
    """Return whether it has been the newest since it was made: one that was taken up again is older than another."""
    return not current.reused and all(revision.created_at <= current.created_at for revision in known)
