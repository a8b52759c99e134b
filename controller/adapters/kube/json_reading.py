"""What does a piece of JSON from an API server hold, if it is what it ought to be? Never raises, whatever it is.

What is missing and what is of another type are the same here: custom resources may lack a schema, and whatever stands
between us and the server may change what it says.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from sys import intern
from typing import Any

MOST = 2**31 - 1
"""Counts of Kubernetes are 32-bit."""

LONGEST_WORD = 253
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Refused:
    """An object that is not used: which one, as far as it says, and why."""

    subject: str
    why: str

    def __str__(self) -> str:
        return f"{self.subject}: {self.why}"


def under(value: object, *path: str) -> Any:
    """Return what stands at ``path``; None where there is nothing."""
    for key in path:
        if not isinstance(value, dict):
            return None
        value = value.get(key)
    return value


def text(value: object, *path: str) -> str:
    """Return the text at ``path``; empty where there is none."""
    found = under(value, *path)
    return found if isinstance(found, str) else ""


def word(value: object, *path: str) -> str:
    """Return a short text at ``path`` that is kept and compared often: one object however often it comes."""
    return intern(text(value, *path)[:LONGEST_WORD])


def count(value: object, *path: str) -> int | None:
    """Return the number at ``path`` if it counts something."""
    found = under(value, *path)
    return found if type(found) is int and 0 <= found <= MOST else None


def flag(value: object, *path: str) -> bool:
    """Return whether ``path`` says true."""
    return under(value, *path) is True


def entries(value: object, *path: str) -> list[dict[str, Any]]:
    """Return the objects of the list at ``path``."""
    found = under(value, *path)
    return [entry for entry in found if isinstance(entry, dict)] if isinstance(found, list) else []


def words(value: object, *path: str) -> Mapping[str, str]:
    """Return the names and texts at ``path``, such as labels."""
    found = under(value, *path)
    if not isinstance(found, dict):
        return {}
    return {intern(key): intern(told) for key, told in found.items() if type(key) is type(told) is str}


def instant(value: object, *path: str) -> float:
    """Return the time at ``path`` in seconds since the epoch; NaN where there is none.

    >>> instant({"startTime": "1970-01-01T00:01:00Z"}, "startTime")
    60.0
    """
    try:
        told = datetime.fromisoformat(text(value, *path))
        at = math.nan if told.tzinfo is None else (told - _EPOCH).total_seconds()
    except (ValueError, OverflowError):
        return math.nan
    return at if at > 0 else math.nan  # a time that was never set is that of the year 1


def subject(value: object, kind: str) -> str:
    """Return what an object calls itself."""
    return f"{kind} {word(value, 'metadata', 'namespace')}/{word(value, 'metadata', 'name')}"
