"""Are runs checked before the first is done, done once, and ended when somebody says so?"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from multiprocessing import active_children
from pathlib import Path

import pytest

from controller.errors import BadInput
from simulations.execution import WHOLE, LocalEngine, _interrupts_held_back, check_traces, run_all
from simulations.job import Job, TraceChoice
from tests.builders_simulation import quick_settings


def job_on(path: Path, *rows: str, policy: str = "static") -> Job:
    """A job on a load series with these rows."""
    path.write_text("\n".join(("t,requests", *rows)) + "\n")
    return Job(TraceChoice(path, path.name), policy, quick_settings())


def test_all_of_several_traces_are_checked(tmp_path: Path) -> None:
    good, bad = job_on(tmp_path / "good", "0,60", "60,60"), job_on(tmp_path / "bad", "0,60", "60,-1")
    check_traces([good, good])
    with pytest.raises(BadInput, match="-1 is not an amount"):
        check_traces([good, bad])


def test_an_interrupt_ends_running_jobs_at_once(tmp_path: Path) -> None:
    """The second run would take hours; whoever waits for it never ends this test."""

    def interrupt(_done: int) -> None:
        raise KeyboardInterrupt

    season = [f"{86400 * day},2" for day in range(90)]
    jobs = [job_on(tmp_path / "short", "0,6", "60,6"), job_on(tmp_path / "long", *season)]
    with pytest.raises(KeyboardInterrupt), LocalEngine(2) as engine:
        run_all(WHOLE, jobs, engine, interrupt)
    assert active_children() == []


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Undo what a shell does to a background job: it lets it ignore SIGINT."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_an_interrupt_while_processes_start_is_raised_when_they_have() -> None:
    started = []

    def start() -> None:
        with _interrupts_held_back():
            signal.raise_signal(signal.SIGINT)
            started.append("all")

    with pytest.raises(KeyboardInterrupt):
        start()
    assert started == ["all"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, set())
