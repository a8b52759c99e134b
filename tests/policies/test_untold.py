"""Is a pool that the platform cannot be asked about left as it was, while what is measured of it goes on counting?"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

from policies.decide import decide
from policies.decisions import Decision, FailOver, Page, RestartReplica, UncordonReplica
from policies.fleet import Phase, PoolState, ReplicaState
from policies.healing_memory import CordonMemory
from policies.memory import PolicyMemory, PoolMemory
from policies.settings import PolicySettings
from policies.stabilization import StabilizationSettings
from tests.builders import AT, KEY, MODEL, OTHER, demand, desired, fleet, metrics, pool, replica, rules, settings
from tests.builders_evidence import Examiner, alike, of_pool, working
from tests.policies.test_failover import SPARE, failing, judge, some
from tests.policies.test_healing import cordoned, done, pages, remembered, sick, treated

BOTH = settings(KEY, OTHER, stabilization=StabilizationSettings(down_window_s=0.0, unforecast_down_window_s=0.0))


def untold(state: PoolState, for_s: float = 60.0, at: float = AT) -> PoolState:
    return replace(state, last_told_at=at - for_s)


def decided(*pools: PoolState, requests_per_s: float, memory: PolicyMemory | None = None, at: float = AT) -> Decision:
    return decide(fleet(*pools, at=at, requests_per_s=requests_per_s), {}, memory or PolicyMemory(), BOTH)


def silent(count: int, key: PoolState) -> list[ReplicaState]:
    return [replace(one, metrics=None, in_flight_requests=math.nan) for one in key.replicas[:count]]


def test_its_count_is_left_alone_and_counted_on_while_others_grow() -> None:
    held = untold(pool(4, OTHER, weight=0.5))
    decision = decided(pool(1, KEY, weight=0.5), held, requests_per_s=28.0)
    assert (desired(decision, OTHER), desired(decision, KEY)) == (None, 3)  # 7 replicas are needed, 4 are there
    assert [(r.subject, r.detail) for r in decision.reasons if r.rule == "untold"] == [
        (str(OTHER), "the platform last told of it 60 s ago: left as it was")
    ]


def test_what_nobody_tells_of_lets_no_other_pool_of_its_model_shrink() -> None:
    quiet = untold(pool(silent(2, pool(2, OTHER)), OTHER, weight=0.5))
    many = pool(8, KEY, weight=0.5)
    small = PolicyMemory(pools={str(KEY): PoolMemory(targets=((AT - 500.0, 1), (AT - 60.0, 1)))})
    assert desired(decided(many, quiet, requests_per_s=4.0, memory=small), KEY) is None
    told = replace(quiet, last_told_at=math.nan)  # 2 of 10 are too few to make a model blind
    reporting = untold(pool(2, OTHER, weight=0.5))
    for seen in (told, reporting):
        assert (desired(decided(many, seen, requests_per_s=4.0, memory=small), KEY) or 8) < 8


def test_a_start_that_was_under_way_when_it_was_last_seen_is_not_called_overdue() -> None:
    late = replica("b2", Phase.LOADING, requested_at=AT - 50_000.0, since_at=AT - 50_000.0)
    state = pool([replica("b0"), replica("b1"), late], OTHER, weight=0.5)
    told, held = (decided(pool(3, weight=0.5), one, requests_per_s=20.0) for one in (state, untold(state)))
    assert [d.name for d in told.diagnoses] == ["start-overdue"]
    assert [d.name for d in held.diagnoses] == ["unknown"]
    assert (told.remediations != (), held.remediations) == (True, ())


def test_a_replica_that_hangs_there_is_neither_cordoned_nor_restarted_until_it_can_be() -> None:
    hung = sick("a0", "F1", 120.0)
    state = fleet(pool([replica(f"a{i}") for i in range(6)]))
    held = replace(state, pools=(untold(state.pools[0]),))
    assert done(treated(state, hung)) != []
    assert (done(treated(held, hung)), treated(held, hung).runs) == ([], {})
    out = fleet(pool([replica("a0", cordoned=True), *(replica(f"a{i}") for i in range(1, 6))]))
    waiting = treated(out, sick("a0", "F1", 119.0), memory=cordoned("F1"))
    memory = replace(cordoned("F1"), runs=waiting.runs)
    held = replace(out, pools=(untold(out.pools[0]),))
    course = treated(held, hung, memory=memory)
    assert (done(course), pages(course), course.runs, course.cordons) == ([], [], waiting.runs, waiting.cordons)
    assert [type(act) for act in treated(out, hung, memory=replace(memory, runs=course.runs)).remediations] == [
        RestartReplica
    ]


def test_a_playbook_that_would_act_waits_where_it_is() -> None:
    state = fleet(pool([replica("a0", cordoned=True), *(replica(f"a{i}") for i in range(1, 6))]))
    began = treated(state, sick("a0", "F1", 60.0), memory=cordoned("F1"))
    memory = replace(cordoned("F1"), runs=began.runs)
    moved = remembered(state, steps_total=1001.0)  # it goes on: its traffic is to come back
    held = replace(state, pools=(untold(state.pools[0]),))
    course = treated(held, memory=memory, seen=moved)
    assert (done(course), course.runs) == ([], began.runs)
    assert done(treated(state, memory=replace(memory, runs=course.runs), seen=moved)) == [(UncordonReplica, "a0")]


def test_cordons_of_a_pool_that_is_no_longer_ours_are_not_lifted_there() -> None:
    state = fleet(pool([replica("a0", cordoned=True), replica("a1")]))
    memory = PolicyMemory(cordons={KEY.replica("a0"): CordonMemory(AT - 60.0, "F1", "a0#0", 1000.0, 2e4)})
    assert done(treated(state, memory=memory, ours=())) != []
    assert done(treated(replace(state, pools=(untold(state.pools[0]),)), memory=memory, ours=())) == []


def test_a_region_that_is_lost_to_gateway_metrics_and_platform_alike_is_given_up() -> None:
    """The gateway's word is enough only together with silence from everybody else."""

    def lost(after_s: float) -> list[ReplicaState]:
        if after_s <= 120.0:
            return alike(6, after_s)
        return alike(
            6, after_s, metrics=None, unreached_requests_total=10.0 * (after_s - 120.0), answered_requests_total=160.0,
            in_flight_requests=0.0,
        )  # fmt: skip

    def held(replicas: Callable[[float], list[ReplicaState]]) -> Callable[[float], PoolState]:
        def shown(after_s: float) -> PoolState:
            there = pool(replicas(after_s))
            return untold(there, after_s - 120.0, AT + after_s) if after_s > 120.0 else there

        return shown

    def quiet(after_s: float) -> list[ReplicaState]:
        return [replace(one, metrics=None) if after_s > 120.0 else one for one in alike(6, after_s)]

    assert "unreachable" not in of_pool(Examiner().over(300.0, lost))
    assert of_pool(Examiner().over(300.0, held(quiet))) == set()
    found = Examiner().over(300.0, held(lost))
    (diagnosis,) = [d for d in found.diagnoses if not d.subject and d.name == "unreachable"]
    assert diagnosis.families == ("cluster", "gateway", "store")
    assert "its cluster has said nothing for 180 s, and 0 of 6 replicas report" in diagnosis.sentence


def test_traffic_of_a_lost_region_goes_to_the_other_and_its_count_stays() -> None:
    memory, moved, scaled = PolicyMemory(), [], []
    for tick in range(24):
        after_s = 15.0 * tick
        at = AT + after_s
        gone = tick >= 8
        lost = [
            working(f"b{i}", after_s, metrics=None, answered_requests_total=120.0, in_flight_requests=0.0,
                    unreached_requests_total=10.0 * (after_s - 120.0))
            if gone else working(f"b{i}", after_s)
            for i in range(3)
        ]  # fmt: skip
        weights = moved[-1].weights if moved else {KEY: 0.5, OTHER: 0.5}
        here = pool([working(f"a{i}", after_s) for i in range(3)], KEY, weight=weights[KEY])
        there = pool(lost, OTHER, weight=weights[OTHER])
        decision = decided(
            here, untold(there, after_s - 105.0, at) if gone else there, requests_per_s=8.0, memory=memory, at=at
        )
        memory = decision.memory
        moved += decision.traffic
        scaled += [plan for plan in decision.scaling if gone and plan.pool == OTHER]
    assert moved[-1].weights == {KEY: 1.0, OTHER: 0.0}
    assert scaled == []
    assert not any(isinstance(act, FailOver) for act in decision.remediations)


def test_what_was_given_up_stays_so_until_the_platform_tells_that_it_is_sound() -> None:
    out = {str(KEY): PoolMemory(unsound_at=AT - 600.0), str(OTHER): PoolMemory()}
    sound = some(4, weight=0.0)
    assert failing(judge(sound, SPARE, memory=out)) == set()
    held = judge(untold(sound), SPARE, memory=out)
    assert (failing(held), held.moves) == ({"a"}, ())
    assert failing(judge(untold(sound), memory=out)) == set()  # there is no other


def test_what_was_sound_is_not_given_up_for_want_of_data() -> None:
    assert failing(judge(untold(some(0, failed=3)), SPARE)) == set()
    assert failing(judge(some(0, failed=3), SPARE)) == {"a"}


def test_a_revision_does_not_prove_itself_unseen() -> None:
    def proven_s(state: PoolState) -> float:
        memory = PolicyMemory()
        for tick in range(10):
            at = AT + 15.0 * tick
            shown = replace(state, last_told_at=AT) if tick > 4 and state.untold else state
            told = replace(shown, last_told_at=math.nan) if tick <= 4 else shown
            memory = decided(told, requests_per_s=8.0, memory=memory, at=at).memory
        return memory.pools[str(KEY)].revisions["1"].healthy_s

    there = pool([replica("a0", revision="1"), replica("a1", revision="1")])
    assert proven_s(there) == 135.0
    assert proven_s(untold(there)) == 60.0


def test_a_human_is_told_once_it_lasts() -> None:
    after_s = PolicySettings().healing.blind_page_after_s
    told = []
    memory = PolicyMemory()
    for at in (AT, AT + 15.0, AT + 30.0):
        seen = [replace(one, metrics=metrics(at)) for one in pool(3).replicas]
        held = replace(pool(seen), last_told_at=AT + 15.0 - after_s)
        decision = decide(fleet(held, at=at), {}, memory, BOTH)
        memory = decision.memory
        told += [(at, act.subject) for act in decision.remediations if isinstance(act, Page)]
    assert told == [(AT + 15.0, str(KEY))]


def test_demand_of_a_model_is_still_what_is_sized_for() -> None:
    held = untold(pool(2))
    state = replace(fleet(held), demand={MODEL: demand(40.0)})
    assert decide(state, {}, PolicyMemory(), BOTH).scaling == ()
    assert "untold" in rules(decide(state, {}, PolicyMemory(), BOTH))
