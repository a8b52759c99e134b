"""Which objects go because what owned them is gone?

Dependents of a deleted owner go after it (background), or before it where it has the finalizer
``foregroundDeletion``; with the finalizer ``orphan`` they stay and lose their owner. A namespace that is being
terminated is emptied first.
"""

from __future__ import annotations

from simulations.kubernetes_api.controllers.hands import Hands
from simulations.kubernetes_api.controllers.owned import is_going
from simulations.kubernetes_api.kinds import NAMESPACE, Catalogue, Kind
from simulations.kubernetes_api.refusals import Json


class Garbage:
    """The garbage collector and the namespace controller."""

    def __init__(self, hands: Hands, catalogue: Catalogue) -> None:
        self._hands, self._catalogue = hands, catalogue

    def step(self) -> None:
        """Delete what has lost its owner, release what waits for its dependents."""
        held = {kind: self._hands.all(kind) for kind in self._catalogue.kinds}
        uids = {value["metadata"]["uid"] for values in held.values() for value in values}
        waiting: dict[str, list[tuple[Kind, Json]]] = {}
        for kind, values in held.items():
            for value in values:
                owners = value["metadata"].get("ownerReferences") or ()
                if owners and not is_going(value) and not any(owner["uid"] in uids for owner in owners):
                    self._hands.delete(kind, value)
                for owner in owners:
                    waiting.setdefault(owner["uid"], []).append((kind, value))
        for kind, values in held.items():
            for value in values:
                if is_going(value):
                    self._finish(kind, value, waiting.get(value["metadata"]["uid"], []))
        self._empty_namespaces(held)

    def _finish(self, kind: Kind, value: Json, dependents: list[tuple[Kind, Json]]) -> None:
        finalizers = value["metadata"].get("finalizers") or []
        uid = value["metadata"]["uid"]
        if "orphan" in finalizers:
            for sort, one in dependents:
                kept = [owner for owner in one["metadata"]["ownerReferences"] if owner["uid"] != uid]
                self._hands.patch(sort, one, {"metadata": {"ownerReferences": kept or None}})
            self._release(kind, value, "orphan")
        elif "foregroundDeletion" in finalizers:
            for sort, one in dependents:
                if not is_going(one):
                    self._hands.delete(sort, one)
            if not dependents:
                self._release(kind, value, "foregroundDeletion")

    def _release(self, kind: Kind, value: Json, finalizer: str) -> None:
        left = [one for one in value["metadata"]["finalizers"] if one != finalizer]
        self._hands.patch(kind, value, {"metadata": {"finalizers": left}})

    def _empty_namespaces(self, held: dict[Kind, list[Json]]) -> None:
        for namespace in held.get(NAMESPACE, ()):
            if not is_going(namespace):
                continue
            name, left = namespace["metadata"]["name"], False
            for kind, values in held.items():
                for value in values:
                    if kind.namespaced and value["metadata"].get("namespace") == name:
                        left = True
                        if not is_going(value):
                            self._hands.delete(kind, value)
            if not left and namespace["spec"].get("finalizers"):
                self._hands.patch(NAMESPACE, namespace, {"spec": {"finalizers": []}})
