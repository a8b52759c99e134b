"""Does the loop hold while its metrics are wrong, say so, and recover by itself? With a real Prometheus."""

from __future__ import annotations

import json
import math
import signal
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler

import pytest

from controller.ports import TickRecord
from policies.fleet import FleetState, ReplicaMetrics
from tests.builders import KEY, FixedClock
from tests.builders_live_fleet import NAMES, RATE, Answer, ScrapedFleet, WatchedLoop
from tests.builders_prometheus import CLOCK, pause

MODEL = KEY.model


@pytest.fixture
def watched(fleet: ScrapedFleet) -> Iterator[WatchedLoop]:
    loop = WatchedLoop(fleet)
    loop.until_well()
    loop.cluster.writes.clear()
    yield loop
    loop.close()


def metrics_of(record: TickRecord) -> dict[str, ReplicaMetrics | None]:
    return {r.id: r.metrics for p in seen(record).pools for r in p.replicas}


def seen(record: TickRecord) -> FleetState:
    assert record.fleet is not None, record.error
    return record.fleet


def rate_told(watched: WatchedLoop) -> float:
    """Return the load as the source tells it, before the loop averages it over a minute."""
    return watched.source.read(CLOCK.now()).demand[MODEL].requests_per_s


def answering(status: int, body: bytes, kind: str = "application/json") -> Answer:
    def answer(request: BaseHTTPRequestHandler) -> None:
        request.send_response(status)
        request.send_header("Content-Type", kind)
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        request.wfile.write(body)

    return answer


def hanging_up(request: BaseHTTPRequestHandler) -> None:
    request.connection.close()


FIFTY_MB = b'{"status":"success","data":{"result":[' + b" " * 50_000_000 + b"]}}"
REFUSED = json.dumps({"status": "error", "errorType": "execution", "error": "too many samples"}).encode()


@pytest.mark.parametrize(
    ("instead", "named"),
    [
        pytest.param(hanging_up, "cannot be reached", id="down"),
        pytest.param(lambda _: pause(3.0), "no whole answer within 1 s", id="slow"),
        pytest.param(answering(401, b"unauthorized", "text/plain"), "does not accept our credentials (401)", id="401"),
        pytest.param(answering(422, REFUSED), "refused (422): too many samples", id="422"),
        pytest.param(answering(200, b"<html>log in</html>", "text/html"), "HTML instead of JSON", id="html"),
        pytest.param(answering(200, FIFTY_MB), "larger than 32 MiB", id="50 MB"),
    ],
)
def test_a_store_that_cannot_answer_changes_nothing_and_is_survived(
    fleet: ScrapedFleet, watched: WatchedLoop, instead: Answer, named: str
) -> None:
    fleet.front.instead = instead
    for _ in range(2):
        began = CLOCK.elapsed()
        record = watched.tick()
        assert record.decision is None
        assert named in record.error
        assert CLOCK.elapsed() - began < 5.0
    fleet.front.instead = None
    watched.until_well()
    assert watched.harm == []


def test_a_prometheus_that_was_stopped_for_a_while_changes_nothing(fleet: ScrapedFleet, watched: WatchedLoop) -> None:
    fleet.server.send(signal.SIGSTOP)
    record = watched.tick()
    assert record.decision is None
    assert "no whole answer" in record.error
    pause(6.0)
    fleet.server.send(signal.SIGCONT)
    watched.until_well()
    assert watched.harm == []


@pytest.mark.parametrize("gone", [NAMES[:2], NAMES], ids=["half", "all"])
def test_targets_that_are_gone_are_no_load_that_is_gone(
    fleet: ScrapedFleet, watched: WatchedLoop, gone: tuple[str, ...]
) -> None:
    fleet.dead = set(gone)
    record = watched.until(lambda r: MODEL not in seen(r).demand, "the load is unknown")
    assert all((metrics is None) == (name in gone) for name, metrics in metrics_of(record).items())
    assert f"demand:{MODEL}" in seen(record).missing
    if gone != NAMES:
        assert any(what.startswith(f"replica:{gone[0]}") for what in seen(record).missing)
    for _ in range(3):
        pause(1.0)
        record = watched.tick()
        assert MODEL not in seen(record).demand
    assert watched.harm == []
    fleet.heal()
    watched.until_well()
    assert watched.harm == []


def test_one_engine_that_is_gone_leaves_the_load_of_the_others_known(fleet: ScrapedFleet, watched: WatchedLoop) -> None:
    fleet.dead = {"r3"}
    watched.until(lambda r: metrics_of(r)["r3"] is None, "its metrics are gone")
    # at its last rate at first, since nobody knows, and then without it: its requests go elsewhere
    assert rate_told(watched) == pytest.approx(RATE * 4, rel=0.25)
    pause(5.0)
    assert rate_told(watched) == pytest.approx(RATE * 3, rel=0.25)


def test_what_no_engine_could_say_is_refused_and_told(fleet: ScrapedFleet, watched: WatchedLoop) -> None:
    fleet.spoiled = {
        'running{model_name="m",engine="0"} 4.0': 'running{model_name="m",engine="0"} -3',
        'waiting{model_name="m",engine="0"} 0.0': 'waiting{model_name="m",engine="0"} +Inf',
        'perc{model_name="m",engine="0"} 0.3': 'perc{model_name="m",engine="0"} 7.5',
    }

    def refused(record: TickRecord) -> bool:
        return all(m is not None and math.isnan(m.kv_cache_ratio) for m in metrics_of(record).values())

    record = watched.until(refused, "impossible figures are refused")
    for metrics in metrics_of(record).values():
        assert metrics is not None
        assert math.isnan(metrics.running_requests)
        assert math.isnan(metrics.queued_requests)
        assert metrics.finished_requests_total > 0
    told = seen(record).missing
    assert "kv_cache_ratio:r0 (impossible: 7.5)" in told
    assert "running_requests:r0 (impossible: -3)" in told
    assert "queued_requests:r0 (impossible: inf)" in told
    assert watched.harm == []
    fleet.heal()
    watched.until_well()


def test_nan_is_kept_apart_from_zero(fleet: ScrapedFleet, watched: WatchedLoop) -> None:
    fleet.spoiled = {'perc{model_name="m",engine="0"} 0.3': 'perc{model_name="m",engine="0"} NaN'}

    def unknown(record: TickRecord) -> bool:
        return all(m is not None and math.isnan(m.kv_cache_ratio) for m in metrics_of(record).values())

    record = watched.until(unknown, "the ratio is unknown")
    assert all(m is not None and m.queued_requests == 0.0 for m in metrics_of(record).values())
    assert watched.harm == []


def test_counters_that_begin_anew_are_no_burst_and_no_lull(fleet: ScrapedFleet, watched: WatchedLoop) -> None:
    fleet.engines["r0"].finished = 0.0
    fleet.engines["r0"].steps = 0.0
    for _ in range(10):
        pause(0.5)
        rate = seen(watched.tick()).demand[MODEL].requests_per_s
        assert rate == pytest.approx(RATE * len(NAMES), rel=0.5)
    assert watched.harm == []


def test_names_that_change_with_an_upgrade_are_found_again(fleet: ScrapedFleet, watched: WatchedLoop) -> None:
    for engine in fleet.engines.values():
        engine.kv_name, engine.kv = "vllm:gpu_cache_usage_perc", 0.4
    # In between the figure is missing or old; how long depends on when names are looked up again.
    watched.until(
        lambda r: all(m is not None and m.kv_cache_ratio == 0.4 for m in metrics_of(r).values()), "the other is found"
    )
    assert watched.harm == []


def test_a_clock_that_is_wrong_is_named_and_nothing_is_believed(fleet: ScrapedFleet) -> None:
    clock = FixedClock(CLOCK.now() - 600.0)
    loop = WatchedLoop(fleet, clock)
    record = loop.tick()
    assert record.decision is None
    assert "600 s ahead of ours" in record.error
    clock.at = CLOCK.now() + 90.0
    assert "s behind ours" in loop.tick().error
    clock.at = CLOCK.now()
    assert loop.tick().decision is not None
    loop.close()
