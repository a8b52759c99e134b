"""How is a forecaster fitted and registered from the command line? ``train``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from controller.adapters.registry_store import RegistrySettings, check_name
from controller.adapters.system_clock import SystemClock
from controller.errors import BadInput, RegistryError
from controller.redaction import redacted
from training.cli_options import (
    FIT_OPTIONS,
    JSON,
    NAME,
    STORE,
    checked,
    fit_values,
    registry_as_input,
    training_settings,
    with_options,
)
from training.cli_sources import SOURCES, histories_from, source_of
from training.tables import print_json, show_notes, show_scores, show_training, training_facts

if TYPE_CHECKING:
    from simulations.progress import Shown
    from training.history import History
    from training.settings import TrainingSettings
    from training.starting_net import StartingNet
    from training.trainer import EpochScore, FittedNet

_SAID = click.core.ParameterSource.COMMANDLINE


@click.command()
@with_options(*SOURCES)
@click.option("--model", default="lstm_quantile", show_default=True, help="lstm_quantile or lstm_reference.")
@click.option("--step-s", type=float, metavar="S", help="Step of the model.  [default: that of the controller]")
@click.option("--lead-time-s", type=float, default=120.0, show_default=True, metavar="S",
              help="From replica requested to ready.")  # fmt: skip
@click.option("--horizon-s", type=float, metavar="S", help="How far it forecasts.  [default: 2.5 lead times]")
@with_options(*FIT_OPTIONS, NAME, STORE)
@click.option("--from", "start", metavar="VERSION",
              help="Refine this version or alias of the model, such as champion: its shape, fewer epochs, "
                   "smaller steps.")  # fmt: skip
@click.option("--checkpoint", type=click.Path(path_type=Path), metavar="FILE",
              help="Keep the fit here until it is registered; an interrupted one goes on from it.")  # fmt: skip
@click.option("--promote", is_flag=True, help="Make it the champion if there is none yet.")
@JSON
def train(name: str, store: str, promote: bool, as_json: bool, **options: Any) -> int:
    """Fit a net to load histories, judge it on their newest part and register it as the challenger."""
    from simulations.output_places import check_file
    from simulations.progress import progress_bar

    registry = checked(RegistrySettings, {"store": store})
    if options["checkpoint"] is not None:
        check_file(options["checkpoint"], "--checkpoint")
    start = _starting_net(registry, name, options["start"])
    settings = training_settings(_train_values(options, start), options["overrides"])
    histories = histories_from(options, settings.step_s)
    settings = _on_recorded_channels(settings, histories, options["overrides"])
    clock = SystemClock()
    with registry_as_input():
        from training.tracking import CHALLENGER, CHAMPION, Tracker, track_and_register

        check_name(name)
        # Opened before the fit: nobody wants to hear after two minutes that there is nowhere to put the result.
        tracker = Tracker.open(registry, clock.now)
        with progress_bar(f"fitting {settings.model}") as show, _blaming(source_of(options)):
            fitted = _fitted(histories, settings, clock, show, start, options["checkpoint"])
        with progress_bar("judging on the test part") as show, _kept_until_registered(options["checkpoint"]):
            registered = track_and_register(tracker, fitted, histories, name, clock.elapsed, show)
        aliases = [CHALLENGER]
        if promote and not any(CHAMPION in known.aliases for known in tracker.registry.versions(name)):
            tracker.registry.point(name, CHAMPION, registered.version.version)
            aliases.append(CHAMPION)
    if as_json:
        print_json(training_facts(registered, aliases, redacted(store), fitted, histories))
    else:
        show_notes(histories)
        show_scores(registered.scores)
        show_training(registered, aliases, redacted(store), fitted)
    return 0


@contextmanager
def _blaming(source: str) -> Iterator[None]:
    """A history that is too short came from ``source``."""
    try:
        yield
    except BadInput as error:
        raise BadInput(error.what, source if error.where == "--data" else error.where, error.remedy) from error


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


def _train_values(options: Mapping[str, Any], start: StartingNet | None) -> dict[str, Any]:
    """Return the settings said by options; what is not said of the shape is that of ``start``, if there is one."""
    from controller.forecasts import ForecastSettings

    lead_time_s, horizon_s, step_s = options["lead_time_s"], options["horizon_s"], options["step_s"]
    values = fit_values(options) | {
        "model": options["model"],
        "step_s": ForecastSettings().step_s if step_s is None else step_s,
        "lead_time_s": lead_time_s,
        "horizon_s": 2.5 * lead_time_s if horizon_s is None else horizon_s,
    }
    if start is None:
        return values
    from training.starting_net import shaped_like

    said = {key for key in values if click.get_current_context().get_parameter_source(key) is _SAID}
    return shaped_like(start, values, said | {text.partition("=")[0] for text in options["overrides"]})


def _starting_net(registry: RegistrySettings, name: str, wanted: str | None) -> StartingNet | None:
    if wanted is None:
        return None
    from training.starting_net import registered_net

    with registry_as_input():
        check_name(name)
        return registered_net(registry, name, wanted, SystemClock().now)


def _on_recorded_channels(
    settings: TrainingSettings, histories: Sequence[History], overrides: Sequence[str]
) -> TrainingSettings:
    """Return ``settings`` without channels that were not recorded: they are copies of others and teach nothing."""
    if any(text.startswith("channels=") for text in overrides):
        return settings
    common = [name for name in settings.channels if all(name in each.observed_channels for each in histories)]
    return settings.model_copy(update={"channels": tuple(common)})


def _fitted(
    histories: Sequence[History],
    settings: TrainingSettings,
    clock: SystemClock,
    show: Shown,
    start: StartingNet | None,
    checkpoint: Path | None,
) -> FittedNet:
    from training.dataset import split_in_time
    from training.trainer import fit

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
