"""Is a pod that takes the name of another one a new life, and is it measured how long each takes to serve?"""

from __future__ import annotations

from pathlib import Path

import pytest

from policies.lead_time import LeadTimeSettings, lead_time, observe_starts
from policies.memory import PoolMemory
from policies.roster import states
from tests.builders_kube_writes import KEY, a_kube_world

SETTINGS = LeadTimeSettings(enough_starts=3)


@pytest.mark.parametrize("kind", ["StatefulSet", "LeaderWorkerSet"])
def test_a_pod_that_gets_its_name_again_is_another_life(tmp_path: Path, kind: str) -> None:
    with a_kube_world(tmp_path, kind, 2) as world:
        before = world.replicas()
        world.rest(300)
        world.cluster.restart(KEY, "llama-1")
        pool = world.rest()
        after = {replica.id: replica for replica in pool.replicas}
        assert set(after) == set(before)
        assert after["llama-0"].life == before["llama-0"].life
        assert after["llama-1"].life != before["llama-1"].life
        assert after["llama-1"].life.split("#")[0] == "llama-1"
        assert [one.life for one in states(pool.roster, pool.told)] == [one.life for one in pool.replicas]


def test_a_pod_of_a_name_of_its_own_has_a_life_that_says_no_more(tmp_path: Path) -> None:
    with a_kube_world(tmp_path) as world:
        assert {replica.life for replica in world.pool().replicas} == {f"{name}#0" for name in world.replicas()}


@pytest.mark.parametrize("kind", ["Deployment", "StatefulSet", "LeaderWorkerSet"])
def test_it_is_measured_how_long_pods_take_from_their_creation_to_ready(tmp_path: Path, kind: str) -> None:
    with a_kube_world(tmp_path, kind, 2, start_s=60.0) as world:
        for _ in range(3):
            world.rest(60)
        known = observe_starts(world.pool(), PoolMemory(), SETTINGS)
        assert len(known.lead_times_s) == 2
        world.api.kubelet.start_s = 90.0
        world.rest(300)
        world.cluster.restart(KEY, min(world.replicas()))
        for _ in range(12):
            known = observe_starts(world.rest(15), known, SETTINGS)
        assert known.lead_times_s[-1] == 90.0
        assert len(known.lead_times_s) == len(known.placement_waits_s) == 3
        assert lead_time(known, SETTINGS).measured


def test_a_wait_for_a_node_is_measured_apart(tmp_path: Path) -> None:
    with a_kube_world(tmp_path, replicas=2, nodes=1, start_s=30.0) as world:
        known = observe_starts(world.pool(), PoolMemory(), SETTINGS)
        world.cluster.scale(KEY, 3, world.pool().version)  # of four GPUs each: the node has eight
        for _ in range(4):
            known = observe_starts(world.rest(30), known, SETTINGS)
        assert len(world.pool().starting) == 1
        world.api.add_nodes(1, prefix="late")
        for _ in range(4):
            known = observe_starts(world.rest(15), known, SETTINGS)
        assert known.placement_waits_s[-1] == pytest.approx(120.0, abs=30.0)  # looks are as far apart
        assert known.lead_times_s[-1] == 30.0
