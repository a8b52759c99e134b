"""How does a band of forecasts and the load that came look in a few rows of text?

In braille each character holds 2 x 4 dots, so 9 rows of 80 characters show 36 x 160 points; in ASCII one each.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter

import numpy as np
from rich.text import Text

from forecasting.series import FloatArray
from simulations.live_state import BandPoint, ViewState

ACTUAL, MIDDLE, BAND, FRAME = "bold", "cyan", "blue", "dim"

_BRAILLE = 0x2800
_BITS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))
_LABEL_CHARS = 6
_GAP_S = 120.0
"""Points further apart than this are not joined: nothing was observed between them."""


@dataclass(frozen=True, slots=True)
class _Grid:
    """Where the dots are: ``columns`` x ``rows`` characters from ``left_at`` to ``right_at``, 0 to ``top`` high."""

    columns: int
    rows: int
    left_at: float
    right_at: float
    top: float
    across: int
    down: int

    @property
    def instants(self) -> FloatArray:
        """``float64[columns * across]``: instant in the middle of each column of dots."""
        count = self.columns * self.across
        return self.left_at + (np.arange(count) + 0.5) * (self.right_at - self.left_at) / count

    def height(self, rate: float) -> int:
        """Row of dots, from the top, that shows ``rate``."""
        dots = self.rows * self.down
        return min(dots - 1, max(0, int((1.0 - rate / self.top) * dots)))


_Layer = dict[tuple[int, int], int]
"""Dots per character as ``(row, column) -> bits``."""


def load_plot(view: ViewState, width: int, rows: int, ahead_s: float, ascii_only: bool) -> list[Text]:
    """Return ``rows`` lines of plot and one of instants, each of at most ``width`` characters.

    Args:
        view: What to show. The band left of now is what was forecast a lead time before each instant.
        width: Characters per line.
        rows: Lines of plot.
        ahead_s: Room right of now, in seconds.
        ascii_only: Whether the terminal knows nothing but ASCII.
    """
    columns = max(8, width - _LABEL_CHARS - 1)
    across, down = (1, 1) if ascii_only else (2, 4)
    # Before there is a past of full length the plot begins with the run, so that the curve grows to the right.
    left_at = max(view.begins_at, view.at - view.look_back_s) if math.isfinite(view.at) else view.begins_at
    grid = _Grid(columns, rows, left_at, left_at + view.look_back_s + ahead_s, _top(view), across, down)
    band, middle = _band_layers(view, grid)
    actual = _line(grid, _between([(p.at, p.requests_per_s) for p in view.load], grid.instants))
    share = (view.at - grid.left_at) / (grid.right_at - grid.left_at) if math.isfinite(view.at) else 0.0
    now = min(columns - 1, int(share * columns))
    glyph = _ascii_glyph if ascii_only else _braille_glyph
    lines = []
    for row in range(rows):
        line = _label(row, rows, grid.top, ascii_only)
        cells = [glyph(actual.get((row, x), 0), middle.get((row, x), 0), band.get((row, x), 0)) for x in range(columns)]
        if cells[now][0] == " ":
            cells[now] = ("|" if ascii_only else "│", FRAME)
        for style, run in groupby(cells, key=itemgetter(1)):
            line.append("".join(character for character, _ in run), style)
        lines.append(line)
    return [*lines, _instants(grid, view.begins_at)]


def _top(view: ViewState) -> float:
    """Return the rate at the upper edge: a round number above everything that is shown."""
    rates = [p.requests_per_s for p in view.load] + [p.high for p in (*view.foreseen, *view.ahead)]
    highest = max((rate for rate in rates if math.isfinite(rate)), default=0.0)
    if highest < 0.01:
        return 0.01 if highest > 0 else 1.0
    step = 10.0 ** math.floor(math.log10(highest)) / 2.0
    return step * math.ceil(highest / step + 1e-9)


def _label(row: int, rows: int, top: float, ascii_only: bool) -> Text:
    edge = "|" if ascii_only else "┤"
    marked = {0: top, rows // 2: top * (rows - rows // 2) / rows, rows - 1: 0.0}
    words = _rate(marked[row]) if row in marked else ""
    return Text().append(f"{words:>{_LABEL_CHARS}}{edge}", FRAME)


def _rate(rate: float) -> str:
    """Return a rate in at most six characters.

    >>> [_rate(r) for r in (0.0, 7.5, 150.0, 1500.0, 2e6)]
    ['0', '7.5', '150', '1.5k', '2M']
    """
    for unit, size in (("M", 1e6), ("k", 1e3)):
        if rate >= size:
            return f"{rate / size:.3g}{unit}"
    return f"{rate:.3g}" if rate >= 1 else f"{rate:.2g}"


def _instants(grid: _Grid, begins_at: float) -> Text:
    """Return the line below: minutes since the run began, at round distances."""
    minute_columns = grid.columns * 60.0 / (grid.right_at - grid.left_at)
    every = next((m for m in (1, 2, 5, 10, 20, 30, 60, 120) if m * minute_columns >= 10), 240)
    line = [" "] * (grid.columns + _LABEL_CHARS + 1)
    minute = math.ceil((grid.left_at - begins_at) / 60.0 / every) * every
    while True:
        column = round((begins_at + 60.0 * minute - grid.left_at) / 60.0 * minute_columns) + _LABEL_CHARS
        words = f"{minute // 60}:{minute % 60:02d}"
        if column + len(words) > len(line):
            return Text("".join(line), FRAME)
        line[column : column + len(words)] = words
        minute += every


def _band_layers(view: ViewState, grid: _Grid) -> tuple[_Layer, _Layer]:
    """Return the dots of the band and those of the line in it: what was foreseen up to now, then what is ahead."""
    past = [p for p in view.foreseen if p.at <= view.at]
    # The first step ahead is shown from now on, so that no gap is left between past and future.
    ahead = [BandPoint(view.at, p.low, p.middle, p.high) for p in view.ahead[:1]] + list(view.ahead)
    band: _Layer = {}
    middle: _Layer = {}
    for points in (past, ahead):
        levels = [
            _between([(p.at, getattr(p, name)) for p in points], grid.instants) for name in ("low", "middle", "high")
        ]
        for x, (low, _, high) in enumerate(zip(*levels, strict=True)):
            if math.isfinite(low) and math.isfinite(high):
                _fill(band, grid, x, grid.height(high), grid.height(low))
        if points is ahead:
            middle |= _line(grid, levels[1])
    return band, middle


def _between(points: Sequence[tuple[float, float]], instants: FloatArray) -> FloatArray:
    """Return ``float64[N]`` at ``instants``, linear between neighbours that are near; NaN elsewhere."""
    if len(points) < 2:
        return np.full(len(instants), np.nan)
    known_at, known = np.array(points).T
    left = np.clip(np.searchsorted(known_at, instants, side="right") - 1, 0, len(points) - 2)
    share = (instants - known_at[left]) / np.maximum(known_at[left + 1] - known_at[left], 1e-9)
    joined = (share >= 0) & (share <= 1) & (known_at[left + 1] - known_at[left] <= _GAP_S)
    # NaN at either end makes the whole stretch NaN.
    return np.where(joined, known[left] + share * (known[left + 1] - known[left]), np.nan)


def _line(grid: _Grid, rates: FloatArray) -> _Layer:
    """Return a line through ``rates``, without holes where it is steep."""
    layer: _Layer = {}
    before: int | None = None
    for x, rate in enumerate(rates):
        if not math.isfinite(rate):
            before = None
            continue
        height = grid.height(float(rate))
        toward = height if before is None or before == height else before + (1 if height > before else -1)
        _fill(layer, grid, x, min(height, toward), max(height, toward))
        before = height
    return layer


def _fill(layer: _Layer, grid: _Grid, x: int, upper: int, lower: int) -> None:
    """Set the dots of column ``x`` from ``upper`` to ``lower``, both included."""
    column, right = divmod(x, grid.across)
    for y in range(upper, lower + 1):
        row, deep = divmod(y, grid.down)
        layer[row, column] = layer.get((row, column), 0) | _BITS[deep][right]


def _braille_glyph(actual: int, middle: int, band: int) -> tuple[str, str]:
    for bits, style in ((actual, ACTUAL), (middle, MIDDLE), (band, BAND)):
        if bits:
            return chr(_BRAILLE + bits), style
    return " ", ""


def _ascii_glyph(actual: int, middle: int, band: int) -> tuple[str, str]:
    for bits, character, style in ((actual, "*", ACTUAL), (middle, "-", MIDDLE), (band, ":", BAND)):
        if bits:
            return character, style
    return " ", ""
