"""How are the rows of the audit log kept in a database: the table, its guards, and one writer at a time.

SQLite and PostgreSQL both refuse to change or remove rows; only pruning (``audit_retention``), inside a transaction of
its own that first writes down what goes, may remove the oldest ones.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from hashlib import sha256
from typing import Any

import sqlalchemy as sql
from sqlalchemy import event
from sqlalchemy.exc import ArgumentError, IntegrityError, ProgrammingError, SQLAlchemyError
from sqlalchemy.pool import StaticPool
from sqlalchemy.schema import CreateIndex, CreateTable

from controller.errors import AuditError
from controller.redaction import redacted

FIRST_HASH = "0" * 64
LOCK_WAIT_MS = 5_000
CONNECT_TIMEOUT_S = 5
STATEMENT_TIMEOUT_MS = 20_000

TABLE = sql.Table(
    "audit",
    sql.MetaData(),
    sql.Column("number", sql.BigInteger, primary_key=True, autoincrement=False),
    sql.Column("at", sql.Float(53), nullable=False),
    sql.Column("kind", sql.String(16), nullable=False),
    sql.Column("record", sql.Text, nullable=False),
    sql.Column("previous_hash", sql.String(64), nullable=False),
    sql.Column("hash", sql.String(64), nullable=False),
)
_BY_KIND = sql.Index("audit_by_kind", TABLE.c.kind, TABLE.c.number)

_ADVISORY_KEY = 0x466F7265_7361696C  # "Foresail": one lock for all writers of one database

_SQLITE_GUARDS = {
    f"audit_no_{verb.lower()}": f"CREATE TRIGGER IF NOT EXISTS audit_no_{verb.lower()} BEFORE {verb} ON audit "
    "BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'); END"
    for verb in ("UPDATE", "DELETE")
}
_POSTGRES_GUARDS = (
    """
    CREATE OR REPLACE FUNCTION audit_append_only() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
      IF TG_OP = 'DELETE' AND current_setting('foresail.pruning', true) = 'on' THEN RETURN OLD; END IF;
      RAISE EXCEPTION 'the audit log is append-only';
    END $$
    """,
    (
        "CREATE OR REPLACE TRIGGER audit_no_change BEFORE UPDATE OR DELETE ON audit "
        "FOR EACH ROW EXECUTE FUNCTION audit_append_only()"
    ),
    (
        "CREATE OR REPLACE TRIGGER audit_no_truncate BEFORE TRUNCATE ON audit "
        "FOR EACH STATEMENT EXECUTE FUNCTION audit_append_only()"
    ),
)


def hash_of(previous: str, number: int, at: float, kind: str, text: str) -> str:
    """Return the hash of a row: of what it says, and of the hash of the row before it."""
    return sha256(f"{previous}\n{number}\n{at!r}\n{kind}\n{text}".encode()).hexdigest()


def insert_row(connection: sql.Connection, at: float, kind: str, text: str) -> int:
    """Append a row to the chain inside ``connection``'s transaction, which holds the lock, and return its number."""
    newest = sql.select(TABLE.c.number, TABLE.c.hash).order_by(TABLE.c.number.desc()).limit(1)
    last = connection.execute(newest).one_or_none()
    number, previous = (last.number + 1, last.hash) if last else (1, FIRST_HASH)
    row = {
        "number": number,
        "at": at,
        "kind": kind,
        "record": text,
        "previous_hash": previous,
        "hash": hash_of(previous, number, at, kind, text),
    }
    connection.execute(TABLE.insert().values(row))
    return int(number)


def lock(connection: sql.Connection) -> None:
    """Keep other writers out until the end of the transaction."""
    if connection.dialect.name == "sqlite":
        # At once: later on, two that have both read would only find the file locked.
        connection.exec_driver_sql("BEGIN IMMEDIATE")
    elif connection.dialect.name == "postgresql":
        connection.execute(sql.select(sql.func.pg_advisory_xact_lock(_ADVISORY_KEY)))


@contextmanager
def pruning(connection: sql.Connection) -> Iterator[None]:
    """Let rows be removed inside ``connection``'s transaction, and only there: a rollback restores the guards."""
    if connection.dialect.name == "sqlite":
        connection.exec_driver_sql("DROP TRIGGER IF EXISTS audit_no_delete")
        yield
        connection.exec_driver_sql(_SQLITE_GUARDS["audit_no_delete"])
    else:
        connection.execute(sql.select(sql.func.set_config("foresail.pruning", "on", True)))
        yield
        connection.execute(sql.select(sql.func.set_config("foresail.pruning", "off", True)))


def make_table(engine: sql.Engine) -> None:
    """Make sure of the table, its index and its guards, whoever else is doing the same at this moment."""
    try:
        with engine.begin() as connection:
            lock(connection)
            connection.execute(CreateTable(TABLE, if_not_exists=True))
            connection.execute(CreateIndex(_BY_KIND, if_not_exists=True))
            if engine.dialect.name == "sqlite":
                for statement in _SQLITE_GUARDS.values():
                    connection.exec_driver_sql(statement)
            elif engine.dialect.name == "postgresql" and not _guarded(connection):
                for statement in _POSTGRES_GUARDS:
                    connection.exec_driver_sql(statement)
    except (IntegrityError, ProgrammingError):
        if not sql.inspect(engine).has_table(TABLE.name):
            raise


def _guarded(connection: sql.Connection) -> bool:
    """Whether the guards are there: only the table's owner may make them, and only once is enough."""
    found = connection.execute(
        sql.text("SELECT count(*) FROM pg_trigger WHERE tgrelid = 'audit'::regclass AND tgname LIKE 'audit_no_%'")
    )
    return bool(found.scalar_one() >= 2)


def engine_of(url: str, durable: bool = False) -> sql.Engine:
    """Return an engine for ``url``, with bounded waits. PostgreSQL is spoken to through psycopg 3.

    SQLite waits for the disk at every commit only if ``durable``.
    """
    parsed = sql.make_url(url)
    if parsed.get_backend_name() == "postgresql":
        if parsed.drivername in ("postgresql", "postgres"):
            parsed = parsed.set(drivername="postgresql+psycopg")
        waits = f"-c lock_timeout={LOCK_WAIT_MS} -c statement_timeout={STATEMENT_TIMEOUT_MS}"
        return sql.create_engine(
            parsed,
            pool_pre_ping=True,
            pool_size=2,
            max_overflow=2,
            pool_timeout=CONNECT_TIMEOUT_S,
            connect_args={
                "connect_timeout": CONNECT_TIMEOUT_S,
                "options": waits,
                "tcp_user_timeout": LOCK_WAIT_MS * 2,  # a server that vanished without a word
                "application_name": "foresail",
            },
        )
    if parsed.get_backend_name() != "sqlite":
        raise ArgumentError(f"{parsed.get_backend_name()} is not a database that the audit log is tested with")
    in_memory = parsed.database in (None, "", ":memory:")
    # In memory every connection would be a database of its own.
    engine = sql.create_engine(parsed, poolclass=StaticPool) if in_memory else sql.create_engine(parsed)
    event.listen(engine, "connect", partial(_prepare_sqlite, durable))
    return engine


def _prepare_sqlite(durable: bool, connection: Any, _: object) -> None:
    """Readers beside one writer; a crash of this process loses nothing, one of the machine the last ticks at most."""
    connection.execute(f"PRAGMA busy_timeout = {LOCK_WAIT_MS}")
    with suppress(sqlite3.OperationalError):  # another opener is about to switch; the file remembers the mode
        connection.execute("PRAGMA journal_mode = WAL")
    connection.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")


@contextmanager
def audit_errors(done: str) -> Iterator[None]:
    """Turn every error of the database into an AuditError that says what could not be ``done``."""
    try:
        yield
    except (SQLAlchemyError, ImportError) as error:
        reason = str(getattr(error, "orig", None) or error).splitlines()[0]
        raise AuditError(
            f"the audit log cannot be {done}: {redacted(reason)}", remedy="check its file or URL"
        ) from error
