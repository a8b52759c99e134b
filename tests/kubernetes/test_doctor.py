"""Does doctor find that the roles of the chart are enough, and name the right that is taken away?"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from controller.adapters.kube.kinds import HTTP_ROUTES, PODS
from controller.adapters.kube.questions import ApiRefused
from controller.adapters.kube.settings import KubernetesSettings
from controller.adapters.system_clock import SystemClock
from controller.doctor_cluster import Examined, examine_cluster
from controller.modes import ModeSettings
from policies.decide import PolicySettings
from tests.builders_acting import acting_on, key_of
from tests.builders_any_cluster import Hands, Json, Place
from tests.builders_definitions import a_definition, defined
from tests.builders_service_accounts import service_account

RENDERED = Path(__file__).resolve().parents[2] / "deploy" / "manifests" / "act.yaml"
"""What the chart makes of the example that may act."""


@pytest.fixture(name="routes", scope="module", autouse=True)
def _routes(place: Place) -> Iterator[None]:
    with defined(place, a_definition(HTTP_ROUTES)):
        yield


def rendered(namespace: str) -> list[Json]:
    """Return the rendered objects, with all in one namespace."""
    found = [one for one in yaml.safe_load_all(RENDERED.read_text()) if one]
    text = json.dumps(found).replace('"namespace": "serving"', f'"namespace": "{namespace}"')
    moved: list[Json] = json.loads(text.replace('"namespace": "foresail"', f'"namespace": "{namespace}"'))
    return moved


def rules_of(objects: list[Json], kind: str) -> list[Json]:
    return [rule for one in objects if one["kind"] == kind for rule in one["rules"]]


def settings_of(objects: list[Json], namespace: str, kubeconfig: Path) -> dict[str, Any]:
    """Return the settings of the rendered ConfigMap, for this cluster."""
    (config,) = (one for one in objects if one["kind"] == "ConfigMap")
    told: dict[str, Any] = yaml.safe_load(config["data"]["foresail.yaml"])
    platform = told["platform"]
    platform |= {"namespaces": [namespace], "kubeconfig": kubeconfig, "watch_s": 5, "stale_after_s": 30.0}
    platform["lease"]["namespace"] = namespace
    for route in platform["routes"]:
        route["namespace"] = namespace
    return told


def examined(told: dict[str, Any]) -> Examined:
    platform = KubernetesSettings.model_validate(told["platform"])
    modes = ModeSettings.model_validate(told["modes"])
    return examine_cluster(platform, modes, PolicySettings.model_validate(told["policy"]), SystemClock())


def test_the_roles_of_the_chart_are_all_that_its_settings_need(place: Place, tmp_path: Path) -> None:
    objects = rendered(place.namespace)
    roles = rules_of(objects, "Role"), rules_of(objects, "ClusterRole")
    with service_account(place, "whole", tmp_path, *roles) as kubeconfig:
        found = place.hands.until(
            lambda: (
                one
                if not (one := examined(settings_of(objects, place.namespace, kubeconfig))).cluster.missing_rights
                else None
            )
        )
    assert found is not None
    assert found.cluster.rights_asked > 40
    assert found.cluster.user in ("", f"system:serviceaccount:{place.namespace}:whole")


def test_a_right_that_was_taken_away_is_named_verb_by_verb(place: Place, tmp_path: Path) -> None:
    objects = rendered(place.namespace)
    rules = [rule for rule in rules_of(objects, "Role") if rule["resources"] != ["pods/eviction"]]
    with service_account(place, "lacking", tmp_path, rules, rules_of(objects, "ClusterRole")) as kubeconfig:
        told = settings_of(objects, place.namespace, kubeconfig)

        def missing() -> list[tuple[str, str, str]]:
            found = examined(told).cluster.missing_rights
            return [(one.verb, one.resource, one.namespace) for one in found]

        place.hands.until(lambda: len(missing()) == 1)
        assert missing() == [("create", "pods/eviction", place.namespace)]


def test_who_may_nothing_is_told_all_of_it_and_reads_nothing(place: Place, tmp_path: Path) -> None:
    objects = rendered(place.namespace)
    with service_account(place, "powerless", tmp_path) as kubeconfig:
        found = examined(settings_of(objects, place.namespace, kubeconfig))
    assert len(found.cluster.missing_rights) == found.cluster.rights_asked
    assert found.pools is None
    assert any("were not looked at" in one.what for one in found.problems)


def test_what_the_roles_do_not_allow_the_server_refuses(place: Place, tmp_path: Path) -> None:
    """And what they allow is enough to look, scale, cordon and evict."""
    objects = rendered(place.namespace)
    with service_account(place, "acting", tmp_path, rules_of(objects, "Role")) as kubeconfig:
        with acting_on(place, kubeconfig=kubeconfig) as foresail:
            foresail.labelled("bounded", 1)
            foresail.scale("bounded", 2)
            foresail.at_rest("bounded", 2)
            pod = min(place.hands.names("bounded"))
            foresail.cluster.cordon(key_of("bounded"), pod)
            foresail.cluster.restart(key_of("bounded"), pod)
            place.hands.until_ready("bounded", 2)
        bound = Hands(
            place.hands.settings.model_copy(update={"kubeconfig": kubeconfig}),
            place.namespace,
            place.hours,
            kubelets=True,
        )
        try:
            with pytest.raises(ApiRefused) as refused:
                bound.delete(PODS, min(place.hands.names("bounded")))
        finally:
            bound.close()
        assert refused.value.status == 403
        assert "verbs: [delete]" in refused.value.remedy
