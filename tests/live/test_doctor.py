"""Does ``foresail doctor`` say what a real Prometheus has, what it lacks, and what that costs?"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import foresail
from tests.builders import KEY
from tests.builders_live_fleet import ScrapedFleet, WatchedLoop
from tests.builders_prometheus import Pages, free_port


@pytest.fixture
def config(fleet: ScrapedFleet, tmp_path: Path) -> Path:
    """Settings for the scraped fleet, once it is seen."""
    loop = WatchedLoop(fleet)
    loop.until_well()
    loop.close()
    file = tmp_path / "foresail.yaml"
    file.write_text(
        f"policy:\n  pools:\n    {KEY}:\n      profile: llama-3.1-8b-l40s-tp1\nprometheus:\n  url: {fleet.front.url}\n"
    )
    return file


def doctor(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, dict[str, Any]]:
    code = foresail.main(["doctor", *arguments, "--json"])
    return code, json.loads(capsys.readouterr().out)


def test_a_fleet_that_can_be_judged_is_called_well(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, told = doctor(capsys, "-c", str(config))
    assert code == 0
    assert told["ok"]
    assert told["server"].startswith("Prometheus 2.")
    assert abs(told["clock_ahead_s"]) < 2.0
    names = {finding["signal"]: finding["metrics"] for finding in told["signals"]}
    assert names["kv_cache_ratio"] == ["vllm:kv_cache_usage_perc"]
    assert names["finished_requests_total"] == ["vllm:request_success_total{finished_reason!=abort|error}"]
    assert names["in_flight_requests"] == []
    costs = {finding["signal"]: finding["cost"] for finding in told["signals"]}
    assert "hangs" in costs["in_flight_requests"]
    assert told["pools"] == [
        {"model": KEY.model, "pool": KEY.pool, "expected": "1 to 64", "targets": 4, "up": 4, "reporting": 4}
    ]
    # Up to half a minute before, an earlier test may have let counters begin anew.
    assert 0.0 < told["load"][KEY.model]["requests_per_s"] <= 1.2 * 8.0


def test_people_get_the_same_as_tables(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert foresail.main(["doctor", "-c", str(config)]) == 0
    text = capsys.readouterr().out
    assert "vllm:num_requests_running" in text
    assert "MISSING" in text
    assert "Problems\n  none" in text


def test_pods_that_the_platform_does_not_know_are_named(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pool = {
        "model": KEY.model, "pool": KEY.pool, "role": "unified", "desired": 3, "version": 1, "gpus_per_replica": 1,
        "usd_per_replica_hour": 1.0, "revision": "1", "stable_revision": "1",
        "replicas": [
            {"id": name, "phase": "ready", "requested_at": 1.0, "since_at": 1.0, "revision": "1", "node": "",
             "restarts": 0, "cordoned": False}
            for name in ("r0", "r1", "r2")
        ],
    }  # fmt: skip
    platform = Pages({"/v1/pools": json.dumps([pool])})
    code, told = doctor(capsys, "-c", str(config), f"--set=platform.url=http://127.0.0.1:{platform.port}")
    platform.close()
    assert code == 0
    (note,) = told["problems"]
    assert "1 pod that the platform does not know, and which are ignored: r3" in note["what"]
    code, told = doctor(capsys, "-c", str(config), f"--set=platform.url=http://127.0.0.1:{platform.port}")
    assert code == 0  # a platform that is away leaves what the metrics store tells
    assert "does not answer" in told["problems"][0]["what"]


def test_a_pool_that_nobody_scrapes_is_a_problem(
    config: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("controller.doctor_store._BETWEEN_LOOKS_S", 0.5)
    other = "--set=policy.pools.other/b/unified={profile: llama-3.1-8b-l40s-tp1}"
    code, told = doctor(capsys, "-c", str(config), other)
    assert code == 1
    problems = [problem["what"] for problem in told["problems"] if problem["fatal"]]
    assert "pool b of other has no target" in problems
    assert "the offered load of other is not observed" in problems


def test_a_match_that_fits_nothing_leaves_nobody_who_reports(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, told = doctor(capsys, "-c", str(config), "--set=prometheus.match={nobody: has}")
    assert code == 1
    assert told["problems"][0]["what"] == "there is no series of any known engine or gateway"


def test_a_store_that_is_not_there_fails_and_a_bad_setting_is_bad_input(capsys: pytest.CaptureFixture[str]) -> None:
    code, told = doctor(capsys, f"--set=prometheus.url=http://127.0.0.1:{free_port()}")
    assert code == 1
    assert not told["ok"]
    assert "cannot be reached" in told["problems"][0]["what"]
    assert foresail.main(["doctor", "--set=prometheus.url=file:///etc/passwd", "--json"]) == 2
    assert "only http and https" in capsys.readouterr().err
