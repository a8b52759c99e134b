"""Is an artifact written whole or not at all, and is everything else than what was written refused?"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
import torch
from pydantic import ValidationError

from forecasting.artifact import (
    MANIFEST_BYTES,
    MANIFEST_NAME,
    WEIGHTS_BYTES,
    WEIGHTS_NAME,
    ArtifactRefused,
    ModelCard,
    load_artifact,
    manifest_digest,
    read_artifact,
    write_artifact,
)
from forecasting.neural import NeuralForecaster
from forecasting.quantile_net import build_net
from tests.builders_forecasting import card_of, poisson_series, small_spec, write_small_artifact

SPEC = small_spec()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_small_artifact(tmp_path / "net", SPEC)


def weights(seed: int = 0) -> dict[str, np.ndarray]:
    torch.manual_seed(seed)
    return {name: tensor.numpy() for name, tensor in build_net(SPEC).state_dict().items()}


def rewrite(folder: Path, change: Callable[[dict[str, Any]], None], sign: bool = True) -> None:
    """Change the manifest; with ``sign`` its own digest is made to fit again, as a forger would."""
    draft = json.loads((folder / MANIFEST_NAME).read_text())
    change(draft)
    if sign:
        draft["digest"] = manifest_digest(draft)
    (folder / MANIFEST_NAME).write_text(json.dumps(draft))


def put_weights(folder: Path, payload: bytes) -> None:
    """Replace the weights and make the manifest's digest of them fit."""
    import hashlib

    (folder / WEIGHTS_NAME).write_bytes(payload)

    def fit(draft: dict[str, Any]) -> None:
        draft["weights_sha256"] = hashlib.sha256(payload).hexdigest()
        draft["weights_bytes"] = len(payload)

    rewrite(folder, fit)


def test_what_is_loaded_is_what_was_written(folder: Path, tmp_path: Path) -> None:
    loaded = load_artifact(folder)
    torch.manual_seed(0)
    direct = NeuralForecaster(build_net(SPEC), loaded.manifest)
    load = poisson_series(300)
    np.testing.assert_array_equal(loaded.forecast(load, 8).peaks, direct.forecast(load, 8).peaks)
    manifest, arrays = read_artifact(folder)
    again = write_artifact(tmp_path / "again", arrays, manifest.card)
    assert again == manifest
    assert (tmp_path / "again" / WEIGHTS_NAME).read_bytes() == (folder / WEIGHTS_NAME).read_bytes()


def test_the_manifest_says_what_the_net_is_and_where_it_comes_from(folder: Path) -> None:
    manifest = read_artifact(folder)[0]
    assert manifest.card == card_of(SPEC)
    assert manifest.output_shapes["values"] == (5, 7)
    assert set(manifest.tensors) == set(weights())
    assert len(manifest.version) == 8


def test_there_is_nothing_but_the_two_files_and_no_leftover(folder: Path) -> None:
    assert sorted(entry.name for entry in folder.iterdir()) == [MANIFEST_NAME, WEIGHTS_NAME]
    assert [entry.name for entry in folder.parent.iterdir()] == ["net"]


def test_an_existing_folder_is_never_overwritten(folder: Path) -> None:
    before = (folder / WEIGHTS_NAME).read_bytes()
    with pytest.raises(ArtifactRefused, match="already exists"):
        write_artifact(folder, weights(1), card_of(SPEC))
    assert (folder / WEIGHTS_NAME).read_bytes() == before


def test_weights_of_another_net_or_no_numbers_are_not_written(tmp_path: Path) -> None:
    without = weights()
    without.popitem()
    spoiled = {name: np.full_like(array, np.nan) for name, array in weights().items()}
    double = {name: array.astype(np.float64) for name, array in weights().items()}
    for wrong in (without, spoiled, double, {**weights(), "extra": np.zeros(3, np.float32)}):
        with pytest.raises(ArtifactRefused):
            write_artifact(tmp_path / "net", wrong, card_of(SPEC))  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_left_when_writing_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(source: Path, target: Path) -> Path:
        raise OSError(28, f"No space left on device for {source} as {target}")

    monkeypatch.setattr(Path, "rename", full)
    with pytest.raises(OSError, match="No space"):
        write_artifact(tmp_path / "net", weights(), card_of(SPEC))
    assert list(tmp_path.iterdir()) == []


def test_a_refusal_says_what_where_and_what_to_do(folder: Path) -> None:
    (folder / WEIGHTS_NAME).write_bytes(b"\x00" * 100)
    with pytest.raises(ArtifactRefused) as refused:
        load_artifact(folder)
    assert WEIGHTS_NAME in refused.value.where
    assert "SHA-256" in refused.value.what
    assert refused.value.remedy
    assert refused.value.remedy in str(refused.value)
    assert isinstance(refused.value, ValueError)


def flip_a_bit(folder: Path) -> None:
    payload = bytearray((folder / WEIGHTS_NAME).read_bytes())
    payload[-1] ^= 1
    (folder / WEIGHTS_NAME).write_bytes(bytes(payload))


def cut_the_weights(folder: Path) -> None:
    put_weights(folder, (folder / WEIGHTS_NAME).read_bytes()[:-40])


def pickle_for_weights(folder: Path) -> None:
    put_weights(folder, b"\x80\x04cos\nsystem\n(S'true'\ntR." + b"\x00" * 64)


def spoil_a_weight(folder: Path) -> None:
    arrays = weights()
    arrays["values_head.outer.bias"][3] = np.inf
    put_weights(folder, safetensors.numpy.save(arrays))


def reshape_a_weight(folder: Path) -> None:
    arrays = weights()
    arrays["values_head.inner.bias"] = np.zeros(9, np.float32)
    put_weights(folder, safetensors.numpy.save(arrays))
    rewrite(folder, lambda draft: draft["tensors"]["values_head.inner.bias"].update(shape=[9]))


def another_number_type(folder: Path) -> None:
    arrays = {**weights(), "values_head.inner.bias": np.zeros(8, np.float64)}
    put_weights(folder, safetensors.numpy.save(arrays))


def extra_tensor(folder: Path) -> None:
    put_weights(folder, safetensors.numpy.save({**weights(), "extra": np.zeros(3, np.float32)}))
    rewrite(folder, lambda draft: draft["tensors"].update(extra={"shape": [3], "dtype": "F32"}))


def missing_tensor(folder: Path) -> None:
    arrays = weights()
    del arrays["values_head.inner.bias"]
    put_weights(folder, safetensors.numpy.save(arrays))
    rewrite(folder, lambda draft: draft["tensors"].pop("values_head.inner.bias"))


def link_for_weights(folder: Path) -> None:
    (folder / WEIGHTS_NAME).rename(folder.parent / "elsewhere")
    (folder / WEIGHTS_NAME).symlink_to(folder.parent / "elsewhere")


def pipe_for_weights(folder: Path) -> None:
    (folder / WEIGHTS_NAME).unlink()
    os.mkfifo(folder / WEIGHTS_NAME)


def folder_for_weights(folder: Path) -> None:
    (folder / WEIGHTS_NAME).unlink()
    (folder / WEIGHTS_NAME).mkdir()


def huge_weights(folder: Path) -> None:
    with (folder / WEIGHTS_NAME).open("ab") as stream:
        stream.truncate(WEIGHTS_BYTES + 1)


def huge_manifest(folder: Path) -> None:
    with (folder / MANIFEST_NAME).open("a") as stream:
        stream.write(" " * MANIFEST_BYTES)


def key_twice(folder: Path) -> None:
    text = (folder / MANIFEST_NAME).read_text()
    (folder / MANIFEST_NAME).write_text(text.replace('"card": {', '"format_version": 2, "card": {', 1))


@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        (flip_a_bit, "SHA-256 differs"),
        (cut_the_weights, "not safetensors"),
        (pickle_for_weights, "not safetensors"),
        (spoil_a_weight, "not finite"),
        (reshape_a_weight, "has shape"),
        (another_number_type, "not float32"),
        (extra_tensor, "unknown tensors"),
        (missing_tensor, "lacks tensors"),
        (link_for_weights, "plain file"),
        (pipe_for_weights, "plain file"),
        (folder_for_weights, "plain file"),
        (huge_weights, "larger than"),
        (huge_manifest, "larger than"),
        (key_twice, "appears twice"),
        (lambda folder: (folder / WEIGHTS_NAME).unlink(), "instead of"),
        (lambda folder: (folder / MANIFEST_NAME).unlink(), "instead of"),
        (lambda folder: (folder / "model.pkl").write_bytes(b""), "instead of"),
        (lambda folder: (folder / MANIFEST_NAME).write_text("{"), "not a manifest"),
        (lambda folder: (folder / MANIFEST_NAME).write_text("[" * 100_000), "not a manifest"),
        (lambda folder: (folder / MANIFEST_NAME).write_text("[]"), "format version"),
        (lambda folder: (folder / MANIFEST_NAME).write_bytes(b"\xff\xfe{"), "not a manifest"),
        (lambda folder: rewrite(folder, lambda d: d.update(format_version=1)), "format version 1 is not 2"),
        (lambda folder: rewrite(folder, lambda d: d.update(loader="os.system")), "loader"),
        (lambda folder: rewrite(folder, lambda d: d["card"]["spec"].update(hidden=[16])), "shape"),
        (lambda folder: rewrite(folder, lambda d: d["card"]["spec"].update(hidden=[10**9])), "hidden"),
        (lambda folder: rewrite(folder, lambda d: d["card"].pop("training")), "training"),
        (lambda folder: rewrite(folder, lambda d: d["card"].update(name="../../etc")), "name"),
        (lambda folder: rewrite(folder, lambda d: d["card"]["training"].update(seed=9), sign=False), "changed after"),
        (lambda folder: rewrite(folder, lambda d: d["output_shapes"].update(values=[5, 8])), "shapes"),
        (lambda folder: rewrite(folder, lambda d: d["tensors"].clear()), "differ from those"),
        (lambda folder: rewrite(folder, lambda d: d["card"].update(residuals={})), "residuals"),
    ],
)
def test_anything_else_than_what_was_written_is_refused(
    folder: Path, damage: Callable[[Path], object], complaint: str
) -> None:
    damage(folder)
    with pytest.raises(ArtifactRefused, match=complaint):
        load_artifact(folder)


def test_a_number_that_is_none_in_the_manifest_is_refused(folder: Path) -> None:
    text = (folder / MANIFEST_NAME).read_text()
    (folder / MANIFEST_NAME).write_text(text.replace('"pinball": 0.5', '"pinball": NaN'))
    with pytest.raises(ArtifactRefused, match="NaN"):
        load_artifact(folder)


def test_a_folder_that_is_a_link_or_absent_or_a_file_is_refused(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(folder)
    (tmp_path / "file").write_text("")
    for wrong in ("link", "absent", "file"):
        with pytest.raises(ArtifactRefused, match=wrong):
            load_artifact(tmp_path / wrong)


def test_a_reference_stack_needs_residuals_and_a_quantile_net_takes_none() -> None:
    reference, quantile = card_of(small_spec("reference_lstm")), card_of(SPEC)
    for card, residuals in ((reference, None), (quantile, reference.residuals)):
        with pytest.raises(ValidationError, match="residuals"):
            ModelCard(name="x", spec=card.spec, training=card.training, residuals=residuals)


def test_a_reference_stack_survives_the_round_trip(tmp_path: Path) -> None:
    spec = small_spec("reference_lstm")
    loaded = load_artifact(write_small_artifact(tmp_path / "net", spec))
    assert loaded.manifest.card == card_of(spec)
    assert loaded.forecast(poisson_series(100), 20).peaks.shape == (7, 20, 3)
