"""Is every fact that a playbook may ask for answered, true and false, and never on what is not known?"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies import conditions
from policies.conditions import Subject
from policies.disagreement import Disagreement
from policies.facts import FACTS, MOST, MOST_DEPTH, Condition
from policies.fleet import NodeState, Phase
from policies.healing_memory import ActionMemory, CordonMemory
from policies.lead_time import LeadTime
from policies.memory import FailureMemory, PoolMemory, RevisionMemory
from tests.builders import AT, KEY, MODEL, fleet, metrics
from tests.builders_playbooks import A0, BAD, FREE, HANG, LEAD_S, a_ledger, a_run, a_subject, is_so, remembered, some

ANSWERS = {**conditions._SO, **conditions._QUANTITIES}


def test_the_vocabulary_and_the_evaluators_name_the_same_facts() -> None:
    assert set(conditions._SO) == {name for name, fact in FACTS.items() if not fact.unit}
    assert set(conditions._QUANTITIES) == {name for name, fact in FACTS.items() if fact.unit}


def test_every_fact_has_a_meaning_and_a_scope() -> None:
    for name, fact in FACTS.items():
        assert fact.meaning, name
        assert fact.scopes, name


def about_a0(
    diagnosis: Any = HANG, cordon: CordonMemory | None = None, seen: dict[str, Any] | None = None, **first: Any
) -> Subject:
    """The replica ``a0``, which is as told; ``seen`` is what was last seen of it."""
    state = fleet(some(**first))
    cordons = {} if cordon is None else {A0: cordon}
    return a_subject(a_ledger(state, seen=remembered(state, **(seen or {})), cordons=cordons), diagnosis, about=HANG)


def about_pool(known: PoolMemory | None = None, diagnosis: Any = BAD, **changes: Any) -> Subject:
    """The pool, which is as told."""
    state = replace(some(), **changes)
    return a_subject(a_ledger(fleet(state), known={str(KEY): known or PoolMemory()}), diagnosis, about=BAD)


def gone() -> Subject:
    """A replica that is not there any more."""
    state = fleet(some())
    rest = replace(state.pools[0], replicas=state.pools[0].replicas[1:])
    return a_subject(a_ledger(fleet(rest)), None, about=HANG)


def blind(cordon: CordonMemory | None = None) -> Subject:
    """A replica whose metrics are not fresh, and of which the gateway says nothing."""
    state = fleet(some(metrics=None, in_flight_requests=math.nan))
    cordons = {} if cordon is None else {A0: cordon}
    return a_subject(a_ledger(state, seen={}, fresh=(), cordons=cordons), None, about=HANG)


OURS = CordonMemory(AT - 200.0, "F1", "a0#0", 1000.0, 2e4, confirmed=True)
GOOD = PoolMemory(revisions={"0": RevisionMemory(AT - 9e3, 5e3, AT - 100.0), "1": RevisionMemory(AT - 90.0, 0, AT)})
TRIED = ActionMemory("1", "roll back", MODEL, str(KEY), AT - 500.0, AT, open=False)
ELSEWHERE = ActionMemory("a9", "restart", MODEL, str(KEY), AT - 500.0, AT, open=False, node="n1")


def on_node(faults: tuple[str, ...] = (), **changes: Any) -> Subject:
    node = NodeState(**{"ready": True, "since_at": AT - 9e3, **changes})
    state = fleet(some(node="n1"), nodes={"n1": node})
    ledger = a_ledger(state)
    ledger.gpu_faults = frozenset(faults)
    return a_subject(ledger)


def with_act(act: ActionMemory, **first: Any) -> Subject:
    return a_subject(a_ledger(fleet(some(**first)), actions=[act]))


# Of each fact: when it is so, when it is not, and when nothing is known of it.
SO: dict[str, tuple[Callable[[], Subject], Callable[[], Subject], Callable[[], Subject]]] = {
    "sick": (about_a0, lambda: about_a0(None), gone),
    "confirmed": (about_a0, lambda: about_a0(replace(HANG, families=("peers", "progress"))), blind),
    "in_doubt": (
        lambda: about_a0(cordon=replace(OURS, confirmed=False)), lambda: about_a0(cordon=OURS), lambda: blind(OURS),
    ),
    "recovered": (
        lambda: about_a0(cordon=OURS, seen={"steps_total": 1001.0}), lambda: about_a0(cordon=OURS), lambda: blind(OURS),
    ),
    "cordoned": (lambda: about_a0(cordoned=True), about_a0, gone),
    "ready": (about_a0, lambda: about_a0(phase=Phase.LOADING, in_flight_requests=math.nan), gone),
    "empty": (lambda: about_a0(in_flight_requests=0.0), about_a0, blind),
    "compared": (
        lambda: about_a0(replace(HANG, cause="F2", name="errors", families=("answers", "cohort"))),
        lambda: about_a0(replace(HANG, cause="F2", name="errors", families=("answers", "record"))),
        lambda: about_a0(None),
    ),
    "errors_seen": (
        lambda: about_a0(failed_answers_total=1.0), lambda: about_a0(failed_answers_total=0.0), about_a0,
    ),
    "placed": (about_a0, lambda: about_a0(phase=Phase.PENDING, in_flight_requests=math.nan), gone),
    "node_suspect": (lambda: on_node(ready=False), on_node, about_a0),
    "gpu_fault": (lambda: on_node(faults=("n1",)), lambda: on_node(faults=("n2",)), gone),
    "nodes_may_be_avoided": (
        lambda: a_subject(a_ledger(settings=FREE.model_copy(update={"may_avoid_nodes": True}))), about_a0, gone,
    ),
    "lead_time_known": (about_a0, lambda: a_subject(a_ledger(lead=LeadTime(80, 100, 0, measured=False))), lambda:
                        a_subject(a_ledger(lead=LeadTime(80, 100, 0, measured=False)))),
    "good_revision": (
        lambda: about_pool(GOOD, revisions=("0", "1")), lambda: about_pool(GOOD, revisions=("1",)), about_pool,
    ),
    "rolled_back": (lambda: about_pool(revision="0"), about_pool, about_pool),
    "rolled_back_before": (
        lambda: a_subject(a_ledger(actions=[TRIED]), BAD),
        lambda: a_subject(a_ledger(actions=[replace(TRIED, target="2")]), BAD),
        about_pool,
    ),
    "paused": (lambda: about_pool(paused=True), about_pool, about_pool),
    "sound": (lambda: about_pool(diagnosis=None), about_pool, lambda: about_pool(diagnosis=None, desired=9)),
    "room_elsewhere": (lambda: replace(about_pool(), elsewhere=True), about_pool, about_pool),
    "out_of_use": (
        lambda: about_pool(weight=0.0), lambda: about_pool(weight=0.2), lambda: about_pool(weight=math.nan),
    ),
    "burning": (lambda: replace(about_pool(), burning=True), about_pool, about_pool),
    "surging": (lambda: replace(about_pool(), surging=True), about_pool, about_pool),
}  # fmt: skip


def test_every_fact_that_is_so_or_not_is_tested() -> None:
    assert set(SO) == set(conditions._SO)


def test_a_node_with_a_gpu_at_fault_is_suspect() -> None:
    assert is_so("node_suspect", on_node(faults=("n1",)))
    assert not is_so("node_suspect", on_node(faults=("n2",)))


@pytest.mark.parametrize("fact", sorted(SO))
def test_a_fact_is_so_is_not_so_and_is_not_so_where_nothing_is_known(fact: str) -> None:
    true, false, unknown = SO[fact]
    assert is_so(fact, true())
    assert not is_so(fact, false())
    assert not is_so(fact, unknown())


# Of each quantity: a subject of which it is known, how much it is, and one of which it is not.
MUCH: dict[str, tuple[Callable[[], Subject], float, Callable[[], Subject] | None]] = {
    "sick_s": (about_a0, 60.0, lambda: about_a0(None)),
    "running_s": (lambda: a_subject(run=a_run(began_at=AT - 30.0)), 30.0, None),
    "out_of_traffic_s": (lambda: about_a0(cordon=OURS), 200.0, lambda: blind(OURS)),
    "silent_s": (lambda: about_a0(cordon=OURS), 60.0, lambda: blind(OURS)),
    "failed_lead_times": (
        lambda: about_a0(phase=Phase.FAILED, since_at=AT - 150.0, metrics=None, in_flight_requests=math.nan),
        150.0 / LEAD_S, about_a0,
    ),
}  # fmt: skip


@pytest.mark.parametrize(
    ("failure", "waited_s"),
    [
        ({}, 350.0 - 300.0),  # another start failed too: the platform's longest back-off comes first
        ({"life": "a0#1"}, 350.0),  # its own
        ({"serving": True}, 350.0),  # what exits while it serves is no start
        ({"kind": "hang"}, 350.0),
        ({"at": AT - 901.0}, 350.0),
    ],
)
def test_where_starts_of_others_fail_the_next_try_of_the_platform_is_waited_for(
    failure: dict[str, Any], waited_s: float
) -> None:
    failures = (replace(FailureMemory(AT - 60.0, "a1#0", "1", "n1", "exit"), **failure),)
    state = fleet(some(phase=Phase.FAILED, since_at=AT - 350.0, metrics=None, in_flight_requests=math.nan))
    subject = a_subject(a_ledger(state, known={str(KEY): PoolMemory(failures=failures)}), about=HANG)
    assert conditions._failed_lead_times(subject) == waited_s / LEAD_S


def test_every_quantity_is_tested() -> None:
    assert set(MUCH) == set(conditions._QUANTITIES)


@pytest.mark.parametrize("fact", sorted(MUCH))
def test_a_quantity_is_reached_from_that_number_on_and_never_where_it_is_not_known(fact: str) -> None:
    known, much, unknown = MUCH[fact]
    assert is_so({fact: much}, known())
    assert not is_so({fact: much + 1e-3}, known())
    if unknown is not None:
        assert not is_so({fact: 0}, unknown())
        assert not is_so({fact: 0}, gone())


# single facts, closer


def test_without_evidence_silence_counts_from_the_cordon_and_only_while_it_was_scraped() -> None:
    subject = about_a0(None, cordon=OURS, seen={"observed_at": AT - 50.0})
    assert is_so({"silent_s": 150}, subject)
    assert not is_so({"silent_s": 151}, subject)


@pytest.mark.parametrize("fact", ["recovered"])
def test_a_replica_that_is_not_ready_has_not_recovered(fact: str) -> None:
    moved = {"steps_total": 1001.0}
    assert not is_so(fact, about_a0(cordon=OURS, seen=moved, phase=Phase.FAILED, in_flight_requests=math.nan))


def test_a_new_life_has_recovered_and_errors_need_one() -> None:
    assert is_so("recovered", about_a0(cordon=replace(OURS, life="a0#-1"), restarts=0))
    errors = replace(OURS, cause="F2")
    assert not is_so("recovered", about_a0(cordon=errors, seen={"steps_total": 1001.0}))
    slow = replace(OURS, cause="F8")
    assert not is_so("recovered", about_a0(cordon=slow, seen={"slow_at": (AT,)}))
    assert is_so("recovered", about_a0(cordon=slow))


def test_without_a_gateway_its_own_word_says_whether_it_is_empty() -> None:
    idle = metrics(running_requests=0.0, queued_requests=0.0)
    assert is_so("empty", about_a0(in_flight_requests=math.nan, metrics=idle))
    assert not is_so("empty", about_a0(in_flight_requests=math.nan, metrics=metrics(running_requests=math.nan)))


def test_a_node_is_suspect_when_another_replica_was_restarted_there() -> None:
    assert is_so("node_suspect", with_act(ELSEWHERE, node="n1"))
    assert not is_so("node_suspect", with_act(ELSEWHERE, node="n2"))
    assert not is_so("node_suspect", with_act(replace(ELSEWHERE, target="a0"), node="n1"))
    assert not is_so("node_suspect", with_act(replace(ELSEWHERE, node=""), node=""))


def test_a_revision_that_was_rolled_back_is_remembered_when_the_act_is_forgotten() -> None:
    known = PoolMemory(revisions={"1": RevisionMemory(AT, rolled_back_at=AT)})
    assert is_so("rolled_back_before", about_pool(known))


# conditions


def test_conditions_join_facts() -> None:
    subject = about_a0()
    assert is_so({"all": ["ready", "sick", {"sick_s": 60}]}, subject)
    assert not is_so({"all": ["ready", "cordoned"]}, subject)
    assert is_so({"any": ["cordoned", {"not": "cordoned"}]}, subject)
    assert not is_so({"any": ["cordoned", {"sick_s": 61}]}, subject)
    assert is_so({"not": {"any": ["cordoned", "empty"]}}, subject)


@pytest.mark.parametrize(
    "written",
    [
        "flying", "silent_s", "", {"ready": 1}, {"silent_s": "120"}, {"silent_s": True}, {"silent_s": -1}, 3, None, [],
        {}, {"all": ["ready"], "any": ["sick"]}, {"all": []}, {"any": "ready"}, {"not": ["ready"]}, {"silent_s": 2e9},
        {"silent_s": math.nan}, {"silent_s": math.inf}, {"not": {"not": "flying"}},
        pytest.param({"silent_s": 10**400}, id="huge"),
    ],
)  # fmt: skip
def test_what_is_no_condition_is_refused(written: Any) -> None:
    with pytest.raises(Disagreement):
        Condition(written)


def test_the_place_inside_a_condition_is_told() -> None:
    with pytest.raises(Disagreement) as caught:
        Condition({"all": ["ready", {"any": ["sick", {"not": "redy"}]}]})
    assert caught.value.key == ("all", 1, "any", 1, "not")
    assert "did you mean ready?" in caught.value.remedy


_QUANTITY = st.sampled_from(sorted(MUCH)).flatmap(lambda name: st.fixed_dictionaries({name: st.floats(0, MOST)}))
_CONDITION = st.recursive(
    st.sampled_from(sorted(SO)) | _QUANTITY,
    lambda inner: (
        st.fixed_dictionaries({"not": inner})
        | st.fixed_dictionaries({"all": st.lists(inner, min_size=1, max_size=3)})
        | st.fixed_dictionaries({"any": st.lists(inner, min_size=1, max_size=3)})
    ),
    max_leaves=5,
)


@given(_CONDITION)
def test_every_condition_is_answered_whatever_is_known(written: Any) -> None:
    try:
        condition = Condition(written)
    except Disagreement as error:
        assert f"more than {MOST_DEPTH} deep" in str(error)  # noqa: PT017 - it may also be one that is taken
        return
    assert {fact for _, fact in condition.facts()} <= set(FACTS)
    assert str(condition)
    for subject in (about_a0(), gone(), blind(OURS), about_pool(), about_pool(GOOD)):
        assert is_so(written, subject) is not is_so({"not": written}, subject)
