"""Is a kind served once it is defined, by its schema, scale and columns, and for as long as its definition is there?"""

from __future__ import annotations

import json
from typing import Any

import pytest

from simulations.kubernetes_api.refusals import Refusal
from simulations.kubernetes_api.requests import Request
from simulations.kubernetes_api.running import RunningApi

PATH = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
SERVERS = "/apis/suite.test/v1/namespaces/default/servers"
TABLE = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json"
SPEC = {
    "type": "object",
    "required": ["size"],
    "properties": {
        "size": {"type": "integer", "minimum": 0, "maximum": 9},
        "speed": {"type": "string", "enum": ["slow", "quick"], "default": "slow"},
        "title": {"type": "string", "minLength": 2, "maxLength": 4, "pattern": "^[a-z]+$"},
        "ratio": {"type": "number", "minimum": 0, "exclusiveMinimum": True},
        "parts": {
            "type": "array",
            "maxItems": 2,
            "x-kubernetes-list-type": "map",
            "x-kubernetes-list-map-keys": ["key"],
            "items": {"type": "object", "properties": {"key": {"type": "string"}}},
        },
        "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": True},
        "labels": {"type": "object", "additionalProperties": {"type": "string"}},
    },
}


def definition(name: str = "servers.suite.test", **more: Any) -> dict[str, Any]:
    plural, _, group = name.partition(".")
    version = {
        "name": "v1",
        "served": True,
        "storage": True,
        "schema": {
            "openAPIV3Schema": {
                "type": "object",
                "properties": {
                    "spec": SPEC,
                    "status": {"type": "object", "properties": {"size": {"type": "integer"}}},
                },
            }
        },
        "subresources": {
            "status": {},
            "scale": {"specReplicasPath": ".spec.size", "statusReplicasPath": ".status.size"},
        },
        "additionalPrinterColumns": [{"name": "Size", "type": "integer", "jsonPath": ".spec.size"}],
        **more,
    }
    names = {"plural": plural, "singular": "server", "kind": "Server", "listKind": "ServerList"}
    spec = {"group": group, "scope": "Namespaced", "names": names, "versions": [version]}
    return {"metadata": {"name": name}, "spec": spec}


def server(name: str = "a", **spec: Any) -> dict[str, Any]:
    return {"metadata": {"name": name}, "spec": {"size": 1, **spec}}


def status_of(api: RunningApi, path: str) -> int:
    return api.api.answer(Request("GET", path)).code


@pytest.fixture(name="defined")
def _defined(api: RunningApi) -> RunningApi:
    api.call("POST", PATH, definition())
    api.settle()
    return api


def test_it_is_served_from_its_definition_on_and_gone_with_it(api: RunningApi) -> None:
    assert status_of(api, SERVERS) == 404
    api.call("POST", PATH, definition())
    api.settle()
    told = api.call("GET", f"{PATH}/servers.suite.test")["status"]
    assert {one["type"]: one["status"] for one in told["conditions"]} == {
        "NamesAccepted": "True",
        "Established": "True",
    }
    api.call("POST", SERVERS, server())
    assert [one["kind"] for one in api.call("GET", SERVERS)["items"]] == ["Server"]
    api.call("DELETE", f"{PATH}/servers.suite.test")
    api.settle()
    assert [status_of(api, path) for path in (SERVERS, f"{PATH}/servers.suite.test")] == [404, 404]


def test_it_is_scaled_by_the_paths_that_it_names(defined: RunningApi) -> None:
    defined.call("POST", SERVERS, server())
    scale = defined.call("GET", f"{SERVERS}/a/scale")
    scale["spec"]["replicas"] = 4
    defined.call("PUT", f"{SERVERS}/a/scale", scale)
    held = defined.call("GET", f"{SERVERS}/a")
    assert (held["spec"]["size"], held["metadata"]["generation"]) == (4, 2)


def test_defaults_are_filled_in_and_what_is_not_known_is_dropped(defined: RunningApi) -> None:
    asked = server(colour="blue", free={"any": {"thing": 1}}, labels={"a": "b"}, parts=[{"key": "x", "odd": 1}])
    made = defined.call("POST", SERVERS, asked)
    assert made["spec"] == {
        "size": 1,
        "speed": "slow",
        "free": {"any": {"thing": 1}},
        "labels": {"a": "b"},
        "parts": [{"key": "x"}],
    }
    assert made["metadata"]["name"] == "a"


@pytest.mark.parametrize(
    ("spec", "told"),
    [
        ({"size": -1}, "spec.size in body should be greater than or equal to 0"),
        ({"size": 10}, "spec.size in body should be less than or equal to 9"),
        ({"size": "two"}, 'spec.size in body must be of type integer: "string"'),
        ({"size": True}, 'spec.size in body must be of type integer: "boolean"'),
        ({"size": None}, 'spec.size in body must be of type integer: "null"'),
        ({"speed": "odd"}, 'supported values: "slow", "quick"'),
        ({"title": "a"}, "at least 2 chars long"),
        ({"title": "abcde"}, "at most 4 chars long"),
        ({"title": "A1"}, "should match '^[a-z]+$'"),
        ({"ratio": 0}, "should be greater than 0"),
        ({"parts": [{"key": "x"}] * 2}, 'spec.parts[1]: Duplicate value: {"key": "x"}'),
        ({"parts": [{"key": "x"}, {"key": "y"}, {"key": "z"}]}, "spec.parts: Too many"),
        ({"labels": {"a": 1}}, "spec.labels.a in body must be of type string"),
    ],
)
def test_what_the_schema_does_not_take_is_invalid_and_told_where(
    defined: RunningApi, spec: dict[str, Any], told: str
) -> None:
    with pytest.raises(Refusal) as refused:
        defined.call("POST", SERVERS, server(**spec))
    assert refused.value.code == 422
    assert told in refused.value.message
    assert defined.call("GET", SERVERS)["items"] == []


def test_what_is_required_is_missed_also_in_a_change(defined: RunningApi) -> None:
    defined.call("POST", SERVERS, server())
    with pytest.raises(Refusal, match=r"spec\.size: Required value"):
        defined.call("PATCH", f"{SERVERS}/a", {"spec": {"size": None}}, "application/merge-patch+json")
    assert defined.call("GET", f"{SERVERS}/a")["spec"]["size"] == 1


def test_a_table_has_the_columns_of_the_definition(defined: RunningApi) -> None:
    defined.call("POST", SERVERS, server())
    told = json.loads(defined.api.answer(Request("GET", SERVERS, headers={"accept": TABLE})).text)
    assert told["kind"] == "Table"
    assert [one["name"] for one in told["columnDefinitions"]] == ["Name", "Size"]
    assert [row["cells"] for row in told["rows"]] == [["a", 1]]


@pytest.mark.parametrize(
    ("broken", "told"),
    [
        (definition("servers.suite.k8s.io"), "api-approved.kubernetes.io"),
        ({**definition(), "metadata": {"name": "other.suite.test"}}, "must be spec.names.plural"),
        (definition(schema={}), "schemas are required"),
        (definition(schema={"openAPIV3Schema": {"type": "object", "properties": {"spec": {}}}}), "must not be empty"),
    ],
)
def test_a_definition_that_a_server_would_not_take_is_refused(
    api: RunningApi, broken: dict[str, Any], told: str
) -> None:
    with pytest.raises(Refusal, match=told) as refused:
        api.call("POST", PATH, broken)
    assert refused.value.code == 422
