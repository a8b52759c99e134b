"""Who does the runs of a comparison or a search: this process, several of this machine, or a Ray cluster?"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import active_children, get_context, parent_process
from multiprocessing.connection import wait
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any, Generic, Protocol, Self, TypeVar

from controller.errors import ForesailError
from simulations.held_traces import held
from simulations.job import Job, RunReport
from simulations.kept_runs import KeptRuns
from simulations.scorecard import Scorecard

if TYPE_CHECKING:
    from simulations.ray_engine import RayEngine

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class RunFigures:
    """What a search needs of a run: a thousandth of what a report is drawn from."""

    trace: str
    seed: int
    scorecard: Scorecard


@dataclass(frozen=True, slots=True)
class Work(Generic[T]):
    """What is done with each job; ``name`` and ``result`` tell kept results of different kinds apart."""

    name: str
    do: Callable[[Any], T]
    result: type[T]


class Engine(Protocol):
    """Does jobs, in any order, until its ``with`` block is left."""

    def results(self, work: Work[T], jobs: Sequence[Job]) -> Iterator[tuple[int, T]]:
        """Do all ``jobs``; yield each one's place and result as soon as it is there.

        Raises:
            BadInput: If a job cannot be done.
            ForesailError: If whoever does it is gone.
        """
        ...


def whole_report(job: Job) -> RunReport:
    """Do a run with the trace held from the one before it where that is the same."""
    return job.run(opened=held(job.trace, job.settings))


def figures_alone(job: Job) -> RunFigures:
    """Do a run and keep its scorecard alone."""
    report = whole_report(job)
    return RunFigures(report.trace, report.seed, report.scorecard)


WHOLE = Work("report", whole_report, RunReport)
FIGURES = Work("figures", figures_alone, RunFigures)


def run_all(
    work: Work[T],
    jobs: Sequence[Job],
    engine: Engine,
    finished: Callable[[int], None],
    kept: KeptRuns[T] | None = None,
) -> list[T]:
    """Do all jobs and return their results in the order of ``jobs``; what is ``kept`` already is not done again.

    ``finished`` is called with how many are there, first for those that were kept. The first job that fails ends
    everything, and so does an interrupt; what was finished until then is kept.

    Raises:
        BadInput: If a job cannot be done, or a result cannot be written.
        ForesailError: If the engine is gone.
    """
    found = {} if kept is None else {place: old for place, job in enumerate(jobs) if (old := kept.find(job))}
    missing = [place for place in range(len(jobs)) if place not in found]
    if found:
        finished(len(found))
    for number, result in engine.results(work, [jobs[place] for place in missing]):
        if kept is not None:
            kept.keep(jobs[missing[number]], result)
        found[missing[number]] = result
        finished(len(found))
    return [found[place] for place in range(len(jobs))]


def check_traces(jobs: Sequence[Job]) -> None:
    """Refuse a comparison of several traces before the first run if one of them cannot be used."""
    choices = dict.fromkeys(job.trace for job in jobs)
    if len(choices) > 1:  # the first run of a single trace finds out as soon
        for choice in choices:
            mine = [job for job in jobs if job.trace == choice]
            max(mine, key=lambda job: job.policy == "foresail").check()  # it asks for a model, which rivals do not


class LocalEngine:
    """Does jobs in ``workers`` processes of this machine; in this one when a single worker is asked for.

    Within its ``with`` block a SIGTERM raises SystemExit, as an interrupt raises KeyboardInterrupt, so that workers end
    with the command. They also do when it is killed and cannot say so.
    """

    def __init__(self, workers: int) -> None:
        self._workers = workers
        self._pool: ProcessPoolExecutor | None = None
        self._others = set(active_children())
        self._ends_here = False

    def __enter__(self) -> Self:
        # Somebody else's way to end, such as the daemon's, stays; and only the main thread may say how.
        is_main = threading.current_thread() is threading.main_thread()
        self._ends_here = is_main and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
        if self._ends_here:
            signal.signal(signal.SIGTERM, _terminated)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if self._pool is None:
                return
            if kind is not None:
                for worker in set(active_children()) - self._others:
                    worker.terminate()  # nobody waits hours for runs that nobody will see
            self._pool.shutdown(cancel_futures=True)
        finally:
            if self._ends_here:
                signal.signal(signal.SIGTERM, signal.SIG_DFL)

    def results(self, work: Work[T], jobs: Sequence[Any]) -> Iterator[tuple[int, T]]:
        """Do the jobs, as ``Engine`` says, or whatever else ``work`` takes in their place."""
        if self._pool is None and (self._workers <= 1 or len(jobs) <= 1):
            yield from ((place, work.do(job)) for place, job in enumerate(jobs))
            return
        if self._pool is None:
            # Fresh interpreters: a forked one would inherit threads of torch and numpy that do not survive a fork.
            context = get_context("spawn")
            self._pool = ProcessPoolExecutor(self._workers, mp_context=context, initializer=_end_with_parent)
        try:
            with _endings_held_back():
                futures = {self._pool.submit(work.do, job): place for place, job in enumerate(jobs)}
            for future in as_completed(futures):
                yield futures[future], future.result()
        except BrokenProcessPool:
            what = "a process that did runs has died; it may have been killed for want of memory"
            remedy = "give fewer --workers; the same command goes on with the runs that were finished"
            raise ForesailError(what, "--workers", remedy) from None


def engine_of(options: Mapping[str, Any]) -> LocalEngine | RayEngine:
    """Return the engine that the command line's ``engine``, ``workers`` and ``ray_address`` ask for.

    Raises:
        BadInput: If Ray is not installed.
    """
    if options["engine"] == "local":
        return LocalEngine(options["workers"])
    from simulations.ray_engine import RayEngine

    return RayEngine(options["workers"], options["ray_address"])


def _terminated(number: int, _frame: FrameType | None) -> None:
    raise SystemExit(128 + number)  # what a shell says of a process that a signal has ended


def _end_with_parent() -> None:
    """End this worker when the process that started it is gone: nobody else would."""
    parent = parent_process()
    if parent is not None:
        threading.Thread(target=_end_after, args=(parent.sentinel,), daemon=True).start()


def _end_after(sentinel: int) -> None:
    wait([sentinel])
    os._exit(1)  # a run is in the way of every other end


@contextmanager
def _endings_held_back() -> Iterator[None]:
    """Start processes that Ctrl-C does not reach, as it reaches all of a terminal: this one ends them.

    They inherit what is blocked, from their first moment. Here SIGINT and SIGTERM are only noted meanwhile (another
    thread of a library may get the former in spite of the block), for a process that is half started would be nobody's.
    """
    noted: list[int] = []
    usual = {
        number: signal.signal(number, lambda number, _frame: noted.append(number))
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        for number, handler in usual.items():
            signal.signal(number, handler)
        if noted:
            signal.raise_signal(noted[0])
