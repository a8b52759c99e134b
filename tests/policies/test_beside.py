"""Is what happened shortly before a trouble told with it, and does our own movement stop where it made one?"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

from controller.ports import TickRecord
from policies.beside import correlated, held_movements, with_moves
from policies.decisions import Diagnosis
from policies.fleet import FleetState, NodeState, PoolState
from policies.healing_memory import ActionMemory, CordonMemory, MoveMemory
from policies.memory import PolicyMemory, PoolMemory, RevisionMemory
from policies.set_back import follow_clock
from policies.traffic import TrafficSettings, weigh
from tests.builders import AT, KEY, MODEL, OTHER, a_bench, demand, fleet, option, pool, replica
from tests.builders_playbooks import A0, some

FULL = Diagnosis("F7", "", KEY, AT, ("queue", "throughput"), "it is full", scope="pool", name="overload")
SLOW = Diagnosis("F8", "a0", KEY, AT, ("latency", "peers"), "it is slow", name="straggler")
MORE = MoveMemory("traffic", AT - 120.0, AT - 35.0, 0.3, 0.5, ours=True)
FEWER = MoveMemory("size", AT - 90.0, AT - 90.0, 8, 6, ours=True)


def told(diagnosis: Diagnosis, *moves: MoveMemory, state: FleetState | None = None, **known: Any) -> Diagnosis:
    memory = PolicyMemory(actions=known.pop("actions", ()), cordons=known.pop("cordons", {}))
    state = state or fleet(some())
    pools = {str(p.key): PoolMemory(moves=moves, **known) for p in state.pools}
    return correlated(state, [diagnosis], memory, pools)[0][0]


def test_nothing_that_happened_is_nothing_told() -> None:
    assert told(FULL) is FULL
    assert FULL.told == FULL.sentence


def test_a_rollout_is_told_with_how_long_before_it_began() -> None:
    revisions = {"7": RevisionMemory(AT - 9e4), "8": RevisionMemory(AT - 35.0)}
    state = fleet(replace(some(), revision="8"))
    assert told(FULL, state=state, revisions=revisions).beside == ("35 s after revision 8 began",)
    platform = fleet(replace(some(), revision="8", revision_at=AT - 40.0))
    assert told(FULL, state=platform, revisions=revisions).beside == ("40 s after revision 8 began",)
    assert told(FULL, state=state, revisions={"8": RevisionMemory(AT - 35.0)}).beside == ()  # it replaced none


def test_our_acts_are_told_and_whom_they_were_done_to() -> None:
    acts = (
        ActionMemory("a0", "restart", MODEL, str(KEY), AT - 150.0, AT),
        ActionMemory("8", "roll back", MODEL, str(KEY), AT - 50.0, AT),
        ActionMemory("b0", "restart", MODEL, str(OTHER), AT - 50.0, AT),
    )
    assert told(SLOW, actions=acts).beside == ("50 s after we rolled back revision 8", "2 min after we restarted it")
    assert told(FULL, actions=acts[:1]).beside == ("2 min after we restarted a0",)
    out = {A0: CordonMemory(AT - 20.0, "F8", "a0#0"), KEY.replica("a1"): CordonMemory(AT - 30.0, "F8", "a1#0")}
    assert told(SLOW, cordons=out).beside == (
        "20 s after we took it out of traffic",
        "30 s after we took a1 out of traffic",
    )


def test_a_node_that_went_not_ready_is_told_of_what_is_on_it() -> None:
    members = [replica("a0", node="n0"), replica("a1", node="n1")]
    nodes = {"n0": NodeState(ready=True, since_at=AT - 9.0), "n1": NodeState(ready=False, since_at=AT - 45.0)}
    state = replace(fleet(pool(members)), nodes=nodes)
    assert told(FULL, state=state).beside == ("45 s after node n1 went not ready",)
    assert told(SLOW, state=state).beside == ()


def test_what_came_long_before_or_after_is_not_told() -> None:
    early = replace(FEWER, began_at=AT - 601.0, at=AT - 601.0)
    late = replace(MORE, began_at=AT + 1.0, at=AT + 1.0)
    assert told(FULL, early, late).beside == ()


def test_the_latest_few_are_told() -> None:
    acts = tuple(ActionMemory(f"a{n}", "restart", MODEL, str(KEY), AT - 10.0 * n, AT) for n in range(1, 9))
    assert told(FULL, actions=acts).beside == tuple(f"{10 * n} s after we restarted a{n}" for n in (1, 2, 3))


@pytest.mark.parametrize(
    ("move", "words", "ours"),
    [
        (MORE, "35 s after we moved 20% of the traffic here", "traffic"),
        (replace(MORE, after=0.1), "35 s after we moved 20% of the traffic away from here", ""),
        (replace(MORE, ours=False), "35 s after somebody else moved 20% of the traffic here", ""),
        (replace(MORE, at=AT + 60.0), "2 min after we moved 20% of the traffic here", "traffic"),
        (replace(MORE, began_at=AT - 301.0, at=AT - 301.0), "5 min after we moved 20% of the traffic here", ""),
        (FEWER, "90 s after we gave up 2 replicas", "size"),
        (replace(FEWER, after=7), "90 s after we gave up 1 replica", "size"),
        (replace(FEWER, after=9), "90 s after we asked for 1 replica more", ""),
    ],
)
def test_a_movement_is_told_and_is_ours_when_we_gave_the_pool_more_to_do(
    move: MoveMemory, words: str, ours: str
) -> None:
    found = told(FULL, move)
    assert (found.beside, found.ours) == ((words,), ours)
    assert ("that may be why" in found.told) == bool(ours)


def test_only_a_pool_with_too_much_to_do_is_put_down_to_a_movement() -> None:
    assert told(SLOW, MORE).ours == ""
    for name in ("metrics-lost", "node-trouble", "bad-revision", "unreachable"):
        assert told(replace(FULL, name=name), FEWER).ours == ""
    assert held_movements([told(SLOW, MORE), told(FULL, MORE)]).keys() == {KEY}


def test_what_was_told_first_stands_as_long_as_the_trouble_does() -> None:
    state = fleet(some())
    (found,), pools = correlated(state, [FULL], PolicyMemory(), {str(KEY): PoolMemory(moves=(FEWER,))})
    assert found.ours == "size"
    for tick in range(1, 90):  # the first evidence is always that of the last two minutes
        state = replace(state, at=AT + 15.0 * tick)
        known = {str(KEY): replace(pools[str(KEY)], moves=())}
        (later,), pools = correlated(state, [replace(FULL, since_at=state.at - 120.0)], PolicyMemory(), known)
        assert (later.beside, later.ours) == (found.beside, found.ours)
    _, pools = correlated(replace(state, at=state.at + 90.0), [], PolicyMemory(), pools)
    assert pools[str(KEY)].troubles
    _, pools = correlated(replace(state, at=state.at + 135.0), [], PolicyMemory(), pools)
    assert not pools[str(KEY)].troubles
    (new,), _ = correlated(replace(state, at=state.at + 150.0), [FULL], PolicyMemory(), pools)
    assert (new.beside, new.ours) == ((), "")


# movements


def looked(known: PoolMemory, at: float, state: PoolState) -> PoolMemory:
    return replace(with_moves(state, known, at), listed_at=at)


def test_a_movement_is_remembered_as_ours_when_it_came_about_as_asked() -> None:
    state = replace(some(), weight=0.3, desired=4)
    known = looked(PoolMemory(), AT, state)
    assert known.moves == ()
    asked = replace(known, asked_weight=0.5, desired=((AT, 4),))
    known = looked(asked, AT + 15.0, replace(state, weight=0.5))
    assert known.moves == (MoveMemory("traffic", AT, AT, 0.3, 0.5, ours=True),)
    known = looked(asked, AT + 15.0, replace(state, desired=2))
    assert known.moves == (MoveMemory("size", AT, AT, 4, 2, ours=False),)
    known = looked(replace(asked, desired=((AT, 2),)), AT + 15.0, replace(state, desired=2))
    assert known.moves == (MoveMemory("size", AT, AT, 4, 2, ours=True),)


def test_what_a_mode_held_or_cannot_be_read_is_no_movement() -> None:
    state = replace(some(), weight=0.3, desired=4)
    known = replace(looked(PoolMemory(), AT, state), asked_weight=0.5, desired=((AT, 2),))
    assert looked(known, AT + 15.0, state).moves == ()
    dark = looked(known, AT + 15.0, replace(state, weight=math.nan))
    assert (dark.moves, dark.weight) == ((), 0.3)


def test_steps_of_one_direction_are_one_movement_and_few_are_kept() -> None:
    known, state = PoolMemory(), replace(some(), weight=0.1)
    for tick, weight in enumerate((0.1, 0.3, 0.5, 0.7, 0.6, 0.9, 0.2)):
        known = replace(looked(known, AT + 15.0 * tick, replace(state, weight=weight)), asked_weight=weight)
        known = replace(known, asked_weight=(0.3, 0.5, 0.7, 0.6, 0.9, 0.2, 0.2)[tick])
    assert [(move.before, move.after, move.ours) for move in known.moves] == [(0.6, 0.9, True), (0.9, 0.2, True)]
    assert looked(known, AT + 2000.0, replace(state, weight=0.2)).moves == ()
    known = looked(looked(PoolMemory(), AT, state), AT + 15.0, replace(state, weight=0.3))
    known = looked(known, AT + 30.0, replace(state, weight=0.5))
    assert [(m.began_at - AT, m.at - AT, m.before, m.after) for m in known.moves] == [(0.0, 15.0, 0.1, 0.5)]


def test_movements_go_with_a_clock_that_is_set_back_and_through_json() -> None:
    memory = PolicyMemory(pools={str(KEY): PoolMemory(moves=(MORE,), weight=0.5, size=4)}, decided_at=AT)
    moved, _ = follow_clock(memory, AT - 100.0)
    assert moved.pools[str(KEY)].moves[0].at == MORE.at - 100.0
    assert PolicyMemory.from_json(memory.to_json()) == memory


# the next step


def test_no_more_traffic_goes_to_a_pool_that_got_into_trouble_by_it() -> None:
    options = option(pool(2, KEY, weight=0.6)), option(pool(6, OTHER, weight=0.4))
    state = fleet(*(o.state for o in options))
    before = {KEY: 0.6, OTHER: 0.4}
    after, why = weigh(state, MODEL, options, TrafficSettings(), (OTHER,))
    assert (after, [reason.rule for reason in why]) == (before, ["traffic held"])
    assert weigh(state, MODEL, options, TrafficSettings(), (KEY,))[0][KEY] < 0.6  # it may be relieved
    dead = option(pool(0, KEY, weight=0.6)), option(pool(6, OTHER, weight=0.4))
    all_of_it = weigh(fleet(*(o.state for o in dead)), MODEL, dead, TrafficSettings(), (OTHER,))[0]
    assert all_of_it == {KEY: 0.0, OTHER: 1.0}  # there is no other place


def test_a_pool_that_is_full_after_it_shrank_shrinks_no_further_until_that_is_over() -> None:
    bench = a_bench(pool(16))

    def run(ticks: int, queued: float) -> list[TickRecord]:
        records = []
        for _ in range(ticks):
            seen = bench.metrics.answer
            assert seen is not None
            told = {
                name: replace(
                    m, observed_at=bench.clock.at, queued_requests=queued,
                    steps_total=m.steps_total + 100.0, output_tokens_total=m.output_tokens_total + 5e3,
                )
                for name, m in seen.replicas.items()
            }  # fmt: skip
            bench.metrics.answer = replace(seen, replicas=told, demand={MODEL: demand(8.0)})
            records.append(bench.tick())
            bench.clock.at += 15.0
        return records

    def size() -> int:
        return bench.cluster.states[KEY].desired

    while size() == 16:
        run(1, queued=0.0)
    shrunk = size()
    records = run(12, queued=1.0)
    full = [r for r in records if r.decision and any(d.ours == "size" for d in r.decision.diagnoses)]
    assert full
    decided = full[0].decision
    assert decided is not None
    (diagnosis,) = [d for d in decided.diagnoses if d.name == "overload"]
    assert f"after we gave up {16 - shrunk} replicas" in diagnosis.told
    after = size()
    later = run(20, queued=1.0)
    assert size() == after
    held = [reason.detail for r in later if r.decision for reason in r.decision.reasons if reason.rule == "no shrink"]
    assert held
    assert all("got into trouble right after it had given up replicas" in detail for detail in held)
    run(40, queued=0.0)
    assert size() < after
