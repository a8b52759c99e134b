"""What was decided when, so that nobody can change it unnoticed: the audit log in an SQL database.

One table, only ever appended to. Each row holds the canonical JSON of a record and a hash over that, over its number
and over the hash of the row before: whoever changes, removes or inserts a row breaks the chain from there on. Rows cut
off at the end leave a shorter, intact chain; keep the head's hash elsewhere to notice that.

A tick in which something is to be done takes two rows: what is intended, written before it is done, and what became of
it. An intent without an outcome is what a crash between the two leaves.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import sqlalchemy as sql
from sqlalchemy import event
from sqlalchemy.exc import IntegrityError, OperationalError, ProgrammingError, SQLAlchemyError
from sqlalchemy.pool import QueuePool, StaticPool
from sqlalchemy.schema import CreateTable

from controller.adapters.sqlite_reading import SQLITE_MAGIC, reading_uri, why_unreadable
from controller.errors import AuditError, BadInput
from controller.ports import ActResult, ActsRecord, TickRecord
from controller.redaction import redacted
from policies.wire import canonical_json

FIRST_HASH = "0" * 64
PAGE_ROWS = 500
MAX_RECORD_BYTES = 16 * 1024 * 1024  # a thousand replicas of a hundred models take about two
LOCK_WAIT_MS = 5_000
APPEND_TRIES = 5  # another writer may have taken the next number in between
OUTCOME_KINDS = ("acted", "failed", "held")
LOOKED_THROUGH = 100

_TABLE = sql.Table(
    "audit",
    sql.MetaData(),
    sql.Column("number", sql.BigInteger, primary_key=True, autoincrement=False),
    sql.Column("at", sql.Float(53), nullable=False),
    sql.Column("kind", sql.String(16), nullable=False),
    sql.Column("record", sql.Text, nullable=False),
    sql.Column("previous_hash", sql.String(64), nullable=False),
    sql.Column("hash", sql.String(64), nullable=False),
)

_APPEND_ONLY = [
    f"CREATE TRIGGER IF NOT EXISTS audit_no_{verb.lower()} BEFORE {verb} ON audit "
    "BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'); END"
    for verb in ("UPDATE", "DELETE")
]


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """One row, or an intent joined with its outcome.

    ``kind`` is ``blind`` (could not observe), ``broken`` (an error that nobody foresaw), ``quiet`` (nothing to do),
    ``intended`` (about to act), or what became of that: ``acted`` (something was done), ``failed`` (nothing was, though
    it was tried), ``held`` (nothing was tried).
    """

    id: str
    at: float
    kind: str
    record: Mapping[str, Any]
    hash: str


@dataclass(frozen=True, slots=True)
class Chain:
    """Whether the rows are as they were written. ``broken_at`` is the first row that is not; ``head`` the last hash."""

    rows: int
    head: str
    broken_at: str = ""
    what: str = ""

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
    def open(cls, url: str) -> SqlAudit:
        """Open the log at ``url`` (``sqlite:///FILE``, ``sqlite://`` in memory, ``postgresql+psycopg://...``).

        The table is made where there is none.

        Raises:
            AuditError: If the database cannot be opened or written.
        """
        with _audit_errors("opened"):
            engine = _engine(url)
            _make_table(engine)
        return cls(engine)

    @classmethod
    def open_existing(cls, path: Path) -> SqlAudit:
        """Open the log in the SQLite file ``path`` for reading, also where neither it nor its folder may be written.

        Raises:
            BadInput: If there is no such file, it cannot be read, or it is not an audit log.
        """
        remedy = "name the file that --audit wrote"
        try:
            with path.open("rb") as file:
                magic = file.read(len(SQLITE_MAGIC))
            uri = reading_uri(path)
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            raise BadInput(f"the audit log cannot be read: {reason}", str(path), remedy) from None
        if magic != SQLITE_MAGIC:
            raise BadInput("not an audit log (no SQLite database)", str(path), remedy)
        engine = _reading_engine(uri)
        try:
            columns = {column["name"] for column in sql.inspect(engine).get_columns(_TABLE.name)}
        except OperationalError as error:
            engine.dispose()
            reason = why_unreadable(path, error.orig) if isinstance(error.orig, sqlite3.Error) else str(error.orig)
            what_to_do = "let whoever writes it finish, or copy it with its -wal to a folder that you may write"
            raise BadInput(f"the audit log cannot be read: {reason}", str(path), what_to_do) from None
        except SQLAlchemyError:
            columns = set()
        if not columns >= {column.name for column in _TABLE.columns}:
            engine.dispose()
            raise BadInput("not an audit log (a database without its table)", str(path), remedy)
        return cls(engine)

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
        with _audit_errors("written"):
            for attempt in range(APPEND_TRIES):
                try:
                    return self._append(at, kind, text)
                except IntegrityError:
                    if attempt == APPEND_TRIES - 1:
                        raise
        raise AssertionError("unreachable")

    def _append(self, at: float, kind: str, text: str) -> str:
        with self._engine.begin() as connection:
            _lock(connection)
            newest = sql.select(_TABLE.c.number, _TABLE.c.hash).order_by(_TABLE.c.number.desc()).limit(1)
            last = connection.execute(newest).one_or_none()
            number, previous = (last.number + 1, last.hash) if last else (1, FIRST_HASH)
            row_hash = _hash_of(previous, number, at, kind, text)
            row = {
                "number": number,
                "at": at,
                "kind": kind,
                "record": text,
                "previous_hash": previous,
                "hash": row_hash,
            }
            connection.execute(_TABLE.insert().values(row))
        return str(number)

    def __len__(self) -> int:
        with _audit_errors("read"), self._engine.connect() as connection:
            return connection.execute(sql.select(sql.func.count()).select_from(_TABLE)).scalar_one()

    def read(self, entry_id: str) -> AuditEntry | None:
        """Return the row with that id, ``last`` for the newest; None when there is none.

        Raises:
            AuditError: If the database cannot be read, or the row holds no record.
        """
        query = sql.select(_TABLE)
        if entry_id == "last":
            query = query.order_by(_TABLE.c.number.desc()).limit(1)
        elif entry_id.isascii() and entry_id.isdigit() and len(entry_id) <= 18:
            query = query.where(_TABLE.c.number == int(entry_id))
        else:
            return None
        with _audit_errors("read"), self._engine.connect() as connection:
            row = connection.execute(query).one_or_none()
        return _entry(row) if row else None

    def recent(self, limit: int, kinds: tuple[str, ...] = ()) -> list[AuditEntry]:
        """Return at most ``limit`` of the newest rows, newest first, only of ``kinds`` where any are given."""
        query = sql.select(_TABLE).order_by(_TABLE.c.number.desc()).limit(max(0, limit))
        if kinds:
            query = query.where(_TABLE.c.kind.in_(kinds))
        with _audit_errors("read"), self._engine.connect() as connection:
            return [_entry(row) for row in connection.execute(query)]

    def outcome_of(self, intent: AuditEntry) -> AuditEntry | None:
        """Return the row that says what became of ``intent``; None when there is none, as after a crash.

        It is the next row, but for what other writers put in between, of which ``LOOKED_THROUGH`` rows are searched.
        """
        later = sql.select(_TABLE).where(_TABLE.c.number > int(intent.id), _TABLE.c.kind.in_(OUTCOME_KINDS))
        query = later.order_by(_TABLE.c.number).limit(LOOKED_THROUGH)
        with _audit_errors("read"), self._engine.connect() as connection:
            entries = map(_entry, connection.execute(query))
            return next((entry for entry in entries if entry.record.get("intent") == intent.id), None)

    def without_outcome(self, limit: int) -> list[AuditEntry]:
        """Return at most ``limit`` of the newest intents that nothing is known to have become of, newest first."""
        following = _TABLE.alias()
        answered = sql.exists().where(following.c.number == _TABLE.c.number + 1, following.c.kind.in_(OUTCOME_KINDS))
        query = sql.select(_TABLE).where(_TABLE.c.kind == "intended", ~answered)
        query = query.order_by(_TABLE.c.number.desc()).limit(max(0, limit))
        with _audit_errors("read"), self._engine.connect() as connection:
            found = [_entry(row) for row in connection.execute(query)]
        return [entry for entry in found if self.outcome_of(entry) is None]

    def entries(self) -> Iterator[AuditEntry]:
        """Yield all rows, oldest first, holding one page of them at a time."""
        return map(_entry, self._rows(1))

    def verify(self, newest: int | None = None) -> Chain:
        """Return whether the chain is intact: all of it, or the ``newest`` rows.

        A row is believed when its hash is that of what it says and of the row before it, and no number is left out.
        """
        count, number, previous = 0, 0, FIRST_HASH
        first = 1 if newest is None else max(1, self._last_number() - newest + 1)
        for row in self._rows(first):
            if first > 1 and count == 0:
                number, previous = first - 1, row.previous_hash
            count, number = count + 1, number + 1
            what = _fault(row, number, previous)
            if what:
                return Chain(count, previous, str(row.number), what)
            previous = row.hash
        return Chain(count, previous)

    def _last_number(self) -> int:
        with _audit_errors("read"), self._engine.connect() as connection:
            return connection.execute(sql.select(sql.func.max(_TABLE.c.number))).scalar() or 0

    def _rows(self, first: int) -> Iterator[sql.Row[Any]]:
        while True:
            query = sql.select(_TABLE).where(_TABLE.c.number >= first).order_by(_TABLE.c.number).limit(PAGE_ROWS)
            with _audit_errors("read"), self._engine.connect() as connection:
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
    return text


def _fault(row: sql.Row[Any], number: int, previous: str) -> str:
    """Return what is wrong with ``row`` as the ``number``-th one after the hash ``previous``; empty when nothing is."""
    if row.number != number:
        return f"row {number} is missing"
    if row.previous_hash != previous:
        return "it does not follow the row before it"
    if row.hash != _hash_of(previous, row.number, row.at, row.kind, row.record):
        return "its content is not what was written"
    return ""


def _hash_of(previous: str, number: int, at: float, kind: str, text: str) -> str:
    return sha256(f"{previous}\n{number}\n{at!r}\n{kind}\n{text}".encode()).hexdigest()


def _entry(row: sql.Row[Any]) -> AuditEntry:
    try:
        record = json.loads(row.record)
    except ValueError:
        record = None
    if not isinstance(record, dict):
        raise AuditError(f"row {row.number} of the audit log holds no record", remedy="verify the chain")
    return AuditEntry(str(row.number), row.at, row.kind, record, row.hash)


def _make_table(engine: sql.Engine) -> None:
    """Make sure of the table and its triggers, whoever else is doing the same at this moment."""
    try:
        with engine.begin() as connection:
            _lock(connection)
            connection.execute(CreateTable(_TABLE, if_not_exists=True))
            for statement in _APPEND_ONLY if engine.dialect.name == "sqlite" else ():
                connection.execute(sql.text(statement))
    except (IntegrityError, ProgrammingError):
        # PostgreSQL looks and creates in two steps: of two that do so at once, one fails and finds the table made.
        if not sql.inspect(engine).has_table(_TABLE.name):
            raise


def _lock(connection: sql.Connection) -> None:
    """Keep other writers out until the end of the transaction, where they would only find a file locked later on."""
    if connection.dialect.name == "sqlite":
        connection.exec_driver_sql("BEGIN IMMEDIATE")


def _engine(url: str) -> sql.Engine:
    parsed = sql.make_url(url)
    if parsed.get_backend_name() != "sqlite":
        return sql.create_engine(parsed, pool_pre_ping=True)
    in_memory = parsed.database in (None, "", ":memory:")
    # In memory every connection would be a database of its own.
    engine = sql.create_engine(parsed, poolclass=StaticPool) if in_memory else sql.create_engine(parsed)
    event.listen(engine, "connect", _prepare_sqlite)
    return engine


def _reading_engine(uri: str) -> sql.Engine:
    """Return an engine over a SQLite URI that changes nothing of the file's own, such as its journal mode."""
    return sql.create_engine(
        "sqlite://",
        creator=lambda: sqlite3.connect(uri, uri=True, timeout=LOCK_WAIT_MS / 1000, check_same_thread=False),
        poolclass=QueuePool,  # for a URL without a file SQLAlchemy would take a pool of one connection per thread
    )


def _prepare_sqlite(connection: Any, _: object) -> None:
    """Readers beside one writer; a crash of this process loses nothing, one of the machine at most the last ticks."""
    connection.execute(f"PRAGMA busy_timeout = {LOCK_WAIT_MS}")
    with suppress(sqlite3.OperationalError):  # another opener is about to switch; the file remembers the mode
        connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = NORMAL")


@contextmanager
def _audit_errors(done: str) -> Iterator[None]:
    try:
        yield
    except (SQLAlchemyError, ImportError) as error:
        reason = str(getattr(error, "orig", None) or error).splitlines()[0]
        raise AuditError(
            f"the audit log cannot be {done}: {redacted(reason)}", remedy="check its file or URL"
        ) from error
