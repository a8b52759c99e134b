"""Do outlook, need, placement, stabilization and bounds come together as one count per pool?"""

from __future__ import annotations

from dataclasses import replace

import pytest

from forecasting.forecast import Trust
from policies.capacity import CapacitySettings
from policies.fleet import Demand, Phase
from policies.memory import PoolMemory
from policies.placement import PoolOption
from policies.scaling import Need, ScalingSettings
from policies.sizing import Outlook, hold, look_ahead, needed_by, pool_options, size
from policies.slo import ServiceObjective
from tests.builders import (
    AT,
    KEY,
    MODEL,
    OTHER,
    RATE,
    demand,
    fleet,
    forecast,
    metrics,
    option,
    pool,
    pool_settings,
    replica,
    settings,
)

SETTINGS = settings(KEY, OTHER)
FRESH = {str(KEY): PoolMemory(), str(OTHER): PoolMemory()}
LOW = {key: PoolMemory(targets=((AT - 500.0, 0), (AT - 60.0, 0))) for key in FRESH}


def test_without_a_forecast_the_present_is_the_outlook() -> None:
    assert look_ahead(None, demand(), AT, 60.0, SETTINGS) == Outlook(demand(), None, None, 60.0, "")


def test_the_outlook_reaches_one_tick_beyond_the_lead_time() -> None:
    ahead = look_ahead(forecast(10.0, spread=1.0), demand(), AT, 60.0, SETTINGS)
    assert ahead.coming == ahead.peak == demand(12.0)  # level 0.9, two levels above the median
    assert (ahead.shape, ahead.source, ahead.lead_time_s) == (demand(10.0), "flat 1", 60.0)


def test_prefix_caches_go_on_hitting_as_they_do() -> None:
    warm = replace(demand(), cached_prompt_ratio=0.7)
    shape = look_ahead(forecast(10.0), warm, AT, 60.0, SETTINGS).shape
    assert shape is not None
    assert shape.cached_prompt_ratio == 0.7


@pytest.mark.parametrize("shape", [None, Demand(0.0, 0.0, 0.0)])
def test_lengths_that_nobody_has_seen_are_assumed(shape: Demand | None) -> None:
    (only,) = pool_options(((pool(1), pool_settings()),), ServiceObjective(), shape, {}, CapacitySettings())
    assert only.capacity.demand.requests_per_s == pytest.approx(RATE)


def test_an_option_knows_what_is_lost_and_its_own_load_test() -> None:
    tested = pool_settings().model_copy(update={"efficiency_ratio": None})
    assumed = CapacitySettings(efficiency_ratio=0.5)
    (only,) = pool_options(((pool(1), tested),), ServiceObjective(), demand(), {str(KEY): 2}, assumed)
    assert (only.lost, only.capacity.demand.requests_per_s) == (2, pytest.approx(RATE / 2))


def needed(outlook: Outlook, requests_per_s: float = 8.0, margin: float = 0.0, headroom: float = 0.0) -> Need:
    given = settings(scaling=ScalingSettings(headroom_ratio=headroom / 2.0, unforecast_headroom_ratio=headroom))
    return needed_by(fleet(requests_per_s=requests_per_s), MODEL, outlook, [option()], margin, given)[0]


def outlook(coming: float, peak: float) -> Outlook:
    return Outlook(demand(), demand(coming), demand(peak), 60.0, "flat 1")


def test_without_a_forecast_there_is_headroom_to_grow_into() -> None:
    nothing = Outlook(demand(), None, None, 60.0, "")
    assert needed(nothing, headroom=0.3) == Need(2.0, pytest.approx(2.6), pytest.approx(2.6), forecast=False)
    assert needed(nothing, margin=0.1, headroom=0.3).grow_to == pytest.approx(2.8)


def test_a_backlog_that_those_on_their_way_will_clear_gets_no_headroom_on_top() -> None:
    """Else each tick would ask for a share more than the last, up to the most that there may be."""
    given = settings(scaling=ScalingSettings(unforecast_headroom_ratio=0.3))
    serving = [replica(f"a{i}", metrics=metrics(queued_requests=50.0)) for i in range(3)]
    starting = [replica(f"s{i}", Phase.LOADING, requested_at=AT - 30.0) for i in range(9)]
    state = fleet(pool([*serving, *starting]))
    need, why = needed_by(state, MODEL, Outlook(demand(), None, None, 60.0, ""), [option()], 0.0, given)
    assert (need.grow_to, "backlog" in {reason.rule for reason in why}) == (12.0, True)


def test_with_a_forecast_growth_follows_what_comes_and_keeping_the_peak() -> None:
    assert needed(outlook(12.0, 20.0)) == Need(2.0, 3.0, 5.0, forecast=True)


def test_what_is_forecast_gets_its_own_headroom() -> None:
    assert needed(outlook(12.0, 20.0), headroom=0.2) == Need(2.0, pytest.approx(3.3), pytest.approx(5.5), forecast=True)


def test_the_present_is_a_floor_under_both() -> None:
    assert needed(outlook(1.0, 2.0)) == Need(2.0, 2.0, 2.0, forecast=True)


def test_the_margin_is_for_what_is_forecast() -> None:
    assert needed(outlook(12.0, 20.0), margin=0.5).grow_to == pytest.approx(4.5)


def test_a_forecast_that_is_a_floor_adds_replicas_and_gives_none_up() -> None:
    """Never less than without it, and as slow to shrink as without it."""
    floor = {"trust": Trust.FLOOR, "trust_reason": "it lost 5 % more than the last value"}
    low, high = (replace(outlook(rate, rate), **floor) for rate in (1.0, 20.0))
    assert needed(low, headroom=0.3) == Need(2.0, pytest.approx(2.6), pytest.approx(2.6), forecast=False)
    assert needed(high) == Need(2.0, 5.0, 5.0, forecast=False)
    given = settings()
    _, why = needed_by(fleet(requests_per_s=8.0), MODEL, low, [option()], 0.0, given)
    assert [reason.rule for reason in why] == ["predictive target", "forecast is a floor"]
    assert why[0].detail.endswith("it lost 5 % more than the last value")


def test_a_forecast_gone_mad_is_capped() -> None:
    assert needed(outlook(4e6, 4e9)) == Need(2.0, 9.0, 9.0, forecast=True)  # three replicas serve


def sized(need: Need, *options: PoolOption, why_not: str = "", memory: dict[str, PoolMemory] = LOW) -> list[int]:
    found = size(AT, need, options, why_not, memory, SETTINGS)
    return [found.desired[o.state.key] for o in options]


def need(grow_to: float, keep: float | None = None) -> Need:
    return Need(0.0, grow_to, grow_to if keep is None else keep, forecast=True)


def test_what_lies_between_both_needs_stays() -> None:
    assert sized(need(3.0, 6.0), option(pool(4))) == [4]
    assert sized(need(3.0, 6.0), option(pool(1))) == [3]
    assert sized(need(3.0, 5.5), option(pool(9))) == [6]


def test_growth_that_is_hardly_more_waits_and_says_so() -> None:
    found = size(AT, need(20.9, 30.0), [option(pool(20))], "", LOW, SETTINGS)
    assert found.desired[KEY] == 20
    assert [(r.rule, r.before, r.after) for r in found.reasons] == [("growth tolerance", 20.9, 20.0)]
    assert sized(need(21.1, 30.0), option(pool(20))) == [22]


def test_lost_replicas_are_no_capacity_to_keep() -> None:
    assert sized(need(3.0, 6.0), option(pool(3), lost=1)) == [4]


def test_a_failing_pool_is_no_capacity_to_keep() -> None:
    failing, other = option(pool(4, KEY), failing=True), option(pool(1, OTHER))
    assert sized(need(3.0, 6.0), failing, other) == [4, 3]


def test_a_reason_not_to_shrink_holds_and_does_not_hold_up_growth() -> None:
    assert sized(need(1.0), option(pool(6)), why_not="too many look sick") == [6]
    assert sized(need(8.0), option(pool(6)), why_not="too many look sick") == [8]


def test_bounds_hold_even_when_nothing_may_shrink() -> None:
    assert sized(need(1.0), option(pool(6), most=4), why_not="blind") == [4]


def test_no_pool_gives_up_what_serves_while_another_still_starts() -> None:
    starting = pool([replica("n", Phase.LOADING, requested_at=AT - 30.0)], KEY)
    assert sized(need(1.0), option(starting), option(pool(4, OTHER))) == [1, 4]
    ready = pool([replica("n")], KEY)
    assert sized(need(1.0), option(ready), option(pool(4, OTHER))) == [1, 2]  # half of 4 per minute


def held(*options: PoolOption, queued: float = 0.0) -> list[int]:
    state = fleet(*(o.state for o in options), requests_per_s=None, gateway_queued={MODEL: queued})
    found = hold(state, MODEL, options, "blind", FRESH, SETTINGS)
    assert {reason.rule for reason in found.reasons} <= {"blind", "bounds", "rate limit"}
    return [found.desired[o.state.key] for o in options]


def test_holding_keeps_every_count_within_its_bounds() -> None:
    assert held(option(pool(3)), option(pool(2, OTHER))) == [3, 2]
    assert held(option(pool(3), least=4)) == [4]
    assert held(option(pool(3), most=2)) == [2]


def test_holding_wakes_one_replica_of_the_cheapest_pool_for_those_who_wait() -> None:
    dear = option(pool(0, OTHER, usd_per_replica_hour=9.0))
    assert held(option(pool(0)), dear, queued=3.0) == [1, 0]
    assert held(option(pool(0)), dear) == [0, 0]
    assert held(option(pool(0)), option(pool(1, OTHER)), queued=3.0) == [0, 1]
