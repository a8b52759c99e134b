"""What of the audit log may go? Whole segments from its old end, written down in the chain before they do.

Pruning appends a row that names the last row removed and its hash, which is the hash that the first row left goes on
from: the chain stays verifiable from there on, and an archived segment can be checked against that hash. The row is
stored in the transaction that removes the others, so that neither happens without the other.
"""

from __future__ import annotations

import gzip
import json
import os
import zlib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import sqlalchemy as sql

from controller.adapters.audit_settings import AuditSettings
from controller.adapters.audit_store import TABLE, audit_errors, hash_of, insert_row, lock, pruning
from controller.adapters.sql_audit import DECISION_KINDS, PRUNED
from controller.errors import AuditError, BadInput
from policies.wire import canonical_json

SEGMENT_ROWS = 256
SAMPLED_ROWS = 64
MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class PrunedSegment:
    """What was removed: rows ``first`` to ``last``, the last of which has ``hash``.

    Attributes:
        oldest_at: Instant of the first row.
        newest_at: Instant of the last.
        why: ``age`` or ``size``.
        archive: Name of the file that holds the rows now; empty when nobody kept them.
    """

    first: int
    last: int
    hash: str
    oldest_at: float
    newest_at: float
    why: str
    archive: str = ""


class Retention:
    """Prunes an audit log, one segment at a time. The newest decision and all after it always stay."""

    def __init__(self, engine: sql.Engine, settings: AuditSettings, segment_rows: int = SEGMENT_ROWS) -> None:
        self._engine, self._settings, self._segment_rows = engine, settings, segment_rows

    def prune(self, now: float, most: int = 16) -> list[PrunedSegment]:
        """Remove what is due at ``now``, at most ``most`` segments, and return it.

        Raises:
            AuditError: If the database refuses, or a segment cannot be archived; then that segment stays.
        """
        gone: list[PrunedSegment] = []
        while len(gone) < most and (segment := self._due(now)):
            gone.append(self._remove(self._archived(segment), now))
        return gone

    def _due(self, now: float) -> PrunedSegment | None:
        """Return the oldest segment if it is whole, and too old or too much."""
        with audit_errors("read"), self._engine.connect() as connection:
            ends = connection.execute(sql.select(sql.func.min(TABLE.c.number), sql.func.max(TABLE.c.number))).one()
            if ends[0] is None:
                return None
            first, newest = int(ends[0]), int(ends[1])
            last = -(-first // self._segment_rows) * self._segment_rows
            decided = sql.select(sql.func.max(TABLE.c.number)).where(TABLE.c.kind.in_(DECISION_KINDS))
            if last >= min(newest, connection.execute(decided).scalar() or 0):
                return None
            rows = {
                row.number: row
                for row in connection.execute(
                    sql.select(TABLE.c.number, TABLE.c.at, TABLE.c.hash).where(TABLE.c.number.in_((first, last)))
                )
            }
            # A clock that was set back leaves younger rows before older ones: the youngest decides.
            youngest = sql.select(sql.func.max(TABLE.c.at)).where(TABLE.c.number <= last)
            newest_at = float(connection.execute(youngest).scalar_one())
            old = newest_at < now - self._settings.keep_s
            if not old and self._bytes(connection, first, newest) <= self._settings.keep_mib * MIB:
                return None
        why = "age" if old else "size"
        return PrunedSegment(first, last, rows[last].hash, float(rows[first].at), newest_at, why)

    def _bytes(self, connection: sql.Connection, first: int, newest: int) -> float:
        """Return about how much the rows take: their number times the mean length of a few at either end."""
        middle = min(SAMPLED_ROWS, newest - first + 1)
        sampled = sql.or_(TABLE.c.number < first + middle, TABLE.c.number > newest - middle)
        mean = connection.execute(sql.select(sql.func.avg(sql.func.length(TABLE.c.record))).where(sampled))
        return float(mean.scalar() or 0.0) * (newest - first + 1)

    def _archived(self, segment: PrunedSegment) -> PrunedSegment:
        """Write the segment's rows to a file, if they are to be kept, and return the segment with its name."""
        folder = self._settings.archive
        if folder is None:
            return segment
        name = f"audit-{segment.first:012d}-{segment.last:012d}.jsonl.gz"
        query = sql.select(TABLE).where(TABLE.c.number.between(segment.first, segment.last)).order_by(TABLE.c.number)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with (
                audit_errors("read"),
                self._engine.connect().execution_options(yield_per=SAMPLED_ROWS) as connection,
                connection.execute(query) as rows,
            ):
                _write_whole(folder / name, (dict(row) for row in rows.mappings()))
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            raise AuditError(f"a segment cannot be archived: {reason}", str(folder), "make room") from error
        return replace(segment, archive=name)

    def _remove(self, segment: PrunedSegment, now: float) -> PrunedSegment:
        with audit_errors("pruned"), self._engine.begin() as connection:
            lock(connection)
            insert_row(connection, float(now), PRUNED, canonical_json(segment))
            with pruning(connection):
                gone = connection.execute(sql.delete(TABLE).where(TABLE.c.number <= segment.last)).rowcount
            if gone != segment.last - segment.first + 1:
                raise AuditError(f"{gone} rows would have gone instead of {segment.last - segment.first + 1}")
        return segment


def verify_archive(path: Path) -> tuple[int, int, str]:
    """Return the first and last number in an archived segment and its last hash.

    Raises:
        BadInput: If the file is damaged, or its rows are not as they were written.
    """
    first, number, previous = 0, 0, ""
    try:
        with gzip.open(path, "rt", encoding="ascii") as file:
            for line in file:
                row: dict[str, Any] = json.loads(line)
                expected = hash_of(row["previous_hash"], row["number"], row["at"], row["kind"], row["record"])
                follows = not first or (row["number"] == number + 1 and row["previous_hash"] == previous)
                if row["hash"] != expected or not follows:
                    raise BadInput(f"row {row['number']} is not what was written", str(path), "believe nothing in it")
                first, number, previous = first or row["number"], row["number"], row["hash"]
    except (OSError, EOFError, zlib.error, ValueError, KeyError, TypeError) as error:
        raise BadInput(f"no archived segment of an audit log: {error}", str(path)) from None
    if not first:
        raise BadInput("no archived segment of an audit log: it is empty", str(path))
    return first, number, previous


def _write_whole(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Write the file so that it is there as a whole, on disk, or not at all."""
    scratch = path.with_suffix(".part")
    with scratch.open("wb") as raw:
        with gzip.GzipFile(filename="", fileobj=raw, mode="wb", mtime=0) as file:
            for row in rows:
                file.write(json.dumps(row, sort_keys=True).encode("ascii") + b"\n")
        raw.flush()
        os.fsync(raw.fileno())
    scratch.replace(path)
