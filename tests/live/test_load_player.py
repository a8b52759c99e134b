"""Does the load player keep to the trace whatever the engine does, and see what a client sees?"""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest

from policies.profile_catalogue import profile_named
from simulations.live.engine_process import ROOT, EngineProcess, engine_process
from simulations.live.fidelity import compared, measured, simulated
from simulations.live.load_cli import trace_part
from simulations.live.load_client import Target
from simulations.live.load_player import LoadPlayer, LoadSettings
from simulations.live.load_report import LoadRow, LoadSummary

PROFILE = profile_named("llama-3.1-8b-h100-tp1")
SLACK_S = 20.0


@pytest.fixture(scope="module")
def shared() -> Iterator[EngineProcess]:
    with engine_process("--id", "r-1", "--profile", PROFILE.name) as engine:
        for _ in range(200):
            if httpx.get(f"{engine.url}/health").status_code == 200:
                break
            threading.Event().wait(0.05)
        yield engine


@pytest.fixture
def engine(shared: EngineProcess) -> Iterator[EngineProcess]:
    yield shared
    shared.clear_faults()


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    """120 requests in 6 seconds, 10 to 60 tokens each."""
    rng = np.random.default_rng(3)
    arrivals = np.sort(rng.uniform(0, 6, 120))
    rows = [f"{at:.4f},{rng.integers(20, 800)},{rng.integers(10, 60)}" for at in arrivals]
    path = tmp_path / "trace.csv"
    path.write_text("arrival_s,prompt_tokens,output_tokens\n" + "\n".join(rows) + "\n")
    return path


def settings_for(engine: EngineProcess, **changes: float) -> LoadSettings:
    return LoadSettings(Target.parse(engine.url), PROFILE.model, **changes)  # type: ignore[arg-type]


def played(trace: Path, settings: LoadSettings, stop_after_s: float | None = None) -> tuple[LoadSummary, list[LoadRow]]:
    async def play() -> tuple[LoadSummary, list[LoadRow]]:
        rows: list[LoadRow] = []
        player = LoadPlayer(trace_part(str(trace)), settings, rows.append)
        if stop_after_s is not None:
            asyncio.get_running_loop().call_later(stop_after_s, player.stop)
        return await player.play(), rows

    return asyncio.run(play())


def test_the_command_replays_a_trace_and_writes_a_row_per_request(
    engine: EngineProcess, trace: Path, tmp_path: Path
) -> None:
    out = tmp_path / "rows.jsonl"
    command = [
        sys.executable, "-m", "simulations.live.load_player", "--trace", str(trace), "--target", engine.url,
        "--model", PROFILE.model, "--speed", "2", "--out", str(out), "--json",
    ]  # fmt: skip
    ended = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False, timeout=60)
    assert ended.returncode == 0, ended.stderr
    summary = json.loads(ended.stdout)
    assert (summary["requests"], summary["completed"], summary["client_visible_errors"]) == (120, 120, 0)
    assert summary["slo_attainment_ratio"] == 1.0
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert sorted(row["row"] for row in rows) == list(range(120))
    assert all(row["tokens"] == row["asked_tokens"] and row["replica"] == "r-1" for row in rows)
    assert max(row["arrival_s"] for row in rows) < 3.0  # twice as fast


def test_requests_are_sent_on_time_to_an_engine_that_answers_nothing(engine: EngineProcess, trace: Path) -> None:
    engine.inflict(kind="hang")
    summary, rows = played(trace, settings_for(engine, timeout_s=2.0, speed=2.0))
    assert summary.errors == {"timeout": 120}
    assert summary.client_visible_errors == 120
    assert summary.lateness_p99_s < 0.25  # 2 ms on an idle machine; never the 2 s that each answer is waited for
    assert summary.peak_in_flight > 60
    assert summary.slo_attainment_ratio == 0.0
    assert [row.error for row in rows] == ["timeout"] * 120


def test_what_does_not_fit_in_flight_is_not_sent_and_not_delayed(engine: EngineProcess, trace: Path) -> None:
    engine.inflict(kind="hang")
    summary, _ = played(trace, settings_for(engine, timeout_s=4.0, speed=6.0, max_in_flight=10))
    assert summary.errors == {"not-sent": 110, "timeout": 10}
    assert summary.client_visible_errors == 10
    assert summary.peak_in_flight == 10


def test_errors_of_the_engine_are_counted_by_status(engine: EngineProcess, trace: Path) -> None:
    engine.inflict(kind="errors", share=0.5, status=503)
    summary, rows = played(trace, settings_for(engine, speed=6.0))
    assert summary.errors == {"http-503": 60}
    assert {row.status for row in rows if row.error} == {503}
    assert summary.completed == 60


def test_a_player_that_is_stopped_waits_for_its_grace_and_blames_nobody(engine: EngineProcess, trace: Path) -> None:
    engine.inflict(kind="hang")
    summary, _ = played(trace, settings_for(engine, grace_s=0.2), stop_after_s=1.0)
    assert summary.requests == summary.unfinished > 5
    assert (summary.failed, summary.completed) == (0, 0)
    assert summary.wall_s < 3.0


def test_a_killed_engine_cuts_streams_and_refuses_connections_and_all_of_it_counts(trace: Path) -> None:
    with engine_process("--profile", PROFILE.name) as engine:
        killing = threading.Timer(2.0, lambda: engine.process.send_signal(signal.SIGKILL))
        engine.inflict(kind="slow", factor=10.0)  # so that streams are open when it goes
        killing.start()
        summary, rows = played(trace, settings_for(engine))
        killing.join()
    assert set(summary.errors) <= {"cut", "closed", "connect"}
    assert summary.errors["cut"] >= 3
    assert summary.errors["connect"] >= 50
    assert summary.completed + summary.client_visible_errors == 120
    cut = [row for row in rows if row.error == "cut"]
    assert all(row.tokens < row.asked_tokens for row in cut)


def test_clients_see_the_latencies_that_the_simulator_computes(engine: EngineProcess, trace: Path) -> None:
    part = trace_part(str(trace))
    rows = asyncio.run(measured(part, settings_for(engine)))
    fidelity = compared(rows, simulated(part, PROFILE))
    assert fidelity.completed == 120
    # Timers of a millisecond, loopback and the two processes' turns on a busy machine; idle: 3 ms and 0.05 ms.
    assert fidelity.ttft_error_p50_s < 0.030
    assert fidelity.tpot_error_p50_s < 0.002
