"""How a view is kept before somebody's eyes."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import pytest
from rich.console import Console

from simulations.live_screen import LINE_TICKS, LiveScreen, only_ascii
from simulations.live_state import ViewState, advance
from tests.builders_live import A100, pool_of, record_of

VIEW = ViewState("demo", "foresail", "load v1", begins_at=0.0, ends_at=600.0)


@dataclass
class Stopwatch:
    """A stopwatch that only pauses move, and drawing by ``frame_s``."""

    now_s: float = 100.0
    pauses: list[float] = field(default_factory=list)

    def elapsed(self) -> float:
        return self.now_s

    def pause(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.now_s += seconds


def terminal(width: int = 100, height: int = 30) -> Console:
    return Console(
        file=io.StringIO(), force_terminal=True, width=width, height=height, legacy_windows=False, _environ={}
    )


def written(console: Console) -> str:
    file = console.file
    assert isinstance(file, io.StringIO)
    return file.getvalue()


def played(console: Console, watch: Stopwatch, paced_s: float, ticks: int = 40) -> LiveScreen:
    live = LiveScreen(console, False, paced_s, watch.elapsed, watch.pause)
    view = VIEW
    with live:
        for tick in range(1, ticks + 1):
            view = advance(view, record_of(15.0 * tick, [pool_of(A100, [])]), {}, view.tally)
            live.show(view, tick / ticks)
    return live


def test_a_replay_is_spread_evenly_over_the_time_it_is_watched() -> None:
    watch = Stopwatch()
    played(terminal(), watch, paced_s=60.0)
    assert watch.pauses == pytest.approx([1.5] * 40)


def test_a_replay_that_is_behind_does_not_wait() -> None:
    watch = Stopwatch()
    live = LiveScreen(terminal(), False, 60.0, watch.elapsed, watch.pause)
    with live:
        watch.now_s += 31.0
        live.show(VIEW, 0.5)
        live.show(VIEW, 0.6)
    assert watch.pauses == pytest.approx([5.0])


def test_frames_are_no_closer_than_a_tenth_of_a_second_and_the_last_is_drawn() -> None:
    console, watch = terminal(), Stopwatch()
    played(console, watch, paced_s=0.0)  # no time passes: only the first and the last frame are due
    shown = written(console)
    assert "0:00:15 of 0:10:00" in shown
    assert "0:05:00 of 0:10:00" not in shown
    assert "0:10:00 of 0:10:00" in shown


def test_the_speed_is_measured() -> None:
    console = terminal()
    played(console, Stopwatch(), paced_s=60.0)
    assert "\N{MULTIPLICATION SIGN}10" in written(console)  # 600 s in 60 s


def test_the_screen_comes_back_after_an_interruption() -> None:
    console = terminal()
    live = LiveScreen(console, False, 0.0, Stopwatch().elapsed, Stopwatch().pause)
    with pytest.raises(KeyboardInterrupt), live:
        raise KeyboardInterrupt
    assert written(console).endswith("\x1b[?25h\x1b[?1049l")  # the cursor is shown again, the other screen is left


def test_without_a_terminal_there_is_a_line_now_and_then_and_no_waiting() -> None:
    console, watch = Console(file=io.StringIO(), width=60), Stopwatch()
    live = played(console, watch, paced_s=60.0, ticks=2 * LINE_TICKS)
    lines = written(console).splitlines()
    assert [line.split()[0] for line in lines] == ["0:05:00", "0:10:00"]
    assert not live.alive
    assert watch.pauses == []
    assert "\x1b" not in written(console)


def test_a_final_view_is_drawn_as_large_as_the_terminal() -> None:
    live = LiveScreen(terminal(80, 24), True, 0.0, Stopwatch().elapsed, Stopwatch().pause)
    drawn = live.drawn(replace(VIEW, at=15.0))
    assert len(drawn.plain.splitlines()) <= 24
    assert drawn.plain.isascii()


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"LANG": "C"}, True),
        ({"LANG": "C", "LC_CTYPE": "C.UTF-8"}, True),  # what Python makes of LANG=C
        ({"LC_ALL": "POSIX", "LANG": "en_US.UTF-8"}, True),
        ({"LANG": "C.UTF-8"}, False),
        ({"LANG": "de_DE.UTF-8", "LC_CTYPE": "C.UTF-8"}, False),
        ({}, False),  # as in most containers, on terminals that know UTF-8
    ],
)
def test_the_locale_decides_whether_ascii_is_all_there_is(environment: Mapping[str, str], expected: bool) -> None:
    assert only_ascii(terminal(), environment) is expected


def test_an_ascii_encoding_decides_too() -> None:
    ascii_file = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    assert only_ascii(Console(file=ascii_file, _environ={}), {"LANG": "en_US.UTF-8"})
