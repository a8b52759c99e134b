"""How is a forecaster fitted and registered from the command line? ``train``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from controller.adapters.registry_store import RegistrySettings, check_name
from controller.adapters.system_clock import SystemClock
from controller.errors import BadInput
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
from training.map_tasks import ENGINE_OPTIONS, engine_for
from training.tables import print_json, show_notes

if TYPE_CHECKING:
    from simulations.execution import Engine
    from training.history import History
    from training.search import SearchTrial
    from training.settings import TrainingSettings
    from training.starting_net import StartingNet
    from training.train_runs import Trained

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
@click.option("--search", type=click.IntRange(1, 10_000), metavar="N",
              help="Try N settings of the fit first, by short fits judged on the validation part; the best is "
                   "used.")  # fmt: skip
@click.option("--each", is_flag=True,
              help="Fit a net to every history by itself, registered as NAME-HISTORY; with --from all start from "
                   "the same one.")  # fmt: skip
@click.option("--promote", is_flag=True, help="Make it the champion if there is none yet.")
@with_options(*ENGINE_OPTIONS)
@JSON
def train(name: str, store: str, as_json: bool, **options: Any) -> int:
    """Fit a net to load histories, judge it on their newest part and register it as the challenger."""
    from simulations.output_places import check_file

    registry = checked(RegistrySettings, {"store": store})
    if options["checkpoint"] is not None:
        check_file(options["checkpoint"], "--checkpoint")
    _check_together(options)
    start = _starting_net(registry, name, options["start"])
    settings = training_settings(_train_values(options, start), options["overrides"])
    with engine_for(options) as engine:
        histories = histories_from(options, settings.step_s, engine)
        settings = _on_recorded_channels(settings, histories, options["overrides"])
        with registry_as_input(), _blaming(source_of(options)):
            trained = _trained(histories, settings, start, name, registry, options, engine)
    facts = [each.facts(redacted(store)) for each in trained]
    if as_json:
        print_json(facts if options["each"] else facts[0])
    else:
        show_notes(histories)
        for each in trained:
            each.show(redacted(store))
    return 0


def _check_together(options: Mapping[str, Any]) -> None:
    """Refuse options that contradict each other."""
    if options["search"] and options["start"]:
        what = "a net that is refined keeps its shape, there is nothing to search"
        raise BadInput(what, "--search and --from", "leave one of them out")
    if options["each"] and options["checkpoint"]:
        raise BadInput("one file cannot keep several fits", "--checkpoint and --each", "leave one of them out")


def _trained(
    histories: Sequence[History],
    settings: TrainingSettings,
    start: StartingNet | None,
    name: str,
    registry: RegistrySettings,
    options: Mapping[str, Any],
    engine: Engine,
) -> list[Trained]:
    from training.tracking import Tracker
    from training.train_runs import Training, searched, trained_each, trained_together

    for each in histories if options["each"] else ():
        check_name(f"{name}-{each.name}")
    check_name(name)
    clock = SystemClock()
    # Opened before the fit: nobody wants to hear after two minutes that there is nowhere to put the result.
    tracker = Tracker.open(registry, clock.now)
    trials: list[SearchTrial] = []
    if options["search"]:
        fixed = [text.partition("=")[0] for text in options["overrides"]]
        settings, trials = searched(histories, settings, options["search"], engine, fixed)
    training = Training(tracker, settings, start, name, options["promote"], tuple(trials))
    if options["each"]:
        return trained_each(training, histories, engine)
    return [trained_together(training, histories, options["checkpoint"])]


@contextmanager
def _blaming(source: str) -> Iterator[None]:
    """A history that is too short came from ``source``."""
    try:
        yield
    except BadInput as error:
        raise BadInput(error.what, source if error.where == "--data" else error.where, error.remedy) from error


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
