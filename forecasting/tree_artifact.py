"""How are fitted trees kept and trusted? A folder of safetensors arrays and a JSON manifest with their digest.

::

    FOLDER/manifest.json        what the trees are, what they were fitted on, SHA-256 of the arrays and of itself
    FOLDER/trees.safetensors    numbers only; nothing in the folder can name code to run

As with nets, a folder that differs in anything from what was written is refused.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
import tempfile
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from forecasting.artifact import MANIFEST_BYTES, MANIFEST_NAME, ArtifactRefused, TrainingFacts, manifest_digest
from forecasting.tree_features import TreeSpec
from forecasting.trees import TreeForecaster, Trees

FORMAT: Literal["foresail-trees"] = "foresail-trees"
FORMAT_VERSION: Literal[1] = 1
ARRAYS_NAME = "trees.safetensors"
ARRAYS_BYTES = 64 << 20
MAX_TREES, MAX_DEPTH = 2000, 10
_SHA256 = r"^[0-9a-f]{64}$"
_RELOAD = "fetch the artifact again, or fit the trees anew"
_TYPES = {"first": np.float32, "feature": np.int32, "threshold": np.float32, "leaf": np.float32}


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class TreeCard(_Strict):
    """What was fitted and on what."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$", description="Model name, used in reasons.")
    spec: TreeSpec = Field(description="Step, leads and levels.")
    trees: int = Field(ge=1, le=MAX_TREES, description="Trees per lead.")
    depth: int = Field(ge=1, le=MAX_DEPTH, description="Questions of a tree.")
    fitted_until: float = Field(description="End of the load they were fitted on, Unix seconds.")
    training: TrainingFacts = Field(description="Provenance.")


class TreeManifest(_Strict):
    """All of an artifact but its arrays."""

    format: Literal["foresail-trees"] = Field(description="What kind of artifact this is.")
    format_version: Literal[1] = Field(description="Version of this format; another one is refused.")
    card: TreeCard = Field(description="What the trainer said.")
    arrays_sha256: str = Field(pattern=_SHA256, description="SHA-256 of trees.safetensors.")
    arrays_bytes: int = Field(gt=0, le=ARRAYS_BYTES, description="Size of trees.safetensors in bytes.")
    digest: str = Field(pattern=_SHA256, description="SHA-256 of this manifest as canonical JSON without this field.")

    @property
    def version(self) -> str:
        """First eight digits of the digest."""
        return self.digest[:8]


def write_trees(folder: Path, trees: Trees, card: TreeCard) -> TreeManifest:
    """Write ``folder`` whole or not at all.

    Raises:
        ArtifactRefused: If the folder exists or the arrays are not those of ``card``.
    """
    import safetensors.numpy  # kept out of the start-up of every command

    if os.path.lexists(folder):
        raise ArtifactRefused("already exists", str(folder), "artifacts are never overwritten: choose a new folder")
    arrays = {name: np.ascontiguousarray(getattr(trees, name)) for name in _TYPES}
    _check_arrays(arrays, card, str(folder))
    payload = safetensors.numpy.save(arrays)
    draft: dict[str, Any] = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "card": card.model_dump(mode="json"),
        "arrays_sha256": hashlib.sha256(payload).hexdigest(),
        "arrays_bytes": len(payload),
    }
    draft["digest"] = manifest_digest(draft)
    manifest = TreeManifest.model_validate(draft)
    staging = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        (staging / ARRAYS_NAME).write_bytes(payload)
        (staging / MANIFEST_NAME).write_text(json.dumps(draft, indent=1, sort_keys=True, allow_nan=False) + "\n")
        staging.chmod(0o755)
        staging.rename(folder)
    except OSError:
        shutil.rmtree(staging, ignore_errors=True)
        raise
    return manifest


def load_trees(folder: Path) -> TreeForecaster:
    """Return the forecaster kept in ``folder``; each file is read once, and what was checked is what is used.

    Raises:
        ArtifactRefused: If anything differs from what ``write_trees`` leaves.
    """
    import safetensors
    import safetensors.numpy

    _check_listing(folder)
    where = str(folder / ARRAYS_NAME)
    manifest = _parsed(_bytes_of(folder / MANIFEST_NAME, MANIFEST_BYTES), str(folder / MANIFEST_NAME))
    payload = _bytes_of(folder / ARRAYS_NAME, ARRAYS_BYTES)
    if len(payload) != manifest.arrays_bytes or hashlib.sha256(payload).hexdigest() != manifest.arrays_sha256:
        raise ArtifactRefused("the arrays are not those of the manifest (SHA-256 differs)", where, _RELOAD)
    try:
        arrays = safetensors.numpy.load(payload)
    except (safetensors.SafetensorError, KeyError, ValueError, TypeError) as reason:
        raise ArtifactRefused(f"is not safetensors ({reason})", where, _RELOAD) from reason
    _check_arrays(arrays, manifest.card, where)
    card = manifest.card
    trees = Trees(arrays["first"], arrays["feature"], arrays["threshold"], arrays["leaf"])
    return TreeForecaster(trees, card.spec, f"{card.name}@{manifest.version}", card.fitted_until)


def _check_arrays(arrays: dict[str, npt.NDArray[Any]], card: TreeCard, where: str) -> None:
    leads, outputs = len(card.spec.lead_steps), 2 * len(card.spec.levels)
    shapes = {
        "first": (leads, outputs),
        "feature": (leads, card.trees, card.depth),
        "threshold": (leads, card.trees, card.depth),
        "leaf": (leads, card.trees, 1 << card.depth, outputs),
    }
    if arrays.keys() != shapes.keys():
        raise ArtifactRefused(f"holds arrays {sorted(arrays)[:8]}, not {sorted(shapes)}", where, _RELOAD)
    for name, shape in shapes.items():
        array = arrays[name]
        if array.shape != shape or array.dtype != _TYPES[name]:
            raise ArtifactRefused(
                f"array {name} is {array.dtype}{array.shape}, not {np.dtype(_TYPES[name])}{shape}", where, _RELOAD
            )
    if not (np.isfinite(arrays["first"]).all() and np.isfinite(arrays["leaf"]).all()):
        raise ArtifactRefused("an answer is not finite", where, "fit the trees anew")
    if np.isnan(arrays["threshold"]).any():
        raise ArtifactRefused("a threshold is not a number", where, "fit the trees anew")
    feature = arrays["feature"]
    if feature.min() < 0 or feature.max() >= card.spec.features:
        raise ArtifactRefused(f"a question is about an input beyond the {card.spec.features}", where, _RELOAD)


def _check_listing(folder: Path) -> None:
    try:
        names = sorted(path.name for path in folder.iterdir()) if stat.S_ISDIR(folder.lstat().st_mode) else None
    except OSError as reason:
        raise ArtifactRefused(reason.strerror or "cannot be read", str(folder), "check the path") from reason
    if names != [MANIFEST_NAME, ARRAYS_NAME]:
        what = "is not a folder" if names is None else f"holds {names[:8]}"
        raise ArtifactRefused(f"{what} instead of {MANIFEST_NAME} and {ARRAYS_NAME} alone", str(folder), _RELOAD)


def _bytes_of(path: Path, limit: int) -> bytes:
    """Return the bytes of a regular file of at most ``limit`` bytes; a link, a pipe or a larger file is refused."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as reason:
        raise ArtifactRefused(f"cannot be opened as a plain file ({reason.strerror})", str(path), _RELOAD) from reason
    with os.fdopen(descriptor, "rb", closefd=True) as stream:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise ArtifactRefused("is not a plain file", str(path), _RELOAD)
        content = stream.read(limit + 1)
    if len(content) > limit:
        raise ArtifactRefused(f"is larger than {limit} bytes", str(path), "no trees of Foresail are that large")
    return content


def _parsed(content: bytes, where: str) -> TreeManifest:
    try:
        draft = json.loads(content, object_pairs_hook=_distinct_keys, parse_constant=_no_constant)
    except (ValueError, RecursionError) as reason:
        raise ArtifactRefused(f"is not a manifest: {reason}", where, _RELOAD) from reason
    version = (draft.get("format"), draft.get("format_version")) if isinstance(draft, dict) else None
    if version != (FORMAT, FORMAT_VERSION):
        remedy = "load it with the version it is from"
        raise ArtifactRefused(f"format {version} is not {(FORMAT, FORMAT_VERSION)}", where, remedy)
    try:
        manifest = TreeManifest.model_validate(draft)
        digest = manifest_digest(draft)
    except ValidationError as reason:
        first = reason.errors(include_url=False, include_input=False)[0]
        what = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
        raise ArtifactRefused(f"is not a manifest: {what}", where, _RELOAD) from reason
    except ValueError as reason:
        raise ArtifactRefused(f"is not a manifest: {reason}", where, _RELOAD) from reason
    if digest != manifest.digest:
        raise ArtifactRefused("was changed after it was written (its digest differs)", where, _RELOAD)
    return manifest


def _distinct_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    keys = [key for key, _ in pairs]
    if len(set(keys)) != len(keys):
        raise ValueError(f"a key appears twice among {keys[:8]}")
    return dict(pairs)


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not a number")
