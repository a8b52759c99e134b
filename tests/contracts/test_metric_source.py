"""What does the control loop rely on in any ``MetricSource``? One suite over every implementation.

An implementation is a ``MetricWorld``: a fleet of two READY replicas that gets ten requests a second of 100 prompt and
20 output tokens for ten minutes, a way to let time pass, and ways to break it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Protocol

import numpy as np
import pytest

from controller.errors import ObservationError
from controller.ports import FleetMetrics, MetricSource
from simulations.faults import Crash, Errors, MetricsFreeze, MetricsLoss, Partition, ReplicaTarget
from tests.builders_fleet import MODEL, a_batch, a_fleet, a_pool
from tests.builders_metric_world import WrittenWorld
from tests.builders_prometheus import RunningPrometheus

REQUESTS_PER_S, PROMPT_TOKENS, OUTPUT_TOKENS = 10.0, 100, 20


class MetricWorld(Protocol):
    source: MetricSource
    model: str

    def now(self) -> float: ...

    def wait(self, seconds: float) -> None: ...

    def crash_a_replica(self) -> str:
        """Let one engine exit and return the replica's id."""
        ...

    def fail_requests(self) -> str:
        """Let one engine answer every second request with a 500 from now on; return the replica's id."""
        ...

    def cut_off(self) -> str:
        """Let the gateway get no connection to one replica from now on; return the replica's id."""
        ...

    def lose(self, seconds: float) -> None:
        """Make the metrics store unreachable for a while."""
        ...

    def freeze(self, seconds: float) -> None:
        """Let the metrics store take in nothing for a while."""
        ...


class SimulatedWorld:
    def __init__(self) -> None:
        count = int(600 * REQUESTS_PER_S)
        arrivals = a_batch(np.arange(count) / REQUESTS_PER_S + 0.05, PROMPT_TOKENS, OUTPUT_TOKENS)
        self.fleet = a_fleet([a_pool(2)], [arrivals], epoch_at=1_000_000.0)
        self.source: MetricSource = self.fleet.metrics
        self.model = MODEL

    def now(self) -> float:
        return self.fleet.clock.now()

    def wait(self, seconds: float) -> None:
        self.fleet.advance(self.now() + seconds)

    def _since_epoch_s(self) -> float:
        return self.now() - 1_000_000.0

    def crash_a_replica(self) -> str:
        self.fleet.inject(Crash(self._since_epoch_s(), ReplicaTarget(replica=1)))
        self.wait(0.0)
        return "main-1"

    def fail_requests(self) -> str:
        self.fleet.inject(Errors(self._since_epoch_s(), ReplicaTarget(replica=1), 0.5))
        self.wait(0.0)
        return "main-1"

    def cut_off(self) -> str:
        self.fleet.inject(Partition(self._since_epoch_s(), ReplicaTarget(replica=1)))
        self.wait(0.0)
        return "main-1"

    def lose(self, seconds: float) -> None:
        self.fleet.inject(MetricsLoss(self._since_epoch_s(), None, seconds))
        self.wait(0.0)

    def freeze(self, seconds: float) -> None:
        self.fleet.inject(MetricsFreeze(self._since_epoch_s(), seconds))
        self.wait(0.0)


@pytest.fixture(scope="module")
def written_prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningPrometheus]:
    """A real Prometheus that scrapes nothing and takes samples of any time."""
    folder = tmp_path_factory.mktemp("prometheus")
    with RunningPrometheus(folder, "", "--web.enable-remote-write-receiver") as server:
        yield server


@pytest.fixture(params=["simulated", "prometheus"])
def world(request: pytest.FixtureRequest) -> Iterator[MetricWorld]:
    if request.param == "simulated":
        yield SimulatedWorld()
        return
    server = request.getfixturevalue("written_prometheus")
    written = WrittenWorld(server, REQUESTS_PER_S, PROMPT_TOKENS, OUTPUT_TOKENS)
    yield written
    written.close()


def read(world: MetricWorld) -> FleetMetrics:
    return world.source.read(world.now())


def test_offered_load_is_what_arrived_in_requests_and_tokens(world: MetricWorld) -> None:
    world.wait(120.0)
    demand = read(world).demand[world.model]
    assert demand.requests_per_s == pytest.approx(REQUESTS_PER_S, rel=0.02)
    assert demand.prompt_tokens_per_s == pytest.approx(REQUESTS_PER_S * PROMPT_TOKENS, rel=0.02)
    assert demand.output_tokens_per_s == pytest.approx(REQUESTS_PER_S * OUTPUT_TOKENS, rel=0.02)


def test_an_idle_workload_is_observed_as_zero_and_not_as_missing(world: MetricWorld) -> None:
    world.wait(700.0)
    metrics = read(world)
    assert metrics.demand[world.model].requests_per_s == 0.0
    assert metrics.missing == ()


def test_before_there_are_two_scrapes_demand_is_missing_and_not_zero(world: MetricWorld) -> None:
    world.wait(2.0)
    metrics = read(world)
    assert world.model not in metrics.demand
    assert f"demand:{world.model}" in metrics.missing


def test_samples_are_never_from_the_future_and_at_most_an_interval_and_the_delay_old(world: MetricWorld) -> None:
    world.wait(60.0)
    for _ in range(40):
        world.wait(1.7)
        replicas = read(world).replicas
        assert len(replicas) == 2
        for metrics in replicas.values():
            assert 1.0 <= world.now() - metrics.observed_at <= 16.01


def test_counters_grow_and_latencies_are_of_the_last_window(world: MetricWorld) -> None:
    world.wait(60.0)
    before = read(world).replicas
    world.wait(60.0)
    after = read(world).replicas
    for name, metrics in after.items():
        elapsed_s = metrics.observed_at - before[name].observed_at
        finished = metrics.finished_requests_total - before[name].finished_requests_total
        assert finished / elapsed_s == pytest.approx(REQUESTS_PER_S / 2, rel=0.1)
        output = metrics.output_tokens_total - before[name].output_tokens_total
        assert output / elapsed_s == pytest.approx(REQUESTS_PER_S / 2 * OUTPUT_TOKENS, rel=0.1)
        assert metrics.steps_total > before[name].steps_total
        assert 0.0 < metrics.ttft_p95_s < 1.0
        assert 0.0 < metrics.tpot_mean_s < 1.0
        assert metrics.failed_requests_total == 0.0


def test_answers_of_each_replica_are_counted_by_the_gateway_and_begin_anew_with_its_life(world: MetricWorld) -> None:
    world.wait(60.0)
    before = read(world).answered
    world.wait(60.0)
    after = read(world).answered
    assert {name: after[name] - before[name] for name in after} == {
        name: pytest.approx(60.0 * REQUESTS_PER_S / 2, rel=0.1) for name in before
    }
    name = world.crash_a_replica()
    world.wait(20.0)
    assert name not in read(world).answered
    world.wait(130.0)
    assert 0 < read(world).answered[name] < after[name]


def test_failed_answers_of_each_replica_are_counted_by_the_gateway_from_zero(world: MetricWorld) -> None:
    world.wait(60.0)
    before = read(world)
    assert set(before.failed_answers.values()) == {0.0}
    name = world.fail_requests()
    world.wait(120.0)
    after = read(world)
    failed, answered = after.failed_answers[name], after.answered[name] - before.answered[name]
    assert failed / (failed + answered) == pytest.approx(0.5, abs=0.1)
    assert {n: count for n, count in after.failed_answers.items() if n != name} == {
        n: 0.0 for n in before.answered if n != name
    }


def test_a_replica_that_the_gateway_cannot_reach_is_told_and_says_itself_that_it_is_well(world: MetricWorld) -> None:
    world.wait(60.0)
    before = read(world)
    assert set(before.unreached.values()) == {0.0}
    assert set(before.unreached) == set(before.replicas)
    name = world.cut_off()
    world.wait(60.0)
    after = read(world)
    if isinstance(world, SimulatedWorld):  # its gateway gives less to where requests hang in the connect
        assert 10.0 <= after.unreached[name] <= 60.0 * REQUESTS_PER_S / 2
    else:
        assert after.unreached[name] == pytest.approx(60.0 * REQUESTS_PER_S / 2, rel=0.3)
    assert {n: count for n, count in after.unreached.items() if n != name} == {
        n: 0.0 for n in before.unreached if n != name
    }
    assert after.replicas[name].observed_at > before.replicas[name].observed_at


def test_an_idle_replica_has_no_latencies(world: MetricWorld) -> None:
    world.wait(700.0)
    for metrics in read(world).replicas.values():
        assert math.isnan(metrics.ttft_p95_s)
        assert math.isnan(metrics.tpot_mean_s)
        assert metrics.running_requests == metrics.queued_requests == metrics.kv_cache_ratio == 0.0


def test_service_level_counts_ends_over_the_window(world: MetricWorld) -> None:
    world.wait(400.0)
    service = read(world).service[world.model]
    assert service.window_s == pytest.approx(300.0, abs=15.0)
    assert service.finished == pytest.approx(REQUESTS_PER_S * service.window_s, rel=0.05)
    assert service.attainment_ratio == 1.0


def test_a_replica_whose_engine_is_down_has_no_metrics_and_begins_again_at_zero(world: MetricWorld) -> None:
    world.wait(60.0)
    name = world.crash_a_replica()
    world.wait(20.0)
    assert name not in read(world).replicas
    assert len(read(world).replicas) == 1
    world.wait(110.0)
    back = read(world).replicas[name]
    assert 0 < back.finished_requests_total < 200


def test_an_unreachable_store_is_an_error_and_not_an_empty_answer(world: MetricWorld) -> None:
    world.wait(60.0)
    world.lose(60.0)
    world.wait(30.0)
    with pytest.raises(ObservationError):
        read(world)
    world.wait(61.0)
    assert read(world).demand[world.model].requests_per_s == pytest.approx(REQUESTS_PER_S, rel=0.05)


def test_a_frozen_store_shows_its_age_and_no_load_that_it_did_not_see(world: MetricWorld) -> None:
    world.wait(60.0)
    frozen_at = world.now()
    world.freeze(200.0)
    world.wait(100.0)
    metrics = read(world)
    assert len(metrics.replicas) == 2
    assert all(m.observed_at <= frozen_at for m in metrics.replicas.values())
    assert metrics.demand == {}
    assert metrics.in_flight == metrics.answered == metrics.failed_answers == metrics.unreached == {}
    assert f"demand:{world.model}" in metrics.missing
