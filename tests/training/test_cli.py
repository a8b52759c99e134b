"""What ``train``, ``backtest`` and ``promote`` do and refuse on the command line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from controller.adapters.mlflow_registry import MlflowRegistry
from controller.adapters.registry_store import RegistrySettings
from foresail import main
from tests.builders_training import a_store, a_wave

QUICK = ["--set", "max_epochs=2", "--set", "hidden=[8]", "--set", "head=8", "--set", "context_steps=16"]


def a_file(folder: Path, steps: int = 480, name: str = "wave", seed: int = 0) -> str:
    series = a_wave(steps, seed=seed)
    path = folder / f"{name}.parquet"
    counts = {
        column: series.values[:, index] * series.step_s
        for index, column in enumerate(("requests", "prompt_tokens", "output_tokens"))
    }
    pq.write_table(pa.table({"t": np.arange(steps) * series.step_s, **counts}), path)
    return str(path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("cli")
    a_file(made)
    a_store(made)
    return made


@pytest.fixture(scope="module")
def data(folder: Path) -> str:
    return str(folder / "wave.parquet")


@pytest.fixture(scope="module")
def store(folder: Path) -> str:
    return f"sqlite:///{folder}/mlflow.db"


def answer(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    assert main([*arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def refusal(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 2) -> str:
    assert main(list(arguments)) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "Traceback" not in captured.err
    return captured.err


def test_a_model_is_trained_judged_and_registered(
    capsys: pytest.CaptureFixture[str], data: str, store: str, folder: Path
) -> None:
    train = ("train", "--data", data, "--step-s", "60", "--store", store, "--name", "trained", *QUICK, "--promote")
    said = answer(capsys, *train)
    assert (said["name"], said["version"], said["aliases"]) == ("trained", "1", ["challenger", "champion"])
    assert said["fit"]["epochs"] == 2
    assert [row["lead_s"] for row in said["test"]] == [120.0, 300.0]
    assert said["data"][0]["series"] == "wave"
    again = answer(capsys, *train)
    # Same history and seed, same net; there is a champion already, so this one has to earn its place.
    assert (again["version"], again["aliases"]) == ("2", ["challenger"])
    assert again["test"][0]["pinball"] == said["test"][0]["pinball"]
    registry = MlflowRegistry.open(RegistrySettings(store=store, cache=folder / "cache"))
    assert [version.aliases for version in registry.versions("trained")] == [("challenger",), ("champion",)]


def test_a_registered_model_is_refined_in_its_own_shape(
    capsys: pytest.CaptureFixture[str], data: str, store: str, folder: Path
) -> None:
    options = ("--store", store, "--name", "refined")
    train = ("train", "--data", data, "--step-s", "60", *options, *QUICK, "--horizon-s", "360", "--promote")
    answer(capsys, *train)
    drifted = a_file(folder, name="drifted", seed=3)
    # Neither step nor horizon nor shape are said: they are the champion's, not the defaults.
    again = answer(capsys, "train", "--data", drifted, *options, "--from", "champion", "--set", "max_epochs=3")
    assert again["version"] == "2"
    assert again["fit"]["epochs"] == 1
    assert (again["settings"]["step_s"], again["settings"]["horizon_s"]) == (60.0, 360.0)
    assert again["settings"]["hidden"] == [8]
    for change, said in (
        (("--step-s", "30"), "step_s 60.0, not 30.0"),
        (("--set", "hidden=[16]"), "hidden 8, not 16"),
        (("--horizon-s", "600"), "lead_steps"),
        (("--model", "lstm_reference"), "kind"),
    ):
        told = refusal(capsys, "train", "--data", drifted, *options, "--from", "champion", *change)
        assert said in told
        assert "--from" in told
    assert "no version or alias '9'" in refusal(capsys, "train", "--data", drifted, *options, "--from", "9")


def test_a_checkpoint_is_gone_when_the_training_is_done_and_what_is_none_is_refused(
    capsys: pytest.CaptureFixture[str], data: str, store: str, tmp_path: Path
) -> None:
    checkpoint = tmp_path / "fit.safetensors"
    train = ("train", "--data", data, "--step-s", "60", "--store", store, "--name", "kept", *QUICK)
    kept = ("--checkpoint", str(checkpoint))
    answer(capsys, *train, *kept)
    assert not checkpoint.exists()
    checkpoint.write_bytes(b"not a fit")
    assert "delete this one" in refusal(capsys, *train, *kept)
    missing = refusal(capsys, *train, "--checkpoint", str(tmp_path / "no" / "fit"))
    assert "there is no such folder" in missing


@pytest.mark.parametrize(
    ("times", "said"),
    [
        ((0, 60, 60, 120), "do not ascend"),
        ((0, 60, 180, 120), "do not ascend"),
        ((0, 60, 107, 180), "evenly spaced"),
    ],
)
def test_histories_with_times_that_make_no_even_steps_are_refused_by_row(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, store: str, times: tuple[int, ...], said: str
) -> None:
    path = tmp_path / "uneven.csv"
    rest = range(240, 60 * 480, 60)
    path.write_text("t,requests\n" + "".join(f"{at},10\n" for at in (*times, *rest)))
    told = refusal(capsys, "train", "--data", str(path), "--step-s", "60", "--store", store, *QUICK)
    assert said in told
    assert "uneven.csv" in told


def test_channels_that_were_not_recorded_are_not_learned_from(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, store: str
) -> None:
    path = tmp_path / "requests.csv"
    rates = a_wave(480).values[:, 0]
    path.write_text("t,requests\n" + "".join(f"{60 * i},{60 * rate:.3f}\n" for i, rate in enumerate(rates)))
    options = ("--step-s", "60", "--store", store, "--name", "requests", *QUICK)
    said = answer(capsys, "train", "--data", str(path), *options)
    assert said["settings"]["channels"] == ["requests_per_s"]
    assert "not recorded" in said["data"][0]["notes"][0]


def test_a_reference_stack_is_trained_too(capsys: pytest.CaptureFixture[str], data: str, store: str) -> None:
    assert (
        main(["train", "--data", data, "--model", "lstm_reference", "--step-s", "60", "--store", store,
              "--name", "reference", "--set", "max_epochs=1", "--set", "context_steps=16"]) == 0
    )  # fmt: skip
    out = capsys.readouterr().out
    assert "reference version 1 registered as challenger" in out
    assert "all 1 epochs done" in out


def test_promotion_follows_the_verdict_and_can_be_forced_with_a_reason(
    capsys: pytest.CaptureFixture[str], data: str, store: str, folder: Path
) -> None:
    options = ("--data", data, "--store", store, "--name", "rival")
    train = ("train", *options, "--step-s", "60", *QUICK)
    answer(capsys, *train)
    promote = ("promote", *options, "--window-s", "1800", "--seeds", "1")
    first = answer(capsys, *promote, "--force", "first one", "--set", "policy.objective.ttft_s=5")
    assert [(run["model"], run["seed"]) for run in first["runs"]] == [("version 1", 0), ("no model", 0)]
    assert [each["measure"] for each in first["comparisons"]][2:] == ["missed requests", "GPU hours"]
    # An untaught second one: its learning rate is next to nothing.
    answer(capsys, *train, "--set", "learning_rate=1e-9")
    assert main([*promote, "--json"]) == 1
    refused = json.loads(capsys.readouterr().out)
    registry = MlflowRegistry.open(RegistrySettings(store=store, cache=folder / "cache"))
    assert refused["promoted"] is False
    assert "more than the tolerance" in " ".join(refused["reasons"])
    assert registry.versions("rival")[1].aliases == ("champion",)
    assert main([*promote, "--force", "a look at it"]) == 0
    shown = capsys.readouterr().out
    assert "wave, in the closed loop: 0.5 hours from hour" in shown
    assert "…" not in shown
    assert "- closed loop:" in shown
    registry.point("rival", "champion", "1")
    forced = answer(capsys, *promote, "--force", "the champion was fitted to another site")
    assert forced["promoted"] is True
    assert forced["passed"] is False
    assert registry.versions("rival")[0].aliases == ("challenger", "champion")
    assert answer(capsys, "promote", *options)["reasons"] == ["it is the champion already"]
    # One that was rolled back serves nobody, and is no rival, least of all to itself.
    registry.tag("rival", "2", {"rolled_back": "too many misses"})
    alone = answer(capsys, *promote, "--force", "a second chance")
    assert [run["model"] for run in alone["runs"]] == ["version 2", "no model"]


def test_a_tampered_challenger_is_not_promoted(
    capsys: pytest.CaptureFixture[str], data: str, store: str, folder: Path
) -> None:
    options = ("--data", data, "--store", store, "--name", "tampered")
    answer(capsys, "train", *options, "--step-s", "60", *QUICK)
    newest = max((folder / "artifacts").iterdir(), key=lambda run: run.stat().st_mtime_ns)
    weights = newest / "artifacts" / "model" / "weights.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(bytes(content))
    said = refusal(capsys, "promote", *options, "--force", "no matter what")
    assert "SHA-256 differs" in said


def test_a_backtest_prints_the_fields_of_the_contract(
    capsys: pytest.CaptureFixture[str], data: str, tmp_path: Path
) -> None:
    forecasts = tmp_path / "f.parquet"
    rows = answer(
        capsys, "backtest", "--data", data, "--models", "last_value,seasonal_day,lstm_quantile", "--lead-s", "120,300",
        "--origins", "5", "--forecasts", str(forecasts), *QUICK,
    )  # fmt: skip
    assert [(row["model"], row["lead_s"]) for row in rows] == [
        (model, lead) for model in ("last_value", "seasonal_day", "lstm_quantile") for lead in (120.0, 300.0)
    ]
    contract = {
        "model", "series", "lead_s", "wape", "pinball", "pinball_normalised", "crps", "coverage_80", "coverage_90",
        "coverage_95", "skill_vs_last_value", "fit_s", "predict_ms",
    }  # fmt: skip
    assert all(contract <= set(row) for row in rows)
    assert rows[2]["answered_ratio"] == 0.0  # eight hours of history hold no yesterday
    table = pq.read_table(forecasts).to_pandas()
    assert set(table.model.astype(str)) == {"last_value", "seasonal_day", "lstm_quantile"}


def test_a_backtest_reads_well_on_eighty_columns(
    capsys: pytest.CaptureFixture[str], data: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert main(["backtest", "--data", data, "--models", "last_value,ets,seasonal_day", "--origins", "3"]) == 0
    out = capsys.readouterr().out
    assert "seasonal_day stepped back at 100% of the origins" in out
    assert "…" not in out
    assert max(map(len, out.splitlines())) <= 110


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("train", "--horizon-s", "60", "--lead-time-s", "120"), "horizon_s 60 is shorter than lead_time_s 120"),
        (("train", "--model", "prophet"), "lstm_reference"),
        (("train", "--max-fit-s", "0"), "Time budget"),
        (("train", "--step-s", "-1"), "step"),
        (("train", "--seed", "-1"), "seed"),
        (("train", "--max-fit-s", "inf"), "finite"),
        (("train", "--step-s", "1e-9"), "from a second to a week"),
        (("train", "--step-s", "1e300"), "from a second to a week"),
        (("train", "--lead-time-s", "inf"), "--lead-time-s: input should be a finite number"),
        (("train", "--lead-time-s", "1e9"), "--lead-time-s: lead_time_s 1e+09 is more than 4,096 steps of 60 s"),
        (("train", "--horizon-s", "1e300"), "--horizon-s: horizon_s 1e+300 is more than 4,096 steps of 60 s"),
        (("train", "--horizon-s", "nan"), "--horizon-s: input"),
        (("train", "--season-s", "nan"), "--season-s: input"),
        (("train", "--season-s", "0"), "greater than 0"),
        (("train", "--season-s", "-3600"), "greater than 0"),
        (("train", "--season-s", "1e300"), "at most 60 weeks"),
        (("train", "--season-s", "3600", "--season-s", "3600"), "given twice"),
        (("train", "--set", "hidden=[0]"), "--set hidden"),
        (("train", "--set", "lead_steps=[5,2]"), "must ascend"),
        (("train", "--set", 'channels=["requests"]'), "no channel 'requests'"),
        (("train", "--set", "test_ratio=0.79"), "less than a tenth"),
        (("train", "--store", ""), "--store"),
        (("train", "--set", "epochs=3"), "max_epochs"),
        (("train", "--set", "seed=3"), "option of its own"),
        (("train", "--name", "../x"), "cannot be the name"),
        (("backtest", "--models", "ets,profet"), "last_value"),
        (("backtest", "--models", "ets,ets"), "named twice"),
        (("backtest", "--step-s", "1e-9"), "a step cannot be 1e-09 s long"),
        (("backtest", "--step-s", "nan"), "a step cannot be nan s long"),
        (("backtest", "--season-s", "inf"), "--season-s"),
        (("backtest", "--max-fit-s", "nan"), "--max-fit-s"),
        (("backtest", "--lead-s", "1e300"), "at most"),
        (("backtest", "--lead-s", "120,x"), "is no list of leads"),
        (("backtest", "--lead-s", "0"), "is no list of leads"),
        (("backtest", "--step-s", "15"), "whole multiple"),
        (("backtest", "--lead-s", "9000000"), "too few to test"),
        (("backtest", "--forecasts", "/absent/folder/f.parquet"), "cannot write into"),
        (("promote", "--name", "nobody"), "known versions: none"),
        (("promote", "--force", " "), "needs a reason"),
        (("promote", "--tolerance", "-1"), "tolerance"),
        (("promote", "--tolerance", "nan"), "tolerance"),
        (("promote", "--held-out-ratio", "inf"), "held-out-ratio"),
        (("promote", "--lead-s", ","), "--lead-s"),
        (("promote", "--gpu-tolerance", "2"), "--gpu-tolerance"),
        (("promote", "--attainment-tolerance", "nan"), "--attainment-tolerance"),
        (("promote", "--window-s", "10"), "--window-s"),
        (("promote", "--seeds", "0"), "--seeds"),
        (("promote", "--store", ""), "--store"),
    ],
)
def test_what_cannot_be_used_is_named_with_a_remedy(
    capsys: pytest.CaptureFixture[str], data: str, store: str, arguments: tuple[str, ...], expected: str
) -> None:
    stored = () if arguments[0] == "backtest" else ("--store", store)
    said = refusal(capsys, arguments[0], "--data", data, *stored, *arguments[1:])
    assert expected in said
    assert "->" in said


@pytest.mark.parametrize(
    "arguments",
    [("--step-s", "1e-9"), ("--lead-time-s", "1e9"), ("--season-s", "nan"), ("--data", "/absent.csv"), ("--name", "/")],
)
def test_what_train_refuses_makes_no_store(
    capsys: pytest.CaptureFixture[str], data: str, tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    refusal(capsys, "train", "--data", data, "--store", f"sqlite:///{tmp_path}/mlflow.db", *arguments)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("steps", [2, 20, 60])
def test_too_little_history_says_how_much_is_needed(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, store: str, steps: int
) -> None:
    short = a_file(tmp_path, steps=steps, name="short")
    said = refusal(capsys, "train", "--data", short, "--step-s", "60", "--store", store)
    assert f"{steps} steps of 60 s, too few to learn from" in said
    assert "give at least" in said


@pytest.mark.parametrize("command", ["train", "backtest"])
def test_missing_and_empty_files_are_refused(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, store: str, command: str
) -> None:
    stored = () if command == "backtest" else ("--store", store)
    assert "no such file" in refusal(capsys, command, "--data", str(tmp_path / "absent.csv"), *stored)
    (tmp_path / "empty.csv").touch()
    assert "empty" in refusal(capsys, command, "--data", str(tmp_path / "empty.csv"), *stored)


@pytest.mark.parametrize("command", ["train", "promote"])
def test_a_store_that_cannot_be_opened_is_refused_before_any_work(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, data: str, command: str
) -> None:
    (tmp_path / "notes.db").write_text("not a database, just some notes")
    for store in (f"sqlite:///{tmp_path}/absent/mlflow.db", f"sqlite:///{tmp_path}/notes.db", "mlflow.db"):
        assert "->" in refusal(capsys, command, "--data", data, "--store", store)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["notes.db"]


def test_two_files_of_one_name_are_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path, data: str) -> None:
    assert "the same name" in refusal(capsys, "backtest", "--data", data, "--data", a_file(tmp_path))


def test_help_needs_neither_torch_nor_mlflow_nor_pandas() -> None:
    code = (
        "import sys, training.cli, training.train_cli, training.promote_cli;"
        "heavy = {'torch', 'mlflow', 'pandas', 'matplotlib', 'statsmodels', 'rich'};"
        "print(sorted(heavy & set(sys.modules)))"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, env=environment)
    assert done.stdout.strip() == "[]"
