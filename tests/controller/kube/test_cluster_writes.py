"""Does what is asked of a cluster happen there, once, to what was meant, and not at all where others have a say?"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from controller.adapters.kube.cluster_writes import KubernetesCluster
from controller.adapters.kube.settings import CustomKind
from controller.adapters.system_clock import SystemClock
from controller.errors import ActuationError, StalePlan
from policies.replica import Phase
from simulations.kubernetes_api.faults import Fault
from simulations.kubernetes_api.kinds import BUILT_IN, ScalePaths, custom
from simulations.kubernetes_api.running import running_api
from tests.builders_kube import T0
from tests.builders_kube_api import MERGE, Fleet, settings_for
from tests.builders_kube_writes import COST, KEY, LABEL, KubeWorld, a_kube_world

SCALABLE = ["Deployment", "StatefulSet", "LeaderWorkerSet", "Rollout"]


def _held(world: KubeWorld) -> int:
    return int(world.workload()["spec"]["replicas"])


@pytest.mark.parametrize("kind", SCALABLE)
def test_every_kind_is_scaled_through_its_subresource(tmp_path: Path, kind: str) -> None:
    with a_kube_world(tmp_path, kind, 2) as world:
        world.cluster.scale(KEY, 3, world.pool().version)
        assert len(world.rest().serving) == 3
        world.cluster.scale(KEY, 1, world.pool().version)
        assert world.cluster.pools()[0].desired == 1  # our own write shows at once
        assert len(world.rest().serving) == 1
        entries = world.workload()["metadata"]["managedFields"]
        assert "scale" in {entry.get("subresource") for entry in entries if entry["manager"] == "foresail"}


def test_the_same_number_is_not_written_again(tmp_path: Path) -> None:
    with a_kube_world(tmp_path) as world:
        world.cluster.scale(KEY, 4, world.pool().version)
        pool, version = world.rest(), world.api.version
        world.cluster.scale(KEY, 4, pool.version)
        assert world.api.version == version


def test_what_has_changed_since_it_was_looked_at_is_not_scaled(tmp_path: Path) -> None:
    with a_kube_world(tmp_path) as world:
        seen = world.pool().version
        world.change({"metadata": {"labels": {"team": "a"}}})  # nothing that matters
        world.roll_out("new:1")
        with pytest.raises(StalePlan, match="generation 2, not 1"):
            world.cluster.scale(KEY, 5, seen)
        assert _held(world) == 3


def test_a_conflict_at_the_last_moment_is_a_stale_plan(tmp_path: Path) -> None:
    with a_kube_world(tmp_path) as world:
        world.api.fault(Fault(code=409, resources=("deployments/scale",)))
        with pytest.raises(StalePlan):
            world.cluster.scale(KEY, 5, world.pool().version)
        assert _held(world) == 3


def test_nothing_shrinks_while_its_controller_is_behind(tmp_path: Path) -> None:
    with a_kube_world(tmp_path) as world:
        world.roll_out("new:1")
        behind = world.pool()  # no controller has stepped
        with pytest.raises(StalePlan, match="has not seen"):
            world.cluster.scale(KEY, 1, behind.version)
        world.cluster.scale(KEY, 4, behind.version)
        assert _held(world) == 4


def test_those_that_are_named_go_first_and_the_others_stay(tmp_path: Path) -> None:
    with a_kube_world(tmp_path, replicas=5) as world:
        names = sorted(world.replicas())
        named = (names[3], names[1])
        world.cluster.scale(KEY, 3, world.pool().version, retire_first=(*named, "no-such-replica"))
        assert set(world.rest().roster.ids) == set(names) - set(named)
        assert all(COST not in pod["metadata"].get("annotations", {}) for pod in world.pods().values())


def test_what_is_out_of_traffic_goes_before_what_serves(tmp_path: Path) -> None:
    with a_kube_world(tmp_path, replicas=4) as world:
        names = sorted(world.replicas())
        world.cluster.cordon(KEY, names[2])
        world.cluster.scale(KEY, 3, world.pool().version)
        assert set(world.rest().roster.ids) == set(names) - {names[2]}


def test_a_mark_of_a_plan_that_came_to_nothing_is_taken_away(tmp_path: Path) -> None:
    with a_kube_world(tmp_path, replicas=4) as world:
        names = sorted(world.replicas())
        world.change_pod(names[3], {"metadata": {"annotations": {COST: "7"}}})  # somebody else's
        world.api.fault(Fault(code=409, resources=("deployments/scale",), times=1))
        with pytest.raises(StalePlan):
            world.cluster.scale(KEY, 3, world.pool().version, retire_first=(names[0],))
        assert int(world.pods()[names[0]]["metadata"]["annotations"][COST]) < 0
        world.cluster.scale(KEY, 3, world.pool().version, retire_first=(names[1],))
        left = world.rest()
        assert set(left.roster.ids) == set(names) - {names[1]}
        costs = {name: pod["metadata"].get("annotations", {}).get(COST) for name, pod in world.pods().items()}
        assert costs == {names[0]: None, names[2]: None, names[3]: "7"}


def test_a_server_that_is_slow_to_be_told_who_goes_does_not_hold_up_the_tick(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("controller.adapters.kube.cluster_writes._LONGEST_MARKING_S", 0.5)
    with a_kube_world(tmp_path, replicas=5) as world:
        slow, named = Fault(latency_s=0.3, resources=("pods",), verbs=("get",)), tuple(world.replicas())[:4]
        world.api.fault(slow)
        with pytest.raises(StalePlan, match="to mark who goes first has taken"):
            world.cluster.scale(KEY, 1, world.pool().version, retire_first=named)
        assert _held(world) == 5
        world.cluster.scale(KEY, 1, world.pool().version, retire_first=named)  # the others are left to be marked
        assert set(world.rest().roster.ids).isdisjoint(named)


@pytest.mark.parametrize("kind", ["StatefulSet", "LeaderWorkerSet"])
def test_who_gives_up_the_highest_ordinals_is_not_asked_to_give_up_others(tmp_path: Path, kind: str) -> None:
    with a_kube_world(tmp_path, kind) as world:
        with pytest.raises(ActuationError, match=r"llama-1.* is not among them") as caught:
            world.cluster.scale(KEY, 2, world.pool().version, retire_first=("llama-1",))
        assert "restart llama-1" in caught.value.remedy
        assert _held(world) == 3
        world.cluster.scale(KEY, 1, world.pool().version, retire_first=("llama-1", "llama-2"))
        assert [r.id for r in world.rest().replicas] == ["llama-0"]


def test_a_pod_that_is_not_ready_goes_before_any_that_serves(tmp_path: Path) -> None:
    with a_kube_world(tmp_path, nodes=1, replicas=3) as world:  # room for two
        names = world.replicas()
        waits = next(name for name, replica in names.items() if replica.unplaced)
        world.cluster.scale(KEY, 2, world.pool().version, retire_first=(next(iter(set(names) - {waits})),))
        assert set(world.rest().roster.ids) == set(names) - {waits}


ENGINES = CustomKind(
    kind="Engine", group="example.com", plural="engines", replicas_path="spec.size", template_path="spec.pod"
)


def test_a_kind_that_is_known_by_its_scale_alone_is_scaled_and_no_more(tmp_path: Path) -> None:
    served = custom("example.com", "v1", "engines", "Engine", ScalePaths("spec.size", "status.size", "status.selector"))
    with running_api(kinds=(*BUILT_IN, served), bookmark_every_s=0.05) as api:
        fleet, path = Fleet(api), "/apis/example.com/v1/namespaces/prod/engines"
        metadata = {"name": "llama", "labels": {"foresail.dev/model": "llama"}}
        body = {"apiVersion": "example.com/v1", "kind": "Engine", "metadata": metadata, "spec": {"size": 2}}
        owner = api.call("POST", path, body)
        api.call("PATCH", f"{path}/llama/status", {"status": {"selector": "app=llama"}}, MERGE)
        for name in ("llama-x", "llama-y"):
            pod = fleet.pod(name, owner)
            labels = {"labels": {"app": "llama"}}
            fleet.patch("pods", pod["metadata"]["name"], {"metadata": labels})
        settings = settings_for(api, tmp_path, kinds=(), custom_kinds=(ENGINES,))
        cluster = KubernetesCluster(settings, SystemClock().elapsed, lambda: T0, np.random.default_rng(3))
        cluster.start()
        try:
            (pool,) = cluster.pools()
            assert len(pool.replicas) == 2
            with pytest.raises(ActuationError, match="cannot be told to give up llama-x first"):
                cluster.scale(KEY, 1, pool.version, retire_first=("llama-x",))
            cluster.scale(KEY, 1, pool.version)
            assert api.call("GET", f"{path}/llama")["spec"]["size"] == 1
            assert cluster.pools()[0].desired == 1
            for verb in (cluster.pause, cluster.resume):
                with pytest.raises(ActuationError, match="no pause is known of a Engine"):
                    verb(KEY)
        finally:
            cluster.close()


def test_a_number_that_somebody_else_has_set_is_left_alone(tmp_path: Path) -> None:
    with a_kube_world(tmp_path) as world:
        world.clock.advance_to(world.clock.now() + 600)
        path, how = f"{world.path}/llama?fieldManager=argocd-controller", "application/merge-patch+json"
        world.api.call("PATCH", path, {"spec": {"replicas": 4}}, how)
        with pytest.raises(ActuationError, match=r"Argo CD .* owns the number of replicas") as caught:
            world.cluster.scale(KEY, 2, world.rest().version)
        assert "take replicas out of what Argo CD applies" in caught.value.remedy
        assert _held(world) == 4


def test_a_pod_is_taken_out_of_traffic_and_put_back_by_its_label(tmp_path: Path) -> None:
    with a_kube_world(tmp_path) as world:
        name = min(world.replicas())
        world.cluster.cordon(KEY, name)
        assert world.cluster.pools()[0].replicas[0].cordoned
        assert name not in world.behind_service()
        assert len(world.rest().replicas) == 3  # nobody takes its place: its ReplicaSet keeps it
        version = world.api.version
        world.cluster.cordon(KEY, name)
        assert world.api.version == version
        world.cluster.uncordon(KEY, name)
        assert name in world.behind_service()


def test_a_pod_without_the_label_is_refused_with_advice(tmp_path: Path) -> None:
    with a_kube_world(tmp_path) as world:
        name = min(world.replicas())
        world.change_pod(name, {"metadata": {"labels": {LABEL: None}}})
        world.pool()
        with pytest.raises(ActuationError, match=f"no label {LABEL}") as caught:
            world.cluster.cordon(KEY, name)
        assert "pod template" in caught.value.remedy


def test_a_pod_that_was_replaced_under_its_name_is_not_meant(tmp_path: Path) -> None:
    with a_kube_world(tmp_path, "StatefulSet") as world:
        world.pool()
        world.api.call("DELETE", "/api/v1/namespaces/prod/pods/llama-1?gracePeriodSeconds=0")
        world.api.settle()
        world.caught_up()
        with pytest.raises(StalePlan):
            world.cluster.restart(KEY, "llama-1")
        with pytest.raises(StalePlan, match="another one"):
            world.cluster.cordon(KEY, "llama-1")
        assert world.replicas()["llama-1"].phase is Phase.READY


@pytest.mark.parametrize("kind", SCALABLE)
def test_a_restart_evicts_the_pod_and_another_comes(tmp_path: Path, kind: str) -> None:
    with a_kube_world(tmp_path, kind, 2) as world:
        name = min(world.replicas())
        uid = world.pods()[name]["metadata"]["uid"]
        world.cluster.restart(KEY, name)
        assert world.cluster.pools()[0].replicas[0].phase is Phase.DRAINING
        world.cluster.restart(KEY, name)  # once more does no harm
        pool = world.rest()
        assert len(pool.serving) == 2
        assert uid not in {pod["metadata"]["uid"] for pod in world.pods().values()}


def test_a_budget_that_says_not_now_is_obeyed(tmp_path: Path) -> None:
    with a_kube_world(tmp_path, delete_unevictable=True) as world:
        name = min(world.replicas())
        world.budget(minAvailable=3)
        with pytest.raises(ActuationError, match="disruption budget says not now"):
            world.cluster.restart(KEY, name)
        assert name in world.behind_service()


@pytest.mark.parametrize("deletes", [False, True])
def test_a_pod_under_two_budgets_is_deleted_only_where_that_is_allowed(tmp_path: Path, *, deletes: bool) -> None:
    with a_kube_world(tmp_path, delete_unevictable=deletes) as world:
        name = min(world.replicas())
        world.budget("one", minAvailable=1)
        world.budget("two", minAvailable=1)
        if deletes:
            world.cluster.restart(KEY, name)
            assert name not in world.rest().roster.ids
            return
        with pytest.raises(ActuationError, match="several disruption budgets") as caught:
            world.cluster.restart(KEY, name)
        assert "delete_unevictable" in caught.value.remedy
        assert name in world.rest().roster.ids


def test_an_answer_that_is_lost_is_told_and_asking_again_does_no_harm(tmp_path: Path) -> None:
    with a_kube_world(tmp_path) as world:
        name = min(world.replicas())
        world.api.fault(Fault(answer_lost=True, verbs=("update", "create"), times=2))
        version = world.pool().version
        with pytest.raises(ActuationError, match="may have happened"):
            world.cluster.scale(KEY, 4, version)
        with pytest.raises(ActuationError, match="may have happened"):
            world.cluster.restart(KEY, name)
        with pytest.raises(StalePlan):
            world.cluster.scale(KEY, 4, version)
        world.cluster.restart(KEY, name)
        assert len(world.rest().serving) == 4
        assert world.workload()["metadata"]["generation"] == version + 1


def test_of_what_was_only_read_nobody_says_that_it_may_have_happened(tmp_path: Path) -> None:
    with a_kube_world(tmp_path) as world:
        version = world.pool().version
        world.api.fault(Fault(reset=True, verbs=("get",), resources=("deployments",)))
        with pytest.raises(ActuationError, match="does not answer") as caught:
            world.cluster.scale(KEY, 4, version)
        assert "may have happened" not in str(caught.value)
        assert _held(world) == 3


def test_what_the_fence_holds_back_is_not_sent(tmp_path: Path) -> None:
    with a_kube_world(tmp_path, fence=lambda _: "the lease is gone") as world:
        name, version = min(world.replicas()), world.api.version
        for act in (
            lambda: world.cluster.scale(KEY, 4, world.pool().version),
            lambda: world.cluster.cordon(KEY, name),
            lambda: world.cluster.restart(KEY, name),
        ):
            with pytest.raises(ActuationError, match="not sent: the lease is gone"):
                act()
        assert world.api.version == version


def test_its_own_namespace_is_left_alone_unless_a_workload_is_labelled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("POD_NAMESPACE", "prod")
    place = {"namespace": "prod", "name": "llama", "model": "llama"}
    with a_kube_world(tmp_path, spec={"labels": {}}, pools=(place,)) as world:
        name = min(world.replicas())
        with pytest.raises(ActuationError, match="namespace of Foresail itself"):
            world.cluster.restart(KEY, name)
        world.change({"metadata": {"labels": {"foresail.dev/model": "llama"}}})
        world.pool()
        world.cluster.restart(KEY, name)
