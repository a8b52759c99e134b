"""How are the weights of a net found? Adam on windows of the training part, stopped by the validation part.

Importing this module imports torch (2 s): import it late.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from scipy.special import ndtri
from torch import Tensor, nn

from controller.errors import BadInput, ForesailError
from forecasting.artifact import ModelCard, ResidualTable, TrainingFacts, load_artifact, write_artifact
from forecasting.features import NetSpec
from forecasting.neural import NeuralForecaster, residual_table, run_net
from forecasting.quantile_net import NetAnswer, build_net
from forecasting.series import FloatArray, LoadSeries
from training.dataset import Examples, Split, examples_of, split_in_time
from training.losses import pinball, squared_error
from training.settings import TrainingSettings, net_spec, steps_covering
from training.threads import one_thread

_MIN_WINDOWS = 30
_PROGRESS_RATIO = 1e-3  # a loss that is better by less than this is no reason to go on
_EVALUATION_BATCH = 2048


class FitFailed(ForesailError):
    """The optimiser left the numbers behind; nothing of it may be used."""


@dataclass(frozen=True, slots=True)
class EpochScore:
    """One pass over the training part. Losses are weighted means in the net's own units."""

    epoch: int
    planned_epochs: int
    train_loss: float
    validation_loss: float
    learning_rate: float
    elapsed_s: float


@dataclass(frozen=True, slots=True, eq=False)
class FittedNet:
    """A net at its best epoch, and how it got there.

    Attributes:
        net: The net with its best weights, in evaluation mode.
        residuals: Measured on validation windows for a reference stack, None for a net with quantiles of its own.
        untrained_loss: Validation loss before the first step: the last value with a narrow band.
        stopped: Why there was no further epoch, as a clause.
    """

    settings: TrainingSettings
    spec: NetSpec
    net: nn.Module
    residuals: ResidualTable | None
    epochs: tuple[EpochScore, ...]
    best_epoch: int
    untrained_loss: float
    stopped: str
    fit_s: float
    train_windows: int
    validation_windows: int

    def write(self, folder: Path, name: str, data_digest: str, code_revision: str, trained_at: float) -> Path:
        """Write the artifact to ``folder``, which must not exist, and return it."""
        best = min(epoch.validation_loss for epoch in self.epochs) if self.epochs else self.untrained_loss
        facts = TrainingFacts(
            data_digest=data_digest,
            code_revision=code_revision,
            trained_at=trained_at,
            seed=self.settings.seed,
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
) -> FittedNet:
    """Fit one net on the training parts of all ``series``; the same input and seed give the same weights on a CPU.

    Unless ``max_fit_s`` cuts the number of epochs short, which depends on the machine and is said in ``stopped``.

    Args:
        series: Records at ``settings.step_s``.
        splits: Where the parts of each begin.
        settings: How to fit.
        elapsed: Stopwatch in seconds.
        on_epoch: Called after every epoch.

    Raises:
        BadInput: If there is too little history for a single training or validation window.
        FitFailed: If the loss is no longer a number.
    """
    began = elapsed()
    spec = net_spec(settings, series, splits)
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
    _require_windows(train, validation, settings, series)
    with torch.random.fork_rng(devices=[]), one_thread():
        torch.manual_seed(settings.seed)
        net = build_net(spec)
        course = _Course(net, spec, settings, len(train) / len(spec.channels), elapsed, began, on_epoch)
        course.run(_Tensors.of(train), _Tensors.of(validation))
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
        fit_s=elapsed() - began,
        train_windows=len(train),
        validation_windows=len(validation),
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


@dataclass(frozen=True, slots=True, eq=False)
class _Tensors:
    """Windows as tensors."""

    context: Tensor
    static: Tensor
    target: Tensor
    target_peak: Tensor
    weight: Tensor

    @classmethod
    def of(cls, examples: Examples) -> _Tensors:
        windows = examples.windows
        return cls(
            torch.from_numpy(windows.context),
            torch.from_numpy(windows.static),
            torch.from_numpy(windows.target),
            torch.from_numpy(windows.target_peak),
            torch.from_numpy(examples.weight.astype(np.float32)),
        )

    def __len__(self) -> int:
        return len(self.weight)

    def batches(self, order: Tensor, size: int) -> Iterator[_Tensors]:
        for rows in order.split(size):
            yield _Tensors(
                self.context[rows], self.static[rows], self.target[rows], self.target_peak[rows], self.weight[rows]
            )


class _Course:
    """One fit under way: the optimiser, the best weights so far, the reason to stop."""

    def __init__(
        self,
        net: nn.Module,
        spec: NetSpec,
        settings: TrainingSettings,
        origins: float,
        elapsed: Callable[[], float],
        began: float,
        on_epoch: Callable[[EpochScore], None],
    ) -> None:
        self._net, self._spec, self._settings = net, spec, settings
        self._elapsed, self._began, self._on_epoch = elapsed, began, on_epoch
        self._levels = torch.tensor(spec.levels, dtype=torch.float32)
        first = steps_covering(settings.lead_time_s, spec.step_s)
        counts = [1.0 if lead >= min(first, spec.lead_steps[-1]) else settings.short_lead_weight for lead in spec.lead_steps]
        self._lead_weight = torch.tensor(counts, dtype=torch.float32)
        self._peak_level_weight = torch.tensor(_peak_level_weights(spec.levels), dtype=torch.float32)
        self._order = np.random.default_rng(settings.seed)
        self._optimiser = torch.optim.AdamW(
            net.parameters(), lr=settings.learning_rate, weight_decay=_weight_decay(settings, origins)
        )
        self._average = torch.optim.swa_utils.AveragedModel(
            net, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(settings.averaging)
        )
        self._planned = settings.max_epochs
        self.epochs: list[EpochScore] = []
        self.best_epoch = self._progress_epoch = 0
        self.untrained_loss = math.nan
        self.stopped = ""

    def run(self, train: _Tensors, validation: _Tensors) -> None:
        """Train until an epoch limit, no more progress, or the time budget; leave the best weights in the net."""
        self.untrained_loss = best = self._loss_over(self._net, validation)
        weights = _copy(self._net)
        epoch = 0
        while not self.stopped:
            epoch += 1
            score = self._epoch(epoch, train, validation)
            self.epochs.append(score)
            self._on_epoch(score)
            if score.validation_loss < best * (1.0 - _PROGRESS_RATIO):
                self._progress_epoch = epoch
            if score.validation_loss < best:
                best, weights, self.best_epoch = score.validation_loss, _copy(self._average.module), epoch
            self.stopped = self._why_stop(epoch)
        self._net.load_state_dict(weights)

    def _epoch(self, epoch: int, train: _Tensors, validation: _Tensors) -> EpochScore:
        settings = self._settings
        order = torch.from_numpy(self._draw(len(train)))
        batches = -(-len(order) // settings.batch)
        self._net.train()
        total = 0.0
        for number, batch in enumerate(train.batches(order, settings.batch)):
            rate = self._rate((epoch - 1 + number / batches) / self._planned)
            loss = self._step(batch, rate)
            if not math.isfinite(loss):
                raise FitFailed(
                    f"the training loss became {loss} in epoch {epoch}",
                    "training",
                    f"lower learning_rate (it was {settings.learning_rate:g}) and look at the history for outliers",
                )
            total += loss / batches
        loss = self._loss_over(self._average.module, validation)
        self._fit_into_budget(epoch)
        return EpochScore(epoch, self._planned, total, loss, rate, self._elapsed() - self._began)

    def _draw(self, windows: int) -> npt.NDArray[np.int64]:
        """Return the windows of one epoch in random order; few windows are passed over several times."""
        passes = max(1, -(-self._settings.min_windows_per_epoch // windows))
        order = np.concatenate([self._order.permutation(windows) for _ in range(passes)])
        return order[: self._settings.max_windows_per_epoch]

    def _step(self, batch: _Tensors, rate: float) -> float:
        for group in self._optimiser.param_groups:
            group["lr"] = rate
        self._optimiser.zero_grad(set_to_none=True)
        loss = self._loss(self._net, batch)
        loss.backward()
        nn.utils.clip_grad_norm_(self._net.parameters(), self._settings.gradient_norm)
        self._optimiser.step()
        self._average.update_parameters(self._net)
        return float(loss.detach())

    def _loss(self, net: nn.Module, batch: _Tensors) -> Tensor:
        answer: NetAnswer = net(batch.context, batch.static)
        if self._spec.kind == "reference_lstm":
            return squared_error(answer.values[:, :, 0], batch.target, batch.weight)
        values = pinball(answer.values, batch.target, self._levels, batch.weight, self._lead_weight)
        peaks = pinball(
            answer.peaks, batch.target_peak, self._levels, batch.weight, self._lead_weight, self._peak_level_weight
        )
        return values + self._settings.peak_weight * peaks

    def _loss_over(self, net: nn.Module, examples: _Tensors) -> float:
        """Return the loss over all examples, without learning from them."""
        net.eval()
        total = weight = 0.0
        with torch.inference_mode():
            for batch in examples.batches(torch.arange(len(examples)), _EVALUATION_BATCH):
                share = float(batch.weight.sum())
                total, weight = total + share * float(self._loss(net, batch)), weight + share
        return total / max(weight, 1e-12)

    def _rate(self, progress: float) -> float:
        """Return the learning rate: a linear start over the first 5 %, then half a cosine down to 2 % of its height."""
        warm = min(1.0, progress / 0.05 + 0.05)
        return (
            self._settings.learning_rate * warm * (0.02 + 0.98 * 0.5 * (1.0 + math.cos(math.pi * min(progress, 1.0))))
        )

    def _fit_into_budget(self, epoch: int) -> None:
        """Plan no more epochs than the time budget holds, so that the learning rate still comes down to its end."""
        spent_s = self._elapsed() - self._began
        left = 0.95 * (self._settings.max_fit_s - spent_s) / max(spent_s / epoch, 1e-9)
        self._planned = min(self._settings.max_epochs, epoch + max(0, int(min(left, 1e6))))

    def _why_stop(self, epoch: int) -> str:
        settings = self._settings
        if epoch >= settings.max_epochs:
            return f"all {epoch} epochs done"
        if epoch - self._progress_epoch >= settings.patience:
            return f"no better validation loss for {settings.patience} epochs"
        if epoch >= self._planned or self._elapsed() - self._began >= settings.max_fit_s:
            return f"the time budget of {settings.max_fit_s:g} s allowed {epoch} of {settings.max_epochs} epochs"
        return ""


def _peak_level_weights(levels: Sequence[float]) -> FloatArray:
    """Return weights with a mean of 1 under which every level's pinball loss is about as large.

    That of a normal variable at its quantile z is its density there: 0.40 at level 0.5, 0.10 at 0.95. Fleets are sized
    by the upper levels of the peak, which would be drowned by the middle.
    """
    score = ndtri(np.asarray(levels, dtype=np.float64))
    weights = np.exp(0.5 * score**2)
    return np.asarray(weights / weights.mean(), dtype=np.float64)


def _weight_decay(settings: TrainingSettings, origins: float) -> float:
    """Return the decay for this many training origins: a prior weighs less the more there is to learn from.

    Origins and not windows, since the channels of one origin rise and fall together. The reference stack is fitted by
    plain Adam, as everywhere else.
    """
    if settings.model == "lstm_reference":
        return 0.0
    return settings.weight_decay * min(1.0, 1000.0 / origins)


def _copy(net: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in net.state_dict().items()}


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
    series: Sequence[LoadSeries],
) -> None:
    if min(len(train), len(validation)) >= _MIN_WINDOWS:
        return
    from training.settings import min_history_steps

    needed = min_history_steps(settings)
    longest = max(len(one) for one in series)
    raise BadInput(
        f"the longest history has {longest} steps of {settings.step_s:g} s, too few to learn from "
        f"({len(train)} training and {len(validation)} validation windows)",
        "--data",
        f"give at least {needed} steps ({needed * settings.step_s / 3600:.1f} h) with few gaps, or a shorter --step-s",
    )
