"""Is a pool given up when it fails, only where its traffic has a better place, and taken back without flapping?"""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from policies.failover import Failover, FailoverSettings, fail_over
from policies.fleet import Phase, PoolState
from policies.memory import PoolMemory
from policies.traffic import TrafficSettings
from tests.builders import AT, KEY, MODEL, OTHER, fleet, option, pool, replica

SETTINGS = FailoverSettings(serving_ratio=0.5, return_after_s=60.0)
FRESH: Mapping[str, PoolMemory] = {str(KEY): PoolMemory(), str(OTHER): PoolMemory()}


def some(ready: int, failed: int = 0, loading: int = 0, weight: float = 0.5, desired: int | None = None) -> PoolState:
    replicas = (
        [replica(f"r{i}") for i in range(ready)]
        + [replica(f"f{i}", Phase.FAILED) for i in range(failed)]
        + [replica(f"l{i}", Phase.LOADING) for i in range(loading)]
    )
    return pool(replicas, KEY, weight=weight, desired=desired)


def judge(
    origin: PoolState,
    *others: PoolState,
    memory: Mapping[str, PoolMemory] = FRESH,
    at: float = AT,
    requests_per_s: float | None = 8.0,
) -> Failover:
    state = fleet(origin, *others, at=at, requests_per_s=requests_per_s)
    return fail_over(state, MODEL, [option(p) for p in state.pools], memory, SETTINGS, TrafficSettings())


def failing(result: Failover) -> set[str]:
    return {o.state.key.pool for o in result.options if o.failing}


SPARE = pool(3, OTHER, weight=0.5)


def test_a_pool_that_lost_everything_fails_over() -> None:
    result = judge(some(0, failed=3), SPARE)
    assert failing(result) == {"a"}
    assert [(m.origin, m.destination) for m in result.moves] == [(KEY, OTHER)]
    assert result.memory[str(KEY)].unsound_at == AT


def test_it_does_so_even_when_the_other_is_too_small() -> None:
    assert failing(judge(some(0, failed=3), SPARE, requests_per_s=500.0)) == {"a"}


def test_without_another_that_serves_nothing_is_given_up() -> None:
    result = judge(some(0, failed=3))
    assert (failing(result), result.moves, result.reasons) == (set(), (), ())
    both = judge(some(0, failed=3), pool([replica("b0", Phase.FAILED)], OTHER, weight=0.5))
    assert (failing(both), {r.rule for r in both.reasons}) == (set(), {"no failover"})


def test_a_half_dead_pool_is_given_up_when_the_others_can_carry_everything() -> None:
    assert failing(judge(some(1, failed=3), SPARE, requests_per_s=12.0)) == {"a"}


def test_half_a_pool_is_better_than_an_overloaded_one() -> None:
    result = judge(some(1, failed=3), SPARE, requests_per_s=12.1)
    assert failing(result) == set()
    assert [r.rule for r in result.reasons] == ["no failover"]


def test_a_pool_at_half_strength_is_not_given_up() -> None:
    assert failing(judge(some(2, failed=2), SPARE)) == set()


def test_a_growing_pool_has_not_failed() -> None:
    assert failing(judge(some(1, loading=5), SPARE)) == set()


def test_a_new_pool_that_has_no_traffic_yet_has_not_failed() -> None:
    result = judge(some(0, loading=4, weight=0.0), SPARE)
    assert (failing(result), result.memory[str(KEY)].unsound_at) == (set(), None)


def test_a_pool_scaled_to_zero_has_not_failed() -> None:
    assert failing(judge(some(0, weight=0.0), SPARE)) == set()


def test_replicas_that_the_platform_has_not_made_yet_are_not_expected() -> None:
    assert failing(judge(some(2, desired=8), SPARE)) == set()


def test_a_pool_whose_replicas_all_vanished_fails_over() -> None:
    assert failing(judge(some(0, desired=3), SPARE)) == {"a"}


def test_two_half_dead_pools_are_not_both_given_up() -> None:
    other = pool([replica("b0"), *(replica(f"b{i}", Phase.FAILED) for i in range(1, 4))], OTHER, weight=0.5)
    assert len(failing(judge(some(1, failed=3), other, requests_per_s=1.0))) == 1


def given_up(seconds_ago: float) -> dict[str, PoolMemory]:
    return {str(KEY): PoolMemory(unsound_at=AT - seconds_ago), str(OTHER): PoolMemory()}


def test_the_move_is_announced_once_and_the_pool_stays_given_up() -> None:
    result = judge(some(0, failed=3, weight=0.0), SPARE, memory=given_up(15.0))
    assert (failing(result), result.moves) == ({"a"}, ())
    assert result.memory[str(KEY)].unsound_at == AT


@pytest.mark.parametrize(("sound_for_s", "back"), [(15.0, False), (59.0, False), (60.0, True)])
def test_traffic_returns_after_a_quiet_time(sound_for_s: float, back: bool) -> None:
    result = judge(some(3, weight=0.0), SPARE, memory=given_up(sound_for_s))
    assert (failing(result) == set()) is back
    assert ("fail back" in {r.rule for r in result.reasons}) is back


def test_a_flapping_pool_starts_its_quiet_time_anew() -> None:
    memory = judge(some(1, failed=3, weight=0.0), SPARE, memory=given_up(59.0)).memory
    assert memory[str(KEY)].unsound_at == AT
    again = judge(some(3, weight=0.0), SPARE, memory=memory, at=AT + 59.0)
    assert failing(again) == {"a"}


def test_a_pool_is_taken_back_early_when_the_others_cannot_carry_the_load() -> None:
    assert failing(judge(some(3, weight=0.0), SPARE, memory=given_up(15.0), requests_per_s=50.0)) == set()


def test_missing_demand_neither_gives_up_nor_takes_back() -> None:
    assert failing(judge(some(1, failed=3), SPARE, requests_per_s=None)) == set()
    kept = judge(some(1, failed=3, weight=0.0), SPARE, memory=given_up(15.0), requests_per_s=None)
    assert failing(kept) == {"a"}


def test_the_roomiest_other_is_named() -> None:
    small = pool(1, OTHER.__class__(MODEL, "c"), weight=0.0)
    result = judge(some(0, failed=1), SPARE, small, memory={**FRESH, str(small.key): PoolMemory()})
    assert result.moves[0].destination == OTHER
