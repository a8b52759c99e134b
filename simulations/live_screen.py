"""How is a view kept before somebody's eyes: on a terminal evenly paced, elsewhere as a line now and then?"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.live import Live
from rich.text import Text

from simulations.live_state import ViewState
from simulations.live_view import Paper, plain_line, screen

LEAST_FRAME_S = 0.1
"""Shortest time between two frames, in seconds."""
LINE_TICKS = 20
"""Ticks per line where there is no terminal."""


class LiveScreen:
    """Shows views for the length of a ``with`` block; call ``show`` after each tick.

    Args:
        console: Where to. Not a terminal: a line every ``LINE_TICKS`` ticks, as fast as they come.
        ascii_only: Whether it knows nothing but ASCII.
        paced_s: Seconds over which a whole replay is spread on a terminal; 0 shows it as fast as it comes.
        elapsed: Stopwatch in seconds.
        pause: Waits for some seconds.
    """

    def __init__(
        self,
        console: Console,
        ascii_only: bool,
        paced_s: float,
        elapsed: Callable[[], float],
        pause: Callable[[float], object],
    ) -> None:
        self._console, self._ascii_only, self._paced_s = console, ascii_only, paced_s
        self._elapsed, self._pause = elapsed, pause
        alive = console.is_terminal and not console.is_dumb_terminal
        self._live = Live(console=console, screen=True, auto_refresh=False) if alive else None
        self._began_s = 0.0
        self._shown_s = -math.inf
        self._ticks = 0

    def __enter__(self) -> Self:
        self._began_s = self._elapsed()
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    @property
    def alive(self) -> bool:
        """Whether there is a terminal whose screen can be redrawn."""
        return self._live is not None

    def show(self, view: ViewState, share: float) -> None:
        """Show ``view``, with ``share`` of the replay behind it."""
        self._ticks += 1
        if self._live is None:
            if self._ticks % LINE_TICKS == 0:
                self._console.print(Text(plain_line(view)), soft_wrap=True)
            return
        ahead_s = self._began_s + share * self._paced_s - self._elapsed()
        if ahead_s > 0:
            self._pause(ahead_s)
        now_s = self._elapsed()
        if now_s - self._shown_s >= LEAST_FRAME_S or share >= 1.0:
            self._shown_s = now_s
            speed = (view.at - view.begins_at) / max(now_s - self._began_s, 1e-9)
            self._live.update(self.drawn(replace(view, speed=speed)), refresh=True)

    def drawn(self, view: ViewState) -> Text:
        """Return ``view`` for the terminal as large as it is now."""
        size = self._console.size
        return screen(view, Paper(size.width, size.height, self._ascii_only))


def only_ascii(console: Console, environment: Mapping[str, str]) -> bool:
    """Return whether to write ASCII alone: the encoding or the locale says so.

    Python itself writes UTF-8 in the locale C, for which it sets LC_CTYPE; the terminal is still one of that locale.
    """
    said = (
        environment.get("LC_ALL", ""),
        environment.get("LC_CTYPE", "").removeprefix("C.UTF-8"),
        environment.get("LANG", ""),
    )
    locale = next((value for value in said if value), "")
    return console.options.ascii_only or locale in ("C", "POSIX")
