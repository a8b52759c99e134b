"""Does the audit log keep every tick in order, and notice when somebody changes one?

The suite runs over a SQLite file, over memory and over a real PostgreSQL; what needs a second connection leaves memory
out.
"""

from __future__ import annotations

import json
import math
import multiprocessing
import sqlite3
import threading
from base64 import b64encode
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np
import psycopg
import pytest
import sqlalchemy as sql
import zstandard

from controller.adapters.record_text import MOST_CHARS, record_in
from controller.adapters.sql_audit import FIRST_HASH, PAGE_ROWS, SqlAudit
from controller.errors import AuditError, BadInput
from controller.ports import ActResult, ActsRecord, Outcome, TickRecord
from policies.wire import canonical_json
from tests.builders_postgres import PostgresServer
from tests.builders_records import blind_tick, busy_tick, quiet_tick, scaling_tick

Tamper = Callable[[sqlite3.Connection], object]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "audit.db"


@pytest.fixture(params=["file", "memory", "postgresql"])
def log(request: pytest.FixtureRequest, file: Path) -> Iterator[SqlAudit]:
    url = {"file": f"sqlite:///{file}", "memory": "sqlite://"}.get(request.param)
    audit = SqlAudit.open(url or request.getfixturevalue("postgres").new_database())
    yield audit
    audit.close()


@pytest.fixture(params=["file", "postgresql"])
def shared_url(request: pytest.FixtureRequest, file: Path) -> str:
    """Where several can write at once."""
    if request.param == "file":
        return f"sqlite:///{file}"
    url: str = request.getfixturevalue("postgres").new_database()
    return url


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


def test_two_writers_at_once_lose_nothing_and_keep_one_chain(shared_url: str) -> None:
    logs = [SqlAudit.open(shared_url) for _ in range(2)]
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


def test_a_log_in_postgresql_refuses_changes_and_reads_by_url(postgres: PostgresServer) -> None:
    url = postgres.new_database()
    log = SqlAudit.open(url)
    log.append(quiet_tick(0.0))
    for statement in ("UPDATE audit SET at = 1", "DELETE FROM audit", "TRUNCATE audit"):
        with psycopg.connect(url) as connection, pytest.raises(psycopg.Error, match="append-only"):
            connection.execute(statement.encode())
    reader = SqlAudit.open_existing(url)
    assert (len(reader), reader.verify().intact) == (1, True)
    reader.close()
    log.close()


def test_connections_that_the_server_dropped_are_made_anew(postgres: PostgresServer) -> None:
    url = postgres.new_database()
    log = SqlAudit.open(url)
    log.append(quiet_tick(0.0))
    with psycopg.connect(postgres.url(), autocommit=True) as connection:
        connection.execute(
            b"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'foresail'"
        )
    assert log.append(quiet_tick(15.0)) == "2"
    assert log.verify().intact
    log.close()


def test_a_postgresql_that_cannot_be_read_is_named_without_its_password(postgres: PostgresServer) -> None:
    for url in (postgres.new_database(), postgres.url("nowhere"), postgres.url().replace("s3cret", "wr0ng")):
        with pytest.raises(BadInput, match="audit log") as caught:
            SqlAudit.open_existing(url)
        assert "-of-the-test" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"not a database", b"SQLite format 3\x00" + b"\x00" * 200])
def test_a_file_that_is_no_audit_log_is_refused_and_left_alone(file: Path, content: bytes) -> None:
    file.write_bytes(content)
    with pytest.raises(BadInput, match="not an audit log"):
        SqlAudit.open_existing(file)
    assert file.read_bytes() == content


def test_a_log_of_which_a_part_is_missing_is_said_to_be_damaged(file: Path) -> None:
    log = SqlAudit.open(f"sqlite:///{file}")
    for tick in range(200):
        log.append(quiet_tick(float(tick)))
    log.close()
    content = file.read_bytes()
    file.write_bytes(content[: len(content) * 3 // 4])
    with pytest.raises(BadInput, match="damaged"):
        SqlAudit.open_existing(file)


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


@pytest.mark.parametrize(
    "url",
    ["sqlite:////nowhere/at/all/audit.db", "nonsense", "nosuchdatabase://host/db", "mysql://host/db",
     "postgresql://me:s3cret@127.0.0.1:1/db"],
)  # fmt: skip
def test_a_database_that_cannot_be_opened_says_so(url: str) -> None:
    with pytest.raises(AuditError, match="cannot be opened") as caught:
        SqlAudit.open(url)
    assert "s3cret" not in str(caught.value)


def test_a_log_that_has_vanished_is_an_audit_error_not_a_crash(file: Path) -> None:
    log = written(file)
    tamper(file, lambda c: c.execute("DROP TABLE audit"))
    with pytest.raises(AuditError, match="cannot be written"):
        log.append(quiet_tick(0.0))
    with pytest.raises(AuditError, match="cannot be read"):
        log.verify()
    log.close()


# ---- intent and outcome


def announced(at: float) -> TickRecord:
    return replace(scaling_tick(at), results=())


def outcome(log: SqlAudit, at: float, *results: ActResult) -> str:
    """Store an intent and what became of it, and return the id of the intent."""
    intent = log.append(announced(at))
    log.settle(ActsRecord(at, intent, results))
    return intent


DONE, HELD, FAILED = (ActResult("scale", "m/a/unified", what) for what in get_args(Outcome))


def test_an_intent_and_its_outcome_are_two_rows_of_one_chain(log: SqlAudit) -> None:
    intent = log.read(outcome(log, 60.0, DONE))
    assert intent is not None
    assert (intent.kind, intent.record["results"]) == ("intended", [])
    became = log.outcome_of(intent)
    assert became is not None
    assert (became.kind, became.record["intent"], became.at) == ("acted", intent.id, 60.0)
    assert became.record["results"][0]["outcome"] == "done"
    assert (log.verify().intact, log.verify().rows) == (True, 2)


@pytest.mark.parametrize(
    ("results", "kind"),
    [((DONE, HELD, FAILED), "acted"), ((HELD, FAILED), "failed"), ((HELD, HELD), "held"), ((), "held")],
)
def test_a_tick_acted_only_if_something_was_done(log: SqlAudit, results: tuple[ActResult, ...], kind: str) -> None:
    outcome(log, 60.0, *results)
    last = log.read("last")
    assert last is not None
    assert last.kind == kind


def test_an_outcome_is_found_behind_the_rows_of_another_writer(log: SqlAudit) -> None:
    one, other = (log.append(announced(float(i))) for i in range(2))
    log.append(quiet_tick(2.0))
    log.settle(ActsRecord(1.0, other, (HELD,)))
    log.settle(ActsRecord(0.0, one, (DONE,)))
    for name, kind in ((one, "acted"), (other, "held")):
        intent = log.read(name)
        assert intent is not None
        became = log.outcome_of(intent)
        assert became is not None
        assert became.kind == kind
    assert log.without_outcome(9) == []


def test_an_intent_that_nothing_came_after_is_found(log: SqlAudit) -> None:
    outcome(log, 0.0, DONE)
    crashed = log.append(announced(15.0))
    outcome(log, 30.0, HELD)
    assert [entry.id for entry in log.without_outcome(9)] == [crashed]
    assert log.without_outcome(0) == []
    assert log.verify().intact


def test_a_changed_outcome_breaks_the_chain(file: Path) -> None:
    log = SqlAudit.open(f"sqlite:///{file}")
    outcome(log, 0.0, FAILED)
    tamper(file, lambda c: c.execute("UPDATE audit SET record = replace(record, 'failed', 'done') WHERE number = 2"))
    assert log.verify().broken_at == "2"
    log.close()


# ---- odd values and openers


@pytest.mark.parametrize("at", [1000, np.float64(1000.5), np.float32(2.5)], ids=repr)
def test_an_instant_of_any_number_type_keeps_the_chain_intact(log: SqlAudit, at: float) -> None:
    log.append(blind_tick(at))
    log.settle(ActsRecord(at, "1", ()))
    assert log.verify().intact
    entry = log.read("1")
    assert entry is not None
    assert entry.at == float(at)


def test_what_has_no_text_is_an_audit_error_and_leaves_no_row(log: SqlAudit) -> None:
    with pytest.raises(AuditError, match="cannot be written as text"):
        log.append(replace(blind_tick(0.0), error=b"bytes"))  # type: ignore[arg-type]
    assert len(log) == 0


def test_a_record_that_is_too_large_is_refused(log: SqlAudit, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("controller.adapters.sql_audit.MAX_RECORD_BYTES", 1000)
    with pytest.raises(AuditError, match="too large"):
        log.append(quiet_tick(0.0))
    assert len(log) == 0


def test_a_large_record_is_packed_and_reads_back_as_any_other(log: SqlAudit, monkeypatch: pytest.MonkeyPatch) -> None:
    record = busy_tick(120.0)
    monkeypatch.setattr("controller.adapters.record_text.PACKED_FROM_CHARS", 1000)
    entry = log.read(log.append(record))
    assert entry is not None
    assert entry.record == json.loads(canonical_json(record))
    with log.engine.connect() as connection:
        stored = connection.execute(sql.text("SELECT record FROM audit")).scalar_one()
    assert stored.startswith("zstd:")
    assert len(stored) < 0.7 * len(canonical_json(record))
    assert log.verify().intact


@pytest.mark.parametrize("stored", ["zstd:", "zstd:!!", "zstd:AAAA", "zstd:KLUv/QBYAQAA", "[]", "zstd:" + "A" * 400])
def test_a_forged_packed_record_is_an_audit_error(file: Path, stored: str) -> None:
    log = written(file)
    tamper(file, lambda c: c.execute("UPDATE audit SET record = ? WHERE number = 3", (stored,)))
    with pytest.raises(AuditError, match="holds no record"):
        log.read("3")
    assert log.verify().broken_at == "3"
    log.close()


def test_a_packed_record_that_would_fill_the_memory_is_refused() -> None:
    bomb = zstandard.ZstdCompressor().compress(b" " * (MOST_CHARS + 1))
    with pytest.raises(ValueError, match="impossible size"):
        record_in("zstd:" + b64encode(bomb).decode())


def write_ten(url: str) -> None:
    log = SqlAudit.open(url)
    for i in range(10):
        log.append(blind_tick(float(i)))
    log.close()


@pytest.mark.parametrize("kind", ["file", "postgresql"])
def test_openers_of_a_new_log_at_once_all_get_in(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    spawned = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(4, mp_context=spawned) as pool:
        list(pool.map(abs, range(8)))  # all processes are up before the race begins
        for number in range(12 if kind == "file" else 3):
            new = f"sqlite:///{tmp_path / f'{number}.db'}"
            url = new if kind == "file" else request.getfixturevalue("postgres").new_database()
            list(pool.map(write_ten, [url] * 4))
            log = SqlAudit.open(url)
            assert (log.verify().intact, len(log)) == (True, 40)
            log.close()
