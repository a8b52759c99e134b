"""Which settings of a fit would do better on this history? A seeded search that is judged on the validation part.

Trials are asked for in batches of one size and told in order, so that they do not depend on who fits them. Trial 0 is
the settings that were given. Trials are short fits without a closing; the test part is never looked at.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from controller.adapters.system_clock import SystemClock
from forecasting.series import LoadSeries
from simulations.execution import Engine
from training.dataset import split_in_time
from training.map_tasks import map_tasks
from training.settings import TrainingSettings

BATCH = 4
_STARTUP_TRIALS = 8
_EPOCHS = 10
_RANGES: Mapping[str, tuple[float, float]] = {"learning_rate": (5e-4, 1e-2), "weight_decay": (0.01, 8.0)}
_UNITS: Mapping[str, tuple[int, int]] = {"hidden": (16, 96), "head": (32, 128)}
_BATCHES = (64, 128, 256)
SEARCHED = (*_RANGES, *_UNITS, "batch")


@dataclass(frozen=True, slots=True)
class SearchTrial:
    """Settings that were tried: what differs from those given, and the least validation loss, NaN if it diverged."""

    number: int
    values: Mapping[str, Any]
    validation_loss: float
    epochs: int


@dataclass(frozen=True, slots=True)
class SearchTask:
    """One trial: the load, and all settings."""

    series: tuple[LoadSeries, ...]
    settings: TrainingSettings


def search(
    series: Sequence[LoadSeries],
    settings: TrainingSettings,
    trials: int,
    engine: Engine,
    fixed: Sequence[str] = (),
    on_trial: Callable[[int, float], None] = lambda _number, _loss: None,
) -> tuple[TrainingSettings, list[SearchTrial]]:
    """Return the best settings and all trials.

    Equal series, settings and seed give equal trials on any engine, as long as no time budget cuts a fit.

    Args:
        series: Load at ``settings.step_s``.
        settings: Where the search starts; a budget for time is for each fit.
        trials: How many, that of ``settings`` included.
        engine: Who fits.
        fixed: Settings that are not searched.
        on_trial: Called with how many are done and the best loss so far.

    Raises:
        BadInput: If the history is too short to learn from.
    """
    study, searched = _study(settings.seed), [name for name in SEARCHED if name not in fixed]
    done: list[SearchTrial] = []
    while len(done) < trials:
        asked = [study.ask() for _ in range(min(BATCH, trials - len(done)) - (not done))]
        wanted: list[Mapping[str, Any]] = [{}] if not done else []
        wanted += [_values(one, searched) for one in asked]
        tasks = [SearchTask(tuple(series), _short(settings, values)) for values in wanted]
        before, best = len(done), _least(done)

        def told(count: int, before: int = before, best: float = best) -> None:
            on_trial(before + count, best)

        losses = map_tasks(tried, tasks, engine, told)
        for values, (loss, epochs) in zip(wanted, losses, strict=True):
            done.append(SearchTrial(len(done), values, loss, epochs))
        for one, (loss, _) in zip(asked, losses[len(wanted) - len(asked) :], strict=True):
            _tell(study, one, loss)
    best_trial = min(done, key=lambda one: math.inf if math.isnan(one.validation_loss) else one.validation_loss)
    return _with(settings, best_trial.values), done


def tried(task: SearchTask) -> tuple[float, int]:
    """Return the least validation loss of a fit, NaN if it diverged, and its epochs."""
    from training.trainer import FitFailed, fit

    settings = task.settings
    splits = [split_in_time(len(one), settings.validation_ratio, settings.test_ratio) for one in task.series]
    try:
        fitted = fit(task.series, splits, settings, SystemClock().elapsed)
    except FitFailed:
        return math.nan, 0
    return min(epoch.validation_loss for epoch in fitted.epochs), len(fitted.epochs)


def _values(one: Any, searched: Sequence[str]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name in searched:
        if name in _RANGES:
            values[name] = float(f"{one.suggest_float(name, *_RANGES[name], log=True):.3g}")
        elif name in _UNITS:
            units = one.suggest_int(name, *_UNITS[name], log=True)
            values[name] = (units,) if name == "hidden" else units
        else:
            values[name] = one.suggest_categorical(name, _BATCHES)
    return values


def _with(settings: TrainingSettings, values: Mapping[str, Any]) -> TrainingSettings:
    return TrainingSettings.model_validate(settings.model_dump() | dict(values))


def _short(settings: TrainingSettings, values: Mapping[str, Any]) -> TrainingSettings:
    short = {"max_epochs": min(settings.max_epochs, _EPOCHS), "closing": False}
    return _with(settings, {**values, **short})


def _least(done: Sequence[SearchTrial]) -> float:
    known = [one.validation_loss for one in done if not math.isnan(one.validation_loss)]
    return min(known, default=math.nan)


def _study(seed: int) -> Any:
    import optuna
    from optuna.samplers import TPESampler

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    sampler = TPESampler(seed=seed, multivariate=True, constant_liar=True, n_startup_trials=_STARTUP_TRIALS)
    return optuna.create_study(direction="minimize", sampler=sampler)


def _tell(study: Any, one: Any, loss: float) -> None:
    from optuna.trial import TrialState

    if math.isnan(loss):
        study.tell(one, state=TrialState.FAIL)
    else:
        study.tell(one, loss)
