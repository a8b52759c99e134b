"""Is every right that is missing found, and no other, when an API server with roles is asked?"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from controller.adapters.kube.client import KubernetesApi
from controller.adapters.kube.installation import Right
from controller.adapters.kube.kinds import DEPLOYMENTS, LEADER_WORKER_SETS, Resource
from controller.adapters.kube.permissions import Feature
from controller.adapters.kube.questions import Unreached
from controller.adapters.kube.rights import missing_rights, server_facts, unserved, user_of
from controller.adapters.kube.settings import KubernetesSettings
from controller.adapters.system_clock import SystemClock
from controller.errors import ObservationError
from simulations.kubernetes_api.access import Rule, Subject
from simulations.kubernetes_api.faults import Fault
from simulations.kubernetes_api.kinds import BUILT_IN
from simulations.kubernetes_api.running import running_api
from tests.builders_kube_api import settings_for
from tests.builders_kube_rights import KNOWN_AS, USER, granting, needed

ROUTE = {"namespace": "edge", "name": "llama", "model": "llama", "backends": {"a": "a", "b": "prod/b"}}
EVERYTHING: dict[str, Any] = {
    "kinds": ("Deployment",),
    "nodes": True,
    "routes": (ROUTE,),
    "delete_unevictable": True,
    "policies": True,
    "lease": {"namespace": "foresail"},
}


@contextmanager
def asking(settings: KubernetesSettings) -> Iterator[KubernetesApi]:
    api = KubernetesApi(settings, SystemClock().elapsed)
    try:
        yield api
    finally:
        api.close()


def test_each_verb_that_is_taken_away_is_missed_and_nothing_else(tmp_path: Path) -> None:
    with running_api() as api:
        settings = settings_for(api, tmp_path, known_as=KNOWN_AS, **EVERYTHING)
        rights = needed(settings)
        assert {right.feature for right in rights} == set(Feature)
        with asking(settings) as client:
            api.grant(KNOWN_AS, granting(rights))
            assert missing_rights(client, rights) == []
            for taken in rights:
                api.grant(KNOWN_AS, granting(right for right in rights if right != taken))
                assert missing_rights(client, rights) == [taken]


def test_rights_are_asked_for_where_they_are_used() -> None:
    platform = KubernetesSettings.model_validate({**EVERYTHING, "namespaces": ("prod", "batch")})
    places: dict[str, set[tuple[str, str]]] = {}
    for right in needed(platform):
        places.setdefault(f"{right.verb} {right.title}", set()).add((right.namespace, right.name))
    assert places["patch deployments/scale.apps"] == {("prod", ""), ("batch", "")}
    assert places["list nodes"] == {("", "")}
    assert places["create leases.coordination.k8s.io"] == {("foresail", "")}
    assert places["update leases.coordination.k8s.io"] == {("foresail", "foresail")}
    assert places["patch httproutes.gateway.networking.k8s.io"] == {("edge", "llama")}
    assert places["watch services"] == {("edge", ""), ("prod", "")}
    everywhere = KubernetesSettings.model_validate({**EVERYTHING, "namespaces": ("*",)})
    assert Right(Feature.READ, "list", "", "pods") in needed(everywhere)


def test_a_right_in_another_namespace_or_on_another_name_is_none(tmp_path: Path) -> None:
    lease = Right(Feature.LEASE, "update", "coordination.k8s.io", "leases", "foresail", "foresail")
    pods = Right(Feature.READ, "list", "", "pods", "prod")
    with running_api() as api, asking(settings_for(api, tmp_path, known_as=KNOWN_AS)) as client:
        elsewhere = Rule(("list",), ("pods",), namespaces=("other",))
        api.grant(KNOWN_AS, Subject(USER, (elsewhere, Rule(("update",), ("leases",), ("*",), names=("another",)))))
        assert missing_rights(client, [lease, pods]) == [lease, pods]


def test_the_server_says_what_it_is_and_who_we_are(tmp_path: Path) -> None:
    with running_api() as api, asking(settings_for(api, tmp_path, known_as=KNOWN_AS)) as client:
        api.grant(KNOWN_AS, Subject(USER))
        facts = server_facts(client, SystemClock().now)
        assert facts.version == "v1.36.0"
        assert abs(facts.clock_ahead_s) <= 1.0  # the time is told in whole seconds
        assert server_facts(client, lambda: SystemClock().now() - 90.0).clock_ahead_s == pytest.approx(90.0, abs=1.0)
        assert user_of(client) == USER


def test_a_server_that_does_not_tell_who_we_are_is_none_the_worse(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("simulations.kubernetes_api.api._WHO", "/not/before/1.28")
    with running_api() as api, asking(settings_for(api, tmp_path)) as client:
        assert user_of(client) == ""


def test_kinds_that_the_cluster_has_not_got_are_told(tmp_path: Path) -> None:
    other = Resource("apps", "v1", "daemonsets", "DaemonSet")
    with running_api(kinds=BUILT_IN) as api, asking(settings_for(api, tmp_path)) as client:
        assert unserved(client, [DEPLOYMENTS, other, LEADER_WORKER_SETS]) == [other, LEADER_WORKER_SETS]


def test_a_server_that_falls_silent_ends_the_asking(tmp_path: Path) -> None:
    with running_api() as api, asking(settings_for(api, tmp_path)) as client:
        server_facts(client, SystemClock().now)
        api.partition("reset")
        with pytest.raises(Unreached):
            missing_rights(client, needed(settings_for(api, tmp_path, **EVERYTHING)))
        api.heal()


@pytest.mark.parametrize("trouble", [{"code": 429, "retry_after_s": 0}, {"code": 503}, {"reset": True}])
def test_a_server_that_is_busy_for_a_moment_is_asked_again(trouble: dict[str, Any], tmp_path: Path) -> None:
    right = Right(Feature.READ, "list", "", "pods", "prod")
    with running_api() as api, asking(settings_for(api, tmp_path, known_as=KNOWN_AS)) as client:
        api.grant(KNOWN_AS, granting([right]))
        api.fault(Fault(resources=("selfsubjectaccessreviews",), times=2, **trouble))
        assert missing_rights(client, [right]) == []
        assert api.faults.struck == 2
        api.fault(Fault(resources=("selfsubjectaccessreviews",), **trouble))
        with pytest.raises(ObservationError):
            missing_rights(client, [right])
        assert api.faults.struck == 5
