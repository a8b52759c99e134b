"""Does the daemon say, and say once, that a route names a pool which the fleet has not got?"""

from __future__ import annotations

from structlog.testing import capture_logs

from controller.adapters.kube.settings import RoutePlace
from controller.adapters.kube.unknown_pools import few, unknown_pools
from controller.ports import TickRecord
from controller.route_warnings import RouteWarnings
from policies.fleet import PoolKey
from tests.builders import fleet, pool

A, B = PoolKey("chat", "a"), PoolKey("chat", "b")


def _route(*pools: str, name: str = "chat") -> RoutePlace:
    return RoutePlace(namespace="prod", name=name, model="chat", backends={one: f"svc-{one}" for one in pools})


def _tick(*keys: PoolKey) -> TickRecord:
    seen = fleet(*[pool(key=key) for key in keys])
    return TickRecord(seen.at, seen, {}, None)


def _said(warnings: RouteWarnings, *records: TickRecord) -> list[str]:
    with capture_logs() as lines:
        for record in records:
            warnings.saw(record)
    return [str(line["what"]) for line in lines]


def test_it_is_said_once_with_the_names_that_exist_and_again_once_it_has_been_right() -> None:
    warnings = RouteWarnings()
    warnings.routes = (_route("a", "typo"), _route("b", name="other"))
    what = "it has a backend for chat/typo/unified, and there is no such pool; those of chat are {}"
    both = what.format("chat/a/unified, chat/b/unified")
    assert _said(warnings, _tick(A, B), _tick(A, B), _tick(A, B)) == [both]
    warnings.routes = (_route("a", "b"),)
    assert _said(warnings, _tick(A, B)) == []
    warnings.routes = (_route("a", "typo"),)
    assert _said(warnings, _tick(A, B), _tick(A, B)) == [both]
    assert _said(warnings, _tick(A), _tick(A)) == [what.format("chat/a/unified")]


def test_a_fleet_that_was_not_seen_says_nothing_of_its_pools() -> None:
    warnings = RouteWarnings()
    warnings.routes = (_route("typo"),)
    assert _said(warnings, TickRecord(0.0, None, {}, None, error="blind")) == []


def test_roles_are_looked_at_and_a_model_without_any_pool_is_said_to_have_none() -> None:
    staged = RoutePlace(namespace="prod", name="x", model="chat", backends={"a/prefill": "p", "a/decode": "p"})
    told = unknown_pools(staged, [A])
    assert told.startswith("it has a backend for chat/a/prefill, chat/a/decode, and there is no such pool; ")
    assert told.endswith("; those of chat are chat/a/unified")
    assert unknown_pools(_route("a"), []).endswith("and there is no such pool; chat has none at all")
    assert unknown_pools(_route("a", "b"), [A, B]) == ""
    assert few([str(number) for number in range(7)]) == "0, 1, 2, 3, 4 and 2 more"
