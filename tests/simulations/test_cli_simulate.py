"""Do ``simulate`` and ``compare`` do what they say, and refuse what cannot be?"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from controller.adapters.sql_audit import SqlAudit
from foresail import main
from simulations.options import RunOptions, settings_of
from simulations.scorecard import Scorecard

ROOT = Path(__file__).resolve().parents[2]
QUICK = ("--profile", "llama-3.1-8b-h100-tp1", "--lead-time-s", "60")


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    """Three minutes at 10 requests/s in our own format."""
    path = tmp_path / "trace.csv"
    arrival_s = np.sort(np.random.default_rng(0).uniform(0, 180, 1800))
    path.write_text("arrival_s,prompt_tokens,output_tokens\n" + "".join(f"{at:.3f},300,20\n" for at in arrival_s))
    return path


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Return exit code, stdout and stderr of a command."""

    def call(*arguments: object) -> tuple[int, str, str]:
        code = main([str(each) for each in arguments])
        out, err = capsys.readouterr()
        return code, out, err

    return call


Run = Callable[..., tuple[int, str, str]]


def simulated(run: Run, *arguments: object) -> dict[str, Any]:
    code, out, err = run("simulate", "--json", *QUICK, *arguments)
    assert (code, err) == (0, "")
    card: dict[str, Any] = json.loads(out)
    return card


# ---- simulate


def test_without_a_trace_generated_load_is_replayed_and_said_to_be(run: Run) -> None:
    code, out, err = run("simulate", "--duration", "60", "--scale", "0.2", *QUICK)
    assert (code, err) == (0, "")
    assert "generated load, not recorded" in " ".join(out.split())


@pytest.mark.parametrize("policy", ["foresail", "hpa", "static", "clairvoyant"])
def test_json_is_all_of_stdout_and_has_every_field(run: Run, trace: Path, policy: str) -> None:
    card = simulated(run, "--trace", trace, "--policy", policy)
    assert tuple(card) == ("trace", "generated", "left_out_requests", "seed", *Scorecard.__slots__)
    assert card["policy"] == policy
    assert card["requests"] == 1800
    assert card["completed"] == 1800
    assert card["violations"] == []
    assert card["gpu_hours"] > 0


def test_without_json_people_get_a_table(run: Run, trace: Path) -> None:
    code, out, err = run("simulate", "--trace", trace, "--policy", "hpa", *QUICK)
    assert (code, err) == (0, "")
    assert "within the objective" in out
    assert "1,800 completed" in out


def test_options_reach_the_run(run: Run, trace: Path) -> None:
    base = simulated(run, "--trace", trace, "--policy", "hpa")
    assert simulated(run, "--trace", trace, "--policy", "hpa", "--scale", "0.5")["requests"] < 1000
    assert simulated(run, "--trace", trace, "--policy", "hpa", "--start", "60", "--duration", "60")["simulated_s"] == 60
    assert simulated(run, "--trace", trace, "--policy", "hpa", "--initial", "3")["peak_replicas"] >= 3
    assert simulated(run, "--trace", trace, "--policy", "hpa", "--min", "5", "--initial", "5")["mean_replicas"] == 5
    strict = simulated(run, "--trace", trace, "--policy", "hpa", "--ttft-s", "0.03", "--attainment", "0.5")
    assert strict["slo_attainment_ratio"] < base["slo_attainment_ratio"]


def test_set_reaches_the_policy_the_rivals_and_the_world(run: Run, trace: Path) -> None:
    base = ("--trace", trace, "--policy", "hpa", "--initial", "2")
    keen = simulated(run, *base, "--set", "hpa.target_ratio=0.001")
    assert keen["mean_replicas"] > 2
    assert simulated(run, *base, "--set", "policy.tick_s=30")["simulated_s"] == 180
    lost = simulated(run, *base, "--fault", "crash@60", "--fault", "crash@60:replica=1")
    short = simulated(
        run, *base, "--fault", "crash@60", "--fault", "crash@60:replica=1", "--set", "fleet.gateway_timeout_s=1"
    )
    assert short["failed"] > lost["failed"]


def test_a_platform_can_be_set_piece_by_piece_and_a_start_up_model_brings_its_lead_time() -> None:
    scattered = RunOptions(
        startup="blis-240s",
        overrides=("platform.spot.notice_s=30", "platform.spot={price_ratio: 0.5}", "platform.nodes.max_nodes=3"),
    )
    settings, _ = settings_of(scattered, 0)
    assert settings.lead_time_s == 240.0
    platform = settings.platform
    assert platform.spot is not None
    assert (platform.spot.price_ratio, platform.spot.notice_s, platform.nodes.max_nodes) == (0.5, 120.0, 3)
    assert platform.startup.name == "blis-240s"
    named = settings_of(RunOptions(overrides=("platform.startup=llm-d-32b",)), 0)[0]
    assert (named.lead_time_s, named.lead_time_p90_s) == (118.0, pytest.approx(118.0 * 1.137))
    assert settings_of(RunOptions(startup="blis-240s", lead_time_s=60.0), 0)[0].lead_time_s == 60.0
    assert settings_of(RunOptions(), 0)[0].lead_time_s == 120.0


def test_spot_nodes_are_cheaper_and_the_same_seed_loses_the_same_ones(run: Run, trace: Path) -> None:
    base = ("--trace", trace, "--policy", "static", "--initial", "2")
    spot = (*base, "--set", "platform.spot={reclaims_per_hour: 60, notice_s: 5, price_ratio: 0.25}")
    plain, first, again = simulated(run, *base), simulated(run, *spot), simulated(run, *spot)
    assert first == again | {"wall_s": first["wall_s"]}
    assert first["decisions_digest"] != plain["decisions_digest"]
    assert first["cost_usd"] / first["gpu_hours"] == pytest.approx(0.25 * plain["cost_usd"] / plain["gpu_hours"])


def test_a_scenario_brings_faults_and_settings(run: Run, trace: Path, tmp_path: Path) -> None:
    scenario = tmp_path / "scenario.yaml"
    scenario.write_text(
        "description: both gone\nfaults: [crash@60, 'crash@60:replica=1']\nset: [fleet.gateway_timeout_s=1]\n"
    )
    base = ("--trace", trace, "--policy", "hpa", "--initial", "2")
    assert simulated(run, *base, "--scenario", scenario)["failed"] > 0


def test_a_settings_file_describes_the_pools(run: Run, trace: Path, tmp_path: Path) -> None:
    settings = tmp_path / "foresail.yaml"
    settings.write_text(
        "policy:\n  objective: {ttft_s: 1.5}\n"
        "  pools:\n    m/p/unified: {profile: llama-3.1-8b-h100-tp1, min_replicas: 4}\n"
    )
    code, out, _ = run("simulate", "--trace", trace, "--policy", "static", "-c", settings, "--json")
    assert code == 0
    assert json.loads(out)["mean_replicas"] == 4
    code, _, err = run("simulate", "--trace", trace, "-c", settings, "--min", "2")
    assert code == 2
    assert "--profile, --min, --max or --prefix-cache" in err


def test_the_audit_has_every_tick_and_can_be_verified(run: Run, trace: Path, tmp_path: Path) -> None:
    path = tmp_path / "audit.sqlite"
    card = simulated(run, "--trace", trace, "--audit", path)
    log = SqlAudit.open_existing(path)
    chain = log.verify()
    log.close()
    assert chain.intact
    assert chain.rows == card["simulated_s"] / 15


def test_equal_seeds_give_equal_digests_in_another_process(run: Run, trace: Path) -> None:
    """Another process orders sets and dicts of text by another hash seed."""
    arguments = ("--trace", str(trace), "--fault", "crash@60", "--seed", "7")
    here = simulated(run, *arguments)["decisions_digest"]
    command = [sys.executable, "-m", "foresail", "simulate", "--json", *QUICK, *arguments]
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, "PYTHONHASHSEED": "4242"}, capture_output=True, check=True
    )
    assert json.loads(done.stdout)["decisions_digest"] == here


# ---- compare


def test_compare_writes_a_report_and_figures(run: Run, trace: Path, tmp_path: Path) -> None:
    out = tmp_path / "made" / "here"
    code, text, err = run(
        "compare",
        "--trace",
        trace,
        "--policies",
        "foresail,hpa,clairvoyant",
        "--seeds",
        2,
        "--out",
        out,
        "--workers",
        1,
        *QUICK,
    )
    assert (code, err) == (0, "")
    assert "clairvoyant" in text
    content = json.loads((out / "compare.json").read_text())
    assert [(each["policy"], each["seed"]) for each in content["runs"]] == [
        (policy, seed) for policy in ("foresail", "hpa", "clairvoyant") for seed in (0, 1)
    ]
    assert [row["gpu_hours_to_clairvoyant"] for row in content["summary"]][2] == 1.0
    assert (out / "report.html").read_text().startswith("<!DOCTYPE html>")
    assert sorted(path.name for path in out.iterdir()) == [
        "compare.json", "pareto.png", "report.html", "runs", "timeline-trace.csv.png",
    ]  # fmt: skip
    assert f"report: {out / 'report.html'}" in text
    assert str(out / "pareto.png") in text.replace("\n", "")
    assert content["headlines"][trace.name] in " ".join(text.split())
    told = shlex.split(content["provenance"]["command"])
    assert told[:4] == ["foresail", "compare", "--trace", str(trace)]
    assert content["provenance"]["traces"][0]["sha256"] == sha256(trace.read_bytes()).hexdigest()


def test_the_command_of_a_report_gets_its_digests_again(run: Run, trace: Path, tmp_path: Path) -> None:
    first = tmp_path / "first"
    run("compare", "--trace", trace, "--policies", "hpa,static", "--seed", 3, "--out", first, "--workers", 1, *QUICK)
    before = json.loads((first / "compare.json").read_text())
    command = shlex.split(before["provenance"]["command"])
    assert run(*command[1:])[0] == 0
    after = json.loads((first / "compare.json").read_text())
    assert [each["decisions_digest"] for each in after["runs"]] == [each["decisions_digest"] for each in before["runs"]]


def test_compare_in_several_processes_finds_what_simulate_finds(run: Run, trace: Path, tmp_path: Path) -> None:
    code, out, _ = run(
        "compare", "--trace", trace, "--policies", "hpa,static", "--seed", 5, "--out", tmp_path, "--json", *QUICK
    )
    assert code == 0
    runs = {each["policy"]: each["decisions_digest"] for each in json.loads(out)["runs"]}
    alone = simulated(run, "--trace", trace, "--policy", "hpa", "--seed", 5)
    assert runs["hpa"] == alone["decisions_digest"]
    assert set(runs) == {"hpa", "static"}


# ---- bad input


def refused(run: Run, trace: Path, *arguments: object, command: str = "simulate") -> str:
    """Return the message of a refusal: exit code 2, nothing on stdout, no traceback."""
    code, out, err = run(command, "--trace", trace, *arguments)
    assert (code, out) == (2, ""), err
    assert "Traceback" not in err
    return err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--policy", "magic"), ("'magic'", "foresail, hpa, keda")),
        (("--profile", "gpt-9"), ("'gpt-9'", "--profile", "llama-3.1-70b-a100-tp4")),
        (("--profile", "llama-3.1-70b-a100-tp4", "--profile", "llama-3.1-8b-h100-tp1"), ("different models",)),
        (("--min", "5", "--max", "2"), ("5", "2", "--min and --max", "give --min 2 or less, or --max 5 or more")),
        (("--max", "20000"), ("--max", "20000")),
        (("--initial", "9", "--max", "4"), ("9", "1 to 4", "--initial")),
        (("--initial", "0"), ("0", "1 to 64", "--initial")),
        (("--lead-time-s", "0"), ("--lead-time-s", "0")),
        (("--lead-time-s", "-5"), ("--lead-time-s", "-5")),
        (("--lead-time-s", "nan"), ("--lead-time-s", "nan")),
        (("--lead-time-s", "1e300"), ("--lead-time-s", "1e+300", "at most 86,400")),
        (("--ttft-s", "inf"), ("--ttft-s", "inf")),
        (("--attainment", "1"), ("--attainment", "1")),
        (("--attainment", "nan"), ("--attainment", "nan", "between 0 and 1")),
        (("--seed", "-1"), ("--seed", "-1")),
        (("--scale", "0"), ("--scale", "0")),
        (("--scale", "-2"), ("--scale", "-2")),
        (("--scale", "inf"), ("--scale", "inf is not a finite number")),
        (("--scale", "1e9"), ("1,800,000,000,000 requests", "at most 50,000,000", "--scale")),
        (("--scale", "20000"), ("copied at most 10,000 times",)),
        (("--scale", "1e-9"), ("no request is left", "1e-09", "--scale")),
        (("--scale", "1e-300", "--start", "60"), ("no request is left", "1e-300")),
        (("--start", "9999"), ("9999", "slice")),
        (("--start", "-1"), ("--start", "-1")),
        (("--duration", "0"), ("--duration", "0")),
        (("--fault", "quake@60"), ("'quake'", "crash")),
        (("--fault", "crash@60:pool=nowhere"), ("'nowhere'",)),
        (("--fault", "crash@181"), ("crash@181", "the last request arrives after 179.")),
        (("--fault", "crash@1e300"), ("crash@1e300", "the last request arrives after 179.")),
        (("--set", "policy.magic=1"), ("policy.magic", "there is no such setting")),
        (("--set", "hpa.magic=1"), ("hpa.magic", "there is no such setting", "hpa.target_ratio")),
        (("--set", "hpa.target_ratio=-1"), ("hpa.target_ratio", "greater than 0")),
        (("--set", "hpa.target_ratio"), ("hpa.target_ratio", "key=value")),
        (("--startup", "quick"), ("--startup quick", "known: plain, stragglers")),
        (("--set", "platform.startup=quick"), ("platform.startup", "known: plain, stragglers")),
        (("--set", "platform.spot.price=1"), ("platform.spot.price", "platform.spot.price_ratio")),
        (("--set", "platform.nodes.max_nodes=-1"), ("platform.nodes.max_nodes", "Most nodes")),
        (("--set", "platform.pools.x.node_group=y"), ("platform.pools", "'x'", "a100-tp4")),
        (("--fault", "reclaim@60:node=x-9"), ("'x-9'", "a100-tp4-node-0")),
        (("--set", "forecast.step_s=20"), ("forecast.step_s", "whole multiple")),
        (("--set", "policy.tick_s=0"), ("policy.tick_s",)),
        (("--set", "policy.tick_s=1e-6"), ("policy.tick_s", ">= 1")),
        (("--set", "policy.tick_s=1e12", "--set", "forecast.step_s=1e12"), ("policy.tick_s", "<= 3600")),
        (("--set", "policy.scaling.burn_rate=1e300"), ("policy.scaling.burn_rate", "<= 10000")),
        (("--set", "policy.lead_time.default_s=1e300"), ("policy.lead_time.default_s", "<= 86400")),
        (("--token-shape", "poetry", "--policy", "hpa"), ("'poetry'", "chat")),
        (("--arrivals", "never", "--policy", "hpa"), ("'never'", "poisson")),
        (("--trace-model", "gpt-9", "--policy", "hpa"), ("gpt-9",)),
        (("--ttft-s", "0.0001", "--policy", "hpa"), ("TTFT", "give --ttft-s 0.", "--profile")),
        (("--config", "nowhere.yaml"), ("nowhere.yaml",)),
        (("--scenario", "nowhere.yaml"), ("nowhere.yaml",)),
        (("--model-dir", "nowhere"), ("nowhere",)),
        (("--model-dir", "nowhere", "--model", "m"), ("--model and --model-dir",)),
        (("--model", "m", "--set", "registry.store=sqlite:////nowhere/at/all.db"), ("nowhere",)),
        (("--model", ""), ("no model is named", "NAME@ALIAS")),
        (("--model", "@"), ("no model is named", "NAME@ALIAS")),
        (("--model", "m@"), ("'m@'", "NAME@ALIAS")),
        (("--audit", "nowhere/audit.sqlite"), ("--audit nowhere/audit.sqlite",)),
    ],
)
def test_bad_options_are_refused_by_name(
    run: Run, trace: Path, arguments: tuple[str, ...], words: tuple[str, ...]
) -> None:
    message = refused(run, trace, *arguments)
    for word in words:
        assert word in message


def test_a_missing_or_empty_trace_is_refused(run: Run, tmp_path: Path) -> None:
    assert "nowhere.csv" in refused(run, tmp_path / "nowhere.csv")
    empty = tmp_path / "empty.csv"
    empty.write_text("")
    assert "empty" in refused(run, empty)


@pytest.mark.parametrize(
    ("lines", "options", "words"),
    [
        ((0, 1e-9), (), ("no request is left",)),
        ((6e9, 1), (), ("6,000,000,001 requests", "at most 50,000,000")),
        ((600, 600), ("--scale", "1e300"), ("1.2e+303 requests",)),
        ((1e18, 1), (), (":2 column requests", "1e+18", "1e+15")),
    ],
)
def test_a_load_series_of_too_much_or_nothing_is_refused(
    run: Run, tmp_path: Path, lines: tuple[float, ...], options: tuple[str, ...], words: tuple[str, ...]
) -> None:
    path = tmp_path / "load.csv"
    path.write_text("t,requests\n" + "".join(f"{60 * step},{load}\n" for step, load in enumerate(lines)))
    message = refused(run, path, *options)
    for word in words:
        assert word in message


def test_a_load_series_of_ages_is_refused(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "load.csv"
    path.write_text("t,requests\n0,10\n1e15,10\n")
    assert "at most 2,500,000 ticks" in refused(run, path)


def test_requests_that_failed_in_the_recording_are_counted(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "burst.csv"
    rows = ("0,A,300,20", "10,A,300,0", "70,A,300,20", "80,A,300,0", "81,B,300,0", "90,A,300,20")
    path.write_text("Timestamp,Model,Request tokens,Response tokens\n" + "\n".join(rows) + "\n")
    assert simulated(run, "--trace", path)["left_out_requests"] == 3
    assert simulated(run, "--trace", path, "--start", "60", "--trace-model", "A")["left_out_requests"] == 1
    assert simulated(run, "--trace", path, "--duration", "5")["left_out_requests"] == 0
    code, out, _ = run("simulate", "--trace", path, "--start", "60", *QUICK)
    assert code == 0
    assert "2 that failed in the recording" in " ".join(out.split())


def test_a_row_that_is_wrong_is_refused_and_leaves_no_audit(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "broken.csv"
    path.write_text("arrival_s,prompt_tokens,output_tokens\n0,10,10\n5,10,-3\n")
    message = refused(run, path, *QUICK, "--audit", tmp_path / "audit.sqlite")
    assert "broken.csv" in message
    assert [each.name for each in tmp_path.iterdir()] == ["broken.csv"]


def test_an_audit_file_that_is_there_is_not_added_to(run: Run, trace: Path, tmp_path: Path) -> None:
    (tmp_path / "audit.sqlite").write_text("precious")
    assert "already" in refused(run, trace, *QUICK, "--audit", tmp_path / "audit.sqlite")
    assert (tmp_path / "audit.sqlite").read_text() == "precious"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("faults: [quake@60]\n", ("'quake'",)),
        ("magic: 1\n", ("magic", "description, workload, steps")),
        ("faults: crash@60\n", ("must be a list, not 'crash@60'", "faults: [crash@600]")),
        ("- a list\n", ("not a scenario",)),
        ("faults: [\n", ("scenario.yaml",)),
        ("set: [policy.magic=1]\n", ("policy.magic",)),
    ],
)
def test_a_scenario_that_is_wrong_is_refused(
    run: Run, trace: Path, tmp_path: Path, text: str, words: tuple[str, ...]
) -> None:
    path = tmp_path / "scenario.yaml"
    path.write_text(text)
    message = refused(run, trace, "--scenario", path)
    for word in words:
        assert word in message


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--policies", "hpa,magic"), ("'magic'", "--policies")),
        (("--policies", "hpa,hpa"), ("twice",)),
        (("--policies", ""), ("--policies",)),
        (("--seeds", "0"), ("--seeds",)),
        (("--engine", "warp"), ("--engine", "warp")),
        (("--workers", "0"), ("--workers",)),
    ],
)
def test_bad_comparisons_are_refused(
    run: Run, trace: Path, tmp_path: Path, arguments: tuple[str, ...], words: tuple[str, ...]
) -> None:
    message = refused(run, trace, "--out", tmp_path / "out", *arguments, command="compare")
    for word in words:
        assert word in message
    assert not (tmp_path / "out").exists()


def test_a_folder_that_cannot_be_written_is_refused_before_anything_runs(run: Run, trace: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert "is not a folder" in refused(run, trace, "--out", tmp_path / "file" / "out", command="compare")
    assert "cannot be written" in refused(run, trace, "--out", "/proc/foresail", command="compare")


def test_one_trace_twice_is_refused_and_two_of_one_name_are_told_apart(run: Run, trace: Path, tmp_path: Path) -> None:
    assert "twice" in refused(run, trace, "--trace", trace, "--out", tmp_path / "out", command="compare")
    other = tmp_path / "other" / trace.name
    other.parent.mkdir()
    other.write_bytes(trace.read_bytes())
    code, out, _ = run(
        "compare",
        "--trace",
        trace,
        "--trace",
        other,
        "--policies",
        "static",
        "--workers",
        1,
        "--json",
        "--out",
        tmp_path,
        *QUICK,
    )
    assert code == 0
    assert [row["trace"] for row in json.loads(out)["summary"]] == [str(trace), str(other)]


def test_a_bad_trace_among_good_ones_ends_a_comparison_with_nothing_written(
    run: Run, trace: Path, tmp_path: Path
) -> None:
    bad = tmp_path / "bad.csv"
    bad.write_text("arrival_s,prompt_tokens,output_tokens\n5,10,10\n0,10,10\n")
    refused(
        run,
        trace,
        "--trace",
        bad,
        "--policies",
        "static",
        "--workers",
        1,
        "--out",
        tmp_path / "out",
        *QUICK,
        command="compare",
    )
    assert not (tmp_path / "out").exists()
