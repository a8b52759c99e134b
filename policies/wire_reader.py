"""What value was it, before it became canonical JSON? The way back from ``wire``, for replays of what is recorded."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from functools import cache
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

import numpy as np

from policies.fleet import PoolKey
from policies.wire import TYPE_KEY

_V = TypeVar("_V")


def read_back(kind: type[_V], written: object) -> _V:
    """Return the ``kind`` whose canonical JSON, parsed, is ``written``.

    A ``null`` is NaN where a number is expected and None where that may be; a field that was not written has its
    default. Whole numbers come back as the floats they were.

    Raises:
        ValueError: If ``written`` is no such value.
    """
    try:
        return cast("_V", _read(kind, written))
    except (TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"no {kind.__name__} was written there: {error}") from error


def _read(kind: Any, written: Any) -> Any:
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        return None if written is None else _read(_member(arguments, written), written)
    if origin is Literal:
        return arguments[arguments.index(written)]
    if origin is tuple:
        each = (arguments[0],) * len(written) if arguments[-1] is Ellipsis else arguments
        return tuple(_read(one, item) for one, item in zip(each, written, strict=True))
    if origin is np.ndarray:
        return np.array(written, dtype=np.float64)
    if origin is not None and issubclass(origin, Mapping):
        return {_read(arguments[0], key): _read(arguments[1], item) for key, item in written.items()}
    return _read_plain(kind, written)


def _member(arguments: tuple[Any, ...], written: Any) -> Any:
    """Return which member of a union was written: the class that it names, text, or the only one that can be."""
    members = [a for a in arguments if a is not NoneType]
    if len(members) == 1:
        return members[0]
    if str in members and isinstance(written, str):
        return str
    return {member.__name__: member for member in members}[written[TYPE_KEY]]


def _read_plain(kind: type[Any], written: Any) -> Any:
    if kind is float:
        return math.nan if written is None else float(written)
    if kind is PoolKey:
        return PoolKey.parse(written)
    if is_dataclass(kind):
        return kind(**{name: _read(hint, written[name]) for name, hint in _hints(kind).items() if name in written})
    if issubclass(kind, Enum):
        return kind(written)
    if type(written) is not kind:
        raise TypeError(f"expected {kind.__name__}, got {written!r}")
    return written


@cache
def _hints(kind: type[Any]) -> dict[str, Any]:
    """Return the types of a dataclass's fields; bounded by the classes of the program."""
    hints = get_type_hints(kind)
    return {field.name: hints[field.name] for field in fields(kind)}
