"""When a challenger may take the champion's place."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from controller.errors import BadInput, RegistryError
from controller.ports import ModelVersion
from forecasting.artifact import MANIFEST_NAME, WEIGHTS_NAME, load_artifact
from forecasting.series import CHANNELS, LoadSeries
from tests.builders_training import FolderRegistry, Stopwatch, a_history, a_wave, small_settings
from training.dataset import data_digest
from training.gate import judge
from training.held_out_world import WorldSettings
from training.history import History
from training.trainer import FittedNet, fit_quantile
from training.verdict import GateSettings, Verdict
from training.versions import find_version, load_version, step_of

SETTINGS = GateSettings(lead_s=(120.0, 300.0), max_origins=40, seeds=1, world=WorldSettings(window_s=1800.0))


@pytest.fixture(scope="module")
def good() -> FittedNet:
    return fit_quantile(a_wave(480), small_settings(), Stopwatch())


@pytest.fixture(scope="module")
def poor() -> FittedNet:
    """Fitted on noise without any wave, it knows nothing of what it is asked."""
    rate = 100.0 * np.random.default_rng(3).lognormal(0.0, 0.8, 480)
    series = LoadSeries(0.0, 60.0, np.stack([rate] * 3, axis=1))
    return fit_quantile(series, small_settings(max_epochs=2), Stopwatch())


@pytest.fixture
def registry(tmp_path: Path) -> FolderRegistry:
    return FolderRegistry(tmp_path / "registry")


def published(registry: FolderRegistry, net: FittedNet, folder: Path, **tags: str) -> ModelVersion:
    artifact = net.write(folder / f"artifact-{len(registry.versions('load'))}", "load", "", "", 0.0)
    digest = load_artifact(artifact).manifest.digest
    return registry.publish("load", artifact, {"artifact_digest": digest, **tags})


def judged(
    registry: FolderRegistry, challenger: ModelVersion, champion: ModelVersion | None, **changes: object
) -> Verdict:
    settings = SETTINGS.model_copy(update=changes)
    return judge(registry, challenger, champion, [a_history(480)], settings, Stopwatch())


@pytest.fixture(scope="module")
def worse(good: FittedNet, poor: FittedNet, tmp_path_factory: pytest.TempPathFactory) -> Verdict:
    """The verdict on the poor one as challenger of the good one."""
    folder = tmp_path_factory.mktemp("worse")
    registry = FolderRegistry(folder / "registry")
    champion, challenger = published(registry, good, folder), published(registry, poor, folder)
    return judged(registry, challenger, champion)


def test_a_worse_challenger_is_refused_with_figures(worse: Verdict) -> None:
    assert not worse.passed
    assert "pinball" in worse.reasons[0]
    assert "more than the tolerance of 2%" in worse.reasons[0]
    assert worse.champion == "1"


def test_a_better_challenger_passes(registry: FolderRegistry, good: FittedNet, poor: FittedNet, tmp_path: Path) -> None:
    champion, challenger = published(registry, poor, tmp_path), published(registry, good, tmp_path)
    verdict = judged(registry, challenger, champion)
    assert verdict.passed
    assert [each.measure for each in verdict.comparisons] == ["pinball", "peak pinball", "missed requests", "GPU hours"]
    assert all(each.ratio < 1 for each in verdict.comparisons[:2])


def test_an_equal_challenger_passes(registry: FolderRegistry, good: FittedNet, tmp_path: Path) -> None:
    champion, challenger = published(registry, good, tmp_path), published(registry, good, tmp_path)
    verdict = judged(registry, challenger, champion, tolerance=0.0)
    assert verdict.passed
    assert [each.ratio for each in verdict.comparisons] == [1.0] * 4


def test_a_tolerance_wide_enough_lets_a_worse_one_pass(
    registry: FolderRegistry, good: FittedNet, poor: FittedNet, worse: Verdict, tmp_path: Path
) -> None:
    champion, challenger = published(registry, good, tmp_path), published(registry, poor, tmp_path)
    worst = max(each.ratio for each in worse.comparisons[:2])
    in_service = {"attainment_tolerance": 1.0, "gpu_tolerance": 1.0}
    assert not worse.passed
    if worst < 2:
        assert judged(registry, challenger, champion, tolerance=worst - 1 + 1e-6, **in_service).passed
    assert not judged(registry, challenger, champion, tolerance=min(1.0, 0.9 * (worst - 1)), **in_service).passed


def test_the_first_model_has_to_beat_the_last_value(
    registry: FolderRegistry, good: FittedNet, poor: FittedNet, tmp_path: Path
) -> None:
    assert judged(registry, published(registry, good, tmp_path), None).passed
    refused = judged(registry, published(registry, poor, tmp_path), None)
    assert not refused.passed
    assert "there is no champion yet" in refused.reasons[0]


def test_a_challenger_that_mostly_steps_back_is_refused(
    registry: FolderRegistry, good: FittedNet, tmp_path: Path
) -> None:
    values = np.array(a_wave(480).values)
    values[::2] = np.nan  # the net wants seven tenths of its context observed, the last value half
    gappy = History("gappy", LoadSeries(0.0, 60.0, values), CHANNELS)
    verdict = judge(registry, published(registry, good, tmp_path), None, [gappy], SETTINGS, Stopwatch())
    assert not verdict.passed
    assert "answered at only 0% of the origins" in verdict.reasons[-1]


@pytest.mark.parametrize("file", [MANIFEST_NAME, WEIGHTS_NAME])
def test_a_tampered_artifact_is_refused(registry: FolderRegistry, good: FittedNet, tmp_path: Path, file: str) -> None:
    challenger = published(registry, good, tmp_path)
    path = registry.fetch("load", "1") / file
    path.write_bytes(path.read_bytes()[:-3] + b"}}\n")
    with pytest.raises(BadInput, match="the artifact is refused"):
        judged(registry, challenger, None)


def test_an_artifact_that_was_swapped_for_another_sound_one_is_refused(
    registry: FolderRegistry, good: FittedNet, poor: FittedNet, tmp_path: Path
) -> None:
    challenger = published(registry, poor, tmp_path)
    folder = registry.fetch("load", "1")
    other = good.write(tmp_path / "other", "load", "", "", 0.0)
    for file in (MANIFEST_NAME, WEIGHTS_NAME):
        (folder / file).write_bytes((other / file).read_bytes())
    with pytest.raises(BadInput, match="another one than was registered"):
        load_version(registry, challenger)


def test_an_artifact_that_is_gone_is_a_registry_error(
    registry: FolderRegistry, good: FittedNet, tmp_path: Path
) -> None:
    challenger = published(registry, good, tmp_path)
    folder = registry.fetch("load", "1")
    folder.rename(tmp_path / "moved")
    with pytest.raises(RegistryError):
        judged(registry, challenger, None)


def test_nothing_that_a_model_was_fitted_on_is_judged_on(
    registry: FolderRegistry, good: FittedNet, tmp_path: Path
) -> None:
    digest = data_digest([a_history(480).series])
    challenger = published(registry, good, tmp_path, data_digest=digest, test_ratio="0.05")
    few = judged(registry, challenger, None, held_out_ratio=0.3, max_origins=1000)
    assert few.scores[0].origins == 24 - 5 + 1  # 5 % of 480 steps, less the longest lead
    other = published(registry, good, tmp_path, data_digest="0" * 64, test_ratio="0.05")
    many = judged(registry, other, None, held_out_ratio=0.3, max_origins=1000)
    assert many.scores[0].origins == 144 - 5 + 1


@pytest.mark.parametrize(
    ("learned_until", "origins"),
    [
        ('{"wave": 24600.0}', 70 - 5 + 1),
        ('{"other": 24600.0}', 144 - 5 + 1),
        ('{"*": 27600.0}', 20 - 5 + 1),
        ('{"wave": 1000.0}', 144 - 5 + 1),
        ("no JSON", 144 - 5 + 1),
    ],
)
def test_a_longer_history_is_judged_on_from_where_learning_ended(
    registry: FolderRegistry, good: FittedNet, tmp_path: Path, learned_until: str, origins: int
) -> None:
    challenger = published(registry, good, tmp_path, learned_until=learned_until)
    verdict = judged(registry, challenger, None, held_out_ratio=0.3, max_origins=1000)
    assert verdict.scores[0].origins == origins
    assert all(run.begins_s >= (480 - origins - 4) * 60.0 for run in verdict.runs)


def test_a_history_that_ended_before_learning_did_cannot_be_judged_on(
    registry: FolderRegistry, good: FittedNet, tmp_path: Path
) -> None:
    challenger = published(registry, good, tmp_path, learned_until='{"wave": 28800.0}')
    with pytest.raises(BadInput, match="nothing is left to judge on"):
        judged(registry, challenger, None)


def test_a_history_that_was_learned_to_its_end_cannot_be_judged_on(
    registry: FolderRegistry, good: FittedNet, tmp_path: Path
) -> None:
    digest = data_digest([a_history(480).series])
    challenger = published(registry, good, tmp_path, data_digest=digest, test_ratio="0")
    with pytest.raises(BadInput, match="nothing is left to judge on"):
        judged(registry, challenger, None)


def test_a_history_too_short_to_judge_on_is_refused(registry: FolderRegistry, good: FittedNet, tmp_path: Path) -> None:
    challenger = published(registry, good, tmp_path)
    with pytest.raises(BadInput, match="too few to test"):
        judge(registry, challenger, None, [a_history(20)], SETTINGS, Stopwatch())


def test_versions_are_found_by_alias_and_by_number(registry: FolderRegistry, good: FittedNet, tmp_path: Path) -> None:
    published(registry, good, tmp_path, step_s="60")
    second = published(registry, good, tmp_path)
    registry.point("load", "champion", "1")
    found = find_version(registry, "load", "champion")
    assert found is not None
    assert (found.version, step_of(found)) == ("1", 60.0)
    assert step_of(second) is None
    assert find_version(registry, "load", "3") is None
    assert json.dumps(second.tags)
