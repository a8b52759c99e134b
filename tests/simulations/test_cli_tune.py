"""Does ``foresail tune`` write what it says, go on where it ended, and refuse what cannot be?"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from foresail import main
from simulations.scenario import read_scenario

Run = Callable[..., tuple[int, str, str]]
QUICK = (
    "--profile",
    "llama-3.1-8b-l40s-tp1",
    "--lead-time-s",
    "30",
    "--seeds",
    "2",
    "--workers",
    "1",
    "--search-share",
    "0.5",
)


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    """Six minutes of two waves, in our own format."""
    path = tmp_path / "waves.csv"
    rng = np.random.default_rng(0)
    at_s = np.sort(np.concatenate([rng.uniform(0, 360, 500), rng.uniform(60, 120, 200), rng.uniform(260, 320, 200)]))
    path.write_text("arrival_s,prompt_tokens,output_tokens\n" + "".join(f"{at:.3f},400,60\n" for at in at_s))
    return path


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Return exit code, stdout and stderr of a command."""

    def call(*arguments: object) -> tuple[int, str, str]:
        code = main([str(each) for each in arguments])
        out, err = capsys.readouterr()
        return code, out, err

    return call


def tuned(run: Run, *arguments: object) -> dict[str, Any]:
    code, out, err = run("tune", "--json", *QUICK, *arguments)
    assert (code, err) == (0, "")
    found: dict[str, Any] = json.loads(out)
    return found


def test_a_wasteful_rival_is_tuned_and_the_folder_says_how(run: Run, trace: Path, tmp_path: Path) -> None:
    """HPA with a target far too low holds many replicas for nothing: any search finds that, and later load agrees."""
    out = tmp_path / "out"
    options = (
        "--trace", trace, "--policy", "hpa", "--set", "hpa.target_ratio=0.02",
        "--set", "hpa.down_window_s=15", "--initial", "6", "--tune", "hpa.target_ratio=0.02:0.8:log",
        "--trials", "6", "--batch", "3", "--max", "8", "--out", out,
    )  # fmt: skip
    found = tuned(run, *options)
    advice = found["advice"]
    assert advice["trial"] > 0
    assert advice["values"]["hpa.target_ratio"] > 0.02
    taken = next(one for one in found["candidates"] if one["taken"])
    assert taken["cost_difference"]["mean"] < 0
    assert taken["cost_difference"]["certain"]
    assert len(found["trials"]) == 6
    assert found["trials"][0]["values"] == {}
    assert json.loads((out / "front.json").read_text()) == found
    assert read_scenario(out / "hpa.tuned.yaml").set == (f"hpa.target_ratio={advice['values']['hpa.target_ratio']}",)
    assert "-  - hpa.target_ratio=0.02\n" in (out / "tuned.diff").read_text()
    page = (out / "tune.html").read_text()
    assert f"Take trial {advice['trial']}" in page
    assert "waves.csv" in page
    assert "http://" not in page.partition("<script")[0]

    again = run("tune", *QUICK, *options)
    assert again[0] == 0
    assert "runs were finished before and are reused" in again[1]
    assert f"Advice: take trial {advice['trial']}" in " ".join(again[1].split())

    broke = tuned(run, *options, "--budget-gpu-hours", "0.001")
    assert broke["advice"]["trial"] == 0
    assert "no trial keeps the budget" in broke["advice"]["why"]
    assert not (out / "hpa.tuned.yaml").exists()  # what was advised before is not what is advised now

    code, _, err = run("tune", *QUICK, *options, "--seed", "7")
    assert code == 2
    assert "trials of another search: seed is 0 there and 7 here" in err


@pytest.mark.parametrize(("policy", "keys"), [
    ("ray-serve", {"ray_serve.target_ratio"}),
    ("dynamo-latency", {"dynamo_latency.up_ratio", "dynamo_latency.down_ratio", "dynamo_latency.kv_of_tested"}),
])  # fmt: skip
def test_a_rival_is_tuned_without_a_word_on_its_settings(
    run: Run, trace: Path, tmp_path: Path, policy: str, keys: set[str]
) -> None:
    options = ("--trace", trace, "--policy", policy, "--trials", "8", "--batch", "4", "--out", tmp_path / "out")
    found = tuned(run, *options)
    assert {knob["key"] for knob in found["space"]} == keys
    assert len(found["trials"]) == 8
    assert all(set(trial["values"]) == keys for trial in found["trials"][1:])
    code, out, _ = run("tune", *QUICK, *options)
    assert code == 0
    assert "Front of 8 trials" in out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--budget-usd", "1", "--budget-gpu-hours", "1"), ("two budgets",)),
        (("--tune", "policy.scaling.magic=1:2"), ("policy.scaling.magic", "no such setting")),
        (("--space", "nowhere.yaml"), ("nowhere.yaml",)),
        (("--policy", "hpa", "--only-named"), ("no setting of hpa is named", "--tune")),
        (("--trials", "1"), ("--trials",)),
        (("--seeds", "1"), ("--seeds",)),
        (("--search-share", "1"), ("--search-share",)),
        (("--margin-ratio", "1"), ("--margin-ratio",)),
        (("--duration", "100"), ("too short to search",)),
        (("--engine", "ray", "--ray-address", "nowhere"), ("'nowhere' is not the address of a Ray cluster",)),
        (("--ttft-s", "0.0001"), ("TTFT", "give --ttft-s 0.")),
        (("--policy", "magic"), ("'magic'",)),
    ],
)
def test_what_cannot_be_is_refused_and_nothing_is_left(
    run: Run, trace: Path, tmp_path: Path, arguments: tuple[str, ...], words: tuple[str, ...]
) -> None:
    code, out, err = run("tune", "--trace", trace, "--out", tmp_path / "out", *QUICK, *arguments)
    assert (code, out) == (2, "")
    for word in words:
        assert word in err
    assert "Traceback" not in err
    assert not (tmp_path / "out").exists()


def test_a_folder_that_cannot_be_written_is_refused(run: Run, trace: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    code, _, err = run("tune", "--trace", trace, "--out", tmp_path / "file" / "out", *QUICK)
    assert code == 2
    assert "is not a folder" in err
