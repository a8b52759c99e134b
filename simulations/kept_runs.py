"""Which runs are finished already: one small file each, named by a digest of everything that decides the run."""

from __future__ import annotations

import gzip
import json
import os
import zlib
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Generic, TypeVar

from pydantic import TypeAdapter, ValidationError

from simulations.job import Job
from simulations.output_places import refusing
from simulations.run_identity import run_digest
from simulations.trace_span import span_of

if TYPE_CHECKING:
    from simulations.execution import Work

T = TypeVar("T")

FOLDER = "runs"
"""Name of the folder with kept runs below that of the results."""

_REPORT_BYTES, _RUN_BYTES, _TICK_BYTES = 8_000_000, 100_000, 40
"""What a report takes, what each run adds to it, and each tick to a kept run: measured, and rounded up."""

_UNREADABLE = (OSError, EOFError, ValueError, KeyError, TypeError, zlib.error, ValidationError)
"""What reading a file can meet that was cut off, changed, or written by somebody else."""


def bytes_to_keep(jobs: Sequence[Job]) -> int:
    """Return about how much a comparison of ``jobs`` writes: kept runs, and a report that draws them.

    Raises:
        BadInput: If a trace cannot be read.
    """
    length_s = {choice: span_of(choice, jobs[0].settings).length_s for choice in {job.trace for job in jobs}}
    ticks = sum(length_s[job.trace] / job.settings.policy.tick_s for job in jobs)
    return int(_REPORT_BYTES + len(jobs) * _RUN_BYTES + ticks * _TICK_BYTES)


class KeptRuns(Generic[T]):
    """Results of finished runs in a folder. A file that cannot be read back as one is as good as none."""

    def __init__(self, folder: Path, work: Work[T], fresh: bool = False) -> None:
        """Keep results of ``work`` in ``folder``; ``fresh`` finds none of those that are there, and replaces them."""
        self._folder, self._work, self._fresh = folder, work, fresh
        self._adapter: TypeAdapter[T] = TypeAdapter(work.result)
        self.reused = 0

    def find(self, job: Job) -> T | None:
        """Return the kept result of ``job``, None where there is none that can be used.

        Raises:
            BadInput: If the job's trace or model cannot be read.
        """
        if self._fresh:
            return None
        digest = run_digest(job, self._work.name)
        try:
            with gzip.open(self._file(digest), "rt", encoding="ascii") as file:
                content = json.load(file)
            if content["digest"] != digest:
                return None
            result = self._adapter.validate_python(content["result"])
        except _UNREADABLE:
            return None
        self.reused += 1
        return result

    def keep(self, job: Job, result: T) -> None:
        """Write the result of ``job``, whole or not at all.

        Raises:
            BadInput: If it cannot be written.
        """
        digest = run_digest(job, self._work.name)
        content = {"digest": digest, "result": self._adapter.dump_python(result, mode="python")}
        path = self._file(digest)
        beside = path.with_name(f".{path.name}.{os.getpid()}")
        remedy = "make room there and give the same command again: it goes on with the runs that are finished"
        with refusing(str(self._folder), remedy):
            self._folder.mkdir(parents=True, exist_ok=True)
            try:
                # NaN is written as such: it is read back by this class alone.
                beside.write_bytes(gzip.compress(json.dumps(content).encode("ascii"), compresslevel=5, mtime=0))
                beside.replace(path)
            except BaseException:
                with suppress(OSError):
                    beside.unlink()
                raise

    def _file(self, digest: str) -> Path:
        return self._folder / f"{digest[:32]}.json.gz"
