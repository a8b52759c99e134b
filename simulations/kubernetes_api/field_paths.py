"""Which fields does an object have, as ``managedFields`` names them?

A path is a tuple of FieldsV1 elements: ``f:NAME`` a field, ``k:{...}`` the item of a list with those keys, ``v:...``
the item of a set. Leaves are scalars, empty collections and atomic lists and maps; an item of a keyed list is a path
of its own beside its fields.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any, TypeAlias

from simulations.kubernetes_api.merge_keys import ATOMIC_MAPS, apply_keys, is_set
from simulations.kubernetes_api.refusals import Json

Path: TypeAlias = tuple[str, ...]

ITEM = object()
_SYSTEM = frozenset(
    {
        "name",
        "namespace",
        "uid",
        "resourceVersion",
        "generation",
        "creationTimestamp",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "managedFields",
        "selfLink",
    }
)


def item_element(item: Json, keys: tuple[str, ...]) -> str:
    """Return the element that stands for an item of a keyed list."""
    told = {key: item.get(key, "TCP") for key in sorted(keys) if key in item or key == "protocol"}
    return "k:" + json.dumps(told, separators=(",", ":"))


def flat(value: Json) -> dict[Path, Any]:
    """Return every field that somebody can own, with its value; items of keyed lists have the value ``ITEM``."""
    found: dict[Path, Any] = {}
    for name, held in value.items():
        if name == "metadata":
            kept = {key: one for key, one in held.items() if key not in _SYSTEM}
            _map(kept, ("f:metadata",), found)
        elif name not in ("apiVersion", "kind"):
            _field(name, held, (), found)
    return found


def _map(value: Json, at: Path, found: dict[Path, Any]) -> None:
    for name, held in value.items():
        _field(name, held, at, found)


def _field(name: str, held: Any, at: Path, found: dict[Path, Any]) -> None:
    here = (*at, f"f:{name}")
    if isinstance(held, dict) and held and name not in ATOMIC_MAPS:
        _map(held, here, found)
    elif isinstance(held, list) and held and is_set(name):
        for item in held:
            found[(*here, "v:" + json.dumps(item))] = ITEM
    elif isinstance(held, list) and held and (keys := apply_keys(name, held)):
        for item in held:
            place = (*here, item_element(item, keys))
            found[place] = ITEM
            _map(item, place, found)
    else:
        found[here] = held


def fields_v1(paths: Iterable[Path]) -> Json:
    """Return a set of paths as FieldsV1."""
    tree: Json = {}
    for path in sorted(paths):
        place = tree
        for element in path:
            place = place.setdefault(element, {})
        if path[-1][0] in "kv":
            place["."] = {}
    return _without_lone_dots(tree)


def _without_lone_dots(tree: Json) -> Json:
    return {key: {} if set(held) <= {"."} else _without_lone_dots(held) for key, held in tree.items()}


def paths_of(fields: Json, at: Path = ()) -> set[Path]:
    """Return FieldsV1 as a set of paths."""
    found: set[Path] = set()
    for element, held in fields.items():
        if element == ".":
            found.add(at)
        elif held:
            found |= paths_of(held, (*at, element))
        else:
            found.add((*at, element))
    return found


def shown(path: Path) -> str:
    """Return a path as conflicts name it: ``.spec.template.spec.containers[name="engine"].image``."""
    text = ""
    for element in path:
        sort, told = element[0], element[2:]
        if sort == "f":
            text += f".{told}"
        elif sort == "k":
            keys = json.loads(told)
            text += "[" + ",".join(f"{key}={json.dumps(held)}" for key, held in keys.items()) + "]"
        else:
            text += f"[={told}]"
    return text


def without(value: Json, path: Path) -> None:
    """Take what stands at ``path`` out of ``value``, and the maps and lists that are empty then."""
    trail: list[tuple[Any, Any]] = []
    place: Any = value
    for element in path:
        key = _position(place, element)
        if key is None:
            return
        trail.append((place, key))
        place = place[key]
    for at, (holder, key) in enumerate(reversed(trail)):
        if at == 0 or holder[key] in ({}, []):
            del holder[key]


def _position(place: Any, element: str) -> Any:
    sort, told = element[0], element[2:]
    if sort == "f":
        return told if isinstance(place, dict) and told in place else None
    if not isinstance(place, list):
        return None
    wanted = json.loads(told)
    for at, item in enumerate(place):
        if item == wanted if sort == "v" else all(item.get(key, "TCP") == held for key, held in wanted.items()):
            return at
    return None
