"""Do the rules and admission policies of the chart let everything through that a cluster is asked for?"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from controller.adapters.kube.permissions import Feature, Installation, Scope, permissions
from simulations.kubernetes_api.access import Rule
from tests.builders_admission import Admission, Request
from tests.builders_chart import EVERYTHING, rendered
from tests.builders_kube_api import Json
from tests.builders_kube_writes import ALL_KINDS, KEY, KubeWorld, a_kube_world

ON = Installation(frozenset(Feature), kinds=ALL_KINDS)
RULES = tuple(
    Rule(rule.verbs, (rule.resource,), (rule.group,), rule.names, () if rule.scope is Scope.CLUSTER else ("prod",))
    for rule in permissions(ON)
    if rule.scope is not Scope.OWN
)


@pytest.fixture(scope="module", name="admission")
def _admission() -> Admission:
    workloads = [
        {"namespace": "prod", "kind": kind, "name": "llama", "minReplicas": 1, "maxReplicas": 9} for kind in ALL_KINDS
    ]
    return Admission(rendered({**EVERYTHING, "namespaces": ["prod"], "workloads": workloads}))


class Watched:
    """Does what is asked, and asks the policies about whatever that changed."""

    def __init__(self, world: KubeWorld, admission: Admission) -> None:
        self.world, self.admission = world, admission
        self.changed: list[str] = []

    def does(self, act: Callable[[], None]) -> None:
        before = self._objects()
        act()
        after = self._objects()
        for key, new in after.items():
            old = before[key]
            if new != old:
                self._ask(key, old, new)
        self.world.rest()

    def _objects(self) -> dict[tuple[str, str, str], Json]:
        call, workload = self.world.api.call, self.world.resource
        nodes = call("GET", "/api/v1/nodes")["items"]
        found = {("", "nodes", node["metadata"]["name"]): node for node in nodes}
        found |= {("", "pods", name): pod for name, pod in self.world.pods().items()}
        return {**found, (workload.group, workload.plural, "llama"): self.world.workload()}

    def _ask(self, key: tuple[str, str, str], old: Json, new: Json) -> None:
        group, resource, name = key
        if resource == "pods" and new["metadata"].get("deletionTimestamp"):
            return  # an eviction, which no policy sees as a change of the pod
        if old.get("spec", {}).get("replicas") != new.get("spec", {}).get("replicas"):
            resource = f"{resource}/scale"
            old, new = ({"spec": {"replicas": one["spec"]["replicas"]}} for one in (old, new))
        elif old.get("status") != new.get("status"):
            resource = f"{resource}/status"
        place = "" if resource == "nodes" else "prod"
        request = Request("UPDATE", group, resource, namespace=place, name=name, new=new, old=old)
        assert self.admission.refusals(request) == []
        self.changed.append(resource)


@pytest.mark.parametrize("kind", ALL_KINDS)
def test_whatever_is_asked_of_a_cluster_its_rules_and_policies_let_through(
    tmp_path: Path, kind: str, admission: Admission
) -> None:
    with a_kube_world(tmp_path, kind, nodes_read=True, rules=RULES) as world:
        watched, cluster = Watched(world, admission), world.cluster
        good = world.pool().revision
        name, last = min(world.replicas()), max(world.replicas())
        plural = world.resource.plural
        watched.does(lambda: cluster.avoid("node-0"))
        watched.does(lambda: cluster.stop_avoiding("node-0"))
        watched.does(lambda: cluster.cordon(KEY, name))
        watched.does(lambda: cluster.uncordon(KEY, name))
        watched.does(lambda: cluster.restart(KEY, name))
        assert watched.changed == ["nodes", "nodes", "pods", "pods"]
        watched.does(lambda: cluster.cordon(KEY, last))
        watched.does(lambda: cluster.scale(KEY, 2, world.pool().version, retire_first=(last,)))
        watched.does(lambda: cluster.scale(KEY, 4, world.pool().version))
        marked = ["pods"] if kind in ("Deployment", "Rollout") else []  # the others give up the highest ordinal
        assert sorted(watched.changed[4:]) == sorted(["pods", *marked, f"{plural}/scale", f"{plural}/scale"])
        if kind in ("Deployment", "Rollout"):
            watched.does(lambda: cluster.pause(KEY))
            watched.does(lambda: cluster.resume(KEY))
            assert watched.changed[-2:] == [plural] * 2
        if kind != "LeaderWorkerSet":  # the simulated one keeps no revisions
            world.roll_out("new:1")
            world.rest()
            watched.does(lambda: cluster.roll_back(KEY, good))
            assert watched.changed[-1] == (f"{plural}/status" if kind == "Rollout" else plural)
