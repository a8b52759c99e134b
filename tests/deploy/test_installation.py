"""Do the settings ask for the features, and so for the rights, that the chart's examples switch on?"""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from controller.adapters.kube.installation import installation_of, rights_of
from controller.adapters.kube.permissions import Feature, Installation, permissions
from controller.adapters.kube.settings import KubernetesSettings
from controller.modes import ModeSettings
from tests.builders_chart import CHART, RELEASE, ROOT


def _values(example: str) -> dict[str, Any]:
    values: dict[str, Any] = yaml.safe_load((CHART / "values.yaml").read_text())
    told: dict[str, Any] = yaml.safe_load((ROOT / "deploy" / "examples" / f"{example}.yaml").read_text())
    return {**values, **told, "features": {**values["features"], **told.get("features", {})}}


def _platform(values: dict[str, Any]) -> KubernetesSettings:
    """Return the settings of the cluster that go with values of the chart."""
    namespace = values["namespaces"][0]
    routes = [
        {"kind": kind, "namespace": namespace, "name": name, "model": name, "backends": {"a100": "a100"}}
        for kind, name in zip(values["routes"], values["routeNames"], strict=True)
    ]
    return KubernetesSettings.model_validate(
        {
            "namespaces": values["namespaces"],
            "kinds": values["kinds"],
            "nodes": values["features"]["nodes"],
            "routes": routes,
            "lease": {"namespace": RELEASE, "name": RELEASE} if values["features"]["lease"] else None,
        }
    )


@pytest.mark.parametrize("example", ["observe", "act"])
def test_an_example_grants_what_its_settings_need(example: str) -> None:
    values = _values(example)
    modes = ModeSettings.model_validate(values["settings"].get("modes", {}))
    granted = Installation(
        frozenset(Feature(name) for name, is_on in values["features"].items() if is_on),
        tuple(values["kinds"]),
        routes=tuple(values["routes"]),
        beside=tuple(values["beside"]),
        route_names=tuple(values["routeNames"]),
        lease=RELEASE,
    )
    needed = installation_of(_platform(values), modes, may_avoid_nodes=False)
    assert needed.features == granted.features
    assert set(permissions(needed)) == set(permissions(granted))


def test_each_mode_brings_its_features_and_telling_people_brings_none() -> None:
    platform = KubernetesSettings(events=False)

    def on(**modes: str) -> set[Feature]:
        told = ModeSettings.model_validate(modes)
        return set(installation_of(platform, told, may_avoid_nodes=True).features)

    assert on(scaling="recommend", traffic="recommend", healing="recommend") == set()
    assert on(scaling="approve") == {Feature.SCALE}
    assert on(traffic="auto") == {Feature.ROUTE}
    assert on(healing="auto") == {Feature.CORDON, Feature.RESTART, Feature.ROLL_BACK, Feature.AVOID_NODES}


def test_events_of_a_route_are_written_where_it_is() -> None:
    route = {"namespace": "edge", "name": "chat", "model": "chat", "backends": {"a100": "a100"}}
    platform = KubernetesSettings.model_validate({"namespaces": ("serving",), "routes": (route,)})
    rights = rights_of(installation_of(platform, ModeSettings(), may_avoid_nodes=False), platform)
    of_events = {(right.verb, right.namespace) for right in rights if right.feature is Feature.EVENTS}
    assert of_events == {(verb, place) for verb in ("create", "patch") for place in ("serving", "edge")}


def test_events_of_nodes_are_written_in_the_namespace_that_is_theirs() -> None:
    modes = ModeSettings.all_auto()
    for may_avoid, namespaces, places in (
        (True, ("serving",), {"serving", "default"}),
        (False, ("serving",), {"serving"}),
        (True, ("*",), {""}),
    ):
        platform = KubernetesSettings(namespaces=namespaces)
        rights = rights_of(installation_of(platform, modes, may_avoid_nodes=may_avoid), platform)
        assert {right.namespace for right in rights if right.feature is Feature.EVENTS} == places
