"""How are forecasters compared on the past from the command line? ``backtest``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from training.cli_options import (
    DATA,
    FIT_OPTIONS,
    JSON,
    fit_values,
    histories_in,
    leads_in,
    training_settings,
    with_options,
)
from training.map_tasks import ENGINE_OPTIONS, engine_for, map_tasks
from training.tables import print_json, show_notes, show_scores

if TYPE_CHECKING:
    from training.backtest import Score
    from training.backtest_tasks import BacktestTask


@click.command()
@DATA
@click.option("--models", default="all", show_default=True, metavar="A,B,C",
              help="Forecasters, such as last_value,ets,lstm_quantile, or all.")  # fmt: skip
@click.option("--lead-s", default="", metavar="S,S,...", help="Leads to score.  [default: three that suit the step]")
@click.option("--step-s", type=float, metavar="S", help="Step.  [default: the file's own, 15 for a request trace]")
@click.option("--origins", type=click.IntRange(min=1), metavar="N",
              help="Most origins per series, evenly spaced.")  # fmt: skip
@click.option("--forecasts", type=click.Path(path_type=Path), metavar="FILE", help="Write every forecast as Parquet.")
@with_options(*FIT_OPTIONS, *ENGINE_OPTIONS)
@JSON
def backtest(
    files: tuple[str, ...], models: str, step_s: float | None, forecasts: Path | None, as_json: bool, **options: Any
) -> int:
    """Score forecasters at past instants of the newest 30 % of each series; nets are fitted on the part before."""
    from simulations.output_places import check_file, refusing
    from training.backtest_tasks import BacktestTask
    from training.candidates import models_named
    from training.forecasts_file import write_forecasts

    names, leads_s = models_named(models), leads_in(options["lead_s"])
    settings = training_settings(fit_values(options), options["overrides"])
    if forecasts is not None:
        check_file(forecasts, "--forecasts")
    histories = histories_in(files, step_s, may_draw=False)
    keep = forecasts is not None
    tasks = [BacktestTask(each, names, leads_s, options["origins"], settings, keep) for each in histories]
    rows, tables = _backtested(tasks, options)
    if forecasts is not None:
        with refusing(f"--forecasts {forecasts}", "name a file in a folder with room for it"):
            write_forecasts(forecasts, tables)
    if as_json:
        print_json([asdict(row) for row in rows])
    else:
        show_notes(histories)
        show_scores(rows)
        if forecasts is not None:
            click.echo(f"every forecast is in {forecasts}")
    return 0


def _backtested(tasks: Sequence[BacktestTask], options: Mapping[str, Any]) -> tuple[list[Score], list[Any]]:
    """Return the scores of all models on all histories, and every forecast as tables where they are to be kept."""
    from simulations.progress import progress_bar
    from training.backtest_tasks import backtested

    if options["engine"] == "local" and (options["workers"] or 1) == 1:
        answers = [_shown(task) for task in tasks]
    else:
        with engine_for(options) as engine, progress_bar(f"{len(tasks)} series") as show:
            answers = map_tasks(backtested, tasks, engine, lambda done: show(done / len(tasks)))
    return [row for rows, _ in answers for row in rows], [table for _, tables in answers for table in tables]


def _shown(task: BacktestTask) -> tuple[list[Score], list[Any]]:
    """Do one series in this process, with its progress by model."""
    from simulations.progress import progress_bar
    from training.backtest_tasks import backtested

    with progress_bar(task.history.name) as show:
        return backtested(task, lambda model, share, note: show(share, f"{note} {model}"))
