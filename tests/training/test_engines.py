"""Fits, searches and backtests are the same wherever they are done."""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from controller.adapters.mlflow_registry import MlflowRegistry, open_client
from controller.errors import BadInput
from simulations.execution import Engine, LocalEngine
from simulations.ray_engine import RayEngine
from tests.builders_training import a_history, a_store, a_wave, small_settings
from tests.training.test_cli import QUICK, a_file, answer, refusal
from training.backtest_tasks import BacktestTask, backtested
from training.fit_tasks import FitTask, fit_each
from training.map_tasks import map_tasks
from training.search import BATCH, SEARCHED, SearchTrial, search
from training.settings import TrainingSettings
from training.trainer import FittedNet

SETTINGS = small_settings(max_epochs=2, max_fit_s=600.0)
HERE = LocalEngine(1)


@pytest.fixture(scope="module")
def two() -> Iterator[LocalEngine]:
    """Two processes of this machine."""
    with LocalEngine(2) as engine:
        yield engine


def weights_of(nets: list[FittedNet]) -> np.ndarray:
    return np.concatenate([tensor.numpy().reshape(-1) for net in nets for tensor in net.net.state_dict().values()])


def squared(number: int) -> int:
    if number < 0:
        raise BadInput("negative", "number", "give another")
    return number * number


def test_answers_come_in_the_order_of_the_tasks(two: LocalEngine) -> None:
    finished: list[int] = []
    assert map_tasks(squared, [3, 1, 2], two, finished.append) == [9, 1, 4]
    assert finished == [1, 2, 3]
    assert map_tasks(squared, [], two) == []


def test_what_cannot_be_done_is_told_as_if_it_had_been_done_here(two: LocalEngine) -> None:
    for engine in (HERE, two):
        with pytest.raises(BadInput, match="negative") as refused:
            map_tasks(squared, [1, -1], engine)
        assert (refused.value.where, refused.value.remedy) == ("number", "give another")


def every_kind(engine: Engine) -> tuple[np.ndarray, list[SearchTrial], TrainingSettings, list[Any]]:
    """What fits, a search and backtests give on ``engine``."""
    fits = fit_each([FitTask((a_wave(480, seed=seed),), SETTINGS) for seed in (0, 1)], engine)
    best, trials = search([a_wave(480)], SETTINGS, BATCH + 2, engine)
    tasks = [
        BacktestTask(
            a_history(480, seed, f"wave-{seed}"), ("last_value", "lstm_quantile"), (120.0,), 10, SETTINGS, True
        )
        for seed in (0, 1)
    ]
    tested = map_tasks(backtested, tasks, engine)
    rows = [(row.model, row.series, row.pinball, row.peak_pinball_normalised) for rows, _ in tested for row in rows]
    assert all(len(tables) == 2 for _, tables in tested)
    return weights_of(fits), trials, best, rows


@pytest.fixture(scope="module")
def here() -> tuple[np.ndarray, list[SearchTrial], TrainingSettings, list[Any]]:
    return every_kind(HERE)


@pytest.mark.slow
def test_two_processes_find_what_one_does(two: LocalEngine, here: tuple[Any, ...]) -> None:
    weights, *others = every_kind(two)
    np.testing.assert_array_equal(weights, here[0])
    assert others == list(here[1:])


@pytest.mark.slow
@pytest.mark.skipif(find_spec("ray") is None, reason="the extra foresail[ray] is not installed")
@pytest.mark.filterwarnings("default")  # what Ray warns of is not ours to change
def test_ray_finds_what_this_process_does(here: tuple[Any, ...]) -> None:
    with RayEngine(2, ship=False) as engine:
        weights, *others = every_kind(engine)
        with pytest.raises(BadInput, match="negative"):
            map_tasks(squared, [-1], engine)
    np.testing.assert_array_equal(weights, here[0])
    assert others == list(here[1:])


def test_a_search_starts_from_what_was_given_and_keeps_the_best(here: tuple[Any, ...]) -> None:
    _, trials, best, _ = here
    assert [trial.number for trial in trials] == list(range(BATCH + 2))
    assert trials[0].values == {}
    assert all(set(trial.values) == set(SEARCHED) for trial in trials[1:])
    winner = min(trials, key=lambda trial: trial.validation_loss)
    assert all(getattr(best, key) == value for key, value in winner.values.items())
    assert best.max_epochs == SETTINGS.max_epochs


def test_what_is_fixed_is_not_searched_and_another_seed_tries_others() -> None:
    fixed = [name for name in SEARCHED if name != "batch"]
    _, trials = search([a_wave(480)], SETTINGS, 2, HERE, fixed)
    assert set(trials[1].values) == {"batch"}
    tried = [search([a_wave(480)], small_settings(max_epochs=1, seed=seed), 2, HERE)[1][1] for seed in (1, 2)]
    assert tried[0].values != tried[1].values


def test_a_trial_that_diverges_is_no_winner() -> None:
    settings = small_settings(max_epochs=1, learning_rate=1e9, gradient_norm=1e12)
    best, trials = search([a_wave(480)], settings, 3, HERE, ["weight_decay"])
    assert np.isnan(trials[0].validation_loss) or trials[0].validation_loss > trials[1].validation_loss
    assert best.learning_rate < 1.0


def test_a_searched_training_is_on_record(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    store, data = a_store(tmp_path), a_file(tmp_path)
    said = answer(capsys, "train", "--data", data, "--step-s", "60", "--store", store.store, *QUICK, "--search", "3")
    assert [trial["number"] for trial in said["search"]] == [0, 1, 2]
    assert not {"hidden", "head"} & set(said["search"][1]["values"])  # said by --set
    best = min(said["search"], key=lambda trial: trial["validation_loss"])
    assert {key: said["settings"][key] for key in best["values"]} == best["values"]
    client = open_client(store, may_create=False)
    written = Path(client.download_artifacts(said["run_id"], "search", str(tmp_path))) / "trials.json"
    assert json.loads(written.read_text()) == said["search"]


def test_every_history_gets_a_net_of_its_own(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    store = a_store(tmp_path)
    files = [text for name in ("east", "west") for text in ("--data", a_file(tmp_path, name=name, seed=len(name)))]
    train = ("train", *files, "--step-s", "60", "--store", store.store, *QUICK)
    answer(capsys, *train, "--promote")
    each = answer(capsys, *train, "--each", "--from", "champion", "--set", "max_epochs=3", "--promote")
    assert [one["name"] for one in each] == ["load-east", "load-west"]
    assert [one["data"][0]["series"] for one in each] == ["east", "west"]
    registry = MlflowRegistry.open(store)
    assert [registry.versions(f"load-{name}")[0].aliases for name in ("east", "west")] == [
        ("challenger", "champion")
    ] * 2
    said = refusal(capsys, *train, "--each", "--checkpoint", str(tmp_path / "fit"))
    assert "one file cannot keep several fits" in said
    said = refusal(capsys, *train, "--search", "2", "--from", "champion")
    assert "keeps its shape" in said


def test_a_backtest_in_two_processes_prints_what_one_does(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    files = [text for name in ("east", "west") for text in ("--data", a_file(tmp_path, name=name, seed=len(name)))]
    arguments = ("backtest", *files, "--models", "last_value,ets", "--origins", "5")
    one, two = answer(capsys, *arguments), answer(capsys, *arguments, "--workers", "2")
    for rows in (one, two):
        for row in rows:
            del row["predict_ms"]  # that is a matter of the clock
    assert one == two
