"""What was decided when, so that nobody can change it unnoticed: the audit log in an SQL database.

One table, only ever appended to. Each row holds the canonical JSON of a record and a hash over that, over its number
and over the hash of the row before: whoever changes, removes or inserts a row breaks the chain from there on. Rows cut
off at the end leave a shorter, intact chain; keep the head's hash elsewhere to notice that. Where the oldest rows were
pruned, a row of the chain says so, with the hash that the rest goes on from (``audit_retention``).

A tick in which something is to be done takes two rows: what is intended, written before it is done, and what became of
it. An intent without an outcome is what a crash between the two leaves.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sql
from sqlalchemy.exc import IntegrityError, SQLAlchemyError
from sqlalchemy.pool import QueuePool

from controller.adapters.audit_settings import sqlite_file
from controller.adapters.audit_store import (
    FIRST_HASH,
    LOCK_WAIT_MS,
    TABLE,
    audit_errors,
    engine_of,
    hash_of,
    insert_row,
    lock,
    make_table,
)
from controller.adapters.record_text import packed, record_in
from controller.adapters.sqlite_reading import SQLITE_MAGIC, reading_uri, why_unreadable
from controller.errors import AuditError, BadInput
from controller.ports import ActResult, ActsRecord, TickRecord
from controller.redaction import redacted
from policies.wire import canonical_json

__all__ = ["FIRST_HASH", "AuditEntry", "Chain", "SqlAudit", "kind_of", "kind_of_acts"]

PAGE_ROWS = 500
MAX_RECORD_BYTES = 64 * 1024 * 1024  # ten thousand replicas of a thousand models take about twenty
APPEND_TRIES = 5  # another writer may have taken the next number in between
OUTCOME_KINDS = ("acted", "failed", "held")
DECISION_KINDS = ("quiet", "intended")
PRUNED = "pruned"
LOOKED_THROUGH = 100


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """One row, or an intent joined with its outcome.

    ``kind`` is ``blind`` (could not observe), ``broken`` (an error that nobody foresaw), ``quiet`` (nothing to do),
    ``intended`` (about to act), or what became of that: ``acted`` (something was done), ``failed`` (nothing was, though
    it was tried), ``held`` (nothing was tried). ``pruned`` says which older rows were removed.
    """

    id: str
    at: float
    kind: str
    record: Mapping[str, Any]
    hash: str


@dataclass(frozen=True, slots=True)
class Chain:
    """Whether the rows are as they were written.

    ``broken_at`` is the first row that is not, ``head`` the last hash, ``pruned`` how many rows before the first one
    are gone by the log's own word.
    """

    rows: int
    head: str
    broken_at: str = ""
    what: str = ""
    pruned: int = 0

    @property
    def intact(self) -> bool:
        """Whether no row was found changed, missing or inserted."""
        return not self.broken_at


class SqlAudit:
    """The audit log in a database of any kind that SQLAlchemy speaks to."""

    def __init__(self, engine: sql.Engine) -> None:
        """Use the table in ``engine``'s database, which ``open`` or ``open_existing`` made sure of."""
        self._engine = engine

    @classmethod
    def open(cls, url: str, durable: bool = False) -> SqlAudit:
        """Open the log at ``url`` (``sqlite:///FILE``, ``sqlite://`` in memory, ``postgresql://...``).

        The table is made where there is none. Once a record is stored, no crash of this process loses it; with
        ``durable`` none of the machine does either.

        Raises:
            AuditError: If the database cannot be opened or written.
        """
        with audit_errors("opened"):
            engine = engine_of(url, durable)
            make_table(engine)
        return cls(engine)

    @classmethod
    def open_existing(cls, place: Path | str) -> SqlAudit:
        """Open the log in a SQLite file, or at the URL of a database, for reading.

        A file is read also where neither it nor its folder may be written.

        Raises:
            BadInput: If there is no such database, it cannot be read, or it is not an audit log.
        """
        remedy = "name the file that --audit wrote, or the audit.url of the settings"
        path, shown = sqlite_file(str(place)) if "://" in str(place) else Path(place), redacted(str(place))
        try:
            engine = engine_of(str(place)) if path is None else _reading_engine(path, shown, remedy)
        except (SQLAlchemyError, ImportError) as error:
            raise BadInput(f"not an audit log: {redacted(str(error))}", shown, remedy) from None
        try:
            columns = {column["name"] for column in sql.inspect(engine).get_columns(TABLE.name)}
        except sql.exc.OperationalError as error:
            engine.dispose()
            raise _unreadable(error, path, shown, remedy) from None
        except SQLAlchemyError as error:
            columns = set()
            if isinstance(damage := getattr(error, "orig", None), sqlite3.DatabaseError):
                engine.dispose()
                what_to_do = f"copy it again, whole and with its -wal, restore a backup, or {remedy}"
                raise BadInput(f"damaged, or not an audit log: {damage}", shown, what_to_do) from None
        if not columns >= {column.name for column in TABLE.columns}:
            engine.dispose()
            raise BadInput("not an audit log (a database without its table)", shown, remedy)
        return cls(engine)

    @property
    def engine(self) -> sql.Engine:
        """The database, for what else is to be done with it: pruning, and the claim of the one writer."""
        return self._engine

    def close(self) -> None:
        """Give up the connections; the log can be opened again."""
        self._engine.dispose()

    def append(self, record: TickRecord) -> str:
        """Store ``record`` after all earlier ones and return its id, the number of its row.

        Raises:
            AuditError: If it cannot be stored; then nothing of it is.
        """
        return self._store(record.at, kind_of(record), record)

    def settle(self, outcome: ActsRecord) -> None:
        """Store what became of the acts of an earlier record.

        Raises:
            AuditError: If it cannot be stored; then nothing of it is.
        """
        self._store(outcome.at, kind_of_acts(outcome.results), outcome)

    def _store(self, at: float, kind: str, record: TickRecord | ActsRecord) -> str:
        at = float(at)
        text = _text_of(record)
        with audit_errors("written"):
            for attempt in range(APPEND_TRIES):
                try:
                    return self._append(at, kind, text)
                except IntegrityError:
                    if attempt == APPEND_TRIES - 1:
                        raise
        raise AssertionError("unreachable")

    def _append(self, at: float, kind: str, text: str) -> str:
        with self._engine.begin() as connection:
            lock(connection)
            return str(insert_row(connection, at, kind, text))

    def __len__(self) -> int:
        with audit_errors("read"), self._engine.connect() as connection:
            return connection.execute(sql.select(sql.func.count()).select_from(TABLE)).scalar_one()

    def read(self, entry_id: str) -> AuditEntry | None:
        """Return the row with that id, ``last`` for the newest; None when there is none.

        Raises:
            AuditError: If the database cannot be read, or the row holds no record.
        """
        query = sql.select(TABLE)
        if entry_id == "last":
            query = query.order_by(TABLE.c.number.desc()).limit(1)
        elif entry_id.isascii() and entry_id.isdigit() and len(entry_id) <= 18:
            query = query.where(TABLE.c.number == int(entry_id))
        else:
            return None
        with audit_errors("read"), self._engine.connect() as connection:
            row = connection.execute(query).one_or_none()
        return _entry(row) if row else None

    def recent(self, limit: int, kinds: tuple[str, ...] = ()) -> list[AuditEntry]:
        """Return at most ``limit`` of the newest rows, newest first, only of ``kinds`` where any are given."""
        query = sql.select(TABLE).order_by(TABLE.c.number.desc()).limit(max(0, limit))
        if kinds:
            query = query.where(TABLE.c.kind.in_(kinds))
        with audit_errors("read"), self._engine.connect() as connection:
            return [_entry(row) for row in connection.execute(query)]

    def outcome_of(self, intent: AuditEntry) -> AuditEntry | None:
        """Return the row that says what became of ``intent``; None when there is none, as after a crash.

        It is the next row, but for what other writers put in between, of which ``LOOKED_THROUGH`` rows are searched.
        """
        later = sql.select(TABLE).where(TABLE.c.number > int(intent.id), TABLE.c.kind.in_(OUTCOME_KINDS))
        query = later.order_by(TABLE.c.number).limit(LOOKED_THROUGH)
        with audit_errors("read"), self._engine.connect() as connection:
            entries = map(_entry, connection.execute(query))
            return next((entry for entry in entries if entry.record.get("intent") == intent.id), None)

    def without_outcome(self, limit: int) -> list[AuditEntry]:
        """Return at most ``limit`` of the newest intents that nothing is known to have become of, newest first."""
        following = TABLE.alias()
        answered = sql.exists().where(following.c.number == TABLE.c.number + 1, following.c.kind.in_(OUTCOME_KINDS))
        query = sql.select(TABLE).where(TABLE.c.kind == "intended", ~answered)
        query = query.order_by(TABLE.c.number.desc()).limit(max(0, limit))
        with audit_errors("read"), self._engine.connect() as connection:
            found = [_entry(row) for row in connection.execute(query)]
        return [entry for entry in found if self.outcome_of(entry) is None]

    def entries(self) -> Iterator[AuditEntry]:
        """Yield all rows, oldest first, holding one page of them at a time."""
        return map(_entry, self._rows(1))

    def newest_decision(self) -> AuditEntry | None:
        """Return the newest row that holds a decision, with the memory that it led to; None when there is none."""
        found = self.recent(1, DECISION_KINDS)
        return found[0] if found else None

    def verify(self, newest: int | None = None) -> Chain:
        """Return whether the chain is intact: all of it, or the ``newest`` rows.

        A row is believed when its hash is that of what it says and of the row before it, and no number is left out,
        but for those before the first one that a row of the chain says were pruned.
        """
        first = 1 if newest is None else max(1, self._last_number() - newest + 1)
        count, number, previous, pruned = 0, first - 1, FIRST_HASH, 0
        for row in self._rows(first):
            if count == 0 and first > 1:
                number, previous = row.number - 1, row.previous_hash
            elif count == 0 and row.number > 1:
                pruned, previous = self.pruned_before(row.number)
                number = pruned
            count, number = count + 1, number + 1
            what = fault_of(row, number, previous)
            if what:
                return Chain(count, previous, str(row.number), what, pruned)
            previous = row.hash
        return Chain(count, previous, pruned=pruned)

    def pruned_before(self, number: int) -> tuple[int, str]:
        """Return how many rows before ``number`` were pruned, with the last one's hash; none if no row says so."""
        for entry in self.recent(2, (PRUNED,)):  # the newest may be of rows that went since ``number`` was read
            if entry.record.get("last") == number - 1:
                return number - 1, str(entry.record.get("hash"))
        return 0, FIRST_HASH

    @property
    def first_number(self) -> int:
        """Number of the oldest row that is kept; 0 when there is none."""
        with audit_errors("read"), self._engine.connect() as connection:
            return connection.execute(sql.select(sql.func.min(TABLE.c.number))).scalar() or 0

    def _last_number(self) -> int:
        with audit_errors("read"), self._engine.connect() as connection:
            return connection.execute(sql.select(sql.func.max(TABLE.c.number))).scalar() or 0

    def _rows(self, first: int) -> Iterator[sql.Row[Any]]:
        while True:
            query = sql.select(TABLE).where(TABLE.c.number >= first).order_by(TABLE.c.number).limit(PAGE_ROWS)
            with audit_errors("read"), self._engine.connect() as connection:
                page = connection.execute(query).all()
            yield from page
            if len(page) < PAGE_ROWS:
                return
            first = page[-1].number + 1


def kind_of(record: TickRecord) -> str:
    """Return the kind of a tick's row, see ``AuditEntry``."""
    if record.decision is None:
        return "blind" if record.fleet is None else "broken"
    if record.results:
        return kind_of_acts(record.results)
    return "intended" if record.acts_planned else "quiet"


def kind_of_acts(results: Sequence[ActResult]) -> str:
    """Return what became of a tick's acts, in one word of ``OUTCOME_KINDS``."""
    outcomes = {result.outcome for result in results}
    return "acted" if "done" in outcomes else "failed" if "failed" in outcomes else "held"


def _text_of(record: TickRecord | ActsRecord) -> str:
    try:
        text = canonical_json(record)
    except (TypeError, ValueError) as error:
        raise AuditError(f"the record cannot be written as text: {error}") from error
    if len(text) > MAX_RECORD_BYTES:
        raise AuditError(f"a record of {len(text):,} bytes is too large for the audit log", remedy="split the fleet")
    return packed(text)


def fault_of(row: sql.Row[Any], number: int, previous: str) -> str:
    """Return what is wrong with ``row`` as the ``number``-th one after the hash ``previous``; empty when nothing is."""
    if row.number != number:
        return f"row {number} is missing"
    if row.previous_hash != previous:
        return "it does not follow the row before it"
    if row.hash != hash_of(previous, row.number, row.at, row.kind, row.record):
        return "its content is not what was written"
    return ""


def _entry(row: sql.Row[Any]) -> AuditEntry:
    try:
        record = record_in(row.record)
    except ValueError:
        raise AuditError(f"row {row.number} of the audit log holds no record", remedy="verify the chain") from None
    return AuditEntry(str(row.number), row.at, row.kind, record, row.hash)


def _reading_engine(path: Path, shown: str, remedy: str) -> sql.Engine:
    """Return an engine that changes nothing of the file's own, such as its journal mode.

    Refuses what is no SQLite database: opening it would make one.
    """
    try:
        with path.open("rb") as file:
            magic = file.read(len(SQLITE_MAGIC))
        uri = reading_uri(path)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise BadInput(f"the audit log cannot be read: {reason}", shown, remedy) from None
    if magic != SQLITE_MAGIC:
        raise BadInput("not an audit log (no SQLite database)", shown, remedy)
    return sql.create_engine(
        "sqlite://",
        creator=lambda: sqlite3.connect(uri, uri=True, timeout=LOCK_WAIT_MS / 1000, check_same_thread=False),
        poolclass=QueuePool,  # for a URL without a file SQLAlchemy would take a pool of one connection per thread
    )


def _unreadable(error: sql.exc.OperationalError, path: Path | None, shown: str, remedy: str) -> BadInput:
    """Return what to say of a database that does not answer."""
    if path is None or not isinstance(error.orig, sqlite3.Error):
        return BadInput(f"the audit log cannot be reached: {redacted(str(error.orig).splitlines()[0])}", shown, remedy)
    what_to_do = "let whoever writes it finish, or copy it with its -wal to a folder that you may write"
    return BadInput(f"the audit log cannot be read: {why_unreadable(path, error.orig)}", shown, what_to_do)
