"""Does ``foresail doctor`` say what a cluster lacks, item by item, and that nothing is wrong where nothing is?"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from controller.adapters.kube.installation import Right
from controller.adapters.kube.permissions import Feature
from controller.adapters.system_clock import SystemClock
from controller.doctor import examine, sections_of
from controller.doctor_cluster import examine_cluster
from controller.doctor_examination import Examined
from controller.doctor_findings import Findings
from controller.explain import as_text
from controller.modes import ModeSettings
from controller.settings import Settings
from policies.settings import PolicySettings
from simulations.kubernetes_api.kinds import BUILT_IN, custom
from simulations.kubernetes_api.running import RunningApi, running_api
from tests.builders_kube_api import Fleet, settings_for
from tests.builders_kube_rights import ALL, KNOWN_AS, USER, granting, needed
from tests.builders_prometheus import free_port

KEY = "llama/llama/unified"
POLICY = PolicySettings.model_validate(
    {"pools": {KEY: {"profile": "llama-3.1-8b-l40s-tp1"}}, "healing": {"may_avoid_nodes": True}}
)
WATCHING = ModeSettings()
ROUTE = {"namespace": "prod", "name": "llama", "model": "llama", "backends": {"llama": "llama"}}
EVERYTHING: dict[str, Any] = {
    "kinds": ("Deployment",),
    "nodes": True,
    "routes": (ROUTE,),
    "lease": {"namespace": "prod"},
}


@pytest.fixture(name="api")
def _api() -> Iterator[RunningApi]:
    with running_api(bookmark_every_s=0.05) as api:
        yield api


def _route(api: RunningApi, *backends: str) -> None:
    rules = [{"backendRefs": [{"name": name, "port": 8000, "weight": 1} for name in backends]}]
    body = {
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute", "metadata": {"name": "llama"},
        "spec": {"parentRefs": [{"name": "gateway"}], "rules": rules},
    }  # fmt: skip
    api.call("POST", "/apis/gateway.networking.k8s.io/v1/namespaces/prod/httproutes", body)
    api.settle()


def _budget(api: RunningApi, name: str, **selector: Any) -> None:
    body = {
        "apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": name},
        "spec": {"maxUnavailable": 1, "selector": selector},
    }  # fmt: skip
    api.call("POST", "/apis/policy/v1/namespaces/prod/poddisruptionbudgets", body)


def _examined(
    api: RunningApi, folder: Path, modes: ModeSettings = WATCHING, policy: PolicySettings = POLICY, **more: Any
) -> Examined:
    return examine_cluster(settings_for(api, folder, **more), modes, policy, SystemClock())


def _notes(examined: Examined) -> list[str]:
    return [problem.what for problem in examined.problems if not problem.fatal]


def _fatal(examined: Examined) -> list[str]:
    return [problem.what for problem in examined.problems if problem.fatal]


def _told(examined: Examined) -> str:
    findings = Findings("http://store", cluster=examined.cluster, problems=examined.problems)
    return "\n\n".join(as_text(section) for section in sections_of(findings))


def test_a_cluster_that_has_it_all_is_called_well_and_nothing_is_written(api: RunningApi, tmp_path: Path) -> None:
    fleet = Fleet(api)
    fleet.deployment(pods=2)
    _route(api, "llama")
    _budget(api, "llama", matchLabels={"app": "llama"})
    settings = settings_for(api, tmp_path, known_as=KNOWN_AS, **EVERYTHING)
    api.grant(KNOWN_AS, granting(needed(settings)))
    before = api.version
    examined = examine_cluster(settings, ALL, POLICY, SystemClock())
    assert api.version == before
    assert examined.problems == []
    found = examined.cluster
    assert (found.version, found.user, found.missing_rights) == ("v1.36.0", USER, [])
    assert found.rights_asked == len(needed(settings))
    assert found.lease == "prod/foresail: not there yet: the first replica that runs makes it"
    assert [asdict(one) for one in found.workloads] == [
        {
            "workload": "Deployment prod/llama", "pool": KEY, "desired": 2, "ready": 2, "owner": "",
            "budgets": ("llama",), "without_label": (),
        }
    ]  # fmt: skip
    assert [route.trouble for route in found.routes] == [""]
    assert examined.pools is not None
    text = _told(examined)
    assert f"all {found.rights_asked} that the settings need are there" in text
    assert "Problems\n  none" in text
    assert f"it knows us as {USER}; on: " in text


def test_a_server_that_does_not_tell_who_we_are_is_said_to_be_one(
    api: RunningApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("simulations.kubernetes_api.api._WHO", "/not/before/1.28")
    examined = _examined(api, tmp_path)
    assert examined.cluster.user == ""
    assert "it does not tell as whom it knows us; on: " in _told(examined)


def test_a_right_that_is_missing_is_one_row_with_its_cost_and_rule(api: RunningApi, tmp_path: Path) -> None:
    Fleet(api).deployment()
    settings = settings_for(api, tmp_path, known_as=KNOWN_AS, **EVERYTHING)
    gone = Right(Feature.SCALE, "patch", "apps", "deployments/scale", "prod")
    api.grant(KNOWN_AS, granting(right for right in needed(settings) if right != gone))
    examined = examine_cluster(settings, ALL, POLICY, SystemClock())
    (row,) = examined.cluster.missing_rights
    assert (row.feature, row.verb, row.resource, row.namespace) == ("scale", "patch", "deployments/scale.apps", "prod")
    assert row.rule == "- {apiGroups: [apps], resources: [deployments/scale], verbs: [patch]}"
    assert _fatal(examined)[0] == f"1 of {examined.cluster.rights_asked} rights is missing"
    text = _told(examined)
    assert "numbers of replicas are decided and not set" in text
    assert f"To be added to the Role in prod\n  rules:\n    {row.rule}" in text


def test_what_cannot_be_listed_is_told_and_the_rest_is_still_looked_at(api: RunningApi, tmp_path: Path) -> None:
    Fleet(api).deployment()
    settings = settings_for(api, tmp_path, known_as=KNOWN_AS)
    gone = [Right(Feature.READ, "list", "", "pods", "prod")]
    rights = needed(settings, WATCHING)
    api.grant(KNOWN_AS, granting(right for right in rights if right not in gone))
    examined = examine_cluster(settings, WATCHING, POLICY, SystemClock())
    assert [row.cost for row in examined.cluster.missing_rights] == ["no pools are told, so nothing is decided"]
    assert "the pools were not looked at: pods cannot be read" in _notes(examined)
    assert examined.pools is None
    gone = [Right(Feature.READ, "list", "policy", "poddisruptionbudgets", "prod")]
    api.grant(KNOWN_AS, granting(right for right in rights if right not in gone))
    examined = examine_cluster(settings, WATCHING, POLICY, SystemClock())
    assert [row.resource for row in examined.cluster.missing_rights] == ["poddisruptionbudgets.policy"]
    assert [one.pool for one in examined.cluster.workloads] == [KEY]
    assert not [note for note in _notes(examined) if "no PodDisruptionBudget" in note]  # that is not known


def test_scaling_without_the_right_to_cordon_is_no_more_than_a_note(api: RunningApi, tmp_path: Path) -> None:
    Fleet(api).deployment()
    settings = settings_for(api, tmp_path, known_as=KNOWN_AS)
    modes = ModeSettings.model_validate({"scaling": "auto"})
    api.grant(KNOWN_AS, granting(needed(settings, modes)))
    examined = examine_cluster(settings, modes, POLICY, SystemClock())
    assert _fatal(examined) == []
    assert [(row.feature, row.needed) for row in examined.cluster.missing_rights] == [("cordon", False)]


def test_kinds_that_are_not_installed_are_named(tmp_path: Path) -> None:
    with running_api(kinds=BUILT_IN) as api:
        examined = _examined(api, tmp_path, kinds=("Deployment", "LeaderWorkerSet"))
    assert examined.cluster.missing_kinds == ["leaderworkersets.leaderworkerset.x-k8s.io/v1"]
    assert len(_fatal(examined)) == 1
    assert "the pools were not looked at: leaderworkersets.leaderworkerset.x-k8s.io cannot be read" in _notes(examined)


def test_autoscalers_that_are_not_installed_scale_nothing(tmp_path: Path) -> None:
    with running_api(kinds=BUILT_IN) as api:
        Fleet(api).deployment()
        examined = _examined(api, tmp_path, autoscalers=("HorizontalPodAutoscaler", "ScaledObject"))
    assert examined.cluster.missing_kinds == ["scaledobjects.keda.sh/v1alpha1"]
    assert _fatal(examined) == []
    assert [one.pool for one in examined.cluster.workloads] == [KEY]


def test_a_custom_kind_without_a_scale_subresource_cannot_be_scaled(tmp_path: Path) -> None:
    services = {"group": "ray.io", "plural": "rayservices", "kind": "RayService"}
    with running_api(kinds=(*BUILT_IN, custom("ray.io", "v1", "rayservices", "RayService"))) as api:
        examined = _examined(api, tmp_path, custom_kinds=(services,), policy=PolicySettings())
    assert _fatal(examined) == ["RayService cannot be scaled: the cluster has no rayservices/scale.ray.io, version v1"]


def test_owners_labels_and_budgets_of_pools_are_told(api: RunningApi, tmp_path: Path) -> None:
    fleet = Fleet(api)
    fleet.deployment(pods=2)
    fleet.patch("pods", "llama-abc-1", {"metadata": {"labels": {"foresail.dev/serving": None}}})
    target = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "llama"}
    scaler = {
        "apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "metadata": {"name": "theirs"},
        "spec": {"scaleTargetRef": target, "minReplicas": 1, "maxReplicas": 3},
    }  # fmt: skip
    api.call("POST", "/apis/autoscaling/v2/namespaces/prod/horizontalpodautoscalers", scaler)
    examined = _examined(api, tmp_path)
    (one,) = examined.cluster.workloads
    assert (one.owner, one.budgets) == ("HorizontalPodAutoscaler prod/theirs", ())
    assert one.without_label == ("llama-abc-1",)
    notes = "\n".join(_notes(examined))
    assert "HorizontalPodAutoscaler prod/theirs sets its number of replicas, so it is left alone" in notes
    assert "llama-abc-1 cannot be cordoned, without the label foresail.dev/serving" in notes
    assert "no PodDisruptionBudget" in notes
    _budget(api, "narrow", matchExpressions=[{"key": "app", "operator": "In", "values": ["llama", "other"]}])
    _budget(api, "wide")
    _budget(api, "elsewhere", matchExpressions=[{"key": "app", "operator": "NotIn", "values": ["llama"]}])
    examined = _examined(api, tmp_path)
    assert set(examined.cluster.workloads[0].budgets) == {"narrow", "wide"}
    assert [note for note in _notes(examined) if "all hold for its pods" in note]


def test_a_tool_that_applies_the_number_is_its_owner_unless_it_may_be_overruled(
    api: RunningApi, tmp_path: Path
) -> None:
    fleet = Fleet(api)
    fleet.deployment()
    path = f"{fleet.path('deployments', 'llama')}?fieldManager=argocd-controller"
    api.call("PATCH", path, {"spec": {"replicas": 5}}, "application/merge-patch+json")
    (one,) = _examined(api, tmp_path).cluster.workloads
    assert (one.desired, one.owner) == (5, "Argo CD (field manager argocd-controller)")
    (one,) = _examined(api, tmp_path, ownership={"take_over": ["gitops"]}).cluster.workloads
    assert one.owner == ""


def test_workloads_that_are_no_pools_are_listed_with_the_reason(api: RunningApi, tmp_path: Path) -> None:
    fleet = Fleet(api)
    fleet.deployment()
    fleet.deployment("twin", model="llama", pool="llama")
    unlabelled = {"replicas": 1, "selector": {"matchLabels": {"app": "web"}}}
    template = {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "web", "image": "web:1"}]}}
    fleet.create("deployments", "web", spec={**unlabelled, "template": template})
    examined = _examined(api, tmp_path)
    assert {note.workload: note.what for note in examined.cluster.no_pools} == {
        "Deployment prod/web": "without the label foresail.dev/model, not under platform.pools",
        "Deployment prod/twin": f"another workload is {KEY}",
    }
    assert [note for note in _notes(examined) if note.startswith("Deployment prod/twin")]
    assert "Deployment prod/web" in _told(examined)


def test_pools_are_held_against_those_that_are_managed(api: RunningApi, tmp_path: Path) -> None:
    Fleet(api).deployment("stranger")
    examined = _examined(api, tmp_path)
    assert _fatal(examined) == [f"no workload in the cluster is pool {KEY}"]
    assert "pool stranger/stranger/unified is not in the settings" in _notes(examined)


def test_routes_that_are_missing_or_do_not_match_are_problems(api: RunningApi, tmp_path: Path) -> None:
    Fleet(api).deployment()
    examined = _examined(api, tmp_path, ALL, routes=(ROUTE,))
    assert _fatal(examined) == ["HTTPRoute prod/llama: it is not there"]
    _route(api, "other")
    examined = _examined(api, tmp_path, ALL, routes=(ROUTE,))
    assert _fatal(examined) == ["HTTPRoute prod/llama: no rule lists llama; it lists other"]
    examined = _examined(api, tmp_path, WATCHING, routes=(ROUTE,))
    assert _fatal(examined) == []  # nobody wants to set weights
    assert [route.trouble for route in examined.cluster.routes] == ["no rule lists llama; it lists other"]
    examined = _examined(api, tmp_path, ALL)
    assert _fatal(examined) == ["modes.traffic lets weights be set, and no route is named"]


def test_a_route_to_a_pool_that_does_not_exist_is_told_with_those_that_do(api: RunningApi, tmp_path: Path) -> None:
    Fleet(api).deployment()
    _route(api, "llama", "typo")
    wrong = {**ROUTE, "backends": {"llama": "llama", "lama": "typo"}}
    examined = _examined(api, tmp_path, ALL, routes=(wrong,))
    what = "it has a backend for llama/lama/unified, and there is no such pool; those of llama are llama/llama/unified"
    assert _fatal(examined) == [f"HTTPRoute prod/llama: {what}"]
    examined = _examined(api, tmp_path, ALL, routes=({**wrong, "name": "gone"},))
    told = ["HTTPRoute prod/gone: it is not there", f"HTTPRoute prod/gone: {what}"]
    assert _fatal(examined) == told  # neither hides the other
    assert [route.trouble for route in examined.cluster.routes] == [f"it is not there; {what}"]


def test_pools_that_are_not_known_are_not_called_missing(api: RunningApi, tmp_path: Path) -> None:
    Fleet(api).deployment()
    _route(api, "llama")
    settings = settings_for(api, tmp_path, known_as=KNOWN_AS, routes=(ROUTE,))
    gone = Right(Feature.READ, "list", "", "pods", "prod")
    api.grant(KNOWN_AS, granting(right for right in needed(settings) if right != gone))
    examined = examine_cluster(settings, ALL, POLICY, SystemClock())
    assert examined.pools is None
    assert [route.trouble for route in examined.cluster.routes] == [""]


def test_a_server_that_does_not_answer_is_a_problem_and_no_traceback(api: RunningApi, tmp_path: Path) -> None:
    api.partition("reset")
    settings = settings_for(api, tmp_path)
    store = {"url": f"http://127.0.0.1:{free_port()}", "attempts": 1}
    whole = Settings.model_validate({"prometheus": store}).model_copy(update={"platform": settings})
    findings = examine(whole)
    assert not findings.healthy
    assert "does not answer" in findings.problems[0].what
    text = "\n".join(as_text(section) for section in sections_of(findings))
    assert f"Cluster {api.url}\n  not reached" in text
    told = json.loads(json.dumps(asdict(findings), allow_nan=False))
    assert told["cluster"]["missing_rights"] == []
    api.heal()


def test_a_token_that_is_not_known_is_told_as_such(api: RunningApi, tmp_path: Path) -> None:
    api.grant("another", granting([]))
    examined = _examined(api, tmp_path, known_as=KNOWN_AS)
    (problem,) = examined.problems
    assert problem.fatal
    assert "401" in problem.what
    assert "does not know us" in problem.remedy


def test_a_kubeconfig_that_is_not_there_is_a_problem(api: RunningApi, tmp_path: Path) -> None:
    examined = _examined(api, tmp_path, kubeconfig=tmp_path / "nowhere")
    (problem,) = examined.problems
    assert problem.fatal
    assert "it cannot be told how the API server is reached" in problem.what
