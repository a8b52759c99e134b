"""How good is a fitted net on the part of each history that it has not seen?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from forecasting.neural import NeuralForecaster
from training.backtest import Answers, Examination, Score, ask, examination, score
from training.candidates import BASELINE, PLAIN
from training.history import History
from training.settings import lead_grid, steps_covering

if TYPE_CHECKING:
    from training.trainer import FittedNet

_ORIGINS, _ALL_ORIGINS, _LEAST_ORIGINS = 300, 3000, 30  # of a history, of all, and of each however many there are
_MOST_LEADS = 8


@dataclass(frozen=True, slots=True, eq=False)
class Judged:
    """What a net said on the test part of one history, and how good that was.

    Attributes:
        exam: What it was asked; more leads than are scored, for figures over the lead.
        scored_leads: Leads in steps that scores are for: the lead time, and how far it forecasts.
    """

    exam: Examination
    answers: Answers
    last_value: Answers
    scores: tuple[Score, ...]
    scored_leads: tuple[int, ...]


def judged_on_test_parts(
    fitted: FittedNet,
    histories: Sequence[History],
    forecaster: NeuralForecaster,
    elapsed: Callable[[], float],
    on_progress: Callable[[float], None],
) -> list[Judged]:
    """Ask the net on the test part of every history that has one long enough."""
    settings, judged = fitted.settings, []
    scored = tuple(sorted({steps_covering(s, settings.step_s) for s in (settings.lead_time_s, settings.horizon_s)}))
    grid = lead_grid(settings.horizon_steps)
    leads = sorted({*scored, *grid[:: -(-len(grid) // _MOST_LEADS)]})
    origins = min(_ORIGINS, max(_LEAST_ORIGINS, _ALL_ORIGINS // len(histories)))
    for number, history in enumerate(histories):
        try:
            exam = examination(history, [lead * settings.step_s for lead in leads], origins, settings.test_ratio)
        except ValueError:
            continue

        def show(share: float, done: int = number) -> None:
            on_progress((done + share) / len(histories))

        answers = ask(exam, settings.model, forecaster, elapsed, show)
        last_value = ask(exam, BASELINE, PLAIN[BASELINE](), elapsed)
        rows = score(exam, answers, last_value, fitted.fit_s)
        kept = tuple(row for row, lead in zip(rows, exam.lead_steps, strict=True) if lead in scored)
        judged.append(Judged(exam, answers, last_value, kept, scored))
    return judged
