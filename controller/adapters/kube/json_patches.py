"""How is one part of an object changed, and only if the object is still what it was read as?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from controller.adapters.kube.json_reading import text, under

Operation = dict[str, Any]


def pointer(*path: str) -> str:
    """Return a JSON pointer.

    >>> pointer("metadata", "labels", "foresail.dev/serving")
    '/metadata/labels/foresail.dev~1serving'
    """
    return "".join("/" + key.replace("~", "~0").replace("/", "~1") for key in path)


def if_unchanged(told: object, operations: Sequence[Operation]) -> list[Operation]:
    """Return a patch that is refused where the object is no longer ``told``."""
    version = text(told, "metadata", "resourceVersion")
    return [{"op": "test", "path": "/metadata/resourceVersion", "value": version}, *operations]


def annotated(told: object, annotations: Mapping[str, str | None]) -> list[Operation]:
    """Return operations that set annotations of ``told``; None takes one away, if it is there."""
    held = under(told, "metadata", "annotations")
    there: Mapping[str, Any] = held if isinstance(held, dict) else {}
    made: list[Operation] = []
    for name, value in annotations.items():
        path = pointer("metadata", "annotations", name)
        if value is not None:
            made.append({"op": "add", "path": path, "value": value})
        elif name in there:
            made.append({"op": "remove", "path": path})
    if made and not isinstance(held, dict):
        made.insert(0, {"op": "add", "path": "/metadata/annotations", "value": {}})
    return made
