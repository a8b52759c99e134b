"""How does a controller read and write objects: in the process, or over the API of any cluster?"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from typing import Any, Protocol, TypeAlias

from simulations.kubernetes_api.bodies import MERGE_PATCH
from simulations.kubernetes_api.deleting import Deletion, delete
from simulations.kubernetes_api.kinds import POD, Kind
from simulations.kubernetes_api.patches import merge_patched
from simulations.kubernetes_api.refusals import Json, Refusal
from simulations.kubernetes_api.writing import Write, Writer

Send: TypeAlias = Callable[[str, str, Any, str], Json]


class Hands(Protocol):
    """What a controller can do. Objects that are read belong to the store and are not altered."""

    def all(self, kind: Kind) -> list[Json]:
        """Return every object of a resource, in the order of namespace and name."""
        ...

    def create(self, kind: Kind, namespace: str, value: Json) -> Json:
        """Create an object and return it."""
        ...

    def patch(self, kind: Kind, value: Json, change: Json, subresource: str = "") -> Json:
        """Merge ``change`` into the object that ``value`` was read as, and return it."""
        ...

    def delete(self, kind: Kind, value: Json, grace_s: int | None = None) -> None:
        """Delete the object that ``value`` was read as."""
        ...

    def bind(self, pod: Json, node: str) -> None:
        """Put a pod on a node."""
        ...


class StoreHands:
    """Hands in the process of the API server, past HTTP, rules and faults."""

    def __init__(self, writer: Writer, manager: str) -> None:
        self._writer, self._manager = writer, manager

    def all(self, kind: Kind) -> list[Json]:
        """Return every object of a resource."""
        return [stored.value for stored in self._writer.store.all(kind)]

    def create(self, kind: Kind, namespace: str, value: Json) -> Json:
        """Create an object and return it."""
        return self._writer.create(kind, namespace, value, Write(self._manager)).value

    def patch(self, kind: Kind, value: Json, change: Json, subresource: str = "") -> Json:
        """Merge ``change`` into the object and return it."""

        def changed(held: Json) -> Json:
            merged: Json = merge_patched(held, change)
            return merged

        return self._writer.patch(kind, _key(value), changed, Write(self._manager, subresource)).value

    def delete(self, kind: Kind, value: Json, grace_s: int | None = None) -> None:
        """Delete the object."""
        delete(self._writer, kind, _key(value), Deletion(grace_s=grace_s, uid=value["metadata"]["uid"]))

    def bind(self, pod: Json, node: str) -> None:
        """Put a pod on a node."""

        def bound(held: Json) -> Json:
            held["spec"]["nodeName"] = node
            return held

        self._writer.patch(POD, _key(pod), bound, Write(self._manager, "binding"))


class ApiHands:
    """Hands over the API.

    Args:
        send: Sends method, path, body and content type, and returns the answered object.
    """

    def __init__(self, send: Send) -> None:
        self._send = send

    def all(self, kind: Kind) -> list[Json]:
        """Return every object of a resource."""
        base = f"/apis/{kind.api_version}" if kind.group else f"/api/{kind.version}"
        found: list[Json] = self._send("GET", f"{base}/{kind.plural}", None, "").get("items") or []
        return found

    def create(self, kind: Kind, namespace: str, value: Json) -> Json:
        """Create an object and return it."""
        return self._send("POST", _place(kind, namespace), value, "application/json")

    def patch(self, kind: Kind, value: Json, change: Json, subresource: str = "") -> Json:
        """Merge ``change`` into the object and return it."""
        path = f"{_path(kind, value)}/{subresource}" if subresource else _path(kind, value)
        return self._send("PATCH", path, change, MERGE_PATCH)

    def delete(self, kind: Kind, value: Json, grace_s: int | None = None) -> None:
        """Delete the object."""
        options: Json = {
            "kind": "DeleteOptions",
            "apiVersion": "v1",
            "preconditions": {"uid": value["metadata"]["uid"]},
        }
        if grace_s is not None:
            options["gracePeriodSeconds"] = grace_s
        self._send("DELETE", _path(kind, value), options, "application/json")

    def bind(self, pod: Json, node: str) -> None:
        """Put a pod on a node."""
        binding = {
            "apiVersion": "v1",
            "kind": "Binding",
            "metadata": {"name": pod["metadata"]["name"]},
            "target": {"apiVersion": "v1", "kind": "Node", "name": node},
        }
        self._send("POST", f"{_path(POD, pod)}/binding", binding, "application/json")


def _key(value: Json) -> tuple[str, str]:
    metadata = value["metadata"]
    return metadata.get("namespace", ""), metadata["name"]


def _place(kind: Kind, namespace: str) -> str:
    base = f"/apis/{kind.api_version}" if kind.group else f"/api/{kind.version}"
    return f"{base}/namespaces/{namespace}/{kind.plural}" if kind.namespaced else f"{base}/{kind.plural}"


def _path(kind: Kind, value: Json) -> str:
    namespace, name = _key(value)
    return f"{_place(kind, namespace)}/{name}"


def retried() -> contextlib.suppress:
    """Let a refused write end the step with one object: the controller comes back to it, as from its work queue."""
    return contextlib.suppress(Refusal)


def copied(value: Json) -> Json:
    """Return a copy of what was read, to make another object of."""
    copy: Json = json.loads(json.dumps(value))
    return copy
