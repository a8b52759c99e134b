"""Does what controllers and kubelets do to a workload look the way the policies are told?"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from controller.adapters.kube.cluster import KubernetesView
from controller.adapters.system_clock import SystemClock
from policies.fleet import PoolState
from policies.replica import Phase
from simulations.kubernetes_api.running import RunningApi, running_api
from tests.builders_kube import T0, container_json, template_json
from tests.builders_kube_api import MERGE, Fleet, caught_up, settings_for

MARKS = {"labels": {"foresail.dev/model": "llama"}}


class SetClock:
    def __init__(self) -> None:
        self.at = T0

    def now(self) -> float:
        return self.at


class World:
    """One labelled workload on a cluster with controllers and kubelets, and a view of it."""

    def __init__(self, api: RunningApi, view: KubernetesView, clock: SetClock, plural: str) -> None:
        self.api, self.view, self.clock = api, view, clock
        self._group = {"leaderworkersets": "leaderworkerset.x-k8s.io/v1", "rollouts": "argoproj.io/v1alpha1"}.get(
            plural, "apps/v1"
        )
        self._path = f"/apis/{self._group}/namespaces/prod/{plural}"

    def pool(self, after_s: float = 0.0) -> PoolState:
        """Let the cluster come to rest ``after_s`` from now, and return the pool as the view has it then."""
        self.clock.at += after_s
        self.api.settle()
        return self.seen()

    def seen(self) -> PoolState:
        assert caught_up(self.api, chain.from_iterable(self.view.reflectors.values()))
        (pool,) = self.view.pools()
        return pool

    def patch(self, spec: dict[str, Any]) -> None:
        self.api.call("PATCH", f"{self._path}/llama", {"spec": spec}, MERGE)

    def roll_out(self, image: str) -> None:
        self.patch({"template": _template(image)})

    def create(self, kind: str, replicas: int) -> None:
        of_kind: dict[str, dict[str, Any]] = {
            "StatefulSet": {"serviceName": "llama"},
            "LeaderWorkerSet": {"leaderWorkerTemplate": {"size": 2, "workerTemplate": _template("good:1")}},
            "Rollout": {"strategy": {"canary": {"steps": [{"setWeight": 50}, {"pause": {}}]}}},
        }
        spec = {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": "llama"}},
            "template": _template("good:1"),
            **of_kind.get(kind, {}),
        }
        body = {"apiVersion": self._group, "kind": kind, "metadata": {"name": "llama", **MARKS}, "spec": spec}
        self.api.call("POST", self._path, body)


def _template(image: str) -> dict[str, Any]:
    labels = {"app": "llama", "foresail.dev/serving": "true"}
    return template_json({**container_json(gpus=4, ports=(("http", 8000),)), "image": image}, labels=labels)


@contextmanager
def _world(folder: Path, kind: str = "Deployment", replicas: int = 2, nodes: int = 4) -> Iterator[World]:
    clock = SetClock()
    with running_api(clock=clock, bookmark_every_s=0.05) as api:
        Fleet(api)
        api.add_nodes(nodes)
        kinds = ("Deployment", "StatefulSet", "LeaderWorkerSet", "Rollout")
        view = KubernetesView(settings_for(api, folder, kinds=kinds), SystemClock().elapsed, np.random.default_rng(3))
        world = World(api, view, clock, f"{kind.lower()}s")
        world.create(kind, replicas)
        view.start()
        try:
            yield world
        finally:
            view.close()


def _phases(pool: PoolState) -> list[Phase]:
    return [replica.phase for replica in pool.replicas]


def test_replicas_start_and_serve_and_tell_when(tmp_path: Path) -> None:
    with _world(tmp_path) as world:
        world.api.kubelet.start_s = 100.0
        loading = world.pool()
        assert _phases(loading) == [Phase.LOADING] * 2
        ready = world.pool(after_s=130.0)
        assert _phases(ready) == [Phase.READY] * 2
        assert {(r.requested_at, r.placed_at, r.since_at) for r in ready.replicas} == {(T0, T0, T0 + 130.0)}
        assert all(replica.address.endswith(":8000") and replica.node for replica in ready.replicas)
        assert (ready.revision, ready.revision_at) == (ready.replicas[0].revision, T0)
        assert (ready.revisions, ready.gpus_per_replica) == ((ready.revision,), 4)


def test_a_rollout_and_the_way_back_are_told_by_revisions(tmp_path: Path) -> None:
    with _world(tmp_path) as world:
        good = world.pool()
        world.api.kubelet.troubles.images["bad:1"] = "crash"
        world.clock.at += 600.0
        world.roll_out("bad:1")
        bad = world.pool()
        assert bad.version > good.version
        assert (bad.revisions, bad.revision_at) == ((good.revision, bad.revision), T0 + 600.0)
        crashed = [replica for replica in bad.replicas if replica.revision == bad.revision]
        assert crashed
        assert {replica.phase for replica in crashed} == {Phase.FAILED}
        assert {replica.waiting_reason for replica in crashed} == {"CrashLoopBackOff"}
        assert all(replica.exit_reason and replica.restarts for replica in crashed)
        assert sum(replica.serving for replica in bad.replicas) >= 1
        world.clock.at += 60.0
        world.roll_out("good:1")
        back = world.pool()
        assert (back.revision, back.revisions) == (good.revision, (good.revision, bad.revision))
        assert math.isnan(back.revision_at)
        assert {replica.revision for replica in back.replicas if replica.serving} == {good.revision}


def test_a_paused_rollout_is_told(tmp_path: Path) -> None:
    with _world(tmp_path) as world:
        before = world.pool()
        world.patch({"paused": True})
        world.roll_out("good:2")
        paused = world.pool()
        assert paused.paused
        assert paused.revision == before.revision  # new replicas get the old template still
        world.patch({"paused": False})
        after = world.pool()
        assert not after.paused
        assert after.revision != before.revision


def test_replicas_that_are_given_up_drain_from_when_that_was_asked(tmp_path: Path) -> None:
    with _world(tmp_path) as world:
        world.pool()
        world.api.kubelet.stop_s = 20.0
        world.clock.at += 300.0
        world.patch({"replicas": 1})
        world.api.settle()
        pool = world.seen()
        assert pool.desired == 1
        (leaving,) = [replica for replica in pool.replicas if replica.phase is Phase.DRAINING]
        assert leaving.since_at == T0 + 300.0
        assert len(world.pool(after_s=31.0).replicas) == 1


def test_replicas_that_find_no_node_say_so(tmp_path: Path) -> None:
    with _world(tmp_path, replicas=3, nodes=1) as world:
        pool = world.pool()
        assert sorted(_phases(pool)) == [Phase.PENDING, Phase.READY, Phase.READY]
        (waiting,) = pool.roster.unplaced
        assert waiting.waiting_reason == "Unschedulable"


def test_a_replica_that_the_node_put_out_is_replaced_and_then_forgotten(tmp_path: Path) -> None:
    with _world(tmp_path) as world:
        victim = world.pool().replicas[0]
        world.api.kubelet.troubles.pods[f"prod/{victim.id}"] = "failed"
        pool = world.pool(after_s=10.0)
        assert _phases(pool) == [Phase.READY] * 2
        assert victim.id not in pool.roster.ids
        still_there = world.api.call("GET", f"/api/v1/namespaces/prod/pods/{victim.id}")
        assert still_there["status"]["phase"] == "Failed"


def test_a_stateful_set_keeps_names_and_tells_revisions(tmp_path: Path) -> None:
    with _world(tmp_path, "StatefulSet") as world:
        before = world.pool()
        assert [replica.id for replica in before.replicas] == ["llama-0", "llama-1"]
        assert {replica.revision for replica in before.replicas} == {before.revision}
        assert before.revision_at == T0
        world.clock.at += 60.0
        world.roll_out("good:2")
        after = world.pool()
        assert (after.revisions, after.revision_at) == ((before.revision, after.revision), T0 + 60.0)
        assert {replica.revision for replica in after.replicas} == {after.revision}
        assert all(replica.requested_at == T0 + 60.0 for replica in after.replicas)


def test_a_canary_is_told_beside_the_stable_revision(tmp_path: Path) -> None:
    with _world(tmp_path, "Rollout") as world:
        before = world.pool()
        assert _phases(before) == [Phase.READY] * 2
        assert before.stable_revision == before.revision
        world.clock.at += 60.0
        world.roll_out("good:2")
        canary = world.pool()
        assert canary.stable_revision == before.revision
        assert canary.revision != before.revision
        assert canary.revision_at == T0 + 60.0
        assert {replica.revision for replica in canary.replicas} == {before.revision, canary.revision}
        world.roll_out("good:1")
        back = world.pool()
        assert (back.revision, back.stable_revision) == (before.revision, before.revision)
        assert math.isnan(back.revision_at)


def test_a_group_of_pods_is_one_replica_and_its_worker_s_trouble_is_its_own(tmp_path: Path) -> None:
    with _world(tmp_path, "LeaderWorkerSet") as world:
        whole = world.pool()
        assert [(replica.id, replica.phase) for replica in whole.replicas] == [
            ("llama-0", Phase.READY),
            ("llama-1", Phase.READY),
        ]
        assert (whole.gpus_per_replica, whole.revision) == (8, whole.replicas[0].revision)
        world.api.kubelet.troubles.pods["prod/llama-1-1"] = "crash"
        first, second = world.pool(after_s=30.0).replicas
        assert (first.phase, second.phase) == (Phase.READY, Phase.FAILED)
        assert (second.waiting_reason, second.since_at) == ("CrashLoopBackOff", T0 + 30.0)
        assert second.restarts > 0
