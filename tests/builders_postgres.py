"""A PostgreSQL server of one's own for a test session: in a temporary folder, on loopback, as an unprivileged user."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

WAIT_S = 60


@dataclass
class PostgresServer:
    """A running server; ``password`` is asked for from everybody who comes over TCP."""

    port: int
    password: str
    made: int = field(default=0)

    def url(self, database: str = "postgres") -> str:
        return f"postgresql://foresail:{self.password}@127.0.0.1:{self.port}/{database}"

    def new_database(self) -> str:
        """Make an empty database and return its URL."""
        import psycopg

        self.made += 1
        name = f"test_{self.made}"
        with psycopg.connect(self.url(), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}".encode())
        return self.url(name)


def missing_binaries() -> str:
    """Return why no server can be started here; empty when one can."""
    absent = [name for name in ("initdb", "pg_ctl", "postgres") if _binary(name) is None]
    if absent:
        return f"PostgreSQL is not installed ({', '.join(absent)} absent); Debian's package is `postgresql`"
    if os.geteuid() == 0 and "postgres" not in {user.pw_name for user in pwd.getpwall()}:
        return "PostgreSQL does not run as root, and there is no user `postgres`"
    return ""


@contextmanager
def postgres_server() -> Iterator[PostgresServer]:
    """Start a server, and stop it in the end, whatever happened."""
    with tempfile.TemporaryDirectory(prefix="foresail-pg-") as name:
        folder = Path(name)
        password_file = folder / "password"
        password_file.write_text("s3cret-of-the-test")
        if os.geteuid() == 0:
            for path in (folder, password_file):
                shutil.chown(path, "postgres", "postgres")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        cluster = str(folder / "cluster")
        _run("initdb", "-D", cluster, "-U", "foresail", f"--pwfile={password_file}", "-A", "scram-sha-256", "-N")
        options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={folder} -c fsync=off"
        _run("pg_ctl", "-D", cluster, "-l", str(folder / "log"), "-w", "-o", options, "start")
        try:
            yield PostgresServer(port, password_file.read_text())
        finally:
            _run("pg_ctl", "-D", cluster, "-w", "-m", "immediate", "stop")


def _run(name: str, *arguments: str) -> None:
    binary = _binary(name)
    assert binary is not None
    command: Sequence[str] = [binary, *arguments]
    if os.geteuid() == 0:
        command = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups", *command]
    # To a file: the server that pg_ctl leaves behind would hold a pipe open for ever.
    with tempfile.TemporaryFile() as output:
        done = subprocess.run(command, stdout=output, stderr=output, timeout=WAIT_S, check=False, cwd="/")
        output.seek(0)
        assert done.returncode == 0, output.read().decode()


def _binary(name: str) -> str | None:
    """Return where a binary is: on the path, or where Debian keeps them."""
    debian = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    return shutil.which(name) or (str(debian[-1]) if debian else None)
