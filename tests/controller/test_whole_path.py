"""Does a model go the whole path: trained, judged, promoted, used without a restart, and rolled back when it is bad?

With the commands as a user gives them, a real registry in a file, and the loop and chores of a running daemon on a
small fluid world and virtual time.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from controller.adapters.mlflow_registry import MlflowRegistry
from controller.crown import CHAMPION, ROLLED_BACK, holder
from forecasting.artifact import load_artifact, write_artifact
from forecasting.series import LoadSeries
from foresail import main
from tests.builders import MODEL
from tests.builders_training import a_store, a_wave
from tests.controller.test_live_loop import Rig, counted, look

STEPS, KNOWN_STEPS, STEP_S = 2000, 900, 60.0
"""Of the load on record, so many steps were there when the model was trained; the rest it has to stand up to."""
NAME = "wave"


class Served(Rig):
    """The rig, with the load of the last hours on record and a registry."""

    def __post_init__(self) -> None:
        self.store = a_store(self.folder)
        super().__post_init__()
        wave = a_wave(STEPS, step_s=STEP_S).values / 20.0
        end_at = self.world.clock.at
        self.earlier = {MODEL: LoadSeries(end_at - STEPS * STEP_S, 15.0, np.repeat(wave, 4, axis=0))}
        known = wave[:KNOWN_STEPS] * STEP_S
        counts = {name: known[:, i] for i, name in enumerate(("requests", "prompt_tokens", "output_tokens"))}
        at = end_at + (np.arange(KNOWN_STEPS) - STEPS) * STEP_S
        self.data = self.folder / "wave.parquet"
        pq.write_table(pa.table({"t": at, **counts}), self.data)

    def write(self, text: str = "", modes: str = "{scaling: auto, traffic: auto, healing: auto}") -> None:
        registry = f"registry: {{store: '{self.store.store}', cache: '{self.store.cache}'}}\n"
        super().write(f"{registry}daemon: {{model_name: {NAME}}}\n{text}", modes)

    def forecast_by(self) -> str:
        newest = self.ticks.newest
        assert newest is not None
        return newest.forecast_sources.get(MODEL, "")


@pytest.fixture
def path(tmp_path: Path) -> Iterator[Served]:
    made = Served(tmp_path)
    yield made
    made.audit.close()


def said(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    assert main([*arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def nonsense(good: Path, folder: Path) -> Path:
    """A well-formed artifact that forecasts a fraction of what it should."""
    model = load_artifact(good)
    weights = {
        name: tensor - 3.0 * torch.ones_like(tensor) if name.endswith("outer.bias") else tensor.clone()
        for name, tensor in model._net.state_dict().items()
    }
    write_artifact(folder, weights, model.manifest.card)
    return folder


def test_a_model_is_trained_promoted_used_replaced_by_a_bad_one_and_back(
    path: Served, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    fit = ["--set", "max_epochs=12", "--set", "hidden=[12]", "--set", "head=16", "--set", "context_steps=32"]
    season = ["--season-s", "2880", "--set", "learning_rate=0.005", "--set", "min_windows_per_epoch=600"]
    where = ["--store", path.store.store, "--name", NAME]
    trained = said(capsys, "train", "--data", str(path.data), "--step-s", "60", "--lead-time-s", "300",
                   "--horizon-s", "600", *where, *fit, *season)  # fmt: skip
    assert trained["aliases"] == ["challenger"]
    verdict = said(capsys, "promote", "--data", str(path.data), *where, "--window-s", "3600", "--seeds", "1")
    assert verdict["promoted"] is True

    chores, cadence = path.chores()
    path.run()
    cadence.do("history")
    cadence.do("champion")
    path.run(2)
    assert path.live.champion.version == "1"
    assert path.forecast_by().startswith(f"{NAME}@")
    look(path, cadence)
    assert counted(path, "foresail_forecaster_skill_ratio", role="champion", version="1") > 0.1
    assert counted(path, "foresail_workload_skill_ratio", model=MODEL, lead_s="120", role="champion") > 0.1
    assert counted(path, "foresail_champion_rollbacks_total") == 0

    registry = MlflowRegistry.open(path.store)
    bad = registry.publish(NAME, nonsense(registry.fetch(NAME, "1"), tmp_path / "bad"), {})
    registry.point(NAME, CHAMPION, bad.version)
    cadence.do("champion")
    path.run()
    assert path.live.champion.version == bad.version == "2"
    assert path.forecast_by() == "local-level"  # on this workload it is not believed already
    look(path, cadence)
    assert counted(path, "foresail_champion_rollbacks_total") == 1
    versions = registry.versions(NAME)
    champion = holder(versions, CHAMPION)
    assert champion is not None
    assert champion.version == "1"
    (reason,) = [version.tags[ROLLED_BACK] for version in versions if version.version == "2"]
    assert "more loss than" in reason
    assert chores.told()["rolled_back"].startswith("version 2 was rolled back, version 1 forecasts: ")
    (page,) = path.notifier.pages
    assert (page.cause, page.message) == ("a champion was rolled back", chores.told()["rolled_back"])
    path.run(2)
    assert path.forecast_by().startswith(f"{NAME}@")
    cadence.do("champion")
    assert path.live.champion.version == "1"

    # Nobody flaps: the same bad model, pointed to by hand once more, is not even loaded.
    registry.point(NAME, CHAMPION, "2")
    cadence.do("champion")
    assert path.live.champion.version == "1"
    chores.stop()
