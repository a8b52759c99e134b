"""Are only idle replicas asked for a token, within the caps, and does what comes back convict nobody alone?"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import pytest

from policies.anomaly import AnomalySettings
from policies.canaries import ROUTINE_RATIO
from policies.canary_evidence import CanarySettings
from policies.decide import decide
from policies.decisions import CordonReplica, Decision, RestartReplica
from policies.fleet import Phase, PoolKey, PoolState, ReplicaState, Role
from policies.healing_memory import CordonMemory
from policies.memory import PolicyMemory
from policies.replica import CanaryAnswer, CanaryOutcome
from policies.settings import PolicySettings
from policies.undone import unlearn
from tests.builders import AT, KEY, OTHER, fleet, metrics, pool, replica, settings

TICK_S = 15.0
SICK = "a0"


def on(**changes: Any) -> PolicySettings:
    """Settings under which idle replicas are asked."""
    canary = CanarySettings(enabled=True, **changes)
    return settings(KEY, OTHER, least=0, anomaly=AnomalySettings(canary=canary))


def idle(name: str, after_s: float = 0.0, **changes: Any) -> ReplicaState:
    """A replica with nothing inside, scraped ``after_s`` after ``AT``, whose counters have not moved for long."""
    told = {"running_requests": 0.0, "queued_requests": 0.0}
    told |= {key: changes.pop(key) for key in tuple(changes) if key in ("running_requests", "queued_requests",
                                                                        "output_tokens_total")}  # fmt: skip
    facts: dict[str, Any] = {"in_flight_requests": 0.0, "address": f"{name}:8000", "answered_requests_total": 50.0}
    return replica(name, **{"metrics": metrics(AT + after_s, **told), **facts, **changes})


def idles(count: int, after_s: float = 0.0) -> list[ReplicaState]:
    return [idle(f"a{place}", after_s) for place in range(count)]


Answering = Callable[[str], CanaryOutcome | None]


@dataclass
class Asking:
    """Who decides every 15 s about idle replicas; what they are asked is answered as told, by the next look."""

    settings: PolicySettings = field(default_factory=on)
    memory: PolicyMemory = field(default_factory=PolicyMemory)
    after_s: float = 0.0
    answers: dict[str, CanaryAnswer] = field(default_factory=dict)
    counted: dict[str, float] = field(default_factory=dict)
    asked: list[tuple[float, str]] = field(default_factory=list)

    def tick(self, pools: Sequence[PoolState], answering: Answering) -> Decision:
        """Decide once."""
        state = fleet(*pools, at=AT + self.after_s, requests_per_s=0.0, canaries=dict(self.answers))
        decision = decide(state, {}, self.memory, self.settings)
        self.memory = PolicyMemory.from_json(decision.memory.to_json())
        for canary in decision.canaries:
            self.asked.append((self.after_s, canary.replica))
            outcome = answering(canary.replica)
            name = canary.pool.replica(canary.replica)
            if outcome is not None:
                self.answers[name] = CanaryAnswer(canary.asked_at, outcome, 0.1)
            if outcome is CanaryOutcome.ANSWERED:
                self.counted[canary.replica] = self.counted.get(canary.replica, 0.0) + 1.0
        self.after_s += TICK_S
        return decision

    def over(
        self, until_s: float, answering: Answering, count: int = 4, facts: Mapping[str, Any] | None = None
    ) -> list[Decision]:
        """Decide every 15 s until then about so many idle replicas; of the sick one ``facts`` are told."""
        found = []
        while self.after_s <= until_s:
            there = [
                idle(name, self.after_s, output_tokens_total=2e4 + self.counted.get(name, 0.0),
                     **(facts or {} if name == SICK else {}))
                for name in (f"a{place}" for place in range(count))
            ]  # fmt: skip
            found.append(self.tick([pool(there)], answering))
        return found


def answered(_: str) -> CanaryOutcome:
    return CanaryOutcome.ANSWERED


def sick(outcome: CanaryOutcome | None) -> Answering:
    """All answer but one, of which that is told."""
    return lambda name: outcome if name == SICK else CanaryOutcome.ANSWERED


def families(decision: Decision, name: str = SICK) -> set[str]:
    return {a.family for a in decision.anomalies if a.replica == name}


def causes(decision: Decision) -> set[tuple[str, str]]:
    return {(d.name, d.subject) for d in decision.diagnoses}


# Whom to ask


def test_nobody_is_asked_unless_that_is_switched_on() -> None:
    asking = Asking(settings(KEY, least=0))
    assert not any(decision.canaries for decision in asking.over(1800.0, answered))
    assert asking.memory.canaries.asked_at == {}


def test_idle_replicas_are_asked_one_after_the_other() -> None:
    asking = Asking()
    asking.over(600.0, answered)
    assert {name for _, name in asking.asked[:4]} == {"a0", "a1", "a2", "a3"}
    assert min(at for at, _ in asking.asked) >= asking.settings.anomaly.canary.silent_s
    for name in ("a0", "a1", "a2", "a3"):
        times = [at for at, who in asking.asked if who == name]
        assert all(later - earlier >= 120.0 for earlier, later in pairwise(times))


BUSY: Mapping[str, Mapping[str, Any]] = {
    "the gateway has something inside": {"in_flight_requests": 1.0},
    "it runs something": {"running_requests": 1.0},
    "something waits in it": {"queued_requests": 2.0},
    "what it runs is not told": {"running_requests": math.nan},
    "it was never scraped": {"metrics": None},
    "its scrape is old": {"metrics": metrics(AT - 500.0, running_requests=0.0)},
    "it starts": {"phase": Phase.LOADING, "metrics": None},
    "it drains": {"phase": Phase.DRAINING},
    "somebody else took it out of traffic": {"cordoned": True},
    "nobody knows where it is": {"address": ""},
    "it has just become ready": {"since_at": AT + 500.0},
}


@pytest.mark.parametrize("facts", BUSY.values(), ids=BUSY.keys())
def test_who_may_be_busy_or_cannot_be_reached_is_not_asked(facts: Mapping[str, Any]) -> None:
    asking = Asking()
    asking.over(600.0, answered, facts=facts)
    assert {name for _, name in asking.asked} == {"a1", "a2", "a3"}


def test_who_answers_requests_is_not_asked() -> None:
    asking = Asking()
    for _ in range(41):
        count = 50.0 + asking.after_s
        there = [idle("a0", asking.after_s, answered_requests_total=count), *idles(4, asking.after_s)[1:]]
        asking.tick([pool(there)], answered)
    assert {name for _, name in asking.asked} == {"a1", "a2", "a3"}


def test_who_answers_a_token_while_its_counters_stand_still_is_not_asked_all_the_time() -> None:
    asking = Asking()
    while asking.after_s <= 900.0:
        asking.tick([pool(idles(4, asking.after_s))], answered)
    assert {name for _, name in asking.asked[:4]} == {"a0", "a1", "a2", "a3"}


def test_a_part_of_a_disaggregated_model_and_a_pool_of_others_are_not_asked() -> None:
    prefill, foreign = PoolKey("n", "p", Role.PREFILL), PoolKey("x", "y")
    asking = Asking(on().model_copy(update={"pools": {**on().pools, str(prefill): on().pools[str(KEY)]}}))
    for _ in range(20):
        asking.tick(
            [pool([idle("p0", asking.after_s)], prefill), pool([idle("y0", asking.after_s)], foreign)], answered
        )
    assert asking.asked == []


# The caps


def test_neither_cap_is_ever_exceeded_though_nobody_answers() -> None:
    asking = Asking(on(most_per_hour=40, most_per_tick=2, back_off_s=10.0))
    decisions = asking.over(7200.0, lambda _: CanaryOutcome.LATE, count=12)
    assert max(len(decision.canaries) for decision in decisions) == 2
    times = [at for at, _ in asking.asked]
    assert max(sum(at <= t < at + 3600.0 for t in times) for at in times) == 40
    assert any(reason.rule == "canary cap" for decision in decisions for reason in decision.reasons)


def test_idle_replicas_leave_a_part_of_the_cap_for_those_that_do_not_answer() -> None:
    asking = Asking(on(most_per_hour=40))
    asking.over(3600.0, answered, count=30)
    assert len(asking.asked) <= ROUTINE_RATIO * 40


def test_who_does_not_answer_is_asked_at_ever_longer_intervals() -> None:
    asking = Asking()
    asking.over(5400.0, sick(CanaryOutcome.UNREACHED))
    times = [at for at, name in asking.asked if name == SICK]
    gaps = [later - earlier for earlier, later in pairwise(times)]
    assert gaps[:6] == [TICK_S, 60.0, 120.0, 240.0, 480.0, 600.0]


def test_who_has_not_answered_yet_is_not_asked_again() -> None:
    asking = Asking()
    asking.over(195.0, sick(None))
    assert [name for _, name in asking.asked].count(SICK) == 1


def test_what_was_held_was_not_asked() -> None:
    asking = Asking()
    asking.over(120.0, answered)
    (canary,) = asking.tick([pool(idles(4, asking.after_s))], answered).canaries or (None,)
    before = asking.memory
    assert canary is not None
    held = unlearn(before, {("canary", KEY.replica(canary.replica))}, [])
    assert KEY.replica(canary.replica) not in held.canaries.replicas
    assert len(held.canaries.asked_at["m"]) == len(before.canaries.asked_at["m"]) - 1


# What follows


def test_an_idle_engine_that_hangs_is_convicted_by_two_witnesses_and_restarted() -> None:
    asking = Asking()
    decisions = asking.over(900.0, sick(CanaryOutcome.LATE))
    convicted = next(d for d in decisions if ("hang", SICK) in causes(d))
    first_at = next(at for at, name in asking.asked if name == SICK)
    assert families(convicted) == {"canary", "progress"}
    assert convicted.at - AT - first_at <= 60.0
    assert [r for r in convicted.remediations if isinstance(r, CordonReplica)] == [CordonReplica(SICK, KEY, "F1")]
    (diagnosis,) = convicted.diagnoses
    assert "2 requests for one token in a row were not answered" in diagnosis.sentence
    assert "a peer that was asked" in diagnosis.sentence
    restarts = [r for d in decisions for r in d.remediations if isinstance(r, RestartReplica)]
    assert {r.replica for r in restarts} == {SICK}


def test_one_that_is_not_answered_is_no_evidence() -> None:
    asking = Asking()
    missed = iter([CanaryOutcome.LATE])
    decisions = asking.over(600.0, lambda n: next(missed, CanaryOutcome.ANSWERED) if n == SICK else answered(n))
    assert next(missed, None) is None
    assert not any(d.anomalies for d in decisions)


@pytest.mark.parametrize("outcome", [CanaryOutcome.ERROR, CanaryOutcome.UNREACHED])
def test_errors_and_no_connection_alone_are_unknown_and_nothing_is_done(outcome: CanaryOutcome) -> None:
    decisions = Asking().over(1200.0, sick(outcome))
    assert families(decisions[-1]) == {f"canary-{'errors' if outcome is CanaryOutcome.ERROR else 'unreached'}"}
    assert set.union(*map(causes, decisions)) == {("unknown", SICK)}
    assert not any(d.remediations for d in decisions)


def test_a_refusal_is_evidence_of_nothing() -> None:
    decisions = Asking().over(1200.0, sick(CanaryOutcome.REFUSED))
    assert not any(d.anomalies for d in decisions)


def test_when_nobody_answers_it_is_the_question_and_nobody_is_convicted() -> None:
    decisions = Asking().over(1200.0, lambda _: CanaryOutcome.LATE)
    assert set.union(*map(families, decisions)) == {"canary"}
    assert {name for name, _ in set.union(*map(causes, decisions))} == {"unknown"}
    assert not any(d.remediations for d in decisions)


def test_a_replica_alone_is_convicted_by_its_own_gauges_or_not_at_all() -> None:
    silent = Asking().over(900.0, lambda _: CanaryOutcome.LATE, count=1)
    assert set.union(*map(families, silent)) == {"canary"}

    asking = Asking()
    stuck: list[Decision] = []
    while asking.after_s <= 900.0:
        inside = float(len(asking.asked))
        there = idle(SICK, asking.after_s, running_requests=min(inside, 1.0), queued_requests=max(0.0, inside - 1.0))
        stuck.append(asking.tick([pool([there])], lambda _: CanaryOutcome.LATE))
    assert len(asking.asked) > 1
    assert ("hang", SICK) in set.union(*map(causes, stuck))


def test_any_sign_of_life_clears_it() -> None:
    asking = Asking()
    asking.over(300.0, sick(CanaryOutcome.LATE))
    assert KEY.replica(SICK) in asking.memory.canaries.replicas
    asking.counted[SICK] = 1.0
    (decision,) = asking.over(asking.after_s, sick(None))
    assert families(decision) == set()


def test_another_life_begins_with_a_clean_sheet() -> None:
    asking = Asking()
    asking.over(300.0, sick(CanaryOutcome.LATE))
    (decision,) = asking.over(asking.after_s, sick(None), facts={"restarts": 1})
    assert families(decision) == set()


def test_what_we_took_out_of_traffic_as_hung_is_asked_whether_it_works_again() -> None:
    name = KEY.replica(SICK)
    for cause, asked in (("F1", True), ("F12", False), ("F8", False)):
        asking = Asking()
        asking.over(0.0, answered)
        cordon = CordonMemory(AT, cause, f"{SICK}#0", 1000.0, 2e4, confirmed=True)
        asking.memory = replace(asking.memory, cordons={name: cordon})
        asking.over(90.0, sick(CanaryOutcome.LATE), facts={"cordoned": True})
        assert (SICK in {who for _, who in asking.asked}) is asked, cause


def test_one_that_answers_again_gets_its_traffic_back() -> None:
    name = KEY.replica(SICK)
    asking = Asking()
    asking.over(0.0, answered)
    cordon = CordonMemory(AT, "F1", f"{SICK}#0", 1000.0, 2e4, confirmed=True)
    asking.memory = replace(asking.memory, cordons={name: cordon})
    decisions = asking.over(180.0, answered, facts={"cordoned": True})
    done = [r for d in decisions for r in d.remediations]
    assert [type(r).__name__ for r in done][:1] == ["UncordonReplica"]
    assert not any(isinstance(r, RestartReplica) for r in done)


def test_an_answer_that_never_comes_is_given_up() -> None:
    """The controller that asked is gone, and nobody knows what came of it."""
    asking = Asking()
    asking.over(135.0, lambda _: None)
    (_, first) = asking.asked[0]
    asking.over(300.0, answered)
    assert [name for _, name in asking.asked].count(first) >= 2
