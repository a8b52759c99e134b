"""How is an instant written for people?"""

from __future__ import annotations

from datetime import UTC, datetime


def instant(at: float) -> str:
    """Return an instant as ISO 8601 in UTC, or as plain seconds where no calendar holds it.

    >>> instant(1_800_000_000.0)
    '2027-01-15 08:00:00Z'
    """
    try:
        return datetime.fromtimestamp(at, UTC).isoformat(" ", "seconds").replace("+00:00", "Z")
    except (OverflowError, ValueError, OSError):
        return f"{at:g} s"
