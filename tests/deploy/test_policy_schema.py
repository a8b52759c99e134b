"""Does the API server refuse in a ScalingPolicy what the daemon would refuse in its settings, and show what matters?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from jsonschema import Draft4Validator
from pydantic import BaseModel, ValidationError

from controller.adapters.kube.permissions import Feature, Installation, permissions
from controller.adapters.kube.policy_schema import GROUP, PLURAL, Schema, definition, json_name
from controller.modes import WorkloadModes
from policies.placement import PoolSettings
from policies.slo import ServiceObjective
from tests.builders_admission import cel
from tests.builders_chart import problems_of

(VERSION,) = definition()["spec"]["versions"]
WHOLE: Schema = VERSION["schema"]["openAPIV3Schema"]
SPEC: Schema = WHOLE["properties"]["spec"]
POOL: Schema = SPEC["properties"]["pools"]["items"]
POLICY = {
    "spec": {
        "model": "llama",
        "pools": [{"pool": "a100", "profile": "llama-3.1-70b-a100-tp4", "minReplicas": 2, "maxReplicas": 9}],
        "objective": {"ttftSeconds": 1.5},
        "modes": {"scaling": "auto"},
    }
}


def accepted(schema: Schema, value: Any) -> bool:
    # Flags for exclusive bounds, as the API server has them, are those of this draft.
    return bool(Draft4Validator({**schema, "additionalProperties": False}).is_valid(value))


def under(schema: Schema, path: str = "") -> Iterator[tuple[str, Schema]]:
    """Yield every schema within ``schema`` with its path."""
    yield path, schema
    for name, inner in schema.get("properties", {}).items():
        yield from under(inner, f"{path}.{name}")
    if "items" in schema:
        yield from under(schema["items"], f"{path}[]")


def test_it_is_a_definition_that_the_api_server_takes() -> None:
    assert list(problems_of(definition())) == []
    assert definition()["metadata"]["name"] == f"{PLURAL}.{GROUP}"


def test_its_schema_is_structural() -> None:
    for path, schema in under(WHOLE):
        assert "type" in schema, path
        assert not {"$ref", "anyOf", "oneOf", "title", "definitions", "additionalProperties"} & set(schema), path
    assert POOL["required"] == ["pool", "profile"]
    keys = SPEC["properties"]["pools"]["x-kubernetes-list-map-keys"]
    assert all(key in POOL["required"] or "default" in POOL["properties"][key] for key in keys)


def test_what_is_written_by_people_says_what_it_is() -> None:
    mute = [path for path, schema in under(SPEC) if not schema.get("description") and path != ".pools[].workload"]
    assert mute == []


def test_a_policy_is_accepted_and_one_without_pools_is_not() -> None:
    assert accepted(WHOLE, POLICY)
    assert not accepted(WHOLE, {"spec": {"model": "llama"}})
    assert not accepted(WHOLE, {"spec": {"model": "llama", "pools": []}})


@pytest.mark.parametrize("model", [PoolSettings, ServiceObjective, WorkloadModes], ids=lambda model: model.__name__)
def test_every_setting_is_there_with_its_bounds(model: type[BaseModel]) -> None:
    schemas = {
        PoolSettings: POOL,
        ServiceObjective: SPEC["properties"]["objective"],
        WorkloadModes: SPEC["properties"]["modes"],
    }
    properties: Mapping[str, Schema] = schemas[model]["properties"]
    needed = {"profile": "llama-3.1-70b-a100-tp4"} if model is PoolSettings else {}
    tried = (-1, 0, 1, 2, 0.5, 1.5, 1.6, 64, 3600, 3601, 10_000, 10_001, 86_400, 86_401, 1e9, "auto", "x", True)
    for field in model.model_fields:
        if field == "profile":
            continue
        for value in tried:
            try:
                # With a maximum that no minimum is above: what one field says of another is another test.
                others = {"max_replicas": 10_000} if field == "min_replicas" else {}
                others |= {"min_replicas": 0} if field == "max_replicas" else {}
                model.model_validate({**needed, **others, field: value}, strict=not isinstance(value, str))
                fits = True
            except ValidationError:
                fits = False
            assert accepted(properties[json_name(field)], value) is fits, (field, value)


@pytest.mark.parametrize(
    ("least", "most", "fits"), [(1, 2, True), (2, 2, True), (3, 2, False), (None, 2, True), (3, None, True)]
)
def test_a_minimum_is_not_above_its_maximum(least: int | None, most: int | None, fits: bool) -> None:
    (rule,) = POOL["x-kubernetes-validations"]
    pool = {name: count for name, count in (("minReplicas", least), ("maxReplicas", most)) if count is not None}
    assert cel.evaluate(rule["rule"], {"self": pool}) is fits


def test_columns_show_fields_that_are_there() -> None:
    paths = dict(under(WHOLE))
    columns = {column["name"]: column for column in VERSION["additionalPrinterColumns"]}
    assert {"Target", "Current", "Desired", "Forecast", "Mode", "Why"} <= set(columns)
    accepted_of = columns.pop("Accepted")
    assert accepted_of["jsonPath"] == '.status.conditions[?(@.type=="Accepted")].status'
    assert paths[".status.conditions[].status"]["type"] == accepted_of["type"]
    for column in columns.values():
        if column["name"] != "Age":
            assert paths[column["jsonPath"]]["type"] == column["type"]


def test_conditions_are_as_other_controllers_write_them() -> None:
    condition = WHOLE["properties"]["status"]["properties"]["conditions"]
    assert condition["x-kubernetes-list-map-keys"] == ["type"]
    assert {"type", "status", "reason", "message", "lastTransitionTime"} == set(condition["items"]["required"])


def test_the_feature_that_reads_policies_names_this_resource() -> None:
    rules = permissions(Installation(frozenset({Feature.POLICIES})))
    named = {(rule.group, rule.resource) for rule in rules if rule.feature is Feature.POLICIES}
    assert named == {(GROUP, PLURAL), (GROUP, f"{PLURAL}/status")}
    assert "status" in VERSION["subresources"]
