"""What does the control loop rely on in any ``Cluster``? One suite over every implementation.

An implementation is a ``ClusterWorld``: a cluster with one pool of three READY replicas, and a way to let time pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Protocol

import pytest

from controller.adapters.kube.cluster_writes import KubernetesCluster
from controller.errors import ActuationError, StalePlan
from controller.ports import Cluster
from policies.fleet import NodeState, Phase, PoolKey, PoolState
from simulations.fleet import SimulatedFleet
from tests.builders_fleet import a_fleet, a_key, a_pool
from tests.builders_kube_writes import KEY, KubeWorld, a_kube_world
from tests.builders_members import Link, of_member, over
from tests.builders_platform import RunningPlatform, a_template

STEP_S = 30.0


class ClusterWorld(Protocol):
    cluster: Cluster
    key: PoolKey
    revisions: tuple[str, str]
    """What the templates are called that the pool had before, and has."""

    def wait(self, seconds: float) -> None: ...

    def serving_at_gateway(self) -> set[str]:
        """Ids of replicas that would get a new request now."""
        ...


class SimulatedWorld:
    revisions = "1", "2"

    def __init__(self) -> None:
        self.fleet: SimulatedFleet = a_fleet(
            [a_pool(3, lead_time_s=60.0, revisions=("1", "2"), stable_revision="1")], scrape_interval_s=5.0
        )
        self.cluster: Cluster = self.fleet.cluster
        self.key = a_key()

    def wait(self, seconds: float) -> None:
        self.fleet.advance(self.fleet.clock.now() + seconds)

    def serving_at_gateway(self) -> set[str]:
        (pool,) = self.fleet.cluster.pools()
        return {replica.id for replica in pool.serving}


class LiveWorld:
    """Real processes behind the HTTP API; replicas are PENDING long enough to be seen so."""

    revisions = "1", "2"

    def __init__(self, running: RunningPlatform) -> None:
        self.running = running
        self.cluster: Cluster = running.adapter
        self.key = running.templates[0].key

    def wait(self, seconds: float) -> None:
        if seconds:
            self.running.settle()

    def serving_at_gateway(self) -> set[str]:
        return self.running.serving_at_gateway(self.key)


class MembersWorld:
    """Two simulated clusters as one; the pool is in the east, and nodes have the same names in both."""

    def __init__(self) -> None:
        self.east, self.west = SimulatedWorld(), SimulatedWorld()
        links = {"east": Link(self.east.cluster), "west": Link(self.west.cluster)}
        self.members = over(links, self.east.fleet.clock.now)
        self.cluster: Cluster = self.members
        self.key = of_member("east", a_key())
        self.revisions = self.east.revisions

    def wait(self, seconds: float) -> None:
        self.east.wait(seconds)

    def serving_at_gateway(self) -> set[str]:
        return self.east.serving_at_gateway()


@contextmanager
def a_world_of_members(_: Path) -> Iterator[ClusterWorld]:
    world = MembersWorld()
    world.cluster.pools()  # acts are about what was seen
    try:
        yield world
    finally:
        world.members.close()


@contextmanager
def a_live_world(folder: Path) -> Iterator[ClusterWorld]:
    template = a_template(3, placement_s=0.4, revisions=("1", "2"), stable_revision="1")
    with RunningPlatform(folder, [template]) as running:
        yield LiveWorld(running)


class SettledCluster(KubernetesCluster):
    """Looks when the controllers have come to rest, and the cache shows it."""

    world: KubeWorld

    def pools(self) -> tuple[PoolState, ...]:
        self.world.api.settle()
        self.world.caught_up()
        return super().pools()

    def nodes(self) -> Mapping[str, NodeState]:
        self.world.caught_up()
        return super().nodes()


class KubernetesWorld:
    """An API server with controllers and kubelets; a replica takes a minute to load."""

    def __init__(self, world: KubeWorld) -> None:
        self.world, self.key = world, KEY
        assert isinstance(world.cluster, SettledCluster)
        world.cluster.world = world
        self.cluster: Cluster = world.cluster
        (before,) = self.cluster.pools()
        world.roll_out("new:1")
        self.wait(600.0)
        (after,) = self.cluster.pools()
        self.revisions = before.revision, after.revision

    def wait(self, seconds: float) -> None:
        for _ in range(int(seconds / STEP_S) or 1):
            self.world.rest(min(seconds, STEP_S))

    def serving_at_gateway(self) -> set[str]:
        return self.world.behind_service()


@contextmanager
def a_kubernetes_world(folder: Path) -> Iterator[ClusterWorld]:
    with a_kube_world(folder, start_s=60.0, nodes_read=True, made_as=SettledCluster) as world:
        yield KubernetesWorld(world)


WORLDS: dict[str, Callable[[Path], AbstractContextManager[ClusterWorld]]] = {
    "simulated": lambda _: nullcontext(SimulatedWorld()),
    "live": a_live_world,
    "kubernetes": a_kubernetes_world,
    "members": a_world_of_members,
}


@pytest.fixture(params=WORLDS)
def world(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ClusterWorld]:
    with WORLDS[request.param](tmp_path) as made:
        yield made


def the_pool(world: ClusterWorld) -> PoolState:
    return next(pool for pool in world.cluster.pools() if pool.key == world.key)


def test_pools_tell_replicas_phases_and_what_was_asked_for(world: ClusterWorld) -> None:
    pool = the_pool(world)
    assert pool.desired == 3
    assert [replica.phase for replica in pool.replicas] == [Phase.READY] * 3
    assert pool.gpus_per_replica > 0
    assert all(replica.metrics is None for replica in pool.replicas)
    assert pool.weight == 0.0


def test_scaling_up_asks_for_more_and_they_become_ready(world: ClusterWorld) -> None:
    world.cluster.scale(world.key, 5, the_pool(world).version)
    pool = the_pool(world)
    assert pool.desired == 5
    assert len(pool.starting) == 2
    world.wait(600.0)
    assert len(the_pool(world).serving) == 5


def test_a_change_moves_the_version_and_an_older_plan_is_stale(world: ClusterWorld) -> None:
    seen = the_pool(world).version
    world.cluster.scale(world.key, 4, seen)
    assert the_pool(world).version != seen
    with pytest.raises(StalePlan):
        world.cluster.scale(world.key, 6, seen)
    assert the_pool(world).desired == 4


def test_scaling_twice_to_the_same_count_changes_nothing(world: ClusterWorld) -> None:
    world.cluster.scale(world.key, 4, the_pool(world).version)
    once = the_pool(world)
    world.cluster.scale(world.key, 4, once.version)
    assert the_pool(world) == once


def test_scaling_down_drains_the_named_replicas_first(world: ClusterWorld) -> None:
    names = [replica.id for replica in the_pool(world).replicas]
    world.cluster.scale(world.key, 1, the_pool(world).version, retire_first=(names[2], names[0]))
    assert world.serving_at_gateway() == {names[1]}
    world.wait(600.0)
    assert [replica.id for replica in the_pool(world).replicas] == [names[1]]


def test_scaling_to_zero_leaves_nothing(world: ClusterWorld) -> None:
    world.cluster.scale(world.key, 0, the_pool(world).version)
    world.wait(600.0)
    assert the_pool(world).replicas == ()


def test_names_to_retire_that_are_gone_do_no_harm(world: ClusterWorld) -> None:
    world.cluster.scale(world.key, 2, the_pool(world).version, retire_first=("no-such-replica",))
    world.wait(600.0)
    assert len(the_pool(world).replicas) == 2


def test_a_cordoned_replica_lives_without_traffic_until_it_is_uncordoned(world: ClusterWorld) -> None:
    name = the_pool(world).replicas[0].id
    for _ in range(2):  # twice is as good as once
        world.cluster.cordon(world.key, name)
        replica = next(r for r in the_pool(world).replicas if r.id == name)
        assert (replica.phase, replica.cordoned, replica.serving) == (Phase.READY, True, False)
        assert name not in world.serving_at_gateway()
    for _ in range(2):
        world.cluster.uncordon(world.key, name)
        assert name in world.serving_at_gateway()


def test_a_restart_replaces_the_replica(world: ClusterWorld) -> None:
    name = the_pool(world).replicas[0].id
    world.cluster.restart(world.key, name)
    world.wait(0.0)
    assert name not in world.serving_at_gateway()
    world.wait(600.0)
    pool = the_pool(world)
    assert pool.desired == len(pool.serving) == 3


def test_rolling_back_gives_every_replica_the_revision(world: ClusterWorld) -> None:
    old, new = world.revisions
    assert {replica.revision for replica in the_pool(world).replicas} == {new}
    world.cluster.roll_back(world.key, old)
    assert the_pool(world).revision == old
    world.wait(1200.0)
    pool = the_pool(world)
    assert [(replica.revision, replica.phase) for replica in pool.replicas] == [(old, Phase.READY)] * 3
    world.cluster.roll_back(world.key, old)
    assert the_pool(world) == pool


def test_a_revision_is_told_with_those_that_can_be_gone_back_to_and_since_when(world: ClusterWorld) -> None:
    old, _ = world.revisions
    before = the_pool(world)
    assert before.revisions == world.revisions
    world.wait(1.0)
    world.cluster.roll_back(world.key, old)
    after = the_pool(world)
    assert (after.revision, after.paused) == (old, False)
    assert after.revision_at > before.revision_at
    assert after.revisions == before.revisions


def test_a_paused_rollout_goes_no_further_until_it_is_resumed(world: ClusterWorld) -> None:
    old, new = world.revisions
    world.cluster.roll_back(world.key, old)
    for _ in range(2):  # twice is as good as once
        world.cluster.pause(world.key)
    assert the_pool(world).paused
    world.wait(600.0)
    pool = the_pool(world)
    assert pool.paused
    assert [replica.revision for replica in pool.replicas].count(new) >= 2
    assert len(pool.serving) >= 3
    for _ in range(2):
        world.cluster.resume(world.key)
    world.wait(1200.0)
    pool = the_pool(world)
    assert not pool.paused
    assert [(replica.revision, replica.phase) for replica in pool.replicas] == [(old, Phase.READY)] * 3


def test_rolling_back_ends_a_pause(world: ClusterWorld) -> None:
    old, new = world.revisions
    world.cluster.roll_back(world.key, old)
    world.cluster.pause(world.key)
    world.wait(600.0)
    world.cluster.roll_back(world.key, new)
    assert not the_pool(world).paused
    world.wait(1200.0)
    pool = the_pool(world)
    assert [(replica.revision, replica.phase) for replica in pool.replicas] == [(new, Phase.READY)] * 3


def test_what_is_not_there_cannot_be_acted_on(world: ClusterWorld) -> None:
    nowhere = PoolKey(world.key.model, "nowhere")
    for verb in (world.cluster.cordon, world.cluster.uncordon, world.cluster.restart):
        with pytest.raises(ActuationError):
            verb(world.key, "no-such-replica")
        with pytest.raises(ActuationError):
            verb(nowhere, the_pool(world).replicas[0].id)
    with pytest.raises(ActuationError):
        world.cluster.scale(nowhere, 1, 1)
    with pytest.raises(ActuationError):
        world.cluster.roll_back(nowhere, "1")
    for of_pool in (world.cluster.pause, world.cluster.resume):
        with pytest.raises(ActuationError):
            of_pool(nowhere)
    with pytest.raises(ActuationError):
        world.cluster.avoid("no-such-node")
    with pytest.raises(ActuationError):
        world.cluster.roll_back(world.key, "no-such-revision")
    with pytest.raises(ActuationError):
        world.cluster.scale(world.key, -1, the_pool(world).version)


def test_on_an_avoided_node_nothing_more_is_placed(world: ClusterWorld) -> None:
    node = the_pool(world).replicas[0].node
    if isinstance(world, LiveWorld):  # it has one node, and refuses to do without
        with pytest.raises(ActuationError):
            world.cluster.avoid(node)
        return
    world.cluster.avoid(node)
    assert world.cluster.nodes()[node].avoided
    world.cluster.scale(world.key, 4, the_pool(world).version)
    world.wait(600.0)
    assert the_pool(world).replicas[3].node not in ("", node)
    assert the_pool(world).replicas[0].node == node
    world.cluster.stop_avoiding(node)
    assert not world.cluster.nodes()[node].avoided
