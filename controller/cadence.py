"""When does what run: ticks in a lane of their own, chores beside them, never two of one kind at once.

APScheduler keeps the rhythm. A run that comes due while the one before it is still going is left out, and several that
are due at once, after the machine slept, are one. It goes by the wall clock; when that is set back it would wait until
the old time comes again, so whoever watches calls ``soon``.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Literal, TypeAlias

from controller.ports import Clock

if TYPE_CHECKING:
    from apscheduler.events import JobEvent

Lane: TypeAlias = Literal["tick", "chores", "skill", "slow"]
LANES: tuple[Lane, ...] = ("tick", "chores", "skill", "slow")


class Cadence:
    """Runs named work at intervals, one at a time in each lane."""

    def __init__(self, clock: Clock, skipped: Callable[[str], None]) -> None:
        """``clock`` is the machine's; ``skipped`` is told the name of work that was left out."""
        from apscheduler.events import EVENT_JOB_MAX_INSTANCES
        from apscheduler.executors.pool import ThreadPoolExecutor
        from apscheduler.schedulers.background import BackgroundScheduler

        self._clock, self._skipped = clock, skipped
        self._scheduler = BackgroundScheduler(
            timezone=UTC,
            executors={lane: ThreadPoolExecutor(1) for lane in ("default", *LANES)},
            job_defaults={"coalesce": True, "max_instances": 1, "misfire_grace_time": None},
        )
        self._scheduler.add_listener(self._left_out, EVENT_JOB_MAX_INSTANCES)

    def every(self, name: str, interval_s: float, work: Callable[[], object], lane: Lane, at_once: bool = True) -> None:
        """Run ``work`` every ``interval_s`` seconds from now on, in place of what has run under ``name``.

        ``work`` raises nothing. Its first run is now, or after an interval if not ``at_once``.
        """
        first = {"next_run_time": self._now()} if at_once else {}
        self._scheduler.add_job(
            work, "interval", seconds=interval_s, id=name, executor=lane, replace_existing=True, **first
        )

    def soon(self, name: str) -> None:
        """Run the work of that name now, and at its interval from then on; nothing if there is none."""
        if self._scheduler.get_job(name) is not None:
            self._scheduler.modify_job(name, next_run_time=self._now())

    def drop(self, name: str) -> None:
        """Do not run the work of that name again."""
        if self._scheduler.get_job(name) is not None:
            self._scheduler.remove_job(name)

    def start(self) -> None:
        """Begin."""
        self._scheduler.start()

    def stop(self) -> None:
        """Begin nothing more; what runs goes on."""
        if self._scheduler.running:
            self._scheduler.shutdown(wait=False)

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self._clock.now(), UTC)

    def _left_out(self, event: JobEvent) -> None:
        self._skipped(event.job_id)
