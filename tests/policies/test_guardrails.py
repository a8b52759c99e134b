"""Do the limits hold whatever the rules say?"""

from __future__ import annotations

import math

import pytest

from policies.fleet import Phase, PoolKey, PoolState
from policies.guardrails import (
    GuardrailSettings,
    blind_spot,
    bound,
    cap_prediction,
    remember_desired,
    spend_within,
)
from policies.memory import PoolMemory
from tests.builders import AT, KEY, MODEL, OTHER, fleet, metrics, pool, pool_settings, replica

SETTINGS = GuardrailSettings()


def bounded(count: int, has: int = 4, memory: PoolMemory | None = None, least: int = 0, most: int = 64) -> int:
    return bound(count, pool(has), pool_settings(least, most), memory or PoolMemory(), AT, SETTINGS)[0]


def test_a_forecast_may_ask_for_a_multiple_of_the_present_and_no_more() -> None:
    assert cap_prediction(6.0, 2.0, 1, MODEL, SETTINGS) == (6.0, ())
    capped, why = cap_prediction(600.0, 2.0, 1, MODEL, SETTINGS)
    assert (capped, why[0].rule) == (6.0, "predictive cap")
    assert cap_prediction(600.0, 2.0, 5, MODEL, SETTINGS)[0] == 15.0


def test_a_forecast_may_wake_an_idle_fleet() -> None:
    assert cap_prediction(2.0, 0.0, 0, MODEL, SETTINGS)[0] == 2.0


def test_growth_is_limited_to_doubling_or_four_more_per_quarter_minute() -> None:
    assert bounded(20, has=2) == 6
    assert bounded(20, has=7) == 14


def test_shrinking_is_limited_to_half_per_minute() -> None:
    assert bounded(1, has=10) == 5
    assert bounded(0, has=1) == 0


def test_the_limits_span_the_window_and_not_the_tick() -> None:
    grown = PoolMemory(desired=((AT - 16.0, 1), (AT - 10.0, 4), (AT - 5.0, 8)))
    assert bounded(20, has=8, memory=grown) == 8  # 4 ten seconds ago: 8 is as far as this quarter of a minute goes
    early = PoolMemory(desired=((AT - 29.9, 1), (AT - 14.9, 8)))
    assert bounded(20, has=8, memory=early) == 16  # a tick that comes a little early is the next tick
    shrunk = PoolMemory(desired=((AT - 30.0, 8), (AT - 15.0, 4)))
    assert bounded(1, has=4, memory=shrunk) == 4


def test_a_limit_never_forces_a_change() -> None:
    jumped = PoolMemory(desired=((AT - 30.0, 1),))
    assert bounded(20, has=20, memory=jumped) == 20
    fell = PoolMemory(desired=((AT - 30.0, 40),))
    assert bounded(2, has=2, memory=fell) == 2


def test_bounds_win_over_rate_limits() -> None:
    assert bounded(4, has=40, most=10) == 10
    assert bounded(1, has=1, least=30) == 30


def test_each_limit_leaves_its_reason() -> None:
    reasons = bound(50, pool(2), pool_settings(0, 5), PoolMemory(), AT, SETTINGS)[1]
    assert [reason.rule for reason in reasons] == ["rate limit", "bounds"]


@pytest.mark.parametrize("count", [0, 1, 3, 4, 7, 20, 100])
def test_bounding_twice_changes_nothing(count: int) -> None:
    once = bounded(count, has=4, least=2, most=9)
    assert bounded(once, has=4, least=2, most=9) == once


def test_load_that_is_not_observed_is_a_blind_spot() -> None:
    assert "not observed" in blind_spot(fleet(requests_per_s=None), MODEL, SETTINGS)


def test_idle_is_no_blind_spot() -> None:
    assert blind_spot(fleet(requests_per_s=0.0), MODEL, SETTINGS) == ""


@pytest.mark.parametrize(
    ("ages_s", "blind"),
    [
        ((0, 0, 0), False),
        ((0, 0, 61), False),
        ((0, 61, 61), True),
        ((math.nan, math.nan, 0), True),
        ((60, 60, 60), False),
    ],
)
def test_too_few_reporting_replicas_are_a_blind_spot(ages_s: tuple[float, ...], blind: bool) -> None:
    replicas = [replica(f"a{i}", metrics=metrics(AT - age_s)) for i, age_s in enumerate(ages_s)]
    assert bool(blind_spot(fleet(pool(replicas)), MODEL, SETTINGS)) is blind


def test_a_model_of_whose_replicas_none_is_listed_is_a_blind_spot() -> None:
    unlisted = pool(0, KEY, desired=8)
    assert "none of its 8 replicas is listed" in blind_spot(fleet(unlisted), MODEL, SETTINGS)
    assert blind_spot(fleet(unlisted, pool(1, OTHER)), MODEL, SETTINGS) == ""


def test_a_fleet_from_which_no_report_is_expected_is_not_blind() -> None:
    assert blind_spot(fleet(pool(0)), MODEL, SETTINGS) == ""


def spent(wanted: dict[PoolKey, int], **budget: float) -> dict[PoolKey, int]:
    """Two pools of two replicas: 2 GPUs and 2 dollars each, 4 GPUs and 8 dollars each."""
    pools = (pool(2, KEY), pool(2, OTHER, gpus_per_replica=4, usd_per_replica_hour=8.0))
    return dict(spend_within(wanted, pools, GuardrailSettings(**budget))[0])  # type: ignore[arg-type]


def test_without_a_budget_everything_passes() -> None:
    assert spent({KEY: 50, OTHER: 50}) == {KEY: 50, OTHER: 50}


def test_the_dearest_growth_is_taken_back_first() -> None:
    assert spent({KEY: 5, OTHER: 4}, gpu_budget=20) == {KEY: 5, OTHER: 2}
    assert spent({KEY: 5, OTHER: 4}, gpu_budget=24) == {KEY: 5, OTHER: 3}
    assert spent({KEY: 5, OTHER: 4}, usd_per_hour_budget=22.0) == {KEY: 3, OTHER: 2}


def test_a_budget_cut_below_what_runs_stops_growth_only() -> None:
    assert spent({KEY: 5, OTHER: 2}, gpu_budget=1) == {KEY: 2, OTHER: 2}


def test_shrinking_makes_room_for_growth_elsewhere() -> None:
    assert spent({KEY: 6, OTHER: 0}, gpu_budget=12) == {KEY: 6, OTHER: 0}


def test_pools_that_are_not_ours_use_the_budget_too() -> None:
    assert spent({KEY: 9}, gpu_budget=14) == {KEY: 3}


def waiting_for_gpus(count: int, here: int = 2) -> PoolState:
    waiting = [replica(f"w{number}", Phase.PENDING, requested_at=AT - 900.0) for number in range(count)]
    return pool([*pool(here).replicas, *waiting], KEY)


def test_a_wish_that_waits_for_gpus_costs_nothing_and_yet_holds_its_part_of_the_budget() -> None:
    """When GPUs come back it is placed without another word: 2 + 3 replicas of 2 GPUs and one of 4 would be 14."""
    pools = (waiting_for_gpus(3), pool(0, OTHER, gpus_per_replica=4))
    within, why = spend_within({KEY: 5, OTHER: 1}, pools, GuardrailSettings(gpu_budget=13))
    assert (dict(within), [r.rule for r in why]) == ({KEY: 5, OTHER: 0}, ["GPU budget"])


def test_a_wish_that_waits_in_vain_is_given_up_for_growth_where_there_are_gpus() -> None:
    pools, settings = (waiting_for_gpus(3), pool(0, OTHER, gpus_per_replica=4)), GuardrailSettings(gpu_budget=13)
    within, why = spend_within({KEY: 5, OTHER: 1}, pools, settings, {KEY: 3})
    assert (dict(within), [r.subject for r in why]) == ({KEY: 4, OTHER: 1}, [str(KEY)])
    more = spend_within({KEY: 5, OTHER: 9}, pools, settings, {KEY: 3})[0]
    assert dict(more) == {KEY: 2, OTHER: 2}  # what runs stays, and 4 + 2 x 4 is within 13
    assert dict(spend_within({KEY: 7, OTHER: 0}, pools, settings, {KEY: 3})[0]) == {KEY: 6, OTHER: 0}
    assert dict(spend_within({KEY: 5, OTHER: 1}, pools, GuardrailSettings(gpu_budget=14), {KEY: 3})[0]) == {
        KEY: 5,
        OTHER: 1,
    }


def test_both_budgets_hold_together_and_say_so() -> None:
    pools = (pool(1, KEY),)
    within, why = spend_within({KEY: 9}, pools, GuardrailSettings(gpu_budget=10, usd_per_hour_budget=6.0))
    assert (dict(within), [r.rule for r in why]) == ({KEY: 3}, ["GPU budget", "money budget"])


def test_spending_twice_changes_nothing() -> None:
    once = spent({KEY: 9, OTHER: 7}, gpu_budget=23, usd_per_hour_budget=40.0)
    assert spent(once, gpu_budget=23, usd_per_hour_budget=40.0) == once


def test_free_replicas_are_not_taken_back() -> None:
    free = pool(1, KEY, usd_per_replica_hour=0.0)
    assert dict(spend_within({KEY: 5}, (free,), GuardrailSettings(usd_per_hour_budget=0.0))[0]) == {KEY: 5}


def test_counts_are_remembered_for_the_rate_window_and_its_opening() -> None:
    memory = PoolMemory(desired=((AT - 90.0, 9), (AT - 60.0, 1), (AT - 59.0, 2)))
    assert remember_desired(memory, pool(2), 3, AT, SETTINGS).desired == ((AT - 60.0, 1), (AT - 59.0, 2), (AT, 3))


def test_before_the_first_count_what_the_pool_had_is_remembered() -> None:
    assert remember_desired(PoolMemory(), pool(2), 3, AT, SETTINGS).desired == ((AT, 2), (AT, 3))
