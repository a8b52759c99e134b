"""Do ``trace make``, ``trace show`` and ``scenarios`` do what they say, and refuse what cannot be?"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from foresail import main
from simulations.trace_files import open_trace
from tests.builders_traces import all_requests, write_text

Run = Callable[..., tuple[int, str, str]]
ROWS = ("arrival_s,prompt_tokens,output_tokens", "0,300,20", "30,300,20", "90,100,40")
QUICK = ("--profile", "llama-3.1-8b-h100-tp1", "--lead-time-s", "60", "--policy", "hpa", "--json")


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Return exit code, stdout and stderr of a command."""

    def call(*arguments: object) -> tuple[int, str, str]:
        code = main([str(each) for each in arguments])
        out, err = capsys.readouterr()
        return code, out, err

    return call


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    return write_text(tmp_path / "t.csv", *ROWS)


def test_a_trace_is_made_step_by_step(run: Run, trace: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.parquet"
    code, text, err = run("trace", "make", "--from", trace, "--from", trace, "--step", "warp:2", "--step", "shift:5",
                          "--out", out, "--json")  # fmt: skip
    assert (code, err) == (0, "")
    assert json.loads(text)["requests"] == 6
    assert all_requests(open_trace(out)).arrival_s.tolist() == [5, 65, 185, 185, 245, 365]
    code, text, _ = run("trace", "make", "--from", trace, "--out", out)
    assert code == 0
    assert "3 requests" in text


def test_a_trace_is_shown(run: Run, trace: Path, tmp_path: Path) -> None:
    code, text, err = run("trace", "show", trace, "--plot", tmp_path / "p.png")
    assert (code, err) == (0, "")
    assert "prompt tokens" in text
    assert (tmp_path / "p.png").exists()
    code, text, _ = run("trace", "show", trace, "--step", "repeat:2", "--json")
    assert code == 0
    assert json.loads(text)["requests"] == 6


def test_scenarios_are_listed_and_shown(run: Run) -> None:
    code, text, _ = run("scenarios", "--json")
    assert code == 0
    names = [each["name"] for each in json.loads(text)]
    assert "llm-d-steps" in names
    code, text, _ = run("scenarios")
    assert all(name in text for name in names)
    code, text, _ = run("trace", "show", "--scenario", "llm-d-steps", "--json")
    assert json.loads(text)["requests"] == 7341


SMALL = (
    "workload:",
    "  segments: [{for_s: 300, requests_per_s: 6}]",
    "steps: ['crowd@60:peak=3,ramp=30,length=60', 'outage@200:length=30,retry=0.8,spread=10']",
)


def test_a_scenario_replays_as_its_file_does(run: Run, tmp_path: Path) -> None:
    scenario, out = write_text(tmp_path / "s.yaml", *SMALL), tmp_path / "out.parquet"
    assert run("trace", "make", "--scenario", scenario, "--out", out)[0] == 0
    cards = []
    for source in (("--scenario", scenario), ("--trace", out)):
        code, text, err = run("simulate", *source, *QUICK)
        assert (code, err) == (0, "")
        card = json.loads(text)
        assert card["generated"]
        cards.append({key: value for key, value in card.items() if key not in ("trace", "wall_s")})
    assert cards[0] == cards[1]
    assert cards[0]["requests"] > 1800


def test_a_comparison_takes_a_scenario_in_the_place_of_a_trace(run: Run, tmp_path: Path) -> None:
    scenario = write_text(tmp_path / "s.yaml", *SMALL)
    code, text, err = run("compare", "--scenario", scenario, "--policies", "hpa,static", "--workers", "1", "--json",
                          "--out", tmp_path / "out", *QUICK[:4])  # fmt: skip
    assert (code, err) == (0, "")
    assert {row["trace"] for row in json.loads(text)["summary"]} == {"s"}


def test_client_rates_are_replayed_as_they_are(run: Run, tmp_path: Path) -> None:
    rows = [f"{t},{c},{r},{cv},Gamma" for c, r, cv in ((1, 3, 2.5), (2, 1, 0.9)) for t in (0, 60)]
    path = write_text(tmp_path / "c.csv", "t,client,rate,cv,pattern", *rows)
    code, text, err = run("simulate", "--trace", path, "--token-shape", "fixed:200/20", *QUICK)
    assert (code, err) == (0, "")
    assert json.loads(text)["requests"] == 480
    code, text, _ = run("simulate", "--trace", path, "--trace-model", "2", *QUICK)
    assert json.loads(text)["requests"] == 120


def test_lengths_are_taken_from_a_file_of_requests(run: Run, trace: Path, tmp_path: Path) -> None:
    rates = write_text(tmp_path / "r.csv", "t,requests", "0,600", "60,600")
    out = tmp_path / "out.parquet"
    assert run("trace", "make", "--from", rates, "--token-shape", trace, "--out", out)[0] == 0
    got = all_requests(open_trace(out))
    assert set(zip(got.prompt_tokens.tolist(), got.output_tokens.tolist(), strict=True)) == {(300, 20), (100, 40)}
    assert np.mean(got.prompt_tokens == 100) == pytest.approx(1 / 3, abs=0.07)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("make", "--out", "OUT"), ("no trace to begin with", "--scenario")),
        (("show",), ("no trace to begin with",)),
        (("make", "--from", "nowhere.csv", "--out", "OUT"), ("nowhere.csv", "no such file")),
        (("make", "--from", "TRACE", "--out", "nowhere/at.parquet"), ("--out nowhere/at.parquet",)),
        (("make", "--from", "TRACE", "--step", "warp:0", "--out", "OUT"), ("'warp:0'", "more than 0")),
        (("make", "--from", "TRACE", "--step", "crowd@1e6", "--out", "OUT"), ("nothing to change",)),
        (("make", "--from", "TRACE", "--step", "slice@1e6", "--out", "OUT"), ("no request arrives",)),
        (("make", "--from", "TRACE", "--step", "scale:1e-9", "--out", "OUT"), ("no request is left",)),
        (("show", "TRACE", "--step", "scale:1e-9"), ("no request is left",)),
        (("show", "RATES", "--token-shape", "x" * 300), ("no token shape is called",)),
        (("show", "TRACE", "--plot", "p.docx"), (".docx", ".png")),
        (("show", "TRACE", "--plot", "nowhere/p.png"), ("--plot nowhere/p.png",)),
        (("show", "--scenario", "magic"), ("magic", "llm-d-steps")),
        (("show", "RATES", "--token-shape", "RATES"), ("taken from requests",)),
        (("show", "RATES", "--token-shape", "fixed:0/3"), ("fixed:0/3", "from 1")),
        (("show", "RATES", "--token-shape", "fixed:3"), ("fixed:3", "PROMPT/OUTPUT")),
        (("show", "RATES", "--token-shape", "lognormal:10/20/9"), ("sigma",)),
    ],
    ids=str,
)
def test_bad_input_is_refused(
    run: Run, trace: Path, tmp_path: Path, arguments: tuple[str, ...], words: tuple[str, ...]
) -> None:
    rates = write_text(tmp_path / "r.csv", "t,requests", "0,600", "60,600")
    places = {"TRACE": trace, "RATES": rates, "OUT": tmp_path / "out.parquet"}
    code, out, err = run("trace", *(places.get(each, each) for each in arguments))
    assert (code, out) == (2, "")
    for word in words:
        assert word in err
    assert not (tmp_path / "out.parquet").exists()
