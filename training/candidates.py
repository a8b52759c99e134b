"""Which forecasters can be compared, and how does each come to be ready for a series?"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from controller.errors import BadInput
from forecasting.features import DAY_S, MAX_LEAD_STEPS, MAX_LEADS, WEEK_S
from forecasting.forecast import DEFAULT_LEVELS
from forecasting.forecaster import Forecaster
from forecasting.kalman import KalmanForecaster
from forecasting.last_value import LastValueForecaster
from forecasting.regression import RegressionForecaster
from forecasting.seasonal_naive import SeasonalNaiveForecaster
from forecasting.series import REQUESTS
from training.backtest import Examination
from training.settings import MAX_STEP_S, MIN_STEP_S, TrainingSettings, lead_grid


def _exponential_smoothing() -> Forecaster:
    from forecasting.statistical import ExponentialSmoothingForecaster

    return ExponentialSmoothingForecaster()


def _holt_winters() -> Forecaster:
    from forecasting.statistical import ExponentialSmoothingForecaster

    return ExponentialSmoothingForecaster(DAY_S)


def _arima(period_s: float | None = None, logs: bool = True, fit_steps: int | None = None) -> Forecaster:
    from forecasting.arima import FIT_STEPS, ArimaForecaster

    return ArimaForecaster(period_s, logs, FIT_STEPS if fit_steps is None else fit_steps)


BASELINE = "last_value"
PLAIN: Mapping[str, Callable[[], Forecaster]] = {
    BASELINE: lambda: LastValueForecaster(0.0),
    "local_level": LastValueForecaster,
    "kalman_level": KalmanForecaster,
    "kalman_trend": lambda: KalmanForecaster(trend=True),
    "ets": _exponential_smoothing,
    "holt_winters": _holt_winters,
    "arima_day": lambda: _arima(DAY_S),
    # As a planner elsewhere sets it: no season, no logs, the last fifty values.
    "arima_short": lambda: _arima(logs=False, fit_steps=50),
    "seasonal_day": lambda: SeasonalNaiveForecaster(DAY_S),
    "seasonal_week": lambda: SeasonalNaiveForecaster(WEEK_S),
    "regression": RegressionForecaster,
}
TREES, COMBINED = "trees", "combined"
NETS = ("lstm_reference", "lstm_quantile")
MODELS = (*PLAIN, TREES, *NETS, COMBINED)
# Who is combined: few, and each right where the others are wrong.
EXPERTS = ("local_level", "seasonal_day", "arima_day", TREES, "lstm_quantile")


@dataclass(frozen=True, slots=True)
class Candidate:
    """A forecaster that is ready to be asked about one series, and what it cost to get there."""

    forecaster: Forecaster
    fit_s: float = 0.0
    note: str = ""


def models_named(text: str) -> tuple[str, ...]:
    """Return the models in ``a,b,c``, or all of them for ``all``.

    Raises:
        BadInput: If one is unknown or named twice.
    """
    names = MODELS if text.strip() == "all" else tuple(name.strip() for name in text.split(","))
    for name in names:
        if name not in MODELS:
            raise BadInput(f"there is no model {name!r}", "--models", f"known: {', '.join(MODELS)}, or all")
    if len(set(names)) < len(names):
        raise BadInput("a model is named twice", f"--models {text}", "name each once")
    return names


def check_nets(exam: Examination, names: Sequence[str]) -> None:
    """Refuse a step or leads that a net among ``names`` could not be fitted to, before anything is.

    Raises:
        BadInput: If the step is too short or too long, or the leads are too far ahead or too many.
    """
    nets = [name for name in names if name in NETS]
    if not nets:
        return
    step_s, longest = exam.history.series.step_s, exam.lead_steps[-1]
    if not MIN_STEP_S <= step_s <= MAX_STEP_S:
        what = f"{exam.history.name} has steps of {step_s:g} s, and a net takes {MIN_STEP_S:g} to {MAX_STEP_S:g}"
        raise BadInput(what, "--step-s", f"give a multiple that does, or leave {', '.join(nets)} out")
    if longest > MAX_LEAD_STEPS:
        what = f"a lead of {longest:,} steps of {step_s:g} s is more than the {MAX_LEAD_STEPS:,} that a net answers"
        raise BadInput(what, "--lead-s", f"give at most {MAX_LEAD_STEPS * step_s:g}, or leave {', '.join(nets)} out")
    asked = len(lead_grid(longest, exam.lead_steps))
    if asked > MAX_LEADS:
        what = f"with those in between they are {asked} leads, more than the {MAX_LEADS} that a net answers"
        raise BadInput(what, "--lead-s", f"give fewer leads, or leave {', '.join(nets)} out")


def prepare(
    model: str,
    exam: Examination,
    settings: TrainingSettings,
    elapsed: Callable[[], float],
    on_progress: Callable[[float], None] = lambda _: None,
    ready: Mapping[str, Candidate] | None = None,
) -> Candidate:
    """Return ``model`` ready for the series of ``exam``; what is fitted is fitted on the part before its test part.

    Args:
        model: One of ``MODELS``.
        exam: The series, its split and its leads.
        settings: For nets; trees take their seed from it.
        elapsed: Stopwatch in seconds.
        on_progress: Called with the share of the fit that is done.
        ready: Models prepared before for the same series: ``combined`` takes its experts from there, prepares
            those that are missing, and goes without those that cannot be fitted.

    Raises:
        BadInput: If that part is too short for a net or for trees.
        FitFailed: If a fit diverges.
    """
    if model in PLAIN:
        return Candidate(PLAIN[model]())
    if model == TREES:
        return _fitted_trees(exam, settings.seed, elapsed, on_progress)
    if model == COMBINED:
        return _combined(exam, settings, elapsed, on_progress, ready or {})
    from training.trainer import EpochScore, as_forecaster, fit

    def on_epoch(epoch: EpochScore) -> None:
        on_progress(epoch.epoch / epoch.planned_epochs)

    series = exam.history.series
    fitted = fit([series], [exam.split], settings_for(model, exam, settings), elapsed, on_epoch)
    with tempfile.TemporaryDirectory() as scratch:
        forecaster = as_forecaster(fitted, Path(scratch) / "artifact", model.replace("_", "-"))
    return Candidate(forecaster, fitted.fit_s, fitted.stopped)


def _fitted_trees(
    exam: Examination, seed: int, elapsed: Callable[[], float], on_progress: Callable[[float], None]
) -> Candidate:
    from forecasting.tree_features import TreeSpec
    from forecasting.trees import TreeForecaster
    from training.tree_fit import TreeSettings, fit_trees

    series, end = exam.history.series, exam.split.test_from
    began = elapsed()
    spec = TreeSpec(step_s=series.step_s, lead_steps=exam.lead_steps, levels=DEFAULT_LEVELS)
    # Only requests are judged here. Token rates that were not recorded would be copies of them anyway.
    try:
        trees = fit_trees([series], [end], [REQUESTS], spec, TreeSettings(seed=seed), on_progress)
    except ValueError as error:
        remedy = f"give a longer history or leave {TREES} and {COMBINED} out"
        raise BadInput(f"{exam.history.name} is too short for trees: {error}", "--data", remedy) from error
    until = series.start_at + end * series.step_s
    return Candidate(TreeForecaster(trees, spec, fitted_until=until), elapsed() - began)


def _combined(
    exam: Examination,
    settings: TrainingSettings,
    elapsed: Callable[[], float],
    on_progress: Callable[[float], None],
    ready: Mapping[str, Candidate],
) -> Candidate:
    from forecasting.ensemble import CombinedForecaster
    from training.course import FitFailed

    experts: dict[str, Forecaster] = {}
    without, fit_s = [], 0.0
    for name in EXPERTS:
        try:
            check_nets(exam, [name])
            one = ready.get(name) or prepare(name, exam, settings, elapsed, on_progress)
        except (BadInput, FitFailed) as reason:
            without.append(f"without {name}: {reason}")
            continue
        experts[name] = one.forecaster
        fit_s += one.fit_s if name not in ready else 0.0
    note = "; ".join([" + ".join(experts), *without])
    return Candidate(CombinedForecaster([*experts.values()]), fit_s, note)


def settings_for(model: str, exam: Examination, settings: TrainingSettings) -> TrainingSettings:
    """Return ``settings`` with the step, the leads and the channels that ``exam`` asks for."""
    step_s, longest = exam.history.series.step_s, exam.lead_steps[-1]
    changed = {
        **settings.model_dump(),
        "model": model,
        "step_s": step_s,
        "lead_time_s": exam.lead_steps[0] * step_s,
        "horizon_s": longest * step_s,
        "lead_steps": lead_grid(longest, exam.lead_steps),
        # Only requests are judged here. Token rates that were not recorded would be copies of them anyway.
        "channels": ("requests_per_s",),
    }
    return TrainingSettings.model_validate(changed)
