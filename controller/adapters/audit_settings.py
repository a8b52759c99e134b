"""Where is the audit log, and how much of it is kept?"""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

DEFAULT_AUDIT = "sqlite:///foresail-runs/audit.db"
DAY_S = 86_400.0

_SQLITE = "sqlite:///"


class AuditSettings(BaseModel):
    """Where every decision is recorded, which is also what a restarted daemon resumes from."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    url: str = Field(
        DEFAULT_AUDIT,
        min_length=1,
        description="Database of the audit log: sqlite:///FILE (needs no server) or postgresql://USER@HOST/NAME. Give "
        "a password by PGPASSFILE or PGPASSWORD rather than here. Cannot change while the daemon runs.",
    )
    keep_s: float = Field(
        30 * DAY_S,
        ge=3600,
        description="Age in seconds from which whole segments of the log are pruned; a month covers a post-mortem.",
    )
    keep_mib: int = Field(
        4096,
        ge=16,
        description="Size in MiB, estimated from the rows' mean length, beyond which the oldest segments are pruned "
        "whatever their age: a disk that is full stops every act.",
    )
    archive: Path | None = Field(
        None,
        description="Folder that pruned segments are written to first, gzipped, one JSON row a line; null keeps none.",
    )


def sqlite_file(url: str) -> Path | None:
    """Return the file of a ``sqlite:///FILE`` log; None for memory and for any other database.

    >>> sqlite_file("sqlite:////var/lib/foresail/audit.db")
    PosixPath('/var/lib/foresail/audit.db')
    """
    name = url.removeprefix(_SQLITE).partition("?")[0]
    return Path(name) if url.startswith(_SQLITE) and name not in ("", ":memory:") else None
