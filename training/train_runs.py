"""How does one call of ``train`` go: search, fit, judge, register, for all histories together or for each by itself?

Importing this module imports torch (2 s): import it late.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from controller.adapters.system_clock import SystemClock
from controller.crown import CHALLENGER, CHAMPION, crown
from controller.errors import RegistryError
from simulations.execution import Engine
from simulations.progress import Shown, progress_bar
from training.dataset import split_in_time
from training.fit_tasks import FitTask, fit_each
from training.history import History
from training.search import SearchTrial, search
from training.settings import TrainingSettings
from training.starting_net import StartingNet
from training.tables import show_scores, show_search, show_training, training_facts
from training.tracking import Registered, Tracker, track_and_register
from training.trainer import EpochScore, FittedNet, fit


@dataclass(frozen=True, slots=True, eq=False)
class Training:
    """What is the same for all nets of one call.

    Attributes:
        start: What all of them go on from, None for drawn weights.
        promotes: Whether a net becomes the champion where there is none yet.
        trials: What was searched before.
    """

    tracker: Tracker
    settings: TrainingSettings
    start: StartingNet | None
    name: str
    promotes: bool
    trials: tuple[SearchTrial, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Trained:
    """A net that is on record."""

    registered: Registered
    aliases: tuple[str, ...]
    fitted: FittedNet
    histories: tuple[History, ...]
    trials: tuple[SearchTrial, ...]

    def facts(self, store: str) -> dict[str, Any]:
        """Return everything for a machine."""
        facts = training_facts(self.registered, self.aliases, store, self.fitted, self.histories)
        return facts | ({"search": [asdict(trial) for trial in self.trials]} if self.trials else {})

    def show(self, store: str) -> None:
        """Print it."""
        show_scores(self.registered.scores)
        if self.trials:
            show_search(self.trials)
        show_training(self.registered, self.aliases, store, self.fitted)


def searched(
    histories: Sequence[History], settings: TrainingSettings, trials: int, engine: Engine, fixed: Sequence[str]
) -> tuple[TrainingSettings, list[SearchTrial]]:
    """Return the best settings of ``trials`` and what was tried; ``fixed`` ones are left as they are."""
    with progress_bar(f"{trials} trials") as show:
        return search(
            [history.series for history in histories],
            settings,
            trials,
            engine,
            fixed,
            lambda done, loss: show(done / trials, f"best loss {loss:.4f}"),
        )


def trained_together(training: Training, histories: Sequence[History], checkpoint: Path | None) -> Trained:
    """Fit one net to all histories and register it."""
    with progress_bar(f"fitting {training.settings.model}") as show:
        fitted = _fitted(histories, training.settings, SystemClock(), show, training.start, checkpoint)
    with _kept_until_registered(checkpoint):
        return _registered(training, training.name, fitted, histories)


def trained_each(training: Training, histories: Sequence[History], engine: Engine) -> list[Trained]:
    """Fit a net to every history by itself and register them one after the other."""
    tasks = [FitTask((history.series,), training.settings, training.start) for history in histories]
    with progress_bar(f"fitting {len(tasks)} nets") as show:
        nets = fit_each(tasks, engine, lambda done: show(done / len(tasks)))
    return [
        _registered(training, f"{training.name}-{history.name}", fitted, [history])
        for history, fitted in zip(histories, nets, strict=True)
    ]


def _registered(training: Training, name: str, fitted: FittedNet, histories: Sequence[History]) -> Trained:
    """Judge and register a net, as the champion where that is asked for and there is none."""
    tracker, aliases = training.tracker, [CHALLENGER]
    with progress_bar("judging on the test part") as show:
        registered = track_and_register(
            tracker, fitted, histories, name, SystemClock().elapsed, show, trials=training.trials
        )
    if training.promotes and not any(CHAMPION in known.aliases for known in tracker.registry.versions(name)):
        crown(tracker.registry, name, registered.version.version, tracker.now())
        aliases.append(CHAMPION)
    return Trained(registered, tuple(aliases), fitted, tuple(histories), training.trials)


@contextmanager
def _kept_until_registered(checkpoint: Path | None) -> Iterator[None]:
    """Delete the kept fit once it is registered; say that it is there where it could not be."""
    try:
        yield
    except RegistryError as error:
        remedy = "keep the next fit with --checkpoint FILE, then only the rest has to be done again"
        if checkpoint is not None:
            remedy = f"the fit is kept in {checkpoint}: the same command goes on from it, whatever the store"
        raise RegistryError(error.what, error.where, f"{error.remedy}; {remedy}") from error
    if checkpoint is not None:
        checkpoint.unlink(missing_ok=True)


def _fitted(
    histories: Sequence[History],
    settings: TrainingSettings,
    clock: SystemClock,
    show: Shown,
    start: StartingNet | None,
    checkpoint: Path | None,
) -> FittedNet:

    def on_epoch(epoch: EpochScore) -> None:
        show(share * epoch.epoch / epoch.planned_epochs, f"epoch {epoch.epoch}, loss {epoch.validation_loss:.4f}")

    def on_closing(done: float) -> None:
        show(share + (1.0 - share) * done, "closing on the newest history")

    # The closing is half of the work: it repeats the epochs up to the best one.
    share = 0.5 if settings.closing else 1.0

    series = [history.series for history in histories]
    splits = [split_in_time(len(one), settings.validation_ratio, settings.test_ratio) for one in series]
    return fit(
        series,
        splits,
        settings,
        clock.elapsed,
        on_epoch,
        start=start,
        checkpoint=checkpoint,
        on_closing=on_closing,
    )
