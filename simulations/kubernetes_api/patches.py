"""What does a JSON patch, a merge patch or a strategic merge patch make of an object?

JSON patch is RFC 6902, merge patch RFC 7396; a strategic merge patch merges the lists that have a merge key and knows
the directives ``$patch``, ``$retainKeys``, ``$setElementOrder/`` and ``$deleteFromPrimitiveList/``.
"""

from __future__ import annotations

import json
from typing import Any

from simulations.kubernetes_api.merge_keys import is_set, strategic_key
from simulations.kubernetes_api.refusals import Json, Refusal, bad_request

_DIRECTIVES = ("$patch", "$retainKeys", "$setElementOrder/", "$deleteFromPrimitiveList/")


def _cannot_apply() -> Refusal:
    return Refusal(422, "Invalid", "the server rejected our request due to an error in our request")


def _tokens(pointer: str) -> list[str]:
    if pointer == "":
        return []
    if not pointer.startswith("/"):
        raise _cannot_apply()
    return [part.replace("~1", "/").replace("~0", "~") for part in pointer[1:].split("/")]


def _index(token: str, length: int) -> int:
    if not token.isdigit() or int(token) >= length:
        raise _cannot_apply()
    return int(token)


def _child(place: Any, token: str) -> Any:
    match place:
        case dict() if token in place:
            return place[token]
        case list():
            return place[_index(token, len(place))]
    raise _cannot_apply()


def _found(document: Any, pointer: str) -> Any:
    for token in _tokens(pointer):
        document = _child(document, token)
    return document


def _add(document: Json, pointer: str, value: Any) -> None:
    *parents, last = _tokens(pointer) or [""]
    place: Any = document
    for token in parents:
        place = _child(place, token)
    match place:
        case dict():
            place[last] = value
        case list():
            place.insert(len(place) if last == "-" else _index(last, len(place) + 1), value)
        case _:
            raise _cannot_apply()


def _remove(document: Json, pointer: str) -> Any:
    *parents, last = _tokens(pointer) or [""]
    place: Any = document
    for token in parents:
        place = _child(place, token)
    value = _child(place, last)
    if isinstance(place, dict):
        del place[last]
    else:
        del place[int(last)]
    return value


def json_patched(value: Json, operations: Any) -> Json:
    """Apply a JSON patch to ``value``, which is altered, and return it.

    Raises:
        Refusal: 400 for what is no JSON patch, 422 where an operation (a ``test`` too) cannot be applied.
    """
    if not isinstance(operations, list) or not all(isinstance(one, dict) for one in operations):
        raise bad_request("error decoding patch: json: cannot unmarshal object into Go value of type jsonpatch.Patch")
    for operation in operations:
        _operate(value, operation)
    return value


def _operate(value: Json, operation: Json) -> None:
    path = str(operation.get("path", ""))
    match operation.get("op"):
        case "add":
            _add(value, path, operation.get("value"))
        case "remove":
            _remove(value, path)
        case "replace":
            _remove(value, path)
            _add(value, path, operation.get("value"))
        case "test":
            if _found(value, path) != operation.get("value"):
                raise _cannot_apply()
        case "move":
            _add(value, path, _remove(value, str(operation.get("from", ""))))
        case "copy":
            _add(value, path, json.loads(json.dumps(_found(value, str(operation.get("from", ""))))))
        case _:
            raise _cannot_apply()


def merge_patched(value: Any, patch: Any) -> Any:
    """Apply a merge patch to ``value``, which may be altered, and return the outcome."""
    if not isinstance(patch, dict):
        return patch
    if not isinstance(value, dict):
        value = {}
    for key, wanted in patch.items():
        if wanted is None:
            value.pop(key, None)
        else:
            value[key] = merge_patched(value.get(key), wanted)
    return value


def strategic_patched(value: Any, patch: Json) -> Json:
    """Apply a strategic merge patch to the map ``value``, which may be altered, and return the outcome."""
    directive = patch.get("$patch")
    if directive == "replace" or not isinstance(value, dict):
        value = {}
    if directive == "delete":
        return {}
    if (kept := patch.get("$retainKeys")) is not None:
        value = {key: held for key, held in value.items() if key in kept}
    for key, wanted in patch.items():
        if key.startswith("$deleteFromPrimitiveList/"):
            name = key.partition("/")[2]
            value[name] = [item for item in value.get(name) or [] if item not in wanted]
        elif not key.startswith(_DIRECTIVES):
            _merge_field(value, key, wanted)
    for key, order in patch.items():
        if key.startswith("$setElementOrder/"):
            _reorder(value, key.partition("/")[2], order)
    result: Json = value
    return result


def _merge_field(value: Json, key: str, wanted: Any) -> None:
    match wanted:
        case None:
            value.pop(key, None)
        case dict():
            value[key] = strategic_patched(value.get(key), wanted)
        case list():
            value[key] = _merged_list(key, value.get(key) or [], wanted)
        case _:
            value[key] = wanted


def _merged_list(name: str, held: list[Any], wanted: list[Any]) -> list[Any]:
    if is_set(name):
        return held + [item for item in wanted if item not in held]
    merge_key = strategic_key(name, held or wanted)
    if merge_key is None:
        return [item for item in wanted if not (isinstance(item, dict) and "$patch" in item)]
    if any(item.get("$patch") == "replace" for item in wanted):
        return [item for item in wanted if "$patch" not in item]
    merged = list(held)
    for item in wanted:
        if merge_key not in item:
            raise bad_request(f"map: {json.dumps(item)} does not contain declared merge key: {merge_key}")
        at = next((at for at, one in enumerate(merged) if one.get(merge_key) == item[merge_key]), None)
        if item.get("$patch") == "delete":
            merged = [one for one in merged if one.get(merge_key) != item[merge_key]]
        elif at is None:
            merged.append(strategic_patched({}, item))
        else:
            merged[at] = strategic_patched(merged[at], item)
    return merged


def _reorder(value: Json, name: str, order: list[Any]) -> None:
    items = value.get(name)
    if not items:
        return
    merge_key = strategic_key(name, items) if isinstance(items[0], dict) else None
    wanted = [one.get(merge_key) for one in order] if merge_key else order

    def place(item: Any) -> int:
        told = item.get(merge_key) if merge_key else item
        return wanted.index(told) if told in wanted else len(wanted)

    value[name] = sorted(items, key=place)
