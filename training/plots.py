"""What does a fit look like? Loss curve, forecasts against what came, and calibration, as figures.

Importing this module imports matplotlib (1 s): import it late. Figures are made without pyplot, so nothing global is
touched and no display is needed.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from forecasting.forecast import DEFAULT_LEVELS
from forecasting.series import REQUESTS, FloatArray
from training.backtest import ASKED_LEVELS, Answers, Examination
from training.trainer import FittedNet

_ACTUAL, _FORECAST, _PEAK, _MUTED = "#1a1a1a", "#1f6fb4", "#c44e1c", "#8a8a8a"
_SHOWN_ORIGINS = 400


def write_plots(folder: Path, fitted: FittedNet, exam: Examination, answers: Answers, lead_steps: int) -> list[Path]:
    """Write ``loss.png``, ``forecast.png`` and ``calibration.png`` into ``folder`` and return their paths."""
    figures = {
        "loss.png": loss_curve(fitted),
        "forecast.png": fan_chart(exam, answers, lead_steps),
        "calibration.png": calibration_curve(exam, answers),
    }
    for name, figure in figures.items():
        figure.savefig(folder / name, dpi=110)
    return [folder / name for name in figures]


def loss_curve(fitted: FittedNet) -> Figure:
    """Return training and validation loss by epoch, with the epoch that was kept."""
    figure, axes = _figure(6.4, 4.0)
    epochs = [score.epoch for score in fitted.epochs]
    axes.plot(epochs, [score.train_loss for score in fitted.epochs], color=_MUTED, label="training")
    validation = [score.validation_loss for score in fitted.epochs]
    axes.plot(epochs, validation, color=_FORECAST, label="validation (averaged weights)")
    axes.axhline(fitted.untrained_loss, color=_PEAK, linestyle=":", label="validation, untrained")
    if fitted.best_epoch:
        axes.plot(fitted.best_epoch, validation[fitted.best_epoch - 1], "o", color=_FORECAST, label="kept")
    axes.set(xlabel="epoch", ylabel="loss", title=f"Fit of {fitted.settings.model}: {fitted.stopped}")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False)
    return figure


def fan_chart(exam: Examination, answers: Answers, lead_steps: int) -> Figure:
    """Return what was forecast ``lead_steps`` ahead, as bands, against what came, over the end of the test part."""
    step_s = exam.history.series.step_s
    lead_steps = min(exam.lead_steps, key=lambda lead: abs(lead - lead_steps))
    index = exam.lead_steps.index(lead_steps)
    shown = slice(max(0, len(exam.origins) - _SHOWN_ORIGINS), None)
    rows = exam.origins[shown] + lead_steps - 1
    hours = (rows - exam.split.test_from) * step_s / 3600.0
    said = answers.values[shown, index]
    figure, axes = _figure(10.0, 4.6)
    for low, high, alpha in ((0.1, 0.9, 0.18), (0.25, 0.75, 0.32)):
        axes.fill_between(
            hours,
            _at(said, low),
            _at(said, high),
            color=_FORECAST,
            alpha=alpha,
            linewidth=0,
            label=f"{low:.0%} to {high:.0%}",
        )
    axes.plot(hours, _at(said, 0.5), color=_FORECAST, linewidth=1.0, label="median")
    axes.plot(hours, _at(said, 0.95), color=_PEAK, linewidth=0.9, linestyle="--", label="level 0.95")
    every = np.arange(rows[0], rows[-1] + 1)
    actual = exam.history.series.values[every, REQUESTS]
    axes.plot((every - exam.split.test_from) * step_s / 3600.0, actual, color=_ACTUAL, linewidth=0.7, label="came")
    top = 1.15 * float(np.nanmax(np.concatenate([actual, _at(said, 0.95)])))
    axes.set(xlabel="hours into the test part", ylabel="requests/s", ylim=(0, top), xlim=(hours[0], hours[-1]))
    axes.set_title(f"{exam.history.name}: {answers.model}, forecast {lead_steps * step_s:g} s ahead")
    axes.legend(frameon=False, ncols=5, loc="upper center", fontsize="small")
    return figure


def calibration_curve(exam: Examination, answers: Answers) -> Figure:
    """Return the share of observations at or under each quantile against its level, a line per lead."""
    figure, axes = _figure(5.2, 5.0)
    axes.plot([0, 1], [0, 1], color=_MUTED, linewidth=0.8, linestyle=":", label="perfect")
    shades = np.linspace(0.35, 1.0, len(exam.lead_steps))
    for index, (lead, shade) in enumerate(zip(exam.lead_steps, shades, strict=True)):
        rows = exam.origins + lead - 1
        actual = exam.history.series.values[rows, REQUESTS]
        known = np.isfinite(actual) & np.isfinite(answers.values[:, index, 0])
        shares = _shares_under(actual[known], answers.values[known, index])
        label = f"{lead * exam.history.series.step_s:g} s ahead"
        axes.plot(DEFAULT_LEVELS, shares, marker="o", markersize=4, color=_FORECAST, alpha=float(shade), label=label)
    axes.set(xlabel="level", ylabel="share of observations at or under the quantile", xlim=(0, 1), ylim=(0, 1))
    axes.set_title(f"Calibration of {answers.model} on the test part", fontsize="medium")
    axes.set_aspect("equal")
    axes.legend(frameon=False, loc="upper left", fontsize="small")
    return figure


def _shares_under(actual: FloatArray, said: FloatArray) -> Sequence[float]:
    return [float((actual <= _at(said, level)).mean()) for level in DEFAULT_LEVELS] if len(actual) else []


def _at(said: FloatArray, level: float) -> FloatArray:
    return said[:, ASKED_LEVELS.index(level)]


def _figure(width: float, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="#e6e6e6", linewidth=0.6)
    axes.set_axisbelow(True)
    return figure, axes
