"""Does work run at its interval, never twice at once, and go on after the machine's clock was set back?"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta

import pytest

from controller.adapters.system_clock import SystemClock
from controller.cadence import Cadence

WAIT_S = 20.0


class Work:
    """Counts its runs, and how many were under way at once."""

    def __init__(self, takes_s: float = 0.0) -> None:
        self.runs, self.most_at_once, self._now, self._takes_s = 0, 0, 0, takes_s
        self._lock = threading.Lock()

    def __call__(self) -> None:
        with self._lock:
            self._now += 1
            self.most_at_once = max(self.most_at_once, self._now)
        time.sleep(self._takes_s)
        with self._lock:
            self._now -= 1
            self.runs += 1


@pytest.fixture
def skipped() -> list[str]:
    return []


@pytest.fixture
def cadence(skipped: list[str]) -> Iterator[Cadence]:
    made = Cadence(SystemClock(), skipped.append)
    made.start()
    yield made
    made.stop()


def wait_for(what: Callable[[], bool]) -> None:
    end = time.monotonic() + WAIT_S
    while not what():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_work_that_takes_longer_than_its_interval_runs_one_at_a_time(cadence: Cadence, skipped: list[str]) -> None:
    work = Work(takes_s=0.25)
    cadence.every("tick", 0.1, work, "tick")
    wait_for(lambda: work.runs >= 3)
    assert work.most_at_once == 1
    assert "tick" in skipped


def test_a_chore_that_hangs_does_not_hold_up_ticks(cadence: Cadence) -> None:
    release, ticks = threading.Event(), Work()
    cadence.every("champion", 60.0, lambda: release.wait(WAIT_S), "chores")
    cadence.every("tick", 0.05, ticks, "tick")
    wait_for(lambda: ticks.runs >= 5)
    release.set()


def test_the_first_run_is_at_once_or_after_an_interval(cadence: Cadence) -> None:
    now, later = Work(), Work()
    cadence.every("now", 600.0, now, "chores")
    cadence.every("later", 600.0, later, "chores", at_once=False)
    wait_for(lambda: now.runs == 1)
    time.sleep(0.1)
    assert later.runs == 0
    cadence.soon("later")
    wait_for(lambda: later.runs == 1)


def test_work_is_replaced_under_its_name_and_dropped(cadence: Cadence) -> None:
    old, new = Work(), Work()
    cadence.every("tick", 0.05, old, "tick")
    wait_for(lambda: old.runs >= 1)
    cadence.every("tick", 0.05, new, "tick")
    wait_for(lambda: new.runs >= 2)
    cadence.drop("tick")
    cadence.drop("tick")
    cadence.soon("tick")
    time.sleep(0.1)
    seen = old.runs, new.runs
    time.sleep(0.2)
    assert (old.runs, new.runs) == seen


def test_a_tick_that_a_clock_set_back_has_put_off_for_an_hour_runs_when_asked(cadence: Cadence) -> None:
    work = Work()
    cadence.every("tick", 0.1, work, "tick", at_once=False)
    hour = datetime.fromtimestamp(SystemClock().now(), UTC) + timedelta(hours=1)
    cadence._scheduler.modify_job("tick", next_run_time=hour)
    time.sleep(0.3)
    before = work.runs
    cadence.soon("tick")
    wait_for(lambda: work.runs >= before + 3)


def test_after_stop_nothing_begins(cadence: Cadence) -> None:
    work = Work()
    cadence.every("tick", 0.05, work, "tick")
    wait_for(lambda: work.runs >= 1)
    cadence.stop()
    time.sleep(0.1)
    runs = work.runs
    time.sleep(0.2)
    assert work.runs == runs
