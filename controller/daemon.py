"""What does ``foresail run`` do all year: ticks in rhythm, chores beside them, signals, and a watch on itself.

Threads: the main one waits for signals and watches the age of the loop; one runs ticks, one chores, one what takes
minutes (history, retraining), one answers probes. Whatever a chore finds out reaches the loop between two ticks.
"""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Mapping
from dataclasses import asdict
from queue import Empty, SimpleQueue
from typing import Any

import structlog

from controller.adapters.audit_claim import AuditClaim
from controller.adapters.system_clock import SystemClock
from controller.approvals import proposal_json
from controller.bootstrap import WorldOf, audit_log, world_of
from controller.cadence import Cadence
from controller.chores import Chores
from controller.errors import ForesailError
from controller.evidence import believed_json
from controller.live_loop import LiveLoop
from controller.ports import Clock
from controller.reload import SettingsFile
from controller.settings import Settings
from controller.status_server import StatusServer
from controller.telemetry import Telemetry

WATCH_S = 0.25
LATE_TICKS = 3.0
LATE_S = 2.0
ABANDONED_WITHIN_S = 2.0
MOST_BELIEVED = 50
"""Diagnoses of the newest tick that ``/status`` tells, the oldest first."""


class Daemon:
    """The controller as a process.

    Attributes:
        abandoned: Whether a tick was left running, so that only the end of the process ends it.
        status_url: Where it is asked how it is.

    Raises:
        AuditError: If the audit log cannot be opened, or another controller writes it.
        BadInput: If the world or the status address cannot be used.
    """

    def __init__(
        self,
        file: SettingsFile,
        settings: Settings,
        world: WorldOf = world_of,
        clock: Clock | None = None,
        pace: float = 1.0,
        version: str = "",
    ) -> None:
        """Take ``settings``, as loaded from ``file``, and everything that they name.

        Args:
            file: Where to look for other settings later on.
            settings: What it says now.
            world: Returns what there is to look at and act on.
            clock: Of the fleet; the machine's unless said otherwise.
            pace: Seconds of ``clock`` per second of the machine: more than 1 for rehearsals on a faster clock.
            version: Of the program.
        """
        machine = SystemClock()
        self._elapsed = machine.elapsed
        self._log = structlog.get_logger("foresail.daemon")
        self._events: SimpleQueue[str] = SimpleQueue()
        self.abandoned = False
        self._telemetry = Telemetry(settings.daemon.telemetry, machine.elapsed, version)
        self._audit = audit_log(settings.audit)
        try:
            self._claim = AuditClaim(self._audit.engine, settings.audit.url)
            self._live = LiveLoop(settings, world, self._audit, self._telemetry, clock or machine, machine, pace)
            self._status = StatusServer(settings.daemon.status, self, self._telemetry.registry)
        except BaseException:
            self._audit.close()
            raise
        self._cadence = Cadence(machine, self._skipped)
        self._chores = Chores(self._live, file, self._audit, self._telemetry, self._cadence)
        self.status_url = self._status.url

    def run(self) -> int:
        """Run until a signal or too many errors end it; return the exit code. To be called in the main thread."""
        told = {signal.SIGTERM: "stop", signal.SIGINT: "stop", signal.SIGHUP: "reload", signal.SIGUSR1: "retrain"}
        for number, event in told.items():
            # A queue of this kind may be put to from a signal's handler, whatever the main thread is doing.
            signal.signal(number, lambda *_, event=event: self._events.put(event))
        settings = self._live.settings
        self._log.info(
            "started", status=self.status_url, modes=settings.modes.model_dump(mode="json"), audit=settings.audit.url
        )
        self._status.start()
        self._chores.schedule(at_once=True)
        self._cadence.start()
        code = 1
        try:
            code = self._supervise()
        finally:
            self._close()
            self._log.info("stopped", code=code)
        return code

    def alive(self) -> tuple[bool, Mapping[str, Any]]:
        """Whether ticks still end; if not, the process should be started anew."""
        age_s, refused = self._telemetry.age_s, self._chores.refused
        told = {"current": not refused, **({"refused": refused} if refused else {})}
        what = {"loop_age_s": round(age_s, 3), "bugs_in_a_row": self._live.ticker.bugs_in_a_row, "settings": told}
        return age_s <= self._live.settings.daemon.stuck_after_s, what

    def ready(self) -> tuple[bool, Mapping[str, Any]]:
        """Whether the newest tick saw the fleet and is on record."""
        newest = self._live.ticker.newest
        if newest is None:
            return False, {"why": self._live.ticker.waiting or "no tick has ended yet"}
        why = newest.unrecorded or (newest.error if newest.decision is None else "")
        if not self.alive()[0]:
            why = "the loop is stuck"
        return not why, {"why": why} if why else {"missing_signals": len(newest.fleet.missing if newest.fleet else ())}

    def status(self) -> Mapping[str, Any]:
        """Who forecasts, how well, and what followed from that; what waits for an approval; which budgets burn."""
        newest = self._live.ticker.newest
        burn = newest.decision.burn if newest is not None and newest.decision is not None else {}
        return {
            **self._chores.told(),
            "waiting_for_approval": [proposal_json(p) for p in self._live.waiting],
            "error_budgets": {model: asdict(spent) for model, spent in burn.items()},
            "believed": believed_json(newest.decision if newest is not None else None, MOST_BELIEVED),
        }

    def _supervise(self) -> int:
        while True:
            try:
                event = self._events.get(timeout=WATCH_S)
            except Empty:
                event = ""
            if event == "stop":
                self._stop()
                return 0
            if event == "reload":
                self._chores.reload_now()
            if event == "retrain":
                self._chores.retrain_now()
            why = self._why_end()
            if why:
                self._log.error("ending, to be started anew", why=why)
                self._stop()
                return 1
            self._keep_time()

    def _why_end(self) -> str:
        ticker, daemon = self._live.ticker, self._live.settings.daemon
        if ticker.bugs_in_a_row >= daemon.max_bugs_in_a_row:
            return f"{ticker.bugs_in_a_row} ticks in a row ended in an error that nobody foresaw"
        if ticker.running_s > daemon.stuck_after_s:
            return f"a tick has been running for {ticker.running_s:.0f} s"
        return ""

    def _keep_time(self) -> None:
        """Tick when a tick is overdue: the machine's clock was set back, and the schedule goes by that."""
        late_s = LATE_TICKS * self._live.tick_s + LATE_S
        if not self._live.ticker.running_s and self._telemetry.age_s > late_s:
            self._log.warning("a tick is overdue; the machine's clock may have been set back")
            self._chores.all_soon()

    def _stop(self) -> None:
        """Let the tick under way end, or forbid it any further write and leave it."""
        self._cadence.stop()
        self._chores.stop()
        if self._ends_within(self._live.settings.daemon.stop_within_s):
            return
        self._live.forbid_writes()
        self._log.error("a tick does not end: it may write nothing more")
        self.abandoned = not self._live.ticker.wait_idle(ABANDONED_WITHIN_S)

    def _ends_within(self, within_s: float) -> bool:
        """Return whether the tick under way ends in time; whoever asks to stop twice does not want to wait."""
        end_s = self._elapsed() + within_s
        while (left_s := end_s - self._elapsed()) > 0:
            if self._live.ticker.wait_idle(min(WATCH_S, left_s)):
                return True
            try:
                if self._events.get_nowait() == "stop":
                    return False
            except Empty:
                continue
        return False

    def _close(self) -> None:
        self._status.stop()
        if not self.abandoned:
            self._claim.release()
            self._audit.close()
            self._live.close()

    def _skipped(self, name: str) -> None:
        if name == "tick":
            self._telemetry.skipped()


def run_to_the_end(daemon: Daemon) -> int:
    """Run ``daemon`` and return its exit code, or end the process with it: the thread of a tick that hangs would not.

    A request that such a tick has sent may still take effect; the next daemon finds out.
    """
    code = daemon.run()
    if daemon.abandoned:
        logging.shutdown()
        os._exit(code)
    return code


def run_once(settings: Settings, world: WorldOf = world_of, clock: Clock | None = None) -> str:
    """Run one tick, resumed from the record and recorded as any other, and return the id of its last row.

    Raises:
        ForesailError: If the tick cannot begin or cannot be recorded.
    """
    machine = SystemClock()
    audit = audit_log(settings.audit)
    try:
        claim = AuditClaim(audit.engine, settings.audit.url)
        telemetry = Telemetry(settings.daemon.telemetry, machine.elapsed)
        live = LiveLoop(settings, world, audit, telemetry, clock or machine, machine)
        record = live.ticker.tick()
        live.close()
        claim.release()
        if record is None or record.unrecorded:
            why = live.ticker.waiting or (record.unrecorded if record else "an error that nobody foresaw; see the log")
            raise ForesailError(f"no tick: {why}")
        newest = audit.read("last")
        if newest is None:
            raise ForesailError("no tick: it is not on record")
        return newest.id
    finally:
        audit.close()
