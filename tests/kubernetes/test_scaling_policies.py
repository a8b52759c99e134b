"""Does the server take our ScalingPolicy, refuse what cannot be meant, and show people what became of it?"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml

from controller.adapters.kube.policies import ScalingPolicies
from controller.adapters.kube.policy_watch import SCALING_POLICIES
from controller.adapters.kube.policy_writer import Pace
from controller.adapters.kube.questions import ApiRefused
from controller.adapters.system_clock import SystemClock
from controller.ports import TickRecord
from controller.settings import Settings
from policies.decide import Foresail
from tests.builders import MODEL, a_bench, forecast, pool
from tests.builders_any_cluster import Json, Place
from tests.builders_definitions import defined
from tests.builders_policies import InCluster, policy_json, pool_json, until
from tests.builders_tables import table_of

CHART = Path(__file__).resolve().parents[2] / "deploy" / "chart"
DEFINITION = CHART / "crds" / "scalingpolicies.yaml"
QUICK = Pace(changes_every_s=0.0, figures_every_s=0.0, between_s=0.0)


@pytest.fixture(name="definition", scope="module", autouse=True)
def _definition(place: Place) -> Iterator[Json]:
    with defined(place, yaml.safe_load(DEFINITION.read_text())) as served:
        yield served


@pytest.fixture(name="policies")
def _policies() -> Iterator[ScalingPolicies]:
    made = ScalingPolicies(SystemClock().elapsed, np.random.default_rng(7), pace=QUICK)
    try:
        yield made
    finally:
        made.close()


def create(place: Place, name: str, **spec: object) -> Json:
    body = policy_json(name, **spec)
    return place.hands.create(SCALING_POLICIES, {"metadata": {"name": name}, "spec": body["spec"]})


def laid_over(place: Place, policies: ScalingPolicies) -> Settings:
    cluster = place.hands.settings.model_copy(update={"policies": True})
    return InCluster(policies, cluster).lay_over(Settings())


def a_tick(settings: Settings, at: float, replicas: int) -> TickRecord:
    bench = a_bench(pool(replicas), policy=Foresail(settings.policy), modes=settings.modes)
    return replace(bench.tick(), at=at, forecasts={MODEL: forecast(12.0)})


def test_the_server_takes_its_definition_whole(definition: Json) -> None:
    told = {one["type"]: one["status"] for one in definition["status"]["conditions"]}
    assert (told["NamesAccepted"], told["Established"]) == ("True", "True")
    assert "NonStructuralSchema" not in told


@pytest.mark.parametrize(
    ("spec", "where"),
    [
        ({"pools": [{"pool": "a", "profile": "p", "minReplicas": -1}]}, "minReplicas"),
        ({"pools": [{"pool": "a"}]}, "profile"),
        ({"pools": []}, "spec.pools"),
        ({"pools": [pool_json(), pool_json()]}, "spec.pools"),
        ({"modes": {"scaling": "sometimes"}}, "modes.scaling"),
        ({"objective": {"ttftSeconds": "quick"}}, "ttftSeconds"),
    ],
    ids=["negative", "incomplete", "empty", "twice", "no mode", "no number"],
)
def test_what_cannot_be_meant_is_refused_where_it_is_written(place: Place, spec: Json, where: str) -> None:
    with pytest.raises(ApiRefused) as refused:
        create(place, "refused", **spec)
    assert refused.value.status == 422
    assert where in refused.value.what


def test_what_is_left_out_is_filled_in_and_what_nobody_knows_is_dropped(place: Place) -> None:
    made = create(place, "filled", pools=[{**pool_json("a"), "colour": "blue"}])
    (told,) = made["spec"]["pools"]
    assert told["role"] == "unified"
    assert "colour" not in told


def test_a_policy_shows_what_became_of_it_and_kubectl_prints_that(place: Place, policies: ScalingPolicies) -> None:
    hands, at = place.hands, place.hours.now()
    create(place, "shown", model=MODEL, modes={"scaling": "auto"}, pools=[pool_json(minReplicas=5)])

    def status() -> Json:
        found: Json = hands.get(SCALING_POLICIES, "shown").get("status", {})
        return found

    settings = laid_over(place, policies)
    assert settings.policy.pools
    policies.saw(a_tick(settings, at, 3))
    until(lambda: status().get("desired") == 5)
    first = status()
    assert (first["current"], first["mode"], first["observedGeneration"]) == (3, "auto", 1)
    assert hands.get(SCALING_POLICIES, "shown")["metadata"]["generation"] == 1
    policies.saw(a_tick(settings, at + 60.0, 5))
    until(lambda: status().get("current") == 5)
    shown = table_of(place, SCALING_POLICIES)["shown"]
    assert shown.keys() >= {"Model", "Target", "Current", "Desired", "Forecast", "Mode", "Why", "Age"}
    assert (shown["Model"], shown["Current"], shown["Desired"], shown["Mode"]) == (MODEL, 5, 5, "auto")
    assert isinstance(shown["Target"], int)
    assert shown["Forecast"] == status()["forecast"]
    assert shown["Why"] == status()["why"] != ""
