"""How does a folder of a manifest and a file of numbers come onto the disk and back, with anything else refused?

Nothing here knows what the numbers are: nets (``artifact``) and trees (``tree_artifact``) are kept in the same way.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

MANIFEST_NAME = "manifest.json"
MANIFEST_BYTES = 1 << 20
RELOAD = "fetch the artifact again, or train the model anew"

_M = TypeVar("_M", bound=BaseModel)


class ArtifactRefused(ValueError):
    """An artifact is damaged, foreign or not what it claims.

    Args:
        what: What is wrong, with the value that is.
        where: The file or folder.
        remedy: What to do about it.
    """

    def __init__(self, what: str, where: str, remedy: str) -> None:
        self.what, self.where, self.remedy = what, where, remedy
        super().__init__(f"{where}: {what}\n  -> {remedy}")


def manifest_digest(draft: Mapping[str, Any]) -> str:
    """Return the SHA-256 of a manifest as JSON with sorted keys, without its ``digest``."""
    content = {key: value for key, value in draft.items() if key != "digest"}
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def write_folder(folder: Path, draft: Mapping[str, Any], payload_name: str, payload: bytes) -> None:
    """Write the manifest ``draft`` and the payload to ``folder``, whole or not at all.

    Raises:
        ArtifactRefused: If the manifest is larger than a reader takes.
        OSError: If it cannot be written.
    """
    text = json.dumps(draft, indent=1, sort_keys=True, allow_nan=False) + "\n"
    if len(text.encode()) > MANIFEST_BYTES:
        raise ArtifactRefused("the manifest is too large", str(folder), f"keep it under {MANIFEST_BYTES} bytes")
    staging = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        (staging / payload_name).write_bytes(payload)
        (staging / MANIFEST_NAME).write_text(text, encoding="utf-8")
        staging.chmod(0o755)
        staging.rename(folder)
    except OSError:
        shutil.rmtree(staging, ignore_errors=True)
        raise


def check_listing(folder: Path, payload_name: str) -> None:
    """Refuse a folder that is none, or holds anything but the manifest and the payload."""
    try:
        kind = folder.lstat().st_mode
        names = sorted(entry.name for entry in os.scandir(folder)) if stat.S_ISDIR(kind) else None
    except OSError as reason:
        raise ArtifactRefused(reason.strerror or "cannot be read", str(folder), "check the path") from reason
    if names is None:
        raise ArtifactRefused("is not a folder", str(folder), "give the folder that holds manifest.json")
    if names != [MANIFEST_NAME, payload_name]:
        raise ArtifactRefused(
            f"holds {names[:8]} instead of {MANIFEST_NAME} and {payload_name} alone", str(folder), RELOAD
        )


def read_bounded(path: Path, limit: int) -> bytes:
    """Return the bytes of a regular file of at most ``limit`` bytes; a link, a pipe or a larger file is refused."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as reason:
        raise ArtifactRefused(
            f"cannot be opened as a plain file ({reason.strerror})", str(path), "artifacts hold no links"
        ) from reason
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise ArtifactRefused("is not a plain file", str(path), RELOAD)
    with os.fdopen(descriptor, "rb") as stream:
        content = stream.read(limit + 1)
    if len(content) > limit:
        raise ArtifactRefused(f"is larger than {limit} bytes", str(path), "no model of Foresail is that large")
    return content


def parse_manifest(content: bytes, where: str, kind: type[_M], version: Mapping[str, object]) -> _M:
    """Return the manifest, after its format, its fields and its digest were checked.

    Args:
        content: What the file holds.
        where: Its name, for refusals.
        kind: Model of the manifest; has a ``digest``.
        version: Fields that name the format, and what they must be.
    """
    try:
        draft = json.loads(content, object_pairs_hook=_distinct_keys, parse_constant=_no_constant)
    except (ValueError, RecursionError) as reason:
        raise ArtifactRefused(f"is not a manifest: {reason}", where, RELOAD) from reason
    for key, wanted in version.items():
        found = draft.get(key) if isinstance(draft, dict) else None
        if found != wanted:
            what = f"{key.replace('_', ' ')} {found!r} is not {wanted}"
            raise ArtifactRefused(what, where, "load it with the version it is from")
    try:
        manifest = kind.model_validate(draft)
        digest = manifest_digest(draft)
    except ValueError as reason:
        raise ArtifactRefused(f"is not a manifest: {_first_line(reason)}", where, RELOAD) from reason
    if digest != draft["digest"]:
        raise ArtifactRefused("was changed after it was written (its digest differs)", where, RELOAD)
    return manifest


def _distinct_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    keys = [key for key, _ in pairs]
    if len(set(keys)) != len(keys):
        raise ValueError(f"a key appears twice among {keys[:8]}")
    return dict(pairs)


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not a number")


def _first_line(reason: Exception) -> str:
    if isinstance(reason, ValidationError):
        first = reason.errors(include_url=False, include_input=False)[0]
        return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
    return str(reason)
