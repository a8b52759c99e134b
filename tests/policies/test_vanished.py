"""Is a pool that is not listed remembered for as long as it may only have been left out?"""

from __future__ import annotations

from policies.fleet import FleetState
from policies.memory import ModelMemory, PolicyMemory, PoolMemory
from policies.vanished import vanished
from tests.builders import AT, KEY, MODEL, OTHER, fleet, pool

MEMORY = PolicyMemory(
    pools={str(KEY): PoolMemory(listed_at=AT - 15.0), str(OTHER): PoolMemory(listed_at=AT - 300.0)},
    models={MODEL: ModelMemory(0.1)},
)


def test_nothing_is_missing_when_all_is_listed() -> None:
    gone = vanished(fleet(pool(1, KEY), pool(1, OTHER)), MEMORY, 300.0)
    assert (gone.pools, gone.models, gone.reasons, gone.incomplete) == ({}, {}, (), frozenset())


def test_a_pool_that_is_not_listed_makes_its_model_incomplete() -> None:
    gone = vanished(fleet(pool(1, KEY)), MEMORY, 300.0)
    assert (set(gone.pools), gone.incomplete, gone.models) == ({str(OTHER)}, {MODEL}, {})
    assert [(reason.rule, reason.subject) for reason in gone.reasons] == [("vanished", str(OTHER))]


def test_a_pool_that_stays_away_is_forgotten() -> None:
    assert vanished(fleet(pool(1, KEY)), MEMORY, 299.0).pools == {}


def test_an_empty_list_takes_no_memory_away() -> None:
    gone = vanished(FleetState(AT, ()), MEMORY, 300.0)
    assert (gone.pools, gone.models) == (MEMORY.pools, MEMORY.models)
    assert [reason.rule for reason in gone.reasons] == ["vanished", "vanished", "empty fleet"]


def test_a_pool_of_unknown_age_is_counted_from_now() -> None:
    gone = vanished(FleetState(AT, ()), PolicyMemory(pools={str(KEY): PoolMemory()}), 300.0)
    assert gone.pools == {str(KEY): PoolMemory(listed_at=AT)}
