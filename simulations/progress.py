"""How far is it? A bar on stderr, for people, and only when they have to wait."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from controller.adapters.system_clock import SystemClock

PATIENCE_S = 2.0
"""What takes less needs no bar."""


class Shown(Protocol):
    """Tells how far it is."""

    def __call__(self, share: float, note: str = "") -> None:
        """Show that ``share`` (0 to 1) is done."""
        ...


@contextmanager
def progress_bar(what: str, patience_s: float = PATIENCE_S) -> Iterator[Shown]:
    """Yield something to tell the progress of ``what`` to.

    A bar appears at the first word after ``patience_s`` (at once for 0), if stderr is a terminal. It goes away at the
    end.
    """
    console = Console(stderr=True)
    stopwatch = SystemClock()
    began_s = stopwatch.elapsed()
    columns = (
        TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f} %"), TimeElapsedColumn(),
        TextColumn("left"), TimeRemainingColumn(), TextColumn("{task.fields[note]}"),
    )  # fmt: skip
    bar = Progress(*columns, console=console, transient=True)
    task = bar.add_task(what, total=1.0, note="")
    started = False

    def show(share: float, note: str = "") -> None:
        nonlocal started
        if not started and console.is_terminal and stopwatch.elapsed() - began_s >= patience_s:
            bar.start()
            started = True
        if started:
            bar.update(task, completed=share, note=note)

    if patience_s <= 0:
        show(0.0)
    try:
        yield show
    finally:
        if started:
            bar.stop()
