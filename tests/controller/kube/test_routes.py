"""Does a patch of a route give pools their shares, and leave everything else as it was?"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.adapters.kube.handshake import taken
from controller.adapters.kube.routes import (
    MOST_WEIGHT,
    SAME_SHARE,
    WHOLE,
    RouteKind,
    backends_of,
    patch_for,
    shares_of,
)
from controller.errors import ActuationError, ObservationError
from policies.fleet import PoolKey

A, B, C = (PoolKey("m", name) for name in "abc")
POOLS = {A: "svc-a", B: "svc-b"}
KINDS: tuple[RouteKind, ...] = ("HTTPRoute", "VirtualService")


def http_rule(weights: Mapping[str, int | None], **more: Any) -> dict[str, Any]:
    refs = [
        {"name": name, "port": 8000, **({} if weight is None else {"weight": weight})}
        for name, weight in weights.items()
    ]
    return {"backendRefs": refs, **more}


def istio_rule(weights: Mapping[str, int | None], **more: Any) -> dict[str, Any]:
    route = [
        {"destination": {"host": name}, **({} if weight is None else {"weight": weight})}
        for name, weight in weights.items()
    ]
    return {"route": route, **more}


def a_route(kind: RouteKind, *rules: Mapping[str, int | None]) -> dict[str, Any]:
    metadata = {"name": "chat", "namespace": "llm", "generation": 4, "resourceVersion": "71"}
    if kind == "HTTPRoute":
        return {"metadata": metadata, "spec": {"hostnames": ["h"], "rules": [http_rule(rule) for rule in rules]}}
    return {"metadata": metadata, "spec": {"hosts": ["h"], "http": [istio_rule(rule) for rule in rules]}}


def patched(route: Mapping[str, Any], patch: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the object after the patch: the two operations that are used."""
    changed = copy.deepcopy(dict(route))
    for operation in patch:
        *way, last = operation["path"].split("/")[1:]
        at: Any = changed
        for key in way:
            at = at[int(key)] if isinstance(at, list) else at[key]
        if operation["op"] == "test":
            assert at[last] == operation["value"]
        else:
            assert operation["op"] == "add"
            at[last] = operation["value"]
    return changed


def without_weights(route: Any) -> Any:
    if isinstance(route, dict):
        return {key: without_weights(value) for key, value in route.items() if key != "weight"}
    return [without_weights(value) for value in route] if isinstance(route, list) else route


def weights(kind: RouteKind, route: Mapping[str, Any]) -> dict[str, int]:
    return {backend.name: backend.weight for backend in backends_of(kind, route)}


@pytest.mark.parametrize("kind", KINDS)
def test_shares_are_weights_over_their_sum(kind: RouteKind) -> None:
    assert shares_of(kind, a_route(kind, {"svc-a": 3, "svc-b": 1}), POOLS) == {A: 0.75, B: 0.25}
    assert shares_of(kind, a_route(kind, {"svc-a": 0, "svc-b": 0}), POOLS) == {A: 0.0, B: 0.0}


def test_a_weight_that_is_not_given_is_what_the_api_says() -> None:
    assert shares_of("HTTPRoute", a_route("HTTPRoute", {"svc-a": None, "svc-b": 3}), POOLS) == {A: 0.25, B: 0.75}
    assert shares_of("VirtualService", a_route("VirtualService", {"svc-a": None, "svc-b": 3}), POOLS) == {
        A: 0.0,
        B: 1.0,
    }
    assert shares_of("VirtualService", a_route("VirtualService", {"svc-a": None}), {A: "svc-a"}) == {A: 1.0}


def test_names_of_other_namespaces_and_subsets_tell_backends_apart() -> None:
    route = a_route("HTTPRoute", {"svc-a": 1, "svc-b": 1})
    route["spec"]["rules"][0]["backendRefs"][1] |= {"namespace": "other", "kind": "InferencePool"}
    assert shares_of("HTTPRoute", route, {A: "svc-a", B: "other/svc-b"}) == {A: 0.5, B: 0.5}
    subsets = a_route("VirtualService", {"svc-a": 1, "svc-b": 3})
    for entry, subset in zip(subsets["spec"]["http"][0]["route"], ("v1", "v2"), strict=True):
        entry["destination"] = {"host": "chat", "subset": subset}
    assert shares_of("VirtualService", subsets, {A: "chat/v1", B: "chat/v2"}) == {A: 0.25, B: 0.75}
    patch = patch_for("VirtualService", subsets, {A: "chat/v1", B: "chat/v2"}, {A: 1.0, B: 0.0})
    assert weights("VirtualService", patched(subsets, patch)) == {"chat/v1": WHOLE, "chat/v2": 0}


@pytest.mark.parametrize("kind", KINDS)
def test_a_patch_holds_for_the_object_that_it_was_made_from(kind: RouteKind) -> None:
    patch = patch_for(kind, a_route(kind, {"svc-a": 1, "svc-b": 1}), POOLS, {A: 0.8, B: 0.2})
    assert patch[0] == {"op": "test", "path": "/metadata/resourceVersion", "value": "71"}
    assert [operation["value"] for operation in patch[1:]] == ["svc-a", 8000, "svc-b", 2000]


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_so_already_is_not_written(kind: RouteKind) -> None:
    route = a_route(kind, {"svc-a": 2, "svc-b": 1})
    assert patch_for(kind, route, POOLS, {A: 2 / 3, B: 1 / 3}) == []
    assert patch_for(kind, route, POOLS, {A: 4 / 6 + 1e-5, B: 2 / 6 - 1e-5}) == []


def test_a_share_of_almost_nothing_is_written_and_is_not_nothing() -> None:
    route = a_route("HTTPRoute", {"svc-a": 1, "svc-b": 0})
    changed = patched(route, patch_for("HTTPRoute", route, POOLS, {A: 0.99999, B: 0.00001}))
    assert weights("HTTPRoute", changed) == {"svc-a": WHOLE - 1, "svc-b": 1}


def test_rules_that_do_not_list_all_pools_are_left_alone() -> None:
    route = a_route("HTTPRoute", {"svc-a": 1, "svc-b": 1}, {"svc-a": 1}, {"docs": 1}, {"svc-b": 3, "svc-a": 3})
    changed = patched(route, patch_for("HTTPRoute", route, POOLS, {A: 0.1, B: 0.9}))
    assert changed["spec"]["rules"][1:3] == route["spec"]["rules"][1:3]
    assert shares_of("HTTPRoute", changed, POOLS) == {A: 0.1, B: 0.9}


def test_rules_that_differ_are_not_averaged() -> None:
    route = a_route("HTTPRoute", {"svc-a": 1, "svc-b": 1}, {"svc-a": 1, "svc-b": 2})
    with pytest.raises(ObservationError, match=r"differently: a 0.5, b 0.5 and a 0.3333, b 0.6667"):
        shares_of("HTTPRoute", route, POOLS)


@pytest.mark.parametrize(
    ("rules", "what"),
    [
        ([{"svc-a": 1}], "no rule lists svc-a, svc-b; it lists svc-a"),
        ([], "it lists nothing"),
    ],
)
def test_a_route_without_our_pools_is_refused(rules: list[dict[str, int | None]], what: str) -> None:
    with pytest.raises(ObservationError, match=what):
        shares_of("HTTPRoute", a_route("HTTPRoute", *rules), POOLS)


def test_a_backend_that_is_listed_twice_is_refused() -> None:
    route = a_route("HTTPRoute", {"svc-a": 1, "svc-b": 1})
    route["spec"]["rules"][0]["backendRefs"].append({"name": "svc-a", "weight": 4})
    with pytest.raises(ObservationError, match="twice"):
        shares_of("HTTPRoute", route, POOLS)


@pytest.mark.parametrize(
    "shares", [{A: 0.0, B: 0.0}, {}, {A: -0.1, B: 1.1}, {A: float("nan"), B: 1.0}, {A: 0.5, C: 0.5}]
)
def test_shares_that_are_none_are_refused(shares: dict[PoolKey, float]) -> None:
    with pytest.raises(ActuationError):
        patch_for("HTTPRoute", a_route("HTTPRoute", {"svc-a": 1, "svc-b": 1}), POOLS, shares)


def test_weights_that_would_grow_beyond_what_is_admitted_shrink_alike() -> None:
    route = a_route("HTTPRoute", {"svc-a": MOST_WEIGHT, "svc-b": MOST_WEIGHT, "legacy": MOST_WEIGHT})
    changed = patched(route, patch_for("HTTPRoute", route, POOLS, {A: 1.0, B: 0.0}))
    assert weights("HTTPRoute", changed) == {"svc-a": MOST_WEIGHT, "svc-b": 0, "legacy": MOST_WEIGHT // 2}


def test_where_others_get_everything_our_part_is_not_taken_from_them() -> None:
    route = a_route("HTTPRoute", {"svc-a": 0, "svc-b": 0, "legacy": 5})
    with pytest.raises(ActuationError, match="legacy get all"):
        patch_for("HTTPRoute", route, POOLS, {A: 0.5, B: 0.5})


WEIGHTS = st.one_of(st.none(), st.integers(0, 3), st.integers(0, MOST_WEIGHT))
SHARES = st.lists(st.floats(0.0, 1.0), min_size=3, max_size=3).filter(lambda shares: sum(shares) > 1e-3)


@given(st.sampled_from(KINDS), st.lists(WEIGHTS, min_size=5, max_size=5), SHARES)
def test_pools_get_their_shares_and_others_keep_theirs(
    kind: RouteKind, now: list[int | None], shares: list[float]
) -> None:
    names = ["svc-a", "other-1", "svc-b", "svc-c", "other-2"]
    route = a_route(kind, {"docs": 1, "other-1": 2}, dict(zip(names, now, strict=True)))
    pools = {A: "svc-a", B: "svc-b", C: "svc-c"}
    before = {b.name: b.weight for b in backends_of(kind, route) if b.rule == 1}
    ours = sum(before[name] for name in pools.values())
    wanted = {pool: share / sum(shares) for pool, share in zip((A, B, C), shares, strict=True)}
    try:
        changed = patched(route, patch_for(kind, route, pools, wanted))
    except ActuationError:
        assert ours == 0
        assert before["other-1"] + before["other-2"] > 0
        return
    assert without_weights(changed) == without_weights(route)
    after = {b.name: b.weight for b in backends_of(kind, changed) if b.rule == 1}
    assert all(0 <= weight <= MOST_WEIGHT for weight in after.values())
    got = shares_of(kind, changed, pools)
    total = sum(after[name] for name in pools.values())
    for pool in pools:
        assert abs(got[pool] - wanted[pool]) <= max(SAME_SHARE, 3.0 / total)
        assert (got[pool] > 0) == (wanted[pool] > 0)
    all_before, all_after = sum(before.values()), sum(after.values())
    for name in ("other-1", "other-2"):
        if ours and all_before:
            assert after[name] / all_after == pytest.approx(before[name] / all_before, abs=3.0 / all_after + 1e-9)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 2) | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["metadata", "spec", "rules", "http", "route", "backendRefs", "name", "weight", "destination"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(st.sampled_from(KINDS), st.dictionaries(st.sampled_from(["metadata", "spec", "status"]), JSON))
def test_what_is_no_route_is_refused_in_words(kind: RouteKind, told: dict[str, Any]) -> None:
    with pytest.raises(ObservationError):
        shares_of(kind, told, POOLS)


def accepted(generation: int, status: str = "True", **ref: Any) -> dict[str, Any]:
    condition = {"type": "Accepted", "status": status, "observedGeneration": generation, "reason": "NoMatch"}
    return {"parentRef": {"name": "edge", **ref}, "conditions": [condition]}


EDGE, MESH = {"name": "edge"}, {"name": "mesh", "namespace": "infra"}


@pytest.mark.parametrize(
    ("named", "parents", "why"),
    [
        ([EDGE], [accepted(4)], ""),
        ([EDGE], [accepted(4, group="gateway.networking.k8s.io", kind="Gateway", namespace="llm")], ""),
        ([EDGE, MESH], [accepted(4), accepted(4, **MESH)], ""),
        ([EDGE], [accepted(4), accepted(3, name="formerly")], ""),
        ([], [accepted(4)], "it names no gateway"),
        ([EDGE], [], "gateway edge has not taken it yet"),
        ([EDGE, MESH], [accepted(4), accepted(4, name="mesh")], "gateway mesh has not taken it yet"),
        ([EDGE], [accepted(4, sectionName="https")], "gateway edge has not taken it yet"),
        ([EDGE], [accepted(4), accepted(3)], "gateway edge has not looked at generation 4 yet"),
        ([EDGE], [{"parentRef": {"name": "edge"}}], "gateway edge has not looked at generation 4 yet"),
        ([EDGE], [accepted(4, "False")], "gateway edge does not accept it: NoMatch "),
    ],
)
def test_a_change_is_in_effect_once_every_gateway_has_accepted_it(
    named: list[dict[str, Any]], parents: list[dict[str, Any]], why: str
) -> None:
    route = a_route("HTTPRoute", {"svc-a": 1, "svc-b": 1}) | {"status": {"parents": parents}}
    route["spec"]["parentRefs"] = named
    assert taken("HTTPRoute", route) == why


@given(st.dictionaries(st.sampled_from(["metadata", "spec", "status"]), JSON))
def test_whatever_a_route_says_it_is_known_whether_it_is_in_effect(told: dict[str, Any]) -> None:
    assert taken("HTTPRoute", told)


def test_what_whole_weights_cannot_say_is_written_once() -> None:
    route = a_route("HTTPRoute", {"svc-a": 1, "svc-b": 1, "svc-c": 0, "legacy": MOST_WEIGHT})
    pools, wanted = POOLS | {C: "svc-c"}, {A: 0.4, B: 0.3, C: 0.3}
    once = patched(route, patch_for("HTTPRoute", route, pools, wanted))
    assert shares_of("HTTPRoute", once, pools)[A] != pytest.approx(0.4, abs=SAME_SHARE)
    assert patch_for("HTTPRoute", once, pools, wanted) == []


def test_istio_tells_nothing_of_whether_a_change_is_in_effect() -> None:
    assert taken("VirtualService", a_route("VirtualService", {"svc-a": 1})) == ""
