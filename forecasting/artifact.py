"""How is a fitted net kept and trusted: a folder of safetensors weights and a JSON manifest with their digest.

::

    FOLDER/manifest.json         what the net is, what it was fitted on, SHA-256 of the weights and of itself
    FOLDER/weights.safetensors   numbers only; nothing in the folder can name code to run

A folder that differs in anything from what was written (an extra file, a link, a key, a shape, a bit) is refused.
The digests find damage and mix-ups; who may write to the registry is the registry's business.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import shutil
import stat
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from forecasting.features import NetSpec

if TYPE_CHECKING:
    from torch import Tensor

    from forecasting.neural import NeuralForecaster

FORMAT_VERSION: Literal[2] = 2
MANIFEST_NAME, WEIGHTS_NAME = "manifest.json", "weights.safetensors"
MANIFEST_BYTES, WEIGHTS_BYTES = 1 << 20, 64 << 20
_SHA256 = r"^[0-9a-f]{64}$"


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


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class ResidualTable(_Strict):
    """Quantiles of ``log((actual + offset) / (point + offset))`` on validation windows, for a net without its own.

    Rows follow ``lead_steps``, columns ``levels``.
    """

    lead_steps: tuple[int, ...] = Field(min_length=1, max_length=4096, description="Leads in steps, ascending from 1.")
    levels: tuple[float, ...] = Field(min_length=1, max_length=32, description="Quantile levels, ascending.")
    values: tuple[tuple[float, ...], ...] = Field(description="Residual quantiles of the rate at each lead.")
    peaks: tuple[tuple[float, ...], ...] = Field(
        description="Residual quantiles of the running maximum against the running maximum of the point path."
    )

    @model_validator(mode="after")
    def _rectangular(self) -> Self:
        for name, table in (("values", self.values), ("peaks", self.peaks)):
            if len(table) != len(self.lead_steps) or any(len(row) != len(self.levels) for row in table):
                raise ValueError(f"{name} must have {len(self.lead_steps)} rows of {len(self.levels)}")
        for name, axis in (("lead_steps", self.lead_steps), ("levels", self.levels)):
            if any(b <= a for a, b in itertools.pairwise(axis)):
                raise ValueError(f"{name} must ascend, got {axis}")
        if self.lead_steps[0] != 1:
            raise ValueError(f"lead_steps must start at 1, got {self.lead_steps}")
        return self


class TrainingFacts(_Strict):
    """Where the weights come from, so that a forecast can be traced back to its data and code."""

    data_digest: str = Field(max_length=128, description="Digest of the training series.")
    code_revision: str = Field(max_length=128, description="Revision of the code that trained it.")
    trained_at: float = Field(description="Instant of training, Unix seconds, given by the caller.")
    fitted_until: float | None = Field(
        None,
        allow_inf_nan=False,
        description="End of the load that it learned from, Unix seconds: what it says of earlier load is no forecast.",
    )
    seed: int = Field(description="Seed of the first weights and of the order of examples.")
    fine_tuned_from: str = Field(
        "", max_length=128, description="Name and version of the net that it started from, empty for drawn weights."
    )
    validation: dict[str, float] = Field(
        default_factory=dict, max_length=256, description="Metric name to its value on the validation part."
    )


class ModelCard(_Strict):
    """What the trainer knows of a net besides its weights."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$", description="Model name, used in reasons.")
    spec: NetSpec = Field(description="Architecture and features.")
    training: TrainingFacts = Field(description="Provenance.")
    residuals: ResidualTable | None = Field(
        None, description="Needed by a reference_lstm, which answers a mean only; refused for a quantile_lstm."
    )

    @model_validator(mode="after")
    def _residuals_fit(self) -> Self:
        if (self.spec.kind == "reference_lstm") != (self.residuals is not None):
            raise ValueError("residuals belong to a reference_lstm, and it cannot do without them")
        if self.residuals is not None and self.residuals.lead_steps[-1] != self.spec.lead_steps[-1]:
            raise ValueError(f"residuals must reach lead {self.spec.lead_steps[-1]}, as the net does")
        return self


class TensorRecord(_Strict):
    """Shape and type of one weight tensor."""

    shape: tuple[int, ...] = Field(max_length=4, description="Length of each axis.")
    dtype: Literal["F32"] = Field(description="Safetensors name of the number type.")


class ArtifactManifest(_Strict):
    """All of an artifact but its weights."""

    format_version: Literal[2] = Field(description="Version of this format; another one is refused.")
    card: ModelCard = Field(description="What the trainer said.")
    input_shapes: dict[str, tuple[int, ...]] = Field(max_length=8, description="Inputs per window, without batch.")
    output_shapes: dict[str, tuple[int, ...]] = Field(max_length=8, description="Outputs per window, without batch.")
    tensors: dict[str, TensorRecord] = Field(max_length=256, description="Every weight tensor.")
    weights_sha256: str = Field(pattern=_SHA256, description="SHA-256 of weights.safetensors.")
    weights_bytes: int = Field(gt=0, le=WEIGHTS_BYTES, description="Size of weights.safetensors in bytes.")
    digest: str = Field(pattern=_SHA256, description="SHA-256 of this manifest as canonical JSON without this field.")

    @property
    def version(self) -> str:
        """First eight digits of the manifest's digest: short enough for a reason, different for any other net."""
        return self.digest[:8]


def write_artifact(
    folder: Path, weights: Mapping[str, npt.NDArray[np.float32] | Tensor], card: ModelCard
) -> ArtifactManifest:
    """Write ``folder`` whole or not at all: files go to a neighbour folder that is renamed at the end.

    Args:
        folder: Where to; must not exist, its parent must.
        weights: ``net.state_dict()`` or arrays of the same names, float32.
        card: What the net is and where it comes from.

    Raises:
        ArtifactRefused: If the folder exists, or the weights are not those of ``card.spec`` or not finite.
    """
    import safetensors.numpy  # kept out of the start-up of every command

    if os.path.lexists(folder):
        raise ArtifactRefused("already exists", str(folder), "artifacts are never overwritten: choose a new folder")
    arrays = {name: _float32_array(name, value, str(folder)) for name, value in weights.items()}
    _check_tensors(arrays, card.spec, str(folder))
    payload = safetensors.numpy.save(arrays)
    draft: dict[str, Any] = {
        "format_version": FORMAT_VERSION,
        "card": card.model_dump(mode="json"),
        "input_shapes": _input_shapes(card.spec),
        "output_shapes": _output_shapes(card.spec),
        "tensors": {name: {"shape": list(array.shape), "dtype": "F32"} for name, array in sorted(arrays.items())},
        "weights_sha256": hashlib.sha256(payload).hexdigest(),
        "weights_bytes": len(payload),
    }
    draft["digest"] = manifest_digest(draft)
    manifest = ArtifactManifest.model_validate(draft)
    text = json.dumps(draft, indent=1, sort_keys=True, allow_nan=False) + "\n"
    if len(text.encode()) > MANIFEST_BYTES:
        raise ArtifactRefused("the manifest is too large", str(folder), f"keep it under {MANIFEST_BYTES} bytes")

    staging = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        (staging / WEIGHTS_NAME).write_bytes(payload)
        (staging / MANIFEST_NAME).write_text(text, encoding="utf-8")
        staging.chmod(0o755)
        staging.rename(folder)
    except OSError:
        shutil.rmtree(staging, ignore_errors=True)
        raise
    return manifest


def read_artifact(folder: Path) -> tuple[ArtifactManifest, dict[str, npt.NDArray[np.float32]]]:
    """Read and check an artifact; each file is read once, and what was checked is what is returned.

    Raises:
        ArtifactRefused: If anything differs from what ``write_artifact`` leaves.
    """
    _check_listing(folder)
    manifest_bytes = _read_bounded(folder / MANIFEST_NAME, MANIFEST_BYTES)
    manifest = _parse_manifest(manifest_bytes, folder / MANIFEST_NAME)
    payload = _read_bounded(folder / WEIGHTS_NAME, WEIGHTS_BYTES)
    where = str(folder / WEIGHTS_NAME)
    if len(payload) != manifest.weights_bytes or hashlib.sha256(payload).hexdigest() != manifest.weights_sha256:
        raise ArtifactRefused("the weights are not those of the manifest (SHA-256 differs)", where, _RELOAD)
    arrays = _parse_weights(payload, where)
    records = {name: TensorRecord(shape=array.shape, dtype="F32") for name, array in arrays.items()}
    if records != manifest.tensors:
        raise ArtifactRefused("tensors differ from those the manifest lists", where, _RELOAD)
    _check_tensors(arrays, manifest.card.spec, where)
    return manifest, arrays


def load_artifact(folder: Path) -> NeuralForecaster:
    """Return the forecaster kept in ``folder``; imports torch.

    Raises:
        ArtifactRefused: If anything differs from what ``write_artifact`` leaves.
    """
    import torch  # 2 s, and only needed with a net

    from forecasting.neural import NeuralForecaster
    from forecasting.quantile_net import build_net

    manifest, arrays = read_artifact(folder)
    net = build_net(manifest.card.spec)
    net.load_state_dict({name: torch.from_numpy(array.copy()) for name, array in arrays.items()}, strict=True)
    return NeuralForecaster(net, manifest)


def manifest_digest(draft: Mapping[str, Any]) -> str:
    """Return the SHA-256 of a manifest as JSON with sorted keys, without its ``digest``."""
    content = {key: value for key, value in draft.items() if key != "digest"}
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


_RELOAD = "fetch the artifact again, or train the model anew"


def _check_listing(folder: Path) -> None:
    try:
        kind = folder.lstat().st_mode
        names = sorted(entry.name for entry in os.scandir(folder)) if stat.S_ISDIR(kind) else None
    except OSError as reason:
        raise ArtifactRefused(reason.strerror or "cannot be read", str(folder), "check the path") from reason
    if names is None:
        raise ArtifactRefused("is not a folder", str(folder), "give the folder that holds manifest.json")
    if names != [MANIFEST_NAME, WEIGHTS_NAME]:
        raise ArtifactRefused(
            f"holds {names[:8]} instead of {MANIFEST_NAME} and {WEIGHTS_NAME} alone", str(folder), _RELOAD
        )


def _read_bounded(path: Path, limit: int) -> bytes:
    """Return the bytes of a regular file of at most ``limit`` bytes; a link, a pipe or a larger file is refused."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as reason:
        raise ArtifactRefused(
            f"cannot be opened as a plain file ({reason.strerror})", str(path), "artifacts hold no links"
        ) from reason
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise ArtifactRefused("is not a plain file", str(path), _RELOAD)
    with os.fdopen(descriptor, "rb") as stream:
        content = stream.read(limit + 1)
    if len(content) > limit:
        raise ArtifactRefused(f"is larger than {limit} bytes", str(path), "no net of Foresail is that large")
    return content


def _parse_manifest(content: bytes, path: Path) -> ArtifactManifest:
    where = str(path)
    try:
        draft = json.loads(content, object_pairs_hook=_distinct_keys, parse_constant=_no_constant)
    except (ValueError, RecursionError) as reason:
        raise ArtifactRefused(f"is not a manifest: {reason}", where, _RELOAD) from reason
    version = draft.get("format_version") if isinstance(draft, dict) else None
    if version != FORMAT_VERSION:
        raise ArtifactRefused(
            f"format version {version!r} is not {FORMAT_VERSION}", where, "load it with the version it is from"
        )
    try:
        manifest = ArtifactManifest.model_validate(draft)
        digest = manifest_digest(draft)
    except ValueError as reason:
        raise ArtifactRefused(f"is not a manifest: {_first_line(reason)}", where, _RELOAD) from reason
    if digest != manifest.digest:
        raise ArtifactRefused("was changed after it was written (its digest differs)", where, _RELOAD)
    spec = manifest.card.spec
    for claimed, expected in (
        (manifest.input_shapes, _input_shapes(spec)),
        (manifest.output_shapes, _output_shapes(spec)),
    ):
        if claimed != expected:
            raise ArtifactRefused(f"shapes {claimed} are not those of its net, {expected}", where, _RELOAD)
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


def _parse_weights(payload: bytes, where: str) -> dict[str, npt.NDArray[np.float32]]:
    import safetensors
    import safetensors.numpy

    try:
        arrays = safetensors.numpy.load(payload)
    except (safetensors.SafetensorError, KeyError, ValueError, TypeError) as reason:
        raise ArtifactRefused(f"is not safetensors ({reason})", where, _RELOAD) from reason
    return {name: _float32_array(name, array, where) for name, array in arrays.items()}


def _float32_array(name: str, value: npt.NDArray[np.float32] | Tensor, where: str) -> npt.NDArray[np.float32]:
    array = value if isinstance(value, np.ndarray) else value.detach().cpu().numpy()
    if array.dtype != np.float32:
        raise ArtifactRefused(f"tensor {name} is {array.dtype}, not float32", where, "train it in float32")
    return np.ascontiguousarray(array)


def _check_tensors(arrays: Mapping[str, npt.NDArray[np.float32]], spec: NetSpec, where: str) -> None:
    """Refuse weights that are not exactly those of the net of ``spec``, or not finite."""
    expected = expected_shapes(spec)
    if missing := sorted(expected.keys() - arrays.keys()):
        raise ArtifactRefused(f"lacks tensors {missing[:8]}", where, _RELOAD)
    if extra := sorted(arrays.keys() - expected.keys()):
        raise ArtifactRefused(f"holds unknown tensors {extra[:8]}", where, _RELOAD)
    for name, shape in expected.items():
        if arrays[name].shape != shape:
            raise ArtifactRefused(f"tensor {name} has shape {arrays[name].shape}, not {shape}", where, _RELOAD)
        if not np.isfinite(arrays[name]).all():
            raise ArtifactRefused(f"tensor {name} holds a number that is not finite", where, "train the model anew")


def expected_shapes(spec: NetSpec) -> dict[str, tuple[int, ...]]:
    """Return name and shape of every weight of the net of ``spec``; imports torch, allocates nothing."""
    import torch

    from forecasting.quantile_net import build_net

    with torch.device("meta"):
        net = build_net(spec)
    return {name: tuple(tensor.shape) for name, tensor in net.state_dict().items()}


def _input_shapes(spec: NetSpec) -> dict[str, tuple[int, ...]]:
    return {"context": (spec.context_steps, spec.context_features), "static": (spec.static_features,)}


def _output_shapes(spec: NetSpec) -> dict[str, tuple[int, ...]]:
    answer = (1, 1) if spec.kind == "reference_lstm" else (len(spec.lead_steps), len(spec.levels))
    return {"values": answer, "peaks": answer}
