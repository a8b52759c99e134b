"""Is what is coming, and what already burns, turned into the right need?"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from forecasting.forecast import LoadForecast
from policies.fleet import FleetState, Phase, PoolState
from policies.memory import ModelMemory
from policies.scaling import (
    Need,
    ScalingSettings,
    clearing,
    coming_demand,
    peak_demand,
    reactive_replicas,
    steer_margin,
)
from policies.slo import ServiceObjective
from tests.builders import (
    AT,
    KEY,
    MODEL,
    OTHER,
    RATE,
    carrying,
    demand,
    fleet,
    forecast,
    metrics,
    pool,
    replica,
    service,
)

SETTINGS = ScalingSettings()
OBJECTIVE = ServiceObjective()
ONE = carrying(demand(RATE))
LEAD_S = 60.0


def wanted(state: FleetState) -> tuple[float, set[str]]:
    answer, reasons = reactive_replicas(state, MODEL, ONE, OBJECTIVE, LEAD_S, SETTINGS)
    return answer, {reason.rule for reason in reasons}


def reporting(count: int = 3, **changes: Any) -> PoolState:
    return pool([replica(f"a{number}", metrics=metrics(**changes)) for number in range(count)])


def test_the_covered_level_is_the_newsvendor_quantile() -> None:
    assert ScalingSettings(missed_to_idle_cost_ratio=9.0).level == pytest.approx(0.9)
    assert ScalingSettings(missed_to_idle_cost_ratio=1.0).level == pytest.approx(0.5)


def rising() -> LoadForecast:
    """Two, six, then three requests/s, a minute each, the same at every level."""
    values = np.array([2.0, 6.0, 3.0])[None, :, None] * np.array([1.0, 1000.0, 200.0]) * np.ones((2, 1, 1))
    return LoadForecast.ordered(AT, 60.0, np.array([0.5, 0.9]), values, "rising 1")


def test_the_peak_is_the_largest_load_on_the_way_at_the_level() -> None:
    ahead = peak_demand(forecast(10.0, spread=1.0), 0.9, AT + 300.0)
    assert (ahead.requests_per_s, ahead.prompt_tokens_per_s) == (pytest.approx(12.0), pytest.approx(12_000.0))
    assert peak_demand(rising(), 0.9, AT + 180.0).requests_per_s == 6.0


@pytest.mark.parametrize(("after_s", "rate"), [(0.0, 2.0), (59.0, 2.0), (60.0, 6.0), (150.0, 3.0), (9000.0, 3.0)])
def test_what_is_coming_is_the_step_that_holds_the_instant(after_s: float, rate: float) -> None:
    assert coming_demand(rising(), 0.9, AT + after_s).requests_per_s == rate


def test_a_need_leaves_alone_what_lies_between() -> None:
    need = Need(now=1.0, grow_to=3.0, keep=5.0, forecast=True)
    assert [need.settled(have) for have in (1.0, 4.0, 9.0)] == [3.0, 4.0, 5.0]


@pytest.mark.parametrize(("now", "have", "wanted"), [(8.0, 9.7, 9.7), (8.0, 9.6, 10.4), (10.1, 9.7, 10.1)])
def test_a_forecast_a_little_above_what_there_is_starts_nothing_but_a_present_need_does(
    now: float, have: float, wanted: float
) -> None:
    assert Need(now, grow_to=10.4, keep=12.0, forecast=True).settled(have, 0.08) == wanted


def test_a_window_with_starting_replicas_teaches_nothing_about_capacity() -> None:
    young = pool([replica("a0"), replica("a1", phase=Phase.LOADING)])
    state = fleet(young, at=AT + 300.0, service={MODEL: service(0.5)})
    assert steer_margin(ModelMemory(0.1, AT), state, MODEL, OBJECTIVE, SETTINGS)[0] == ModelMemory(0.1, AT + 300.0)


def test_a_burning_budget_adds_one_to_what_smaller_replicas_are_worth() -> None:
    smaller = [replica(f"b{number}", metrics=metrics(running_requests=36.0)) for number in range(2)]
    burning = fleet(reporting(1, running_requests=36.0), pool(smaller, OTHER), service={MODEL: service(0.95)})
    answer, _ = reactive_replicas(burning, MODEL, ONE, OBJECTIVE, LEAD_S, SETTINGS, {OTHER: 0.5})
    assert answer == 3.0  # one and two halves serve


def test_a_burning_budget_waits_for_what_is_already_starting() -> None:
    members = [replica(f"a{number}", metrics=metrics(running_requests=40.0)) for number in range(3)]
    burning = {MODEL: service(0.95)}
    assert wanted(fleet(pool([*members, replica("a3", phase=Phase.LOADING)]), service=burning))[1] == set()


def test_a_burning_budget_does_not_wait_for_what_has_no_gpus() -> None:
    members = reporting(3, running_requests=36.0).replicas
    burning = {MODEL: service(0.95)}
    waits = replica("a3", Phase.PENDING, requested_at=AT - LEAD_S - 1.0)
    assert wanted(fleet(pool([*members, waits]), service=burning)) == (4.0, {"burn rate"})
    placed = replica("a3", Phase.PENDING, requested_at=AT - LEAD_S - 1.0, node="n1")
    assert wanted(fleet(pool([*members, placed]), service=burning))[1] == set()


def test_offered_load_alone_asks_for_its_replicas() -> None:
    assert wanted(fleet(reporting())) == (2.0, set())


def test_nothing_observed_asks_for_nothing() -> None:
    bare = pool([replica("a0", metrics=None)])
    assert wanted(fleet(bare, requests_per_s=None)) == (0.0, set())


def test_a_request_or_two_between_steps_is_no_backlog() -> None:
    assert wanted(fleet(reporting(3, queued_requests=2.0)))[1] == set()


def test_a_queue_that_is_gone_within_the_objective_is_no_backlog() -> None:
    waits = OBJECTIVE.ttft_s * RATE
    assert wanted(fleet(reporting(3, queued_requests=2.0 + waits)))[1] == set()
    assert wanted(fleet(reporting(3, queued_requests=3.0 + waits)))[1] == {"backlog"}


def test_a_backlog_asks_for_what_clears_it_once_help_can_arrive() -> None:
    # 8 requests/s need 2 of the 3 replicas: what they have to spare until then clears 50 requests, not 5,000.
    until_s = LEAD_S + SETTINGS.backlog_clear_s
    assert wanted(fleet(reporting(3, queued_requests=50.0))) == (3.0, {"backlog"})
    answer, why = wanted(fleet(reporting(3, queued_requests=5000.0)))
    missing_s = (15000 - 6) / RATE - (3 - 2) * until_s
    assert (answer, why) == (pytest.approx(3.0 + missing_s / SETTINGS.backlog_clear_s), {"backlog"})


def test_while_requests_wait_too_long_nothing_that_serves_or_starts_is_given_up() -> None:
    starting = [replica(f"s{i}", Phase.LOADING, requested_at=AT - LEAD_S / 2) for i in range(9)]
    serving = [replica(f"a{i}", metrics=metrics(queued_requests=50.0)) for i in range(3)]
    assert wanted(fleet(pool([*serving, *starting]))) == (12.0, {"backlog"})


@given(
    needed=st.floats(0, 100),
    backlog_s=st.floats(0, 1e5),
    serving=st.integers(0, 60),
    started=st.lists(st.tuples(st.floats(0, 600), st.floats(0.25, 4)), max_size=20),
)
def test_more_work_never_asks_for_fewer_and_clears_in_time(
    needed: float, backlog_s: float, serving: int, started: list[tuple[float, float]]
) -> None:
    answer = clearing(needed, backlog_s, serving, started, 120.0, 60.0)
    there = serving + sum(worth for _, worth in started)
    assert answer >= there
    assert clearing(needed + 1.0, backlog_s + 10.0, serving, started, 120.0, 60.0) >= answer
    helps_s = sum(worth * (180.0 - max(0.0, 120.0 - age_s)) for age_s, worth in started)
    done_s = serving * 180.0 + helps_s + (answer - there) * 60.0
    assert done_s >= needed * 180.0 + backlog_s - 1e-6


def test_a_backlog_is_cleared_by_what_replicas_are_worth_and_not_by_their_number() -> None:
    """Three large replicas of twice the capacity are six of the reference: the same backlog asks for no more."""
    large = fleet(reporting(3, queued_requests=5000.0))
    twice = reactive_replicas(large, MODEL, ONE, OBJECTIVE, LEAD_S, SETTINGS, {large.pools[0].key: 2.0})[0]
    once = wanted(large)[0]
    until_s = LEAD_S + SETTINGS.backlog_clear_s
    assert twice == pytest.approx(once + 3.0 - 3.0 * until_s / SETTINGS.backlog_clear_s)


def test_a_burning_budget_of_a_large_replica_asks_for_one_more_only_when_that_is_full() -> None:
    burning = fleet(reporting(3, running_requests=36.0), service={MODEL: service(0.95)})
    key = burning.pools[0].key
    assert "burn rate" not in {
        why.rule for why in reactive_replicas(burning, MODEL, ONE, OBJECTIVE, LEAD_S, SETTINGS, {key: 2.0})[1]
    }


def test_whoever_seems_to_be_asked_for_in_the_future_counts_as_asked_for_now() -> None:
    """The platform's clock is ahead of ours, or ours was set back."""
    now = clearing(20.0, 100.0, 8, [(0.0, 1.0)] * 24, 120.0, 60.0)
    assert clearing(20.0, 100.0, 8, [(-3600.0, 1.0)] * 24, 120.0, 60.0) == now


def test_requests_that_wait_at_the_gateway_count_as_backlog() -> None:
    answer, why = wanted(fleet(pool(0), requests_per_s=0.0, gateway_queued={MODEL: 6.0}))
    assert (answer > 0, why) == (True, {"backlog"})


def test_a_queue_that_is_not_told_hides_no_other_queue() -> None:
    told = [
        replica("a0", metrics=metrics(queued_requests=90.0)),
        replica("a1", metrics=metrics(queued_requests=math.nan)),
    ]
    assert wanted(fleet(pool(told)))[1] == {"backlog"}


def test_full_kv_caches_ask_for_more() -> None:
    answer, why = wanted(fleet(reporting(4, kv_cache_ratio=0.99)))
    assert (answer, why) == (pytest.approx(4 * 0.99 / 0.9), {"KV pressure"})


def test_kv_pressure_that_load_already_answers_leaves_no_reason() -> None:
    assert wanted(fleet(reporting(1, kv_cache_ratio=0.95), requests_per_s=40.0)) == (10.0, set())


@pytest.mark.parametrize("ratio", [math.nan, -1.0, 7.0])
def test_a_kv_ratio_that_cannot_be_counts_for_nothing(ratio: float) -> None:
    assert wanted(fleet(reporting(4, kv_cache_ratio=ratio)))[1] == set()


def test_a_burning_budget_adds_one_to_a_loaded_fleet() -> None:
    burning = fleet(reporting(3, running_requests=36.0), service={MODEL: service(0.95)})
    assert wanted(burning) == (4.0, {"burn rate"})


def test_misses_of_an_idle_fleet_are_not_for_want_of_replicas() -> None:
    assert wanted(fleet(reporting(3, running_requests=1.0), service={MODEL: service(0.5)}))[1] == set()


def test_a_handful_of_requests_says_nothing_about_a_99_percent_target() -> None:
    few = fleet(reporting(3, running_requests=36.0), service={MODEL: service(0.5, finished=10.0)})
    assert wanted(few)[1] == set()


def test_only_the_models_own_replicas_count() -> None:
    stranger = pool(5, key=OTHER.__class__("other", "b"))
    assert wanted(fleet(reporting(3), stranger))[0] == 2.0


def steered(memory: ModelMemory, attained: float | None, at: float = AT, finished: float = 1000.0) -> ModelMemory:
    seen = {} if attained is None else {MODEL: service(attained, finished)}
    return steer_margin(memory, fleet(at=at, service=seen), MODEL, OBJECTIVE, SETTINGS)[0]


def test_the_first_look_at_attainment_only_starts_the_window() -> None:
    assert steered(ModelMemory(), 0.5) == ModelMemory(0.0, AT)


def test_the_margin_moves_once_per_window() -> None:
    begun = ModelMemory(0.0, AT)
    assert steered(begun, 0.5, AT + 299.0) == begun
    assert steered(begun, 0.5, AT + 300.0).margin_ratio > 0


def test_misses_add_margin_and_comfort_gives_it_back() -> None:
    begun = ModelMemory(0.1, AT)
    assert steered(begun, 0.97, AT + 300.0).margin_ratio == pytest.approx(0.1 + 0.02 * 3.0)
    assert steered(begun, 0.0, AT + 300.0).margin_ratio == pytest.approx(0.1 + 0.02 * 5.0)
    assert steered(begun, 1.0, AT + 300.0).margin_ratio == pytest.approx(0.09)
    assert steered(begun, 0.993, AT + 300.0) == ModelMemory(0.1, AT + 300.0)


def test_the_margin_stays_in_its_bounds() -> None:
    low, high = ModelMemory(SETTINGS.margin_min_ratio, AT), ModelMemory(SETTINGS.margin_max_ratio, AT)
    assert steered(low, 1.0, AT + 300.0).margin_ratio == SETTINGS.margin_min_ratio
    assert steered(high, 0.0, AT + 300.0).margin_ratio == SETTINGS.margin_max_ratio


def test_without_observed_requests_the_margin_rests() -> None:
    begun = ModelMemory(0.2, AT)
    assert steered(begun, None, AT + 900.0) == begun
    assert steered(begun, 1.0, AT + 900.0, finished=0.0) == begun


def test_a_moved_margin_leaves_a_reason() -> None:
    state = fleet(at=AT + 300.0, service={MODEL: service(0.9)})
    _, reasons = steer_margin(ModelMemory(0.0, AT), state, MODEL, OBJECTIVE, SETTINGS)
    assert [reason.rule for reason in reasons] == ["attainment feedback"]
    assert "90.00%" in str(reasons[0])


def test_pools_of_the_model_are_seen_together() -> None:
    both = fleet(
        reporting(2, queued_requests=40.0), pool([replica("b0", metrics=metrics(queued_requests=40.0))], OTHER)
    )
    assert {p.key for p in both.pools} == {KEY, OTHER}
    assert wanted(both) == (3.0, {"backlog"})
