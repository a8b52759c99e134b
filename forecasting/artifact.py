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
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, model_validator

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
from forecasting.features import NetSpec

if TYPE_CHECKING:
    from torch import Tensor

    from forecasting.neural import NeuralForecaster

__all__ = [
    "MANIFEST_NAME",
    "WEIGHTS_NAME",
    "ArtifactManifest",
    "ArtifactRefused",
    "ModelCard",
    "ResidualTable",
    "TrainingFacts",
    "load_artifact",
    "manifest_digest",
    "read_artifact",
    "write_artifact",
]

FORMAT_VERSION: Literal[2] = 2
WEIGHTS_NAME, WEIGHTS_BYTES = "weights.safetensors", 64 << 20
_SHA256 = r"^[0-9a-f]{64}$"


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
    write_folder(folder, draft, WEIGHTS_NAME, payload)
    return manifest


def read_artifact(folder: Path) -> tuple[ArtifactManifest, dict[str, npt.NDArray[np.float32]]]:
    """Read and check an artifact; each file is read once, and what was checked is what is returned.

    Raises:
        ArtifactRefused: If anything differs from what ``write_artifact`` leaves.
    """
    check_listing(folder, WEIGHTS_NAME)
    manifest_bytes = read_bounded(folder / MANIFEST_NAME, MANIFEST_BYTES)
    manifest = _parse_manifest(manifest_bytes, folder / MANIFEST_NAME)
    payload = read_bounded(folder / WEIGHTS_NAME, WEIGHTS_BYTES)
    where = str(folder / WEIGHTS_NAME)
    if len(payload) != manifest.weights_bytes or hashlib.sha256(payload).hexdigest() != manifest.weights_sha256:
        raise ArtifactRefused("the weights are not those of the manifest (SHA-256 differs)", where, RELOAD)
    arrays = _parse_weights(payload, where)
    records = {name: TensorRecord(shape=array.shape, dtype="F32") for name, array in arrays.items()}
    if records != manifest.tensors:
        raise ArtifactRefused("tensors differ from those the manifest lists", where, RELOAD)
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


def _parse_manifest(content: bytes, path: Path) -> ArtifactManifest:
    where = str(path)
    manifest = parse_manifest(content, where, ArtifactManifest, {"format_version": FORMAT_VERSION})
    spec = manifest.card.spec
    for claimed, expected in (
        (manifest.input_shapes, _input_shapes(spec)),
        (manifest.output_shapes, _output_shapes(spec)),
    ):
        if claimed != expected:
            raise ArtifactRefused(f"shapes {claimed} are not those of its net, {expected}", where, RELOAD)
    return manifest


def _parse_weights(payload: bytes, where: str) -> dict[str, npt.NDArray[np.float32]]:
    import safetensors
    import safetensors.numpy

    try:
        arrays = safetensors.numpy.load(payload)
    except (safetensors.SafetensorError, KeyError, ValueError, TypeError) as reason:
        raise ArtifactRefused(f"is not safetensors ({reason})", where, RELOAD) from reason
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
        raise ArtifactRefused(f"lacks tensors {missing[:8]}", where, RELOAD)
    if extra := sorted(arrays.keys() - expected.keys()):
        raise ArtifactRefused(f"holds unknown tensors {extra[:8]}", where, RELOAD)
    for name, shape in expected.items():
        if arrays[name].shape != shape:
            raise ArtifactRefused(f"tensor {name} has shape {arrays[name].shape}, not {shape}", where, RELOAD)
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
