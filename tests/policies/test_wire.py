"""Does every value have one text and one digest, however it was put together?"""

from __future__ import annotations

import json
import math
import weakref
from collections.abc import ItemsView, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from forecasting.forecast import LoadForecast
from policies.decisions import CordonReplica, RestartReplica
from policies.fleet import Demand, FleetState, Phase, PoolKey, PoolState, ReplicaMetrics, ReplicaState, Role
from policies.slo import ServiceObjective
from policies.wire import Digest, canonical_json, digest

KEY = PoolKey("llama/70b", "a100", Role.DECODE)


def fleet(replicas: int = 3) -> FleetState:
    """Return a fleet whose replicas report everything but latencies."""
    metrics = ReplicaMetrics(100.0, 7.0, 0.0, 0.31, 1e6, 2e6, 3e6, 400.0)
    pool = PoolState(
        KEY,
        tuple(ReplicaState(f"r{i}", Phase.READY, 1.0, 2.0 + i, metrics=metrics) for i in range(replicas)),
        desired=replicas,
        gpus_per_replica=4,
        usd_per_replica_hour=8.25,
    )
    return FleetState(120.0, (pool,), demand={"llama/70b": Demand(2.5, 900.0, 2100.0)})


def test_mapping_order_does_not_change_the_text() -> None:
    assert canonical_json({"b": 1, "a": 2}) == canonical_json({"a": 2, "b": 1}) == '{"a":2,"b":1}'


def test_members_of_a_union_with_the_same_fields_differ() -> None:
    assert digest(CordonReplica("r1", KEY, "hang")) != digest(RestartReplica("r1", KEY, "hang"))


def test_a_pool_key_is_its_text_as_value_and_as_key() -> None:
    assert json.loads(canonical_json({KEY: KEY})) == {"llama/70b/a100/decode": "llama/70b/a100/decode"}


def test_not_observed_is_null_and_zero_is_zero() -> None:
    assert canonical_json([math.nan, None, 0.0]) == "[null,null,0]"


def test_infinity_is_text_because_json_has_no_number_for_it() -> None:
    assert canonical_json([math.inf, -math.inf]) == '["Infinity","-Infinity"]'


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (5, 5.0),
        (0.0, -0.0),
        (np.float64(2.5), 2.5),
        (np.int64(3), 3),
        (np.array([[1.5, np.nan]]), [[1.5, None]]),
        ((1, 2), [1, 2]),
        ({"b", "a"}, ["a", "b"]),
        (MappingProxyType({"a": 1}), {"a": 1}),
        (Phase.READY, "ready"),
        ({Phase.READY: 1}, {"ready": 1}),
        ({3: 1}, {"3": 1}),
    ],
)
def test_equal_values_have_equal_digests(one: object, other: object) -> None:
    assert digest(one) == digest(other)


def test_a_whole_number_beyond_exact_floats_stays_a_float() -> None:
    assert canonical_json(2.0**60) == "1.152921504606847e+18"


def test_a_digest_read_later_is_the_digest_of_the_value() -> None:
    later, now = Digest(fleet()), digest(fleet())
    assert str(later) == now
    assert (later, hash(later), repr(later)) == (now, hash(now), repr(now))
    assert later == Digest(fleet())
    assert later != Digest(fleet(4))
    assert canonical_json({"of": Digest(fleet())}) == canonical_json({"of": now})


def test_a_digest_that_nobody_reads_costs_nothing_and_then_holds_on_to_nothing() -> None:
    class Costly(dict[str, int]):
        read = 0

        def items(self) -> ItemsView[str, int]:
            Costly.read += 1
            return super().items()

    value = Costly(a=1)
    held = weakref.ref(value)
    later = Digest(value)
    del value
    assert Costly.read == 0
    assert (str(later), repr(later)) == (digest({"a": 1}), repr(digest({"a": 1})))
    assert Costly.read == 1
    assert held() is None


def test_any_changed_field_changes_the_digest_of_a_fleet() -> None:
    before = fleet()
    assert digest(before) == digest(fleet())
    assert digest(replace(before, at=121.0)) != digest(before)
    assert digest(replace(before, missing=("queue:r1",))) != digest(before)


def test_a_fleet_reads_back_with_its_class_names() -> None:
    read = json.loads(canonical_json(fleet()))
    assert read["type"] == "FleetState"
    replica = read["pools"][0]["replicas"][0]
    assert (replica["type"], replica["phase"], replica["in_flight_requests"]) == ("ReplicaState", "ready", None)
    assert replica["metrics"]["ttft_p95_s"] is None
    assert list(replica) == sorted(replica)


def test_settings_and_forecasts_have_a_text_too() -> None:
    forecast = LoadForecast.ordered(60.0, 30.0, np.array([0.5]), np.ones((1, 2, 3)), "naive")
    assert json.loads(canonical_json(forecast))["values"] == [[[1, 1, 1], [1, 1, 1]]]
    assert json.loads(canonical_json(ServiceObjective()))["ttft_s"] == 2


@pytest.mark.parametrize("value", [b"bytes", object(), len, {1.5: "float key"}])
def test_a_value_without_a_text_is_refused(value: object) -> None:
    with pytest.raises(TypeError, match=r"canonical JSON|key of a JSON object"):
        canonical_json(value)


def test_keys_that_collide_as_text_are_refused() -> None:
    with pytest.raises(ValueError, match="same text"):
        canonical_json({"1": "text", 1: "number"})


def test_a_value_that_contains_itself_is_refused() -> None:
    circle: list[object] = []
    circle.append(circle)
    with pytest.raises(ValueError, match="contains itself"):
        canonical_json(circle)


def test_a_field_in_the_place_of_the_class_name_is_refused() -> None:
    @dataclass(frozen=True)
    class Clash:
        type: str

    with pytest.raises(TypeError, match="class name"):
        canonical_json(Clash("x"))


def test_small_classes_keep_their_keys_sorted() -> None:
    @dataclass(frozen=True)
    class Empty:
        pass

    @dataclass(frozen=True)
    class Late:
        zone: str

    assert canonical_json(Empty()) == '{"type":"Empty"}'
    assert canonical_json(Late("a")) == '{"type":"Late","zone":"a"}'


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@given(json_values)
def test_the_text_is_valid_json_and_a_fixed_point(value: object) -> None:
    text = canonical_json(value)
    assert text.isascii()
    assert canonical_json(json.loads(text)) == text


@given(st.dictionaries(st.text(), st.integers(), max_size=8), st.randoms(use_true_random=False))
def test_no_filling_order_shows(mapping: Mapping[str, int], shuffler: object) -> None:
    items = list(mapping.items())
    shuffler.shuffle(items)  # type: ignore[attr-defined]  # hypothesis types it as random.Random
    assert digest(dict(items)) == digest(mapping)
