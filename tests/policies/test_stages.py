"""Is a model whose prefill and decode have pools of their own sized, shared out and kept alive stage by stage?"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
from pydantic import ValidationError

from policies.anomaly import Watch
from policies.capacity import capacity_of, replicas_needed
from policies.decide import decide
from policies.decisions import CordonReplica, Decision, Diagnosis, Page
from policies.fleet import FleetState, Phase, PoolKey, Role, Stage
from policies.healing import Course, heal
from policies.healing_settings import HealingSettings
from policies.lead_time import LeadTime
from policies.memory import PolicyMemory, ReplicaMemory
from policies.settings import PolicySettings
from policies.slo import ServiceObjective
from tests.builders import AT, MODEL, a_profile, demand, desired, fleet, metrics, pool, pool_settings, replica, settings

PREFILL, DECODE, MORE = (
    PoolKey(MODEL, "p", Role.PREFILL),
    PoolKey(MODEL, "d", Role.DECODE),
    PoolKey(MODEL, "e", Role.DECODE),
)
OBJECTIVE = ServiceObjective(ttft_s=2.0, tpot_s=0.1)


def staged(prefill: int = 2, decode: int = 2, more: int | None = None, **changes: Any) -> FleetState:
    pools = [pool(prefill, key=PREFILL), pool(decode, key=DECODE, weight=1.0 if more is None else 0.5)]
    if more is not None:
        pools.append(pool(more, key=MORE, weight=0.5))
    return fleet(*pools, **changes)


def decided(state: FleetState, memory: PolicyMemory | None = None, **given: Any) -> Decision:
    return decide(state, {}, memory or PolicyMemory(), settings(*(p.key for p in state.pools), **given))


def test_a_model_has_one_stage_or_two() -> None:
    assert fleet(pool(), pool(key=PoolKey(MODEL, "b"))).stages == (Stage(MODEL),)
    state = staged()
    assert state.stages == (Stage(MODEL, Role.PREFILL), Stage(MODEL, Role.DECODE))
    assert [p.key for p in state.pools_in(DECODE.stage)] == [DECODE]
    assert state.pools_in(Stage(MODEL)) == ()
    assert [str(stage) for stage in state.stages] == ["m prefill", "m decode"]


def test_what_waits_at_the_gateway_waits_for_the_first_stage() -> None:
    state = staged(gateway_queued={MODEL: 9.0})
    prefill, decode = (state.part(stage) for stage in state.stages)
    assert (prefill.gateway_queued, decode.gateway_queued) == ({MODEL: 9.0}, {})
    assert (prefill.pools, decode.pools) == ((state.pools[0],), (state.pools[1],))
    whole = fleet()
    assert whole.part(Stage(MODEL)) is whole


def test_what_waits_waits_for_the_stage_that_nobody_serves() -> None:
    state = staged(decode=0, gateway_queued={MODEL: 9.0})
    prefill, decode = (state.part(stage) for stage in state.stages)
    assert (prefill.gateway_queued, decode.gateway_queued) == ({}, {MODEL: 9.0})
    assert staged(prefill=0, decode=0).waited_for(MODEL) == PREFILL.stage
    assert staged().waited_for("another") is None


def test_requests_that_wait_for_decode_replicas_start_no_prefill_replicas() -> None:
    waiting = staged(decode=0, gateway_queued={MODEL: 900.0})
    assert desired(decided(waiting), PREFILL) == desired(decided(staged(decode=0)), PREFILL)
    assert desired(decided(waiting), DECODE) > desired(decided(staged(decode=0)), DECODE)


def test_a_decode_replica_is_one_without_prefill() -> None:
    # 0.2 s of the round engine per request, half of it for the prompt.
    one = capacity_of(a_profile(), OBJECTIVE, demand(), 1.0, Role.DECODE)
    assert one.demand.requests_per_s == pytest.approx(8.0)
    assert (one.prefill_s_per_token, one.limit) == (0.0, "time")


def test_a_prefill_replica_is_a_queue_of_prompts() -> None:
    profile = a_profile(
        prefill_base_s=0.01, prefill_per_token_s=1e-4, prefill_per_token2_s=0.0, max_batched_tokens=2000
    )
    one = capacity_of(profile, OBJECTIVE, demand(8.0, 1000.0, 200.0), 1.0, Role.PREFILL)
    # 0.1 s and half of a base each: 0.105 s; alone 0.11 s, so that 1.89 s may be waited: 3.78 / 3.885 busy.
    assert one.demand.requests_per_s == pytest.approx(3.78 / 3.885 / 0.105)
    assert replicas_needed(one.demand.scaled(3.0), one) == pytest.approx(3.0)
    longer = capacity_of(profile, OBJECTIVE, demand(8.0, 1000.0, 900.0), 1.0, Role.PREFILL)
    assert longer.demand.requests_per_s == pytest.approx(one.demand.requests_per_s)


def test_an_objective_that_a_prompt_alone_misses_still_gives_a_prefill_capacity() -> None:
    slow = ServiceObjective(ttft_s=0.001, tpot_s=0.1)
    one = capacity_of(a_profile(), slow, demand(), 1.0, Role.PREFILL)
    assert 0 < one.demand.requests_per_s < math.inf


def test_each_stage_is_sized_for_all_requests_by_its_own_capacity() -> None:
    decision = decided(staged(requests_per_s=31.0))
    pools = {PREFILL: Role.PREFILL, DECODE: Role.DECODE}
    for key, role in pools.items():
        one = capacity_of(a_profile(), ServiceObjective(), demand(), 1.0, role)
        assert desired(decision, key) == math.ceil(replicas_needed(demand(31.0), one))


def test_longer_answers_ask_for_decode_alone() -> None:
    before, after = (
        decided(staged(demand={MODEL: demand(16.0, 1000.0, output)}), least=0) for output in (200.0, 600.0)
    )
    assert desired(before, PREFILL) == desired(after, PREFILL)
    assert (desired(after, DECODE) or 0) > (desired(before, DECODE) or 2)


def test_a_queue_of_one_stage_adds_nothing_to_the_other() -> None:
    waiting = [replica(f"d{i}", metrics=metrics(queued_requests=9000.0)) for i in range(2)]
    decision = decided(fleet(pool(2, key=PREFILL), pool(waiting, key=DECODE), requests_per_s=1.0), least=2)
    assert (desired(decision, DECODE) or 0) > 2
    assert desired(decision, PREFILL) is None


def test_weights_of_each_stage_sum_to_one() -> None:
    state = staged(2, 2, 2)
    dead = replace(state.pools[1], replicas=tuple(replace(r, phase=Phase.FAILED) for r in state.pools[1].replicas))
    decision = decided(replace(state, pools=(state.pools[0], dead, state.pools[2])))
    (plan,) = decision.traffic
    assert plan.weights == {PREFILL: 1.0, DECODE: 0.0, MORE: 1.0}


def test_a_route_of_which_a_share_is_not_known_is_not_written() -> None:
    state = staged(2, 2, 2)
    unread = replace(state.pools[0], weight=math.nan)
    dead = replace(state.pools[1], replicas=())
    assert decided(replace(state, pools=(unread, dead, state.pools[2]))).traffic == ()


def slow(key: PoolKey, name: str) -> Diagnosis:
    return Diagnosis("F8", name, key, AT - 60.0, ("progress", "gateway"), "it is slow")


def healed(state: FleetState, *diagnoses: Diagnosis) -> Course:
    ours = {str(p.key): 0 for p in state.pools}
    lead_times = {key: LeadTime(80.0, 100.0, 5, measured=True) for key in ours}
    seen = {p.key.replica(r.id): ReplicaMemory(r.life, 1000.0, 1e5, 2e4, 4.0, AT, AT) for p in state.pools
            for r in p.replicas}  # fmt: skip
    return heal(state, diagnoses, Watch((), seen, frozenset(seen)), PolicyMemory(), lead_times, ours, HealingSettings())


def test_the_last_replica_of_a_stage_stays_in_traffic_while_the_other_stage_has_many() -> None:
    """Counted over the model one of seven could go, but without it there is no prefill."""
    course = healed(staged(1, 6), slow(PREFILL, "p0"))
    assert (course.remediations, [reason.rule for reason in course.reasons]) == ((), ["serving floor"])
    (taken_out,) = healed(staged(1, 6), slow(DECODE, "d0")).remediations
    assert isinstance(taken_out, CordonReplica)


def test_a_stage_that_is_sick_as_a_whole_stops_healing_of_its_model() -> None:
    """Two of eight replicas of the model, but all that prefill."""
    course = healed(staged(2, 6), slow(PREFILL, "p0"), slow(PREFILL, "p1"))
    assert course.stopped == {MODEL}
    assert [page.subject for page in course.remediations if isinstance(page, Page)] == ["m prefill"]
    assert healed(staged(2, 6), slow(PREFILL, "p0"), slow(DECODE, "d0")).stopped == frozenset()


@pytest.mark.parametrize("keys", [(PREFILL,), (DECODE, MORE), (PREFILL, DECODE, PoolKey(MODEL, "u"))])
def test_pools_that_cannot_serve_a_whole_request_are_refused(keys: tuple[PoolKey, ...]) -> None:
    with pytest.raises(ValidationError, match="unified ones only, or both prefill and decode"):
        PolicySettings(pools={str(key): pool_settings() for key in keys})


def test_stages_of_one_model_may_stand_beside_other_models() -> None:
    other = PoolKey("n", "a")
    given = settings(PREFILL, DECODE, other)
    state = fleet(pool(2, key=PREFILL), pool(2, key=DECODE), pool(2, key=other), requests_per_s=31.0)
    decision = decide(state, {}, PolicyMemory(), given)
    assert {plan.pool for plan in decision.scaling} == {PREFILL, DECODE, other}
