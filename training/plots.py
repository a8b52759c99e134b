"""What does a fit look like? Loss curve, forecasts against what came, calibration, error by lead and hour, as figures.

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


def write_series_plots(
    folder: Path, exam: Examination, answers: Answers, last_value: Answers, shown_leads: Sequence[int]
) -> list[Path]:
    """Write what one series shows into ``folder`` and return the paths: a fan chart for each of ``shown_leads``.

    ``last_value`` are the answers of the last value at the same origins. Leads are in steps.
    """
    step_s = exam.history.series.step_s
    figures = {f"forecast_{lead * step_s:g}s.png": fan_chart(exam, answers, lead) for lead in shown_leads}
    figures |= {
        "calibration.png": calibration_curves(exam, answers),
        "error_by_lead.png": error_by_lead(exam, answers, last_value),
        "error_by_hour.png": error_by_hour(exam, answers, last_value, shown_leads[0]),
    }
    for name, figure in figures.items():
        figure.savefig(folder / name, dpi=110)
    return [folder / name for name in figures]


def write_loss_curve(folder: Path, fitted: FittedNet) -> Path:
    """Write ``loss.png`` into ``folder`` and return its path."""
    loss_curve(fitted).savefig(folder / "loss.png", dpi=110)
    return folder / "loss.png"


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


def calibration_curves(exam: Examination, answers: Answers) -> Figure:
    """Return the share of observations at or under each quantile against its level, a line per lead.

    On the left of the load at the lead, on the right of the largest load up to it.
    """
    figure = Figure(figsize=(9.6, 5.0), layout="constrained")
    shades = np.linspace(0.3, 1.0, len(exam.lead_steps))
    for place, (what, said) in enumerate((("load", answers.values), ("largest load up to the lead", answers.peaks))):
        axes = _styled(figure.add_subplot(1, 2, place + 1))
        axes.plot([0, 1], [0, 1], color=_MUTED, linewidth=0.8, linestyle=":", label="perfect")
        for index, (lead, shade) in enumerate(zip(exam.lead_steps, shades, strict=True)):
            actual = actual_at(exam, lead)[place]
            known = np.isfinite(actual) & np.isfinite(said[:, index, 0])
            shares = _shares_under(actual[known], said[known, index])
            label = f"{lead * exam.history.series.step_s:g} s ahead"
            colour = (_FORECAST, _PEAK)[place]
            axes.plot(DEFAULT_LEVELS, shares, marker="o", markersize=4, color=colour, alpha=float(shade), label=label)
        axes.set(xlabel="level", ylabel="share at or under the quantile", xlim=(0, 1), ylim=(0, 1), title=what)
        axes.set_aspect("equal")
        axes.legend(frameon=False, loc="upper left", fontsize="small")
    figure.suptitle(f"{exam.history.name}: calibration of {answers.model} on the test part", fontsize="medium")
    return figure


def error_by_lead(exam: Examination, answers: Answers, last_value: Answers) -> Figure:
    """Return pinball loss over the mean load by lead, of the load and of the largest load up to the lead."""
    figure, axes = _figure(7.2, 4.2)
    ahead_s = [lead * exam.history.series.step_s for lead in exam.lead_steps]
    for who, style in ((answers, "-"), (last_value, ":")):
        losses = [
            [np.nanmean(loss) / exam.scale for loss in losses_at(exam, who, index)]
            for index in range(len(exam.lead_steps))
        ]
        for place, (what, colour) in enumerate((("load", _FORECAST), ("largest load", _PEAK))):
            label = f"{what}, {who.model}"
            axes.plot(
                ahead_s, [loss[place] for loss in losses], style, marker="o", markersize=4, color=colour, label=label
            )
    axes.set(xlabel="seconds ahead", ylabel="pinball loss / mean load", title=f"{exam.history.name}: error by lead")
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False, fontsize="small")
    return figure


def error_by_hour(exam: Examination, answers: Answers, last_value: Answers, lead_steps: int) -> Figure:
    """Return pinball loss over the mean load by hour of the day (UTC) of the instant that was forecast."""
    index = min(range(len(exam.lead_steps)), key=lambda place: abs(exam.lead_steps[place] - lead_steps))
    lead, series = exam.lead_steps[index], exam.history.series
    hours = ((series.start_at + (exam.origins + lead - 1) * series.step_s) % 86_400 // 3600).astype(int)
    figure, axes = _figure(7.2, 4.2)
    for who, colour, shift in ((answers, _FORECAST, -0.2), (last_value, _MUTED, 0.2)):
        loss = losses_at(exam, who, index)[0]
        known = np.isfinite(loss)
        total = np.bincount(hours[known], weights=loss[known], minlength=24)
        count = np.bincount(hours[known], minlength=24)
        mean = np.divide(total, count, out=np.full(24, np.nan), where=count > 0) / exam.scale
        axes.bar(np.arange(24) + shift, mean, width=0.4, color=colour, label=who.model)
    title = f"{exam.history.name}: error {lead * series.step_s:g} s ahead by hour of the day"
    axes.set(xlabel="hour (UTC)", ylabel="pinball loss / mean load", title=title, xlim=(-0.6, 23.6))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=12))
    axes.legend(frameon=False, fontsize="small")
    return figure


def actual_at(exam: Examination, lead: int) -> tuple[FloatArray, FloatArray]:
    """Return ``float64[N]`` twice: the rate ``lead`` steps after each origin, and the largest until then."""
    rates = exam.history.series.values[:, REQUESTS]
    ahead = rates[exam.origins[:, None] + np.arange(lead)[None, :]]
    return ahead[:, -1], ahead.max(axis=1)


def losses_at(exam: Examination, answers: Answers, index: int) -> tuple[FloatArray, FloatArray]:
    """Return ``float64[N]`` twice: mean pinball loss of each forecast over the standard levels, load and largest load.

    NaN where nothing was recorded.
    """
    levels = np.array(DEFAULT_LEVELS)
    columns = [ASKED_LEVELS.index(level) for level in DEFAULT_LEVELS]
    losses = []
    for actual, said in zip(actual_at(exam, exam.lead_steps[index]), (answers.values, answers.peaks), strict=True):
        missed = actual[:, None] - said[:, index][:, columns]
        losses.append(np.maximum(levels * missed, (levels - 1.0) * missed).mean(axis=1))
    return losses[0], losses[1]


def _shares_under(actual: FloatArray, said: FloatArray) -> Sequence[float]:
    return [float((actual <= _at(said, level)).mean()) for level in DEFAULT_LEVELS] if len(actual) else []


def _at(said: FloatArray, level: float) -> FloatArray:
    return said[:, ASKED_LEVELS.index(level)]


def _figure(width: float, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, _styled(figure.add_subplot())


def _styled(axes: Axes) -> Axes:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="#e6e6e6", linewidth=0.6)
    axes.set_axisbelow(True)
    return axes
