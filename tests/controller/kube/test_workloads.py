"""What is kept of workloads, and in what order did their templates come?"""

from __future__ import annotations

import math
from typing import Any

import pytest

from controller.adapters.kube.json_reading import Refused
from controller.adapters.kube.revisions import Lineage, Revision, lineage, read_revision
from controller.adapters.kube.settings import CustomKind
from controller.adapters.kube.workloads import Reading, Workload, read_workload
from tests.builders_kube import T0, container_json, metadata, replica_set_json, template_json, workload_json

READING = Reading(frozenset(("nvidia.com/gpu",)), "foresail.dev")
FOO = CustomKind(
    kind="Foo",
    group="x.io",
    plural="foos",
    replicas_path="spec.size",
    selector_path="status.labelSelector",
    template_path="spec.pod",
)


def _read(told: object, kind: str = "Deployment", custom: CustomKind | None = None) -> Workload:
    workload = read_workload(told, kind, READING, custom)
    assert isinstance(workload, Workload)
    return workload


def test_a_deployment_says_what_it_wants() -> None:
    told = workload_json(spec={"paused": True}, status={"observedGeneration": 2})
    workload = _read(told)
    assert (workload.desired, workload.generation, workload.paused, workload.revision) == (2, 3, True, "2")
    assert workload.behind
    assert workload.template is not None
    assert (workload.template.gpus, workload.template.containers[0].port) == (2, 8000)


def test_replicas_that_are_not_said_are_one_and_nonsense_is_refused() -> None:
    told = workload_json()
    del told["spec"]["replicas"]
    assert _read(told).desired == 1
    for nonsense in ("3", -1, 2.0, True, 2**40):
        assert isinstance(read_workload(workload_json(replicas=nonsense), "Deployment", READING), Refused)


@pytest.mark.parametrize(("partition", "paused"), [(0, False), (1, False), (2, True)])
def test_a_stateful_set_that_holds_back_all_its_pods_is_paused(partition: int, paused: bool) -> None:
    spec = {"updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": partition}}}
    workload = _read(workload_json(spec=spec, status={"updateRevision": "llama-77"}), "StatefulSet")
    assert (workload.paused, workload.revision) == (paused, "llama-77")


def test_a_leader_worker_set_counts_its_size_and_both_templates() -> None:
    templates = {
        "size": 4,
        "leaderTemplate": template_json(container_json(gpus=8)),
        "workerTemplate": template_json(container_json(gpus=4)),
    }
    workload = _read(workload_json(spec={"leaderWorkerTemplate": templates}), "LeaderWorkerSet")
    assert workload.template is not None
    assert workload.worker is not None
    assert (workload.size, workload.template.gpus, workload.worker.gpus) == (4, 8, 4)


@pytest.mark.parametrize(("told", "observed"), [("3", 3), ("5d4b9cd8f4", None), (3, None)])
def test_a_rollout_tells_its_generation_as_text(told: object, observed: int | None) -> None:
    workload = _read(workload_json(status={"observedGeneration": told, "stableRS": "abc"}), "Rollout")
    assert (workload.observed, workload.stable) == (observed, "abc")


def test_another_kind_is_read_where_its_definition_says() -> None:
    told: dict[str, Any] = {
        "metadata": metadata("foo", generation=1),
        "spec": {"size": 5, "pod": template_json()},
        "status": {"labelSelector": "app=foo"},
    }
    workload = _read(told, "Foo", FOO)
    assert (workload.desired, workload.selector) == (5, "app=foo")
    assert workload.template is not None
    del told["spec"]["size"]
    assert isinstance(read_workload(told, "Foo", READING, FOO), Refused)


def test_the_engine_is_the_one_named_or_the_only_one_or_the_only_one_with_gpus() -> None:
    def chosen(wanted: str, *containers: dict[str, Any]) -> tuple[str, bool]:
        template = _read(workload_json(spec={"template": template_json(*containers)})).template
        assert template is not None
        engine, note = template.engine(wanted)
        assert engine is not None
        return engine.name, bool(note)

    one, two, none = container_json("a", 1), container_json("b", 2), container_json("c")
    assert chosen("", none) == ("c", False)
    assert chosen("", none, two) == ("b", False)
    assert chosen("c", none, two) == ("c", False)
    assert chosen("", one, two) == ("a", True)
    assert chosen("missing", none, two) == ("b", True)


def _revision(name: str, number: int, at: float, *, reused: bool = False) -> Revision:
    return Revision(f"uid-{name}", "prod", "uid-llama", name, number, at, reused)


def test_the_newest_revision_came_when_it_was_made() -> None:
    kept = [_revision("new", 10, T0 + 60), _revision("old", 9, T0)]
    assert lineage(kept, "10") == Lineage(("old", "new"), "new", T0 + 60)


def test_nobody_tells_when_a_workload_came_back_to_an_old_revision() -> None:
    went_back = lineage([_revision("old", 3, T0), _revision("bad", 2, T0 + 60)], "3")
    assert (went_back.current, went_back.names) == ("old", ("old", "bad"))  # the oldest first, as ever
    assert math.isnan(went_back.current_at)
    assert math.isnan(lineage([_revision("old", 3, T0, reused=True)], "3").current_at)


def test_we_know_ourselves_when_we_went_back_to_a_revision() -> None:
    kept = [_revision("old", 3, T0), _revision("bad", 2, T0 + 60)]
    assert lineage(kept, "3", ("old", T0 + 90)).current_at == T0 + 90
    assert math.isnan(lineage(kept, "3", ("bad", T0 + 90)).current_at)


def test_a_revision_whose_keeper_is_not_known_of_yet_comes_when_it_is() -> None:
    assert lineage([_revision("old", 1, T0)], "2").current == "old"
    assert lineage([_revision("llama-1", 1, T0)], "llama-2").current == "llama-2"
    assert lineage([], "").current == ""
    assert lineage([_revision("old", 1, T0), _revision("new", 2, T0 + 9)], "").current == "new"


def test_revisions_are_read_from_what_keeps_them() -> None:
    told = replica_set_json()
    told["metadata"]["annotations"]["deployment.kubernetes.io/revision-history"] = "1"
    assert read_revision(told, "ReplicaSet") == Revision(
        "uid-llama-abc", "prod", "uid-llama", "abc", 2, T0, True, "llama-abc"
    )
    kept = {"metadata": metadata("llama-77", owner=("StatefulSet", "llama")), "revision": 4}
    found = read_revision(kept, "ControllerRevision")
    assert isinstance(found, Revision)
    assert (found.name, found.number) == ("llama-77", 4)
    assert read_revision({"metadata": metadata("bare")}, "ReplicaSet") is None
    del told["metadata"]["annotations"]
    assert isinstance(read_revision(told, "ReplicaSet"), Refused)
