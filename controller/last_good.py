"""Which champion forecast last? Its folder, remembered beside the copies of models, for when the registry is away."""

from __future__ import annotations

import json
import os
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

MOST_BYTES = 4096


@dataclass(frozen=True, slots=True)
class LastGood:
    """The model that was loaded last: its version, the folder of the local copy, and the digest of its manifest."""

    version: str
    folder: str
    digest: str


def remember(cache: Path, name: str, model: LastGood) -> None:
    """Write it down, whole or not at all; a cache that cannot be written costs no more than the memory.

    Raises:
        OSError: If it cannot be written.
    """
    descriptor, draft = tempfile.mkstemp(dir=cache, prefix=".last-good-")
    with os.fdopen(descriptor, "w") as file:
        json.dump(asdict(model), file)
    Path(draft).replace(_place(cache, name))


def forget(cache: Path, name: str) -> None:
    """Let nobody recall what was written down: it was rolled back, and nothing has come in its place.

    Raises:
        OSError: If it cannot be deleted.
    """
    _place(cache, name).unlink(missing_ok=True)


def recall(cache: Path, name: str) -> LastGood | None:
    """Return what was written down; None where that is nothing, or nothing that can be read.

    The folder is one of ``cache``, whatever the file says.
    """
    try:
        text = _place(cache, name).read_text()
        found = json.loads(text) if len(text) <= MOST_BYTES else {}
        model = LastGood(**{key: str(found[key]) for key in ("version", "folder", "digest")})
    except (OSError, ValueError, TypeError, KeyError):
        return None
    return model if Path(model.folder).name == model.folder else None


def _place(cache: Path, name: str) -> Path:
    return cache / f"{name}.last-good.json"
