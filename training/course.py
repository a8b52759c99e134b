"""How does one fit go from its first weights to its last? Epochs of AdamW, the best weights by validation, a closing.

The closing does the same again, from the same first weights, on training and validation part together: the newest
history teaches most, and validation has done its work once the number of epochs is known. Going on from the best
weights instead fits old examples ever more tightly, which on short histories cost more than the new ones were worth.

Importing this module imports torch (2 s): import it late.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy.special import ndtri
from torch import Tensor, nn

from controller.errors import ForesailError
from forecasting.features import NetSpec
from forecasting.quantile_net import NetAnswer
from forecasting.series import FloatArray
from training.checkpoint import Checkpoint, CourseFacts, EpochScore
from training.dataset import Examples
from training.losses import pinball, squared_error
from training.settings import TrainingSettings, steps_covering

_PROGRESS_RATIO = 1e-3  # a loss that is better by less than this is no reason to go on
_EVALUATION_BATCH = 2048


class FitFailed(ForesailError):
    """The optimiser left the numbers behind; nothing of it may be used."""


@dataclass(frozen=True, slots=True)
class Told:
    """Who is told how far a fit is.

    Attributes:
        on_epoch: Called after every epoch.
        on_closing: Called with the share of the closing that is done.
        kept: Where a fit under way is kept after every epoch, so that an interrupted one goes on; None keeps nothing.
    """

    on_epoch: Callable[[EpochScore], None] = lambda _: None
    on_closing: Callable[[float], None] = lambda _: None
    kept: Checkpoint | None = None


@dataclass(frozen=True, slots=True, eq=False)
class WindowBatch:
    """Windows as tensors."""

    context: Tensor
    static: Tensor
    target: Tensor
    target_peak: Tensor
    weight: Tensor

    @classmethod
    def of(cls, *parts: Examples) -> WindowBatch:
        """Return the windows of all ``parts``, one after the other."""

        def joined(name: str) -> Tensor:
            return torch.from_numpy(np.concatenate([getattr(part.windows, name) for part in parts]))

        weight = np.concatenate([part.weight for part in parts]).astype(np.float32)
        return cls(
            joined("context"), joined("static"), joined("target"), joined("target_peak"), torch.from_numpy(weight)
        )

    def __len__(self) -> int:
        return len(self.weight)

    def batches(self, order: Tensor, size: int) -> Iterator[WindowBatch]:
        """Yield the windows of ``order`` by ``size``."""
        for rows in order.split(size):
            yield WindowBatch(
                self.context[rows], self.static[rows], self.target[rows], self.target_peak[rows], self.weight[rows]
            )


class Course:
    """One fit under way: the optimiser, the best weights so far, the reason to stop."""

    def __init__(
        self, net: nn.Module, spec: NetSpec, settings: TrainingSettings, origins: float, elapsed: Callable[[], float]
    ) -> None:
        """Begin. ``origins`` are the training windows of one channel, ``elapsed`` is a stopwatch in seconds."""
        self._net, self._spec, self._settings = net, spec, settings
        self._elapsed, self._began = elapsed, elapsed()
        self._loss_weights = _LossWeights.of(spec, settings)
        self._order = np.random.default_rng(settings.seed)
        self._decay = _weight_decay(settings, origins)
        self._first = _copy(net)
        self._start_optimiser(settings.averaging)
        self._planned = settings.max_epochs
        self._best_loss = math.nan
        self._best: dict[str, Tensor] = {}
        self._progress_epoch = 0
        self._closed = 0
        self.epochs: list[EpochScore] = []
        self.best_epoch = 0
        self.untrained_loss = math.nan
        self.stopped = ""

    @property
    def closing_epochs(self) -> int:
        """Passes over training and validation part together, which follow the search."""
        return self.best_epoch if self._settings.closing else 0

    def run(self, train: WindowBatch, validation: WindowBatch, told: Told) -> None:
        """Train until an epoch limit, no more progress, or the time budget; then close; leave the weights in the net.

        Raises:
            FitFailed: If the loss is no longer a number.
            BadInput: If what was kept belongs to another fit, or nothing can be kept any more.
        """
        kept = told.kept.read() if told.kept is not None else None
        if kept is not None:
            self._restore(*kept)
        else:
            self.untrained_loss = self._best_loss = self._loss_over(self._net, validation)
            self._best = _copy(self._net)
        while not self.stopped:
            self._search(train, validation)
            self._keep(told)
            told.on_epoch(self.epochs[-1])
        self._close(WindowBatch(*(torch.cat(pair) for pair in _pairs(train, validation))), told)

    def _search(self, train: WindowBatch, validation: WindowBatch) -> None:
        """Do one epoch and note what came of it."""
        epoch = len(self.epochs) + 1
        rate, loss = self._pass(train, self._as_in_epoch(epoch - 1), epoch)
        validation_loss = self._loss_over(self._average.module, validation)
        self._fit_into_budget(epoch)
        spent_s = self._elapsed() - self._began
        self.epochs.append(EpochScore(epoch, self._planned, loss, validation_loss, rate, spent_s))
        if validation_loss < self._best_loss * (1.0 - _PROGRESS_RATIO):
            self._progress_epoch = epoch
        if validation_loss < self._best_loss:
            self._best_loss, self._best, self.best_epoch = validation_loss, _copy(self._average.module), epoch
        self.stopped = self._why_stop(epoch)
        if self.stopped:
            self._net.load_state_dict(self._first)
            self._start_optimiser(self._settings.averaging)

    def _close(self, everything: WindowBatch, told: Told) -> None:
        """Do the epochs up to the best one again on ``everything``."""
        planned = self.closing_epochs
        while self._closed < planned:
            self._pass(everything, self._as_in_epoch(self._closed), 0)
            self._closed += 1
            self._keep(told)
            told.on_closing(self._closed / planned)
        self._net.load_state_dict(_copy(self._average.module) if planned else self._best)

    def _as_in_epoch(self, done: int) -> Callable[[float], float]:
        """Return the learning rate by the share of a pass, as it was planned when ``done`` epochs were over."""
        planned = self.epochs[done - 1].planned_epochs if done else self._settings.max_epochs
        return lambda share: self._rate((done + share) / planned)

    def _pass(self, examples: WindowBatch, rate_at: Callable[[float], float], epoch: int) -> tuple[float, float]:
        """Learn from ``examples`` once; return the last learning rate and the mean loss."""
        order = torch.from_numpy(self._draw(len(examples)))
        batches = -(-len(order) // self._settings.batch)
        self._net.train()
        total = rate = 0.0
        for number, batch in enumerate(examples.batches(order, self._settings.batch)):
            rate = rate_at(number / batches)
            loss = self._step(batch, rate)
            if not math.isfinite(loss):
                raise FitFailed(
                    f"the training loss became {loss} in {f'epoch {epoch}' if epoch else 'the closing'}",
                    "training",
                    f"lower learning_rate (it was {self._settings.learning_rate:g}) and look at the history for "
                    "outliers",
                )
            total += loss / batches
        return rate, total

    def _draw(self, windows: int) -> npt.NDArray[np.int64]:
        """Return the windows of one epoch in random order; few windows are passed over several times."""
        passes = max(1, -(-self._settings.min_windows_per_epoch // windows))
        order = np.concatenate([self._order.permutation(windows) for _ in range(passes)])
        return order[: self._settings.max_windows_per_epoch]

    def _step(self, batch: WindowBatch, rate: float) -> float:
        for group in self._optimiser.param_groups:
            group["lr"] = rate
        self._optimiser.zero_grad(set_to_none=True)
        loss = self._loss(self._net, batch)
        loss.backward()
        nn.utils.clip_grad_norm_(self._net.parameters(), self._settings.gradient_norm)
        self._optimiser.step()
        self._average.update_parameters(self._net)
        return float(loss.detach())

    def _loss(self, net: nn.Module, batch: WindowBatch) -> Tensor:
        answer: NetAnswer = net(batch.context, batch.static)
        if self._spec.kind == "reference_lstm":
            return squared_error(answer.values[:, :, 0], batch.target, batch.weight)
        known = self._loss_weights
        values = pinball(answer.values, batch.target, known.levels, batch.weight, known.leads)
        peaks = pinball(answer.peaks, batch.target_peak, known.levels, batch.weight, known.leads, known.peak_levels)
        return values + self._settings.peak_weight * peaks

    def _loss_over(self, net: nn.Module, examples: WindowBatch) -> float:
        """Return the loss over all examples, without learning from them."""
        net.eval()
        total = weight = 0.0
        with torch.inference_mode():
            for batch in examples.batches(torch.arange(len(examples)), _EVALUATION_BATCH):
                share = float(batch.weight.sum())
                total, weight = total + share * float(self._loss(net, batch)), weight + share
        return total / max(weight, 1e-12)

    def _start_optimiser(self, averaging: float) -> None:
        self._optimiser = torch.optim.AdamW(
            self._net.parameters(), lr=self._settings.learning_rate, weight_decay=self._decay
        )
        self._average = torch.optim.swa_utils.AveragedModel(
            self._net, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(averaging)
        )

    def _rate(self, progress: float) -> float:
        """Return the learning rate: a linear start over the first 5 %, then down along a cosine."""
        warm = min(1.0, progress / 0.05 + 0.05)
        return self._settings.learning_rate * warm * _cosine(progress)

    def _fit_into_budget(self, epoch: int) -> None:
        """Plan no more epochs than the time budget holds, so that the learning rate still comes down to its end."""
        spent_s = self._elapsed() - self._began
        budget_s = self._settings.max_fit_s / (2.2 if self._settings.closing else 1.0)
        left = 0.95 * (budget_s - spent_s) / max(spent_s / epoch, 1e-9)
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

    def _keep(self, told: Told) -> None:
        if told.kept is None:
            return
        facts = CourseFacts(
            best_loss=self._best_loss,
            best_epoch=self.best_epoch,
            progress_epoch=self._progress_epoch,
            untrained_loss=self.untrained_loss,
            stopped=self.stopped,
            closed=self._closed,
            spent_s=self._elapsed() - self._began,
            order=dict(self._order.bit_generator.state),
            epochs=tuple(self.epochs),
        )
        told.kept.write(facts, {**self._tensors()})

    def _tensors(self) -> Mapping[str, Tensor]:
        """Return all that changes while a net is fitted."""
        parts: dict[str, Mapping[str, Tensor]] = {
            "net": self._net.state_dict(),
            "average": self._average.state_dict(),
            "best": self._best,
        }
        for place, moments in self._optimiser.state_dict()["state"].items():
            parts[f"optimiser.{place}"] = moments
        return {f"{part}/{name}": tensor for part, named in parts.items() for name, tensor in named.items()}

    def _restore(self, facts: CourseFacts, tensors: Mapping[str, Tensor]) -> None:
        """Go on where ``_keep`` left off."""
        parts: dict[str, dict[str, Tensor]] = {}
        for key, tensor in tensors.items():
            part, _, name = key.partition("/")
            parts.setdefault(part, {})[name] = tensor
        self._net.load_state_dict(parts["net"])
        self._average.load_state_dict(parts["average"])
        self._best = parts["best"]
        state: dict[str, Any] = self._optimiser.state_dict()
        state["state"] = {
            int(part.removeprefix("optimiser.")): named
            for part, named in parts.items()
            if part.startswith("optimiser.")
        }
        self._optimiser.load_state_dict(state)
        self._best_loss, self.best_epoch = facts.best_loss, facts.best_epoch
        self._progress_epoch, self.untrained_loss = facts.progress_epoch, facts.untrained_loss
        self.stopped, self._closed = facts.stopped, facts.closed
        self._began -= facts.spent_s
        self._order.bit_generator.state = facts.order
        self.epochs = [*facts.epochs]


@dataclass(frozen=True, slots=True, eq=False)
class _LossWeights:
    """``levels`` and ``peak_levels`` are ``[Q]``, ``leads`` ``[L]``."""

    levels: Tensor
    peak_levels: Tensor
    leads: Tensor

    @classmethod
    def of(cls, spec: NetSpec, settings: TrainingSettings) -> _LossWeights:
        lead = min(steps_covering(settings.lead_time_s, spec.step_s), spec.lead_steps[-1])
        leads = [1.0 if each >= lead else settings.short_lead_weight for each in spec.lead_steps]
        return cls(
            torch.tensor(spec.levels, dtype=torch.float32),
            torch.tensor(peak_level_weights(spec.levels), dtype=torch.float32),
            torch.tensor(leads, dtype=torch.float32),
        )


def peak_level_weights(levels: Sequence[float]) -> FloatArray:
    """Return ``float64[Q]`` with a mean of 1, under which every level's pinball loss of a normal variable is as large.

    That loss is its density at the quantile: 0.40 at level 0.5, 0.10 at 0.95. Fleets are sized by the upper levels of
    the peak, which the middle would drown.
    """
    score = ndtri(np.asarray(levels, dtype=np.float64))
    weights = np.exp(0.5 * score**2)
    return np.asarray(weights / weights.mean(), dtype=np.float64)


def _pairs(one: WindowBatch, other: WindowBatch) -> Iterator[tuple[Tensor, Tensor]]:
    for name in ("context", "static", "target", "target_peak", "weight"):
        yield getattr(one, name), getattr(other, name)


def _cosine(progress: float) -> float:
    """Return half a cosine from 1 down to 0.02."""
    return 0.02 + 0.98 * 0.5 * (1.0 + math.cos(math.pi * min(progress, 1.0)))


def _weight_decay(settings: TrainingSettings, origins: float) -> float:
    """Return the decay for this many training origins: a prior weighs less the more there is to learn from.

    Origins and not windows, since the channels of one origin rise and fall together. The reference stack is fitted by
    plain Adam, as everywhere else.
    """
    if settings.model == "lstm_reference":
        return 0.0
    return settings.weight_decay * min(1.0, math.pow(1000.0 / origins, 0.75))


def _copy(net: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in net.state_dict().items()}
