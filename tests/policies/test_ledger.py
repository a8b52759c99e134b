"""May it be done now: does every act pass the same gate, whatever a playbook says, and is it on the books after?"""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from policies.decisions import AvoidNode, CordonReplica, PauseRollout, RestartReplica, RollBack, UncordonReplica
from policies.disruption import Refusal
from policies.fleet import FleetState, NodeState, Phase, PoolState
from policies.healing_memory import ActionMemory, CordonMemory
from policies.healing_settings import HealingSettings
from policies.ledger import Ledger
from policies.memory import PoolMemory, RevisionMemory
from tests.builders import AT, KEY, MODEL, OTHER, fleet, pool, replica
from tests.builders_playbooks import A0, BAD, HANG, LEAD_S, a_ledger, some

STRICT = HealingSettings()
ERRORS = replace(HANG, cause="F2", name="errors", families=("answers", "cohort"))
ALONE = replace(HANG, families=("peers", "progress"))
OPEN = ActionMemory("a9", "restart", MODEL, str(KEY), AT - 30.0, AT + 500.0)


def refused(answer: Refusal | None) -> str:
    return "" if answer is None else answer.rule


def first(ledger: Ledger) -> PoolState:
    return ledger.fleet.pools[0]


def cordon(ledger: Ledger, why: object = HANG, which: int = 0) -> str:
    return refused(ledger.cordon(first(ledger), first(ledger).replicas[which], why))  # type: ignore[arg-type]


def restart(ledger: Ledger, which: int = 0) -> str:
    return refused(ledger.restart(first(ledger), first(ledger).replicas[which], HANG, 200.0))


# taking out of traffic


def test_what_hangs_goes_at_once_whatever_is_under_repair_and_however_few_are_left() -> None:
    ledger = a_ledger(fleet(some(1)), STRICT, actions=[OPEN], least=1)
    assert cordon(ledger) == ""
    assert ledger.remedies == [CordonReplica("a0", KEY, "F1")]
    assert ledger.cordons[A0] == CordonMemory(AT, "F1", "a0#0", 1000.0, 2e4, confirmed=True)


@pytest.mark.parametrize("why", [ERRORS, ALONE])
def test_what_may_still_serve_waits_for_others_to_be_well(why: object) -> None:
    assert cordon(a_ledger(settings=STRICT), why) == ""
    assert cordon(a_ledger(settings=STRICT, actions=[OPEN]), why) == "disruption budget"
    assert cordon(a_ledger(settings=STRICT, least=4), why) == "serving floor"
    assert cordon(a_ledger(fleet(some(1)), STRICT), why) == "serving floor"


def test_who_waits_for_the_floor_is_asked_for_elsewhere() -> None:
    ledger = a_ledger(settings=STRICT, least=4)
    cordon(ledger, ERRORS)
    assert (ledger.waiting, ledger.remedies) == ({A0}, [])


def test_the_floor_counts_neither_what_hangs_nor_what_fails_nor_what_goes_at_this_tick() -> None:
    settings = STRICT.model_copy(update={"disruption_budget": 9, "fleet_disruption_budget": 9})
    assert cordon(a_ledger(fleet(some(4)), settings, least=2), ERRORS) == ""
    others = {KEY.replica("a1"), KEY.replica("a2")}
    assert cordon(a_ledger(fleet(some(4)), settings, least=2, hung=others), ERRORS) == "serving floor"
    assert cordon(a_ledger(fleet(some(4)), settings, least=2, failing=others), ERRORS) == "serving floor"
    ledger = a_ledger(fleet(some(4)), settings, least=2)
    assert [cordon(ledger, ERRORS, place) for place in range(3)] == ["", "", "serving floor"]


@pytest.mark.parametrize("why", [HANG, ERRORS])
def test_nothing_goes_while_too_much_looks_sick(why: object) -> None:
    ledger = a_ledger(stopped=frozenset({MODEL}))
    assert cordon(ledger, why) == "breaker"
    assert restart(ledger) == "breaker"
    assert (ledger.remedies, ledger.actions, ledger.cordons) == ([], [], {})


def test_only_what_is_ready_can_be_taken_out_of_traffic() -> None:
    ledger = a_ledger(fleet(some(phase=Phase.LOADING, in_flight_requests=math.nan)))
    assert cordon(ledger) == "not ready"


def test_giving_traffic_back_is_never_refused() -> None:
    ledger = a_ledger(stopped=frozenset({MODEL}), actions=[OPEN])
    ledger.uncordon(first(ledger), first(ledger).replicas[0], "recovered", "it works")
    assert ledger.remedies == [UncordonReplica("a0", KEY, "recovered")]


# restarts


def test_a_restart_is_on_the_books_with_the_time_that_it_may_take() -> None:
    ledger = a_ledger(settings=STRICT)
    assert restart(ledger) == ""
    assert ledger.remedies == [RestartReplica("a0", KEY, "F1")]
    assert ledger.actions == [ActionMemory("a0", "restart", MODEL, str(KEY), AT, AT + 200.0)]
    assert restart(ledger) == "restart under way"


def test_what_is_in_traffic_and_may_serve_is_restarted_only_beside_enough_others() -> None:
    free = STRICT.model_copy(update={"disruption_budget": 9, "fleet_disruption_budget": 9})
    ledger = a_ledger(fleet(some(4)), free, least=2)
    assert [restart(ledger, place) for place in range(3)] == ["", "", "serving floor"]
    assert ledger.waiting == {KEY.replica("a2")}
    ledger.hung.add(KEY.replica("a2"))
    assert restart(ledger, 2) == ""
    assert restart(a_ledger(fleet(some(1, cordoned=True)), STRICT, least=1)) == ""


def test_one_restart_at_a_time_in_a_model_and_so_many_in_the_fleet() -> None:
    ledger = a_ledger(settings=STRICT)
    assert [restart(ledger, 0), restart(ledger, 1)] == ["", "disruption budget"]
    elsewhere = [replace(OPEN, model=f"m{i}", pool=f"m{i}/a/unified") for i in range(3)]
    assert restart(a_ledger(settings=STRICT, actions=elsewhere)) == "fleet disruption budget"


def test_a_replica_out_of_traffic_that_served_is_under_repair_too_but_not_in_its_own_way() -> None:
    out = CordonMemory(AT - 60.0, "F8", "a1#0")
    assert restart(a_ledger(settings=STRICT, cordons={KEY.replica("a1"): out})) == "disruption budget"
    assert restart(a_ledger(settings=STRICT, cordons={A0: out})) == ""
    hung = replace(out, cause="F1")
    assert restart(a_ledger(settings=STRICT, cordons={KEY.replica("a1"): hung})) == ""


def test_what_is_still_loading_is_not_restarted_before_its_time() -> None:
    def begun(ago_s: float) -> FleetState:
        return fleet(some(phase=Phase.LOADING, requested_at=AT - ago_s, in_flight_requests=math.nan))

    assert restart(a_ledger(begun(LEAD_S - 1.0), STRICT)) == "inside its load time"
    assert restart(a_ledger(begun(LEAD_S + 1.0), STRICT)) == ""


def test_what_leaves_anyway_is_not_restarted() -> None:
    assert restart(a_ledger(fleet(some(phase=Phase.DRAINING, in_flight_requests=math.nan)))) == "leaving"


def test_restarts_that_did_not_help_are_spaced_out_and_then_for_a_human() -> None:
    over = replace(OPEN, started_at=AT - 400.0, open=False)
    assert restart(a_ledger(settings=STRICT, actions=[over])) == ""
    assert restart(a_ledger(settings=STRICT, actions=[over, over])) == "cooldown"
    ledger = a_ledger(settings=STRICT, actions=[replace(over, verified=True)] * 4)
    answer = ledger.restart(first(ledger), first(ledger).replicas[0], HANG, 200.0)
    assert answer is not None
    assert (answer.rule, answer.final) == ("attempt cap", True)


# rolling back


GOOD = PoolMemory(revisions={"0": RevisionMemory(AT - 9e3, 5e3, AT - 99.0), "1": RevisionMemory(AT, looked_at=AT)})


def rolling(known: PoolMemory = GOOD, **changes: object) -> Ledger:
    state = replace(some(), revisions=("0", "1"))
    return a_ledger(fleet(state), STRICT, known={str(KEY): known}, **changes)  # type: ignore[arg-type]


def roll_back(ledger: Ledger) -> str:
    return refused(ledger.roll_back(first(ledger), BAD, 500.0))


def test_a_roll_back_goes_to_the_good_revision_and_is_on_the_books() -> None:
    ledger = rolling()
    assert roll_back(ledger) == ""
    assert ledger.remedies == [RollBack(KEY, "0", "1", "F3")]
    assert ledger.actions == [ActionMemory("1", "roll back", MODEL, str(KEY), AT, AT + 500.0)]
    assert roll_back(ledger) == "roll-back under way"


def test_a_revision_is_rolled_back_once_ever() -> None:
    tried = ActionMemory("1", "roll back", MODEL, str(KEY), AT - 900.0, AT, open=False)
    assert roll_back(rolling(actions=[tried])) == "rolled back before"
    left = replace(GOOD, revisions={**GOOD.revisions, "1": RevisionMemory(AT, looked_at=AT, rolled_back_at=AT - 1e5)})
    assert roll_back(rolling(left)) == "rolled back before"
    assert roll_back(rolling(actions=[replace(tried, target="7")])) == ""


def test_without_a_good_revision_nothing_is_rolled_back() -> None:
    ledger = rolling(PoolMemory())
    answer = ledger.roll_back(first(ledger), BAD, 500.0)
    assert answer is not None
    assert (answer.rule, answer.final, ledger.remedies) == ("no good revision", True, [])


def test_a_roll_back_waits_for_repairs() -> None:
    assert roll_back(rolling(actions=[OPEN])) == "disruption budget"


@pytest.mark.parametrize(("revision", "answer"), [("1", ""), ("0", "disruption budget")])
def test_a_roll_back_does_not_wait_for_what_it_replaces(revision: str, answer: str) -> None:
    state = some(cordoned=True, revision=revision)
    cordons = {A0: CordonMemory(AT - 60.0, "F2", "a0#0")}
    ledger = rolling(cordons=cordons)
    there = replace(first(ledger), replicas=state.replicas)
    ledger = replace(ledger, fleet=fleet(there))
    assert roll_back(ledger) == answer


def test_what_hangs_on_a_gpu_at_fault_goes_at_once_and_what_is_slow_there_only_with_enough_others() -> None:
    hangs = replace(HANG, cause="F9", name="hardware", families=("gateway", "gpu", "progress"))
    slow = replace(hangs, families=("gpu", "latency", "peers"))
    assert cordon(a_ledger(settings=STRICT, least=4), hangs) == ""
    assert cordon(a_ledger(settings=STRICT, least=4), slow) == "serving floor"


def test_a_rollout_may_be_paused_at_any_time() -> None:
    ledger = rolling(stopped=frozenset({MODEL}), actions=[OPEN])
    assert refused(ledger.pause(first(ledger), BAD)) == ""
    assert refused(ledger.resume(first(ledger), BAD)) == ""
    assert ledger.remedies[0] == PauseRollout(KEY, "F3")


# nodes


def on_nodes(avoided: int, of: int, **changes: object) -> Ledger:
    nodes = {f"n{i}": NodeState(ready=True, since_at=AT - 9e3, avoided=0 < i <= avoided) for i in range(of)}
    settings = HealingSettings(**{"may_avoid_nodes": True, **changes})  # type: ignore[arg-type]
    return a_ledger(fleet(some(node="n0"), nodes=nodes), settings)


def avoid(ledger: Ledger) -> str:
    return refused(ledger.avoid_node(first(ledger).replicas[0], HANG))


def test_a_node_is_avoided_only_where_that_is_allowed() -> None:
    assert avoid(on_nodes(0, 4)) == ""
    assert avoid(on_nodes(0, 4, may_avoid_nodes=False)) == "not enabled"
    assert avoid(a_ledger(fleet(some(node="n0")), on_nodes(0, 1).settings)) == "unknown node"  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("avoided", "of", "rule"), [(0, 1, ""), (1, 4, "node budget"), (1, 20, ""), (2, 20, "node budget")]
)
def test_no_more_than_a_share_of_all_nodes_is_avoided(avoided: int, of: int, rule: str) -> None:
    assert avoid(on_nodes(avoided, of)) == rule


def test_what_is_asked_for_at_this_tick_counts_too_and_each_node_once() -> None:
    nodes = {f"n{i}": NodeState(ready=True, since_at=AT) for i in range(4)}
    state = fleet(pool([replica(f"a{i}", node=node) for i, node in enumerate(("n0", "n1", "n0"))]), nodes=nodes)
    ledger = a_ledger(state, HealingSettings(may_avoid_nodes=True))
    answers = [refused(ledger.avoid_node(each, HANG)) for each in first(ledger).replicas]
    assert answers == ["", "node budget", ""]
    assert ledger.remedies == [AvoidNode("n0", "F1")]


# what is said


def test_every_act_leaves_a_reason_and_every_page_too() -> None:
    ledger = a_ledger(fleet(some(), pool(2, OTHER)))
    cordon(ledger)
    restart(ledger)
    ledger.page(A0, HANG, "look")
    assert [reason.rule for reason in ledger.reasons] == ["cordon", "restart", "needs a human"]
    assert all("it stands still" in reason.detail for reason in ledger.reasons)
    assert ledger.pages[0].message == "a0: it stands still; look"
