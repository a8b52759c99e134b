"""Does traffic follow what is ready, in bounded steps, and never to where nothing serves?"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pytest

from policies.fleet import Phase, PoolKey
from policies.placement import PoolOption
from policies.traffic import TrafficSettings, ready_headroom, weigh
from tests.builders import AT, KEY, MODEL, OTHER, RATE, fleet, option, pool, replica

SETTINGS = TrafficSettings(slow_start_s=60.0, slow_start_floor_ratio=0.3, max_step_ratio=0.2, min_change_ratio=0.02)
THIRD = PoolKey(MODEL, "c")


def one(key: PoolKey, serving: int, weight: float, **changes: Any) -> PoolOption:
    return option(pool(serving, key, weight=weight), **changes)


def weighed(*options: PoolOption, hold: bool = False) -> Mapping[PoolKey, float]:
    state = fleet(*(o.state for o in options))
    return weigh(state, MODEL, options, SETTINGS, hold=hold)[0]


def test_weights_follow_headroom_and_not_counts() -> None:
    weak, strong = one(KEY, 4, 0.4, rate=1.0), one(OTHER, 2, 0.6, rate=3.0)
    assert weighed(weak, strong) == {KEY: pytest.approx(0.4), OTHER: pytest.approx(0.6)}


def test_a_large_move_is_made_in_bounded_steps() -> None:
    shares = {KEY: 1.0, OTHER: 0.0}
    seen = []
    for _ in range(5):
        shares = dict(weighed(one(KEY, 2, shares[KEY]), one(OTHER, 6, shares[OTHER])))
        seen.append(round(shares[OTHER], 3))
    assert seen == [0.2, 0.4, 0.6, 0.75, 0.75]


def test_no_pool_moves_further_than_a_step_when_three_pools_move() -> None:
    before = {KEY: 0.6, OTHER: 0.2, THIRD: 0.2}
    after = weighed(one(KEY, 2, 0.6), one(OTHER, 5, 0.2), one(THIRD, 3, 0.2))
    assert max(abs(after[key] - before[key]) for key in before) == pytest.approx(0.2)
    assert sum(after.values()) == pytest.approx(1.0)


def test_a_pool_without_a_serving_replica_gets_nothing_at_once() -> None:
    dead = option(pool([replica("a0", Phase.FAILED), replica("a1", cordoned=True)], KEY, weight=0.9))
    assert weighed(dead, one(OTHER, 1, 0.1)) == {KEY: 0.0, OTHER: 1.0}


def test_a_pool_given_up_gets_nothing_though_it_serves() -> None:
    assert weighed(one(KEY, 1, 0.5, failing=True), one(OTHER, 3, 0.5)) == {KEY: 0.0, OTHER: 1.0}


def test_where_nothing_serves_the_weights_stay() -> None:
    dead = [option(pool([replica(k.pool, Phase.FAILED)], k, weight=w)) for k, w in ((KEY, 0.3), (OTHER, 0.7))]
    assert weighed(*dead) == {KEY: 0.3, OTHER: 0.7}


def test_first_weights_are_set_at_once() -> None:
    assert weighed(one(KEY, 3, 0.0), one(OTHER, 1, 0.0)) == {KEY: 0.75, OTHER: 0.25}
    assert weighed(one(KEY, 3, 0.0)) == {KEY: 1.0}


def test_small_changes_are_not_worth_a_write() -> None:
    before = {KEY: 0.51, OTHER: 0.49}
    state = fleet(*(o.state for o in (one(KEY, 2, 0.51), one(OTHER, 2, 0.49))))
    assert weigh(state, MODEL, (one(KEY, 2, 0.51), one(OTHER, 2, 0.49)), SETTINGS) == (before, ())


def test_weights_that_do_not_sum_to_one_are_put_right() -> None:
    after = weighed(one(KEY, 2, 0.2), one(OTHER, 2, 0.2))
    assert after == {KEY: pytest.approx(0.5), OTHER: pytest.approx(0.5)}


def test_holding_moves_nothing_but_what_is_dead() -> None:
    assert weighed(one(KEY, 1, 0.8), one(OTHER, 9, 0.2), hold=True) == {KEY: 0.8, OTHER: 0.2}
    dead = option(pool([replica("a0", Phase.FAILED)], KEY, weight=0.8))
    assert weighed(dead, one(OTHER, 9, 0.2), hold=True) == {KEY: 0.0, OTHER: 1.0}


def test_a_pool_that_is_not_ours_keeps_its_share() -> None:
    mine = (one(KEY, 2, 0.5), one(OTHER, 2, 0.1))
    state = fleet(*(o.state for o in mine), pool(1, THIRD, weight=0.4))
    after = weigh(state, MODEL, mine, SETTINGS)[0]
    assert after == {KEY: pytest.approx(0.3), OTHER: pytest.approx(0.3), THIRD: 0.4}


def test_a_strange_pool_with_all_traffic_leaves_nothing_to_share() -> None:
    mine = (one(KEY, 2, 0.0),)
    state = fleet(mine[0].state, pool(1, THIRD, weight=1.0))
    assert weigh(state, MODEL, mine, SETTINGS)[0] == {KEY: 0.0, THIRD: 1.0}


def test_first_weights_are_left_to_others_where_a_pool_is_not_ours() -> None:
    mine = (one(KEY, 2, 0.0),)
    state = fleet(mine[0].state, pool(1, THIRD, weight=0.0))
    assert weigh(state, MODEL, mine, SETTINGS) == ({KEY: 0.0, THIRD: 0.0}, ())


@pytest.mark.parametrize("shares", [(math.nan, math.nan), (1.0, math.nan)])
def test_shares_that_cannot_be_read_are_not_written(shares: tuple[float, float]) -> None:
    options = (one(KEY, 6, shares[0]), one(OTHER, 2, shares[1]))
    after, reasons = weigh(fleet(*(o.state for o in options)), MODEL, options, SETTINGS)
    assert ([str(weight) for weight in after.values()], reasons) == ([str(share) for share in shares], ())


@pytest.mark.parametrize(("age_s", "share"), [(0.0, 0.3), (30.0, 0.65), (60.0, 1.0), (9e9, 1.0), (-5.0, 0.3)])
def test_a_ready_replica_grows_to_its_share(age_s: float, share: float) -> None:
    young = option(pool([replica("a0", since_at=AT - age_s)]))
    assert ready_headroom(young, AT, SETTINGS) == pytest.approx(share * RATE)


def test_without_slow_start_a_replica_counts_in_full() -> None:
    young = option(pool([replica("a0", since_at=AT)]))
    assert ready_headroom(young, AT, TrafficSettings(slow_start_s=0.0)) == RATE


def test_every_pool_that_moves_has_its_reason() -> None:
    options = (one(KEY, 2, 1.0), one(OTHER, 2, 0.0))
    reasons = weigh(fleet(*(o.state for o in options)), MODEL, options, SETTINGS)[1]
    assert [(r.subject, r.before, r.after) for r in reasons] == [(str(KEY), 1.0, 0.8), (str(OTHER), 0.0, 0.2)]
