"""Is another controller writing this audit log? Two would both act; the second one to come is refused.

The claim goes with the process, however it ends: a lock on a file beside a SQLite log, a session's advisory lock in
PostgreSQL. It keeps two daemons of one configuration apart; who of several is to act, a lease says, and the claim then
keeps the next one from writing before the last record of the one before it. A machine that dies says so to nobody, so
the server is asked to look after the session's connection; a process that hangs keeps its claim until it is ended.
"""

from __future__ import annotations

import fcntl
import os

import sqlalchemy as sql

from controller.adapters.audit_settings import sqlite_file
from controller.adapters.audit_store import audit_errors
from controller.errors import AuditError
from controller.redaction import redacted

_WATCHED = {"tcp_keepalives_idle": 5, "tcp_keepalives_interval": 2, "tcp_keepalives_count": 2}
"""Settings of the session, in seconds and probes: a machine that is gone is noticed after 9 s, not after two hours."""

_CLAIM_KEY = 0x466F7265_436C6169  # "ForeClai"


class AuditClaim:
    """The claim to be the only controller that writes the log at a URL; held until ``release``."""

    def __init__(self, engine: sql.Engine, url: str) -> None:
        """Take it.

        Raises:
            AuditError: If another process holds it, or it cannot be asked for.
        """
        self._file = -1
        self._connection: sql.Connection | None = None
        path = sqlite_file(url)
        if path is not None:
            self._lock_file(f"{path}.lock", url)
        elif engine.dialect.name == "postgresql":
            self._lock_session(engine, url)

    def release(self) -> None:
        """Let another controller take it."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
        if self._connection is not None:
            self._connection.invalidate()  # the lock goes with the session: it must not go back into the pool
            self._connection.close()
            self._connection = None

    def _lock_file(self, path: str, url: str) -> None:
        try:
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise AuditError(f"the lock beside the audit log cannot be made: {error.strerror}", path) from None
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self.release()
            raise _taken(url) from None

    def _lock_session(self, engine: sql.Engine, url: str) -> None:
        with audit_errors("claimed"):
            # Out of the pool for good, and without an open transaction, which would hold up the server's clean-up.
            self._connection = engine.connect().execution_options(isolation_level="AUTOCOMMIT")
            for name, value in _WATCHED.items():
                self._connection.execute(sql.select(sql.func.set_config(name, str(value), False)))
            if self._connection.execute(sql.select(sql.func.pg_try_advisory_lock(_CLAIM_KEY))).scalar_one():
                return
        self.release()
        raise _taken(url)


def _taken(url: str) -> AuditError:
    return AuditError(
        "another controller is writing this audit log", redacted(url), "stop it first, or give this one an audit.url"
    )
