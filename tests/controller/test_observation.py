"""Are cluster, metrics and weights joined into one state, and is nothing believed that cannot be?"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import pytest

from controller.errors import ObservationError
from controller.observation import observe, plausible, unknown_pods
from controller.ports import FleetMetrics
from policies.fleet import Demand, FleetState, NodeState, PoolKey, PoolState, ServiceLevel
from policies.roster import figures_of
from tests.builders import (
    AT,
    KEY,
    MODEL,
    OTHER,
    FakeCluster,
    FakeMetrics,
    FakeRouter,
    FixedClock,
    demand,
    metrics,
    pool,
    replica,
    service,
)

BARE = pool([replica("a0", metrics=None, in_flight_requests=math.nan)], weight=0.0)


def seen(answer: FleetMetrics | None, *pools: PoolState, weights: dict[object, float] | None = None) -> FleetState:
    cluster = FakeCluster(FixedClock(), {p.key: p for p in pools or (BARE,)})
    return observe(AT, FakeMetrics(answer), cluster, FakeRouter(weights or {KEY: 1.0}))  # type: ignore[arg-type]


def test_each_replica_gets_its_own_metrics_and_in_flight_requests() -> None:
    state = seen(FleetMetrics(replicas={"a0": metrics(AT - 3.0)}, in_flight={"a0": 7.0}))
    (one,) = state.pools[0].replicas
    assert (one.metrics, one.in_flight_requests) == (metrics(AT - 3.0), 7.0)
    assert (state.at, state.missing) == (AT, ())


def test_answers_are_joined_and_unknown_where_nobody_counts_them() -> None:
    told = seen(FleetMetrics(answered={"a0": 12.0}, failed_answers={"a0": 3.0})).pools[0].replicas[0]
    assert (told.answered_requests_total, told.failed_answers_total) == (12.0, 3.0)
    assert math.isnan(seen(FleetMetrics(failed_answers={"a0": -1.0})).pools[0].replicas[0].failed_answers_total)
    assert math.isnan(seen(FleetMetrics()).pools[0].replicas[0].failed_answers_total)
    assert math.isnan(seen(FleetMetrics(answered={"a0": -1.0})).pools[0].replicas[0].answered_requests_total)
    assert math.isnan(seen(FleetMetrics()).pools[0].replicas[0].answered_requests_total)


def test_what_is_said_of_an_id_that_two_pools_have_is_said_of_neither() -> None:
    twin = PoolKey("n", "a")
    mine, theirs = pool([replica("x0"), replica("x1")], KEY), pool([replica("x0")], twin)
    both = {"x0": 4.0, "x1": 4.0}
    told = FleetMetrics({name: metrics() for name in both}, both, answered={"x0": 9.0}, failed_answers={"x0": 9.0})
    state = seen(told, mine, theirs, weights={KEY: 1.0, twin: 1.0})
    ambiguous = [r for p in state.pools for r in p.replicas if r.id == "x0"]
    assert [r.metrics for r in ambiguous] == [None, None]
    assert all(math.isnan(r.in_flight_requests) and math.isnan(r.answered_requests_total) for r in ambiguous)
    assert all(math.isnan(r.failed_answers_total) for r in ambiguous)
    assert state.pools[0].replicas[1].metrics is not None
    assert state.missing == (f"ambiguous:{KEY.replica('x0')}", f"ambiguous:{twin.replica('x0')}")


def test_weights_are_joined_and_a_pool_without_one_has_none() -> None:
    state = seen(FleetMetrics(), pool(1, KEY), pool(1, OTHER), weights={KEY: 0.7})
    assert [p.weight for p in state.pools_of(MODEL)] == [0.7, 0.0]


@dataclass
class OneRouteGone(FakeRouter):
    """Cannot read the route of one model."""

    gone: str = "other"

    def weights(self, model: str) -> Mapping[PoolKey, float]:
        if model == self.gone:
            raise ObservationError(f"the route of {model} is gone", "fake router")
        return super().weights(model)


def test_an_unreadable_route_leaves_its_own_weights_unknown_and_the_other_models_alone() -> None:
    other = PoolKey("other", "a")
    pools = {KEY: pool(1, KEY), other: pool([replica("b0")], other)}
    state = observe(AT, FakeMetrics(), FakeCluster(FixedClock(), pools), OneRouteGone({KEY: 1.0, other: 1.0}))
    assert state.missing == ("weights:other",)
    assert state.pools_of(MODEL)[0].weight == 1.0
    assert math.isnan(state.pools_of("other")[0].weight)


@pytest.mark.parametrize(
    "shares", [{}, {KEY: math.nan, OTHER: 0.5}, {KEY: -0.1, OTHER: 1.0}, {KEY: 7.0}], ids=["none", "NaN", "< 0", "> 1"]
)
def test_a_route_that_says_nothing_sensible_leaves_weights_unknown_and_not_zero(shares: dict[PoolKey, float]) -> None:
    cluster = FakeCluster(FixedClock(), {KEY: pool(1, KEY), OTHER: pool(1, OTHER)})
    state = observe(AT, FakeMetrics(), cluster, FakeRouter(shares))
    assert math.isnan(state.pools_of(MODEL)[0].weight)
    assert state.missing == (f"weights:{MODEL}",)


@pytest.mark.parametrize(
    "lie",
    [
        Demand(1e9, 1e12, 1e11),
        Demand(1.7e305, 1.7e308, 3e307),
        Demand(8.0, 1e12, 100.0),
        Demand(8.0, 100.0, 1e12),
        Demand(0.0, 1e9, 0.0),
    ],
    ids=["requests", "near overflow", "prompt tokens", "output tokens", "tokens without requests"],
)
def test_load_that_nobody_can_offer_is_not_load(lie: Demand) -> None:
    state = seen(FleetMetrics(demand={MODEL: lie, "other": demand()}))
    assert state.demand == {"other": demand()}
    assert state.missing == (f"impossible:demand:{MODEL}",)


@pytest.mark.parametrize("level", [ServiceLevel(math.inf, 10.0, 9.0), ServiceLevel(300.0, math.inf, 9.0)])
def test_an_impossible_service_level_is_not_believed(level: ServiceLevel) -> None:
    state = seen(FleetMetrics(service={MODEL: level}))
    assert (state.service, state.missing) == ({}, (f"impossible:service:{MODEL}",))


def test_what_was_not_observed_stays_unknown() -> None:
    state = seen(FleetMetrics())
    assert state.pools[0].replicas[0].metrics is None
    assert math.isnan(state.pools[0].replicas[0].in_flight_requests)
    assert (state.demand, state.service, state.gateway_queued) == ({}, {}, {})


def test_demand_service_queues_and_missing_signals_are_passed_on() -> None:
    answer = FleetMetrics(
        demand={MODEL: demand()}, service={MODEL: service(0.9)}, gateway_queued={MODEL: 3.0}, missing=("replica:x",)
    )
    state = seen(answer)
    assert (state.demand[MODEL], state.service[MODEL]) == (demand(), service(0.9))
    assert (state.gateway_queued, state.missing) == ({MODEL: 3.0}, ("replica:x",))


def test_series_of_replicas_that_are_gone_find_no_owner() -> None:
    state = seen(FleetMetrics(replicas={"ghost": metrics(kv_cache_ratio=55.0)}, in_flight={"ghost": 3.0}))
    assert [r.id for p in state.pools for r in p.replicas] == ["a0"]
    assert state.missing == ("unknown:1 pod (ghost)",)
    assert unknown_pods(state.missing) == 1


def test_pods_that_the_cluster_does_not_know_are_counted_once_each_and_named_within_bounds() -> None:
    told = {f"ghost-{number}-{'x' * 500}": metrics() for number in range(40)}
    state = seen(
        FleetMetrics(told, answered={"ghost-0": 1.0, "a0": 2.0}, unreached={"ghost-0": 3.0}, missing=("replica:x",))
    )
    (_, note) = state.missing
    assert unknown_pods(state.missing) == 41
    assert note.startswith("unknown:41 pods (ghost-0, ghost-0-xx")
    assert len(note) < 600
    assert unknown_pods(("replica:x", "unknown:many pods")) == 0


def test_metrics_of_an_earlier_life_are_not_believed() -> None:
    reborn = pool([replica("a0", metrics=None, requested_at=AT - 10.0, restarts=1)])
    assert seen(FleetMetrics(replicas={"a0": metrics(AT - 11.0)}), reborn).pools[0].replicas[0].metrics is None
    assert seen(FleetMetrics(replicas={"a0": metrics(AT - 9.0)}), reborn).pools[0].replicas[0].metrics is not None


@pytest.mark.parametrize(
    "change",
    [
        {"running_requests": -1.0},
        {"queued_requests": math.inf},
        {"steps_total": 1e15},
        {"prompt_tokens_total": -0.5},
        {"output_tokens_total": -math.inf},
        {"finished_requests_total": 1e300},
        {"failed_requests_total": -1.0},
        {"kv_cache_ratio": 1.5},
        {"kv_cache_ratio": -0.1},
        {"kv_cache_ratio": math.inf},
        {"tpot_mean_s": -0.1},
        {"ttft_p95_s": math.inf},
        {"observed_at": math.nan},
        {"observed_at": AT + 3600.0},
    ],
)
def test_impossible_metrics_are_refused_and_said(change: dict[str, float]) -> None:
    lie = replace(metrics(), **change)
    state = seen(FleetMetrics(replicas={"a0": lie}))
    assert state.pools[0].replicas[0].metrics is None
    assert state.missing == ("impossible:a0",)


@pytest.mark.parametrize(
    "change",
    [
        {"running_requests": math.nan, "queued_requests": math.nan, "kv_cache_ratio": math.nan},
        {"steps_total": math.nan, "output_tokens_total": math.nan, "tpot_mean_s": math.nan},
        {"kv_cache_ratio": 1.0005},
        {"observed_at": AT + 30.0},  # clocks differ a little
    ],
)
def test_what_is_only_not_told_is_believed(change: dict[str, float]) -> None:
    assert plausible(figures_of([replace(metrics(), **change)]), AT).all()


@pytest.mark.parametrize("count", [math.nan, math.inf, -1.0, 1e15])
def test_impossible_counts_of_the_gateway_become_unknown(count: float) -> None:
    state = seen(FleetMetrics(in_flight={"a0": count}, gateway_queued={MODEL: count}))
    assert math.isnan(state.pools[0].replicas[0].in_flight_requests)
    assert state.gateway_queued == {}
    assert state.missing == (f"impossible:gateway_queued:{MODEL}",)


def test_when_the_gateways_were_sampled_goes_with_what_they_count_and_never_lies_ahead() -> None:
    state = seen(FleetMetrics(gateway_oldest_at=AT - 20.0, gateway_newest_at=AT + 3.0))
    assert (state.gateway_oldest_at, state.gateway_newest_at) == (AT - 20.0, AT + 3.0)
    assert state.gateway_heard_at == (AT - 20.0, AT)
    assert seen(FleetMetrics()).gateway_heard_at == (AT, AT)


def test_xids_are_those_of_nodes_that_the_platform_knows_and_unknown_where_nobody_tells() -> None:
    sound = NodeState(ready=True, since_at=AT)

    class WithNodes(FakeCluster):
        def nodes(self) -> Mapping[str, NodeState]:
            return dict.fromkeys(("n0", "n1", "n2"), sound)

    cluster = WithNodes(FixedClock(), {BARE.key: BARE})
    told = FleetMetrics(node_xids={"n0": 79.0, "n1": -1.0, "n9": 79.0})
    nodes = observe(AT, FakeMetrics(told), cluster, FakeRouter({KEY: 1.0})).nodes  # type: ignore[arg-type]
    assert set(nodes) == {"n0", "n1", "n2"}
    assert nodes["n0"] == replace(sound, xid=79.0)
    assert math.isnan(nodes["n1"].xid)
    assert math.isnan(nodes["n2"].xid)


def test_a_store_or_a_cluster_that_does_not_answer_is_an_observation_error() -> None:
    cluster, router = FakeCluster(FixedClock(), {KEY: BARE}), FakeRouter({KEY: 1.0})
    with pytest.raises(ObservationError, match="metrics store"):
        observe(AT, FakeMetrics(None), cluster, router)
    cluster.blind = True
    with pytest.raises(ObservationError, match="API server"):
        observe(AT, FakeMetrics(), cluster, router)


def test_an_empty_cluster_is_an_empty_fleet() -> None:
    assert observe(AT, FakeMetrics(), FakeCluster(FixedClock()), FakeRouter()).pools == ()
