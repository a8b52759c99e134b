"""What does ``foresail run`` do all year: ticks in rhythm, chores beside them, signals, and a watch on itself.

Threads: the main one waits for signals and watches the age of the loop; one runs ticks, one chores, one what takes
minutes (history, retraining), one answers probes. Whatever a chore finds out reaches the loop between two ticks.

With a lease there is one more, which asks for that. While another process leads, this one stands by: its ticks end
before they begin, the audit log is another's, and of the chores only those are done that it takes to begin at once.
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
from numpy.random import default_rng

from controller.adapters.audit_claim import AuditClaim
from controller.adapters.sql_audit import SqlAudit
from controller.adapters.system_clock import SystemClock
from controller.approvals import proposal_json
from controller.bootstrap import WorldOf, Worlds, audit_log, keda_scaler, write_gate
from controller.cadence import Cadence
from controller.chores import Chores
from controller.errors import ForesailError
from controller.evidence import believed_json
from controller.leadership import Candidate
from controller.live_loop import LiveLoop, Warrant
from controller.ports import Clock
from controller.reload import SettingsFile
from controller.settings import Settings
from controller.status_server import StatusServer
from controller.telemetry import Telemetry
from controller.turn import Turn
from controller.write_gate import WriteGate

WATCH_S = 0.25
LATE_TICKS = 3.0
LATE_S = 2.0
BEGIN_AGAIN_S = 1.0
ABANDONED_WITHIN_S = 2.0
MOST_BELIEVED = 50
"""Diagnoses of the newest tick that ``/status`` tells, the oldest first."""


class Daemon:
    """The controller as a process.

    Attributes:
        abandoned: Whether a tick was left running, so that only the end of the process ends it.
        status_url: Where it is asked how it is.

    Raises:
        AuditError: If the audit log cannot be opened, or another controller writes it and there is no lease.
        BadInput: If the world or the status address cannot be used.
    """

    def __init__(
        self,
        file: SettingsFile,
        settings: Settings,
        world: WorldOf | None = None,
        clock: Clock | None = None,
        pace: float = 1.0,
        version: str = "",
        *,
        leadership: Candidate | None = None,
        gate: WriteGate | None = None,
    ) -> None:
        """Take ``settings``, as loaded from ``file``, and everything that they name.

        Args:
            file: Where to look for other settings later on.
            settings: What it says now.
            world: Returns what there is to look at and act on; without it, what the settings name.
            clock: Of the fleet; the machine's unless said otherwise.
            pace: Seconds of ``clock`` per second of the machine: more than 1 for rehearsals on a faster clock.
            version: Of the program.
            leadership: Says whether this process acts, of several; none where there is one.
            gate: What ``world`` asks before each write; made of settings and leadership where it is not given.
        """
        machine = SystemClock()
        self._elapsed = machine.elapsed
        self._log = structlog.get_logger("foresail.daemon")
        self._events: SimpleQueue[str] = SimpleQueue()
        self.abandoned = False
        gate = gate or write_gate(settings, leadership)
        self._telemetry = Telemetry(settings.daemon.telemetry, machine.elapsed, version)
        self._audit = audit_log(settings.audit)
        try:
            self._turn = _turn_of(leadership, self._audit, settings, machine)
            parts = settings, world or Worlds(gate), self._audit, self._telemetry, clock or machine, machine
            self._live = LiveLoop(*parts, pace, Warrant(self._turn, gate))
            self._status = StatusServer(settings.daemon.status, self, self._telemetry.registry)
            self._keda = keda_scaler(settings, self._telemetry.recommended, lambda: self._turn.leads)
        except BaseException:
            self._audit.close()
            raise
        self._cadence = Cadence(machine, self._skipped)
        self._chores = Chores(self._live, file, self._audit, self._telemetry, self._cadence)
        self._telemetry.show_leader(lambda: self._turn.leads)
        self._telemetry.show_shard(settings.daemon.shard)
        self._telemetry.show_cluster(self._live.figures, self._turn.figures)
        self._begin_at_s, self._began = -float("inf"), False
        self.status_url = self._status.url

    def run(self) -> int:
        """Run until a signal or too many errors end it; return the exit code. To be called in the main thread."""
        told = {signal.SIGTERM: "stop", signal.SIGINT: "stop", signal.SIGHUP: "reload", signal.SIGUSR1: "retrain"}
        for number, event in told.items():
            # A queue of this kind may be put to from a signal's handler, whatever the main thread is doing.
            signal.signal(number, lambda *_, event=event: self._events.put(event))
        settings = self._live.settings
        shard = settings.daemon.shard
        self._log.info(
            "started",
            status=self.status_url,
            modes=settings.modes.model_dump(mode="json"),
            audit=settings.audit.url,
            **({} if shard.whole else {"shard": shard.title}),
        )
        self._status.start()
        self._turn.start()
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
        return max(age_s, self._turn.silent_s) <= self._live.settings.daemon.stuck_after_s, what

    def ready(self) -> tuple[bool, Mapping[str, Any]]:
        """Whether the newest tick saw the fleet and is on record; a standby is ready to take over."""
        if self._turn.standby and not self._turn.leads and self.alive()[0]:
            return True, {"standby": True, "leader": self._turn.leader}
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
            "leadership": self._turn.told(),
            "shard": self._live.settings.daemon.shard.told(),
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
            self._begin()
            if self._keda is not None and self._turn.leads:
                self._keda.start()
            self._keep_time()

    def _begin(self) -> None:
        """Tick as soon as this process leads, again and again while the log is still claimed; then look further back.

        A tick that is not this process's ends at once, so one more does no harm.
        """
        if self._turn.standby:
            if self._turn.leads and self._elapsed() >= self._begin_at_s and not self._live.ticker.running_s:
                self._begin_at_s = self._elapsed() + BEGIN_AGAIN_S
                self._cadence.soon("tick")
        elif not self._began and self._live.ticker.loop is not None:
            self._began = True
            self._chores.begun()

    def _why_end(self) -> str:
        ticker, daemon = self._live.ticker, self._live.settings.daemon
        if ticker.bugs_in_a_row >= daemon.max_bugs_in_a_row:
            return f"{ticker.bugs_in_a_row} ticks in a row ended in an error that nobody foresaw"
        if ticker.running_s > daemon.stuck_after_s:
            return f"a tick has been running for {ticker.running_s:.0f} s"
        if self._turn.silent_s > daemon.stuck_after_s:
            return f"the lease has been asked for {self._turn.silent_s:.0f} s without an end"
        return self._turn.lost

    def _keep_time(self) -> None:
        """Tick when a tick is overdue: the machine's clock was set back, and the schedule goes by that."""
        late_s = LATE_TICKS * self._live.tick_s + LATE_S
        if not self._live.ticker.running_s and self._telemetry.age_s > late_s:
            self._log.warning("a tick is overdue; the machine's clock may have been set back")
            self._chores.all_soon()

    def _stop(self) -> None:
        """Let the tick under way end, or forbid it any further write and leave it; then the next one may begin.

        What is still to be told of ticks is told before: nobody who has given the lease away writes anything.
        Where the lease is lost nothing is written any more, and another process waits for the log soon.
        """
        self._cadence.stop()
        self._chores.stop()
        within_s = self._live.settings.daemon.stop_within_s
        if self._ends_within(min(within_s, self._turn.gap_s) if self._turn.lost else within_s):
            if not self._turn.lost:
                self._live.flush()
            self._turn.end()
            return
        self._live.forbid_writes()
        self._log.error("a tick does not end: it may write nothing more")
        self.abandoned = not self._live.ticker.wait_idle(ABANDONED_WITHIN_S)
        if not self.abandoned:
            self._turn.end()

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
        if self._keda is not None:
            self._keda.stop()
        if not self.abandoned:
            self._turn.end()
            self._audit.close()
            self._live.close()

    def _skipped(self, name: str) -> None:
        if name == "tick":
            self._telemetry.skipped()


def _turn_of(leadership: Candidate | None, audit: SqlAudit, settings: Settings, machine: SystemClock) -> Turn:
    """Return whose turn it is; raises AuditError where there is no lease and another controller writes the log."""
    return Turn(leadership, lambda: AuditClaim(audit.engine, settings.audit.url), machine.elapsed, default_rng())


def run_to_the_end(daemon: Daemon) -> int:
    """Run ``daemon`` and return its exit code, or end the process with it: the thread of a tick that hangs would not.

    A request that such a tick has sent may still take effect; the next daemon finds out.
    """
    code = daemon.run()
    if daemon.abandoned:
        logging.shutdown()
        os._exit(code)
    return code


def run_once(
    settings: Settings,
    world: WorldOf | None = None,
    clock: Clock | None = None,
    *,
    leadership: Candidate | None = None,
    gate: WriteGate | None = None,
) -> str:
    """Run one tick, resumed from the record and recorded as any other, and return the id of its last row.

    With ``leadership`` it is run only if no other process leads now; ``gate`` is what ``world`` asks.

    Raises:
        ForesailError: If the tick cannot begin or cannot be recorded.
    """
    machine, gate = SystemClock(), gate or write_gate(settings, leadership)
    audit = audit_log(settings.audit)
    try:
        turn = _turn_of(leadership, audit, settings, machine)
        if leadership is not None and not leadership.step():
            raise ForesailError(f"no tick: {leadership.trouble or leadership.why_not()}")
        telemetry = Telemetry(settings.daemon.telemetry, machine.elapsed)
        parts = settings, world or Worlds(gate), audit, telemetry, clock or machine, machine
        live = LiveLoop(*parts, warrant=Warrant(turn, gate))
        turn.start()
        record = live.ticker.tick()
        live.flush()
        turn.end()
        live.close()
        if record is None or record.unrecorded:
            why = live.ticker.waiting or (record.unrecorded if record else "an error that nobody foresaw; see the log")
            raise ForesailError(f"no tick: {why}")
        newest = audit.read("last")
        if newest is None:
            raise ForesailError("no tick: it is not on record")
        return newest.id
    finally:
        audit.close()
