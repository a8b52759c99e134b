"""How does a verdict read, on a terminal and as JSON?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from training.tables import print_json, show_scores

if TYPE_CHECKING:
    from training.closed_loop import LoopRun
    from training.verdict import Verdict

_COLUMNS = ("model", "load x", "requests", "within", "GPU h", "peak", "answered")


def show_verdict(name: str, verdict: Verdict, promoted: bool, force: str | None, as_json: bool) -> None:
    """Print a verdict with its reasons."""
    if as_json:
        print_json({"name": name, "promoted": promoted, "forced": force} | asdict(verdict))
        return
    show_scores(verdict.scores)
    _show_runs(verdict.runs)
    for reason in verdict.reasons:
        click.echo(f"- {reason}")
    if promoted and not verdict.passed:
        click.echo(f"{name} version {verdict.challenger} is the champion now, by force: {force}")
    elif promoted:
        click.echo(f"{name} version {verdict.challenger} is the champion now")
    else:
        click.echo(f"{name} version {verdict.challenger} is refused; --force REASON overrides")


def show_reasons(verdict: Verdict) -> None:
    """Print to stderr what a verdict was that could not be acted upon: it took minutes."""
    click.echo(f"version {verdict.challenger} has {'passed' if verdict.passed else 'been refused'}:", err=True)
    for reason in verdict.reasons:
        click.echo(f"- {reason}", err=True)


def _show_runs(runs: Sequence[LoopRun]) -> None:
    """Print a table per series, one row per model and seed."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False)
    for series in dict.fromkeys(run.series for run in runs):
        first = next(run for run in runs if run.series == series)
        hours, begins_h = first.length_s / 3600, first.begins_s / 3600
        title = Text(f"{series}, in the closed loop: {hours:.1f} hours from hour {begins_h:.1f} on")
        table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", title=title, title_justify="left")
        table.add_column(_COLUMNS[0], no_wrap=True)
        for name in _COLUMNS[1:]:
            table.add_column(name, justify="right", no_wrap=True)
        for run in sorted((run for run in runs if run.series == series), key=lambda run: run.seed):
            table.add_row(*(Text(cell) for cell in _cells(run)))
        console.print(table)
    click.echo(
        "within: share of the requests within the objective; load x: what recorded load was multiplied with;\n"
        "answered: share of the forecasts that came from the model itself."
    )


def _cells(run: LoopRun) -> tuple[str, ...]:
    return (
        run.model,
        f"{run.scale:.3g}",
        f"{run.requests:,}",
        f"{run.attainment_ratio:.2%}",
        f"{run.gpu_hours:.1f}",
        f"{run.peak_replicas}",
        f"{run.answered / run.asked:.0%}" if run.asked else "",
    )
