"""Are rows read as whole ticks, tolerantly, few at a time, and is every record that matters understood?"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sql

from controller.adapters.audit_retention import Retention
from controller.adapters.audit_settings import AuditSettings
from controller.adapters.audit_store import insert_row
from controller.adapters.audit_window import AuditWindow
from controller.adapters.record_text import packed
from controller.adapters.sql_audit import SqlAudit
from controller.errors import BadInput, ForesailError
from controller.incidents.episode import GIVE_UP_S, MOST_EVENTS
from controller.incidents.fold import QUIET_S, Fold, incidents_in
from controller.incidents.incident import Incident
from controller.incidents.reading import incident_named, incidents_between, instant_of
from controller.incidents.stream import LATE_ROWS, whole_ticks
from controller.incidents.ticks import StoredRow
from controller.incidents.verdict import verdicts_of
from tests.builders import AT
from tests.builders_incidents import WATCHED, Run, the_one

POOL = "m/a/unified"


def replica(name: str = "a1", **about: Any) -> dict[str, Any]:
    return {"id": name, "phase": "ready", "requested_at": 1.0, "revision": "1", **about}


def diagnosis(name: str = "a1", cause: str = "F1", **about: Any) -> dict[str, Any]:
    return {"cause": cause, "subject": name, "pool": POOL, "since_at": AT, "families": ["progress"],
            "sentence": f"{name} is ill", **about}  # fmt: skip


def row(
    number: int,
    *diagnoses: Mapping[str, Any],
    acts: Sequence[Mapping[str, Any]] = (),
    replicas: Sequence[Mapping[str, Any]] = (),
    kind: str = "quiet",
    at: float | None = None,
    **about: Any,
) -> StoredRow:
    """Return a row with no more in it than a very old program would have written."""
    pool = {"key": POOL, "desired": 1, "revision": "2", "replicas": list(replicas or [replica()])}
    decision = {"diagnoses": list(diagnoses), "remediations": list(acts), "reasons": []}
    record = {"fleet": {"pools": [pool]}, "decision": decision, **about}
    text = json.dumps(record, separators=(",", ":"))
    return StoredRow(number, AT + 15.0 * number if at is None else at, kind, text)


def outcome(number: int, intent: int, act: str, subject: str, state: str = "done", detail: str = "") -> StoredRow:
    result = {"act": act, "subject": subject, "outcome": state, "detail": detail}
    kind = {"done": "acted"}.get(state, state)
    return StoredRow(number, AT, kind, json.dumps({"intent": str(intent), "results": [result]}, separators=(",", ":")))


def found_in(*rows: StoredRow) -> list[Incident]:
    return list(incidents_in(rows, Fold()))


RESTART = {"type": "RestartReplica", "replica": "a1", "pool": POOL, "cause": "F1"}


def test_what_became_of_an_intent_is_found_behind_what_another_writer_put_in_between() -> None:
    rows = (
        row(1, diagnosis(), acts=[RESTART], kind="intended"),
        row(2, diagnosis()),
        outcome(3, 1, "restart", f"{POOL}/a1"),
        row(4, diagnosis()),
    )
    incident = the_one(found_in(*rows))
    assert [(e.row, e.what, e.name) for e in incident.events if e.name == "restart"] == [("1", "done", "restart")]


def test_an_intent_without_an_outcome_is_told_as_unknown() -> None:
    incident = the_one(found_in(row(1, diagnosis(), acts=[RESTART], kind="intended"), row(2, diagnosis())))
    (event,) = (event for event in incident.events if event.name == "restart")
    assert (event.what, "not on record" in event.text) == ("unknown", True)
    assert incident.first_act_at is None


def test_an_act_that_failed_is_no_first_act() -> None:
    rows = (row(1, diagnosis(), acts=[RESTART], kind="intended"), outcome(2, 1, "restart", "a1", "failed", "refused"))
    incident = the_one(found_in(*rows))
    assert [(e.what, e.text) for e in incident.events if e.name == "restart"] == [("failed", "(refused)")]
    assert incident.first_act_at is None


def test_a_remedy_that_this_program_does_not_know_is_called_by_its_name() -> None:
    pause = {"type": "PauseRollout", "pool": POOL, "cause": "F14", "plan": "x"}
    rows = (
        row(1, diagnosis("", "F14", scope="pool"), acts=[pause], kind="intended"),
        outcome(2, 1, "pause", POOL, "held", "mode observe"),
        row(3, diagnosis("", "F14", scope="pool")),
    )
    incident = the_one(found_in(*rows))
    assert (incident.subject.scope, incident.subject.model) == ("pool", "m")
    assert [(e.what, e.name, e.text) for e in incident.events[1:]] == [("held", "pause", "mode observe")]
    assert [(held.verb, verdict.word) for held, verdict in verdicts_of(incident)] == [("pause", "open")]


@pytest.mark.parametrize(
    ("scope", "name", "model"), [("model", "m", "m"), ("node", "n1", ""), ("fleet", "fleet", ""), ("pool", POOL, "m")]
)
def test_a_subject_wider_than_a_replica_is_over_when_nothing_is_believed_of_it(
    scope: str, name: str, model: str
) -> None:
    ill = [row(n, diagnosis(name, "F12", scope=scope)) for n in range(1, 4)]
    well = [row(n) for n in range(4, 30)]
    incident = the_one(found_in(*ill, *well))
    assert (incident.subject.scope, incident.subject.model, incident.state) == (scope, model, "recovered")
    assert incident.recovered_at == well[0].at


def test_it_is_one_incident_while_it_was_not_well_for_the_quiet_time() -> None:
    pause_s = QUIET_S - 15.0
    early, late = row(1, diagnosis()), row(3, diagnosis(), at=AT + 15.0 + 30.0 + pause_s)
    well = [row(2, at=early.at + 15.0), row(4, at=late.at + 15.0), row(5, at=late.at + 15.0 + QUIET_S)]
    assert len(found_in(early, well[0], late, *well[1:])) == 1
    apart = row(3, diagnosis(), at=AT + 15.0 + 15.0 + QUIET_S + 15.0)
    middle = row(2, at=AT + 30.0), row(2, at=AT + 30.0 + QUIET_S)
    assert [incident.id for incident in found_in(early, *middle, apart)] == ["1.1", "3.1"]


def test_what_is_not_seen_to_serve_again_is_given_up() -> None:
    gone = [row(n, replicas=[replica("a2", phase="pending")], at=AT + 60.0 * n) for n in range(2, 70)]
    incident = the_one(found_in(row(1, diagnosis()), *gone))
    assert (incident.state, incident.over) == ("unresolved", True)
    assert incident.seen_until_at - incident.suspected_at >= GIVE_UP_S


def test_two_subjects_of_one_name_do_not_share_what_rules_say() -> None:
    other = "m/b/unified"
    reasons = [{"rule": "restart pending", "subject": "a1", "detail": "F1 a1 of b is ill; wait"}]
    rows = [row(1, diagnosis(), diagnosis(pool=other, sentence="a1 of b is ill"))]
    record = json.loads(rows[0].text)
    record["decision"]["reasons"] = reasons
    record["fleet"]["pools"].append({"key": other, "desired": 1, "replicas": [replica()]})
    mine, theirs = found_in(StoredRow(1, AT, "quiet", json.dumps(record, separators=(",", ":"))))
    assert (mine.id, theirs.id) == ("1.1", "1.2")
    assert [event.name for event in mine.events] == ["F1"]
    assert [(event.name, event.text) for event in theirs.events] == [
        ("F1", "a1 of b is ill"),
        ("restart pending", "wait"),
    ]


def test_a_breaker_that_opens_is_part_of_each_incident_of_its_model() -> None:
    page = {"type": "Page", "subject": "m", "cause": "breaker", "message": "2 of 3 replicas look sick at once"}
    rows = (row(1, diagnosis(), acts=[page], kind="intended"), outcome(2, 1, "page", "m"))
    incident = the_one(found_in(*rows))
    assert [(event.what, event.name, event.text) for event in incident.events[1:]] == [
        ("done", "page", "2 of 3 replicas look sick at once")
    ]
    assert incident.first_act_at is None  # telling somebody heals nothing


def test_a_restless_incident_keeps_its_first_events_and_counts_the_others() -> None:
    rows = [row(n, diagnosis(cause=f"F{1 + n % 2}")) for n in range(1, MOST_EVENTS + 51)]
    incident = the_one(found_in(*rows))
    assert (len(incident.events), incident.left_out) == (MOST_EVENTS, 50)


def test_ticks_in_which_nobody_is_ill_are_not_even_parsed() -> None:
    junk = [StoredRow(n, AT + n, "quiet", '{"decision":{"diagnoses":[]},') for n in range(1, 1000)]
    assert found_in(*junk) == []


def test_few_rows_are_held_at_a_time() -> None:
    taken = 0

    def rows() -> Iterator[StoredRow]:
        nonlocal taken
        for number in range(1, 1000):
            taken = number
            yield row(number, diagnosis(), acts=[RESTART], kind="intended")

    for place, (tick, _) in enumerate(whole_ticks(rows(), lambda: True), start=1):
        assert int(tick.row) == place
        assert taken - place <= LATE_ROWS


# ---- windows


@pytest.fixture
def run(tmp_path: Path) -> Run:
    run = Run(tmp_path / "audit.db", WATCHED)
    run.engine.hung = True
    run.run(200.0)
    return run


def test_a_window_begins_at_the_first_row_of_its_instant(run: Run) -> None:
    window = run.window()
    rows = list(window.rows(1))
    for before, after in pairwise(rows):
        assert window.first_since(after.at) == (after.number if after.at > before.at else before.number)
    assert window.first_since(rows[-1].at + 1.0) == rows[-1].number + 1
    assert window.first_since(0.0) == 1


def test_rows_are_read_back_and_forth_over_pages(run: Run) -> None:
    run.run(900.0)
    window = run.window()
    numbers = [each.number for each in window.rows(3)]
    assert len(numbers) > 100  # more than one page
    assert numbers == list(range(3, numbers[-1] + 1))
    assert [each.number for each in window.back_from(numbers[-1] + 1)] == list(range(numbers[-1], 0, -1))


def test_one_incident_is_read_without_reading_the_rest_of_the_log(run: Run) -> None:
    run.engine.hung = False
    for engine in run.world.of():
        engine.hung = False
    run.run(3600.0)
    window = run.window()
    whole = the_one(incidents_between(window, None, None))
    rows = window.chain.rows
    again = run.window()
    assert incident_named(again, whole.id, "")[0] == whole
    assert again.chain.rows < rows / 3


def test_an_unknown_id_in_range_is_bad_input(run: Run) -> None:
    with pytest.raises(BadInput, match=r"no incident '24\.9'"):
        incident_named(run.window(), "24.9", "")


def test_the_chain_is_checked_on_the_way_and_reading_ends_where_it_breaks(run: Run) -> None:
    log = SqlAudit.open(f"sqlite:///{run.path}")
    with log.engine.begin() as connection:
        connection.execute(sql.text("DROP TRIGGER audit_no_update"))
        connection.execute(sql.text("UPDATE audit SET at = at + 1 WHERE number = 30"))
    window = AuditWindow(log.engine)
    assert [each.number for each in window.rows(1)] == list(range(1, 30))
    assert (window.chain.broken_at, window.chain.what) == ("30", "its content is not what was written")
    behind = AuditWindow(log.engine)
    assert next(behind.rows(31)).number == 31
    assert behind.chain.intact


def test_a_record_of_an_impossible_shape_is_told_as_that(tmp_path: Path) -> None:
    log = SqlAudit.open(f"sqlite:///{tmp_path / 'a.db'}")
    with log.engine.begin() as connection:
        insert_row(connection, AT, "quiet", '{"decision":{"diagnoses":[{"cause":1}]},"fleet":{"pools":[{}]}}')
    with pytest.raises(ForesailError, match="another shape"):
        incidents_between(AuditWindow(log.engine), None, None)


def test_a_row_so_large_that_it_is_packed_is_read_as_any_other(tmp_path: Path) -> None:
    log = SqlAudit.open(f"sqlite:///{tmp_path / 'a.db'}")
    large = row(1, diagnosis(), replicas=[replica(f"a{n}") for n in range(9000)])
    stored = packed(large.text)
    assert len(stored) < len(large.text)
    with log.engine.begin() as connection:
        insert_row(connection, large.at, large.kind, stored)
    incident = the_one(incidents_between(AuditWindow(log.engine), None, None))
    assert (incident.id, incident.cause, incident.state) == ("1.1", "F1", "ill")


def test_what_is_left_of_a_pruned_log_is_read(run: Run) -> None:
    whole = the_one(run.incidents())
    log, settings = SqlAudit.open(f"sqlite:///{run.path}"), AuditSettings()
    assert Retention(log.engine, settings, 5).prune(whole.seen_until_at - 60.0 + settings.keep_s)
    ends = run.window().ends()
    assert ends is not None
    assert ends[0] > int(whole.id.split(".")[0])
    incident = the_one(run.incidents())
    assert (incident.subject, incident.cause, incident.began_at) == (whole.subject, whole.cause, whole.began_at)
    assert incident.suspected_at > whole.suspected_at  # what was first is not there any more
    with pytest.raises(BadInput, match=f"rows {ends[0]} to {ends[1]} are kept"):
        incident_named(run.window(), whole.id, "")


@pytest.mark.parametrize(
    ("text", "at"),
    [
        ("2026-03-01T08:00", 1772352000.0),
        ("2026-03-01T08:00Z", 1772352000.0),
        ("2026-03-01T09:00+01:00", 1772352000.0),
        ("2026-03-01 08:00:30", 1772352030.0),
        ("1772352000.5", 1772352000.5),
        ("30s", 1e6 - 30.0),
        ("1.5h", 1e6 - 5400.0),
        ("2w", 1e6 - 1209600.0),
    ],
)
def test_an_instant_may_be_written_in_several_ways(text: str, at: float) -> None:
    assert instant_of(text, "--since", 1e6) == at


@pytest.mark.parametrize("text", ["", "now", "-5", "5y", "nan", "inf", "2026-13-01", "1e400", "9" * 400])
def test_what_is_no_instant_is_bad_input(text: str) -> None:
    with pytest.raises(BadInput, match="is no instant"):
        instant_of(text, "--since", 1e6)


@pytest.mark.parametrize(
    ("scope", "name", "failed"),
    [("pool", POOL, 7.0), ("model", "m", 7.0), ("node", "n1", 5.0), ("fleet", "fleet", 9.0)],
)
def test_failed_requests_are_those_of_all_replicas_that_the_subject_has(scope: str, name: str, failed: float) -> None:
    def seen(number: int, *totals: float, ill: bool = True) -> StoredRow:
        mine = [
            replica(f"a{place}", node=f"n{place}", failed_answers_total=total) for place, total in enumerate(totals)
        ]
        rows = row(number, *([diagnosis(name, "F12", scope=scope)] if ill else []), replicas=mine[:2])
        record = json.loads(rows.text)
        record["fleet"]["pools"].append({"key": "other/b/unified", "desired": 1, "replicas": mine[2:]})
        return StoredRow(number, rows.at, "quiet", json.dumps(record, separators=(",", ":")))

    rows = (seen(1, 10.0, 20.0, 30.0, ill=False), seen(2, 11.0, 22.0, 31.0), seen(3, 12.0, 25.0, 32.0))
    assert the_one(found_in(*rows)).failed_requests == failed
