"""How does load history become a fitted net? Windows of the training part, a course of epochs, a net to write.

Importing this module imports torch (2 s): import it late.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from controller.errors import BadInput
from forecasting.artifact import ModelCard, ResidualTable, TrainingFacts, load_artifact, write_artifact
from forecasting.features import NetSpec
from forecasting.neural import NeuralForecaster, residual_table, run_net
from forecasting.quantile_net import build_net
from forecasting.series import CHANNELS, LoadSeries
from forecasting.threads import one_thread
from training.checkpoint import Checkpoint, EpochScore, fingerprint
from training.course import Course, FitFailed, Told, WindowBatch
from training.dataset import Examples, Split, examples_of, split_in_time
from training.settings import TrainingSettings, min_history_steps, net_spec
from training.starting_net import StartingNet, kept_shape

__all__ = ["EpochScore", "FitFailed", "FittedNet", "as_forecaster", "fit", "fit_quantile"]

_MIN_WINDOWS = 30


@dataclass(frozen=True, slots=True, eq=False)
class FittedNet:
    """A net at its best epoch, and how it got there.

    Attributes:
        net: The net with its best weights, in evaluation mode.
        residuals: Measured on validation windows for a reference stack, None for a net with quantiles of its own.
        untrained_loss: Validation loss before the first step: the last value with a narrow band.
        stopped: Why there was no further epoch, as a clause.
        closing_epochs: Passes over training and validation part together after that.
        start: What it was fine-tuned from, empty for first weights drawn by the seed.
        fitted_until: End of the newest load that it, or the net it goes on from, learned from or was chosen by, Unix
            seconds.
    """

    settings: TrainingSettings
    spec: NetSpec
    net: nn.Module
    residuals: ResidualTable | None
    epochs: tuple[EpochScore, ...]
    best_epoch: int
    untrained_loss: float
    stopped: str
    closing_epochs: int
    start: str
    fit_s: float
    train_windows: int
    validation_windows: int
    fitted_until: float

    def write(self, folder: Path, name: str, data_digest: str, code_revision: str, trained_at: float) -> Path:
        """Write the artifact to ``folder``, which must not exist, and return it."""
        best = min(epoch.validation_loss for epoch in self.epochs) if self.epochs else self.untrained_loss
        facts = TrainingFacts(
            data_digest=data_digest,
            code_revision=code_revision,
            trained_at=trained_at,
            fitted_until=self.fitted_until,
            seed=self.settings.seed,
            fine_tuned_from=self.start,
            validation={"loss": best, "untrained_loss": self.untrained_loss, "epochs": float(len(self.epochs))},
        )
        write_artifact(
            folder,
            self.net.state_dict(),
            ModelCard(name=name, spec=self.spec, training=facts, residuals=self.residuals),
        )
        return folder


def fit(
    series: Sequence[LoadSeries],
    splits: Sequence[Split],
    settings: TrainingSettings,
    elapsed: Callable[[], float],
    on_epoch: Callable[[EpochScore], None] = lambda _: None,
    *,
    start: StartingNet | None = None,
    checkpoint: Path | None = None,
    on_closing: Callable[[float], None] = lambda _: None,
) -> FittedNet:
    """Fit one net on the training parts of all ``series``; the same input and seed give the same weights on a CPU.

    Unless ``max_fit_s`` cuts the number of epochs short, which depends on the machine and is said in ``stopped``.

    Args:
        series: Records at ``settings.step_s``.
        splits: Where the parts of each begin.
        settings: How to fit.
        elapsed: Stopwatch in seconds.
        on_epoch: Called after every epoch.
        start: A net whose shape is kept and whose weights are refined: in a third of the epochs, with smaller steps.
            Where no epoch is better on the validation part, its weights stay what they were.
        checkpoint: File that keeps the fit after every epoch, the last one too; if it is there, the fit goes on from
            it, to the same weights. Whoever asked for it deletes it once the net is where it belongs.
        on_closing: Called with the share done of the passes over training and validation part at the end.

    Raises:
        BadInput: If there is too little to learn from, ``start`` is of another shape than ``settings`` ask for, or
            ``checkpoint`` belongs to another fit or cannot be written.
        FitFailed: If the loss is no longer a number.
    """
    began = elapsed()
    spec = net_spec(settings, series, splits)
    if start is not None:
        spec, settings = kept_shape(start, settings, spec), settings.for_fine_tuning()
    train = examples_of(
        series,
        splits,
        spec,
        "train",
        settings.max_windows,
        short_history_ratio=settings.short_history_ratio if spec.kind == "quantile_lstm" else 0.0,
        seed=settings.seed,
    )
    validation = examples_of(series, splits, spec, "validation", settings.max_windows // 4)
    _require_windows(train, validation, settings, spec, series)
    name = start.name if start is not None else ""
    kept = Checkpoint(checkpoint, fingerprint(series, splits, settings, spec, name)) if checkpoint is not None else None
    with torch.random.fork_rng(devices=[]), one_thread():
        torch.manual_seed(settings.seed)
        net = build_net(spec)
        if start is not None:
            net.load_state_dict({key: torch.from_numpy(array.copy()) for key, array in start.weights.items()})
        course = Course(net, spec, settings, len(train) / len(spec.channels), elapsed)
        course.run(WindowBatch.of(train), WindowBatch.of(validation), Told(on_epoch, on_closing, kept))
    until = [one.start_at + split.test_from * one.step_s for one, split in zip(series, splits, strict=True)]
    residuals = _residuals(net, spec, series, splits, settings) if spec.kind == "reference_lstm" else None
    return FittedNet(
        settings=settings,
        spec=spec,
        net=net.eval(),
        residuals=residuals,
        epochs=tuple(course.epochs),
        best_epoch=course.best_epoch,
        untrained_loss=course.untrained_loss,
        stopped=course.stopped,
        closing_epochs=course.closing_epochs,
        start=name,
        fit_s=elapsed() - began,
        train_windows=len(train),
        validation_windows=len(validation),
        fitted_until=max(until if start is None else [*until, start.fitted_until]),
    )


def fit_quantile(
    series: LoadSeries,
    settings: TrainingSettings,
    elapsed: Callable[[], float],
    on_epoch: Callable[[EpochScore], None] = lambda _: None,
) -> FittedNet:
    """Fit one net on one series, split in time as ``settings`` say; errors as in ``fit``."""
    split = split_in_time(len(series), settings.validation_ratio, settings.test_ratio)
    return fit([series], [split], settings, elapsed, on_epoch)


def as_forecaster(fitted: FittedNet, folder: Path, name: str) -> NeuralForecaster:
    """Return the net as what the controller would load: written to ``folder``, which must not exist, and read back."""
    fitted.write(folder, name, data_digest="", code_revision="", trained_at=0.0)
    return load_artifact(folder)


def _residuals(
    net: nn.Module, spec: NetSpec, series: Sequence[LoadSeries], splits: Sequence[Split], settings: TrainingSettings
) -> ResidualTable:
    """Measure on validation windows how the load spreads around the mean path of a reference stack."""
    leads = range(1, spec.lead_steps[-1] + 1)
    windows = examples_of(series, splits, spec, "validation", settings.max_windows // 4, leads).windows
    try:
        return residual_table(spec, windows, run_net(net, windows)[0][:, 0, 0], spec.levels)
    except ValueError as error:
        raise BadInput(f"too little validation history: {error}", "--data", "give a longer history") from error


def _require_windows(
    train: Examples,
    validation: Examples,
    settings: TrainingSettings,
    spec: NetSpec,
    series: Sequence[LoadSeries],
) -> None:
    if min(len(train), len(validation)) >= _MIN_WINDOWS:
        return
    columns = [CHANNELS.index(name) for name in spec.channels]
    recorded = np.concatenate([one.values[:, columns].reshape(-1) for one in series])
    if not np.isfinite(recorded).any():
        raise BadInput("the history holds no observation, only gaps", "--data", "look at what records the load")
    if not np.nanmax(recorded) > 0:
        raise BadInput("the load was zero throughout", "--data", "give a history with some load in it")
    needed = min_history_steps(settings)
    longest = max(len(one) for one in series)
    raise BadInput(
        f"the longest history has {longest} steps of {settings.step_s:g} s, too few to learn from "
        f"({len(train)} training and {len(validation)} validation windows)",
        "--data",
        f"give at least {needed} steps ({needed * settings.step_s / 3600:.1f} h) with few gaps, or a shorter --step-s",
    )
