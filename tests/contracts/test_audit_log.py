"""Does the audit log keep every tick in order, and notice when somebody changes one?

The suite runs over a SQLite file and over memory; what needs a second connection runs over the file alone.
"""

from __future__ import annotations

import json
import math
import sqlite3
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from controller.adapters.sql_audit import FIRST_HASH, PAGE_ROWS, SqlAudit
from controller.errors import AuditError, BadInput
from policies.wire import canonical_json
from tests.builders_records import blind_tick, busy_tick, quiet_tick, scaling_tick

Tamper = Callable[[sqlite3.Connection], object]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "audit.db"


@pytest.fixture(params=["file", "memory"])
def log(request: pytest.FixtureRequest, file: Path) -> Iterator[SqlAudit]:
    audit = SqlAudit.open(f"sqlite:///{file}" if request.param == "file" else "sqlite://")
    yield audit
    audit.close()


def written(file: Path, ticks: int = 5) -> SqlAudit:
    audit = SqlAudit.open(f"sqlite:///{file}")
    for i in range(ticks):
        audit.append(scaling_tick(60.0 * i, i + 1))
    return audit


def tamper(file: Path, change: Tamper) -> None:
    """Change the file as somebody with write access could: the triggers are no obstacle to them."""
    connection = sqlite3.connect(file)
    for verb in ("update", "delete"):
        connection.execute(f"DROP TRIGGER audit_no_{verb}")
    change(connection)
    connection.commit()
    connection.close()


def test_a_record_reads_back_as_it_was_written(log: SqlAudit) -> None:
    record = busy_tick(120.0)
    entry = log.read(log.append(record))
    assert entry is not None
    assert entry.record == json.loads(canonical_json(record))
    assert (entry.at, entry.kind) == (120.0, "acted")


def test_non_decisions_are_recorded_too(log: SqlAudit) -> None:
    kinds = []
    for record in (quiet_tick(0.0), blind_tick(60.0), scaling_tick(120.0)):
        entry = log.read(log.append(record))
        assert entry is not None
        kinds.append(entry.kind)
    assert kinds == ["quiet", "blind", "acted"]


def test_ids_are_distinct_and_the_last_one_is_last(log: SqlAudit) -> None:
    ids = [log.append(quiet_tick(float(i))) for i in range(5)]
    assert len(set(ids)) == len(log) == 5
    last = log.read("last")
    assert last is not None
    assert last.id == ids[-1]


def test_entries_come_in_the_order_of_writing_across_pages(log: SqlAudit) -> None:
    ids = [log.append(blind_tick(float(i))) for i in range(PAGE_ROWS + 3)]
    assert [entry.id for entry in log.entries()] == ids


def test_recent_entries_come_newest_first_and_bounded(log: SqlAudit) -> None:
    for i in range(4):
        log.append(quiet_tick(float(i)) if i % 2 else scaling_tick(float(i)))
    assert [entry.at for entry in log.recent(2)] == [3.0, 2.0]
    assert [entry.at for entry in log.recent(9, ("acted",))] == [2.0, 0.0]
    assert log.recent(0) == []


@pytest.mark.parametrize("entry_id", ["1", "last", "0", "-1", "9" * 40, "\uff11", "x", "", "1; DROP TABLE audit"])
def test_an_empty_log_has_no_entry_and_an_intact_chain(log: SqlAudit, entry_id: str) -> None:
    assert log.read(entry_id) is None
    chain = log.verify()
    assert (chain.intact, chain.rows, chain.head) == (True, 0, FIRST_HASH)


def test_an_untouched_chain_is_intact_as_a_whole_and_at_its_end(log: SqlAudit) -> None:
    for i in range(5):
        log.append(quiet_tick(float(i)))
    whole, end = log.verify(), log.verify(newest=2)
    assert (whole.intact, whole.rows) == (True, 5)
    assert (end.intact, end.rows, end.head) == (True, 2, whole.head)


def test_not_observed_survives_as_null_and_infinity_as_text(log: SqlAudit) -> None:
    record = busy_tick(120.0)
    assert record.decision is not None
    reason = replace(record.decision.reasons[0], before=math.nan, after=math.inf)
    entry = log.read(log.append(replace(record, decision=replace(record.decision, reasons=(reason,)))))
    assert entry is not None
    kept = entry.record["decision"]["reasons"][0]
    assert (kept["before"], kept["after"]) == (None, "Infinity")


def test_a_reopened_log_continues_the_chain(file: Path) -> None:
    written(file).close()
    again = SqlAudit.open(f"sqlite:///{file}")
    assert again.append(quiet_tick(999.0)) == "6"
    assert again.verify().intact
    again.close()


def test_two_writers_at_once_lose_nothing_and_keep_one_chain(file: Path) -> None:
    logs = [SqlAudit.open(f"sqlite:///{file}") for _ in range(2)]
    failures: list[Exception] = []

    def write(log: SqlAudit) -> None:
        try:
            for i in range(20):
                log.append(blind_tick(float(i)))
        except AuditError as error:
            failures.append(error)

    threads = [threading.Thread(target=write, args=(log,)) for log in logs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert len(logs[0]) == 40
    assert logs[0].verify().intact
    for log in logs:
        log.close()


def test_a_reader_beside_the_writer_sees_what_is_committed(file: Path) -> None:
    writer = written(file)
    reader = SqlAudit.open_existing(file)
    writer.append(quiet_tick(999.0))
    assert len(reader) == 6
    reader.close()
    writer.close()


@pytest.mark.parametrize("statement", ["UPDATE audit SET at = 0", "DELETE FROM audit"])
def test_the_table_refuses_updates_and_deletes(file: Path, statement: str) -> None:
    written(file).close()
    connection = sqlite3.connect(file)
    with pytest.raises(sqlite3.IntegrityError, match="append-only"):
        connection.execute(statement)
    connection.close()


@pytest.mark.parametrize(
    ("change", "broken_at"),
    [
        (lambda c: c.execute("UPDATE audit SET record = replace(record, '5', '6') WHERE number = 3"), "3"),
        (lambda c: c.execute("UPDATE audit SET at = at + 1 WHERE number = 2"), "2"),
        (lambda c: c.execute("UPDATE audit SET kind = 'quiet' WHERE number = 1"), "1"),
        (lambda c: c.execute("UPDATE audit SET hash = previous_hash WHERE number = 4"), "4"),
        (lambda c: c.execute("DELETE FROM audit WHERE number = 1"), "2"),
        (lambda c: c.execute("DELETE FROM audit WHERE number = 3"), "4"),
        (
            lambda c: c.execute("INSERT INTO audit SELECT 6, at, kind, record, hash, hash FROM audit WHERE number = 5"),
            "6",
        ),
        (lambda c: c.execute("UPDATE audit SET number = number + 10 WHERE number > 2"), "13"),
    ],
    ids=["record", "time", "kind", "hash", "first row gone", "row gone", "row added", "renumbered"],
)
def test_a_changed_log_is_broken_from_the_changed_row_on(file: Path, change: Tamper, broken_at: str) -> None:
    log = written(file)
    before = log.verify()
    assert before.intact
    tamper(file, change)
    chain = log.verify()
    assert not chain.intact
    assert chain.broken_at == broken_at
    assert chain.what
    log.close()


def test_a_row_rehashed_on_its_own_breaks_the_next_one(file: Path) -> None:
    log, other = written(file), SqlAudit.open("sqlite://")
    for i in range(5):  # the same history, but for the third tick
        other.append(quiet_tick(60.0 * i, i + 1) if i == 2 else scaling_tick(60.0 * i, i + 1))
    forged = other.read("3")
    assert forged is not None
    new = (canonical_json(quiet_tick(120.0, 3)), forged.kind, forged.hash)
    tamper(file, lambda c: c.execute("UPDATE audit SET record = ?, kind = ?, hash = ? WHERE number = 3", new))
    assert log.verify().broken_at == "4"
    log.close()


def test_rows_cut_off_at_the_end_show_in_the_head_alone(file: Path) -> None:
    log = written(file)
    before = log.verify()
    tamper(file, lambda c: c.execute("DELETE FROM audit WHERE number > 3"))
    after = log.verify()
    assert after.intact
    assert (after.rows, after.head != before.head) == (3, True)
    log.close()


@pytest.mark.parametrize("content", [b"", b"not a database", b"SQLite format 3\x00" + b"\x00" * 200])
def test_a_file_that_is_no_audit_log_is_refused_and_left_alone(file: Path, content: bytes) -> None:
    file.write_bytes(content)
    with pytest.raises(BadInput, match="not an audit log"):
        SqlAudit.open_existing(file)
    assert file.read_bytes() == content


def test_a_database_with_other_tables_is_refused(file: Path) -> None:
    connection = sqlite3.connect(file)
    connection.execute("CREATE TABLE other (x)")
    connection.close()
    with pytest.raises(BadInput, match="not an audit log"):
        SqlAudit.open_existing(file)


def test_a_missing_file_is_refused_and_not_made(file: Path) -> None:
    with pytest.raises(BadInput, match="no such file"):
        SqlAudit.open_existing(file)
    assert not file.exists()


@pytest.mark.parametrize("url", ["sqlite:////nowhere/at/all/audit.db", "nonsense", "nosuchdatabase://host/db"])
def test_a_database_that_cannot_be_opened_says_so(url: str) -> None:
    with pytest.raises(AuditError, match="cannot be opened"):
        SqlAudit.open(url)


def test_a_log_that_has_vanished_is_an_audit_error_not_a_crash(file: Path) -> None:
    log = written(file)
    tamper(file, lambda c: c.execute("DROP TABLE audit"))
    with pytest.raises(AuditError, match="cannot be written"):
        log.append(quiet_tick(0.0))
    with pytest.raises(AuditError, match="cannot be read"):
        log.verify()
    log.close()
