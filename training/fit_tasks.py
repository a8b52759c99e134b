"""How is a net fitted in another process? Load and settings go there, weights and the course of the fit come back.

Importing this module imports torch (2 s): import it late.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from controller.adapters.system_clock import SystemClock
from forecasting.quantile_net import build_net
from forecasting.series import LoadSeries
from simulations.execution import Engine
from training.dataset import split_in_time
from training.map_tasks import map_tasks
from training.settings import TrainingSettings
from training.starting_net import StartingNet
from training.trainer import FittedNet, fit


@dataclass(frozen=True, slots=True, eq=False)
class FitTask:
    """One fit: load of one or more workloads, how to fit, and the net to go on from, if any."""

    series: tuple[LoadSeries, ...]
    settings: TrainingSettings
    start: StartingNet | None = None


@dataclass(frozen=True, slots=True, eq=False)
class SentFit:
    """A fit as it travels between processes: arrays in the place of the net, ``fitted`` without it."""

    fitted: FittedNet
    weights: Mapping[str, npt.NDArray[np.float32]]

    @classmethod
    def of(cls, fitted: FittedNet) -> SentFit:
        """Return ``fitted`` ready to travel."""
        weights = {name: tensor.detach().cpu().numpy() for name, tensor in fitted.net.state_dict().items()}
        return cls(replace(fitted, net=nn.Identity()), weights)

    def arrived(self) -> FittedNet:
        """Return the fit with its net."""
        net = build_net(self.fitted.spec)
        net.load_state_dict({name: torch.from_numpy(array.copy()) for name, array in self.weights.items()})
        return replace(self.fitted, net=net.eval())


def fitted_by(task: FitTask) -> SentFit:
    """Fit as the task says; errors as in ``training.trainer.fit``."""
    settings = task.settings
    splits = [split_in_time(len(one), settings.validation_ratio, settings.test_ratio) for one in task.series]
    return SentFit.of(fit(task.series, splits, settings, SystemClock().elapsed, start=task.start))


def fit_each(
    tasks: Sequence[FitTask], engine: Engine, finished: Callable[[int], None] = lambda _: None
) -> list[FittedNet]:
    """Return the fits of all tasks in their order; the same wherever they are done."""
    return [sent.arrived() for sent in map_tasks(fitted_by, tasks, engine, finished)]
