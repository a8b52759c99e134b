"""Does ``foresail bench tick`` measure whole ticks of a fleet that a real Prometheus scrapes?"""

from __future__ import annotations

import pytest

import foresail
from controller.bench import measure_ticks
from controller.errors import BadInput


def test_ticks_of_a_small_fleet_are_measured_phase_by_phase() -> None:
    told: list[str] = []
    figures = measure_ticks(4, 12, ticks=3, history_s=3600.0, tell=told.append, scrape_interval_s=1.0)
    assert (figures["workloads"], figures["replicas"]) == (4, 12)
    assert set(figures["phases"]) == {"query", "parse", "observe", "forecast", "decide"}
    assert 0.0 < figures["phases"]["query"]["p50_s"] < figures["tick_p50_s"] <= figures["tick_p99_s"]
    assert figures["rss_mb"] > 10.0
    assert told


@pytest.mark.usefixtures("logging_as_before")
def test_without_a_prometheus_the_command_says_how_to_get_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", "")
    assert foresail.main(["bench", "tick", "--workloads", "1", "--replicas", "1"]) == 2
    assert "apt-get install --no-install-recommends prometheus" in capsys.readouterr().err


def test_fewer_replicas_than_workloads_are_bad_input(capsys: pytest.CaptureFixture[str]) -> None:
    assert foresail.main(["bench", "tick", "--workloads", "5", "--replicas", "4"]) == 2
    assert "fewer than" in capsys.readouterr().err


def test_the_figures_of_the_command_are_those_of_the_function(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(BadInput, match="no prometheus"):
        measure_ticks(1, 1, 2, 0.0)
