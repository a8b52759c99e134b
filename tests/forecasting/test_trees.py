"""Do trees see only the past, keep what they learned in plain arrays, and refuse any other?"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from forecasting.artifact import MANIFEST_NAME, ArtifactRefused, TrainingFacts, manifest_digest
from forecasting.forecast import DEFAULT_LEVELS
from forecasting.forecaster import CannotForecast
from forecasting.last_value import LastValueForecaster
from forecasting.tree_artifact import ARRAYS_NAME, TreeCard, load_trees, write_trees
from forecasting.tree_features import TreeSpec, tree_targets, tree_windows
from forecasting.trees import TreeForecaster
from tests.builders_forecasting import poisson_series, series_of, small_trees
from training.tree_fit import TreeSettings, fit_trees

LOAD = poisson_series(600, swing_ratio=0.3, period_s=1800.0)
SPEC = TreeSpec(step_s=15.0, lead_steps=(1, 5, 20), levels=DEFAULT_LEVELS)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    trees = small_trees()
    facts = TrainingFacts(
        data_digest="d" * 64, code_revision="r" * 40, trained_at=1_700_000_000.0, seed=1, validation={"loss": 0.5}
    )
    card = TreeCard(name="trees", spec=trees._spec, trees=30, depth=3, fitted_until=1_700_000_000.0, training=facts)
    write_trees(tmp_path / "kept", trees._trees, card)
    return tmp_path / "kept"


def test_what_is_read_back_answers_as_what_was_fitted(folder: Path) -> None:
    kept, fitted = load_trees(folder), small_trees()
    np.testing.assert_array_equal(kept.forecast(LOAD, 20).peaks, fitted.forecast(LOAD, 20).peaks)
    assert kept.fitted_until == 1_700_000_000.0
    assert kept.name.startswith("trees@")
    assert sorted(path.name for path in folder.iterdir()) == [MANIFEST_NAME, ARRAYS_NAME]


def test_other_arrays_another_file_and_code_are_refused(folder: Path) -> None:
    arrays = folder / ARRAYS_NAME
    whole = arrays.read_bytes()
    arrays.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(ArtifactRefused, match="SHA-256"):
        load_trees(folder)
    arrays.write_bytes(whole)
    (folder / "trees.pkl").write_bytes(b"\x80\x04.")
    with pytest.raises(ArtifactRefused, match="alone"):
        load_trees(folder)


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [("leaf", np.inf, "not finite"), ("threshold", np.nan, "not a number"), ("feature", 10_000, "beyond")],
)
def test_arrays_that_would_answer_nonsense_are_refused(folder: Path, name: str, value: Any, expected: str) -> None:
    import hashlib

    arrays = {key: array.copy() for key, array in safetensors.numpy.load_file(folder / ARRAYS_NAME).items()}
    arrays[name].reshape(-1)[0] = value
    payload = safetensors.numpy.save(arrays)
    manifest = json.loads((folder / MANIFEST_NAME).read_text())
    del manifest["digest"]
    manifest |= {"arrays_sha256": hashlib.sha256(payload).hexdigest(), "arrays_bytes": len(payload)}
    manifest["digest"] = manifest_digest(manifest)
    (folder / ARRAYS_NAME).write_bytes(payload)
    (folder / MANIFEST_NAME).write_text(json.dumps(manifest))
    with pytest.raises(ArtifactRefused, match=expected):
        load_trees(folder)


def test_inputs_know_nothing_from_the_origin_on() -> None:
    origins = np.array([200, 350])
    changed = LOAD.values.copy()
    changed[350:] *= 50.0
    before, after = (tree_windows(values, [LOAD.start_at], SPEC, origins, 3) for values in (LOAD.values, changed))
    for one, other in zip(before.inputs, after.inputs, strict=True):
        np.testing.assert_array_equal(one, other)
        assert one.shape == (6, SPEC.features)


def test_targets_come_back_as_the_rates_that_followed() -> None:
    origins = np.array([200, 350])
    windows = tree_windows(LOAD.values, [LOAD.start_at], SPEC, origins, 3)
    rate, largest = tree_targets(LOAD.values, windows, SPEC, origins)
    np.testing.assert_allclose(windows.rates(rate)[:3, 1], LOAD.values[204])
    np.testing.assert_allclose(windows.rates(largest)[3:, 2], LOAD.values[350:370].max(axis=0))


def test_bursts_at_fixed_minutes_are_learned() -> None:
    """Every fifth step is ten times the others: the last value cannot know, the clock does."""
    rng = np.random.default_rng(0)
    load = series_of(np.where(np.arange(3000) % 5 == 0, 50.0, 5.0) * rng.uniform(0.8, 1.2, 3000), 60.0, 1_700_000_040.0)
    spec = TreeSpec(step_s=60.0, lead_steps=(1, 3), levels=DEFAULT_LEVELS)
    settings = TreeSettings(trees=40, depth=4, learning_rate=0.2, most_windows=2000)
    fitted = TreeForecaster(fit_trees([load], [2400], [0], spec, settings), spec)
    misses, last = [], []
    for origin in range(2500, 2600):
        seen, came = load.window(0, origin), load.values[origin, 0]
        misses.append(abs(np.log(fitted.forecast(seen, 3).at_level(0.5)[0, 0] / came)))
        last.append(abs(np.log(LastValueForecaster(0.0).forecast(seen, 3).at_level(0.5)[0, 0] / came)))
    assert np.mean(misses) < 0.5 * np.mean(last)


def test_the_same_seed_grows_the_same_trees_and_a_short_history_none() -> None:
    settings = TreeSettings(trees=5, depth=2)
    one, other = (fit_trees([LOAD], [500], [0], SPEC, settings) for _ in range(2))
    np.testing.assert_array_equal(one.leaf, other.leaf)
    with pytest.raises(ValueError, match="64 are needed"):
        fit_trees([LOAD], [50], [0], SPEC, settings)


@pytest.mark.parametrize(
    ("horizon", "levels", "expected"), [(21, (0.5,), "fitted for 20"), (4, (0.001, 0.5), "fitted for 0.1")]
)
def test_what_was_not_fitted_is_not_answered(horizon: int, levels: tuple[float, ...], expected: str) -> None:
    with pytest.raises(CannotForecast, match=expected):
        small_trees().forecast(LOAD, horizon, levels)
