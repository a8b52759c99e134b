"""Do pools of one stage, and of several, get the shares of a route's backends that they can take?"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from controller.adapters.kube.route_pools import RoutePools
from controller.adapters.kube.settings import RoutePlace
from controller.errors import ActuationError
from policies.fleet import PoolKey, Role

PLACES = ("east", "north", "west")
UNIFIED = RoutePools.of("m", {name: f"chat-{name}" for name in PLACES})
STAGES = (Role.PREFILL, Role.DECODE)
APART = RoutePools.of("m", {f"{name}/{role}": f"chat-{name}" for name in PLACES for role in STAGES})
SHARES = st.lists(st.floats(0, 10) | st.just(0.0), min_size=3, max_size=3)


def keys(role: Role = Role.UNIFIED) -> list[PoolKey]:
    return [PoolKey("m", name, role) for name in PLACES]


@given(SHARES.filter(lambda shares: sum(shares) > 1e-6))
def test_in_one_stage_each_backend_has_the_share_of_its_pool(shares: list[float]) -> None:
    wanted = UNIFIED.of_backends(dict(zip(keys(), shares, strict=True)))
    assert wanted == pytest.approx({key: share / sum(shares) for key, share in zip(keys(), shares, strict=True)})
    assert UNIFIED.of_pools(wanted) == wanted


@given(SHARES, SHARES)
def test_in_several_stages_no_backend_gets_what_one_of_them_cannot_take(first: list[float], then: list[float]) -> None:
    told = {
        key: s
        for role, shares in zip(STAGES, (first, then), strict=True)
        for key, s in zip(keys(role), shares, strict=True)
    }
    try:
        wanted = APART.of_pools(APART.of_backends(told))
    except ActuationError:
        assert not sum(first) or not sum(then) or not any(a and b for a, b in zip(first, then, strict=True))
        return
    for role in STAGES:
        assert sum(wanted[key] for key in keys(role)) == pytest.approx(1.0)
        assert all(told[key] > 0 for key in keys(role) if wanted[key] > 0)
    assert [wanted[key] for key in keys(STAGES[0])] == [wanted[key] for key in keys(STAGES[1])]
    if first == then:
        assert [wanted[key] for key in keys(STAGES[0])] == pytest.approx([share / sum(first) for share in first])


@pytest.mark.parametrize(
    ("backends", "why"),
    [
        ({"east": "a", "west": "a"}, "one pool at each backend"),
        ({"east": "a", "west/prefill": "b"}, "one pool at each backend"),
        ({"east/prefill": "a", "east/decode": "b"}, "one pool at each backend"),
        ({"east/both": "a"}, "'both' is not a valid Role"),
        ({"": "a"}, "a pool needs a model and a pool name"),
    ],
)
def test_backends_that_cannot_be_shared_out_are_refused_in_the_settings(backends: dict[str, str], why: str) -> None:
    with pytest.raises(ValidationError, match=why):
        RoutePlace(namespace="prod", name="chat", model="m", backends=backends)
