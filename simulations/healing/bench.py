"""Which worlds does the fault benchmark play under which policies, and who plays them?"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from controller.errors import BadInput
from simulations.execution import LocalEngine, Work
from simulations.healing.plans import CALM, HOURS, HOURS_LONG, HOURS_REPLICAS, KINDS, PLANS
from simulations.healing.rivals import FORESAIL
from simulations.healing.runs import WorldRun, run_world

CALM_PER_WORLD = 1.25
"""Fault-free worlds of each kind for one of each failure: 25 of each of the eight kinds for 20, two hundred in all."""


@dataclass(frozen=True, slots=True)
class Task:
    """One world under one policy."""

    kind: str
    seed: int
    policy: str


def kinds_of(faults: str) -> tuple[str, ...]:
    """Return the kinds that ``faults`` names: by their own names or by codes, with commas between; ``all`` for all.

    >>> kinds_of("F1,idle")
    ('F1', 'F1-zero', 'F1-idle', 'idle')

    Raises:
        BadInput: If there is no such kind.
    """
    if faults == "all":
        return tuple(KINDS)
    found: dict[str, None] = {}
    for name in faults.split(","):
        # A code stands for all of its forms, a form for itself.
        mine = [kind for kind in KINDS if name in (kind, kind.partition("-")[0])]
        if not mine:
            raise BadInput(f"no failure is called {name!r}", "--faults", f"known: all, {', '.join(KINDS)}")
        found |= dict.fromkeys(mine)
    return tuple(found)


def tasks_of(
    kinds: Sequence[str], worlds: int, seed: int, rivals: Sequence[str], replica_hours: float
) -> tuple[Task, ...]:
    """Return all that is to be played, the longest first.

    Args:
        kinds: Which kinds of worlds.
        worlds: Of each failure; of fault-free kinds there are ``CALM_PER_WORLD`` times as many, and of the long run as
            many as ``replica_hours`` takes.
        seed: Of the first world of each kind; the next ones follow.
        rivals: Who plays beside Foresail; of the long run only the first world.
        replica_hours: Of the long run.
    """
    tasks = []
    for kind in sorted(kinds, key=lambda kind: kind != HOURS):
        count = worlds
        if kind in CALM and worlds > 1:
            count = math.ceil(CALM_PER_WORLD * worlds)
        elif kind == HOURS:
            count = math.ceil(replica_hours / (HOURS_REPLICAS * HOURS_LONG))
        for n in range(count):
            # One of the long worlds tells enough of rivals.
            others = rivals if kind != HOURS or n == 0 else ()
            tasks += [Task(kind, seed + n, policy) for policy in (FORESAIL, *others)]
    return tuple(tasks)


def play(tasks: Sequence[Task], processes: int, show: Callable[[float, str], None]) -> list[WorldRun]:
    """Return what became of all tasks, in their order; ``show`` is told which share is done.

    Raises:
        ForesailError: If a process has died.
    """
    found: dict[int, WorldRun] = {}
    with LocalEngine(processes) as engine:
        for place, run in engine.results(_PLAYED, tasks):
            found[place] = run
            show(len(found) / len(tasks), f"{len(found)} of {len(tasks)} worlds")
    return [found[place] for place in range(len(tasks))]


def played(task: Task) -> WorldRun:
    """Play one task."""
    return run_world(task.kind, task.seed, task.policy)


_PLAYED = Work("healing", played, WorldRun)


def amiss(runs: Sequence[WorldRun]) -> Iterator[tuple[WorldRun, str]]:
    """Yield Foresail's worlds in which not all was as it should be, each with what was not."""
    for run in runs:
        if run.policy != FORESAIL:
            continue
        verdict, faults = run.verdict, run.kind in PLANS
        if not run.struck:
            yield run, "the fault hit nothing"
        if verdict.wrong:
            more = f", and {len(verdict.wrong) - 1} more" if len(verdict.wrong) > 1 else ""
            yield run, f"wrong: {verdict.wrong[0]}{more}"
        if not verdict.remedied:
            yield run, "the right remedy was not given"
        if faults and run.expects_diagnosis and not verdict.diagnosed:
            called = ", ".join(verdict.called) or "nothing"
            yield run, f"{'missed' if math.isnan(verdict.detected_s) else 'not called by its name'}: {called}"
        if run.violations:
            yield run, f"{run.violations} invariants broken"
