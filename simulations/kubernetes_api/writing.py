"""What becomes of the store when an object is created or changed?

What every resource has in common: system metadata, optimistic concurrency by resourceVersion, generation that counts
changes of what is asked for and never of status, owners of fields, dry run. A change that
changes nothing is not written: same resourceVersion, no event.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TypeAlias

import numpy as np

from controller.ports import Clock
from simulations.kubernetes_api.defaults import fill_in
from simulations.kubernetes_api.kinds import NAMESPACE, NODE, Kind
from simulations.kubernetes_api.managed_fields import FieldOwner, applied, note_update
from simulations.kubernetes_api.refusals import (
    Faults422,
    Json,
    already_exists,
    bad_request,
    conflict,
    forbidden,
    not_found,
)
from simulations.kubernetes_api.store import Key, Store, Stored
from simulations.kubernetes_api.validation import check, check_shape

_SUFFIX = "bcdfghjklmnpqrstvwxz2456789"
_KEPT_METADATA = (
    "uid",
    "creationTimestamp",
    "generation",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "namespace",
    "name",
)

Alteration: TypeAlias = Callable[[Json], Json]


def rfc3339(at: float) -> str:
    """Return an instant as ``metav1.Time`` writes it, to the second."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


@dataclass(frozen=True, slots=True)
class Write:
    """Who writes and how: the field manager, the subresource, and whether only to see what would come of it."""

    manager: str
    subresource: str = ""
    dry_run: bool = False


def _asked_for(kind: Kind, value: Json) -> object:
    if kind.custom:
        return {key: held for key, held in value.items() if key not in ("metadata", "status")}
    marks = value["metadata"].get("annotations") or {} if kind.annotations_count else {}
    return value.get("spec"), marks


def finished(kind: Kind, value: Json) -> bool:
    """Return whether nothing holds up any longer the end of an object that was deleted."""
    metadata = value["metadata"]
    if not metadata.get("deletionTimestamp") or metadata.get("finalizers"):
        return False
    if kind is NAMESPACE:
        return not value["spec"].get("finalizers")
    return not metadata.get("deletionGracePeriodSeconds")


class Writer:
    """Every change of the store goes through here.

    Args:
        store: What is changed.
        clock: Where timestamps come from.
        draws: Where uids and the ends of generated names come from.
    """

    def __init__(self, store: Store, clock: Clock, draws: np.random.Generator) -> None:
        self.store, self.clock = store, clock
        self._draws = draws

    def now(self) -> str:
        """Return the time as objects carry it."""
        return rfc3339(self.clock.now())

    def _uid(self) -> str:
        digits = self._draws.bytes(16).hex()
        return f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-a{digits[17:20]}-{digits[20:]}"

    def _field_owner(self, kind: Kind, write: Write) -> FieldOwner:
        return FieldOwner(write.manager, kind.api_version, self.now(), write.subresource)

    def held(self, kind: Kind, key: Key) -> Stored:
        """Return the object.

        Raises:
            Refusal: 404.
        """
        stored = self.store.get(kind, key)
        if stored is None:
            raise not_found(kind, key[1])
        return stored

    def create(self, kind: Kind, namespace: str, body: Json, write: Write) -> Stored:
        """Create an object from ``body``, which becomes the store's own.

        Raises:
            Refusal: 400, 403, 404 (namespace), 409 or 422.
        """
        check_shape(kind, body)
        metadata = body.setdefault("metadata", {})
        if metadata.get("resourceVersion"):
            raise bad_request("resourceVersion should not be set on objects to be created")
        with self.store.changed:
            self._check_namespace(kind, namespace, metadata)
            if not metadata.get("name") and metadata.get("generateName"):
                metadata["name"] = metadata["generateName"] + "".join(
                    _SUFFIX[at] for at in self._draws.integers(0, len(_SUFFIX), 5)
                )
            return self._create(kind, namespace, body, write, owned=False)

    def _create(self, kind: Kind, namespace: str, body: Json, write: Write, *, owned: bool) -> Stored:
        body["kind"], body["apiVersion"] = kind.kind, kind.api_version
        metadata = body["metadata"]
        for name in ("uid", "generation", "deletionTimestamp", "deletionGracePeriodSeconds", "selfLink"):
            metadata.pop(name, None)
        if kind.namespaced:
            metadata["namespace"] = namespace
        if kind.status and kind is not NODE:
            body.pop("status", None)
        if not owned:
            metadata.pop("managedFields", None)
        fill_in(kind, body)
        check(kind, body, None)
        key = (namespace, metadata["name"])
        if self.store.get(kind, key) is not None:
            raise already_exists(kind, metadata["name"])
        metadata["uid"], metadata["creationTimestamp"] = self._uid(), self.now()
        if kind.generated:
            metadata["generation"] = 1
        if not owned:
            note_update(None, body, self._field_owner(kind, write))
        return Stored(body, 0) if write.dry_run else self.store.put(kind, key, body)

    def _check_namespace(self, kind: Kind, namespace: str, metadata: Json) -> None:
        if not kind.namespaced:
            return
        if metadata.get("namespace") not in (None, "", namespace):
            raise bad_request("the namespace of the provided object does not match the namespace sent on the request")
        place = self.held(NAMESPACE, ("", namespace))
        if place.value["metadata"].get("deletionTimestamp"):
            why = f"unable to create new content in namespace {namespace} because it is being terminated"
            raise forbidden(kind, str(metadata.get("name", "")), why)

    def update(self, kind: Kind, key: Key, body: Json, write: Write) -> Stored:
        """Replace an object, or its status, as PUT does.

        Raises:
            Refusal: 400, 404, 409 or 422.
        """
        check_shape(kind, body)
        metadata = body.setdefault("metadata", {})
        if metadata.get("name") != key[1]:
            raise bad_request(
                f"the name of the object ({metadata.get('name', '')}) does not match the name on the URL ({key[1]})"
            )
        with self.store.changed:
            before = self.held(kind, key)
            if not metadata.get("resourceVersion") and not kind.unconditional_update:
                faults = Faults422()
                faults.invalid("metadata.resourceVersion", 0, "must be specified for an update")
                faults.refuse(kind, key[1])
            return self._replace(kind, key, before, body, write)

    def patch(self, kind: Kind, key: Key, alteration: Alteration, write: Write) -> Stored:
        """Replace an object, or its status, by what ``alteration`` makes of a copy.

        Raises:
            Refusal: What ``alteration`` raises, and 404, 409 or 422.
        """
        with self.store.changed:
            before = self.held(kind, key)
            return self._replace(kind, key, before, alteration(before.fresh()), write)

    def apply(self, kind: Kind, key: Key, config: Json, write: Write, *, force: bool) -> tuple[Stored, bool]:
        """Apply a configuration server-side; return the object and whether it was created.

        Raises:
            Refusal: 400, 404 (namespace), 409 with the managers in conflict, or 422.
        """
        check_shape(kind, config)
        metadata = config.setdefault("metadata", {})
        if metadata.get("managedFields"):
            raise bad_request("metadata.managedFields must be nil")
        metadata["name"] = key[1]
        manager = self._field_owner(kind, write)
        with self.store.changed:
            before = self.store.get(kind, key)
            if before is None:
                if write.subresource:
                    raise not_found(kind, key[1])
                self._check_namespace(kind, key[0], metadata)
                made = applied(None, config, manager, force=force)
                return self._create(kind, key[0], made, write, owned=True), True
            after = applied(before.fresh(), config, manager, force=force)
            return self._replace(kind, key, before, after, write, owned=True), False

    def _replace(
        self, kind: Kind, key: Key, before: Stored, after: Json, write: Write, *, owned: bool = False
    ) -> Stored:
        check_shape(kind, after)
        old = before.value
        metadata = after.setdefault("metadata", {})
        self._check_identity(kind, key, old, metadata)
        entries = metadata.get("managedFields") if owned else None
        if write.subresource == "status":
            marks = metadata.get("annotations")
            after = {**before.fresh(), "status": after.get("status", {})}
            metadata = after["metadata"]
            if marks and not kind.custom:  # as Deployments get the number of their revision
                metadata["annotations"] = marks
        elif kind.status:
            after.pop("status", None)
            if "status" in old:
                after["status"] = old["status"]
        after["kind"], after["apiVersion"] = kind.kind, kind.api_version
        for name in _KEPT_METADATA:
            if name in old["metadata"]:
                metadata[name] = old["metadata"][name]
            else:
                metadata.pop(name, None)
        fill_in(kind, after)
        if kind.generated and write.subresource != "status" and _asked_for(kind, after) != _asked_for(kind, old):
            metadata["generation"] = old["metadata"].get("generation", 0) + 1
        check(kind, after, old, write.subresource)
        if owned:
            metadata["managedFields"] = entries
        else:
            note_update(old, after, self._field_owner(kind, write))
        return self._store(kind, key, before, after, dry_run=write.dry_run)

    def _check_identity(self, kind: Kind, key: Key, old: Json, metadata: Json) -> None:
        held = old["metadata"]
        if metadata.get("uid", held["uid"]) != held["uid"]:
            why = f"Precondition failed: UID in precondition: {metadata['uid']}, UID in object meta: {held['uid']}"
            raise conflict(kind, key[1], why)
        if metadata.get("resourceVersion") not in (None, "", held["resourceVersion"]):
            raise conflict(kind, key[1])
        if metadata.get("name", key[1]) != key[1]:
            raise bad_request(
                f"the name of the object ({metadata['name']}) does not match the name on the URL ({key[1]})"
            )

    def _store(self, kind: Kind, key: Key, before: Stored, after: Json, *, dry_run: bool) -> Stored:
        after["metadata"]["resourceVersion"] = before.value["metadata"]["resourceVersion"]
        if after == before.value:
            return before
        if dry_run:
            return Stored(after, before.version)
        if finished(kind, after):
            self.store.put(kind, key, after)
            return self.store.drop(kind, key)
        return self.store.put(kind, key, after)
