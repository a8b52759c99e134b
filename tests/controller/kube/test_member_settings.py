"""Do the settings of several clusters say of each thing where it is, and only once?"""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from controller.adapters.kube.member_settings import ClustersSettings


def of(**members: dict[str, Any]) -> ClustersSettings:
    return ClustersSettings.model_validate({"members": members})


def a_route(model: str, name: str = "r") -> dict[str, Any]:
    return {"namespace": "prod", "name": name, "model": model, "backends": {"east.a": "engine-east"}}


def test_members_say_where_lease_and_routes_are() -> None:
    settings = of(
        east={"context": "east", "lease": {}, "routes": [a_route("m")]},
        west={"context": "west", "optional": True, "routes": [a_route("n")]},
    )
    assert (settings.lease_in, settings.router_of, settings.optional) == ("east", {"m": "east", "n": "west"}, {"west"})
    assert (of(east={}).lease_in, of(east={}).router_of) == (None, {})


@pytest.mark.parametrize(
    ("members", "what"),
    [
        ({}, "at least 1"),
        ({f"m{number}": {"context": f"c{number}"} for number in range(17)}, "at most 16"),
        ({"East": {}}, "pattern"),
        ({"ea.st": {}}, "pattern"),
        ({"east": {"context": "a"}, "west": {"context": "a"}}, "east and west are reached alike"),
        ({"east": {}, "west": {}}, "east and west are reached alike"),
        ({"east": {"policies": True}}, "east has policies or pinned_models"),
        (
            {"east": {"context": "a", "lease": {}}, "west": {"context": "b", "write_timeout_s": 8}},
            "west: write_timeout_s 8 and lease.retry_s 2 leave no time",
        ),
        (
            {"east": {"context": "a", "lease": {}}, "west": {"context": "b", "lease": {}}},
            "east and west each have a lease",
        ),
        (
            {"east": {"context": "a", "routes": [a_route("m")]}, "west": {"context": "b", "routes": [a_route("m")]}},
            "east and west each have a route of m",
        ),
    ],
)
def test_what_is_said_twice_or_not_at_all_is_refused(members: dict[str, Any], what: str) -> None:
    with pytest.raises(ValidationError, match=what):
        of(**members)
