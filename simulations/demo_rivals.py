"""What would rivals have made of the demo's day? Found out in a process beside the one that shows it."""

from __future__ import annotations

import signal
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from multiprocessing import get_context
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Self, TypeAlias

from simulations.case import Case
from simulations.demo import DemoSettings, demo_case, demo_world
from simulations.runner import replay
from simulations.scorecard import Curves, Scorecard, TimelinePoint

RIVALS = ("hpa", "clairvoyant")


@dataclass(frozen=True, slots=True)
class RivalRun:
    """The day under a rival."""

    scorecard: Scorecard
    timeline: Sequence[TimelinePoint]
    curves: Curves


Told: TypeAlias = Callable[[float], None]
"""Is told which share of all rivals' days is behind."""


def rival_run(case: Case, policy: str, on_share: Told = lambda _: None) -> RivalRun:
    """Replay the day under a rival; the clairvoyant is spared the faults, since no plan of replicas foresees them."""
    if policy == "clairvoyant":
        case = replace(case, settings=case.settings.model_copy(update={"faults": ()}))
    result = replay(case, policy, on_tick=lambda tick: on_share(tick.share))
    return RivalRun(result.scorecard, result.timeline, result.curves)


def rival_runs(settings: DemoSettings, on_share: Told = lambda _: None) -> tuple[RivalRun, ...]:
    """Replay the day of ``settings`` under all rivals, one after the other."""
    case = demo_case(demo_world(settings))
    return tuple(
        rival_run(case, policy, lambda share, done=done: on_share((done + share) / len(RIVALS)))  # type: ignore[misc]  # binds done
        for done, policy in enumerate(RIVALS)
    )


class RivalsBeside:
    """Rivals at work in a process of their own; it ends with the block, finished or not.

    A fresh interpreter: a forked one would inherit threads of torch and numpy that do not survive a fork. What cannot
    be done there is done here instead, when it is asked for.
    """

    def __init__(self, settings: DemoSettings) -> None:
        self._settings = settings
        context = get_context("spawn")
        self._results, theirs = context.Pipe(duplex=False)
        self._process = context.Process(target=_work, args=(theirs, settings), daemon=True)
        self._theirs = theirs

    def __enter__(self) -> Self:
        # Ctrl-C reaches the whole process group; only the one that shows something should answer it.
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            self._process.start()
        finally:
            signal.signal(signal.SIGINT, before)
        self._theirs.close()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.terminate()
        self._process.join()
        self._results.close()

    def wait(self, on_share: Told = lambda _: None) -> tuple[RivalRun, ...]:
        """Return the runs as soon as they are there."""
        with suppress(EOFError, OSError):
            while True:
                told = self._results.recv()
                if isinstance(told, tuple):
                    return told
                on_share(told)
        return rival_runs(self._settings, on_share)


def _work(results: Connection, settings: DemoSettings) -> None:
    """Do it, and tell ``results``: shares on the way, all runs at the end. Nobody listening ends it."""
    with suppress(BrokenPipeError):
        results.send(rival_runs(settings, results.send))
