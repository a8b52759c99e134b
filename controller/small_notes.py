"""How is a little kept on disk for the next start: written whole or not at all, read with suspicion."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any

MOST_BYTES = 16_384


def write_note(place: Path, value: object) -> None:
    """Write ``value`` as JSON.

    Raises:
        OSError: If it cannot be written; then what was there stays.
    """
    place.parent.mkdir(parents=True, exist_ok=True)
    descriptor, draft = tempfile.mkstemp(dir=place.parent, prefix=f".{place.name}-")
    try:
        with os.fdopen(descriptor, "w") as file:
            json.dump(value, file, allow_nan=False)
        Path(draft).replace(place)
    except OSError:
        Path(draft).unlink(missing_ok=True)
        raise


def read_note(place: Path) -> dict[str, Any]:
    """Return the object that was written; an empty one where there is none, or none that can be read."""
    try:
        with place.open() as file:
            text = file.read(MOST_BYTES + 1)
        found = json.loads(text) if len(text) <= MOST_BYTES else {}
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
