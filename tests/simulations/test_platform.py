"""Do nodes, GPU stock, quota and spot reclaim do to replicas what a real platform does?"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from controller.errors import ActuationError, BadInput
from policies.fleet import Phase
from policies.lead_time import LeadTimeSettings, lead_time, observe_starts
from policies.memory import PoolMemory
from simulations.faults import Crash, NodeLoss, Reclaim, ReplicaTarget, StockOut
from simulations.fleet import SimulatedFleet
from simulations.outcomes import RequestStatus
from simulations.platform_settings import PlatformSettings, check_platform
from tests.builders_fleet import a_batch, a_fleet, a_key, a_pool, a_profile


def a_platform(**settings: Any) -> PlatformSettings:
    return PlatformSettings.model_validate(settings)


def scale(fleet: SimulatedFleet, replicas: int, pool: str = "main") -> None:
    state = next(state for state in fleet.cluster.pools() if state.key.pool == pool)
    fleet.cluster.scale(state.key, replicas, state.version)


def phases(fleet: SimulatedFleet, pool: str = "main") -> list[Phase]:
    return [r.phase for state in fleet.cluster.pools() if state.key.pool == pool for r in state.replicas]


def nodes(fleet: SimulatedFleet, pool: str = "main") -> list[str]:
    return [r.node for state in fleet.cluster.pools() if state.key.pool == pool for r in state.replicas]


READY, PENDING, DRAINING = Phase.READY, Phase.PENDING, Phase.DRAINING
SMALL_NODES = {"gpus_per_node": 4, "nodes": 1, "max_nodes": 2, "provisioning_s": 300.0, "idle_s": 60.0}
"""Two replicas of two GPUs on a node."""


# Nodes


def test_a_replica_waits_unpaid_and_unplaced_for_the_node_that_is_added_for_it() -> None:
    fleet = a_fleet([a_pool(2)], platform=a_platform(nodes=SMALL_NODES))
    scale(fleet, 3)
    fleet.advance(299.0)
    assert phases(fleet) == [READY, READY, PENDING]
    assert nodes(fleet) == ["main-node-0", "main-node-0", ""]
    assert fleet.gpu_seconds() == 2 * 2 * 299.0
    fleet.advance(400.0)  # placed at 300 s, lead time 100 s
    assert phases(fleet) == [READY] * 3
    assert fleet.gpu_seconds() == 2 * 2 * 400.0 + 2 * 100.0


def test_no_more_nodes_come_than_there_may_be_nor_more_than_are_needed() -> None:
    fleet = a_fleet([a_pool(2)], platform=a_platform(nodes=SMALL_NODES, paid_by="node"))
    scale(fleet, 9)
    fleet.advance(1_000.0)
    assert phases(fleet) == [READY] * 4 + [PENDING] * 5
    assert fleet.gpu_seconds() == 4 * (1_000.0 + 700.0)
    scale(fleet, 2)
    fleet.advance(1_059.0)
    assert fleet.gpu_seconds() == 4 * (1_059.0 + 759.0)
    fleet.advance(2_000.0)  # the second node was empty for a minute
    assert fleet.gpu_seconds() == 4 * (2_000.0 + 760.0)
    assert fleet.cost_usd == pytest.approx(4 * 2_760.0 / 3600.0)
    assert fleet.idle_gpu_seconds == pytest.approx(4 * 60.0)


def test_a_node_that_was_ordered_for_replicas_called_off_comes_and_goes() -> None:
    fleet = a_fleet([a_pool(2)], platform=a_platform(nodes=SMALL_NODES, paid_by="node"))
    scale(fleet, 3)
    fleet.advance(10.0)
    scale(fleet, 2)
    fleet.advance(1_000.0)
    assert fleet.gpu_seconds() == 4 * (1_000.0 + 60.0)


def test_a_node_that_is_always_there_is_made_anew_when_it_is_lost() -> None:
    fleet = a_fleet([a_pool(2)], platform=a_platform(nodes={**SMALL_NODES, "max_nodes": 1}))
    fleet.inject(NodeLoss(10.0))
    fleet.advance(300.0)
    assert phases(fleet) == [PENDING, PENDING]
    fleet.advance(410.0)
    assert phases(fleet) == [READY, READY]
    assert nodes(fleet) == ["main-node-1"] * 2


def test_pools_on_shared_nodes_are_packed_together_and_lost_together() -> None:
    platform = a_platform(
        node_groups={"shared": {"gpus_per_node": 4, "max_nodes": 2}},
        pools={"main": {"node_group": "shared"}, "spare": {"node_group": "shared"}},
    )
    fleet = a_fleet([a_pool(1), a_pool(2, "spare")], platform=platform)
    assert nodes(fleet) + nodes(fleet, "spare") == ["shared-node-0", "shared-node-0", "shared-node-1"]
    scale(fleet, 3)
    assert phases(fleet) == [READY, PENDING, PENDING]
    assert nodes(fleet)[1:] == ["shared-node-1", ""]
    fleet.inject(NodeLoss(1.0))
    fleet.advance(1.0)
    assert len(nodes(fleet)) == 3
    assert "shared-node-0" not in nodes(fleet) + nodes(fleet, "spare")


def test_first_replicas_beyond_what_there_is_wait() -> None:
    fleet = a_fleet([a_pool(5)], platform=a_platform(gpu_stock={"test": 6}))
    assert phases(fleet) == [READY] * 3 + [PENDING] * 2


def test_while_the_cloud_is_out_of_stock_no_node_comes_and_then_they_do() -> None:
    fleet = a_fleet([a_pool(4)])  # one node of eight GPUs
    fleet.inject(StockOut(10.0, duration_s=500.0))
    fleet.advance(20.0)
    scale(fleet, 6)
    fleet.advance(509.0)
    assert phases(fleet) == [READY] * 4 + [PENDING] * 2
    fleet.advance(610.0)
    assert phases(fleet) == [READY] * 6


# Stock and quota


def test_pools_of_one_gpu_type_share_its_stock_and_whoever_asked_first_is_served_first() -> None:
    fleet = a_fleet([a_pool(1), a_pool(1, "spare")], platform=a_platform(gpu_stock={"test": 6}))
    scale(fleet, 3, "spare")
    fleet.advance(1.0)
    scale(fleet, 2)
    assert phases(fleet) == [READY, PENDING]
    assert nodes(fleet, "spare").count("") == 1
    assert nodes(fleet).count("") == 1
    fleet.advance(150.0)
    scale(fleet, 0)  # frees one: the older wish of the other pool gets it
    assert nodes(fleet, "spare").count("") == 0


def test_a_resource_quota_takes_the_count_and_lists_fewer_replicas_until_there_is_room() -> None:
    fleet = a_fleet([a_pool(2), a_pool(1, "spare")], platform=a_platform(gpu_quota=8))
    scale(fleet, 5)
    state = fleet.cluster.pools()[0]
    assert (state.desired, len(state.replicas)) == (5, 3)
    scale(fleet, 0, "spare")
    assert len(phases(fleet)) == 4
    scale(fleet, 4)  # what was never made is given up first
    assert (phases(fleet), fleet.cluster.pools()[0].desired) == ([READY, READY, PENDING, PENDING], 4)
    fleet.cluster.restart(a_key(), "main-0")
    assert len(phases(fleet)) == 4


def test_an_admission_policy_refuses_growth_beyond_the_quota_and_changes_nothing() -> None:
    fleet = a_fleet([a_pool(2)], platform=a_platform(gpu_quota=8, quota_refuses="scaling"))
    before = fleet.cluster.pools()
    with pytest.raises(ActuationError, match="quota exceeded: 4 GPUs used, 6 more, limit 8"):
        scale(fleet, 5)
    assert fleet.cluster.pools() == before
    scale(fleet, 4)
    assert len(phases(fleet)) == 4
    scale(fleet, 1)
    assert len(phases(fleet)) == 1


def test_a_rollback_under_a_full_quota_puts_its_successors_off_and_loses_nobody() -> None:
    fleet = a_fleet([a_pool(2, revisions=("1", "2"))], platform=a_platform(gpu_quota=6))
    fleet.cluster.roll_back(a_key(), "1")
    assert phases(fleet) == [READY, READY, PENDING]  # room for one successor
    fleet.advance(100.0)
    assert phases(fleet) == [READY, READY, PENDING]  # the first is replaced, the second's successor made
    fleet.advance(200.0)
    state = fleet.cluster.pools()[0]
    assert [(r.phase, r.revision) for r in state.replicas] == [(READY, "1")] * 2


# Reclaim


def test_a_reclaimed_node_is_drained_its_replicas_are_replaced_and_it_is_gone_after_the_notice() -> None:
    batch = a_batch([0.0] * 4, output_tokens=[900, 20_000] * 2)  # 9 s and 200 s
    fleet = a_fleet([a_pool(4)], [batch], platform=a_platform(nodes={"gpus_per_node": 4}))
    fleet.inject(Reclaim(1.0, node="main-node-0", notice_s=60.0))
    fleet.advance(1.0)
    assert phases(fleet) == [DRAINING, DRAINING, READY, READY, PENDING, PENDING]
    assert nodes(fleet)[4:] == ["main-node-2"] * 2
    fleet.advance(60.9)
    assert DRAINING in phases(fleet)
    fleet.advance(61.0)
    assert phases(fleet) == [READY, READY, Phase.LOADING, Phase.LOADING]
    fleet.finish()
    dropped = fleet.outcomes.status == RequestStatus.DROPPED_IN_FLIGHT
    assert dropped.sum() == 1
    assert fleet.outcomes.finished_at[dropped].tolist() == [61.0]


def test_what_starts_or_is_down_on_a_reclaimed_node_is_asked_for_elsewhere_at_once() -> None:
    fleet = a_fleet([a_pool(1)])
    scale(fleet, 2)
    fleet.inject(Crash(30.0))
    fleet.inject(Reclaim(31.0, node="main-node-0"))
    fleet.advance(31.0)
    assert phases(fleet) == [PENDING, PENDING]
    assert nodes(fleet) == ["main-node-1"] * 2
    fleet.advance(400.0)
    assert phases(fleet) == [READY, READY]


def test_a_reclaim_and_a_scale_down_of_the_same_replica_end_it_once() -> None:
    fleet = a_fleet([a_pool(2)], [a_batch([0.0, 0.0], output_tokens=20_000)], drain_deadline_s=50.0)
    fleet.advance(1.0)
    scale(fleet, 1)
    fleet.inject(Reclaim(10.0, notice_s=20.0))
    fleet.advance(10.0)
    assert phases(fleet) == [DRAINING, DRAINING, PENDING]
    fleet.advance(500.0)
    assert phases(fleet) == [READY]
    assert fleet.gpu_seconds() == pytest.approx(2 * (30.0 + 30.0 + 490.0))


def test_a_successor_that_becomes_ready_does_not_cut_short_a_predecessor_that_drains_already() -> None:
    pool = a_pool(1, revisions=("1", "2"), lead_time_s=20.0)
    fleet = a_fleet([pool], [a_batch([0.0], output_tokens=3_000)], platform=a_platform(nodes={"gpus_per_node": 2}))
    fleet.cluster.roll_back(a_key(), "1")
    fleet.inject(Reclaim(10.0, node="main-node-0", notice_s=100.0))
    fleet.advance(25.0)
    assert phases(fleet) == [DRAINING, READY]
    fleet.finish()
    assert fleet.outcomes.count(RequestStatus.COMPLETED) == 1
    assert phases(fleet) == [READY]


def test_spot_nodes_live_as_long_as_their_rate_says_by_seed_and_node() -> None:
    def lost_at(seed: int) -> list[float]:
        platform = a_platform(spot={"reclaims_per_hour": 2.0, "notice_s": 0.0}, nodes={"gpus_per_node": 2})
        fleet = a_fleet([a_pool(60)], seed=seed, platform=platform)
        alive, lost = set(nodes(fleet)), []
        for minute in range(1, 121):
            fleet.advance(60.0 * minute)
            gone = alive - set(nodes(fleet))
            lost += [60.0 * minute] * len(gone)
            alive -= gone
        return lost

    lost = lost_at(1)
    assert lost == lost_at(1) != lost_at(2)
    # 60 nodes with a mean of half an hour: 63 % are gone after it, standard error 6 %
    assert sum(at <= 1_800.0 for at in lost) / 60 == pytest.approx(0.63, abs=0.2)
    assert np.mean(lost) == pytest.approx(1_750.0, rel=0.3)


# What can be learnt of it


def test_lead_times_have_the_wait_for_a_node_and_not_that_for_a_stock_out() -> None:
    settings, usual = LeadTimeSettings(), {**SMALL_NODES, "max_nodes": None, "idle_s": 10_000.0}
    fleet = a_fleet([a_pool(2)], platform=a_platform(nodes=usual))
    memory = observe_starts(fleet.cluster.pools()[0], PoolMemory(), settings)
    scale(fleet, 8)
    fleet.advance(300.0)
    waited = fleet.cluster.pools()[0].replicas[-1]
    assert (waited.requested_at, waited.placed_at, waited.begun_at) == (0.0, 300.0, 300.0)
    fleet.advance(400.0)
    memory = observe_starts(fleet.cluster.pools()[0], memory, settings)
    assert (lead_time(memory, settings).p90_s, lead_time(memory, settings).wait_p90_s) == (400.0, 300.0)
    fleet.inject(StockOut(500.0, duration_s=3_600.0))
    fleet.advance(510.0)
    scale(fleet, 20)
    assert math.isnan(fleet.cluster.pools()[0].replicas[-1].placed_at)
    fleet.advance(4_600.0)
    assert phases(fleet) == [READY] * 20
    memory = observe_starts(fleet.cluster.pools()[0], memory, settings)
    assert len(memory.lead_times_s) == 18
    assert (lead_time(memory, settings).p90_s, lead_time(memory, settings).wait_p90_s) == (400.0, 300.0)


# What is refused


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"pools": {"mian": {}}}, "there is no 'mian'"),
        ({"gpu_stock": {"h100": 8}}, "there is no 'h100'"),
        ({"gpu_stock": {"test": -1}}, "a stock of -1 GPUs"),
        ({"nodes": {"gpus_per_node": 1}}, "needs 2 GPUs, a node has 1"),
        ({"pools": {"main": {"node_group": "x"}}}, "there is no 'x'"),
        ({"node_groups": {"x": {}}}, "no pool is on these nodes"),
        ({"node_groups": {"main": {}}, "pools": {"spare": {"node_group": "main"}}}, "own nodes would be called"),
        (
            {"node_groups": {"x": {}}, "pools": {"main": {"node_group": "x"}, "spare": {"node_group": "x"}}},
            "main has test at 1 US dollars, spare test at 2",
        ),
        (
            {"node_groups": {"x": {}}, "pools": {"main": {"node_group": "x", "spot": {}}, "twin": {"node_group": "x"}}},
            "differ in spot",
        ),
    ],
)
def test_settings_that_cannot_be_are_refused_by_name(settings: dict[str, Any], message: str) -> None:
    profiles = {"main": a_profile(), "twin": a_profile(), "spare": a_profile(usd_per_gpu_hour=2.0)}
    with pytest.raises(BadInput, match=message):
        check_platform(a_platform(**settings), profiles, 8)


def test_a_reclaim_of_a_node_that_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="nodes are called main-node-0 and so on"):
        a_fleet().inject(Reclaim(1.0, node="elsewhere-3"))
    with pytest.raises(ValueError, match="no pool 'west'"):
        a_fleet().inject(StockOut(1.0, ReplicaTarget("west")))


def test_giving_up_a_rollback_that_the_quota_holds_back_frees_quota_for_nobody_else() -> None:
    """Each replica that goes frees quota, and whoever was held back for another is not made on it."""
    platform = PlatformSettings(gpu_quota=10)
    spec = a_pool(5, profile=a_profile(gpus=2), revisions=("1", "2"))
    fleet = a_fleet([spec], platform=platform)
    fleet.cluster.roll_back(spec.key, "1")
    (pool,) = fleet.cluster.pools()
    fleet.cluster.scale(spec.key, 0, pool.version)
    fleet.advance(fleet.clock.now() + 1000.0)
    (pool,) = fleet.cluster.pools()
    assert (pool.desired, pool.replicas) == (0, ())
