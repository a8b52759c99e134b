"""Does a shard take from a real Prometheus what is of its own models, and is nothing of others taken for its own?"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from controller.adapters.prometheus import PrometheusSource
from controller.adapters.prometheus_settings import PrometheusSettings
from controller.ports import FleetMetrics
from controller.shard_settings import Rest, ShardSettings
from policies.fleet import PoolKey
from policies.settings import PolicySettings
from tests.builders import pool_settings
from tests.builders_prometheus import RunningPrometheus, client_of
from tests.controller.test_prometheus_source import Figure, Store, an_engine, envoy

PINS = {"ours": 0, "theirs": 1}
SHARDS = [ShardSettings(index=index, of=2, pins=PINS) for index in range(2)]


@pytest.fixture
def shared(tmp_path: Path) -> Iterator[Store]:
    with RunningPrometheus(tmp_path, "", "--web.enable-remote-write-receiver") as running:
        made = Store(running)
        yield made
        made.close()


def source_of(store: Store, shard: ShardSettings, *pools: str, elsewhere: tuple[PoolKey, ...] = ()) -> PrometheusSource:
    told = {"url": store._server.url, "max_clock_skew_s": 1e12, "probe_interval_s": 10.0}
    settings = PrometheusSettings.model_validate(told)
    policy = PolicySettings(pools={pool: pool_settings() for pool in pools})
    return PrometheusSource(client_of(**told), settings, policy, lambda: 0.0, shard.beside(Rest(elsewhere)))


def sends(pool: str, address: str, count: float) -> Figure:
    labels = {"envoy_cluster_name": pool, "envoy_endpoint_address": f"{address}:8000", "instance": "gw0"}
    return "envoy_cluster_endpoint_rq_active", labels, count


def looked(store: Store, source: PrometheusSource) -> FleetMetrics:
    """Return what is known at the second look, by when there are rates."""
    for count in (100.0, 160.0):
        store.scrape(
            *an_engine("r0", pool="ours-a", model="ours"),
            *an_engine("r1", pool="theirs-a", model="theirs", running=9.0),
            *envoy(cluster="ours/ours-a/unified", rq_total=count, rq_pending_active=2.0),
            *envoy(cluster="theirs/theirs-a/unified", rq_total=5 * count, rq_pending_active=7.0),
            sends("ours-a", "10.0.0.0", 3.0),
            sends("theirs-a", "10.0.0.1", 8.0),
        )
        told = source.read(store.at)
    source.close()
    return told


def test_what_is_of_other_shards_is_neither_told_nor_missed(shared: Store) -> None:
    for shard, model, other, replica, rate, held, active in (
        (SHARDS[0], "ours", "theirs", "r0", 4.0, 2.0, 3.0),
        (SHARDS[1], "theirs", "ours", "r1", 20.0, 7.0, 8.0),
    ):
        source = source_of(
            shared, shard, f"{model}/{model}-a/unified", elsewhere=(PoolKey(other, f"{other}-a"),)
        )  # fmt: skip
        told = looked(shared, source)
        assert set(told.replicas) == set(told.in_flight) == {replica}
        assert told.in_flight == {replica: active}
        assert {name: demand.requests_per_s for name, demand in told.demand.items()} == {model: rate}
        assert told.gateway_queued == {model: held}
        assert set(told.service) <= {model}
        assert not [what for what in told.missing if other in what]
        assert [target.replica for target in source.targets] == [replica]


def test_a_pool_of_another_shard_with_the_name_of_ours_leads_no_load_here(shared: Store) -> None:
    """A gateway that names pools alone counts for both: for neither it can be told apart, as without shards."""

    def load(elsewhere: tuple[PoolKey, ...]) -> float | None:
        source = source_of(shared, SHARDS[0], "ours/a/unified", elsewhere=elsewhere)
        for count in (100.0, 1060.0):
            shared.scrape(*an_engine("r0", pool="a", model="ours"), *envoy(cluster="a", rq_total=count))
            told = source.read(shared.at)
        source.close()
        demand = told.demand.get("ours")
        return demand.requests_per_s if demand else None

    assert load(()) == 64.0
    assert load((PoolKey("theirs", "a"),)) != 64.0
