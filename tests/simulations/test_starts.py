"""Do starts fail as they are told to, and say why they wait; and what becomes of nodes that fail or are avoided?"""

from __future__ import annotations

import pytest

from controller.errors import ActuationError
from policies.fleet import NodeState, Phase, PoolState
from simulations.faults import Crash, NodeLoss, Reclaim, ReplicaTarget, StartFailures
from simulations.fleet import SimulatedFleet
from simulations.outcomes import RequestStatus
from simulations.platform_settings import PlatformSettings
from tests.builders_fleet import a_batch, a_fleet, a_key, a_pool, poisson

PENDING, LOADING, READY, FAILED = Phase.PENDING, Phase.LOADING, Phase.READY, Phase.FAILED


def pool_of(fleet: SimulatedFleet, place: int = 0) -> PoolState:
    return fleet.cluster.pools()[place]


def scale(fleet: SimulatedFleet, replicas: int, place: int = 0) -> None:
    pool = pool_of(fleet, place)
    fleet.cluster.scale(pool.key, replicas, pool.version)


# Failing starts


def test_no_start_succeeds_while_they_fail_and_the_next_does_afterwards() -> None:
    fleet = a_fleet([a_pool(1)])
    fleet.inject(StartFailures(5.0, duration_s=400.0))
    fleet.advance(10.0)
    scale(fleet, 2)
    fleet.advance(71.0)
    first = pool_of(fleet).replicas[1]
    assert (first.phase, first.waiting_reason, first.exit_reason) == (FAILED, "", "Error")
    fleet.advance(131.0)  # loads from 80 s on and exits again at 120 s
    second = pool_of(fleet).replicas[1]
    assert (second.phase, second.waiting_reason, second.restarts) == (FAILED, "CrashLoopBackOff", 2)
    fleet.advance(1_000.0)
    healed = pool_of(fleet).replicas[1]
    assert (healed.phase, healed.waiting_reason, healed.exit_reason) == (READY, "", "Error")
    assert pool_of(fleet).replicas[0].restarts == 0


def test_an_image_that_cannot_be_pulled_keeps_replicas_pending_without_an_exit() -> None:
    fleet = a_fleet([a_pool(1)])
    fleet.inject(StartFailures(5.0, reason="ImagePullBackOff", duration_s=300.0))
    fleet.inject(Crash(40.0))
    fleet.advance(10.0)
    scale(fleet, 2)
    fleet.advance(29.0)
    assert pool_of(fleet).replicas[1].waiting_reason == ""
    fleet.advance(31.0)
    waiting = pool_of(fleet).replicas[1]
    assert (waiting.phase, waiting.waiting_reason, waiting.restarts) == (PENDING, "ImagePullBackOff", 0)
    fleet.advance(200.0)  # whoever has its image starts again in place
    assert pool_of(fleet).replicas[0].phase is READY
    assert pool_of(fleet).replicas[1].phase is PENDING
    fleet.advance(700.0)
    healed = pool_of(fleet).replicas[1]
    assert (healed.phase, healed.waiting_reason, healed.exit_reason) == (READY, "", "")


@pytest.mark.parametrize(("pool", "fails"), [("", [FAILED, FAILED]), ("b", [LOADING, FAILED])])
def test_they_fail_in_the_pool_named_or_in_all(pool: str, fails: list[Phase]) -> None:
    fleet = a_fleet([a_pool(1, "a"), a_pool(1, "b")])
    fleet.inject(StartFailures(5.0, ReplicaTarget(pool)))
    fleet.advance(10.0)
    scale(fleet, 2, 0)
    scale(fleet, 2, 1)
    fleet.advance(71.0)
    assert [pool_of(fleet, place).replicas[1].phase for place in (0, 1)] == fails


def test_without_gpus_a_replica_is_unschedulable_until_it_gets_some() -> None:
    fleet = a_fleet([a_pool(1, gpu_stock=2)])
    scale(fleet, 2)
    fleet.advance(10.0)
    assert pool_of(fleet).replicas[1].waiting_reason == "Unschedulable"
    fleet.cluster.restart(a_key(), "main-0")
    assert [(r.id, r.waiting_reason) for r in pool_of(fleet).replicas] == [("main-1", ""), ("main-2", "Unschedulable")]


def test_why_it_exited_is_told_in_its_next_life_too() -> None:
    fleet = a_fleet([a_pool(1)])
    fleet.inject(Crash(10.0))
    fleet.advance(300.0)
    (replica,) = pool_of(fleet).replicas
    assert (replica.phase, replica.exit_reason, replica.waiting_reason) == (READY, "Error", "")


# Nodes


def test_nodes_are_told_with_what_becomes_of_them() -> None:
    fleet = a_fleet([a_pool(4)], platform=PlatformSettings.model_validate({"nodes": {"gpus_per_node": 4}}))
    assert fleet.cluster.nodes() == {"main-node-0": NodeState(True, 0.0), "main-node-1": NodeState(True, 0.0)}
    fleet.inject(Reclaim(10.0, node="main-node-0", notice_s=60.0))
    fleet.cluster.avoid("main-node-1")
    fleet.advance(20.0)
    assert fleet.cluster.nodes() == {
        "main-node-0": NodeState(True, 0.0, leaving=True),
        "main-node-1": NodeState(True, 0.0, avoided=True),
        "main-node-2": NodeState(True, 10.0),
    }
    fleet.cluster.stop_avoiding("main-node-1")
    assert not fleet.cluster.nodes()["main-node-1"].avoided
    for verb in (fleet.cluster.avoid, fleet.cluster.stop_avoiding):
        with pytest.raises(ActuationError, match="no such node: elsewhere"):
            verb("elsewhere")


def test_nothing_is_placed_on_an_avoided_node_and_what_is_there_stays() -> None:
    fleet = a_fleet([a_pool(1)], platform=PlatformSettings.model_validate({"nodes": {"nodes": 1, "max_nodes": 1}}))
    fleet.cluster.avoid("main-node-0")
    scale(fleet, 2)
    fleet.advance(500.0)
    assert [(r.phase, r.waiting_reason) for r in pool_of(fleet).replicas] == [(READY, ""), (PENDING, "Unschedulable")]
    fleet.cluster.stop_avoiding("main-node-0")
    fleet.advance(700.0)
    assert [(r.phase, r.node) for r in pool_of(fleet).replicas] == [(READY, "main-node-0")] * 2


def test_a_restart_goes_to_another_node_when_its_own_is_avoided() -> None:
    fleet = a_fleet([a_pool(1)])
    fleet.cluster.avoid("main-node-0")
    fleet.cluster.restart(a_key(), "main-0")
    assert [r.node for r in pool_of(fleet).replicas] == ["main-node-1"]


def test_a_node_that_is_not_ready_has_dead_engines_which_the_platform_lists_until_it_gives_them_up() -> None:
    platform = PlatformSettings.model_validate({"nodes": {"gpus_per_node": 4}})
    fleet = a_fleet([a_pool(4)], [a_batch(poisson(4.0, 1_200), output_tokens=50)], platform=platform)
    scale(fleet, 5)  # the fifth loads on a third node
    fleet.inject(NodeLoss(50.0, ReplicaTarget("", 0), grace_s=60.0))
    fleet.advance(40.0)
    before = pool_of(fleet).replicas
    fleet.advance(109.0)
    assert [(r.id, r.phase, r.node) for r in pool_of(fleet).replicas[:4]] == [
        (r.id, r.phase, r.node) for r in before[:4]
    ]
    assert fleet.cluster.nodes()["main-node-0"] == NodeState(False, 50.0)
    seen = fleet.metrics.read(109.0)
    assert set(seen.replicas) == {"main-2", "main-3", "main-4"}
    assert {"replica:main-0", "replica:main-1"} <= set(seen.missing)
    fleet.advance(111.0)
    assert "main-node-0" not in fleet.cluster.nodes()
    assert [r.id for r in pool_of(fleet).replicas] == [f"main-{n}" for n in (2, 3, 4, 5, 6)]
    fleet.finish()
    assert [r.phase for r in pool_of(fleet).replicas] == [READY] * 5
    assert fleet.outcomes.count(RequestStatus.IN_SYSTEM) == 0


def test_what_starts_on_a_node_that_fails_does_not_become_ready_there() -> None:
    fleet = a_fleet([a_pool(1)])
    scale(fleet, 3)
    fleet.inject(Crash(30.0))
    fleet.inject(NodeLoss(31.0, ReplicaTarget("", 0), grace_s=500.0))
    fleet.advance(20.0)
    fleet.advance(29.0)
    node = pool_of(fleet).replicas[0].node
    fleet._scheduler.lose_node(node, 29.0, 500.0)
    fleet.advance(400.0)
    assert [r.phase for r in pool_of(fleet).replicas] == [FAILED, LOADING, LOADING]
    fleet.advance(1_000.0)
    assert [r.phase for r in pool_of(fleet).replicas] == [READY] * 3
    assert node not in {r.node for r in pool_of(fleet).replicas}
