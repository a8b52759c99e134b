"""When was a metric not what it used to be? ``detect``: one streaming pass over a file, scored row by row."""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from datetime import UTC, datetime
from math import isfinite, isnan
from pathlib import Path
from typing import TYPE_CHECKING

import click

from controller.errors import BadInput
from training.cli_options import JSON

if TYPE_CHECKING:
    from training.detected import Event, Findings

_SHOW_EVERY = 20_000
_SPOOLED_BYTES = 1 << 24
_MOST_SHOWN = 40
_TABLE_WIDTH = 140


@click.command()
@click.option(
    "--input",
    "path",
    type=click.Path(path_type=Path),
    required=True,
    metavar="FILE",
    help="Columns timestamp (ISO text or seconds) and value: CSV, Parquet, JSON lines; also compressed.",
)
@click.option(
    "--threshold",
    type=click.FloatRange(0.0, 1.0, min_open=True, max_open=True),
    default=0.5,
    show_default=True,
    metavar="SCORE",
    help="Score from which a row is an alarm.",
)
@click.option(
    "--plot",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Draw the values, what was expected and the alarms as PNG.",
)
@JSON
def detect(path: Path, threshold: float, plot: Path | None, as_json: bool) -> int:
    """Score how odd each value of a metric is, given those before it: from 0, usual, to 1. An alarm fires once."""
    from simulations.progress import progress_bar
    from training.detected import Course, Findings, judged_rows
    from training.metric_rows import MetricFile

    if isnan(threshold):
        raise BadInput("the threshold is not a number", "--threshold", "give a score between 0 and 1, such as 0.5")
    if plot is not None:
        _check_plot(plot, path)
    file = MetricFile(path)
    rows, findings, course = file.count(), Findings(), Course()
    # Rows are judged and written one by one, but nothing is shown of a file that turns out to be damaged.
    with tempfile.SpooledTemporaryFile(_SPOOLED_BYTES, "w+", encoding="utf-8") as lines:
        with progress_bar(path.name) as show:
            for judged in judged_rows(file.rows(), threshold, banded=plot is not None or not as_json):
                findings.add(judged, threshold)
                if as_json:
                    row = {"timestamp": judged.row.timestamp, "score": judged.verdict.score}
                    lines.write(f"{',' if findings.rows > 1 else ''}\n{json.dumps(row)}")
                if plot is not None:
                    course.add(judged)
                if findings.rows % _SHOW_EVERY == 0:
                    show(findings.rows / rows, f"{findings.rows:,} rows")
        if plot is not None:
            from training.detect_plot import write_detect_plot

            write_detect_plot(plot, path.name, course, findings)
        if as_json:
            lines.seek(0)
            sys.stdout.write("[")
            shutil.copyfileobj(lines, sys.stdout)
            sys.stdout.write("\n]\n")
            return 0
    _show(path, findings, threshold)
    if plot is not None:
        click.echo(f"drawn in {plot}")
    return 0


def _check_plot(plot: Path, read: Path) -> None:
    from simulations.output_places import check_file

    if plot.suffix.lower() != ".png":
        raise BadInput("no kind of picture that can be drawn", f"--plot {plot}", "name a file that ends in .png")
    if plot.exists() and read.exists() and plot.samefile(read):
        raise BadInput("the picture would replace the file that is read", f"--plot {plot}", "name another file")
    check_file(plot, "--plot")


def _show(path: Path, findings: Findings, threshold: float) -> None:
    """Print the events as a table, and what is to be known about the file."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    events = findings.events
    if events:
        table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
        for title in ("since", "highest at", "score", "value", "expected band", "oddest in", "alarms"):
            table.add_column(title, no_wrap=True, justify="right" if title in ("score", "value", "alarms") else "left")
        shown = sorted(events, key=lambda event: event.peak.verdict.score, reverse=True)[:_MOST_SHOWN]
        for event in sorted(shown, key=lambda event: event.since):
            table.add_row(*(Text(cell) for cell in _cells(event)))
        console = Console(highlight=False)
        # A cell that is cut short says nothing; a line that the terminal wraps is still whole.
        console.width = max(console.width, _TABLE_WIDTH)
        console.print(table)
        if len(events) > _MOST_SHOWN:
            click.echo(f"and {len(events) - _MOST_SHOWN} more with lower scores: raise --threshold, or use --json")
    days = max(findings.last_at - findings.first_at, 0.0) / 86_400.0 if findings.rows else 0.0
    click.echo(
        f"{path}: {findings.rows:,} rows over {days:.1f} days, {len(events)} events at scores from {threshold:g} on"
    )
    if findings.missing:
        click.echo(f"{findings.missing:,} rows have no value: they score 0, and nothing is learned from them")
    if findings.backwards:
        click.echo(
            f"{findings.backwards:,} rows are older than one before them: all are taken in the order of the file"
        )


def _cells(event: Event) -> tuple[str, ...]:
    peak = event.peak
    band = f"{peak.low:.4g} to {peak.high:.4g}" if isfinite(peak.low) else "not known yet"
    view = peak.verdict.view.replace("_", " ")
    score, value = f"{peak.verdict.score:.3f}", f"{peak.row.value:.6g}"
    return _clock(event.since), str(peak.row.timestamp), score, value, band, view, str(event.alarms)


def _clock(at: float) -> str:
    """Return an instant as ISO text in UTC; in seconds where no calendar has it."""
    try:
        return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%S")
    except (OverflowError, OSError, ValueError):
        return f"{at:g} s"
