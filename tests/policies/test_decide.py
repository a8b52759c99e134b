"""Does the pipeline put its steps together so that each decision is bounded, explained and repeatable?"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import pytest

from forecasting.forecast import LoadForecast, Trust
from policies.capacity import CapacitySettings
from policies.decide import Foresail, decide
from policies.decisions import CordonReplica, Decision, FailOver, Remediation, UncordonReplica
from policies.fleet import Demand, FleetState, Phase, PoolKey, PoolState
from policies.guardrails import GuardrailSettings
from policies.healing_memory import CordonMemory
from policies.memory import ModelMemory, PolicyMemory, PoolMemory
from policies.placement import PoolSettings
from policies.settings import PolicySettings
from policies.slo import ServiceObjective
from policies.stabilization import StabilizationSettings
from tests.builders import (
    AT,
    KEY,
    MODEL,
    OTHER,
    a_profile,
    demand,
    desired,
    fleet,
    forecast,
    metrics,
    pool,
    pool_settings,
    replica,
    rules,
    service,
    settings,
)

AT_ONCE = StabilizationSettings(down_window_s=0.0, unforecast_down_window_s=0.0)
LONG_SMALL = PolicyMemory(pools={str(KEY): PoolMemory(targets=((AT - 500.0, 1), (AT - 60.0, 1)))})


def decided(
    state: FleetState,
    ahead: Mapping[str, LoadForecast] | None = None,
    memory: PolicyMemory | None = None,
    given: PolicySettings | None = None,
) -> Decision:
    return decide(state, ahead or {}, memory or PolicyMemory(), given or settings(*(p.key for p in state.pools)))


def test_without_a_forecast_the_present_alone_is_answered() -> None:
    decision = decided(fleet(requests_per_s=19.0))
    assert (desired(decision), "reactive only" in rules(decision)) == (5, True)


def test_a_forecast_is_answered_ahead_of_demand() -> None:
    decision = decided(fleet(requests_per_s=8.0), {MODEL: forecast(15.0)})
    assert (desired(decision), "predictive target" in rules(decision)) == (4, True)


def test_the_larger_of_forecast_and_present_counts() -> None:
    assert desired(decided(fleet(requests_per_s=19.0), {MODEL: forecast(1.0)})) == 5


def test_a_forecast_gone_mad_is_bounded_by_the_present() -> None:
    decision = decided(fleet(pool(3), requests_per_s=8.0), {MODEL: forecast(1e6)})
    assert (desired(decision), "predictive cap" in rules(decision)) == (7, True)  # the cap is 9, the rate limit 7


def test_nothing_to_change_plans_nothing() -> None:
    decision = decided(fleet(requests_per_s=12.0))
    assert (decision.scaling, decision.traffic, decision.remediations) == ((), (), ())


def test_the_attainment_margin_is_added_to_forecast_and_present() -> None:
    memory = PolicyMemory(models={MODEL: ModelMemory(0.5, AT)})
    assert desired(decided(fleet(requests_per_s=12.0), memory=memory)) == 5
    assert desired(decided(fleet(requests_per_s=1.0), {MODEL: forecast(12.0)}, memory)) == 5


def test_shrinking_is_planned_once_the_window_agrees_and_what_we_cordoned_goes_first() -> None:
    others = (replica(f"x{i}") for i in range(5))
    state = fleet(pool([replica("a0", cordoned=True), replica("a1", cordoned=True), replica("a2"), *others]))
    ours = {KEY.replica("a1"): CordonMemory(AT - 10.0, "F1", "a1#0", 1000.0, 2e4)}
    (plan,) = decided(state, memory=replace(LONG_SMALL, cordons=ours)).scaling
    assert (plan.current, plan.desired, plan.version, plan.retire_first) == (8, 5, 0, ("a1",))


def test_growth_names_nobody_to_retire() -> None:
    ours = {KEY.replica("a1"): CordonMemory(AT - 10.0, "F1", "a1#0", 1000.0, 2e4)}
    state = fleet(pool([replica("a1", cordoned=True), replica("a0")]), requests_per_s=40.0)
    assert decided(state, memory=PolicyMemory(cordons=ours)).scaling[0].retire_first == ()


def test_load_that_is_not_observed_holds_everything() -> None:
    decision = decided(fleet(pool(8), requests_per_s=None), memory=LONG_SMALL)
    assert (decision.scaling, "blind" in rules(decision)) == ((), True)


def test_blindness_keeps_the_targets_from_before_from_shrinking_at_first_sight() -> None:
    blind = decided(fleet(pool(8), requests_per_s=None), memory=LONG_SMALL)
    sighted = decided(fleet(pool(8), at=AT + 15.0), memory=blind.memory)
    assert sighted.scaling == ()


def test_without_observed_load_only_the_static_floor_adds() -> None:
    assert desired(decided(fleet(pool(1), requests_per_s=None), given=settings(least=3))) == 3


def test_blind_or_not_the_bounds_hold() -> None:
    assert desired(decided(fleet(pool(8), requests_per_s=None), given=settings(most=5))) == 5
    unreported = pool([replica(f"a{i}", metrics=None) for i in range(8)])
    assert desired(decided(fleet(unreported), given=settings(most=5))) == 5


def test_too_few_reporting_replicas_hold_shrinking_and_not_growth() -> None:
    silent = pool([replica(f"a{i}", metrics=metrics(AT - 600.0)) for i in range(8)])
    assert decided(fleet(silent), memory=LONG_SMALL).scaling == ()
    assert desired(decided(fleet(silent, requests_per_s=50.0))) == 13


def test_requests_that_wait_for_the_first_replica_get_one_before_any_load_is_observed() -> None:
    both = settings(KEY, OTHER, least=0)
    state = fleet(
        pool(0, KEY), pool(0, OTHER, usd_per_replica_hour=9.0), requests_per_s=None, gateway_queued={MODEL: 2.0}
    )
    decision = decided(state, given=both)
    assert (desired(decision), desired(decision, OTHER)) == (1, None)
    assert decided(replace(state, gateway_queued={}), given=both).scaling == ()


def test_a_pool_scales_from_zero_on_its_first_requests() -> None:
    state = fleet(pool(0), requests_per_s=0.2, gateway_queued={MODEL: 1.0})
    assert desired(decided(state, given=settings(least=0))) == 1


def test_a_pool_scales_to_zero_when_nothing_is_expected() -> None:
    quiet = settings(least=0, stabilization=AT_ONCE)
    memory = PolicyMemory(pools={str(KEY): PoolMemory(targets=((AT - 15.0, 0),))})
    assert desired(decided(fleet(pool(1), requests_per_s=0.0), memory=memory, given=quiet)) == 0
    awaited = decided(fleet(pool(1), requests_per_s=0.0), {MODEL: forecast(1.0)}, memory, quiet)
    assert awaited.scaling == ()


@pytest.mark.parametrize(("prompts_per_tick", "ends_at"), [(1500.0, 8), (100.0, 1), (0.0, 1)])
def test_load_that_is_said_to_be_zero_while_engines_take_prompts_is_not_believed(
    prompts_per_tick: float, ends_at: int
) -> None:
    """A gateway whose counters stand still looks like one that nobody calls."""
    count, memory, given = 8, PolicyMemory(), settings(stabilization=AT_ONCE)
    for tick in range(24):
        at = AT + 15.0 * tick
        seen = metrics(at, steps_total=at, prompt_tokens_total=1e5 + prompts_per_tick * tick)
        state = pool([replica(f"a{i}", metrics=seen) for i in range(count)])
        decision = decided(fleet(state, at=at, requests_per_s=8.0 if tick == 0 else 0.0), memory=memory, given=given)
        count, memory = desired(decision) or count, decision.memory
    assert count == ends_at


def settled_count(requests_per_s: float, least: int) -> int:
    """Return what a pool of eight ends at under steady load."""
    count, memory, given = 8, PolicyMemory(), settings(least=least)
    for at in range(int(AT), int(AT) + 450, 15):
        state = pool([replica(f"a{i}", metrics=metrics(at, steps_total=at)) for i in range(count)])
        decision = decided(fleet(state, at=float(at), requests_per_s=requests_per_s), {}, memory, given)
        count, memory = desired(decision) or count, decision.memory
    return count


def test_a_pool_returns_to_its_minimum_when_the_load_leaves_room_there() -> None:
    assert settled_count(8.0, least=5) == 5
    assert settled_count(19.0, least=5) == 5


def test_a_full_minimum_is_not_room_enough() -> None:
    assert settled_count(20.0, least=5) == 6


def test_an_idle_fleet_of_unknown_shape_is_sized_by_the_assumed_one() -> None:
    assumed = CapacitySettings(default_prompt_tokens=1000.0, default_output_tokens=200.0)
    state = fleet(pool(3), demand={MODEL: Demand(8.0, 8000.0, 0.0)})
    assert decided(state, given=settings(capacity=assumed)).scaling == ()


def test_two_pools_share_by_price_and_capacity() -> None:
    big = PoolSettings(profile=a_profile(prefill_per_token_s=4e-5, decode_per_sequence_s=0.0002), efficiency_ratio=1.0)
    both = settings(pools={str(KEY): pool_settings(1, 64), str(OTHER): big})
    state = fleet(pool(2, KEY, weight=0.3), pool(2, OTHER, weight=0.7, usd_per_replica_hour=3.0), requests_per_s=50.0)
    decision = decided(state, given=both)
    # One replica of b carries 10 requests/s at 3 dollars, one of a 4 at 2: b grows, a keeps its minimum.
    assert (desired(decision, OTHER), desired(decision, KEY)) == (5, None)


def test_a_gpu_budget_takes_back_growth() -> None:
    decision = decided(fleet(requests_per_s=40.0), given=settings(guardrails=GuardrailSettings(gpu_budget=10)))
    assert (desired(decision), "GPU budget" in rules(decision)) == (5, True)


def test_replicas_that_wait_for_gpus_in_vain_make_room_in_the_budget_for_those_that_can_be_had() -> None:
    def asked(waited_s: float) -> tuple[int | None, int | None]:
        waiting = [replica(f"w{n}", Phase.PENDING, requested_at=AT - waited_s) for n in range(4)]
        state = fleet(pool([*pool(2).replicas, *waiting]), pool(2, OTHER), requests_per_s=24.0)
        guarded = settings(KEY, OTHER, guardrails=GuardrailSettings(gpu_budget=16))
        decision = decided(state, given=guarded)
        return desired(decision, KEY), desired(decision, OTHER)

    assert asked(301.0) == (4, 4)  # beyond the lead time of 300 s: of 8 replicas that the budget allows, 4 are there
    assert asked(30.0) == (None, None)  # may come any moment


def test_budgets_are_shared_by_all_models() -> None:
    other = PoolKey("n", "z")
    state = fleet(pool(2), pool(2, other), requests_per_s=40.0)
    decision = decided(state, given=settings(KEY, other, guardrails=GuardrailSettings(gpu_budget=12)))
    assert 2 * sum(desired(decision, key) or 2 for key in (KEY, other)) <= 12


def test_a_pool_that_is_not_in_the_settings_is_left_alone() -> None:
    state = fleet(pool(3, KEY, weight=0.5), pool(1, OTHER, weight=0.5), requests_per_s=40.0)
    decision = decided(state, given=settings(KEY))
    assert desired(decision, OTHER) is None
    assert decision.traffic == ()
    assert "unmanaged" in rules(decision)


def test_replicas_of_a_pool_that_is_not_in_the_settings_are_not_healed() -> None:
    failed = pool([replica("b0", Phase.FAILED, since_at=AT - 9e4), replica("b1")], OTHER, weight=0.0)
    decision = decided(fleet(pool(3), failed), given=settings(KEY))
    assert [d.subject for d in decision.diagnoses] == ["b0"]
    assert decision.remediations == ()


def test_a_model_without_a_pool_of_ours_is_left_alone() -> None:
    memory = PolicyMemory(models={MODEL: ModelMemory(0.2, AT)})
    decision = decided(fleet(service={MODEL: service(0.1)}), memory=memory, given=settings(OTHER))
    assert (decision.scaling, decision.memory.models) == ((), memory.models)


def test_a_count_that_another_controller_owns_is_left_alone_and_counted_on() -> None:
    owned = pool(4, OTHER, owner="hpa/b", weight=0.5)
    decision = decided(fleet(pool(1, KEY, weight=0.5), owned, requests_per_s=28.0), given=settings(KEY, OTHER))
    assert desired(decision, OTHER) is None
    assert desired(decision, KEY) == 3  # 7 replicas are needed, 4 are there
    assert "other owner" in rules(decision)


def test_a_model_may_have_an_objective_of_its_own() -> None:
    strict = settings(objectives={MODEL: ServiceObjective(tpot_s=0.04)})
    assert (desired(decided(fleet(requests_per_s=12.0), given=strict)) or 0) > 3


def test_a_failed_pool_hands_over_traffic_and_load() -> None:
    dead = pool([replica("a0", Phase.FAILED), replica("a1", Phase.FAILED)], KEY, weight=0.6)
    decision = decided(
        fleet(dead, pool(2, OTHER, weight=0.4), requests_per_s=16.0), given=settings(KEY, OTHER, least=0)
    )
    assert next(r for r in decision.remediations if isinstance(r, FailOver)).destination == OTHER
    assert decision.traffic[0].weights == {KEY: 0.0, OTHER: 1.0}
    assert (desired(decision, KEY), desired(decision, OTHER)) == (None, 4)
    assert decision.memory.pools[str(KEY)].unsound_at == AT


def test_missing_demand_moves_no_traffic() -> None:
    weak = PoolSettings(profile=a_profile(prefill_per_token_s=1e-3), efficiency_ratio=1.0)
    both = settings(pools={str(KEY): pool_settings(), str(OTHER): weak})
    state = fleet(pool(3, KEY, weight=0.5), pool(3, OTHER, weight=0.5), requests_per_s=None)
    assert decided(state, given=both).traffic == ()
    assert decided(replace(state, demand={MODEL: demand(8.0)}), given=both).traffic != ()


def test_a_model_that_looks_sick_all_over_does_not_shrink() -> None:
    sick = [replica(f"f{i}", Phase.FAILED, since_at=AT) for i in range(4)]
    state = fleet(pool([*sick, *(replica(f"a{i}") for i in range(4))]), requests_per_s=1.0)
    decision = decided(state, memory=LONG_SMALL)
    assert (decision.scaling, {"breaker", "no shrink"} <= rules(decision)) == ((), True)


def test_evidence_becomes_an_act_and_a_memory() -> None:
    def at(seconds: float) -> FleetState:
        hung = replica("a0", in_flight_requests=9.0, metrics=metrics(AT + seconds))
        others = [replica(f"a{i}", metrics=metrics(AT + seconds, steps_total=1e3 + seconds)) for i in range(1, 5)]
        return fleet(pool([hung, *others]), at=AT + seconds, requests_per_s=20.0)

    memory = PolicyMemory()
    decision = decided(at(0.0))
    for tick in range(4):
        decision = decided(at(15.0 * tick), memory=memory)
        memory = decision.memory
    assert decision.remediations == (CordonReplica("a0", KEY, "F1"),)
    assert memory.cordons[KEY.replica("a0")].cause == "F1"
    assert desired(decision) == 6  # the planner does not count on it


@pytest.mark.parametrize(
    ("made_at", "horizon_s", "said"),
    [
        (AT - 6 * 3600.0, 12 * 3600.0, "made 21600 s ago"),
        (AT + 600.0, 600.0, "in the future"),
        (math.nan, 600.0, "made nan s ago"),
        (AT, 60.0, "a start takes 300 s"),
    ],
    ids=["old", "from the future", "of no time", "short"],
)
def test_a_forecast_that_is_old_or_too_short_is_refused_and_the_present_decides(
    made_at: float, horizon_s: float, said: str
) -> None:
    state = fleet(pool(4), requests_per_s=8.0)
    decision = decided(state, {MODEL: forecast(30.0, at=made_at, horizon_s=horizon_s)})
    reactive = decided(state)
    assert (decision.scaling, decision.traffic) == (reactive.scaling, reactive.traffic)
    (refusal,) = [reason for reason in decision.reasons if reason.rule == "forecast refused"]
    assert said in refusal.detail


@pytest.mark.parametrize("age_s", [-15.0, 0.0, 75.0])
def test_a_forecast_of_the_last_step_is_used(age_s: float) -> None:
    decision = decided(fleet(pool(4), requests_per_s=8.0), {MODEL: forecast(30.0, at=AT - age_s)})
    assert "forecast refused" not in rules(decision)
    assert (desired(decision) or 0) > 4


def test_a_forecast_that_is_not_trusted_decides_nothing_and_says_why() -> None:
    state = fleet(pool(4), requests_per_s=8.0)
    doubted = forecast(30.0).trusted(Trust.NONE, "20 % more loss than the last value")
    decision = decided(state, {MODEL: doubted})
    assert decision.scaling == decided(state).scaling
    (refusal,) = [reason for reason in decision.reasons if reason.rule == "forecast not trusted"]
    assert refusal.detail == "20 % more loss than the last value (flat 1): reactive"


def test_how_far_a_forecast_is_trusted_is_part_of_the_plans_name() -> None:
    state, ahead = fleet(pool(4)), forecast(30.0)
    floor = ahead.trusted(Trust.FLOOR, "too many misses")
    assert decided(state, {MODEL: ahead}).input_digest != decided(state, {MODEL: floor}).input_digest


def test_generation_digest_and_expiry_name_the_plan() -> None:
    first = decided(fleet())
    second = decided(fleet(), memory=first.memory)
    assert (first.generation, second.generation) == (1, 2)
    assert first.expires_at == AT + 30.0
    assert first.input_digest != second.input_digest
    assert decided(fleet()).input_digest == first.input_digest
    assert decided(fleet(requests_per_s=8.5)).input_digest != first.input_digest
    assert decided(fleet(), {MODEL: forecast(8.0)}).input_digest != first.input_digest


def test_the_digest_names_forecast_values_memory_and_settings() -> None:
    remembered = replace(PolicyMemory(), models={MODEL: ModelMemory(margin_ratio=0.5)})
    digests = [
        decided(fleet(), {MODEL: forecast(8.0)}).input_digest,
        decided(fleet(), {MODEL: forecast(80.0)}).input_digest,
        decided(fleet(), {MODEL: forecast(8.0)}, remembered).input_digest,
        decided(fleet(), {MODEL: forecast(8.0)}, given=settings(most=63)).input_digest,
    ]
    assert len(set(digests)) == 4


def test_the_policy_object_decides_with_its_settings() -> None:
    policy = Foresail(settings(most=4))
    assert policy.name == "foresail"
    assert desired(policy.decide(fleet(requests_per_s=99.0), {}, PolicyMemory())) == 4


def test_memory_keeps_what_exists_and_forgets_the_rest_in_time() -> None:
    stranger = PoolKey("n", "z")
    before = decided(fleet(pool(2), pool(1, stranger)), given=settings(KEY, stranger)).memory
    one = pool([replica("a0", metrics=metrics(AT + 301.0))])
    soon = decided(fleet(pool(1), at=AT + 300.0), memory=before)
    assert set(soon.memory.pools) == {str(KEY), str(stranger)}
    assert set(soon.memory.models) == {MODEL, "n"}
    assert set(soon.memory.replicas) == {KEY.replica("a0"), KEY.replica("a1"), stranger.replica("z0")}
    assert "vanished" in rules(soon)
    late = decided(fleet(one, at=AT + 301.0), memory=soon.memory)
    assert set(late.memory.pools) == {str(KEY)}
    assert set(late.memory.models) == {MODEL}
    assert set(late.memory.replicas) == {KEY.replica("a0")}
    assert "vanished" not in rules(late)


def test_a_pool_that_is_not_listed_keeps_its_traffic_and_the_rest_of_its_model_does_not_shrink() -> None:
    both = settings(KEY, OTHER)
    state = fleet(pool(8, KEY, weight=0.5), pool(8, OTHER, weight=0.5))
    little = PoolMemory(targets=((AT - 500.0, 1), (AT - 60.0, 1)))
    before = PolicyMemory(pools={str(KEY): little, str(OTHER): replace(little, listed_at=AT - 15.0)})
    assert desired(decided(state, memory=before, given=both)) == 4
    partial = decided(fleet(pool(8, KEY, weight=0.5)), memory=before, given=both)
    assert (partial.scaling, partial.traffic) == ((), ())
    assert {"vanished", "no shrink"} <= rules(partial)
    assert partial.memory.pools[str(OTHER)] == replace(little, listed_at=AT - 15.0)


def test_an_empty_fleet_says_so() -> None:
    decision = decided(FleetState(AT, ()), given=settings())
    assert rules(decision) == {"empty fleet"}


def test_only_the_hung_one_of_two_replicas_with_one_id_is_treated() -> None:
    other = PoolKey("n", "a")

    def at(seconds: float) -> FleetState:
        well = [replica(f"x{i}", metrics=metrics(AT + seconds, steps_total=1e3 + seconds)) for i in range(5)]
        hung = replica("x0", metrics=metrics(AT + seconds))
        return fleet(pool(well, KEY), pool([hung, *well[1:]], other), at=AT + seconds)

    memory, acts = PolicyMemory(), list[Remediation]()
    for tick in range(10):
        decision = decided(at(15.0 * tick), memory=memory, given=settings(KEY, other))
        memory = decision.memory
        acts += decision.remediations
        assert {d.pool for d in decision.diagnoses} <= {other}
    assert CordonReplica("x0", other, "F1") in acts
    assert {act.pool for act in acts if isinstance(act, CordonReplica)} == {other}


def test_a_pool_that_leaves_the_settings_gets_its_traffic_back_and_nothing_else() -> None:
    ours = {OTHER.replica("b0"): CordonMemory(AT - 900.0, "F1", "b0#0", 1000.0, 2e4)}
    out = replica("b0", cordoned=True, in_flight_requests=0.0)
    state = fleet(pool(6), pool([out, *(replica(f"b{i}") for i in range(1, 6))], OTHER, weight=0.0))
    memory = PolicyMemory(cordons=ours)
    decision = decided(state, memory=memory, given=settings(KEY))
    assert decision.remediations == (UncordonReplica("b0", OTHER, "not ours"),)
    back = fleet(pool(6), pool(6, OTHER, weight=0.0), at=AT + 15.0)
    after = decided(back, memory=decision.memory, given=settings(KEY))
    assert (after.remediations, after.memory.cordons) == ((), {})


def test_a_clock_that_is_set_back_is_said_and_keeps_what_was_running() -> None:
    """Three scrapes stood still before the jump, the fourth after it makes the hang."""

    def at(tick: int) -> FleetState:
        now = AT + 15.0 * tick - (3600.0 if tick > 2 else 0.0)
        hung = replica("a0", requested_at=AT - 9e4, metrics=metrics(now))
        others = [replica(f"a{i}", metrics=metrics(now, steps_total=1e3 + tick)) for i in range(1, 5)]
        return fleet(pool([hung, *others]), at=now, requests_per_s=12.0)

    memory, said = PolicyMemory(), list[int]()
    for tick in range(6):
        decision = decided(at(tick), memory=memory)
        memory = decision.memory
        said += [tick] * ("clock set back" in rules(decision))
        if decision.remediations:
            break
    assert (tick, said) == (4, [3])
    assert decision.remediations == (CordonReplica("a0", KEY, "F1"),)


def growing(state: PoolState, ticks: int, requests_per_s: float) -> list[int]:
    memory, counts = PolicyMemory(), []
    for tick in range(ticks):
        decision = decided(fleet(state, at=AT + 15.0 * tick, requests_per_s=requests_per_s), memory=memory)
        memory = decision.memory
        state = replace(state, desired=desired(decision) or state.desired)
        counts.append(state.desired)
    return counts


def test_growth_from_one_replica_is_paced_by_the_tick() -> None:
    assert growing(pool(1), 6, 200.0) == [5, 10, 20, 40, 50, 50]


@pytest.mark.parametrize("count", [1, 2, 5])
def test_load_that_fits_needs_no_change(count: int) -> None:
    assert growing(pool(count), 20, 4.0 * count - 1.0) == [count] * 20
