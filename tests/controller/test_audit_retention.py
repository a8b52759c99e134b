"""Is the audit log kept in bounds, and still believed afterwards, over SQLite and a real PostgreSQL?"""

from __future__ import annotations

import gzip
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sql

from controller.adapters.audit_claim import AuditClaim
from controller.adapters.audit_retention import PrunedSegment, Retention, verify_archive
from controller.adapters.audit_settings import DAY_S, AuditSettings
from controller.adapters.sql_audit import SqlAudit
from controller.errors import AuditError, BadInput
from tests.builders_postgres import PostgresServer
from tests.builders_records import blind_tick, quiet_tick

SEGMENT = 10
NOW = 100 * DAY_S


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'audit.db'}"
    made: str = request.getfixturevalue("postgres").new_database()
    return made


@pytest.fixture
def log(url: str) -> Iterator[SqlAudit]:
    audit = SqlAudit.open(url)
    yield audit
    audit.close()


def fill(log: SqlAudit, rows: int, begun_at: float = 0.0, step_s: float = DAY_S) -> None:
    for i in range(rows):
        log.append(quiet_tick(begun_at + i * step_s, i + 1))


def prune(
    log: SqlAudit, keep_s: float = 30 * DAY_S, archive: Path | None = None, most: int = 16
) -> list[PrunedSegment]:
    settings = AuditSettings(keep_s=keep_s, archive=archive)
    return Retention(log.engine, settings, SEGMENT).prune(NOW, most)


def test_whole_segments_that_are_too_old_go_and_the_chain_stays_intact(log: SqlAudit) -> None:
    fill(log, 100)
    before = log.verify()
    gone = prune(log)
    # Rows of day 0 to 69 are older than 30 days at day 100: seven whole segments.
    assert [(s.first, s.last, s.why) for s in gone] == [(1 + 10 * i, 10 + 10 * i, "age") for i in range(7)]
    after = log.verify()
    assert (after.intact, after.pruned, after.rows) == (True, 70, 30 + 7)
    assert (before.pruned, log.first_number) == (0, 71)
    assert log.read("70") is None
    assert prune(log) == []


def test_the_log_goes_on_after_pruning_and_can_be_pruned_again(log: SqlAudit) -> None:
    fill(log, 50)
    prune(log)
    fill(log, 80, 50 * DAY_S, 0.1 * DAY_S)
    gone = prune(log)
    assert gone
    chain = log.verify()
    assert (chain.intact, chain.pruned) == (True, gone[-1].last)
    assert log.verify(newest=5).intact


def test_only_so_much_goes_at_once(log: SqlAudit) -> None:
    fill(log, 60)
    assert len(prune(log, most=2)) == 2
    assert log.first_number == 21


def test_the_newest_decision_stays_however_old_it_is(log: SqlAudit) -> None:
    fill(log, 25)
    for i in range(60):
        log.append(blind_tick(30 * DAY_S + i * DAY_S / 10))
    prune(log)
    decided = log.newest_decision()
    assert decided is not None
    assert decided.id == "25"
    assert log.first_number == 21


def test_a_log_that_is_too_large_loses_its_oldest_segments_whatever_their_age(log: SqlAudit) -> None:
    fill(log, 60, NOW - 60.0, 1.0)
    settings = AuditSettings(keep_s=30 * DAY_S).model_copy(update={"keep_mib": 0.04})
    gone = Retention(log.engine, settings, SEGMENT).prune(NOW)
    assert gone
    assert {segment.why for segment in gone} == {"size"}
    assert 0 < len(log) < 60
    assert log.verify().intact


def test_a_clock_that_was_set_back_keeps_what_is_young(log: SqlAudit) -> None:
    fill(log, 5, NOW - 100.0, 1.0)
    fill(log, 45)
    assert prune(log) == []


def test_an_archived_segment_can_be_checked_against_what_the_chain_says(log: SqlAudit, tmp_path: Path) -> None:
    fill(log, 60)
    gone = prune(log, archive=tmp_path / "old")
    assert gone
    for segment in gone:
        assert verify_archive(tmp_path / "old" / segment.archive) == (segment.first, segment.last, segment.hash)
    entry = log.recent(1, ("pruned",))[0]
    assert (entry.record["last"], entry.record["hash"]) == (gone[-1].last, gone[-1].hash)


def test_a_changed_or_cut_archive_is_refused(log: SqlAudit, tmp_path: Path) -> None:
    fill(log, 60)
    path = tmp_path / prune(log, archive=tmp_path)[0].archive
    whole, packed = gzip.decompress(path.read_bytes()), path.read_bytes()
    changed = gzip.compress(whole.replace(b'"kind": "quiet"', b'"kind": "acted"', 1))
    torn = packed[:200] + bytes(200) + packed[400:]
    for content in (changed, torn, packed[:-20], b"", b"x"):
        path.write_bytes(content)
        with pytest.raises(BadInput):
            verify_archive(path)


def test_what_cannot_be_archived_is_not_pruned(log: SqlAudit, tmp_path: Path) -> None:
    fill(log, 60)
    (tmp_path / "taken").write_text("a file, no folder")
    with pytest.raises(AuditError, match="cannot be archived"):
        prune(log, archive=tmp_path / "taken")
    assert (len(log), log.verify().intact) == (60, True)


def test_rows_removed_by_hand_are_not_taken_for_pruned(tmp_path: Path) -> None:
    file = tmp_path / "audit.db"
    log = SqlAudit.open(f"sqlite:///{file}")
    fill(log, 60)
    prune(log)
    with sqlite3.connect(file) as connection:
        connection.execute("DROP TRIGGER audit_no_delete")
        connection.execute("DELETE FROM audit WHERE number <= 55")
    connection.close()
    chain = log.verify()
    assert (chain.intact, chain.broken_at) == (False, "56")
    log.close()


def test_rows_are_refused_to_be_removed_after_pruning_as_before(tmp_path: Path) -> None:
    file = tmp_path / "audit.db"
    log = SqlAudit.open(f"sqlite:///{file}")
    fill(log, 60)
    assert prune(log)
    connection = sqlite3.connect(file)
    with pytest.raises(sqlite3.IntegrityError, match="append-only"):
        connection.execute("DELETE FROM audit")
    connection.close()
    log.close()


def test_a_second_controller_is_refused_until_the_first_one_lets_go(url: str, log: SqlAudit) -> None:
    first = AuditClaim(log.engine, url)
    other = SqlAudit.open(url)
    with pytest.raises(AuditError, match="another controller"):
        AuditClaim(other.engine, url)
    first.release()
    AuditClaim(other.engine, url).release()
    other.close()


def test_a_claim_of_a_machine_that_is_gone_is_noticed_soon(postgres: PostgresServer) -> None:
    """What the server is told of the session's connection: two hours are the default of the kernel."""
    url = postgres.new_database()
    log = SqlAudit.open(url)
    claim = AuditClaim(log.engine, url)
    assert claim._connection is not None
    told = [
        claim._connection.execute(sql.text(f"SHOW tcp_keepalives_{name}")).scalar_one()
        for name in ("idle", "interval", "count")
    ]
    assert [int(value) for value in told] == [5, 2, 2]
    claim.release()
    log.close()
