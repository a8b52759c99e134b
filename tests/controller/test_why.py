"""Is it said why something was decided: what asked for it, and what was made of that, in words for one sentence?"""

from __future__ import annotations

from dataclasses import replace

from controller.why import MOST_WHY_CHARS, why_of
from policies.decide import decide
from policies.decisions import AvoidNode, Diagnosis, FailOver, Reason, ScalingPlan
from policies.fleet import PoolKey, Role
from policies.memory import PolicyMemory
from tests.builders import AT, KEY, MODEL, OTHER, demand, fleet, forecast, metrics, pool, replica, settings
from tests.builders_approvals import CORDON, GROW, RESTART, SHIFT, decided

SICK = Diagnosis("F1", "a2", KEY, 0.0, ("progress",), "a2 stands still")
PREFILL, DECODE = PoolKey(MODEL, "p", Role.PREFILL), PoolKey(MODEL, "d", Role.DECODE)


def test_growth_is_told_with_the_load_of_now_the_forecast_and_what_bounds_it() -> None:
    state = fleet(pool(2), requests_per_s=8.0)
    decision = decide(state, {MODEL: forecast(200.0)}, PolicyMemory(), settings(KEY))
    (plan,) = decision.scaling
    why = why_of(plan, decision, state)
    assert plan.desired > plan.current
    assert why.startswith("load 8.0 requests/s now; forecast 200.0 requests/s in ")
    assert " and up to 200.0 until then (flat 1, level 0.90); " in why
    assert why.endswith("; then predictive cap 50 -> 6 (a forecast may ask for at most 3 times the present)")


def test_a_forecast_that_asks_for_no_more_than_it_keeps_is_told_all_the_same() -> None:
    asked = Reason("predictive target", MODEL, 4.0, 4.0, "20.0 requests/s in 60 s")
    decision = replace(decided(GROW), reasons=(asked,))
    assert why_of(GROW, decision) == "forecast 20.0 requests/s in 60 s"


def test_what_burns_is_told_before_the_forecast() -> None:
    state = fleet(pool([replica("a0", metrics=metrics(queued_requests=400.0))]), requests_per_s=8.0)
    decision = decide(state, {}, PolicyMemory(), settings(KEY))
    (plan,) = decision.scaling
    why = why_of(plan, decision, state)
    assert why.startswith("load 8.0 requests/s now; backlog: 400 requests queue, ")
    assert why.index("backlog") < why.index("no forecast can be trusted")


def test_the_least_that_a_pool_may_have_is_a_reason() -> None:
    state = fleet(pool(3), requests_per_s=None)
    decision = decide(state, {}, PolicyMemory(), settings(KEY, least=4))
    (plan,) = decision.scaling
    assert why_of(plan, decision, state) == "bounds 3 -> 4 (bounds are 4 to 64)"


def test_each_stage_of_a_model_is_told_with_its_own_need() -> None:
    state = fleet(pool(1, key=PREFILL), pool(1, key=DECODE), requests_per_s=None, demand={MODEL: demand(60.0)})
    decision = decide(state, {}, PolicyMemory(), settings(PREFILL, DECODE))
    needs = [reason for reason in decision.reasons if reason.rule == "reactive only"]
    marked = [replace(reason, detail=f"need {number}") for number, reason in enumerate(needs)]
    left = [reason for reason in decision.reasons if reason.rule != "reactive only"]
    caps = [Reason("predictive cap", MODEL, 9.0, 3.0, f"cap {number}") for number in range(2)]
    rooms = [Reason("out of room", MODEL, 9.0, 3.0, f"room {number}") for number in range(2)]
    reasons = [one for three in zip(caps, marked, rooms, strict=True) for one in three]
    told = replace(decision, reasons=(*left, *reasons))
    assert len(needs) == 2
    for number, key in enumerate((PREFILL, DECODE)):
        why = why_of(ScalingPlan(key, 1, 3, 1), told, state)
        for what in ("need", "cap", "room"):
            assert f"{what} {number}" in why
            assert f"{what} {1 - number}" not in why


def test_remedies_are_told_with_what_is_believed() -> None:
    avoided = Reason("avoid node", "n1", 0, 1, "F2 its GPU has failed")
    decision = replace(decided(RESTART), diagnoses=(SICK,), reasons=(avoided,))
    assert why_of(RESTART, decision) == "a2 stands still"
    assert why_of(CORDON, decision) == ""
    assert why_of(AvoidNode("n1", "F2"), decision) == "F2 its GPU has failed"


def test_traffic_is_told_by_the_shares_that_move_and_the_pool_that_is_given_up() -> None:
    moved = (Reason("traffic", str(KEY), 1.0, 0.4, "none left"), Reason("traffic", str(OTHER), 0, 0.6, "ready"))
    decision = replace(decided(SHIFT), reasons=moved)
    assert why_of(SHIFT, decision) == "a from 100% to 40% (none left); b from 0% to 60% (ready)"
    failed = FailOver(MODEL, KEY, OTHER, "serves with 0 of 2 replicas")
    decision = replace(decision, remediations=(failed,))
    assert why_of(SHIFT, decision).startswith("a is given up for b (serves with 0 of 2 replicas); a from 100% to 40%")


def test_other_pools_and_other_models_are_no_reason() -> None:
    others = (
        Reason("bounds", str(OTHER), 3, 4, "of another pool"),
        Reason("predictive target", "n", 3, 4, "of another model"),
        Reason("breaker", MODEL, 3, 0, "of healing"),
        Reason("rate limit", str(KEY), 4, 4, "nothing changed"),
    )
    assert why_of(GROW, replace(decided(GROW), reasons=others)) == ""


def test_it_is_never_longer_than_may_be_read() -> None:
    many = tuple(Reason("bounds", str(KEY), number, number + 1, "x" * 300) for number in range(9))
    assert len(why_of(GROW, replace(decided(GROW, at=AT), reasons=many))) == MOST_WHY_CHARS
