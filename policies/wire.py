"""How do our values look as text: canonical JSON, and the digest that names a value.

Two equal values give the same text, whatever order their mappings were filled in and whether a whole number was
kept as ``int`` or ``float``. The text is for records, digests and comparison; the values are not read back from it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import fields, is_dataclass
from enum import Enum
from hashlib import sha256
from operator import attrgetter
from typing import Any, TypeAlias

import numpy as np
from pydantic import BaseModel

from policies.fleet import PoolKey

Plain: TypeAlias = dict[str, "Plain"] | list["Plain"] | str | int | float | bool | None

DIGEST_HEX_CHARS = 16
TYPE_KEY = "type"
_LARGEST_WHOLE = 2.0**53  # above it neighbouring floats are more than one apart, so "whole" says nothing
_AS_IS = frozenset((str, int, bool, type(None)))
_ENCODER = json.JSONEncoder(allow_nan=False, check_circular=False, separators=(",", ":"))


def canonical_json(value: object) -> str:
    """Return the one JSON text of ``value``: ASCII, no spaces, keys sorted.

    * A dataclass is an object with its class name under ``type``, since members of a union can share all fields. Fields
      that it makes from others (``init=False``) are left out.
    * A ``PoolKey`` is its text, also as a key; an enum member is its value; a set is a sorted list.
    * NaN is ``null``: not observed. A field holds either NaN or None for that, never both, so nothing is confused.
    * Infinity is the text ``"Infinity"`` or ``"-Infinity"``: JSON has no number for it.
    * A whole float is written like the ``int`` it equals (as in RFC 8785), so ``-0.0`` is ``0``.

    Raises:
        TypeError: If a value is of a kind that has no such form (bytes, functions, dates).
        ValueError: If two keys of a mapping have the same text, or values are nested in a circle or too deeply.

    >>> canonical_json({"b": float("nan"), "a": (2.0, True)})
    '{"a":[2,true],"b":null}'
    """
    try:
        return _ENCODER.encode(plain(value))
    except RecursionError:
        raise ValueError("the value contains itself, or is nested too deeply") from None


def digest(value: object) -> str:
    """Return the first 16 hexadecimal characters (64 bits) of the SHA-256 of the canonical JSON of ``value``.

    Enough to name and compare inputs; the audit log chains its rows with the whole hash.
    """
    return sha256(canonical_json(value).encode("ascii")).hexdigest()[:DIGEST_HEX_CHARS]


class Digest:
    """The ``digest`` of a value, worked out when it is first read: a week of simulated decisions reads none.

    It is its text to whoever writes, compares or hashes it. The value must not change meanwhile, as no value of ours
    does; it is let go of once its digest is known.

    >>> Digest((1.0, 2)) == digest([1, 2])
    True
    """

    __slots__ = ("_held",)

    def __init__(self, value: object) -> None:
        self._held: str | tuple[object] = (value,)

    def __str__(self) -> str:
        held = self._held
        if isinstance(held, tuple):
            self._held = held = digest(held[0])
        return held

    def __repr__(self) -> str:
        return repr(str(self))

    def __eq__(self, other: object) -> bool:
        return self is other or (isinstance(other, str | Digest) and str(self) == str(other))

    def __hash__(self) -> int:
        return hash(str(self))


def plain(value: object) -> Plain:
    """Return ``value`` as dictionaries, lists, text and numbers, by the rules of ``canonical_json``."""
    kind = type(value)
    if kind is float:  # two thirds of what is written: the way through the table takes twice as long
        return _plain_float(value)  # type: ignore[arg-type]  # narrowed by the exact type
    if kind in _AS_IS:
        return value  # type: ignore[return-value]  # narrowed by the exact type
    writer = _found_writers.get(kind)
    if writer is None:
        writer = _found_writers[kind] = _writer_of(kind)
    return writer(value)


def _writer_of(kind: type[Any]) -> Callable[[Any], Plain]:
    if issubclass(kind, PoolKey):
        return str
    if is_dataclass(kind):
        return _object_writer(kind.__name__, tuple(f.name for f in fields(kind) if f.init))
    if issubclass(kind, BaseModel):
        return _object_writer(kind.__name__, tuple(kind.model_fields))
    for base, writer in _WRITERS:
        if issubclass(kind, base):
            return writer
    raise TypeError(f"a {kind.__module__}.{kind.__qualname__} has no canonical JSON")


def _object_writer(type_name: str, names: tuple[str, ...]) -> Callable[[Any], Plain]:
    if TYPE_KEY in names:
        raise TypeError(f"{type_name} has a field named {TYPE_KEY!r}, which is where its class name goes")
    if not names:
        return lambda _: {TYPE_KEY: type_name}
    if len(names) == 1:
        (name,) = names
        return lambda value: dict(sorted({name: plain(getattr(value, name)), TYPE_KEY: type_name}.items()))
    ordered = sorted(names)
    read = attrgetter(*ordered)
    before = tuple(name for name in ordered if name < TYPE_KEY)
    after = tuple(name for name in ordered if name > TYPE_KEY)

    def write(value: Any) -> Plain:
        found = read(value)
        written: dict[str, Plain] = dict(zip(before, map(plain, found), strict=False))
        written[TYPE_KEY] = type_name
        written.update(zip(after, map(plain, found[len(before) :]), strict=True))
        return written

    return write


def _plain_float(value: float) -> Plain:
    if value.is_integer():
        return int(value) if -_LARGEST_WHOLE <= value <= _LARGEST_WHOLE else value
    if math.isfinite(value):
        return value
    return None if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def _plain_mapping(value: Mapping[object, object]) -> Plain:
    by_text = {_key_text(key): plain(item) for key, item in value.items()}
    if len(by_text) != len(value):
        raise ValueError("two keys of a mapping have the same text")
    return dict(sorted(by_text.items()))


def _key_text(key: object) -> str:
    if type(key) is str:
        return key
    if isinstance(key, Enum):
        return _key_text(key.value)
    if isinstance(key, str | int | PoolKey):
        return str(key)
    raise TypeError(f"a {type(key).__qualname__} cannot be the key of a JSON object")


def _plain_sequence(value: list[object] | tuple[object, ...]) -> Plain:
    return [plain(item) for item in value]


def _plain_set(value: AbstractSet[object]) -> Plain:
    return sorted((plain(item) for item in value), key=_ENCODER.encode)


def _plain_array(value: np.ndarray[Any, Any]) -> Plain:
    listed: Plain = value.tolist()
    if value.dtype.kind == "f" and np.isfinite(value).all() and not (value == np.trunc(value)).any():
        return listed  # nothing to rewrite, the common case of forecasts: element by element takes ten times as long
    return plain(listed)


_WRITERS: tuple[tuple[type[Any], Callable[[Any], Plain]], ...] = (
    (Enum, lambda member: plain(member.value)),
    (str, str.__str__),
    (Digest, str),
    (bool, bool),
    (np.generic, lambda scalar: plain(scalar.item())),
    (int, int),
    (float, lambda number: _plain_float(float(number))),
    (Mapping, _plain_mapping),
    (list, _plain_sequence),
    (tuple, _plain_sequence),
    (AbstractSet, _plain_set),
    (np.ndarray, _plain_array),
)

# Found once per class, since every tick asks for it; bounded by the classes of the program.
_found_writers: dict[type[Any], Callable[[Any], Plain]] = {}
