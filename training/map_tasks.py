"""How are fits, backtests and files spread over processes or a Ray cluster? One function, whoever does the work.

A task carries all that it needs, and its answer depends on nothing else: who did it and in which order changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeVar, cast

import click

from controller.errors import BadInput
from simulations.execution import Engine, LocalEngine, Work

T = TypeVar("T")
R = TypeVar("R")

ENGINE_OPTIONS = (
    click.option("--engine", type=click.Choice(["local", "ray"]), default="local", show_default=True,
                 help="Where files are read, trials tried and series worked on: processes of this machine, or Ray."),
    click.option("--workers", type=click.IntRange(min=1, max=256), metavar="N",
                 help="Processes of this machine.  [default: this one alone; two with --engine ray]"),
    click.option("--ray-address", envvar="RAY_ADDRESS", metavar="HOST:PORT",
                 help="Head of the Ray cluster for --engine ray, or auto.  [default: RAY_ADDRESS; else a Ray of this "
                      "machine that ends with the command]"),
)  # fmt: skip


def engine_for(options: Mapping[str, Any]) -> Any:
    """Return the engine, a context manager, that the options ask for.

    Raises:
        BadInput: If Ray is not installed.
    """
    if options["engine"] == "local":
        return LocalEngine(options["workers"] or 1)
    from simulations.ray_engine import RayEngine

    # Tasks carry their load themselves: no files have to travel.
    return RayEngine(options["workers"] or 2, options["ray_address"], ship=False)


def map_tasks(
    do: Callable[[T], R], tasks: Sequence[T], engine: Engine, finished: Callable[[int], None] = lambda _: None
) -> list[R]:
    """Return what ``do`` makes of each task, in the order of ``tasks``.

    Args:
        do: A function of a module, which other processes import too.
        tasks: Each with all that it needs.
        engine: Who does it.
        finished: Called with how many are done.

    Raises:
        BadInput: If a task cannot be done, or a worker runs other code.
        ForesailError: If the engine is gone.
    """
    work = Work(do.__name__, cast("Any", _done), object)
    sent = [_Sent(do, task, code_digest()) for task in tasks]
    found: dict[int, Any] = {}
    for place, result in engine.results(work, cast("Any", sent)):
        found[place] = result
        finished(len(found))
    return [found[place] for place in range(len(tasks))]


@lru_cache(maxsize=1)
def code_digest() -> str:
    """Return a digest of the modules of ``training``; those below it are the engine's to check."""
    found = sha256()
    for module in sorted(Path(__file__).parent.rglob("*.py")):
        found.update(module.read_bytes())
    return found.hexdigest()


@dataclass(frozen=True, slots=True, eq=False)
class _Sent:
    do: Callable[[Any], Any]
    task: Any
    code: str


def _done(sent: _Sent) -> Any:
    """Do a task wherever this is."""
    if sent.code != code_digest():
        what = "a worker runs another version of Foresail"
        raise BadInput(what, "--engine ray", "install the same on all machines of the cluster")
    return sent.do(sent.task)
