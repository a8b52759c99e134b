"""What is left when training or promotion meets a full disk, a store that refuses or a kill? Nothing half-done."""

from __future__ import annotations

import json
import os
import resource
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from controller.adapters.mlflow_registry import MlflowRegistry, open_client
from controller.adapters.registry_store import RegistrySettings
from foresail import main
from tests.builders_training import a_store
from tests.training.test_cli import QUICK, a_file, answer, refusal

MIB = 1 << 20


@pytest.fixture
def store(tmp_path: Path) -> RegistrySettings:
    return a_store(tmp_path)


@pytest.fixture
def train(tmp_path: Path, store: RegistrySettings) -> list[str]:
    return ["train", "--data", a_file(tmp_path), "--step-s", "60", "--store", store.store, *QUICK]


@contextmanager
def refusing(store: RegistrySettings, table: str) -> Iterator[None]:
    """Let the database of the store refuse to write ``table``."""
    path = store.store.removeprefix("sqlite:///")
    with closing(sqlite3.connect(path)) as database:
        for verb in ("INSERT", "UPDATE"):
            refused = "BEGIN SELECT RAISE(ABORT, 'database or disk is full'); END"
            database.execute(f"CREATE TRIGGER no_{verb} BEFORE {verb} ON {table} {refused}")
        database.commit()
    yield
    with closing(sqlite3.connect(path)) as database:
        for verb in ("INSERT", "UPDATE"):
            database.execute(f"DROP TRIGGER no_{verb}")
        database.commit()


def versions(store: RegistrySettings) -> list[tuple[str, ...]]:
    return [version.aliases for version in MlflowRegistry.open(store).versions("load")]


@pytest.mark.parametrize("table", ["runs", "model_versions", "registered_model_aliases"])
def test_a_store_that_refuses_after_the_fit_has_no_version_and_the_fit_is_not_lost(
    capsys: pytest.CaptureFixture[str], store: RegistrySettings, train: list[str], tmp_path: Path, table: str
) -> None:
    checkpoint = tmp_path / "fit.safetensors"
    with refusing(store, table):
        said = refusal(capsys, *train, "--checkpoint", str(checkpoint))
    assert "database or disk is full" in said or "Model Version creation error" in said
    assert f"the fit is kept in {checkpoint}" in said
    assert versions(store) == []
    client = open_client(store, may_create=False)
    experiment = client.get_experiment_by_name("foresail")
    assert experiment is not None
    assert all(run.info.status == "FAILED" for run in client.search_runs([experiment.experiment_id]))
    # In no time at all there is no second epoch, unless it has been done already.
    again = answer(capsys, *train, "--checkpoint", str(checkpoint), "--max-fit-s", "1e-6")
    assert again["fit"]["epochs"] == 2
    assert not checkpoint.exists()
    assert versions(store) == [("challenger",)]


def test_without_a_checkpoint_the_refusal_says_what_one_would_have_saved(
    capsys: pytest.CaptureFixture[str], store: RegistrySettings, train: list[str]
) -> None:
    with refusing(store, "runs"):
        assert "keep the next fit with --checkpoint FILE" in refusal(capsys, *train)


@pytest.mark.parametrize("table", ["runs", "registered_model_aliases"])
def test_a_store_that_refuses_the_verdict_keeps_its_champion(
    capsys: pytest.CaptureFixture[str], store: RegistrySettings, train: list[str], table: str
) -> None:
    answer(capsys, *train, "--promote")
    answer(capsys, *train)
    promote = ["promote", *train[1:3], "--store", store.store, "--window-s", "600", "--seeds", "1", "--force", "a test"]
    with refusing(store, table):
        said = refusal(capsys, *promote)
    assert "nothing was promoted: the database refuses" in said
    assert "- closed loop:" in said  # minutes of judging are not lost without a word
    assert versions(store) == [("challenger",), ("champion",)]
    assert main(promote) == 0
    assert versions(store) == [("challenger", "champion"), ("previous",)]


class _OneAnswer(BaseHTTPRequestHandler):
    """A server that answers one question as MLflow does when it has no experiments, and is gone."""

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def _answer(self) -> None:
        body = b"{}"
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def test_a_server_that_goes_away_during_the_fit_loses_nothing(
    capsys: pytest.CaptureFixture[str], store: RegistrySettings, train: list[str], tmp_path: Path
) -> None:
    server = HTTPServer(("127.0.0.1", 0), _OneAnswer)
    answering = threading.Thread(target=lambda: (server.handle_request(), server.server_close()))
    answering.start()
    checkpoint = ["--checkpoint", str(tmp_path / "fit")]
    gone = [f"http://127.0.0.1:{server.server_port}" if text == store.store else text for text in train]
    said = refusal(capsys, *gone, *checkpoint)
    answering.join()
    assert "the server does not answer" in said
    assert "the fit is kept in" in said
    assert refusal(capsys, "promote", *train[1:3], "--store", gone[6]).count("the server does not answer") == 1
    answer(capsys, *train, *checkpoint)  # another store will do
    assert versions(store) == [("challenger",)]


def run(arguments: list[str], largest_file: int | None = None) -> subprocess.CompletedProcess[str]:
    def limited() -> None:
        if largest_file is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))

    return subprocess.run(
        [sys.executable, "-m", "foresail", *arguments],
        capture_output=True, text=True, check=False, preexec_fn=limited, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


LARGE = [
    text
    for setting in ("hidden=[400]", "max_epochs=1", "context_steps=16", "closing=false", "min_windows_per_epoch=1")
    for text in ("--set", setting)
]
"""A net of 2.6 MiB, whose checkpoint takes five times as much; the store takes less than one."""


@pytest.mark.slow
@pytest.mark.parametrize(("keeps", "largest"), [(True, 3 * MIB), (False, 5 * MIB // 4)])
def test_a_disk_that_is_full_ends_training_with_nothing_registered(
    store: RegistrySettings, tmp_path: Path, keeps: bool, largest: int
) -> None:
    checkpoint = tmp_path / "fit"
    data = a_file(tmp_path)
    done = run(
        ["train", "--data", data, "--step-s", "60", "--store", store.store, *LARGE,
         *(["--checkpoint", str(checkpoint)] if keeps else [])],
        largest,
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert "File too large" in done.stderr
    assert "->" in done.stderr
    assert versions(store) == []
    assert not [path for path in tmp_path.iterdir() if path.name.startswith((".fit", "fit"))]


@pytest.mark.slow
def test_a_training_that_is_killed_goes_on_to_the_same_net(
    capsys: pytest.CaptureFixture[str], store: RegistrySettings, train: list[str], tmp_path: Path
) -> None:
    longer = [*train, "--set", "min_windows_per_epoch=4000", "--set", "max_epochs=6"]
    checkpoint = tmp_path / "fit"
    command = [sys.executable, "-m", "foresail", *longer, "--checkpoint", str(checkpoint)]
    training = subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"})
    waiting = threading.Event()
    while training.poll() is None and not checkpoint.exists():
        waiting.wait(0.01)
    training.kill()
    training.wait()
    assert checkpoint.exists(), "it was done before it could be killed"
    assert versions(store) == []
    resumed = answer(capsys, *longer, "--checkpoint", str(checkpoint))
    whole = answer(capsys, *longer)
    assert [row["pinball"] for row in resumed["test"]] == [row["pinball"] for row in whole["test"]]
    assert resumed["fit"]["validation_loss"] == whole["fit"]["validation_loss"]
    assert versions(store) == [("challenger",), ()]
    assert json.dumps(resumed["settings"]) == json.dumps(whole["settings"])
