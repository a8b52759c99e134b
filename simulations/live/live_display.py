"""How does a live stack look while it runs: the demo's screen, and what the platform and the clients know?"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from rich.console import Console
from rich.live import Live
from rich.text import Text

from policies.fleet import Phase, PoolKey, PoolState
from simulations.live.audit_watch import AuditWatch
from simulations.live.client_figures import ClientFigures
from simulations.live.load_report import LoadSummary
from simulations.live.stack import LiveStack
from simulations.live_state import PoolRow, Staged, Tally, ViewState
from simulations.live_view import Paper, clock, plain_line, screen

LOOK_S = 1.0
LINE_S = 10.0
"""Seconds between lines where there is no terminal."""

LOOK_BACK_S = 600.0
_SHOWN_NOTES = 1
_OWN_LINES = 2 + _SHOWN_NOTES


@dataclass(frozen=True, slots=True)
class ClientLine:
    """What clients have got, for one line."""

    requests_per_s: float
    summary: LoadSummary

    def __str__(self) -> str:
        figures, tpot_s = self.summary, self.summary.tpot_p95_s
        errors = ", ".join(f"{count} {kind}" for kind, count in figures.errors.items()) or "none"
        return (
            f"clients: {_number(self.requests_per_s, '.1f')} answers/s   "
            f"p95 TTFT {_number(figures.ttft_p95_s, '.2f')} s, TPOT {_number(1000 * tpot_s, '.0f')} ms   "
            f"{figures.completed:,} completed   errors {errors}"
        )


class LiveDisplay:
    """Shows a stack until it is told to stop.

    Args:
        stack: What runs.
        console: Where to. Not a terminal: a line now and then.
        ascii_only: Whether it knows nothing but ASCII.
        length_s: How long the load goes on; infinite where that is not known.
    """

    def __init__(self, stack: LiveStack, console: Console, ascii_only: bool, length_s: float) -> None:
        self._stack, self._console, self._ascii_only = stack, console, ascii_only
        began_at = stack.now
        room_s = length_s if math.isfinite(length_s) else LOOK_BACK_S
        view = ViewState(
            title="foresail live",
            policy="foresail",
            forecaster=f"lead time {stack.options.lead_time_s:g} s",
            begins_at=began_at,
            ends_at=began_at + room_s,
            lead_time_s=stack.options.lead_time_s,
            look_back_s=LOOK_BACK_S,
        )
        self.watch = AuditWatch(stack.files.audit, view)
        self.clients = ClientFigures(stack.files.requests, stack.objective)

    def look(self) -> None:
        """Read what is new in the audit log and from the clients."""
        self.clients.look()
        figures = self.clients.summary()
        self.watch.look(
            Tally(
                figures.requests,
                figures.client_visible_errors,
                figures.slo_attainment_ratio,
                self._stack.platform.gpu_seconds() / 3600.0,
            )
        )

    async def run(self, over: Callable[[], bool]) -> None:
        """Show the stack until ``over`` answers true or this is cancelled."""
        alive = self._console.is_terminal and not self._console.is_dumb_terminal
        if not alive:
            await self._lines(over)
            return
        with Live(console=self._console, screen=True, auto_refresh=False) as live:
            while not over():
                await asyncio.to_thread(self.look)
                size = self._console.size
                live.update(self.drawn(size.width, size.height), refresh=True)
                await asyncio.sleep(LOOK_S)

    def drawn(self, width: int, height: int) -> Text:
        """Return the screen as it is now."""
        paper = Paper(width, height - _OWN_LINES, self._ascii_only)
        ahead_s = max(60.0, 3 * self._stack.options.lead_time_s)
        lines = [screen(self.view, paper, ahead_s), Text(f" {self._client_line}", "bold")]
        notes = list(self._stack.notes)[-_SHOWN_NOTES:]
        lines += [Text(f" {clock(at - self.view.begins_at)} {words}", "yellow") for at, words in notes]
        lines += [Text("")] * (_SHOWN_NOTES - len(notes))
        lines.append(Text(f" logs in {self._stack.files.logs}   Ctrl-C stops everything", "dim"))
        for line in lines[1:]:
            line.truncate(width)
        return Text("\n", no_wrap=True, end="").join(lines)

    @property
    def view(self) -> ViewState:
        """What the audit log tells, with the platform's own word on its pools and the faults that were injected."""
        platform, model = self._stack.platform, self._stack.options.model
        shares = platform.shares(model)
        faults = [e for e in platform.events if e.what in ("fault", "rolled out")]
        staged = [Staged(e.at, f"{e.detail} of {e.replica or e.pool}", e.what) for e in faults]
        told, now = self.watch.view, self._stack.now
        return replace(
            told,
            at=now,
            staged=tuple(staged),
            pools=tuple(pool_row(pool, shares) for pool in platform.pools()),
        )

    @property
    def _client_line(self) -> ClientLine:
        return ClientLine(self.clients.requests_per_s, self.clients.summary())

    async def _lines(self, over: Callable[[], bool]) -> None:
        loop = asyncio.get_running_loop()
        next_line_s = loop.time() + LINE_S
        while not over():
            await asyncio.sleep(min(LOOK_S, LINE_S))
            if loop.time() >= next_line_s:
                next_line_s += LINE_S
                await asyncio.to_thread(self.look)
                self._console.print(Text(f"{plain_line(self.view)}  {self._client_line}"), soft_wrap=True)


def pool_row(pool: PoolState, shares: Mapping[PoolKey, float]) -> PoolRow:
    """Return a pool as the platform tells it."""
    return PoolRow(
        name=pool.key.pool,
        ready=len(pool.serving),
        starting=len(pool.starting),
        draining=sum(r.phase is Phase.DRAINING for r in pool.replicas),
        sick=sum(r.phase is Phase.FAILED or (r.cordoned and r.phase is Phase.READY) for r in pool.replicas),
        desired=pool.desired,
        weight=shares.get(pool.key, 0.0),
    )


def _number(value: float, form: str) -> str:
    return format(value, form) if math.isfinite(value) else "-"
