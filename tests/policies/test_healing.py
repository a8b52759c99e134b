"""Is the right rung taken for each diagnosis, within the budgets, and is nothing done that only a human should do?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from policies.anomaly import Watch
from policies.burn import Burn
from policies.cohorts import ERRORS_SIGN, SLOW_SIGN
from policies.decisions import (
    Anomaly,
    CordonReplica,
    Diagnosis,
    FailOver,
    Page,
    Remediation,
    RestartReplica,
    UncordonReplica,
)
from policies.fleet import FleetState, Phase, PoolKey, PoolState
from policies.healing import Course, Outside, heal
from policies.healing_memory import ActionMemory, CordonMemory, XidMemory
from policies.healing_settings import HealingSettings
from policies.lead_time import LeadTime
from policies.memory import PolicyMemory, PoolMemory, ReplicaMemory, RevisionMemory
from policies.undone import unlearn
from tests.builders import AT, KEY, MODEL, OTHER, fleet, metrics, pool, replica

SETTINGS = HealingSettings()
A0 = KEY.replica("a0")
MEASURED = LeadTime(80.0, 100.0, 5, measured=True)


def sick(name: str, cause: str, since_s: float = 60.0, key: PoolKey = KEY) -> Diagnosis:
    return Diagnosis(cause, name, key, AT - since_s, ("progress", "gateway"), "it looks sick")


def remembered(state: FleetState, **changes: Any) -> dict[str, ReplicaMemory]:
    """What a look a moment ago left: every replica did its steps and is quiet since."""
    known = ReplicaMemory("", 1000.0, 1e5, 2e4, 4.0, AT, AT)
    return {
        p.key.replica(r.id): replace(known, life=r.life, **changes)
        for p in state.pools
        for r in p.replicas
        if r.metrics is not None
    }


def treated(
    state: FleetState,
    *diagnoses: Diagnosis,
    memory: PolicyMemory | None = None,
    seen: dict[str, ReplicaMemory] | None = None,
    fresh: Sequence[str] | None = None,
    anomalies: tuple[Anomaly, ...] = (),
    lead: LeadTime = MEASURED,
    least: int = 0,
    ours: Sequence[PoolKey] | None = None,
    settings: HealingSettings = SETTINGS,
    outside: Outside | None = None,
) -> Course:
    """What is done; ``least`` replicas of the first pool must serve, ``fresh`` are ids in it."""
    known = remembered(state) if seen is None else seen
    lately = known if fresh is None else [KEY.replica(name) for name in fresh]
    managed = [p.key for p in state.pools] if ours is None else ours
    return heal(
        state,
        diagnoses,
        Watch(anomalies, known, frozenset(lately)),
        memory or PolicyMemory(),
        {str(p.key): lead for p in state.pools},
        {str(key): least * (key == state.pools[0].key) for key in managed},
        settings,
        outside,
    )


def done(course: Course) -> list[tuple[type[Remediation], str]]:
    return [
        (type(r), r.replica)
        for r in course.remediations
        if isinstance(r, CordonReplica | UncordonReplica | RestartReplica)
    ]


def pages(course: Course) -> list[tuple[str, str]]:
    return [(r.subject, r.cause) for r in course.remediations if isinstance(r, Page)]


def rules(course: Course) -> list[str]:
    return [reason.rule for reason in course.reasons]


def some(count: int = 6, **first: Any) -> FleetState:
    """One pool ``a0`` ... of which the first one is as told."""
    head = replica("a0", **first)
    return fleet(pool([head, *(replica(f"a{i}") for i in range(1, count))]))


def cordoned(cause: str, ago_s: float = 60.0, **changes: Any) -> PolicyMemory:
    """Memory of ``a0`` taken out of traffic by us."""
    entry = CordonMemory(AT - ago_s, cause, "a0#0", 1000.0, 2e4, confirmed=True)
    return PolicyMemory(cordons={A0: replace(entry, **changes)})


def restarts(count: int, ago_s: float = 900.0, **changes: Any) -> PolicyMemory:
    started = AT - ago_s
    one = ActionMemory("gone", "restart", MODEL, str(KEY), started, started + 200.0, open=False, verified=True)
    return PolicyMemory(actions=(replace(one, **changes),) * count)


# hang


def test_a_hung_replica_is_cordoned_at_once_and_remembered() -> None:
    course = treated(some(), sick("a0", "F1", 50.0))
    assert done(course) == [(CordonReplica, "a0")]
    assert course.cordons[A0] == CordonMemory(AT, "F1", "a0#0", 1000.0, 2e4, confirmed=True)
    assert course.actions == ()


def test_a_hung_replica_is_restarted_after_two_minutes() -> None:
    state = some(cordoned=True)
    assert done(treated(state, sick("a0", "F1", 119.0), memory=cordoned("F1"))) == []
    course = treated(state, sick("a0", "F1", 120.0), memory=cordoned("F1"))
    assert done(course) == [(RestartReplica, "a0")]
    assert course.actions == (ActionMemory("a0", "restart", MODEL, str(KEY), AT, AT + 200.0),)


def test_a_restart_under_way_is_not_repeated() -> None:
    state = some(cordoned=True)
    first = treated(state, sick("a0", "F1", 120.0), memory=cordoned("F1"))
    memory = replace(cordoned("F1"), actions=first.actions)
    assert done(treated(replace(state, at=AT + 15.0), sick("a0", "F1", 120.0), memory=memory)) == []


def test_the_last_replica_of_a_model_may_be_cordoned_when_it_hangs() -> None:
    assert done(treated(some(1), sick("a0", "F1"))) == [(CordonReplica, "a0")]


def test_a_stall_that_ends_gives_traffic_back() -> None:
    state = some(cordoned=True)
    moved = remembered(state, steps_total=1001.0)
    assert done(treated(state, memory=cordoned("F1"), seen=moved)) == [(UncordonReplica, "a0")]


@pytest.mark.parametrize("counters", [{"steps_total": None}, {"steps_total": None, "output_tokens_total": None}, {}])
def test_without_a_sign_of_life_the_cordon_stays(counters: dict[str, Any]) -> None:
    state = some(cordoned=True)
    assert done(treated(state, memory=cordoned("F1"), seen=remembered(state, **counters))) == []


def test_a_restarted_engine_gets_its_traffic_back() -> None:
    """A cordon outlives the restart of the container, the reason for it does not."""
    state = some(cordoned=True, restarts=1)
    fresh = {**remembered(state), A0: ReplicaMemory("a0#1", 0.0, 0.0, 0.0, 0.0, AT, AT)}
    assert done(treated(state, memory=cordoned("F1"), seen=fresh)) == [(UncordonReplica, "a0")]


def test_a_fresh_engine_needs_no_step_to_prove_itself() -> None:
    """It had made none when it hung, and gets no traffic to make one."""
    state = some(cordoned=True, restarts=1)
    fresh = {**remembered(state), A0: ReplicaMemory("a0#1", 0.0, 0.0, 0.0, 0.0, AT, AT)}
    memory = cordoned("F1", steps_total=0.0, output_tokens_total=0.0)
    assert done(treated(state, memory=memory, seen=fresh)) == [(UncordonReplica, "a0")]


def test_an_engine_whose_counters_began_anew_gets_its_traffic_back() -> None:
    state = some(cordoned=True)
    assert done(treated(state, memory=cordoned("F1"), seen=remembered(state, steps_total=5.0))) == [
        (UncordonReplica, "a0")
    ]


def test_a_cordoned_replica_that_shows_no_life_is_restarted_in_the_end() -> None:
    """The clients gave up, so that nothing is inside, and no counter ever moved."""
    state = some(cordoned=True, in_flight_requests=0.0)
    assert done(treated(state, memory=cordoned("F1", 119.0))) == []
    assert done(treated(state, memory=cordoned("F1", 120.0))) == [(RestartReplica, "a0")]


def test_without_fresh_metrics_no_life_is_no_reason_to_restart() -> None:
    state = some(cordoned=True, in_flight_requests=0.0)
    assert done(treated(state, memory=cordoned("F1", 900.0), fresh=["a1"])) == []
    stale = remembered(state, observed_at=AT - 800.0)
    assert done(treated(state, memory=cordoned("F1", 900.0), seen=stale)) == []


def test_a_hang_that_waits_for_its_restart_says_so() -> None:
    course = treated(some(cordoned=True), sick("a0", "F1", 119.0), memory=cordoned("F1"))
    assert rules(course) == ["restart pending"]
    alone = treated(some(cordoned=True, in_flight_requests=0.0), memory=cordoned("F1", 119.0))
    assert rules(alone) == ["restart pending"]


def test_an_answer_after_the_cordon_gives_traffic_back() -> None:
    """The exporter stands still, the engine does not: the gateway saw it finish what it had."""
    state = some(cordoned=True, in_flight_requests=0.0, answered_requests_total=9.0)
    answered = remembered(state, answered_total=9.0, answered_at=AT - 10.0)
    assert done(treated(state, memory=cordoned("F1", 900.0), seen=answered)) == [(UncordonReplica, "a0")]
    before = remembered(state, answered_total=9.0, answered_at=AT - 901.0)
    assert done(treated(state, memory=cordoned("F1", 900.0), seen=before)) == [(RestartReplica, "a0")]


@pytest.mark.parametrize("counted", [math.nan, 9.0])
@pytest.mark.parametrize("inside", [0.0, 3.0])
def test_requests_that_ended_after_the_cordon_uncounted_leave_it_to_a_human(inside: float, counted: float) -> None:
    """Also when the count begins later: what ended before was answered or given up, nobody knows."""
    state = some(cordoned=True, in_flight_requests=inside, answered_requests_total=counted)
    fell = remembered(state, in_flight=inside, fell_at=AT - 10.0)
    course = treated(state, memory=cordoned("F1", 900.0), seen=fell)
    assert (done(course), pages(course)) == ([], [(A0, "F1")])
    again = treated(state, sick("a0", "F1", 900.0), memory=cordoned("F1", 900.0), seen=fell)
    assert (done(again), pages(again)) == ([], [(A0, "F1")])


def test_a_hang_without_a_gateway_is_cordoned_with_care_and_left_to_a_human() -> None:
    alone = replace(sick("a0", "F1", 900.0), families=("peers", "progress"))
    course = treated(some(in_flight_requests=math.nan), alone)
    assert (done(course), pages(course)) == ([(CordonReplica, "a0")], [(A0, "F1")])
    full = treated(some(4, in_flight_requests=math.nan), alone, least=4)
    assert (done(full), rules(full)) == ([], ["serving floor", "needs a human"])
    out = some(cordoned=True, in_flight_requests=math.nan)
    assert done(treated(out, alone, memory=cordoned("F1", 900.0))) == []
    assert done(treated(out, memory=cordoned("F1", 900.0))) == []


def test_a_stuck_exporter_is_a_humans_business_and_opens_no_breaker() -> None:
    course = treated(some(), *(sick(f"a{i}", "F13", 900.0) for i in range(6)))
    assert (done(course), rules(course)) == ([], ["needs a human"] * 6)
    assert course.stopped == frozenset()


def test_a_gateway_that_comes_back_and_finds_nothing_inside_confirms_no_hang() -> None:
    """It was away when the engine emptied itself: only the exporter ever said that it stood still."""
    state = some(cordoned=True, in_flight_requests=0.0)
    course = treated(state, memory=cordoned("F1", 900.0, confirmed=False))
    assert (done(course), pages(course)) == ([], [(A0, "F1")])


def test_a_gateway_that_comes_back_and_sees_requests_stand_confirms_the_hang_for_good() -> None:
    state = some(cordoned=True, in_flight_requests=3.0)
    seen = treated(state, sick("a0", "F1", 119.0), memory=cordoned("F1", 900.0, confirmed=False))
    assert done(seen) == []
    given_up = treated(some(cordoned=True, in_flight_requests=0.0), memory=PolicyMemory(cordons=seen.cordons))
    assert done(given_up) == [(RestartReplica, "a0")]


def test_what_nobody_we_know_cordoned_is_left_to_a_human_who_is_told() -> None:
    state = some(cordoned=True)
    course = treated(state, seen=remembered(state, steps_total=2000.0))
    assert (done(course), pages(course)) == ([], [(A0, "cordon")])
    assert pages(treated(state, memory=replace(PolicyMemory(), pages=course.pages))) == []


def test_a_cordon_outlives_an_answer_in_which_its_replica_is_missing() -> None:
    state = some(cordoned=True)
    nothing = fleet(pool([replica(f"a{i}") for i in range(1, 6)]))
    gone = treated(nothing, memory=cordoned("F1"), seen=remembered(state))
    assert set(gone.cordons) == {A0}
    assert treated(nothing, memory=cordoned("F1"), seen=remembered(nothing)).cordons == {}


def test_a_slow_replica_that_is_not_listed_is_no_repair_under_way() -> None:
    seen = {**remembered(some()), KEY.replica("gone"): ReplicaMemory("gone#0", 1.0, 1.0, 1.0, 1.0, AT, AT)}
    memory = PolicyMemory(cordons={KEY.replica("gone"): CordonMemory(AT - 60.0, "F8", "gone#0")})
    assert done(treated(some(), sick("a1", "F8"), memory=memory, seen=seen)) == [(CordonReplica, "a1")]


def test_in_a_pool_that_is_not_ours_only_our_cordons_are_lifted() -> None:
    state = some(cordoned=True, in_flight_requests=0.0)
    course = treated(state, sick("a0", "F1", 900.0), sick("a1", "F1"), memory=cordoned("F1", 900.0), ours=[])
    assert (done(course), pages(course)) == ([(UncordonReplica, "a0")], [])
    assert treated(state, sick("a1", "F1"), ours=[]).remediations == ()


def test_what_somebody_else_cordoned_is_left_to_them() -> None:
    course = treated(some(cordoned=True), sick("a0", "F1", 900.0))
    assert (done(course), pages(course)) == ([], [(A0, "F1")])


def test_a_cordon_that_was_not_carried_out_is_tried_again() -> None:
    course = treated(some(), sick("a0", "F1"), memory=cordoned("F1"))
    assert done(course) == [(CordonReplica, "a0")]
    assert course.cordons[A0].at == AT


def test_a_cordon_that_somebody_lifted_is_forgotten() -> None:
    assert treated(some(), memory=cordoned("F1")).cordons == {}


def test_a_hung_replica_that_is_not_ready_is_not_cordoned() -> None:
    assert done(treated(some(phase=Phase.DRAINING), sick("a0", "F1"))) == []


# straggler


def test_a_slow_replica_is_taken_out_of_traffic() -> None:
    assert done(treated(some(), sick("a0", "F8"))) == [(CordonReplica, "a0")]


def test_a_slow_replica_stays_until_enough_others_serve_and_one_more_is_asked_for() -> None:
    course = treated(some(4), sick("a0", "F8"), least=4)
    assert (done(course), rules(course), course.lost[str(KEY)]) == ([], ["serving floor"], 1)
    assert done(treated(some(5), sick("a0", "F8"), least=4)) == [(CordonReplica, "a0")]


def test_the_floor_counts_what_serves_and_not_what_is_there() -> None:
    half = [replica(f"f{i}", Phase.LOADING, restarts=1) for i in range(3)]
    state = fleet(pool([replica("a0"), replica("a1"), replica("a2"), *half]))
    assert rules(treated(state, sick("a0", "F8"))) == ["serving floor"]


def test_hung_replicas_do_not_count_as_serving() -> None:
    settings = HealingSettings(breaker_ratio=1.0)
    course = treated(some(4), sick("a1", "F1"), sick("a0", "F8"), settings=settings)
    assert done(course) == [(CordonReplica, "a1"), (CordonReplica, "a0")]  # 2 left of 4: just enough
    course = treated(some(5), sick("a1", "F1"), sick("a2", "F1"), sick("a0", "F8"), settings=settings)
    assert done(course) == [(CordonReplica, "a1"), (CordonReplica, "a2")]


def test_two_slow_replicas_go_one_after_the_other() -> None:
    state = some(9)
    course = treated(state, sick("a0", "F8"), sick("a1", "F8"))
    assert (done(course), rules(course)) == ([(CordonReplica, "a0")], ["cordon", "disruption budget"])
    out = fleet(pool([replace(r, cordoned=r.id == "a0") for r in state.pools[0].replicas]))
    assert done(treated(out, sick("a1", "F8"), memory=cordoned("F8", 10.0), seen=remembered(out, slow_at=(AT,)))) == []


BURNS = Outside(burn={MODEL: Burn(30.0, 30.0, 20.0, 7.0, burning=True, about_to=True)})


def slow_and_out(in_flight: float = 3.0, ago_s: float = 60.0, outside: Outside | None = None, **seen: Any) -> Course:
    state = some(cordoned=True, in_flight_requests=in_flight)
    known = remembered(state, **{"slow_at": (AT - 60.0,), **seen})
    return treated(state, memory=cordoned("F8", ago_s), seen=known, outside=outside)


def test_a_slow_replica_is_restarted_once_it_is_empty() -> None:
    assert done(slow_and_out(3.0)) == []
    assert done(slow_and_out(0.0)) == [(RestartReplica, "a0")]


def test_a_slow_replica_that_does_not_empty_is_restarted_after_the_deadline_if_that_is_worth_its_requests() -> None:
    assert done(slow_and_out(3.0, 119.0, BURNS)) == []
    assert done(slow_and_out(3.0, 120.0, BURNS)) == [(RestartReplica, "a0")]
    held = slow_and_out(3.0, 86000.0)
    assert (done(held), rules(held)) == ([], ["error budget"])


def test_a_slow_replica_that_keeps_up_again_gets_its_traffic_back() -> None:
    assert done(slow_and_out(3.0, slow_at=())) == [(UncordonReplica, "a0")]


def test_without_a_gateway_the_engine_says_when_it_is_empty() -> None:
    def course(**counts: Any) -> Course:
        state = some(cordoned=True, in_flight_requests=math.nan, metrics=metrics(**counts))
        return treated(state, memory=cordoned("F8"), seen=remembered(state, slow_at=(AT,)))

    assert done(course(running_requests=0.0, queued_requests=0.0)) == [(RestartReplica, "a0")]
    assert done(course(running_requests=1.0)) == []
    assert done(course(running_requests=0.0, queued_requests=math.nan)) == []


def test_a_slow_replica_that_is_not_ready_is_left_alone() -> None:
    assert done(treated(some(phase=Phase.DRAINING), sick("a0", "F8"))) == []


# exited and overdue


def test_what_exits_is_left_to_the_platform_for_a_while() -> None:
    state = some(phase=Phase.FAILED, since_at=AT - 149.0)
    course = treated(state, sick("a0", "F2"))
    assert (done(course), rules(course)) == ([], ["left to the platform"])


def test_what_the_platform_does_not_bring_back_is_restarted() -> None:
    assert done(treated(some(phase=Phase.FAILED, since_at=AT - 150.0), sick("a0", "F2"))) == [(RestartReplica, "a0")]


def test_an_overdue_start_is_restarted_when_starts_have_been_measured() -> None:
    state = some(phase=Phase.LOADING, requested_at=AT - 250.0)
    assert done(treated(state, sick("a0", "F4"))) == [(RestartReplica, "a0")]


def test_an_overdue_start_is_left_to_a_human_while_nobody_knows_how_long_one_takes() -> None:
    state = some(phase=Phase.LOADING, requested_at=AT - 700.0)
    course = treated(state, sick("a0", "F4"), lead=LeadTime(300.0, 300.0, 2, measured=False))
    assert (done(course), pages(course)) == ([], [(str(KEY), "F4")])


def test_a_replica_that_is_not_even_placed_is_not_restarted() -> None:
    course = treated(some(phase=Phase.PENDING, requested_at=AT - 900.0), sick("a0", "F4"))
    assert (done(course), pages(course)) == ([], [(str(KEY), "F4")])
    assert course.lost[str(KEY)] == 0  # asking for more of what finds no room would never end


# what is allowed at once


def test_one_repair_per_model_at_a_time() -> None:
    memory = restarts(1, 30.0, open=True, verified=False, deadline_at=AT + 300.0)
    course = treated(
        fleet(pool([replica("a0", Phase.FAILED, since_at=AT - 900.0), replica("a1")], desired=3)),
        sick("a0", "F2"),
        memory=memory,
    )
    assert (done(course), rules(course)) == ([], ["disruption budget"])


def test_the_fleet_has_a_budget_of_its_own() -> None:
    def model(name: str) -> PoolState:
        return pool(
            [replica(f"{name}{i}", Phase.FAILED if i == 0 else Phase.READY, since_at=AT - 900.0) for i in range(9)],
            PoolKey(name, "p"),
        )

    state = fleet(*(model(name) for name in "stuvw"))
    course = treated(state, *(sick(f"{name}0", "F2", key=PoolKey(name, "p")) for name in "stuvw"))
    assert [name for _, name in done(course)] == ["s0", "t0", "u0"]
    assert rules(course).count("fleet disruption budget") == 2


def test_a_restart_that_is_refused_is_said_once_per_tick() -> None:
    state = some(cordoned=True)
    none = HealingSettings(disruption_budget=0)
    course = treated(state, sick("a0", "F1", 900.0), memory=cordoned("F1", 800.0), settings=none)
    assert rules(course) == ["disruption budget"]


def test_without_a_budget_nothing_is_restarted() -> None:
    course = treated(
        some(phase=Phase.FAILED, since_at=AT - 900.0), sick("a0", "F2"), settings=HealingSettings(disruption_budget=0)
    )
    assert done(course) == []


def test_after_four_restarts_in_an_hour_a_human_is_told_once() -> None:
    state = some(phase=Phase.FAILED, since_at=AT - 900.0)
    course = treated(state, sick("a0", "F2"), memory=restarts(4))
    assert (done(course), pages(course), rules(course)) == ([], [(str(KEY), "F2")], ["attempt cap"])
    again = treated(state, sick("a0", "F2"), memory=replace(restarts(4), pages=course.pages))
    assert (pages(again), rules(again)) == ([], ["attempt cap"])


def test_too_many_sick_at_once_stop_healing_and_call_a_human() -> None:
    course = treated(some(5), sick("a0", "F1", 900.0), sick("a1", "F1", 900.0))
    assert (done(course), pages(course)) == ([], [(MODEL, "breaker")])
    assert course.stopped == {MODEL}


@pytest.mark.parametrize(("nodes", "opens"), [(("n0", "n0"), False), (("n0", "n1"), True)])
def test_all_that_one_node_takes_with_it_counts_once_for_the_breaker(nodes: tuple[str, str], opens: bool) -> None:
    down = {"phase": Phase.FAILED, "since_at": AT - 60.0, "in_flight_requests": math.nan}
    broken = [replica(f"a{place}", node=node, **down) for place, node in enumerate(nodes)]
    state = fleet(pool([*broken, *(replica(f"a{n}", node="n2") for n in range(2, 5))]))
    memory = PolicyMemory(xids={name: XidMemory(79, AT - 90.0, AT) for name in nodes})
    faults = [replace(sick(f"a{n}", "F9"), name="hardware") for n in range(2)]
    course = treated(state, *faults, memory=memory)
    assert bool(course.stopped) is opens
    assert course.lost[str(KEY)] == 2  # nothing comes back there, so others are asked for at once


def test_what_waits_for_a_node_opens_no_breaker_and_is_told_to_a_human_once() -> None:
    waiting = [replica(f"w{number}", Phase.PENDING) for number in range(4)]
    state = fleet(pool([*some(5).pools[0].replicas, *waiting]))
    course = treated(state, sick("a0", "F1"), *(sick(f"w{number}", "F4", 900.0) for number in range(4)))
    assert done(course) == [(CordonReplica, "a0")]
    assert pages(course) == [(str(KEY), "F4")]
    assert course.stopped == frozenset()


def test_what_waits_for_a_node_is_none_of_those_that_the_breaker_counts() -> None:
    state = fleet(pool([*some(5).pools[0].replicas, *(replica(f"w{n}", Phase.PENDING) for n in range(20))]))
    assert pages(treated(state, sick("a0", "F1", 900.0), sick("a1", "F1", 900.0))) == [(MODEL, "breaker")]


def test_replicas_frozen_by_one_kind_of_evidence_count_for_the_breaker() -> None:
    frozen = tuple(Anomaly("progress", f"a{i}", KEY, 1.0, AT - 60.0, "") for i in range(3))
    course = treated(some(5), *(sick(f"a{i}", "unknown") for i in range(3)), anomalies=frozen)
    assert pages(course) == [(MODEL, "breaker")]


def test_other_unknowns_do_not_open_the_breaker() -> None:
    assert pages(treated(some(5), *(sick(f"a{i}", "unknown") for i in range(3)))) == []


def test_many_models_with_one_sick_replica_each_open_the_fleets_breaker() -> None:
    keys = [PoolKey(name, "p") for name in "stu"]
    state = fleet(*(pool([replica(f"{key.model}0")], key) for key in keys))
    course = treated(state, *(sick(f"{key.model}0", "F1", key=key) for key in keys))
    assert (done(course), pages(course)) == ([], [("fleet", "breaker")])


def test_one_sick_model_does_not_stop_a_large_fleet() -> None:
    other = pool(20, PoolKey("n", "p"))
    state = fleet(*some(4).pools, other)
    course = treated(state, sick("a0", "F1"), sick("a1", "F1"), sick("p0", "F1", key=other.key))
    assert (done(course), pages(course)) == ([(CordonReplica, "p0")], [(MODEL, "breaker")])


def test_a_model_that_its_own_breaker_stopped_does_not_stop_the_others() -> None:
    big = pool(6, PoolKey("big", "z"))
    state = fleet(*some(6).pools, big)
    frozen = tuple(Anomaly("progress", f"z{i}", big.key, 1.0, AT - 60.0, "") for i in range(6))
    unknown = [sick(f"z{i}", "unknown", key=big.key) for i in range(6)]
    course = treated(state, *unknown, sick("a0", "F1"), anomalies=frozen)
    assert (done(course), pages(course)) == ([(CordonReplica, "a0")], [("big", "breaker")])
    assert course.stopped == {"big"}


def test_two_replicas_with_one_id_are_told_apart() -> None:
    twin = pool([replica("a0", cordoned=True), replica("a1")], PoolKey("n", "a"))
    state = fleet(*some(6).pools, twin)
    memory = PolicyMemory(cordons={twin.key.replica("a0"): CordonMemory(AT - 900.0, "F1", "a0#0", 1.0, 1.0)})
    course = treated(state, sick("a0", "F1"), memory=memory)
    assert [(type(r), r.pool) for r in course.remediations if not isinstance(r, Page | FailOver)] == [
        (CordonReplica, KEY),
        (UncordonReplica, twin.key),
    ]
    assert set(course.cordons) == {A0, twin.key.replica("a0")}


def test_an_open_breaker_still_gives_traffic_back() -> None:
    state = some(5, cordoned=True)
    moved = {**remembered(state), A0: replace(remembered(state)[A0], steps_total=2000.0)}
    course = treated(state, sick("a1", "F1"), sick("a2", "F1"), memory=cordoned("F1"), seen=moved)
    assert done(course) == [(UncordonReplica, "a0")]


def test_an_open_breaker_restarts_nothing_that_is_out_already() -> None:
    state = some(5, cordoned=True, in_flight_requests=0.0)
    memory = cordoned("F8", 900.0)
    course = treated(state, sick("a1", "F1"), sick("a2", "F1"), memory=memory, seen=remembered(state, slow_at=(AT,)))
    assert done(course) == []


# what the planner must not count on


def test_cordoned_and_hung_replicas_are_lost_to_the_planner() -> None:
    assert treated(some(), sick("a0", "F1")).lost[str(KEY)] == 1
    assert treated(some(cordoned=True), memory=cordoned("F1")).lost[str(KEY)] == 1


def test_a_replica_that_is_given_back_is_not_lost() -> None:
    state = some(cordoned=True)
    assert treated(state, memory=cordoned("F1"), seen=remembered(state, steps_total=2000.0)).lost[str(KEY)] == 0


def test_a_first_exit_is_not_lost_and_a_repeated_one_is() -> None:
    assert treated(some(phase=Phase.FAILED, restarts=1), sick("a0", "F2")).lost[str(KEY)] == 0
    assert treated(some(phase=Phase.FAILED, restarts=2), sick("a0", "F2")).lost[str(KEY)] == 1


def test_replicas_that_all_keep_exiting_are_not_made_good_by_more_of_them() -> None:
    looping = fleet(pool([replica(f"a{i}", Phase.FAILED, restarts=5) for i in range(4)]))
    assert treated(looping, *(sick(f"a{i}", "F2") for i in range(4))).lost[str(KEY)] == 0


def test_loss_is_counted_where_it_is() -> None:
    state = fleet(pool([replica("a0", cordoned=True), replica("a1")]), pool(2, OTHER))
    assert treated(state).lost == {str(KEY): 1, str(OTHER): 0}


# what was not done is not on record


def test_a_restart_that_was_held_is_unlearned() -> None:
    memory = PolicyMemory(actions=(*restarts(1).actions, *restarts(1, 0.0, target="a0", open=True).actions))
    assert [a.target for a in unlearn(memory, [("restart", A0)], []).actions] == ["gone"]


def test_a_cordon_that_was_held_is_unlearned() -> None:
    """Else a cordon of somebody else's would look like ours."""
    memory = replace(cordoned("F1"), cordons={**cordoned("F1").cordons, KEY.replica("a1"): CordonMemory(AT, "F1", "x")})
    assert set(unlearn(memory, [("cordon", A0)], []).cordons) == {KEY.replica("a1")}
    assert unlearn(memory, [("uncordon", A0), ("restart", A0)], []) == memory


def test_a_page_that_was_not_delivered_is_sent_again() -> None:
    memory = PolicyMemory(pages={"m breaker": AT, "m F1": AT})
    assert unlearn(memory, [], [("m", "breaker")]).pages == {"m F1": AT}


# errors


ERRORS = ("answers", "cohort")
COUNTED = {"answered_requests_total": 100.0, "failed_answers_total": 40.0}


def failing(name: str, *families: str) -> Diagnosis:
    return replace(sick(name, "F2"), families=families or ERRORS)


def test_a_replica_that_answers_with_errors_is_taken_out_once_enough_others_serve() -> None:
    course = treated(some(**COUNTED), failing("a0"))
    assert (done(course), course.lost[str(KEY)]) == ([(CordonReplica, "a0")], 1)
    assert course.cordons[A0].cause == "F2"
    course = treated(some(4, **COUNTED), failing("a0"), least=4)
    assert (done(course), rules(course), course.lost[str(KEY)]) == ([], ["serving floor"], 1)


def test_replicas_that_fail_too_are_no_help_to_the_one_that_is_taken_out() -> None:
    settings = HealingSettings(breaker_ratio=1.0)
    assert done(treated(some(3, **COUNTED), failing("a0"), settings=settings)) == [(CordonReplica, "a0")]
    course = treated(some(3, **COUNTED), failing("a0"), failing("a1"), settings=settings)
    assert (done(course), rules(course)) == ([], ["serving floor", "serving floor"])


def test_many_that_fail_at_once_are_left_to_a_human() -> None:
    course = treated(some(5), failing("a0"), failing("a1"))
    assert (done(course), pages(course)) == ([], [(MODEL, "breaker")])


def failed_and_out(in_flight: float = 3.0, ago_s: float = 60.0, counted: float = 40.0, **seen: Any) -> Course:
    state = some(cordoned=True, in_flight_requests=in_flight, failed_answers_total=counted)
    return treated(state, memory=cordoned("F2", ago_s), seen=remembered(state, **seen))


def test_a_replica_that_failed_is_restarted_when_empty_or_after_the_deadline() -> None:
    assert done(failed_and_out(3.0, 119.0)) == []
    assert done(failed_and_out(0.0, 15.0)) == [(RestartReplica, "a0")]
    assert done(failed_and_out(3.0, 120.0)) == [(RestartReplica, "a0")]


def test_nothing_that_ends_while_nothing_comes_in_gives_a_replica_that_failed_its_traffic_back() -> None:
    assert done(failed_and_out(3.0, steps_total=2000.0, answered_total=99.0, answered_at=AT)) == []


def test_a_new_life_gives_a_replica_that_failed_its_traffic_back() -> None:
    state = some(cordoned=True, restarts=1, **COUNTED)
    assert done(treated(state, memory=cordoned("F2"))) == [(UncordonReplica, "a0")]


def test_what_only_the_engine_says_of_its_errors_takes_it_out_and_restarts_nothing() -> None:
    course = treated(some(), failing("a0", "errors", "cohort"))
    assert (done(course), pages(course)) == ([(CordonReplica, "a0")], [(A0, "F2")])
    for counted in (math.nan, 0.0):
        course = failed_and_out(0.0, 900.0, counted)
        assert (done(course), rules(course)) == ([], ["restart withheld"])


def test_a_replica_that_failed_and_is_out_counts_as_under_repair() -> None:
    state = some(9, cordoned=True, **COUNTED)
    course = treated(state, failing("a1"), memory=cordoned("F2", 10.0))
    assert (done(course), "disruption budget" in rules(course)) == ([], True)


# A replica alone, and a revision on trial


def alone(*families: str) -> Diagnosis:
    return replace(sick("a0", "F2"), families=("answers", "errors", *families), name="errors")


def test_a_replica_that_fails_alone_gets_a_peer_and_is_left_in_traffic_until_that_has_shown_who_is_at_fault() -> None:
    first = treated(some(1, failed_answers_total=9.0), alone("record"))
    assert (done(first), pages(first)) == ([], [(A0, "F2")])
    assert first.holding == {KEY: {"one more", "shrinking"}}
    assert first.lost[str(KEY)] == 1
    two, memory = some(2, failed_answers_total=9.0), PolicyMemory(runs=first.runs, pages=first.pages)
    assert done(treated(two, alone("record"), memory=memory)) == []
    assert done(treated(two, alone("cohort"), memory=memory)) == [(CordonReplica, "a0")]
    alike = treated(two, memory=memory)
    assert (done(alike), alike.runs, alike.holding) == ([], {}, {})


def rollout(served_s: float) -> FleetState:
    """Five replicas of the revision before, one of a new one that hangs, and one more of that which is well so far."""
    new = [
        replica("a0", revision="2", since_at=AT - 400.0, cordoned=True),
        replica("a9", revision="2", since_at=AT - served_s),
    ]
    return fleet(replace(pool([*new, *(replica(f"a{i}") for i in range(1, 6))]), revision="2", revisions=("1", "2")))


def of_a_rollout(served_s: float) -> Course:
    revisions = {"1": RevisionMemory(AT - 9e3, 5e3, AT), "2": RevisionMemory(AT - 700.0, 0.0, AT)}
    memory = replace(cordoned("F1"), pools={str(KEY): PoolMemory(revisions=revisions)})
    hang = replace(sick("a0", "F1", since_s=150.0), name="hang")
    return treated(rollout(served_s), hang, memory=memory)


def test_what_hangs_of_a_revision_on_trial_is_not_restarted_before_another_one_has_shown_that_it_is_well() -> None:
    waits = of_a_rollout(served_s=300.0)
    assert (done(waits), waits.holding) == ([], {KEY: {"growth"}})
    assert "revision on trial" in rules(waits)
    proven = of_a_rollout(served_s=400.0)
    assert (done(proven), proven.holding) == ([(RestartReplica, "a0")], {})


@pytest.mark.parametrize(
    ("signs", "holding"),
    [
        ({SLOW_SIGN: (AT - 15.0, AT)}, {KEY: {"growth"}}),
        ({ERRORS_SIGN: (AT,)}, {KEY: {"growth"}}),
        ({SLOW_SIGN: (AT - 15.0,)}, {}),  # not at this look
        ({"queue": (AT,)}, {}),
    ],
)
def test_a_pool_does_not_grow_by_a_revision_on_trial_that_looks_worse(signs: Any, holding: Any) -> None:
    revisions = {"1": RevisionMemory(AT - 9e3, 5e3, AT), "2": RevisionMemory(AT - 700.0, 0.0, AT)}
    memory = PolicyMemory(pools={str(KEY): PoolMemory(revisions=revisions, signs=signs)})
    course = treated(rollout(100.0), memory=memory)
    assert course.holding == holding
    assert ("revision on trial" in rules(course)) is bool(holding)
    proven = {**revisions, "2": replace(revisions["2"], healthy_s=SETTINGS.good_after_s)}
    memory = PolicyMemory(pools={str(KEY): PoolMemory(revisions=proven, signs=signs)})
    assert treated(rollout(100.0), memory=memory).holding == {}
