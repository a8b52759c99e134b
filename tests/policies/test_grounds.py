"""Does evidence say how old it is and how much was seen, and does what rests on too little convict nobody?"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

from policies.decisions import Anomaly
from policies.diagnosis import diagnose
from policies.examination import Examination
from policies.fleet import NodeState, Phase, PoolState, ReplicaState
from policies.grounds import grounded
from policies.healing_memory import CanaryBooks, CanaryMemory, XidMemory
from policies.memory import PolicyMemory
from policies.watched import WatchedReplicas
from tests.builders import AT, KEY, fleet, metrics, pool, replica
from tests.builders_evidence import LOOK_S, Examiner, believed, of_pool, working

CALM_S = 600.0


def told_by(found: Examination, family: str, subject: str = "") -> Anomaly:
    return next(a for a in found.anomalies if (a.family, a.replica) == (family, subject))


def of(there: PoolState, *families: str, subject: str = "", **facts: Any) -> dict[str, Anomaly]:
    """Return evidence of these families with its grounds, where nothing is remembered of any replica."""
    said = [Anomaly(family, subject, KEY, 1.0, AT - 60.0, "") for family in families]
    state, books = fleet(there, nodes=facts.get("nodes", {})), facts.get("books", CanaryBooks())
    found = grounded(state, said, unknown(there), books, facts.get("xids", {}), 60.0)
    return {anomaly.family: anomaly for anomaly in found}


def unknown(there: PoolState) -> WatchedReplicas:
    return WatchedReplicas().aligned(there.roster.names(str(KEY)), there.roster.lives)


def stopped(after_s: float, since_s: float = CALM_S, scraped_s: float | None = None) -> list[ReplicaState]:
    """Four replicas, of which ``a0`` stands still with work inside from then on, scraped at ``scraped_s``."""
    still_s = min(after_s, since_s)
    counts = {
        "steps_total": 1000.0 + 10.0 * still_s,
        "output_tokens_total": 2e4 + 100.0 * still_s,
        "prompt_tokens_total": 1e5 + 500.0 * still_s,
        "finished_requests_total": 100.0 + still_s / 2.0,
    }
    seen = metrics(AT + (after_s if scraped_s is None else scraped_s), **counts)
    sick = working("a0", after_s, metrics=seen, in_flight_requests=5.0, answered_requests_total=100.0 + still_s / 2.0)
    return [sick, *(working(f"a{place}", after_s, in_flight_requests=5.0) for place in (1, 2, 3))]


def test_evidence_of_an_engine_is_as_old_as_its_scrape() -> None:
    examiner = Examiner()
    examiner.over(CALM_S, stopped)
    found = examiner.over(CALM_S + 60.0, lambda s: stopped(s, scraped_s=s - 7.0))
    assert ("hang", "a0") in believed(found)
    progress, gateway = told_by(found, "progress", "a0"), told_by(found, "gateway", "a0")
    assert (progress.age_s, progress.coverage_ratio) == (7.0, 1.0)
    assert (gateway.age_s, gateway.coverage_ratio) == (0.0, 1.0)


def test_what_a_gateway_says_is_as_old_as_its_sample() -> None:
    there = pool([replica("a0", in_flight_requests=5.0)])
    state = replace(fleet(there), gateway_oldest_at=AT - 12.0, gateway_newest_at=AT - 4.0)
    said = [Anomaly("gateway", "a0", KEY, 1.0, AT - 60.0, ""), Anomaly("gateway", "", KEY, 1.0, AT - 60.0, "")]
    found = grounded(state, said, unknown(there), CanaryBooks(), {}, 60.0)
    assert [(one.age_s, one.coverage_ratio, one.counts) for one in found] == [(12.0, 1.0, True)] * 2
    old = replace(state, gateway_oldest_at=AT - 61.0)
    assert [one.counts for one in grounded(old, said, unknown(there), CanaryBooks(), {}, 60.0)] == [False] * 2


def test_who_stands_still_across_a_gap_in_its_metrics_is_believed_to_hang_once_it_was_seen_for_a_while() -> None:
    """What came between two scrapes ten minutes apart nobody knows; nothing ends for it."""
    examiner = Examiner()
    examiner.over(CALM_S, stopped)
    back_s = CALM_S + 600.0
    examiner.over(back_s - LOOK_S, lambda s: stopped(s, scraped_s=CALM_S))
    at_once = examiner.over(back_s, stopped)
    progress = told_by(at_once, "progress", "a0")
    assert progress.coverage_ratio < 0.5
    assert not progress.counts
    assert ("hang", "a0") not in believed(at_once)
    assert ("unknown", "a0") in believed(at_once)
    later = examiner.over(back_s + 60.0, stopped)
    assert told_by(later, "progress", "a0").coverage_ratio >= 0.5
    assert ("hang", "a0") in believed(later)


def rollout_of_a_slow_revision(after_s: float, scraped_s: float) -> PoolState:
    """Four replicas of an old revision and three of a new one that is slow, all scraped at ``scraped_s``."""

    def one(name: str, revision: str, tpot_s: float) -> ReplicaState:
        return replace(working(name, after_s, tpot_mean_s=tpot_s, observed_at=AT + scraped_s), revision=revision)

    there = [*(one(f"a{i}", "1", 0.03) for i in range(4)), *(one(f"b{i}", "2", 0.12) for i in range(3))]
    return replace(pool(there), revision="2", revision_at=AT + CALM_S, revisions=("1", "2"))


@pytest.mark.parametrize("scraped", [True, False])
def test_a_revision_is_not_found_slow_by_metrics_that_are_old(scraped: bool) -> None:
    examiner = Examiner()
    old = range(4)
    examiner.over(CALM_S - LOOK_S, lambda s: pool([working(f"a{i}", s, tpot_mean_s=0.03) for i in old]))
    last_s = CALM_S + LOOK_S
    found = examiner.over(CALM_S + 150.0, lambda s: rollout_of_a_slow_revision(s, s if scraped else min(s, last_s)))
    cohort = told_by(found, "cohort")
    assert cohort.age_s == (0.0 if scraped else 135.0)
    assert cohort.coverage_ratio == (1.0 if scraped else 0.0)
    assert ("bad-revision" in of_pool(found)) is scraped


def rollout_of_a_failing_revision(after_s: float, *, told: bool) -> PoolState:
    """As many replicas, of which those of the new revision answer with errors, as long as the gateway tells."""

    def one(name: str, revision: str, failed: float) -> ReplicaState:
        ended = 100.0 + after_s / 2.0
        answered, failed = (ended, failed) if told else (math.nan, math.nan)
        counts = {"answered_requests_total": answered, "failed_answers_total": failed}
        return replace(working(name, after_s, **counts), revision=revision)

    errors = max(0.0, after_s - CALM_S)
    there = [*(one(f"a{i}", "1", 0.0) for i in range(4)), *(one(f"b{i}", "2", errors) for i in range(3))]
    return replace(pool(there), revision="2", revision_at=AT + CALM_S, revisions=("1", "2"))


@pytest.mark.parametrize("told", [True, False])
def test_counts_of_answers_that_are_old_speak_against_no_revision(told: bool) -> None:
    """That its replicas failed is on record as failures by then, and goes on counting."""
    examiner = Examiner()
    examiner.over(CALM_S - LOOK_S, lambda s: pool([working(f"a{i}", s) for i in range(4)]))
    found = examiner.over(CALM_S + 165.0, lambda s: rollout_of_a_failing_revision(s, told=told or s <= CALM_S + 45.0))
    answers = told_by(found, "answers")
    assert answers.age_s == (0.0 if told else 120.0)
    assert answers.counts is told
    compared = [a for a in found.anomalies if a.family == "cohort" and "answers of other revisions" in a.detail]
    assert [(a.age_s, a.counts) for a in compared] == [(answers.age_s, told)]


def scraped(count: int, of_all: int, age_s: float = 12.0) -> PoolState:
    """A pool of which so many were scraped lately, and the others ten minutes ago."""
    ages = [age_s] * count + [600.0] * (of_all - count)
    return pool([replica(f"a{i}", since_at=AT - 3600.0, metrics=metrics(AT - ages[i])) for i in range(of_all)])


def test_a_comparison_among_peers_says_how_many_of_them_were_scraped() -> None:
    found = of(scraped(3, 12), "peers", "latency", subject="a0")
    assert {(a.age_s, a.coverage_ratio, a.counts) for a in found.values()} == {(12.0, 0.25, False)}
    assert of(scraped(9, 12), "peers", subject="a0")["peers"].counts


def test_what_shows_at_a_pool_is_as_old_as_its_newest_scrape_and_says_how_many_were_scraped() -> None:
    for family in ("queue", "throughput", "preemptions", "cache", "engines", "aborts"):
        found = of(scraped(2, 8), family)[family]
        assert (found.age_s, found.coverage_ratio, found.counts) == (12.0, 0.25, False)
        assert of(scraped(4, 8), family)[family].counts


def test_what_is_too_old_does_not_count_however_much_was_seen() -> None:
    found = of(scraped(0, 8), "queue")["queue"]
    assert found.age_s == 600.0
    assert not found.counts


def test_what_has_just_become_ready_is_due_only_once_it_was_scraped() -> None:
    new = [replica(f"b{i}", since_at=AT - 10.0, metrics=None) for i in range(6)]
    there = pool([*scraped(3, 4).replicas, *new])
    assert of(there, "queue")["queue"].coverage_ratio == 0.75


def test_a_gateway_that_tells_of_few_replicas_is_no_witness_of_one() -> None:
    there = pool([replica(f"a{i}", since_at=AT - 3600.0, in_flight_requests=5.0 if i < 2 else math.nan)
                  for i in range(6)])  # fmt: skip
    found = of(there, "gateway", subject="a0")["gateway"]
    assert (found.age_s, round(found.coverage_ratio, 3), found.counts) == (0.0, 0.333, False)


def test_what_was_never_seen_is_as_old_as_the_time_in_which_it_could_have_been() -> None:
    there = pool([replica("a0", since_at=AT - 200.0, metrics=None)])
    found = of(there, "progress", subject="a0")["progress"]
    assert (found.age_s, found.coverage_ratio, found.counts) == (200.0, 0.0, False)


def test_what_the_platform_says_is_of_this_look_and_whole() -> None:
    there = pool([replica("a0", Phase.FAILED), replica("a1")])
    for subject, families in (("a0", ("platform", "exit", "young")), ("", ("platform", "node", "starts", "memory"))):
        for anomaly in of(there, *families, subject=subject).values():
            assert (anomaly.age_s, anomaly.coverage_ratio, anomaly.counts) == (0.0, 1.0, True)


@pytest.mark.parametrize(("exported", "ratio"), [(True, 1.0), (False, 0.25)])
def test_an_xid_is_as_old_as_its_last_report_and_counts_when_its_engine_says_nothing_any_more(
    exported: bool, ratio: float
) -> None:
    told = [metrics(AT, gpu_xid=0.0), None, None, None]
    there = pool([replica(f"a{i}", node="n", metrics=told[i]) for i in range(4)])
    nodes = {"n": NodeState(ready=True, since_at=AT - 9000.0, xid=79.0 if exported else math.nan)}
    xids = {"n": XidMemory(79, AT - 900.0, AT - 700.0)}
    found = of(there, "gpu", subject="a1", nodes=nodes, xids=xids)["gpu"]
    assert (found.age_s, found.coverage_ratio, found.counts) == (700.0, ratio, True)


def test_a_canary_is_as_old_as_the_look_at_which_its_outcome_was_told() -> None:
    there = pool([replica("a0"), replica("a1"), replica("a2")])
    name = KEY.replica
    books = CanaryBooks(
        replicas={
            name("a0"): CanaryMemory("a0#0", AT - 5.0, "", "late", 3, AT - 400.0, AT - 140.0),
            name("a1"): CanaryMemory("a1#0", AT - 300.0, "unheard"),
            name("a2"): CanaryMemory("a2#0", AT - 30.0, "answered"),
        }
    )
    found = of(there, "canary", subject="a0", books=books)["canary"]
    assert (found.age_s, found.coverage_ratio, found.counts) == (140.0, 0.5, True)
    older = replace(books, replicas={name("a0"): CanaryMemory("a0#0", AT - 5.0, "late", "late", 2, AT - 950.0)})
    assert not of(there, "canary", subject="a0", books=older)["canary"].counts


def test_whoever_knows_its_own_grounds_keeps_them() -> None:
    said = Anomaly("load forecast", "", KEY, 1.0, AT - 60.0, "", age_s=3.0, coverage_ratio=0.625)
    (found,) = grounded(fleet(pool()), [said], unknown(pool()), CanaryBooks(), {}, 60.0)
    assert (found.age_s, found.coverage_ratio, found.counts) == (3.0, 0.625, True)


def test_a_cause_takes_families_that_count() -> None:
    said = [Anomaly(family, "r", KEY, 1.0, AT - since_s, family, 3.0, 1.0)
            for family, since_s in (("progress", 90.0), ("gateway", 60.0), ("peers", 60.0))]  # fmt: skip
    state = fleet(pool([replica("r", in_flight_requests=3.0)]))
    assert [d.name for d in diagnose(state, said)] == ["hang"]
    weak = [replace(said[0], counts=False), *said[1:]]
    (left,) = diagnose(state, weak)
    assert (left.name, left.families, left.since_at) == ("unknown", ("gateway", "peers"), AT - 60.0)
    (nothing,) = diagnose(state, [replace(each, counts=False) for each in said])
    assert (nothing.name, nothing.families) == ("unknown", ("gateway", "peers", "progress"))


def test_how_much_was_seen_is_remembered_by_life() -> None:
    examiner = Examiner()
    examiner.over(0.0, lambda s: [working("a0", s)])
    name = KEY.replica("a0")
    assert examiner.memory.replicas[name].covered == 1.0
    examiner.over(90.0, lambda s: [working("a0", s, observed_at=AT)])
    assert examiner.memory.replicas[name].covered == pytest.approx(0.8**2, abs=1e-3)  # at 75 s and at 90 s
    examiner.over(105.0, lambda s: [working("a0", s, restarts=1, requested_at=AT + 95.0)])
    assert examiner.memory.replicas[name].covered == 1.0
    assert PolicyMemory.from_json(examiner.memory.to_json()) == examiner.memory
