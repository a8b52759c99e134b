"""Are replicas that come and go, and GPUs held for nothing, what a hand count gives?"""

from __future__ import annotations

import math

import pytest

from policies.fleet import FleetState, Phase, PoolKey, PoolState, ReplicaMetrics, ReplicaState
from simulations.turnover import TurnoverWatch

KEY = PoolKey("m", "p")
READY, LOADING, PENDING = Phase.READY, Phase.LOADING, Phase.PENDING


def replica(name: str, phase: Phase, node: str = "n", in_flight: float = 1.0) -> ReplicaState:
    return ReplicaState(name, phase, 0.0, 0.0, node=node, in_flight_requests=in_flight)


def fleet(*replicas: ReplicaState) -> FleetState:
    return FleetState(0.0, (PoolState(KEY, replicas, len(replicas), gpus_per_replica=4, usd_per_replica_hour=8.0),))


def test_the_first_replicas_were_not_started_and_a_restart_in_place_is_no_start() -> None:
    watch = TurnoverWatch()
    watch.look(fleet(replica("a", READY), replica("b", READY)), 0.0)
    watch.look(fleet(replica("a", Phase.FAILED), replica("b", READY)), 15.0)
    watch.look(fleet(replica("a", LOADING), replica("b", READY)), 30.0)
    assert (watch.until(45.0).started, watch.until(45.0).stopped) == (0, 0)


def test_who_comes_is_started_and_who_is_gone_is_stopped() -> None:
    watch = TurnoverWatch()
    watch.look(fleet(replica("a", READY)), 0.0)
    watch.look(fleet(replica("a", READY), replica("b", LOADING), replica("c", LOADING)), 15.0)
    watch.look(fleet(replica("b", READY)), 30.0)
    found = watch.until(30.0)
    assert (found.started, found.stopped) == (2, 2)
    assert found.unused_starts == 1  # c; a had served


@pytest.mark.parametrize(("node", "unused"), [("n", 1), ("", 0)], ids=["placed", "waiting for a place"])
def test_a_start_that_never_served_counts_where_it_was_paid_for(node: str, unused: int) -> None:
    watch = TurnoverWatch()
    watch.look(fleet(), 0.0)
    watch.look(fleet(replica("a", PENDING, node)), 15.0)
    watch.look(fleet(), 30.0)
    assert watch.until(30.0).unused_starts == unused


def test_one_that_was_loading_at_the_first_look_is_no_start_of_this_run() -> None:
    watch = TurnoverWatch()
    watch.look(fleet(replica("a", LOADING)), 0.0)
    watch.look(fleet(), 15.0)
    assert (watch.until(15.0).started, watch.until(15.0).unused_starts) == (0, 0)


def test_loading_and_idle_last_until_the_next_look() -> None:
    watch = TurnoverWatch()
    watch.look(fleet(replica("a", READY, in_flight=0.0), replica("b", LOADING), replica("c", PENDING, "")), 0.0)
    watch.look(fleet(replica("a", READY), replica("b", READY)), 1800.0)
    found = watch.until(3600.0)
    assert (found.loading_gpu_hours, found.idle_gpu_hours) == (2.0, 2.0)  # 4 GPUs, half an hour each
    assert found.unproductive_usd == 8.0


@pytest.mark.parametrize(("running", "idle_gpu_hours"), [(0.0, 4.0), (1.0, 0.0), (math.nan, 0.0), (None, 0.0)], ids=str)
def test_without_a_gateway_the_engine_says_whether_it_idles(running: float | None, idle_gpu_hours: float) -> None:
    told = None if running is None else ReplicaMetrics(0.0, running, 0.0, 0.1, 1.0, 1.0, 1.0, 1.0)
    watch = TurnoverWatch()
    watch.look(fleet(ReplicaState("a", READY, 0.0, 0.0, metrics=told)), 0.0)
    assert watch.until(3600.0).idle_gpu_hours == idle_gpu_hours


def test_replicas_of_one_name_in_two_pools_are_two() -> None:
    pools = tuple(PoolState(PoolKey("m", name), (replica("a", READY),), 1, 4) for name in ("p", "q"))
    watch = TurnoverWatch()
    watch.look(FleetState(0.0, pools[:1]), 0.0)
    watch.look(FleetState(0.0, pools), 15.0)
    assert watch.until(15.0).started == 1
