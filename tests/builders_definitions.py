"""Kinds that a test run defines where the cluster lacks them, and takes away again when nobody uses them any more."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pytest

from controller.adapters.kube.json_patches import if_unchanged, pointer
from controller.adapters.kube.kinds import Resource
from controller.adapters.kube.questions import ApiRefused
from tests.builders_any_cluster import NAMESPACES, SUITE, Json, Place

DEFINITIONS = Resource(
    "apiextensions.k8s.io", "v1", "customresourcedefinitions", "CustomResourceDefinition", namespaced=False
)
_USED_BY = "suite.foresail.dev/"
_MANAGED_BY = "app.kubernetes.io/managed-by"
_MOST_TRIES = 20
ANYTHING = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}


@contextmanager
def defined(place: Place, definition: Json) -> Iterator[Json]:
    """Yield a CustomResourceDefinition once it is served; one that was there before is used as it is.

    Several runs may use the one that the first of them made: each notes its namespace there, and the last takes it
    away. Skips where none may be made.
    """
    name = definition["metadata"]["name"]
    ours = _noted(place, name, definition)
    try:
        yield place.hands.until(lambda: _served(place, name))
    finally:
        if ours:
            _give_up(place, name)


def a_definition(kind: Resource, subresources: Mapping[str, Any] | None = None) -> Json:
    """Return a definition of a kind that may say anything."""
    version = {
        "name": kind.version,
        "served": True,
        "storage": True,
        "schema": {"openAPIV3Schema": {"type": "object", "properties": {"spec": ANYTHING, "status": ANYTHING}}},
        "subresources": {"status": {}, **(subresources or {})},
    }
    names = {
        "plural": kind.plural,
        "singular": kind.kind.lower(),
        "kind": kind.kind,
        "listKind": f"{kind.kind}List",
    }
    metadata: Json = {"name": kind.title}
    if kind.group.endswith((".k8s.io", ".kubernetes.io")):
        metadata["annotations"] = {"api-approved.kubernetes.io": "unapproved, made by a test"}
    spec = {"group": kind.group, "scope": "Namespaced", "names": names, "versions": [version]}
    return {"metadata": metadata, "spec": spec}


def _noted(place: Place, name: str, definition: Json) -> bool:
    """Make the definition, or note that this run uses it too; return False for one that is not of any such run."""
    mark = f"{_USED_BY}{place.namespace}"
    note = [{"op": "add", "path": pointer("metadata", "annotations", mark), "value": "in use"}]
    for _ in range(_MOST_TRIES):
        held = _held(place, name)
        if held is None:
            if _made(place, definition, mark):
                return True
        elif held["metadata"].get("labels", {}).get(_MANAGED_BY) != SUITE:
            return False
        elif "deletionTimestamp" in held["metadata"]:
            place.hands.until(lambda: not place.outside.list(DEFINITIONS, fieldSelector=f"metadata.name={name}"))
        elif _changed(place, held, note):
            return True
    raise AssertionError(f"{name} changes all the time")


def _held(place: Place, name: str) -> Json | None:
    try:
        return place.outside.get(DEFINITIONS, name)
    except ApiRefused as error:
        if error.status == 403:
            pytest.skip(f"{name} is not known to be there, and may not be looked for")
        if error.status != 404:
            raise
        return None


def _made(place: Place, definition: Json, mark: str) -> bool:
    """Make the definition; return False where another run was faster."""
    metadata = definition["metadata"]
    labels = {**metadata.get("labels", {}), _MANAGED_BY: SUITE}
    annotations = {**metadata.get("annotations", {}), mark: "in use"}
    marked = {**metadata, "labels": labels, "annotations": annotations}
    try:
        place.outside.create(DEFINITIONS, {**definition, "metadata": marked})
    except ApiRefused as refused:
        if refused.status == 403:
            pytest.skip(f"{metadata['name']} is not there, and may not be made")
        if refused.status != 409:
            raise
        return False
    return True


def _give_up(place: Place, name: str) -> None:
    """Take our note away, or the definition with it where no other run that is still there has left one."""
    outside, mark = place.outside, f"{_USED_BY}{place.namespace}"
    for _ in range(_MOST_TRIES):
        held = outside.get(DEFINITIONS, name)
        users = {key.removeprefix(_USED_BY) for key in held["metadata"]["annotations"] if key.startswith(_USED_BY)}
        if users & ({one["metadata"]["name"] for one in outside.list(NAMESPACES)} - {place.namespace}):
            if _changed(place, held, [{"op": "remove", "path": pointer("metadata", "annotations", mark)}]):
                return
            continue
        try:
            outside.delete(DEFINITIONS, name, resourceVersion=held["metadata"]["resourceVersion"])
        except ApiRefused as error:
            if error.status != 409:
                raise
            continue
        place.hands.until(lambda: not outside.list(DEFINITIONS, fieldSelector=f"metadata.name={name}"))
        return


def _changed(place: Place, held: Json, operations: list[Json]) -> bool:
    """Change the definition if it is still as it was; return whether it was."""
    try:
        place.outside.patch(DEFINITIONS, held["metadata"]["name"], if_unchanged(held, operations), by=SUITE)
    except ApiRefused as error:
        if error.status not in (404, 409, 422):
            raise
        return False
    return True


def _served(place: Place, name: str) -> Json | None:
    """Return the definition once its kind can be listed."""
    held = place.outside.get(DEFINITIONS, name)
    conditions = {one["type"]: one["status"] for one in held.get("status", {}).get("conditions") or ()}
    if conditions.get("Established") != "True":
        return None
    spec = held["spec"]
    kind = Resource(spec["group"], spec["versions"][-1]["name"], spec["names"]["plural"], spec["names"]["kind"])
    try:
        place.hands.list(kind)
    except ApiRefused as error:
        if error.status != 404:
            raise
        return None
    return held
