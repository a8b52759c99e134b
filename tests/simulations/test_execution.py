"""Are runs checked before the first is done, done once, and ended when somebody says so?"""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from multiprocessing import active_children
from pathlib import Path
from types import FrameType

import pytest

from controller.errors import BadInput
from simulations.execution import WHOLE, LocalEngine, _endings_held_back, check_traces, run_all
from simulations.job import Job, TraceChoice
from simulations.kept_runs import KeptRuns
from tests.builders_simulation import quick_settings


def job_on(path: Path, *rows: str, policy: str = "static") -> Job:
    """A job on a load series with these rows."""
    path.write_text("\n".join(("t,requests", *rows)) + "\n")
    return Job(TraceChoice(path, path.name), policy, quick_settings())


def two_jobs(folder: Path) -> list[Job]:
    """A job of two minutes, and one of a season, which would take hours."""
    season = [f"{86400 * day},2" for day in range(90)]
    return [job_on(folder / "short", "0,6", "60,6"), job_on(folder / "long", *season)]


def test_all_of_several_traces_are_checked(tmp_path: Path) -> None:
    good, bad = job_on(tmp_path / "good", "0,60", "60,60"), job_on(tmp_path / "bad", "0,60", "60,-1")
    check_traces([good, good])
    with pytest.raises(BadInput, match="-1 is not an amount"):
        check_traces([good, bad])


def test_an_interrupt_ends_running_jobs_at_once(tmp_path: Path) -> None:
    """The second run would take hours; whoever waits for it never ends this test."""

    def interrupt(_done: int) -> None:
        raise KeyboardInterrupt

    jobs = two_jobs(tmp_path)
    with pytest.raises(KeyboardInterrupt), LocalEngine(2) as engine:
        run_all(WHOLE, jobs, engine, interrupt)
    assert active_children() == []


_TWO_RUNS = """
import sys
from pathlib import Path
from simulations.execution import WHOLE, LocalEngine, run_all
from simulations.kept_runs import KeptRuns
from tests.simulations.test_execution import two_jobs

folder = Path(sys.argv[1])
with LocalEngine(2) as engine:
    run_all(WHOLE, two_jobs(folder), engine, lambda _: print("kept", flush=True), KeptRuns(folder / "runs", WHOLE))
"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 128 + 15), (signal.SIGKILL, -9)], ids=str)
def test_workers_end_with_the_command_however_that_ends(tmp_path: Path, number: signal.Signals, code: int) -> None:
    """Whoever lives on holds the pipe open: the second run would take hours."""
    arguments = [sys.executable, "-c", _TWO_RUNS, str(tmp_path)]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as command:
        assert command.stdout is not None
        assert command.stdout.readline() == "kept\n"
        command.send_signal(number)
        said, _ = command.communicate(timeout=60)
    assert command.returncode == code
    assert "Traceback" not in said
    (kept,) = (tmp_path / "runs").iterdir()
    short, _ = two_jobs(tmp_path)
    runs = KeptRuns(tmp_path / "runs", WHOLE)
    assert runs.find(short) is not None
    assert not kept.name.startswith(".")


def test_a_way_to_end_on_sigterm_stays_that_of_whoever_set_it() -> None:
    def own(_number: int, _frame: FrameType | None) -> None:
        """End in some other way."""

    before = signal.signal(signal.SIGTERM, own)
    try:
        with LocalEngine(2):
            assert signal.getsignal(signal.SIGTERM) is own
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        with LocalEngine(2):
            assert signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    finally:
        signal.signal(signal.SIGTERM, before)


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
        with _endings_held_back():
            signal.raise_signal(signal.SIGINT)
            started.append("all")

    with pytest.raises(KeyboardInterrupt):
        start()
    assert started == ["all"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, set())
