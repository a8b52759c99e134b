"""What does the schema of a definition make of an object, and what does it not take?

A structural schema, as CustomResourceDefinitions have it: what it does not name is dropped unless it says
``x-kubernetes-preserve-unknown-fields``, defaults are filled in, and the rest is checked for types, bounds, patterns,
enumerations, required fields and the keys of lists. Rules in CEL are not evaluated.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from simulations.kubernetes_api.refusals import Faults422, Json

_OWN = ("apiVersion", "kind", "metadata")
_PRESERVE = "x-kubernetes-preserve-unknown-fields"
_KEYS = "x-kubernetes-list-map-keys"
_TYPES: Mapping[str, type | tuple[type, ...]] = {
    "object": dict,
    "array": list,
    "string": str,
    "boolean": bool,
    "integer": int,
    "number": (int, float),
}


def shaped(schema: Mapping[str, Any], value: Json) -> None:
    """Drop from a whole object what ``schema`` does not know, and fill in its defaults."""
    held = {name: value.pop(name) for name in _OWN if name in value}
    _shape(schema, value)
    value |= held


def check_schema(schema: Mapping[str, Any], value: Json, faults: Faults422) -> None:
    """Note what ``schema`` does not take of a whole object."""
    _check(schema, {name: held for name, held in value.items() if name not in _OWN}, "", faults)


def problems_of(schema: Mapping[str, Any], place: str = "") -> list[str]:
    """Return where a schema is not structural: every part says its type."""
    found = [] if "type" in schema or schema.get(_PRESERVE) or schema.get("x-kubernetes-int-or-string") else [place]
    parts = {name: one for name, one in (schema.get("properties") or {}).items() if not (place == "" and name in _OWN)}
    for name, one in parts.items():
        found += problems_of(one, f"{place}.properties[{name}]")
    for key in ("items", "additionalProperties"):
        if isinstance(schema.get(key), dict):
            found += problems_of(schema[key], f"{place}.{key}")
    return found


def _shape(schema: Mapping[str, Any], value: Any) -> None:
    if isinstance(value, dict):
        known, other = schema.get("properties") or {}, schema.get("additionalProperties")
        for name, one in known.items():
            if name not in value and "default" in one:
                value[name] = json.loads(json.dumps(one["default"]))
        for name in [*value]:
            if name in known:
                _shape(known[name], value[name])
            elif isinstance(other, dict):
                _shape(other, value[name])
            elif not (other or schema.get(_PRESERVE)):
                del value[name]
    elif isinstance(value, list):
        for one in value:
            _shape(schema.get("items") or {_PRESERVE: True}, one)


def _check(schema: Mapping[str, Any], value: Any, place: str, faults: Faults422) -> None:
    if value is None and schema.get("nullable"):
        return
    told = schema.get("type")
    wrong = told is not None and not isinstance(value, _TYPES[told])
    if wrong or (isinstance(value, bool) and told in ("integer", "number")):
        shown = {dict: "object", list: "array", str: "string", bool: "boolean", type(None): "null"}
        kind = shown.get(type(value), "number")
        faults.invalid(place, kind, f'{place} in body must be of type {told}: "{kind}"')
        return
    if (allowed := schema.get("enum")) and value not in allowed:
        faults.unsupported(place, value, allowed)
    if isinstance(value, dict):
        _check_object(schema, value, place, faults)
    elif isinstance(value, list):
        _check_list(schema, value, place, faults)
    elif isinstance(value, str):
        _check_text(schema, value, place, faults)
    elif not isinstance(value, bool) and value is not None:
        _check_number(schema, value, place, faults)


def _check_object(schema: Mapping[str, Any], value: Json, place: str, faults: Faults422) -> None:
    known, other = schema.get("properties") or {}, schema.get("additionalProperties")
    for name in schema.get("required") or ():
        if name not in value:
            faults.required(_under(place, name))
    for name, held in value.items():
        part = known.get(name, other)
        if isinstance(part, dict):
            _check(part, held, _under(place, name), faults)


def _check_list(schema: Mapping[str, Any], value: list[Any], place: str, faults: Faults422) -> None:
    least, most = schema.get("minItems", 0), schema.get("maxItems")
    if len(value) < least:
        faults.invalid(place, len(value), f"{place} in body should have at least {least} items")
    if most is not None and len(value) > most:
        faults.too_many(place, len(value), most)
    for at, held in enumerate(value):
        _check(schema.get("items") or {}, held, f"{place}[{at}]", faults)
    seen: list[object] = []
    for at, held in enumerate(value):
        if (keys := schema.get(_KEYS)) and isinstance(held, dict):
            key = {name: held.get(name) for name in keys}
            if key in seen:
                faults.duplicate(f"{place}[{at}]", key)
            seen.append(key)


def _check_text(schema: Mapping[str, Any], value: str, place: str, faults: Faults422) -> None:
    least, most, pattern = schema.get("minLength", 0), schema.get("maxLength"), schema.get("pattern")
    if len(value) < least:
        faults.invalid(place, value, f"{place} in body should be at least {least} chars long")
    if most is not None and len(value) > most:
        faults.invalid(place, value, f"{place} in body should be at most {most} chars long")
    if pattern and not re.search(pattern, value):
        faults.invalid(place, value, f"{place} in body should match '{pattern}'")


def _check_number(schema: Mapping[str, Any], value: float, place: str, faults: Faults422) -> None:
    least, most = schema.get("minimum"), schema.get("maximum")
    if least is not None and (value < least or (schema.get("exclusiveMinimum") and value == least)):
        than = "greater than" if schema.get("exclusiveMinimum") else "greater than or equal to"
        faults.invalid(place, value, f"{place} in body should be {than} {least}")
    if most is not None and (value > most or (schema.get("exclusiveMaximum") and value == most)):
        than = "less than" if schema.get("exclusiveMaximum") else "less than or equal to"
        faults.invalid(place, value, f"{place} in body should be {than} {most}")


def _under(place: str, name: str) -> str:
    return f"{place}.{name}" if place else name
