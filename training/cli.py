"""How are forecasters compared on the past from the command line? ``backtest``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from controller.adapters.system_clock import SystemClock
from controller.errors import BadInput
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
from training.tables import print_json, show_notes, show_scores

if TYPE_CHECKING:
    from training.backtest import Score
    from training.candidates import Candidate
    from training.history import History
    from training.settings import TrainingSettings


@click.command()
@DATA
@click.option("--models", default="all", show_default=True, metavar="A,B,C",
              help="Forecasters, such as last_value,ets,lstm_quantile, or all.")  # fmt: skip
@click.option("--lead-s", default="", metavar="S,S,...", help="Leads to score.  [default: three that suit the step]")
@click.option("--step-s", type=float, metavar="S", help="Step.  [default: the file's own, 15 for a request trace]")
@click.option("--origins", type=click.IntRange(min=1), metavar="N",
              help="Most origins per series, evenly spaced.")  # fmt: skip
@click.option("--forecasts", type=click.Path(path_type=Path), metavar="FILE", help="Write every forecast as Parquet.")
@with_options(*FIT_OPTIONS)
@JSON
def backtest(
    files: tuple[str, ...], models: str, step_s: float | None, forecasts: Path | None, as_json: bool, **options: Any
) -> int:
    """Score forecasters at past instants of the newest 30 % of each series; nets are fitted on the part before."""
    from simulations.output_places import check_file, refusing
    from training.candidates import models_named
    from training.forecasts_file import write_forecasts

    names, leads_s = models_named(models), leads_in(options["lead_s"])
    settings = training_settings(fit_values(options), options["overrides"])
    if forecasts is not None:
        check_file(forecasts, "--forecasts")
    histories = histories_in(files, step_s, may_draw=False)
    rows, tables = _backtested(histories, names, leads_s, options["origins"], settings, forecasts is not None)
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


def _backtested(
    histories: Sequence[History],
    names: Sequence[str],
    leads_s: Sequence[float],
    origins: int | None,
    settings: TrainingSettings,
    keep: bool,
) -> tuple[list[Score], list[Any]]:
    """Return the scores of all models on all histories, and every forecast as tables where they are to be kept."""
    from simulations.progress import progress_bar
    from training.backtest import ask, default_leads_s, examination, score
    from training.candidates import BASELINE, PLAIN, check_nets, prepare
    from training.forecasts_file import forecasts_table

    clock, rows, tables = SystemClock(), [], []
    for history in histories:
        try:
            exam = examination(history, leads_s or default_leads_s(history.series.step_s), origins)
        except ValueError as error:
            raise BadInput(str(error), "--data", "give a longer history or shorter leads") from error
        check_nets(exam, names)
        last_value = ask(exam, BASELINE, PLAIN[BASELINE](), clock.elapsed)
        prepared: dict[str, Candidate] = {}
        for name in names:
            with progress_bar(f"{history.name}: {name}") as show:
                ready = prepare(name, exam, settings, clock.elapsed, lambda share: show(share / 2, "fitting"), prepared)
                prepared[name] = ready
                answers = (
                    last_value
                    if name == BASELINE
                    else ask(exam, name, ready.forecaster, clock.elapsed, lambda share: show(0.5 + share / 2, "asking"))
                )
            rows += score(exam, answers, last_value, ready.fit_s)
            tables += [forecasts_table(exam, answers)] if keep else []
    return rows, tables
