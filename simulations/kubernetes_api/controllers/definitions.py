"""Which kinds are served because somebody has defined them?

A CustomResourceDefinition is established, and its kind served from then on, in its newest version alone; one that is
deleted takes its objects with it before it goes.
"""

from __future__ import annotations

from controller.ports import Clock
from simulations.kubernetes_api.controllers.hands import Hands, copied, retried
from simulations.kubernetes_api.controllers.owned import is_going, with_condition
from simulations.kubernetes_api.kinds import DEFINITION, Catalogue, Kind, ScalePaths
from simulations.kubernetes_api.refusals import Json
from simulations.kubernetes_api.writing import rfc3339

_CLEANUP = "customresourcecleanup.apiextensions.k8s.io"
_CONDITIONS = (
    ("NamesAccepted", "NoConflicts", "no conflicts found"),
    ("Established", "InitialNamesAccepted", "the initial names have been accepted"),
)


class Definitions:
    """The controllers of CustomResourceDefinitions."""

    def __init__(self, hands: Hands, catalogue: Catalogue, clock: Clock) -> None:
        self._hands, self._catalogue, self._clock = hands, catalogue, clock

    def step(self) -> None:
        """Take the next step with every definition."""
        for definition in self._hands.all(DEFINITION):
            with retried():
                if is_going(definition):
                    self._clear(definition)
                else:
                    self._establish(definition)

    def _establish(self, definition: Json) -> None:
        kind = kind_of(definition)
        held = self._catalogue.of(*kind.identity)
        if held is None or (held, held.schema, held.columns) != (kind, kind.schema, kind.columns):
            self._catalogue.define(kind)
        if _CLEANUP not in (definition["metadata"].get("finalizers") or ()):
            kept = [*(definition["metadata"].get("finalizers") or ()), _CLEANUP]
            definition = self._hands.patch(DEFINITION, definition, {"metadata": {"finalizers": kept}})
        told: Json = {"status": definition.get("status") or {}}
        for sort, reason, message in _CONDITIONS:
            now = rfc3339(self._clock.now())
            conditions = with_condition(told, now, type=sort, status="True", reason=reason, message=message)
            told = {"status": {"conditions": conditions}}
        names, version = definition["spec"]["names"], kind.version
        status = {**told["status"], "acceptedNames": names, "storedVersions": [version]}
        if any((definition.get("status") or {}).get(key) != value for key, value in status.items()):
            self._hands.patch(DEFINITION, definition, {"status": copied(status)}, "status")

    def _clear(self, definition: Json) -> None:
        kind = kind_of(definition)
        left = self._hands.all(kind)
        for one in left:
            if not is_going(one):
                self._hands.delete(kind, one)
        if not left:
            self._catalogue.forget(*kind.identity)
            kept = [one for one in definition["metadata"].get("finalizers") or () if one != _CLEANUP]
            self._hands.patch(DEFINITION, definition, {"metadata": {"finalizers": kept}})


def kind_of(definition: Json) -> Kind:
    """Return the resource that a definition defines, in the version that is stored."""
    spec = definition["spec"]
    version = next(one for one in spec["versions"] if one["storage"])
    parts = version.get("subresources") or {}
    scale = parts.get("scale")
    paths = ("specReplicasPath", "statusReplicasPath", "labelSelectorPath")
    return Kind(
        spec["group"],
        version["name"],
        spec["names"]["plural"],
        spec["names"]["kind"],
        namespaced=spec["scope"] == "Namespaced",
        short=tuple(spec["names"].get("shortNames") or ()),
        status="status" in parts,
        generated=True,
        scale=ScalePaths(*(scale.get(path, "").removeprefix(".") for path in paths)) if scale else None,
        custom=True,
        unconditional_update=False,
        schema=version["schema"]["openAPIV3Schema"],
        columns=tuple(version.get("additionalPrinterColumns") or ()),
    )
