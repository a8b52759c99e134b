"""Which objects belong to a workload, and what do they share with it?"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable

from simulations.kubernetes_api.kinds import Kind
from simulations.kubernetes_api.refusals import Json

_SAFE = "bcdfghjklmnpqrstvwxz2456789"


def controller_uid(value: Json) -> str:
    """Return the uid of the controller that owns an object, empty where none does."""
    for owner in value["metadata"].get("ownerReferences") or ():
        if owner.get("controller"):
            return str(owner["uid"])
    return ""


def by_controller(values: Iterable[Json]) -> dict[str, list[Json]]:
    """Return objects by the uid of the controller that owns them."""
    found: dict[str, list[Json]] = {}
    for value in values:
        if uid := controller_uid(value):
            found.setdefault(uid, []).append(value)
    return found


def owner_reference(kind: Kind, owner: Json) -> Json:
    """Return the reference by which ``owner`` controls an object."""
    return {
        "apiVersion": kind.api_version,
        "kind": kind.kind,
        "name": owner["metadata"]["name"],
        "uid": owner["metadata"]["uid"],
        "controller": True,
        "blockOwnerDeletion": True,
    }


def template_hash(template: Json, collisions: int = 0) -> str:
    """Return a name for a pod template, of letters that spell no words; the same for equal templates."""
    digest = zlib.crc32(json.dumps([template, collisions], sort_keys=True).encode())
    letters = []
    for _ in range(10):
        digest, at = divmod(digest, len(_SAFE))
        letters.append(_SAFE[at])
    return "".join(letters[:7])


def is_going(value: Json) -> bool:
    """Return whether an object has been deleted and only waits."""
    return bool(value["metadata"].get("deletionTimestamp"))


def condition(value: Json, sort: str) -> Json | None:
    """Return the condition of that type, or None."""
    found = (one for one in (value.get("status") or {}).get("conditions") or () if one["type"] == sort)
    return next(found, None)


def is_ready(pod: Json) -> bool:
    """Return whether a pod's Ready condition is True."""
    ready = condition(pod, "Ready")
    return ready is not None and ready["status"] == "True"


def with_condition(value: Json, now: str, **wanted: str) -> list[Json]:
    """Return the object's conditions with one more or one changed; its transition time moves with its status only."""
    held: list[Json] = list((value.get("status") or {}).get("conditions") or ())
    before = next((one for one in held if one["type"] == wanted["type"]), None)
    made: Json = dict(wanted)
    same = before is not None and before["status"] == made["status"]
    made["lastTransitionTime"] = before["lastTransitionTime"] if before is not None and same else now
    if before is None:
        return [*held, made]
    return [made if one is before else one for one in held]


def differs(status: Json, wanted: Json) -> bool:
    """Return whether a status says anything else than is wanted; what is none may be left out."""
    return any(status.get(key) != held and (held or status.get(key)) for key, held in wanted.items())
