"""How are fitted trees kept and trusted? A folder of safetensors arrays and a JSON manifest with their digest.

::

    FOLDER/manifest.json        what the trees are, what they were fitted on, SHA-256 of the arrays and of itself
    FOLDER/trees.safetensors    numbers only; nothing in the folder can name code to run

As with nets, a folder that differs in anything from what was written is refused.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field

from forecasting.artifact import TrainingFacts
from forecasting.artifact_files import (
    MANIFEST_BYTES,
    MANIFEST_NAME,
    RELOAD,
    ArtifactRefused,
    check_listing,
    manifest_digest,
    parse_manifest,
    read_bounded,
    write_folder,
)
from forecasting.tree_features import TreeSpec
from forecasting.trees import TreeForecaster, Trees

FORMAT: Literal["foresail-trees"] = "foresail-trees"
FORMAT_VERSION: Literal[1] = 1
ARRAYS_NAME = "trees.safetensors"
ARRAYS_BYTES = 64 << 20
MAX_TREES, MAX_DEPTH = 2000, 10
_SHA256 = r"^[0-9a-f]{64}$"
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
    write_folder(folder, draft, ARRAYS_NAME, payload)
    return manifest


def load_trees(folder: Path) -> TreeForecaster:
    """Return the forecaster kept in ``folder``; each file is read once, and what was checked is what is used.

    Raises:
        ArtifactRefused: If anything differs from what ``write_trees`` leaves.
    """
    import safetensors
    import safetensors.numpy

    check_listing(folder, ARRAYS_NAME)
    where = str(folder / ARRAYS_NAME)
    written = read_bounded(folder / MANIFEST_NAME, MANIFEST_BYTES)
    kind = {"format": FORMAT, "format_version": FORMAT_VERSION}
    manifest = parse_manifest(written, str(folder / MANIFEST_NAME), TreeManifest, kind)
    payload = read_bounded(folder / ARRAYS_NAME, ARRAYS_BYTES)
    if len(payload) != manifest.arrays_bytes or hashlib.sha256(payload).hexdigest() != manifest.arrays_sha256:
        raise ArtifactRefused("the arrays are not those of the manifest (SHA-256 differs)", where, RELOAD)
    try:
        arrays = safetensors.numpy.load(payload)
    except (safetensors.SafetensorError, KeyError, ValueError, TypeError) as reason:
        raise ArtifactRefused(f"is not safetensors ({reason})", where, RELOAD) from reason
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
        raise ArtifactRefused(f"holds arrays {sorted(arrays)[:8]}, not {sorted(shapes)}", where, RELOAD)
    for name, shape in shapes.items():
        array = arrays[name]
        if array.shape != shape or array.dtype != _TYPES[name]:
            raise ArtifactRefused(
                f"array {name} is {array.dtype}{array.shape}, not {np.dtype(_TYPES[name])}{shape}", where, RELOAD
            )
    if not (np.isfinite(arrays["first"]).all() and np.isfinite(arrays["leaf"]).all()):
        raise ArtifactRefused("an answer is not finite", where, "fit the trees anew")
    if np.isnan(arrays["threshold"]).any():
        raise ArtifactRefused("a threshold is not a number", where, "fit the trees anew")
    feature = arrays["feature"]
    if feature.min() < 0 or feature.max() >= card.spec.features:
        raise ArtifactRefused(f"a question is about an input beyond the {card.spec.features}", where, RELOAD)
