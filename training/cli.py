"""How are models trained, compared and promoted from the command line? ``train``, ``backtest`` and ``promote``."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from controller.adapters.registry_store import DEFAULT_STORE, RegistrySettings, check_name
from controller.adapters.system_clock import SystemClock
from controller.errors import BadInput, RegistryError
from controller.redaction import redacted
from training.tables import print_json, show_notes, show_scores, show_training, show_verdict, training_facts

if TYPE_CHECKING:
    from pydantic import BaseModel

    from simulations.progress import Shown
    from training.backtest import Score
    from training.candidates import Candidate
    from training.gate import GateSettings
    from training.history import History
    from training.settings import TrainingSettings
    from training.starting_net import StartingNet
    from training.trainer import EpochScore, FittedNet

FAILED = 1
_LONGEST_LEAD_S = 60 * 7 * 86_400
_SAID = click.core.ParameterSource.COMMANDLINE
_OPTION_OF = {"periods_s": "--season-s"}

_M = TypeVar("_M", bound="BaseModel")
_F = TypeVar("_F", bound=Callable[..., Any])

_DATA = click.option("--data", "files", multiple=True, default=["generated"], metavar="FILE",
                     help="Load history: a request trace or a load series, any format that `simulate` reads; "
                          "repeatable. Generated load if not given.")  # fmt: skip
_STORE = click.option("--store", default=DEFAULT_STORE, show_default=True, metavar="URL",
                      help="MLflow store: sqlite:///PATH or the URL of a database or server.")  # fmt: skip
_NAME = click.option("--name", default="load", show_default=True, help="Name of the registered model.")
_FIT_OPTIONS = (
    click.option("--seed", type=int, default=0, show_default=True, metavar="N",
                 help="Same history, settings and seed: same weights."),
    click.option("--max-fit-s", type=float, default=300.0, show_default=True, metavar="S",
                 help="Time budget of a fit."),
    click.option("--season-s", "periods_s", type=float, multiple=True, metavar="S",
                 help="Length of a season; repeatable.  [default: a day and a week]"),
    click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE",
                 help="Any other setting of the fit, such as context_steps=96; repeatable."),
)  # fmt: skip
_JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON for machines.")


def _with(*options: Callable[[Any], Any]) -> Callable[[_F], _F]:
    """Return a decorator that adds ``options`` in the order given."""

    def decorate(command: _F) -> _F:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


@click.command()
@_DATA
@click.option("--prometheus", "url", metavar="URL", help="Train on the load that this metrics store has recorded.")
@click.option(
    "-c",
    "--config",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Settings file: its prometheus section says where the store is, as whom it is asked and which labels hold.",
)
@click.option(
    "--history-s",
    type=click.FloatRange(3600.0),
    default=15 * 86400.0,
    show_default=True,
    metavar="S",
    help="How far back the store is read.",
)
@click.option("--model", default="lstm_quantile", show_default=True, help="lstm_quantile or lstm_reference.")
@click.option("--step-s", type=float, metavar="S", help="Step of the model.  [default: that of the controller]")
@click.option("--lead-time-s", type=float, default=120.0, show_default=True, metavar="S",
              help="From replica requested to ready.")  # fmt: skip
@click.option("--horizon-s", type=float, metavar="S", help="How far it forecasts.  [default: 2.5 lead times]")
@_with(*_FIT_OPTIONS, _NAME, _STORE)
@click.option("--from", "start", metavar="VERSION",
              help="Refine this version or alias of the model, such as champion: its shape, fewer epochs, "
                   "smaller steps.")  # fmt: skip
@click.option("--checkpoint", type=click.Path(path_type=Path), metavar="FILE",
              help="Keep the fit here after every epoch; an interrupted one goes on from it.")  # fmt: skip
@click.option("--promote", is_flag=True, help="Make it the champion if there is none yet.")
@_JSON
def train(files: tuple[str, ...], name: str, store: str, promote: bool, as_json: bool, **options: Any) -> int:
    """Fit a net to load histories, judge it on their newest part and register it as the challenger."""
    from simulations.output_places import check_file
    from simulations.progress import progress_bar

    registry = _checked(RegistrySettings, {"store": store})
    if options["checkpoint"] is not None:
        check_file(options["checkpoint"], "--checkpoint")
    start = _starting_net(registry, name, options["start"])
    settings = _training_settings(_train_values(options, start), options["overrides"])
    if options["url"] or options["config"]:
        histories = _recorded_by(options["url"], options["config"], settings.step_s, options["history_s"])
    else:
        histories = _histories(files, settings.step_s, may_draw=True)
    settings = _on_recorded_channels(settings, histories, options["overrides"])
    clock = SystemClock()
    with _registry_as_input():
        from training.tracking import CHALLENGER, CHAMPION, Tracker, track_and_register

        check_name(name)
        # Opened before the fit: nobody wants to hear after two minutes that there is nowhere to put the result.
        tracker = Tracker.open(registry, clock.now)
        with progress_bar(f"fitting {settings.model}") as show:
            fitted = _fitted(histories, settings, clock, show, start, options["checkpoint"])
        with progress_bar("judging on the test part") as show:
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


@click.command()
@_DATA
@click.option("--models", default="all", show_default=True, metavar="A,B,C",
              help="Forecasters, such as last_value,ets,lstm_quantile, or all.")  # fmt: skip
@click.option("--lead-s", default="", metavar="S,S,...", help="Leads to score.  [default: three that suit the step]")
@click.option("--step-s", type=float, metavar="S", help="Step.  [default: the file's own, 15 for a request trace]")
@click.option("--origins", type=click.IntRange(min=1), metavar="N",
              help="Most origins per series, evenly spaced.")  # fmt: skip
@click.option("--forecasts", type=click.Path(path_type=Path), metavar="FILE", help="Write every forecast as Parquet.")
@_with(*_FIT_OPTIONS)
@_JSON
def backtest(
    files: tuple[str, ...], models: str, step_s: float | None, forecasts: Path | None, as_json: bool, **options: Any
) -> int:
    """Score forecasters at past instants of the newest 30 % of each series; nets are fitted on the part before."""
    from simulations.output_places import check_file, refusing
    from training.candidates import models_named
    from training.forecasts_file import write_forecasts

    names, leads_s = models_named(models), _leads(options["lead_s"])
    settings = _training_settings(_fit_values(options), options["overrides"])
    if forecasts is not None:
        check_file(forecasts, "--forecasts")
    histories = _histories(files, step_s, may_draw=False)
    rows, tables = _backtested(histories, names, leads_s, options["origins"], settings, forecasts is not None)
    if forecasts is not None:
        with refusing(f"--forecasts {forecasts}", "name a file in a folder with room for it"):
            write_forecasts(forecasts, tables)
    if as_json:
        print_json([asdict(row) for row in rows])
    else:
        show_notes(histories)
        show_scores(rows)
        if forecasts is not None:
            click.echo(f"every forecast is in {forecasts}")
    return 0


@click.command()
@_DATA
@_with(_NAME, _STORE)
@click.option("--version", "wanted", default="challenger", show_default=True, help="Version or alias to promote.")
@click.option("--lead-s", default="120,300", show_default=True, metavar="S,S,...", help="Leads to judge.")
@click.option("--tolerance", type=float, default=0.02, show_default=True, metavar="R",
              help="By how much it may be worse, as a share.")  # fmt: skip
@click.option("--held-out-ratio", type=float, default=0.15, show_default=True, metavar="R",
              help="Newest share of a history to judge on.")  # fmt: skip
@click.option("--force", metavar="REASON", help="Promote whatever the verdict, and put the reason on record.")
@_JSON
def promote(
    files: tuple[str, ...], name: str, wanted: str, store: str, force: str | None, as_json: bool, **options: Any
) -> int:
    """Make a registered model the champion if it is no worse than the one there is, on load neither was fitted on."""
    from training.gate import GateSettings

    if force is not None and not force.strip():
        raise BadInput("--force needs a reason", "--force", "say in a few words why the verdict does not count")
    said = {"tolerance": options["tolerance"], "held_out_ratio": options["held_out_ratio"]}
    settings = _checked(GateSettings, said | {"lead_s": _leads(options["lead_s"])})
    registry = _checked(RegistrySettings, {"store": store})
    with _registry_as_input():
        return _promoted(files, name, wanted, registry, settings, force, as_json)


def _fit_values(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the training settings that have options of their own in every command that fits."""
    values: dict[str, Any] = {"seed": options["seed"], "max_fit_s": options["max_fit_s"]}
    return values | ({"periods_s": options["periods_s"]} if options["periods_s"] else {})


def _train_values(options: Mapping[str, Any], start: StartingNet | None) -> dict[str, Any]:
    """Return the settings said by options; what is not said of the shape is that of ``start``, if there is one."""
    from controller.forecasts import ForecastSettings

    lead_time_s, horizon_s, step_s = options["lead_time_s"], options["horizon_s"], options["step_s"]
    values = _fit_values(options) | {
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

    with _registry_as_input():
        check_name(name)
        return registered_net(registry, name, wanted, SystemClock().now)


def _promoted(
    files: Sequence[str],
    name: str,
    wanted: str,
    registry: RegistrySettings,
    settings: GateSettings,
    force: str | None,
    as_json: bool,
) -> int:
    from simulations.progress import progress_bar
    from training.gate import find_version, judge, step_of
    from training.tracking import CHAMPION, Tracker

    clock = SystemClock()
    tracker = Tracker.open(registry, clock.now, may_create=False)
    challenger = find_version(tracker.registry, name, wanted)
    if challenger is None:
        known = ", ".join(version.version for version in tracker.registry.versions(name)) or "none"
        raise BadInput(
            f"{name!r} has no version or alias {wanted!r}", redacted(registry.store), f"known versions: {known}"
        )
    champion = find_version(tracker.registry, name, CHAMPION)
    if champion is not None and champion.version == challenger.version:
        facts = {
            "name": name,
            "promoted": False,
            "champion": champion.version,
            "reasons": ["it is the champion already"],
        }
        print_json(facts) if as_json else click.echo(f"{name} version {champion.version} is the champion already")
        return 0
    histories = _histories(files, step_of(challenger), may_draw=True)
    with progress_bar("judging") as show:
        verdict = judge(tracker.registry, challenger, champion, histories, settings, clock.elapsed, show)
    promoted = verdict.passed or force is not None
    tracker.record_verdict(challenger, verdict, settings, [history.name for history in histories], force)
    if promoted:
        tracker.registry.point(name, CHAMPION, challenger.version)
    show_verdict(name, verdict, promoted, force, as_json)
    return 0 if promoted else FAILED


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


def _backtested(
    histories: Sequence[History],
    names: Sequence[str],
    leads_s: Sequence[float],
    origins: int | None,
    settings: TrainingSettings,
    keep: bool,
) -> tuple[list[Score], list[Any]]:
    """Return the scores of all models on all histories, and every forecast as tables where they are to be kept."""
    from simulations.progress import progress_bar
    from training.backtest import ask, default_leads_s, examination, score
    from training.candidates import BASELINE, PLAIN, check_nets, prepare
    from training.forecasts_file import forecasts_table

    clock, rows, tables = SystemClock(), [], []
    for history in histories:
        try:
            exam = examination(history, leads_s or default_leads_s(history.series.step_s), origins)
        except ValueError as error:
            raise BadInput(str(error), "--data", "give a longer history or shorter leads") from error
        check_nets(exam, names)
        last_value = ask(exam, BASELINE, PLAIN[BASELINE](), clock.elapsed)
        prepared: dict[str, Candidate] = {}
        for name in names:
            with progress_bar(f"{history.name}: {name}") as show:
                ready = prepare(name, exam, settings, clock.elapsed, lambda share: show(share / 2, "fitting"), prepared)
                prepared[name] = ready
                answers = (
                    last_value
                    if name == BASELINE
                    else ask(exam, name, ready.forecaster, clock.elapsed, lambda share: show(0.5 + share / 2, "asking"))
                )
            rows += score(exam, answers, last_value, ready.fit_s)
            tables += [forecasts_table(exam, answers)] if keep else []
    return rows, tables


def _histories(files: Sequence[str], step_s: float | None, may_draw: bool) -> list[History]:
    from training.history import load_history

    histories = [load_history(file, step_s, may_draw=may_draw) for file in files]
    names = [history.name for history in histories]
    if len(set(names)) < len(names):
        raise BadInput("two files have the same name", "--data", "name each once, and rename one of the others")
    return histories


def _recorded_by(url: str | None, config: Path | None, step_s: float, span_s: float) -> list[History]:
    from simulations.progress import progress_bar
    from training.live_history import histories_in_prometheus

    with progress_bar("reading the metrics store") as show:
        return histories_in_prometheus(url, config, step_s, span_s, lambda share: show(share, "offered load"))


def _training_settings(said: Mapping[str, Any], overrides: Sequence[str]) -> TrainingSettings:
    from training.settings import TrainingSettings

    values = dict(said)
    for text in overrides:
        key, equals, value = text.partition("=")
        if not equals or key in said:
            remedy = f"--{key.replace('_', '-')} has an option of its own" if key in said else "write KEY=VALUE"
            raise BadInput(f"cannot use {text!r}", "--set", remedy)
        try:
            values[key] = json.loads(value)
        except ValueError:
            values[key] = value
    return _checked(TrainingSettings, values, by_set=values.keys() - said.keys())


def _checked(model: type[_M], values: Mapping[str, Any], by_set: Collection[str] = ()) -> _M:
    """Return ``values`` as a ``model``; the first thing that is wrong is told with its option and what it takes."""
    from pydantic import ValidationError

    try:
        return model.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = str(first["loc"][0])
        what = str(first["msg"]).removeprefix("Value error, ")
        if first["type"] == "extra_forbidden":
            known = ", ".join(model.model_fields)
            raise BadInput(f"there is no setting {key!r}", "--set", f"known: {known}") from None
        where = f"--set {key}" if key in by_set else _OPTION_OF.get(key, f"--{key.replace('_', '-')}")
        shown = f"{what[:1].lower()}{what[1:]}"
        if first["type"] != "value_error":
            shown += f", got {first['input']!r}"
        raise BadInput(shown, where, model.model_fields[key].description or "") from None


def _leads(text: str) -> tuple[float, ...]:
    try:
        leads = tuple(float(part) for part in text.split(",") if part.strip())
    except ValueError:
        leads = (math.nan,)
    if any(not 0 < lead <= _LONGEST_LEAD_S for lead in leads):
        remedy = f"give seconds > 0 such as 120,300, each at most {_LONGEST_LEAD_S} (60 weeks)"
        raise BadInput(f"{text!r} is no list of leads", "--lead-s", remedy)
    return leads


@contextmanager
def _registry_as_input() -> Iterator[None]:
    """A store or a model that cannot be used was named by the user: that is bad input."""
    try:
        yield
    except RegistryError as error:
        raise BadInput(error.what, error.where or "--store", error.remedy) from error
