"""What ``foresail profile`` does and refuses on the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from controller.settings import load_settings
from foresail import main
from policies.engine_profile import EngineProfile
from policies.profile_catalogue import profile_named
from simulations.engine_runs import hold_concurrency, replay
from simulations.options import RunOptions, settings_of
from simulations.profile_files import profile_of, profile_yaml, read_profile
from tests.builders_fleet import poisson
from training.measurements import statistics

ENGINE = profile_named("llama-3.1-8b-l40s-tp1")


def answer(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    assert main([*arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def refusal(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(list(arguments)) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "Traceback" not in captured.err
    return captured.err


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table of closed loops as ``ENGINE`` answers them."""
    rows = ["concurrency,requests,prompt_tokens,output_tokens,ttft_ms,tpot_ms,e2e_ms"]
    for clients in (1, 4, 16, 48):
        for prompt, output in ((128, 100), (900, 60), (4000, 20)):
            count = 5 * clients
            lengths = np.full(count, prompt, np.int32), np.full(count, output, np.int32)
            told = statistics(hold_concurrency(ENGINE, clients, *lengths).run.times, np.ones(count, np.bool_))
            times = ",".join(f"{told[m, 'mean'] * 1e3:.6g}" for m in ("ttft_s", "tpot_s", "e2e_s"))
            rows.append(f"{clients},{count},{prompt},{output},{times}")
    path = tmp_path_factory.mktemp("sweep") / "sweep.csv"
    path.write_text("\n".join(rows))
    return path


LIMITS = ("--kv-cache-tokens", str(ENGINE.kv_cache_tokens), "--max-running", "256", "--max-batched-tokens", "2048")


def test_a_sweep_is_fitted_and_the_profile_can_be_used_at_once(
    capsys: pytest.CaptureFixture[str], sweep: Path, tmp_path: Path
) -> None:
    out, plot = tmp_path / "mine.yaml", tmp_path / "fit.png"
    fit = ("profile", "fit", "--input", str(sweep), *LIMITS, "--name", "mine", "--model", "m/x", "--gpu", "l40s")
    told = answer(capsys, *fit, "--out", str(out), "--plot", str(plot))
    assert told["profile"]["decode_base_s"] == pytest.approx(ENGINE.decode_base_s, rel=0.03)
    assert told["profile"]["prefill_per_token_s"] == pytest.approx(ENGINE.prefill_per_token_s, rel=0.05)
    held_out = [error for error in told["errors"] if error["part"] == "held out"]
    assert {error["measure"] for error in held_out} == {"ttft_s", "tpot_s", "e2e_s"}
    assert all(error["absolute"] < 0.05 for error in held_out)
    assert plot.read_bytes().startswith(b"\x89PNG")
    assert read_profile(out) == EngineProfile(**told["profile"])
    settings, _ = settings_of(RunOptions(profiles=(str(out),)), seed=0)  # what simulate and compare start from
    assert [pool.profile for pool in settings.pools.values()] == [read_profile(out)]


def test_a_fitted_profile_can_be_part_of_a_settings_file(tmp_path: Path) -> None:
    indented = "\n".join(f"        {line}" for line in profile_yaml(ENGINE).splitlines())
    config = tmp_path / "foresail.yaml"
    config.write_text(f"policy:\n  pools:\n    x/main/unified:\n      profile:\n{indented}\n")
    assert load_settings(config).policy.pools["x/main/unified"].profile == ENGINE


def test_a_fit_is_readable_for_people(capsys: pytest.CaptureFixture[str], sweep: Path) -> None:
    assert main(["profile", "fit", "--input", str(sweep), *LIMITS]) == 0
    said = capsys.readouterr().out
    assert "decode_per_kv_token_s" in said
    assert "held out" in said
    assert max(map(len, said.splitlines())) <= 80


def test_the_description_beside_a_request_log_gives_the_limits(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    rng = np.random.default_rng(2)
    prompt, output = rng.integers(20, 3000, 150).astype(np.int32), rng.integers(2, 200, 150).astype(np.int32)
    run = replay(ENGINE, poisson(3.0, 150), prompt, output).run
    rows = zip(run.arrived_at, prompt.tolist(), output.tolist(), run.first_token_at, run.finished_at, strict=True)
    lines = [
        {
            "arrival_time": at,
            "queued_ts": at,
            "input_toks": p,
            "output_toks": o,
            "first_token_ts": f,
            "last_token_ts": e,
        }
        for at, p, o, f, e in rows
    ]
    log = tmp_path / "run_requests.jsonl"
    log.write_text("\n".join(map(json.dumps, lines)))
    meta = {
        "model": "meta-llama/Llama-3.1-8B",
        "engine_kwargs": {"tensor_parallel_size": 1, "max_num_seqs": 256, "max_num_batched_tokens": 2048},
        "kv_cache": {"num_gpu_blocks": 11_192, "block_size": 16},
    }
    (tmp_path / "run_meta.json").write_text(json.dumps(meta))
    told = answer(capsys, "profile", "fit", "--input", str(log), "--like", "llama-3.1-8b-h100-tp1")
    assert told["profile"]["kv_cache_tokens"] == 11_191 * 16  # one block is vLLM's own
    assert told["profile"]["kv_bytes_per_token"] == 131_072  # no measurement tells it: that of --like
    assert told["profile"]["decode_base_s"] == pytest.approx(ENGINE.decode_base_s, rel=0.05)
    rows_told = answer(capsys, "profile", "fidelity", "--runs", str(tmp_path))
    assert {(row["engine"], row["part"]) for row in rows_told} == {("run", "fitted"), ("run", "held out")}
    assert all(abs(row["mean"]["e2e_s"]) < 0.05 for row in rows_told)
    assert main(["profile", "fidelity", "--runs", str(tmp_path)]) == 0
    assert "errors of the mean of a run" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("fit",), "either result files or a metrics store"),
        (("fit", "--input", "none.json"), "no such file"),
        (("fit", "--input", "SWEEP"), "--kv-cache-tokens"),
        (("fit", "--input", "SWEEP", "--format", "excel"), "no format is called 'excel'"),
        (("fit", "--input", "SWEEP", "--like", "gpt-9"), "unknown engine profile 'gpt-9'"),
        (("fit", "--input", "SWEEP", *LIMITS[:2], "--max-batched-tokens", "many"), "neither a number nor auto"),
        (("fit", "--input", "SWEEP", *LIMITS[:2], "--max-running", "9000", "--max-batched-tokens", "2048"), "9000"),
        (("fit", "--input", "SWEEP", *LIMITS, "--out", "/none/p.yaml"), "there is no such folder"),
        (("fit", "--prometheus", "http://127.0.0.1:1"), "--model and --like"),
        (("show", "gpt-9"), "unknown engine profile"),
        (("fidelity", "--runs", "/none"), "there is no such folder"),
    ],
)
def test_what_cannot_be_is_refused(
    capsys: pytest.CaptureFixture[str], sweep: Path, arguments: tuple[str, ...], said: str
) -> None:
    given = [str(sweep) if part == "SWEEP" else part for part in arguments]
    assert said in refusal(capsys, "profile", *given)


def test_a_folder_without_runs_is_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert "no run of an engine" in refusal(capsys, "profile", "fidelity", "--runs", str(tmp_path))


def test_profiles_are_listed_and_shown_as_files_that_can_be_read_back(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert "qwen3-32b-h100-tp4" in {each["name"] for each in answer(capsys, "profile", "list")}
    assert main(["profile", "list"]) == 0
    assert "llama-3.1-70b-fp8-h200-tp1" in capsys.readouterr().out
    assert main(["profile", "show", "qwen3-32b-h200-tp1"]) == 0
    path = tmp_path / "q.yaml"
    path.write_text(capsys.readouterr().out)
    assert profile_of(str(path)) == profile_named("qwen3-32b-h200-tp1")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("name: x\n", "model: field required"),
        ("speed: 3\n", "speed: a profile has no such key"),
        ("[1]\n", "it has no keys"),
        ("a: [\n", ":"),
    ],
)
def test_a_file_that_holds_no_profile_is_refused(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, text: str, said: str
) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    refused = refusal(capsys, "simulate", "--profile", str(path))
    assert said in refused
    assert str(path) in refused


def test_a_table_of_silicon_runs_is_checked_against_the_profile_as_shipped(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    shipped = profile_named("llama-3.1-8b-h200-tp1")
    rows = []
    for clients in (2, 4, 8):
        for prompt, output in ((200, 60), (3000, 20)):
            lengths = np.full(10 * clients, prompt, np.int32), np.full(10 * clients, output, np.int32)
            times = hold_concurrency(shipped, clients, *lengths).run.times
            rows.append(
                {
                    "backend": "vllm", "backend_version": "0.19.0", "model_path": "meta-llama/Llama-3.1-8B-Instruct",
                    "system": "h200_sxm", "precision": None, "mode": "agg", "isl": prompt, "osl": output,
                    "batch_size": float(clients), "tp_size": 1.0, "silicon_ttft_ms": times.ttft_s.mean() * 1e3,
                    "silicon_tpot_ms": times.tpot_s.mean() * 1e3,
                }
            )  # fmt: skip
    pd.DataFrame(rows).to_parquet(tmp_path / "silicon.parquet")
    told = answer(capsys, "profile", "fidelity", "--runs", str(tmp_path))
    as_shipped, varied, shorter, fitted, held_out = told
    assert as_shipped["engine"] == "meta-llama/Llama-3.1-8B-Instruct h200 tp1 vllm 0.19.0"
    assert (as_shipped["profile"], as_shipped["part"], as_shipped["observations"]) == (shipped.name, "all", 6)
    assert as_shipped["absolute"] == pytest.approx({"ttft_s": 0.0, "tpot_s": 0.0, "e2e_s": 0.0}, abs=1e-9)
    assert (as_shipped["lengths"], varied["lengths"], shorter["lengths"]) == ([1.0, 1.0], [0.9, 1.1], [0.8, 1.0])
    assert varied["absolute"]["ttft_s"] > 0.05  # requests of equal lengths keep step; these do not
    assert (fitted["observations"], held_out["observations"]) == (4, 2)
    assert fitted["lengths"] == held_out["lengths"] == [1.0, 1.0]
    assert held_out["absolute"]["tpot_s"] < 0.02
