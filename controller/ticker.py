"""One tick at a time, whatever happens in it: told in log and metrics, counted when it is a bug, never raised."""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Protocol

import structlog

from controller.adapters.sql_audit import kind_of
from controller.errors import ForesailError
from controller.loop import ControlLoop
from controller.ports import TickRecord
from controller.telemetry import Telemetry
from controller.tick_log import line_of


class Stopwatch(Protocol):
    """Where durations come from."""

    def elapsed(self) -> float:
        """Seconds from an arbitrary start; never goes back."""
        ...


class Ticker:
    """Holds the loop. ``tick`` runs in one thread; everything else may be asked from any.

    Attributes:
        loop: None until ``begin`` has succeeded, which is tried at each tick: it asks the platform, which may be down.
        newest: Record of the newest tick that no bug ended.
        waiting: Why ``begin`` has not succeeded yet, or another process ticks.
        bugs_in_a_row: Ticks in a row that ended in an error nobody foresaw.
    """

    def __init__(
        self,
        begin: Callable[[], ControlLoop],
        telemetry: Telemetry,
        stopwatch: Stopwatch,
        why_not: Callable[[], str] = lambda: "",
    ) -> None:
        """``why_not`` is asked before each tick why another process ticks instead; nothing when none does."""
        self.loop: ControlLoop | None = None
        self.newest: TickRecord | None = None
        self.waiting = ""
        self.bugs_in_a_row = 0
        self._why_not = why_not
        self._begin, self._telemetry, self._elapsed = begin, telemetry, stopwatch.elapsed
        self._changes: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._running = threading.Lock()
        self._began_s: float | None = None

    def at_next_tick(self, change: Callable[[], None]) -> None:
        """Let ``change`` be called before the next tick, in its thread, so that no tick sees half of it."""
        self._changes.put(change)

    @property
    def running_s(self) -> float:
        """Seconds since the tick under way began; 0 when there is none."""
        began_s = self._began_s
        return 0.0 if began_s is None else self._elapsed() - began_s

    def wait_idle(self, timeout_s: float) -> bool:
        """Wait until no tick is under way and keep it so; return whether that came about in time."""
        return self._running.acquire(timeout=timeout_s)

    def tick(self) -> TickRecord | None:
        """Run one tick and return its record; None when it is not our turn, it could not begin, or a bug ended it."""
        with self._running:
            self._began_s = began_s = self._elapsed()
            record, outcome = None, "broken"
            try:
                self._apply_changes()
                record, outcome = self._tick()
            except Exception:  # noqa: BLE001 - counted, told, and after some in a row the daemon exits
                _log().exception("a tick ended in an error that nobody foresaw", in_a_row=self.bugs_in_a_row + 1)
                self.bugs_in_a_row += 1
            else:
                self.bugs_in_a_row = 0
            self._began_s = None
            self.newest = record or self.newest
            self._telemetry.tick_ended(record, outcome, self._elapsed() - began_s, self.bugs_in_a_row)
            return record

    def _tick(self) -> tuple[TickRecord | None, str]:
        why_not = self._why_not()
        if why_not:
            self.waiting = why_not
            return None, "standby"
        if self.loop is None:
            try:
                self.loop = self._begin()
            except ForesailError as error:
                self.waiting = str(error)
                _log().warning("waiting to begin", why=self.waiting, repeat_key=self.waiting)
                return None, "waiting"
            self.loop.time_phase, self.waiting = self._telemetry.phases, ""
        record = self.loop.tick()
        line = line_of(record)
        if line is not None:
            getattr(_log(), line.level)(line.event, **line.fields, repeat_key=line.kind)
        return record, kind_of(record)

    def _apply_changes(self) -> None:
        try:
            while True:
                self._changes.get_nowait()()
        except Empty:
            return


def _log() -> structlog.stdlib.BoundLogger:
    log: structlog.stdlib.BoundLogger = structlog.get_logger("foresail.loop")
    return log
