"""What was fitted, on what, and how well? Every fit and every verdict as a run in MLflow, artifact included.

The only module of ``training`` that knows MLflow, which it imports late (3 s).
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from controller.adapters.mlflow_registry import MlflowRegistry, experiment_id, open_client, registry_errors
from controller.adapters.registry_store import RegistrySettings
from controller.crown import CHALLENGER
from controller.errors import RegistryError
from controller.ports import ModelVersion
from forecasting.artifact import ArtifactManifest, load_artifact
from training.backtest import Score
from training.dataset import data_digest
from training.held_out_scores import Judged, judged_on_test_parts
from training.history import History
from training.revision import code_revision, environment
from training.tables import as_json
from training.versions import TAG_CHARS, learned_until

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from training.search import SearchTrial
    from training.trainer import EpochScore, FittedNet
    from training.verdict import GateSettings, Verdict

_PLOTTED_SERIES = 3
_MLFLOW_BATCH = 900  # MLflow takes at most 1,000 entities at once


class TrackedRun:
    """One run under way."""

    def __init__(self, client: MlflowClient, registry: MlflowRegistry, run_id: str, now: Callable[[], float]) -> None:
        self._client, self._registry, self._now = client, registry, now
        self.run_id = run_id

    def metrics(self, values: Mapping[str, float], step: int = 0) -> None:
        """Log ``values``; those that are not finite are left out, since not every store takes them."""
        from mlflow.entities import Metric

        at_ms = int(self._now() * 1000)
        known = [Metric(key, value, at_ms, step) for key, value in values.items() if isfinite(value)]
        self._client.log_batch(self.run_id, metrics=known)

    def epochs(self, epochs: Sequence[EpochScore], ended_at: float) -> None:
        """Log the course of a fit that ended at ``ended_at``, one step per epoch."""
        from mlflow.entities import Metric

        logged = []
        for epoch in epochs:
            at_ms = int((ended_at - (epochs[-1].elapsed_s - epoch.elapsed_s)) * 1000)
            values = {"train_loss": epoch.train_loss, "validation_loss": epoch.validation_loss}
            values["learning_rate"] = epoch.learning_rate
            logged += [Metric(key, value, at_ms, epoch.epoch) for key, value in values.items()]
        for first in range(0, len(logged), _MLFLOW_BATCH):
            self._client.log_batch(self.run_id, metrics=logged[first : first + _MLFLOW_BATCH])

    def tags(self, tags: Mapping[str, str]) -> None:
        """Tag the run."""
        from mlflow.entities import RunTag

        self._client.log_batch(self.run_id, tags=[RunTag(key, value[:TAG_CHARS]) for key, value in tags.items()])

    def files(self, folder: Path, path: str) -> None:
        """Log the files in ``folder`` under ``path``."""
        self._client.log_artifacts(self.run_id, str(folder), path)

    def text(self, text: str, path: str) -> None:
        """Log ``text`` as the file ``path``."""
        self._client.log_text(self.run_id, text, path)

    def register(self, name: str, artifact: Path, tags: Mapping[str, str]) -> ModelVersion:
        """Log the artifact and register it as a new version of ``name``."""
        return self._registry.register(self.run_id, name, artifact, tags)


class Tracker:
    """Runs in one MLflow store."""

    def __init__(self, client: MlflowClient, settings: RegistrySettings, now: Callable[[], float]) -> None:
        self._client, self.settings, self.now = client, settings, now
        self.registry = MlflowRegistry(client, settings)

    @classmethod
    def open(cls, settings: RegistrySettings, now: Callable[[], float], may_create: bool = True) -> Tracker:
        """Return a tracker over the store; raises RegistryError if it cannot be opened."""
        return cls(open_client(settings, may_create), settings, now)

    @contextmanager
    def run(self, name: str, parameters: Mapping[str, object], tags: Mapping[str, str]) -> Iterator[TrackedRun]:
        """Open a run, with code revision and environment as tags; it ends FINISHED, or FAILED if the block raises."""
        from mlflow.entities import Param

        with registry_errors(self.settings.store):
            experiment = experiment_id(self._client, self.settings.store)
            all_tags = {"code_revision": code_revision(), **environment(), **tags}
            started = self._client.create_run(experiment, run_name=name, tags=all_tags)
            run = TrackedRun(self._client, self.registry, started.info.run_id, self.now)
            status = "FAILED"
            try:
                logged = [Param(key, str(value)[:TAG_CHARS]) for key, value in parameters.items()]
                self._client.log_batch(run.run_id, params=logged)
                yield run
                status = "FINISHED"
            finally:
                self._client.set_terminated(run.run_id, status)

    def record_verdict(
        self,
        challenger: ModelVersion,
        verdict: Verdict,
        settings: GateSettings,
        series: Sequence[str],
        forced: str | None,
    ) -> None:
        """Put a verdict on record, in a run of its own and as tags of the version that was judged."""
        outcome = "passed" if verdict.passed else "refused"
        tags = {"gate_verdict": outcome, "gate_reasons": "; ".join(verdict.reasons), "gate_champion": verdict.champion}
        tags["gate_forced"] = forced or ""  # an earlier promotion may have been, and counts no more
        parameters = settings.model_dump(exclude={"world"}) | settings.world.model_dump()
        parameters |= {"series": ",".join(series), "challenger": verdict.challenger}
        metrics: dict[str, float] = {}
        for each in verdict.comparisons:
            measure = each.measure.replace(" ", "_")
            metrics |= {f"{measure}_challenger": each.challenger, f"{measure}_champion": each.champion}
            metrics[f"{measure}_ratio"] = each.ratio
        with self.run(f"promote {challenger.name}", parameters, {"kind": "gate", **tags}) as run:
            run.metrics(metrics)
            run.text(as_json(asdict(verdict)), "verdict/verdict.json")
        with registry_errors(self.settings.store):
            for key, value in tags.items():
                self._client.set_model_version_tag(challenger.name, challenger.version, key, value[:TAG_CHARS])


@dataclass(frozen=True, slots=True)
class Registered:
    """A fit that is on record: its version, its run, its scores on the test part (one per series and lead)."""

    version: ModelVersion
    run_id: str
    artifact_digest: str
    scores: tuple[Score, ...]


def track_and_register(
    tracker: Tracker,
    fitted: FittedNet,
    histories: Sequence[History],
    name: str,
    elapsed: Callable[[], float],
    on_progress: Callable[[float], None] = lambda _: None,
    *,
    trials: Sequence[SearchTrial] = (),
) -> Registered:
    """Judge a fitted net on the test part, put everything about it on record, and register it as the challenger.

    On record are settings, the course of the fit, test scores, plots, digests, code revision, environment and the
    artifact. Only ``promote`` makes a champion.

    Args:
        tracker: The store.
        fitted: The net.
        histories: What it was fitted on, in the same order.
        name: Name of the registered model.
        elapsed: Stopwatch in seconds.
        on_progress: Called with the share of the judging that is done.
        trials: What a search of settings tried before.

    Raises:
        RegistryError: If the store refuses; then no version is registered.
    """
    digest = data_digest([history.series for history in histories])
    parameters = fitted.settings.model_dump() | {"series": ",".join(history.name for history in histories)}
    tags = {"kind": "training", "model": fitted.settings.model, "data_digest": digest}
    with tempfile.TemporaryDirectory() as scratch, tracker.run(f"train {name}", parameters, tags) as run:
        run.epochs(fitted.epochs, tracker.now())
        artifact = fitted.write(Path(scratch) / "model", name, digest, code_revision(), tracker.now())
        forecaster = load_artifact(artifact)
        judged = judged_on_test_parts(fitted, histories, forecaster, elapsed, on_progress)
        scores = tuple(row for each in judged for row in each.scores)
        measured = _test_metrics(scores)
        run.metrics(measured | {"fit_s": fitted.fit_s, "untrained_loss": fitted.untrained_loss})
        run.tags({"stopped": fitted.stopped, "artifact_digest": forecaster.manifest.digest})
        plots = Path(scratch) / "plots"
        plots.mkdir()
        _write_plots(plots, fitted, judged)
        run.files(plots, "plots")
        signature = signature_of(forecaster.manifest)
        run.text(as_json(signature), "signature/signature.json")
        if trials:
            run.text(as_json([asdict(trial) for trial in trials]), "search/trials.json")
        tags = _version_tags(fitted, digest, forecaster.manifest.digest, measured)
        version = run.register(name, artifact, tags | learned_until(histories, fitted.settings) | signature)
        try:
            tracker.registry.point(name, CHALLENGER, version.version)
        except BaseException:
            with suppress(RegistryError):
                tracker.registry.discard(version)
            raise
    return Registered(version, run.run_id, forecaster.manifest.digest, scores)


def _test_metrics(scores: Sequence[Score]) -> dict[str, float]:
    """Return the scores as metrics, averaged over series, by lead: ``test_pinball_normalised_120s``."""
    names = ("pinball_normalised", "wape", "coverage_95", "skill_vs_last_value", "peak_skill_vs_last_value")
    return {
        f"test_{name}_{lead_s:g}s": float(np.mean([getattr(row, name) for row in scores if row.lead_s == lead_s]))
        for lead_s in sorted({row.lead_s for row in scores})
        for name in names
    }


def signature_of(manifest: ArtifactManifest) -> dict[str, str]:
    """Return shapes and types of a net's inputs and outputs as MLflow writes them; the first axis is the batch."""
    from mlflow.models import ModelSignature
    from mlflow.types import Schema, TensorSpec

    inputs, outputs = (
        Schema([TensorSpec(np.dtype(np.float32), (-1, *shape), name) for name, shape in sorted(shapes.items())])
        for shapes in (manifest.input_shapes, manifest.output_shapes)
    )
    signature = ModelSignature(inputs, outputs).to_dict()
    return {f"signature_{side}": str(signature[side]) for side in ("inputs", "outputs")}


def _version_tags(
    fitted: FittedNet, digest: str, artifact_digest: str, measured: Mapping[str, float]
) -> dict[str, str]:
    settings = fitted.settings
    return {
        "model": settings.model,
        "step_s": f"{settings.step_s:g}",
        "lead_time_s": f"{settings.lead_time_s:g}",
        "horizon_s": f"{settings.horizon_s:g}",
        "test_ratio": f"{settings.test_ratio:g}",
        "data_digest": digest,
        "artifact_digest": artifact_digest,
        "code_revision": code_revision(),
        **{key: f"{value:.4f}" for key, value in measured.items() if key.startswith("test_skill")},
    }


def _write_plots(folder: Path, fitted: FittedNet, judged: Sequence[Judged]) -> None:
    """Write the course of the fit, and a folder for each of the series with the most load."""
    from training.plots import write_loss_curve, write_series_plots

    write_loss_curve(folder, fitted)
    for each in sorted(judged, key=lambda one: -one.exam.scale)[:_PLOTTED_SERIES]:
        own = folder / each.exam.history.name
        own.mkdir()
        write_series_plots(own, each.exam, each.answers, each.last_value, each.scored_leads)
