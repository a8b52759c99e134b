"""What is on record of a fit and of a verdict, in a real MLflow store."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from controller.adapters.mlflow_registry import open_client
from controller.adapters.registry_store import RegistrySettings
from controller.crown import CHALLENGER
from controller.errors import RegistryError
from forecasting.artifact import load_artifact
from tests.builders_training import Stopwatch, a_history, a_store, small_settings
from training.dataset import data_digest
from training.gate import judge
from training.held_out_world import WorldSettings
from training.revision import code_revision, environment
from training.tracking import Registered, Tracker, track_and_register
from training.trainer import FittedNet, fit_quantile
from training.verdict import GateSettings

NOW = 1_700_000_000.0


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> RegistrySettings:
    return a_store(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def fitted() -> FittedNet:
    return fit_quantile(a_history(480).series, small_settings(), Stopwatch(tick_s=0.01))


@pytest.fixture(scope="module")
def tracker(store: RegistrySettings) -> Tracker:
    return Tracker.open(store, lambda: NOW, may_create=False)


@pytest.fixture(scope="module")
def registered(tracker: Tracker, fitted: FittedNet) -> Registered:
    return track_and_register(tracker, fitted, [a_history(480)], "load", Stopwatch(tick_s=0.001))


def test_a_fit_becomes_the_challenger_and_not_the_champion(tracker: Tracker, registered: Registered) -> None:
    (version,) = tracker.registry.versions("load")
    assert version.version == registered.version.version == "1"
    assert version.aliases == (CHALLENGER,)


def test_the_artifact_on_record_is_the_one_that_was_fitted(tracker: Tracker, registered: Registered) -> None:
    forecaster = load_artifact(tracker.registry.fetch("load", CHALLENGER))
    facts = forecaster.manifest.card.training
    assert forecaster.manifest.digest == registered.artifact_digest
    assert facts.trained_at == NOW
    assert facts.data_digest == data_digest([a_history(480).series])
    assert facts.code_revision == code_revision()


def test_settings_scores_digests_and_environment_are_on_record(
    store: RegistrySettings, registered: Registered, fitted: FittedNet
) -> None:
    run = open_client(store, may_create=False).get_run(registered.run_id)
    assert run.info.status == "FINISHED"
    assert run.data.params["learning_rate"] == str(fitted.settings.learning_rate)
    assert run.data.params["series"] == "wave"
    assert run.data.tags["data_digest"] == data_digest([a_history(480).series])
    assert run.data.tags["code_revision"] == code_revision()
    assert {"python", "torch", "numpy"} <= set(run.data.tags)
    at_lead = next(row for row in registered.scores if row.lead_s == 120.0)
    assert run.data.metrics["test_skill_vs_last_value_120s"] == at_lead.skill_vs_last_value
    assert run.data.metrics["fit_s"] == fitted.fit_s


def test_every_epoch_is_on_record(store: RegistrySettings, registered: Registered, fitted: FittedNet) -> None:
    history = open_client(store, may_create=False).get_metric_history(registered.run_id, "validation_loss")
    assert [point.value for point in history] == [epoch.validation_loss for epoch in fitted.epochs]
    assert [point.step for point in history] == [epoch.epoch for epoch in fitted.epochs]


def test_plots_are_on_record(store: RegistrySettings, registered: Registered, tmp_path: Path) -> None:
    client = open_client(store, may_create=False)
    folder = Path(client.download_artifacts(registered.run_id, "plots", str(tmp_path)))
    plots = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.png")}
    of_series = ("forecast_120s", "forecast_300s", "calibration", "error_by_lead", "error_by_hour")
    assert set(plots) == {"loss.png", *(f"wave/{name}.png" for name in of_series)}
    assert all(content.startswith(b"\x89PNG") and len(content) > 5_000 for content in plots.values())


def test_the_version_carries_what_promotion_needs(tracker: Tracker, registered: Registered) -> None:
    tags = tracker.registry.versions("load")[0].tags
    assert (tags["step_s"], tags["test_ratio"], tags["model"]) == ("60", "0.15", "lstm_quantile")
    assert tags["artifact_digest"] == registered.artifact_digest
    assert json.loads(tags["learned_until"]) == {"wave": 408 * 60.0}


def test_the_signature_on_record_is_that_of_the_manifest(
    store: RegistrySettings, tracker: Tracker, registered: Registered, tmp_path: Path
) -> None:
    manifest = load_artifact(tracker.registry.fetch("load", CHALLENGER)).manifest
    client = open_client(store, may_create=False)
    folder = Path(client.download_artifacts(registered.run_id, "signature", str(tmp_path)))
    written = json.loads((folder / "signature.json").read_text())
    assert written["signature_inputs"] == tracker.registry.versions("load")[0].tags["signature_inputs"]
    for side, shapes in (("inputs", manifest.input_shapes), ("outputs", manifest.output_shapes)):
        told = {each["name"]: each["tensor-spec"]["shape"] for each in json.loads(written[f"signature_{side}"])}
        assert told == {name: [-1, *shape] for name, shape in shapes.items()}


def test_a_run_that_fails_is_marked_and_registers_nothing(store: RegistrySettings, tracker: Tracker) -> None:
    with pytest.raises(ValueError, match="on purpose"), tracker.run("broken", {}, {"kind": "broken"}):
        raise ValueError("on purpose")
    client = open_client(store, may_create=False)
    experiment = client.get_experiment_by_name("foresail")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id], "tags.kind = 'broken'")
    assert run.info.status == "FAILED"


def test_a_verdict_is_on_record_with_its_reasons(
    store: RegistrySettings, tracker: Tracker, registered: Registered, tmp_path: Path
) -> None:
    settings = GateSettings(lead_s=(120.0,), max_origins=20, seeds=1, world=WorldSettings(window_s=1800.0))
    verdict = judge(tracker.registry, registered.version, None, [a_history(480)], settings, Stopwatch())
    tracker.record_verdict(registered.version, verdict, settings, ["wave"], forced="a demonstration")
    tags = tracker.registry.versions("load")[0].tags
    assert tags["gate_verdict"] == ("passed" if verdict.passed else "refused")
    assert tags["gate_reasons"] == "; ".join(verdict.reasons)
    assert tags["gate_forced"] == "a demonstration"
    client = open_client(store, may_create=False)
    experiment = client.get_experiment_by_name("foresail")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id], "tags.kind = 'gate'")
    assert run.data.metrics["pinball_ratio"] == verdict.comparisons[0].ratio
    assert run.data.metrics["GPU_hours_challenger"] == verdict.runs[0].gpu_hours
    assert run.data.params["window_s"] == "1800.0"
    kept = json.loads(
        Path(client.download_artifacts(run.info.run_id, "verdict", str(tmp_path))).joinpath("verdict.json").read_text()
    )
    assert kept["runs"][0]["decisions_digest"] == verdict.runs[0].decisions_digest
    tracker.record_verdict(registered.version, verdict, settings, ["wave"], forced=None)
    assert tracker.registry.versions("load")[0].tags["gate_forced"] == ""


def test_a_store_that_refuses_is_a_registry_error(tmp_path: Path) -> None:
    with pytest.raises(RegistryError, match="no model store here yet"):
        Tracker.open(RegistrySettings(store=f"sqlite:///{tmp_path}/none.db"), lambda: NOW, may_create=False)


def test_the_environment_names_the_versions_a_fit_depends_on() -> None:
    versions = environment()
    assert versions["torch"].startswith("2.")
    assert json.dumps(versions)
