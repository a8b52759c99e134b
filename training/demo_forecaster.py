"""Who forecasts in the demo? A net fitted to the generated fortnight, on record in an embedded MLflow store.

It takes the way that a model takes in service: fitted, judged, registered, fetched from the registry by its alias.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from controller.adapters.registry_store import RegistrySettings
from controller.adapters.system_clock import SystemClock
from controller.errors import BadInput, RegistryError
from controller.ports import ModelVersion
from forecasting.series import CHANNELS
from simulations.demo import DemoSettings, DemoWorld
from training.history import History
from training.settings import TrainingSettings

MODEL_NAME = "demo-load"

Told = Callable[[float, str], None]
"""Is told which share of the work is done, and a note."""


@dataclass(frozen=True, slots=True)
class DemoForecaster:
    """The champion of the demo's store.

    Attributes:
        folder: Local copy of its artifact, as fetched from the registry.
        skill: Skill over the last value on the test part, a lead time ahead: 1 - loss / its loss.
    """

    folder: Path
    version: ModelVersion
    store: str
    epochs: int
    stopped: str
    fit_s: float
    skill: float

    @property
    def words(self) -> str:
        """For the view's header."""
        return f"{self.version.name} v{self.version.version} (champion)"

    @property
    def described(self) -> str:
        """For people who wait."""
        return (
            f"{self.version.name} version {self.version.version}: {self.epochs} epochs in {self.fit_s:.0f} s, "
            f"{self.skill:.0%} less loss than the last value a lead time ahead; champion in {self.store}"
        )

    def as_json(self) -> dict[str, Any]:
        """Return it for machines."""
        return {
            "name": self.version.name,
            "version": self.version.version,
            "epochs": self.epochs,
            "stopped": self.stopped,
            "fit_s": self.fit_s,
            "skill_vs_last_value": None if math.isnan(self.skill) else self.skill,
        }


def training_settings(settings: DemoSettings) -> TrainingSettings:
    """Return how the demo's net is fitted: for half a minute, since there are 840 steps to learn from."""
    return TrainingSettings(
        step_s=60.0,
        lead_time_s=settings.lead_time_s,
        horizon_s=3.0 * settings.lead_time_s,
        context_steps=30,
        periods_s=(settings.day_s,),
        validation_ratio=0.1,
        test_ratio=0.1,
        max_epochs=12,
        max_fit_s=600.0,  # never reached: what a busy machine cuts short would not be the same model twice
        seed=settings.seed,
    )


def trained_forecaster(
    settings: DemoSettings, world: DemoWorld, registry: RegistrySettings, told: Told
) -> DemoForecaster:
    """Fit, judge, register and promote a net, and fetch it from the registry as the daemon would.

    It becomes champion without a contest: the champion of an earlier demo saw another load.

    Raises:
        BadInput: If the store cannot be used.
    """
    told(0.0, "")
    import torch

    from controller.crown import CHAMPION, crown
    from training.tracking import Tracker, track_and_register
    from training.trainer import fit_quantile

    # One thread: the net is small, and a second one would fight with the rivals' process over the other core.
    torch.set_num_threads(1)
    clock = SystemClock()
    training = training_settings(settings)
    history = History(f"generated-{settings.history_days}d", world.before.resampled(training.step_s), CHANNELS)
    try:
        told(0.0, "opening the model store")
        tracker = Tracker.open(registry, clock.now)
        told(0.0, "opening the model store")
        fitted = fit_quantile(
            history.series,
            training,
            clock.elapsed,
            lambda epoch: told(0.9 * epoch.epoch / epoch.planned_epochs, f"loss {epoch.validation_loss:.4f}"),
        )
        registered = track_and_register(
            tracker, fitted, [history], MODEL_NAME, clock.elapsed, lambda share: told(0.9 + 0.1 * share, "judging")
        )
        crown(tracker.registry, MODEL_NAME, registered.version.version, clock.now())
        folder = tracker.registry.fetch(MODEL_NAME, CHAMPION)
    except RegistryError as error:
        raise BadInput(error.what, error.where or registry.store, error.remedy) from error
    at_lead = [score for score in registered.scores if score.lead_s == training.lead_time_s]
    return DemoForecaster(
        folder=folder,
        version=registered.version,
        store=registry.store,
        epochs=len(fitted.epochs),
        stopped=fitted.stopped,
        fit_s=fitted.fit_s,
        skill=at_lead[0].skill_vs_last_value if at_lead else float("nan"),
    )
