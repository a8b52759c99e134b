"""Is what is remembered of all replicas at once just what is remembered of each by itself?"""

from __future__ import annotations

import doctest
import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies import answer_counts, failing
from policies.answer_counts import rounded
from policies.failing_settings import FailingSettings
from policies.fleet import FleetState, Phase, PoolKey, PoolState, ReplicaMetrics, ReplicaState
from policies.memory import PolicyMemory, ReplicaMemory
from policies.progress import remembered
from policies.watched import WatchedReplicas
from policies.wire import canonical_json
from tests.builders import AT, OTHER, fleet, pool, replica
from tests.reference.plain_progress import remember_all

SETTINGS = FailingSettings()

COUNTS = st.one_of(st.just(math.nan), st.sampled_from([0.0, 1.0, 3.0, 20.0, 21.5, 1e14, math.inf]), st.floats(0, 1e6))
GAUGES = st.sampled_from([math.nan, 0.0, 1.0, 5.0])
METRICS = st.builds(
    ReplicaMetrics, st.floats(-200.0, 60.0).map(lambda s: AT + s), GAUGES, GAUGES, GAUGES, COUNTS, COUNTS, COUNTS,
    COUNTS, COUNTS,
)  # fmt: skip


def replicas(name: str) -> st.SearchStrategy[ReplicaState]:
    return st.builds(
        ReplicaState, st.just(name), st.sampled_from(Phase), st.just(0.0), st.just(0.0), restarts=st.integers(0, 1),
        in_flight_requests=GAUGES, metrics=st.one_of(st.none(), METRICS), answered_requests_total=COUNTS,
        failed_answers_total=COUNTS,
    )  # fmt: skip


@st.composite
def looks(draw: st.DrawFn) -> list[FleetState]:
    """Two pools, of which replicas come, go, start again and are scraped or not, at growing instants."""
    at, found = AT, []
    for _ in range(draw(st.integers(1, 4))):
        at += draw(st.sampled_from([0.0, 15.0, 15.1, 200.0]))
        pools = []
        for key in (PoolKey("m", "a"), PoolKey("m", "b")):
            names = draw(st.lists(st.sampled_from("uvwxyz"), unique=True, max_size=4))
            mine = tuple(draw(replicas(name)) for name in names)
            pools.append(PoolState(key, mine, len(mine), 1))
        counted_at = at - draw(st.sampled_from([math.nan, -3.0, 0.0, 4.5, 14.0]))  # a clock may be ahead
        found.append(FleetState(at, tuple(pools), gateway_newest_at=counted_at))
    return found


@given(looks())
def test_all_at_once_is_each_by_itself(seen: list[FleetState]) -> None:
    together: WatchedReplicas = WatchedReplicas()
    apart: dict[str, ReplicaMemory] = {}
    for look in seen:
        together, _ = remembered(look, together, SETTINGS)
        apart = remember_all(look, apart, SETTINGS)
        assert dict(together) == apart
        assert canonical_json(together) == canonical_json(apart)


@given(st.lists(st.floats(0, 1e13), min_size=1))
def test_rounding_many_is_rounding_each(values: list[float]) -> None:
    ties = [*values, *(round(value, 1) + 0.0005 for value in values), *(int(value) / 2000 for value in values)]
    assert rounded(np.array(ties)).tolist() == [round(value, 3) for value in ties]


def test_the_examples_in_the_docs_are_true() -> None:
    assert all(doctest.testmod(module).failed == 0 for module in (answer_counts, failing))


def watched() -> WatchedReplicas:
    return remembered(fleet(pool(2), pool(1, OTHER)), {}, SETTINGS)[0]


def test_memory_side_by_side_is_a_mapping_like_any_other() -> None:
    memory = watched()
    names = ["m/a/unified/a0", "m/a/unified/a1", "m/b/unified/b0"]
    assert list(memory) == names
    assert len(memory) == 3
    assert memory == {name: memory[name] for name in names}
    assert memory == WatchedReplicas.of(dict(memory))
    assert memory != {}
    with pytest.raises(KeyError):
        memory["m/a/unified/b0"]


def test_it_is_written_and_read_as_before() -> None:
    memory = PolicyMemory(replicas=watched())
    assert PolicyMemory.from_json(memory.to_json()) == memory
    assert json.loads(canonical_json(memory))["replicas"].keys() == set(memory.replicas)


def test_what_is_replaced_is_replaced_and_nothing_else() -> None:
    memory = watched()
    first, *others = memory
    changed = memory.changed({first: ReplicaMemory("other", 1.0, None, None, None, 5.0, 5.0, slow_at=(4.0,))})
    assert changed[first].slow_at == (4.0,)
    assert [changed[name] for name in others] == [memory[name] for name in others]
    assert memory[first].slow_at == ()


def test_nothing_is_known_of_who_was_never_scraped() -> None:
    memory, _ = remembered(fleet(pool([replica("x"), replica("y", metrics=None)])), {}, SETTINGS)
    assert [name.rpartition("/")[2] for name in memory] == ["x"]
    assert "m/a/unified/y" not in memory
