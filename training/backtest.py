"""How good would each forecaster have been? Every one asked again at past instants, with only what was known then.

The origins lie in the newest 30 % of each series; what has to be fitted is fitted on the part before. Where a model
steps back at an origin the last value answers in its place, as in service, so that all models are judged on the same
origins; ``answered_ratio`` says how often a model spoke for itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from forecasting.accuracy import coverage, crps, pinball, skill_vs_last_value, wape
from forecasting.features import IntArray
from forecasting.forecast import DEFAULT_LEVELS
from forecasting.forecaster import CannotForecast, Forecaster
from forecasting.last_value import LastValueForecaster
from forecasting.series import REQUESTS, FloatArray
from forecasting.threads import one_thread
from training.dataset import Split, split_in_time
from training.history import History
from training.settings import steps_covering

TEST_RATIO = 0.3
ASKED_LEVELS = tuple(sorted({*DEFAULT_LEVELS, 0.8}))
COVERAGE_LEVELS = (0.8, 0.9, 0.95)

_VALIDATION_RATIO = 0.15  # of what is known when the test part begins
_USUAL_ORIGINS = 3000
_SPACING_S = 600.0
_SCORED = [ASKED_LEVELS.index(level) for level in DEFAULT_LEVELS]


@dataclass(frozen=True, slots=True, eq=False)
class Examination:
    """What all models are asked about one series.

    Attributes:
        split: Parts of the series; origins lie in ``test``.
        origins: ``int[N]``: steps seen at each origin, the first one being the first test step.
        lead_steps: Leads that are scored, ascending.
    """

    history: History
    split: Split
    origins: IntArray
    lead_steps: tuple[int, ...]

    @property
    def scale(self) -> float:
        """Mean rate of the test part, what pinball loss is normalised by."""
        return float(np.nanmean(self.history.series.values[self.split.test_from :, REQUESTS]))


@dataclass(frozen=True, slots=True, eq=False)
class Answers:
    """What one model said at every origin, in requests/s.

    Attributes:
        values, peaks: ``float64[N, L, Q]`` at ``lead_steps`` and ``ASKED_LEVELS``.
        own: ``bool[N]``: False where the last value answered in its place.
        stepped_back: The first reason why it did not answer itself, empty when it always did.
        predict_s: Seconds spent on all forecasts.
    """

    model: str
    values: FloatArray
    peaks: FloatArray
    own: np.ndarray
    stepped_back: str
    predict_s: float


@dataclass(frozen=True, slots=True)
class Score:
    """One row of a backtest; fields as DESIGN section 10 names them, and how the figures came about.

    ``pinball`` (requests/s) and ``crps`` are means over origins, ``pinball`` over the seven standard levels too.
    ``coverage_80`` is the share of observations at or under the quantile of level 0.8, and so on: the one-sided
    reading that sizes a fleet. ``peak_*`` judge the forecast maximum up to the lead, pinball at level 0.95.
    """

    model: str
    series: str
    lead_s: float
    wape: float
    pinball: float
    pinball_normalised: float
    crps: float
    coverage_80: float
    coverage_90: float
    coverage_95: float
    skill_vs_last_value: float
    peak_pinball_normalised: float
    peak_coverage_95: float
    peak_skill_vs_last_value: float
    origins: int
    answered_ratio: float
    fit_s: float
    predict_ms: float


def examination(
    history: History, lead_s: Sequence[float], max_origins: int | None = None, test_ratio: float = TEST_RATIO
) -> Examination:
    """Return the origins and leads for ``history``; a lead that is no whole number of steps is rounded up.

    Without ``max_origins`` about 3,000 origins are taken, but never fewer than one every ten minutes.

    Raises:
        ValueError: If there is no test origin from which the longest lead is recorded.
    """
    leads = tuple(sorted({steps_covering(lead, history.series.step_s) for lead in lead_s}))
    split = split_in_time(len(history.series), _VALIDATION_RATIO * (1.0 - test_ratio), test_ratio)
    room = split.end - leads[-1] - split.test_from + 1
    if room < 1 or split.test_from < 2:
        raise ValueError(
            f"{history.name} has {len(history.series)} steps of {history.series.step_s:g} s, too few to test a lead "
            f"of {leads[-1]} steps on the newest {test_ratio:.0%}"
        )
    origins = np.arange(split.test_from, split.test_from + room)
    if max_origins is not None:
        origins = origins[np.unique(np.linspace(0, room - 1, min(max_origins, room)).round().astype(int))]
    else:
        origins = origins[
            :: min(_round_stride(room / _USUAL_ORIGINS), max(1, round(_SPACING_S / history.series.step_s)))
        ]
    return Examination(history, split, origins, leads)


def default_leads_s(step_s: float) -> tuple[float, ...]:
    """Return leads worth scoring at this step: around a start-up, and what a slow one takes."""
    if step_s > 300.0:
        return (step_s, 3 * step_s, 6 * step_s)
    return tuple(lead for lead in (120.0, 300.0, 600.0, 1200.0) if lead >= step_s)[:3]


def ask(
    exam: Examination,
    model: str,
    forecaster: Forecaster,
    elapsed: Callable[[], float],
    on_progress: Callable[[float], None] = lambda _: None,
) -> Answers:
    """Ask ``forecaster`` at every origin, showing it only the steps seen by then."""
    series, leads = exam.history.series, np.array(exam.lead_steps)
    fallback = LastValueForecaster(0.0)
    values = np.full((len(exam.origins), len(leads), len(ASKED_LEVELS)), np.nan)
    peaks, own = values.copy(), np.zeros(len(exam.origins), dtype=bool)
    stepped_back, spent_s = "", 0.0
    with one_thread():
        for index, origin in enumerate(exam.origins):
            seen = series.window(0, int(origin))
            began = elapsed()
            try:
                forecast = forecaster.forecast(seen, int(leads[-1]), ASKED_LEVELS)
                own[index] = True
            except CannotForecast as reason:
                stepped_back = stepped_back or str(reason)
                forecast = None
            spent_s += elapsed() - began
            if forecast is None:
                try:
                    forecast = fallback.forecast(seen, int(leads[-1]), ASKED_LEVELS)
                except CannotForecast:
                    continue
            values[index] = forecast.values[:, leads - 1, REQUESTS].T
            peaks[index] = forecast.peaks[:, leads - 1, REQUESTS].T
            on_progress((index + 1) / len(exam.origins))
    return Answers(model, values, peaks, own, stepped_back, spent_s)


def score(exam: Examination, answers: Answers, last_value: Answers, fit_s: float = 0.0) -> list[Score]:
    """Return one row per lead; ``last_value`` are the answers of the last value at the same origins."""
    rows = []
    for index, lead in enumerate(exam.lead_steps):
        actual, peak = _actual(exam, lead)
        both = np.isfinite(answers.values[:, index, 0]) & np.isfinite(last_value.values[:, index, 0])
        known, whole = both & np.isfinite(actual), both & np.isfinite(peak)
        said, reference = answers.values[known, index], last_value.values[known, index]
        loss = _pinball(actual[known], said)
        peak_loss = _peak_pinball(peak[whole], answers.peaks[whole, index])
        under = {a: coverage(actual[known], said[:, ASKED_LEVELS.index(a)]) for a in COVERAGE_LEVELS}
        rows.append(
            Score(
                model=answers.model,
                series=exam.history.name,
                lead_s=lead * exam.history.series.step_s,
                wape=wape(actual[known], said[:, ASKED_LEVELS.index(0.5)]),
                pinball=loss,
                pinball_normalised=loss / exam.scale if exam.scale else math.nan,
                crps=crps(actual[known], said[:, _SCORED], np.array(DEFAULT_LEVELS)),
                coverage_80=under[0.8],
                coverage_90=under[0.9],
                coverage_95=under[0.95],
                skill_vs_last_value=skill_vs_last_value(loss, _pinball(actual[known], reference)),
                peak_pinball_normalised=peak_loss / exam.scale if exam.scale else math.nan,
                peak_coverage_95=coverage(peak[whole], answers.peaks[whole, index, ASKED_LEVELS.index(0.95)]),
                peak_skill_vs_last_value=skill_vs_last_value(
                    peak_loss, _peak_pinball(peak[whole], last_value.peaks[whole, index])
                ),
                origins=int(known.sum()),
                answered_ratio=float(answers.own.mean()),
                fit_s=fit_s,
                predict_ms=1e3 * answers.predict_s / len(exam.origins),
            )
        )
    return rows


def _actual(exam: Examination, lead: int) -> tuple[FloatArray, FloatArray]:
    """Return the rate ``lead`` steps after each origin, and the largest on the way, NaN where a step is missing."""
    rates = exam.history.series.values[:, REQUESTS]
    ahead = rates[exam.origins[:, None] + np.arange(lead)[None, :]]
    return ahead[:, -1], ahead.max(axis=1)


def _pinball(actual: FloatArray, said: FloatArray) -> float:
    return pinball(actual, said[:, _SCORED], np.array(DEFAULT_LEVELS))


def _peak_pinball(peak: FloatArray, said: FloatArray) -> float:
    at = ASKED_LEVELS.index(0.95)
    return pinball(peak, said[:, at : at + 1], np.array([0.95]))


def _round_stride(wanted: float) -> int:
    """Return the smallest of 1, 2, 5, 10, 20, 50, ... that is at least ``wanted``: such strides nest into ten."""
    power = int(10 ** max(0, math.ceil(math.log10(max(wanted, 1.0))) - 1))
    return next(step * power for step in (1, 2, 5, 10) if step * power >= wanted - 1e-9)
