"""Do replicas go where capacity is cheapest, within bounds, with what is lost made good where it is lost?"""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from policies.fleet import Phase, PoolKey
from policies.placement import PoolOption, PoolSettings, place
from tests.builders import KEY, OTHER, RATE, a_profile, option, pool, replica

CHEAP, DEAR = KEY, OTHER


def cheap(**changes: Any) -> PoolOption:
    return option(pool(2, CHEAP, usd_per_replica_hour=2.0), **changes)


def dear(**changes: Any) -> PoolOption:
    return option(pool(2, DEAR, usd_per_replica_hour=5.0), **changes)


def placed(needed: float, *options: PoolOption) -> dict[PoolKey, float]:
    reference = min(options, key=lambda o: o.usd_per_request_capacity).capacity
    return dict(place(needed, reference, options)[0])


def rules(needed: float, *options: PoolOption) -> list[str]:
    return [reason.rule for reason in place(needed, options[0].capacity, options)[1]]


def test_the_cheapest_capacity_is_used_first() -> None:
    assert placed(3.4, dear(), cheap()) == {CHEAP: pytest.approx(3.4), DEAR: 0.0}


def test_a_dearer_replica_that_carries_more_can_be_the_cheaper_one() -> None:
    big = option(pool(2, DEAR, usd_per_replica_hour=5.0), rate=4 * RATE)
    assert placed(1.0, cheap(), big) == {CHEAP: 0.0, DEAR: pytest.approx(1.0)}


def test_what_does_not_fit_goes_to_the_next_pool_in_its_own_replicas() -> None:
    big = option(pool(2, DEAR, usd_per_replica_hour=50.0), rate=2 * RATE)
    assert placed(5.0, cheap(most=3), big) == {CHEAP: 3.0, DEAR: pytest.approx(1.0)}


def test_every_pool_keeps_its_minimum_and_the_minimum_carries_load() -> None:
    assert placed(3.0, cheap(), dear(least=2)) == {CHEAP: pytest.approx(1.0), DEAR: 2.0}
    assert placed(0.0, cheap(least=1), dear(least=2)) == {CHEAP: 1.0, DEAR: 2.0}


def test_too_little_room_is_said() -> None:
    assert placed(9.0, cheap(most=2), dear(most=3)) == {CHEAP: 2.0, DEAR: 3.0}
    assert rules(9.0, cheap(most=2), dear(most=3)) == ["out of room"]


def test_a_lost_replica_is_made_good_where_it_was_lost() -> None:
    assert placed(2.0, cheap(lost=1), dear()) == {CHEAP: 3.0, DEAR: 0.0}
    assert rules(2.0, cheap(lost=1), dear()) == ["lost capacity"]


def test_lost_replicas_take_up_room() -> None:
    assert placed(4.0, cheap(most=4, lost=1), dear()) == {CHEAP: 4.0, DEAR: pytest.approx(1.0)}


def test_more_lost_than_the_bounds_allow_stays_within_them() -> None:
    assert placed(2.0, cheap(most=2, lost=5))[CHEAP] == 2.0


def test_a_failing_pool_keeps_what_it_has_and_counts_for_nothing() -> None:
    assert placed(4.0, cheap(failing=True), dear()) == {CHEAP: 2.0, DEAR: pytest.approx(4.0)}
    assert rules(4.0, cheap(failing=True), dear()) == ["failing pool"]


def test_the_minimum_of_a_failing_pool_carries_nothing() -> None:
    assert placed(4.0, cheap(failing=True, least=2), dear()) == {CHEAP: 2.0, DEAR: pytest.approx(4.0)}


def test_what_waits_for_gpus_is_not_counted_on_and_the_next_pool_takes_its_load() -> None:
    held_up = option(pool(3, CHEAP, desired=3, usd_per_replica_hour=2.0), waiting=2)
    assert placed(3.0, held_up, dear()) == {CHEAP: 3.0, DEAR: pytest.approx(2.0)}
    assert rules(3.0, held_up, dear()) == ["waiting for GPUs"]


def test_no_more_waits_for_gpus_than_would_be_of_use() -> None:
    held_up = option(pool(6, CHEAP, desired=6, usd_per_replica_hour=2.0), waiting=4)
    assert placed(3.5, held_up, dear()) == {CHEAP: pytest.approx(3.5), DEAR: pytest.approx(1.5)}
    assert placed(1.5, held_up, dear()) == {CHEAP: pytest.approx(1.5), DEAR: 0.0}


def test_where_no_pool_has_room_more_is_asked_for_than_waits() -> None:
    held_up = option(pool(3, CHEAP, desired=3), waiting=1)
    assert placed(5.0, held_up) == {CHEAP: pytest.approx(5.0)}
    assert rules(5.0, held_up) == ["waiting for GPUs", "out of room"]
    assert placed(9.0, option(pool(3, CHEAP, desired=3), waiting=1, most=6)) == {CHEAP: 6.0}


def test_a_minimum_that_waits_for_gpus_carries_nothing() -> None:
    held_up = option(pool(2, CHEAP, desired=2, usd_per_replica_hour=2.0), least=2, waiting=2)
    assert placed(3.0, held_up, dear()) == {CHEAP: 2.0, DEAR: pytest.approx(3.0)}


def test_pools_without_a_price_compare_by_gpus() -> None:
    small = option(pool(1, CHEAP, usd_per_replica_hour=0.0, gpus_per_replica=4))
    smaller = option(pool(1, DEAR, usd_per_replica_hour=0.0, gpus_per_replica=1))
    assert placed(2.0, small, smaller) == {CHEAP: 0.0, DEAR: 2.0}


def test_the_order_in_which_pools_are_given_does_not_matter() -> None:
    options = (cheap(most=2), dear(least=1, most=9), option(pool(1, PoolKey("m", "c")), most=3))
    assert placed(7.0, *options) == placed(7.0, *reversed(options))


def test_a_profile_can_be_given_by_name_or_whole() -> None:
    assert PoolSettings(profile="llama-3.1-8b-l40s-tp1").profile.gpu == "l40s"
    assert PoolSettings(profile=a_profile()).profile.name == "round"
    with pytest.raises(ValidationError, match="unknown engine profile"):
        PoolSettings(profile="gpt-9-abacus")


def test_impossible_bounds_are_refused() -> None:
    with pytest.raises(ValidationError, match="min_replicas 3 is more than max_replicas 2"):
        PoolSettings(profile=a_profile(), min_replicas=3, max_replicas=2)


def test_replicas_that_do_not_serve_have_no_part_in_the_count() -> None:
    half_dead = option(pool([replica("a0"), replica("a1", Phase.FAILED)], CHEAP))
    assert placed(2.0, half_dead)[CHEAP] == 2.0
