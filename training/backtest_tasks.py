"""How is one series backtested in whichever process? Its history goes there, scores and forecasts come back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from controller.adapters.system_clock import SystemClock
from controller.errors import BadInput
from training.backtest import Score, ask, default_leads_s, examination, score
from training.candidates import BASELINE, PLAIN, Candidate, check_nets, prepare
from training.forecasts_file import forecasts_table
from training.history import History
from training.settings import TrainingSettings


@dataclass(frozen=True, slots=True, eq=False)
class BacktestTask:
    """One series and the models that are asked about it; forecasts are returned where they are to be kept."""

    history: History
    models: tuple[str, ...]
    leads_s: tuple[float, ...]
    origins: int | None
    settings: TrainingSettings
    keep: bool


def backtested(
    task: BacktestTask, show: Callable[[str, float, str], None] = lambda _model, _share, _note: None
) -> tuple[list[Score], list[Any]]:
    """Return the scores of all models, and their forecasts as tables; ``show`` is told model, share done and a note.

    Raises:
        BadInput: If the history is too short for the leads or for a net.
    """
    clock, history = SystemClock(), task.history
    rows: list[Score] = []
    tables: list[Any] = []
    try:
        exam = examination(history, task.leads_s or default_leads_s(history.series.step_s), task.origins)
    except ValueError as error:
        raise BadInput(str(error), "--data", "give a longer history or shorter leads") from error
    check_nets(exam, task.models)
    last_value = ask(exam, BASELINE, PLAIN[BASELINE](), clock.elapsed)
    prepared: dict[str, Candidate] = {}
    for name in task.models:
        fitting, asking = (partial(_half, show, name, *half) for half in ((0.0, "fitting"), (0.5, "asking")))
        ready = prepared[name] = prepare(name, exam, task.settings, clock.elapsed, fitting, prepared)
        answers = last_value if name == BASELINE else ask(exam, name, ready.forecaster, clock.elapsed, asking)
        rows += score(exam, answers, last_value, ready.fit_s)
        tables += [forecasts_table(exam, answers)] if task.keep else []
    return rows, tables


def _half(show: Callable[[str, float, str], None], model: str, begins: float, note: str, share: float) -> None:
    show(model, begins + share / 2, note)
