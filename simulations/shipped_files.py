"""How does a worker on another machine get at a trace: by the same path if it can, else by a copy of its own."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from controller.errors import BadInput
from simulations.job import Job
from simulations.run_identity import content_digest

MOST_BYTES = 2 * 2**30
"""Largest file that travels to a worker: more belongs on storage that all machines share."""

_SPARE_BYTES = 256 * 2**20
"""What a copy must leave free on the worker's disk."""


@dataclass(frozen=True, slots=True)
class ShippedFile:
    """A file that a job needs: where it is, what is in it, and ``content``, which stands for its bytes elsewhere.

    ``content`` is None for a file that is too large to travel.
    """

    path: Path
    digest: str
    size_bytes: int
    content: Any


def files_of(job: Job) -> tuple[Path, ...]:
    """Return the files that ``job`` reads."""
    traces = job.trace.files
    models = () if job.model_dir is None else tuple(path for path in sorted(job.model_dir.rglob("*")) if path.is_file())
    return (*traces, *models)


def at_home(job: Job, shipped: Mapping[Path, ShippedFile], bytes_of: Callable[[Any], bytes]) -> Job:
    """Return ``job`` with paths that can be read on this machine; what is not there is written to a folder of ours.

    ``bytes_of`` returns what the ``content`` of a shipped file stands for.

    Raises:
        BadInput: If a file is not there and cannot travel, or does not fit this machine's disk.
    """
    places = {path: _place(shipped[path], bytes_of) for path in files_of_shipped(job, shipped)}
    for path in set(job.trace.files[1:]):
        if places.get(path, path) != path:
            raise BadInput(
                "only the recording itself is sent to each machine", str(path), "put it where all can read it"
            )
    trace = replace(job.trace, path=places.get(job.trace.path, job.trace.path))
    model_dir = job.model_dir
    if model_dir is not None and any(places[path] != path for path in places if path.is_relative_to(model_dir)):
        model_dir = _model_copy(model_dir, places, shipped)
    return replace(job, trace=trace, model_dir=model_dir)


def files_of_shipped(job: Job, shipped: Mapping[Path, ShippedFile]) -> list[Path]:
    """Return those of ``shipped`` that ``job`` reads, without looking at the disk, where they may not be."""
    model_dir = job.model_dir
    return [
        path
        for path in shipped
        if path in job.trace.files or (model_dir is not None and path.is_relative_to(model_dir))
    ]


def _place(file: ShippedFile, bytes_of: Callable[[Any], bytes]) -> Path:
    """Return where ``file`` can be read here."""
    with suppress(BadInput):
        if content_digest(file.path) == file.digest:
            return file.path
    if file.content is None:
        what = f"{file.size_bytes:,} bytes are too many to send to each machine, and this one has no such file"
        raise BadInput(what, str(file.path), f"put it where all machines of the cluster can read it ({_here()} cannot)")
    copy = Path(tempfile.gettempdir()) / f"foresail-traces-{os.getuid()}" / file.digest[:32] / file.path.name
    with suppress(BadInput):
        if content_digest(copy) == file.digest:
            return copy
    write_copy(copy, file, bytes_of)
    return copy


def write_copy(copy: Path, file: ShippedFile, bytes_of: Callable[[Any], bytes]) -> None:
    """Write the bytes of ``file`` to ``copy``, whole or not at all.

    Raises:
        BadInput: If there is no room for it, or it cannot be written.
    """
    existing = next(path for path in copy.parents if path.is_dir())
    free_bytes = shutil.disk_usage(existing).free
    if free_bytes < file.size_bytes + _SPARE_BYTES:
        what = f"{file.size_bytes:,} bytes do not fit the disk of {_here()}: {free_bytes:,} are free in {existing}"
        raise BadInput(what, str(file.path), "make room there, or put it where all machines can read it")
    beside = copy.with_name(f".{copy.name}.{os.getpid()}")
    try:
        copy.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        beside.write_bytes(bytes_of(file.content))
        beside.replace(copy)
    except OSError as error:
        with suppress(OSError):
            beside.unlink()
        what = f"cannot be copied to {_here()}: {(error.strerror or str(error)).lower()}"
        raise BadInput(what, str(file.path), "put it where all machines of the cluster can read it") from None


def _model_copy(model_dir: Path, places: Mapping[Path, Path], shipped: Mapping[Path, ShippedFile]) -> Path:
    """Return a folder with the model's files as they were named: each copy is in a folder of its own."""
    inside = [path for path in places if path.is_relative_to(model_dir)]
    folder = Path(tempfile.gettempdir()) / f"foresail-traces-{os.getuid()}" / f"model-{_joint(inside, shipped)}"
    for path in inside:
        copy = folder / path.relative_to(model_dir)
        if not copy.is_file() or content_digest(copy) != shipped[path].digest:
            write_copy(copy, shipped[path], partial(_bytes_at, places[path]))
    return folder


def _bytes_at(place: Path, _content: Any) -> bytes:
    return place.read_bytes()


def _joint(paths: list[Path], shipped: Mapping[Path, ShippedFile]) -> str:
    from policies.wire import digest

    return digest([shipped[path].digest for path in sorted(paths)])


def _here() -> str:
    return os.uname().nodename
