"""Does ``foresail bench tick --cluster`` measure the real cache and whole ticks, on an API of another process?"""

from __future__ import annotations

import json
import shutil
from collections import Counter

import pytest
import structlog

import foresail
from simulations import bench_tick
from simulations.bench_cluster import measure_cluster
from simulations.bench_tick import show
from simulations.cluster_process import NAMESPACE, LargeFleet
from simulations.kubernetes_api.running import running_api

needs_prometheus = pytest.mark.skipif(shutil.which("prometheus") is None, reason="prometheus is not installed")
KEYS = {
    "workloads", "replicas", "ticks", "tick_p50_s", "tick_p99_s", "rss_mb", "cache_mb", "list_s", "pools_unchanged_s",
    "pools_changed_s", "pools_all_changed_s", "events_per_s",
}  # fmt: skip


@needs_prometheus
def test_the_cache_and_the_ticks_of_a_small_fleet_are_measured(capsys: pytest.CaptureFixture[str]) -> None:
    told: list[str] = []
    figures = measure_cluster(5, 12, ticks=2, history_s=3600.0, tell=told.append, scrape_interval_s=1.0)
    assert figures.keys() >= KEYS
    assert (figures["workloads"], figures["replicas"], figures["ticks"]) == (5, 12, 2)
    assert 0.0 < figures["cache_mb"] < 1.0
    assert 1.0 < figures["rss_before_list_mb"] <= figures["rss_mb"]
    assert 0.0 < figures["pools_unchanged_s"] < figures["pools_first_s"]
    assert figures["events_per_s"] > 0
    assert 0.0 < figures["tick_p50_s"] <= figures["tick_p99_s"]
    assert all(figures["core"][name] > 0.0 for name in ("list_s", "events_per_s", "tick_p50_s"))
    assert told
    show(figures)
    shown = capsys.readouterr().out
    assert shown.startswith("5 workloads, 12 replicas, 2 ticks\n")
    assert "ms   after no change\n" in shown


@pytest.mark.usefixtures("logging_as_before")
def test_without_a_prometheus_nothing_is_begun(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", "")
    assert foresail.main(["bench", "tick", "--cluster", "--workloads", "1", "--replicas", "1"]) == 2
    told = capsys.readouterr().err
    assert "apt-get install --no-install-recommends prometheus" in told
    assert "API server" not in told


def test_all_replicas_are_there_and_as_many_are_changed_as_are_asked_for() -> None:
    with running_api() as api:
        fleet = LargeFleet(api, workloads=5, replicas=12)
        path = f"/api/v1/namespaces/{NAMESPACE}/pods"
        before = api.call("GET", path)
        sizes = Counter(pod["metadata"]["labels"]["foresail.dev/model"] for pod in before["items"])
        assert sorted(sizes.values()) == [2, 2, 2, 3, 3]
        first, last = fleet.touch(4, 2)
        assert last - first + 1 == 8
        after = {pod["metadata"]["name"]: pod for pod in api.call("GET", path)["items"]}
        changed = [pod for pod in before["items"] if after[pod["metadata"]["name"]] != pod]
        assert sorted(Counter(pod["metadata"]["labels"]["foresail.dev/model"] for pod in changed).values()) == [2] * 4


@pytest.mark.usefixtures("logging_as_before")
def test_what_goes_wrong_on_the_way_is_no_part_of_the_json(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def measure(*_: object, **__: object) -> dict[str, float]:
        structlog.get_logger("foresail").warning("cluster not read")
        return {"list_s": 1.5}

    monkeypatch.setattr(bench_tick, "measure_cluster", measure)
    assert foresail.main(["bench", "tick", "--cluster", "--json"]) == 0
    told = capsys.readouterr()
    assert json.loads(told.out) == {"list_s": 1.5}
    assert "cluster not read" in told.err
