"""Is a human told, once, when nothing is seen for minutes, and is it on record when that is over?"""

from __future__ import annotations

from dataclasses import replace

import pytest

from controller.adapters.sql_audit import SqlAudit
from controller.explain import as_text, sections_of
from controller.modes import Mode, ModeSettings, WorkloadModes
from controller.ports import FleetMetrics, TickRecord
from policies.decisions import Reason
from policies.fleet import Demand
from policies.memory import PolicyMemory
from policies.set_back import follow_clock
from tests.builders import AT, KEY, MODEL, Bench, a_bench, pool
from tests.builders_records import blind_tick


def run(bench: Bench, ticks: int) -> list[TickRecord]:
    records = []
    for _ in range(ticks):
        records.append(bench.tick())
        bench.clock.at += 15.0
        if bench.metrics.answer is not None:
            fresh = {name: replace(m, observed_at=bench.clock.at) for name, m in bench.metrics.answer.replicas.items()}
            bench.metrics.answer = replace(bench.metrics.answer, replicas=fresh)
    return records


def reasons(record: TickRecord, rule: str) -> list[Reason]:
    assert record.decision is not None
    return [reason for reason in record.decision.reasons if reason.rule == rule]


def answers(bench: Bench) -> FleetMetrics:
    assert bench.metrics.answer is not None
    return bench.metrics.answer


def test_a_store_that_does_not_answer_is_told_once_with_what_and_since_when() -> None:
    bench = a_bench(pool(3))
    run(bench, 2)
    before, bench.metrics.answer = answers(bench), None
    records = run(bench, 40)
    (page,) = bench.notifier.pages
    assert (page.subject, page.cause) == ("fleet", "F13")
    assert "for 180 s" in page.message
    assert records[0].error.splitlines()[0] in page.message
    assert "\n" not in page.message
    assert "nothing is scaled, restarted or shifted" in page.message
    assert all(record.results == () for record in records)
    (told,) = [record for record in records if record.told]
    assert told.told is not None
    assert (told.at - records[0].at, told.told.act, told.told.outcome) == (180.0, "page", "done")
    assert told in bench.audit.records
    bench.metrics.answer = before
    (over,) = reasons(bench.tick(), "seen again")
    assert over.detail == "nothing could be observed for 600 s; a human was told; that is over"
    bench.clock.at += 15.0
    assert reasons(bench.tick(), "seen again") == []


def test_a_short_silence_wakes_nobody_and_two_of_them_are_not_one_long_one() -> None:
    bench = a_bench(pool(3))
    seen = answers(bench)
    for _ in range(4):
        bench.metrics.answer = None
        run(bench, 12)  # 165 s from the first to the last
        bench.metrics.answer = seen
        run(bench, 1)
    assert bench.notifier.pages == []


def test_the_next_episode_is_told_again() -> None:
    bench = a_bench(pool(3))
    seen = answers(bench)
    for _ in range(2):
        bench.metrics.answer = None
        run(bench, 20)
        bench.metrics.answer = seen
        run(bench, 1)
    assert len(bench.notifier.pages) == 2


@pytest.mark.parametrize(
    ("modes", "killed", "told"),
    [
        (ModeSettings(), False, 0),
        (ModeSettings(healing=Mode.RECOMMEND), False, 1),
        (ModeSettings(workloads={MODEL: WorkloadModes(healing=Mode.AUTO)}), False, 1),
        (ModeSettings.all_auto(), True, 0),
    ],
)
def test_the_page_obeys_modes_and_the_kill_switch(modes: ModeSettings, killed: bool, told: int) -> None:
    bench = a_bench(pool(3), modes=modes, killed=killed)
    bench.metrics.answer = None
    records = run(bench, 20)
    assert len(bench.notifier.pages) == told
    assert [r.told.outcome for r in records if r.told] == (["done"] if told else ["held"] * 8)


def test_it_is_told_of_what_others_hear_once_the_mode_lets_it() -> None:
    on = [True]
    bench = a_bench(pool(3), killed=lambda: on[0])
    bench.metrics.answer = None
    run(bench, 20)
    on[0] = False
    run(bench, 20)
    assert len(bench.notifier.pages) == 1


def test_a_clock_that_was_set_back_does_not_lengthen_the_silence() -> None:
    bench = a_bench(pool(3))
    bench.metrics.answer = None
    run(bench, 4)
    bench.clock.at -= 3600.0
    run(bench, 12)
    assert bench.notifier.pages == []
    memory = PolicyMemory(decided_at=AT, blind_since_at=AT - 60.0)
    assert follow_clock(memory, AT - 100.0)[0].blind_since_at == AT - 160.0


def test_a_load_that_is_not_observed_any_more_is_told_of_its_model() -> None:
    bench = a_bench(pool(3))
    run(bench, 2)
    bench.metrics.answer = replace(answers(bench), demand={})
    records = run(bench, 40)
    (page,) = [page for page in bench.notifier.pages if page.cause == "F13"]
    assert page.subject == MODEL
    assert page.message.startswith("offered load is not observed, for 180 s, since ")
    assert all(not record.decision.scaling for record in records if record.decision)
    bench.metrics.answer = replace(answers(bench), demand={MODEL: Demand(8.0, 8e3, 2e3)})
    assert reasons(run(bench, 1)[0], "not observed") == []


def test_a_load_that_never_was_observed_wakes_nobody() -> None:
    bench = a_bench(pool(3))
    bench.metrics.answer = replace(answers(bench), demand={})
    run(bench, 40)
    assert [page for page in bench.notifier.pages if page.cause == "F13"] == []


def test_missing_metrics_of_engines_are_told_by_their_playbook_alone() -> None:
    bench = a_bench(pool(3))
    run(bench, 4)
    bench.metrics.answer = replace(answers(bench), replicas={}, in_flight={}, answered={}, failed_answers={})
    run(bench, 60)
    assert [page.subject for page in bench.notifier.pages if page.cause == "F13"] == [str(KEY)]


def test_a_blind_tick_that_told_somebody_explains_so() -> None:
    bench = a_bench(pool(3))
    bench.metrics.answer = None
    told = run(bench, 13)[-1]
    log = SqlAudit.open("sqlite://")
    log.append(blind_tick(AT))
    log.append(told)
    first, last = log.recent(2)[::-1]
    assert "Told" not in [section.title for section in sections_of(first)]
    assert "nothing could be observed for 180 s" in "\n".join(map(as_text, sections_of(last)))
