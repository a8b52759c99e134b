"""How is a running simulation drawn on a terminal? A pure function from the state of the view to lines of text.

Colours say nothing that the characters do not: it reads the same with NO_COLOR, and in ASCII where there is no Unicode.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from rich.text import Text

from simulations.live_state import PoolRow, Staged, ViewState
from simulations.live_story import DecisionLine, Incident
from simulations.load_plot import ACTUAL, BAND, FRAME, MIDDLE, load_plot

AHEAD_S = 300.0
"""Room to the right of now, in seconds: the horizon of a forecast and a little air."""
MIN_WIDTH, MIN_HEIGHT = 60, 16
MOST_INCIDENTS = 6

_BAR_CHARS = 10
_STYLES = {"ready": "green", "starting": "yellow", "draining": "cyan", "sick": "bold red"}


@dataclass(frozen=True, slots=True)
class _Marks:
    """Characters that stand for something."""

    ready: str
    starting: str
    draining: str
    sick: str
    missing: str
    rule: str
    bar: str
    track: str
    cut: str
    times: str
    load: str
    band: str
    middle: str


_UNICODE = _Marks("●", "◐", "○", "✖", "·", "─", "█", "░", "…", "\N{MULTIPLICATION SIGN}", "⠒⠒", "⣿⣿", "⠒⠒")
_ASCII = _Marks("#", "+", "o", "X", ".", "-", "=", ".", "~", "x", "**", "::", "--")


@dataclass(frozen=True, slots=True)
class Paper:
    """What there is to draw on: size in characters, and whether it knows nothing but ASCII."""

    width: int = 100
    height: int = 30
    ascii_only: bool = False

    @property
    def marks(self) -> _Marks:
        """Characters for this paper."""
        return _ASCII if self.ascii_only else _UNICODE


def screen(view: ViewState, paper: Paper, ahead_s: float = AHEAD_S) -> Text:
    """Return ``view`` in exactly ``paper.height`` lines of at most ``paper.width`` characters.

    Of a paper smaller than 60 x 16 the upper left corner is used.
    """
    wide = Paper(max(MIN_WIDTH, paper.width), max(MIN_HEIGHT, paper.height), paper.ascii_only)
    pools = max(1, len(view.pools))
    left = wide.height - 7 - pools  # header, three rules, instants of the plot, tally, and what decides now
    plot_rows = max(4, min(12, round(0.5 * left)))
    told = max(2, left - plot_rows)
    incidents = _incident_lines(view, max(1, min(MOST_INCIDENTS, (told + 1) // 2)))
    lines = [
        _header(view, wide),
        _rule(_legend(view, wide), wide),
        *load_plot(view, wide.width, plot_rows, ahead_s, wide.ascii_only),
        _rule(_replica_legend(wide), wide),
        *_pool_lines(view, wide),
        _tally(view),
        _rule(Text("incidents"), wide),
        *incidents,
        *_decision_lines(view, wide, told - len(incidents)),
    ]
    fitted = [_cut(line, paper.width, wide.marks) for line in [*lines, *[Text()] * wide.height][: paper.height]]
    return Text("\n", no_wrap=True, end="").join(fitted)


def plain_line(view: ViewState) -> str:
    """Return the newest tick in one ASCII line, for logs and pipes."""
    load = view.load[-1].requests_per_s if view.load else math.nan
    due = next((p for p in reversed(view.ahead) if p.at - view.at <= view.lead_time_s), None)
    foreseen = f"{due.low:.1f} to {due.high:.1f}" if due else "none"
    pools = ", ".join(f"{p.name} {p.ready}/{p.desired} ready {_number(p.weight, '.0%')}" for p in view.pools)
    open_now = [f"{i.cause} {i.subject}" for i in view.incidents if i.over_at is None]
    return (
        f"{clock(view.at - view.begins_at)}  load {_number(load, '.1f')}/s  "
        f"in {view.lead_time_s:.0f} s {foreseen}/s  {pools}  "
        f"attainment {_number(view.tally.attainment_ratio, '.2%')}  "
        f"GPU hours {_number(view.tally.gpu_hours, '.1f')}"
        f"{'  incidents: ' + ', '.join(open_now) if open_now else ''}"
    )


def clock(seconds: float) -> str:
    """Return a duration as hours, minutes and seconds.

    >>> clock(3725.0)
    '1:02:05'
    """
    if not math.isfinite(seconds):
        return "-:--:--"
    whole = max(0, round(seconds))
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"


def _header(view: ViewState, paper: Paper) -> Text:
    since_s = view.at - view.begins_at
    day_s = 0.0 if math.isnan(since_s) else view.compression * since_s
    parts = [
        (view.title, "bold"),
        (f"{clock(since_s)} of {clock(view.ends_at - view.begins_at)}", ""),
        (f"= {int(day_s // 3600) % 24:02d}:{int(day_s // 60) % 60:02d}" if view.compression != 1.0 else "", ""),
        (f"{paper.marks.times}{view.speed:.0f}" if view.speed > 0 else "", FRAME),
        (f"policy {view.policy}", "bold"),
        (view.forecaster, ""),
    ]
    line = Text(" ")
    for words, style in (part for part in parts if part[0]):
        line.append(words, style).append("  ")
    return line


def _rule(title: Text, paper: Paper) -> Text:
    mark = paper.marks.rule
    line = Text().append(f"{mark}{mark} ", FRAME).append_text(title).append(" ")
    return line.append(mark * max(0, paper.width - line.cell_len), FRAME)


def _legend(view: ViewState, paper: Paper) -> Text:
    marks = paper.marks
    line = Text("requests/s: ").append(marks.load, ACTUAL).append(" offered  ").append(marks.band, BAND)
    line.append(f" forecast 0.1 to 0.9, made {view.lead_time_s:.0f} s before")
    return line.append("  ").append(marks.middle, MIDDLE).append(" ahead of now") if paper.width >= 90 else line


def _replica_legend(paper: Paper) -> Text:
    line = Text("replicas:")
    for name, style in _STYLES.items():
        line.append(" ").append(getattr(paper.marks, name), style).append(f" {name} ")
    return line.append(f" {paper.marks.missing} wanted")


def _pool_lines(view: ViewState, paper: Paper) -> list[Text]:
    if not view.pools:
        return [Text(" no replicas seen yet", FRAME)]
    name_chars = max(len(pool.name) for pool in view.pools)
    glyph_chars = max(8, paper.width - name_chars - 60)
    return [_pool_line(pool, paper, name_chars, glyph_chars) for pool in view.pools]


def _pool_line(pool: PoolRow, paper: Paper, name_chars: int, glyph_chars: int) -> Text:
    marks = paper.marks
    line = Text().append(f" {pool.name:<{name_chars}} ", "bold")
    glyphs = Text()
    for name, style in _STYLES.items():
        glyphs.append(getattr(marks, name) * getattr(pool, name), style)
    present = pool.ready + pool.starting + pool.sick
    glyphs.append(marks.missing * max(0, pool.desired - present), FRAME)
    glyphs = _cut(glyphs, glyph_chars, marks)
    glyphs.pad_right(glyph_chars - glyphs.cell_len)
    line.append_text(glyphs)
    line.append(f"  want {pool.desired:>2}", "bold")
    for name, style in _STYLES.items():
        count = getattr(pool, name)
        line.append(f"  {getattr(marks, name)} {count:>2}", style if count else FRAME)
    filled = 0 if math.isnan(pool.weight) else round(_BAR_CHARS * pool.weight)
    line.append("  traffic ").append(marks.bar * filled, "magenta").append(marks.track * (_BAR_CHARS - filled), FRAME)
    return line.append(f" {_number(pool.weight, '.0%'):>4}")


def _tally(view: ViewState) -> Text:
    tally = view.tally
    load = view.load[-1].requests_per_s if view.load else math.nan
    line = Text(f" now {_number(load, '.1f')} requests/s   so far: attainment ")
    line.append(_number(tally.attainment_ratio, ".2%"), "bold").append("   GPU hours ")
    line.append(_number(tally.gpu_hours, ".1f"), "bold").append(f"   {tally.requests:,} requests, ")
    line.append(f"{tally.dropped:,} dropped", "bold red" if tally.dropped else "")
    return line if not view.unseen else Text(f" blind: {view.unseen.splitlines()[0]}", "bold red")


def _incident_lines(view: ViewState, most: int) -> list[Text]:
    """Return the newest faults, staged and diagnosed; each diagnosis followed by what was done where there is room."""
    blocks: list[list[Text]] = []
    entries: list[Staged | Incident] = [*view.staged, *view.incidents]
    for entry in sorted(entries, key=lambda e: e.at, reverse=True):
        if entry.at > view.at:
            continue
        block = [_staged(entry, view)] if isinstance(entry, Staged) else _incident(entry, view)
        if sum(map(len, blocks)) + len(block) > most:
            block = block[:1]
        if sum(map(len, blocks)) + len(block) > most:
            break
        blocks.append(block)
    if not blocks:
        return [Text(" none so far", FRAME)]
    return [line for block in reversed(blocks) for line in block]


def _staged(entry: Staged, view: ViewState) -> Text:
    return Text(f" {clock(entry.at - view.begins_at)} staged for you, unknown to the controller: {entry.words}", FRAME)


def _incident(incident: Incident, view: ViewState) -> list[Text]:
    over = incident.over_at is not None
    first = Text(f" {clock(incident.at - view.begins_at)} ").append(incident.cause, "green" if over else "bold red")
    first.append(f" {incident.subject}: {incident.sentence}")
    done = [f"{clock(at - view.begins_at)} {words}" for at, words in incident.course]
    return [first, Text(f"         {', '.join(done)}", "green" if over else "")] if done else [first]


def _decision_lines(view: ViewState, paper: Paper, most: int) -> list[Text]:
    lines = [
        _rule(Text("decisions"), paper),
        Text(f" now      {view.now}" if view.now else " now      nothing to decide"),
    ]
    latest: Sequence[DecisionLine] = view.decisions[-max(0, most) :] if most > 0 else ()
    for entry in latest:
        line = Text(f" {clock(entry.at - view.begins_at)}  ").append(entry.what, "bold")
        lines.append(line.append(f"  {entry.why}"))
    return lines


def _cut(line: Text, width: int, marks: _Marks) -> Text:
    """Return ``line`` of at most ``width`` characters, with a mark where something was cut away."""
    if line.cell_len <= width:
        return line
    shorter = line.copy()
    shorter.truncate(max(0, width - 1), overflow="crop")
    return shorter.append(marks.cut, FRAME)


def _number(value: float, form: str) -> str:
    """Return a number, or a dash where there is none."""
    return format(value, form) if math.isfinite(value) else "-"
