"""Does a workload go back to the template that is meant, and does nobody else's word get lost over it?"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from controller.errors import ActuationError, StalePlan
from policies.replica import Phase
from simulations.kubernetes_api.faults import Fault
from tests.builders_kube_writes import KEY, KubeWorld, a_kube_world, a_template

WITH_REVISIONS = ["Deployment", "StatefulSet", "Rollout"]
TO_THE_END = {"strategy": {"canary": {}}}


def _images(world: KubeWorld) -> set[str]:
    return {pod["spec"]["containers"][0]["image"] for pod in world.pods().values()}


def _image(world: KubeWorld) -> str:
    return str(world.workload()["spec"]["template"]["spec"]["containers"][0]["image"])


def _annotations(world: KubeWorld) -> dict[str, str]:
    return dict(world.workload()["metadata"].get("annotations", {}))


def _rolled(world: KubeWorld, image: str = "new:1", after_s: float = 600.0) -> str:
    """Roll out another image to the end and return the revision from before."""
    good = world.pool().revision
    world.clock.advance_to(world.clock.now() + after_s)
    world.roll_out(image)
    world.rest()
    return good


@pytest.mark.parametrize("kind", WITH_REVISIONS)
def test_pods_get_the_template_of_the_revision_back(tmp_path: Path, kind: str) -> None:
    spec = TO_THE_END if kind == "Rollout" else {}
    with a_kube_world(tmp_path, kind, spec=spec) as world:
        good = _rolled(world)
        before = world.pool()
        assert (_images(world), before.revisions[0]) == ({"new:1"}, good)
        at = world.clock.now() + 60
        world.clock.advance_to(at)
        world.cluster.roll_back(KEY, good)
        after = world.rest()
        assert (_images(world), after.revision, after.revision_at) == ({"good:1"}, good, at)
        assert set(after.revisions) == set(before.revisions)
        labels = world.workload()["spec"]["template"]["metadata"]["labels"]
        assert labels == a_template("good:1")["metadata"]["labels"]
        assert _annotations(world)["kubernetes.io/change-cause"] == f"Foresail goes back to revision {good}"
        version = world.api.version
        world.cluster.roll_back(KEY, good)
        assert world.api.version == version


def test_since_when_a_revision_is_current_is_not_known_once_others_have_changed_the_template(tmp_path: Path) -> None:
    with a_kube_world(tmp_path) as world:
        good = _rolled(world)
        world.cluster.roll_back(KEY, good)
        world.rest()
        for image in ("new:1", "good:1"):
            world.rest(60)
            world.roll_out(image)
        pool = world.rest()
        assert pool.revision == good
        assert pool.revision_at != pool.revision_at  # NaN


def test_after_a_lost_answer_asking_again_changes_nothing(tmp_path: Path) -> None:
    with a_kube_world(tmp_path, nodes_read=True) as world:
        good, name = _rolled(world), min(world.replicas())
        acts: list[Callable[[], None]] = [
            lambda: world.cluster.roll_back(KEY, good),
            lambda: world.cluster.pause(KEY),
            lambda: world.cluster.resume(KEY),
            lambda: world.cluster.cordon(KEY, name),
            lambda: world.cluster.avoid("node-0"),
        ]
        for act in acts:
            lost, before = Fault(answer_lost=True, verbs=("patch",), times=1), world.api.version
            world.api.fault(lost)
            with pytest.raises(ActuationError, match="may have happened"):
                act()
            world.api.faults.clear()
            once = world.api.version
            assert once == before + 1
            act()
            assert world.api.version == once


def test_a_revision_that_is_not_kept_cannot_be_gone_back_to(tmp_path: Path) -> None:
    with a_kube_world(tmp_path) as world:
        good = _rolled(world)
        with pytest.raises(ActuationError, match="no revision 'none' is kept"):
            world.cluster.roll_back(KEY, "none")
        sets = "/apis/apps/v1/namespaces/prod/replicasets"
        world.api.call("DELETE", f"{sets}/llama-{good}")  # since it was looked at
        with pytest.raises(StalePlan, match="not there any more"):
            world.cluster.roll_back(KEY, good)
        assert _image(world) == "new:1"


def test_a_workload_that_changes_meanwhile_is_not_rolled_back(tmp_path: Path) -> None:
    with a_kube_world(tmp_path) as world:
        good = _rolled(world)
        refused = Fault(code=422, resources=("deployments",), verbs=("patch",), times=1)
        world.api.fault(refused)
        with pytest.raises(ActuationError):
            world.cluster.roll_back(KEY, good)
        kept = world.workload()
        world.change({"metadata": {"labels": {"team": "a"}}})
        told = world.cluster._hand
        with pytest.raises(StalePlan, match="has changed since it was read"):
            told.patch(world.resource, kept, [{"op": "replace", "path": "/spec/paused", "value": True}])
        assert _image(world) == "new:1"


@pytest.mark.parametrize("kind", WITH_REVISIONS)
def test_a_repair_that_came_since_it_was_looked_at_is_not_undone(tmp_path: Path, kind: str) -> None:
    with a_kube_world(tmp_path, kind, 2) as world:
        good = _rolled(world)
        world.roll_out("repaired:1")
        with pytest.raises(StalePlan, match="another template by now"):
            world.cluster.roll_back(KEY, good)
        world.rest(60)
        assert "repaired:1" in _images(world)


@pytest.mark.parametrize("kind", WITH_REVISIONS)
def test_another_number_of_replicas_stands_against_no_way_back(tmp_path: Path, kind: str) -> None:
    with a_kube_world(tmp_path, kind, 2) as world:
        good = _rolled(world)
        world.change({"spec": {"replicas": 3}})
        world.api.settle()
        world.cluster.roll_back(KEY, good)
        world.rest(60)
        assert _images(world) == {"good:1"}


def test_a_change_of_something_else_in_that_moment_costs_no_way_back(tmp_path: Path) -> None:
    with a_kube_world(tmp_path) as world:
        good = _rolled(world)
        world.api.fault(Fault(code=409, resources=("deployments",), verbs=("patch",), times=1))
        world.cluster.roll_back(KEY, good)
        assert _image(world) == "good:1"


def test_a_workload_without_our_label_keeps_its_template(tmp_path: Path) -> None:
    place = {"namespace": "prod", "name": "llama", "model": "llama"}
    with a_kube_world(tmp_path, spec={"labels": {}}, pools=(place,)) as world:
        good = _rolled(world)
        with pytest.raises(ActuationError, match=r"no label foresail\.dev/model"):
            world.cluster.roll_back(KEY, good)
        with pytest.raises(ActuationError, match=r"no label foresail\.dev/model"):
            world.cluster.pause(KEY)
        assert _image(world) == "new:1"


@pytest.mark.parametrize("overruled", [False, True])
def test_what_git_has_set_is_git_s_to_revert(tmp_path: Path, *, overruled: bool) -> None:
    ownership = {"take_over": {"gitops"} if overruled else ()}
    with a_kube_world(tmp_path, ownership=ownership) as world:
        good = world.pool().revision
        world.rest(600)
        change = {"spec": {"template": a_template("new:1")}}
        how = "application/merge-patch+json"
        world.api.call("PATCH", f"{world.path}/llama?fieldManager=argocd-controller", change, how)
        world.rest()
        if overruled:
            world.cluster.roll_back(KEY, good)
        else:
            with pytest.raises(ActuationError, match=r"Argo CD .* has set its template") as caught:
                world.cluster.roll_back(KEY, good)
            assert "revert the change where it comes from" in caught.value.remedy
        assert _image(world) == ("good:1" if overruled else "new:1")


def test_a_pause_of_somebody_else_is_theirs(tmp_path: Path) -> None:
    with a_kube_world(tmp_path) as world:
        good = _rolled(world)
        world.change({"spec": {"paused": True}})
        world.rest()
        world.cluster.pause(KEY)  # it is
        with pytest.raises(ActuationError, match="paused by somebody else"):
            world.cluster.roll_back(KEY, good)
        with pytest.raises(ActuationError, match="paused by somebody else"):
            world.cluster.resume(KEY)
        assert world.pool().paused


@pytest.mark.parametrize("kind", ["Deployment", "Rollout"])
def test_our_own_pause_is_noted_and_ends_by_us(tmp_path: Path, kind: str) -> None:
    with a_kube_world(tmp_path, kind) as world:
        world.cluster.pause(KEY)
        assert world.rest().paused
        assert _annotations(world)["foresail.dev/paused"] == "true"
        version = world.api.version
        world.cluster.pause(KEY)
        assert world.api.version == version
        world.cluster.resume(KEY)
        assert not world.rest().paused
        assert "foresail.dev/paused" not in _annotations(world)
        version = world.api.version
        world.cluster.resume(KEY)
        assert world.api.version == version


@pytest.mark.parametrize("kind", ["StatefulSet", "LeaderWorkerSet"])
def test_kinds_without_a_pause_say_so(tmp_path: Path, kind: str) -> None:
    with a_kube_world(tmp_path, kind, 2) as world:
        world.pool()
        for verb in (world.cluster.pause, world.cluster.resume):
            with pytest.raises(ActuationError, match=f"no pause is known of a {kind}") as caught:
                verb(KEY)
            assert "partition" in caught.value.remedy


@pytest.mark.parametrize("blocked", [False, True])
def test_the_pod_that_a_stateful_set_would_wait_for_is_evicted(tmp_path: Path, *, blocked: bool) -> None:
    with a_kube_world(tmp_path, "StatefulSet") as world:
        good = world.pool().revision
        world.api.kubelet.troubles.images["bad:1"] = "crash"
        world.roll_out("bad:1")
        assert world.rest().replicas[-1].phase is Phase.FAILED
        if blocked:
            world.budget("one", minAvailable=1)
            world.budget("two", minAvailable=1)
            with pytest.raises(ActuationError, match="restored, but llama-2 is waited for") as caught:
                world.cluster.roll_back(KEY, good)
            assert "delete llama-2" in caught.value.remedy
            assert _image(world) == "good:1"
            return
        world.cluster.roll_back(KEY, good)
        pool = world.rest()
        assert (_images(world), len(pool.serving)) == ({"good:1"}, 3)


def test_pods_that_are_replaced_by_hand_alone_are_left_to_that(tmp_path: Path) -> None:
    with a_kube_world(tmp_path, "StatefulSet", spec={"updateStrategy": {"type": "OnDelete"}}) as world:
        good = _rolled(world)
        with pytest.raises(ActuationError, match="only when somebody deletes them"):
            world.cluster.roll_back(KEY, good)


def test_a_rollout_that_is_on_its_way_is_aborted(tmp_path: Path) -> None:
    with a_kube_world(tmp_path, "Rollout", 4) as world:
        good = _rolled(world)
        assert world.pool().revision != good
        assert _images(world) == {"good:1", "new:1"}
        world.cluster.roll_back(KEY, good)
        pool = world.rest()
        assert (_images(world), pool.revision, len(pool.serving)) == ({"good:1"}, good, 4)
        assert _image(world) == "new:1"  # its template stays, as Argo has it
        version = world.api.version
        world.cluster.roll_back(KEY, good)
        assert world.api.version == version


def test_an_abort_ends_our_own_pause(tmp_path: Path) -> None:
    with a_kube_world(tmp_path, "Rollout", 4) as world:
        good = _rolled(world)
        world.cluster.pause(KEY)
        world.rest()
        world.cluster.roll_back(KEY, good)
        assert not world.rest().paused
        assert _images(world) == {"good:1"}


def test_an_abort_that_is_refused_leaves_our_pause_as_it_is(tmp_path: Path) -> None:
    with a_kube_world(tmp_path, "Rollout", 4) as world:
        good = _rolled(world)
        world.cluster.pause(KEY)
        world.rest()
        world.api.fault(Fault(code=403, resources=("rollouts/status",), verbs=("patch",), times=1))
        with pytest.raises(ActuationError, match="403"):
            world.cluster.roll_back(KEY, good)
        assert world.workload()["spec"]["paused"]
        world.cluster.roll_back(KEY, good)
        assert not world.rest().paused
        assert _images(world) == {"good:1"}


def test_a_rollout_that_borrows_its_template_is_refused(tmp_path: Path) -> None:
    with a_kube_world(tmp_path, "Rollout", spec=TO_THE_END) as world:
        good = _rolled(world)
        world.change({"spec": {"workloadRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "other"}}})
        with pytest.raises(ActuationError, match="that of another workload"):
            world.cluster.roll_back(KEY, good)


def test_a_group_of_pods_gets_its_templates_back_from_its_controller_revision(tmp_path: Path) -> None:
    with a_kube_world(tmp_path, "LeaderWorkerSet", 2) as world:
        group = world.workload()["spec"]["leaderWorkerTemplate"]
        good = str(next(iter(world.pods().values()))["metadata"]["labels"][REVISION])
        _keep(world, good, 1, group)
        _rolled(world)
        bad = str(next(iter(world.pods().values()))["metadata"]["labels"][REVISION])
        _keep(world, bad, 2, world.workload()["spec"]["leaderWorkerTemplate"])
        assert world.pool().revisions == (good, bad)
        world.cluster.roll_back(KEY, good)
        world.rest()
        assert _images(world) == {"good:1"}
        assert world.workload()["spec"]["leaderWorkerTemplate"] == group


REVISION = "leaderworkerset.sigs.k8s.io/template-revision-hash"


def _keep(world: KubeWorld, name: str, number: int, group: dict[str, Any]) -> None:
    """Write the revision of a LeaderWorkerSet as its controller does, which the simulated one leaves out."""
    owner = world.workload()
    world.api.call(
        "POST",
        "/apis/apps/v1/namespaces/prod/controllerrevisions",
        {
            "apiVersion": "apps/v1",
            "kind": "ControllerRevision",
            "metadata": {
                "name": f"llama-{name}-{number}",
                "labels": {REVISION: name},
                "ownerReferences": [
                    {
                        "apiVersion": owner["apiVersion"],
                        "kind": owner["kind"],
                        "name": "llama",
                        "uid": owner["metadata"]["uid"],
                        "controller": True,
                    }
                ],
            },
            "data": {"spec": {"leaderWorkerTemplate": {**group, "$patch": "replace"}}},
            "revision": number,
        },
    )


def test_nothing_more_is_placed_on_a_node_that_is_avoided(tmp_path: Path) -> None:
    with a_kube_world(tmp_path, nodes=3, nodes_read=True) as world:
        other = {"key": "example.com/kept", "value": "a", "effect": "PreferNoSchedule"}
        node = world.pool().replicas[0].node
        where = f"/api/v1/nodes/{node}"
        world.api.call("PATCH", where, {"spec": {"taints": [other]}}, "application/merge-patch+json")
        world.cluster.avoid(node)
        world.caught_up()
        assert world.cluster.nodes()[node].avoided
        version = world.api.version
        world.cluster.avoid(node)
        assert world.api.version == version
        world.cluster.scale(KEY, 5, world.pool().version)
        assert [r.node for r in world.rest().replicas].count(node) == 1
        world.cluster.stop_avoiding(node)
        assert not world.cluster.nodes()[node].avoided
        assert world.api.call("GET", where)["spec"]["taints"] == [other]


def test_nodes_are_left_alone_where_they_are_not_read(tmp_path: Path) -> None:
    with a_kube_world(tmp_path) as world:
        with pytest.raises(ActuationError, match="neither read nor written"):
            world.cluster.avoid("node-0")
        assert "taints" not in world.api.call("GET", "/api/v1/nodes/node-0")["spec"]
