"""How is an engine profile made, looked at and checked from the command line? ``foresail profile``."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from controller.errors import BadInput

if TYPE_CHECKING:
    from policies.engine_profile import EngineProfile
    from training.capacity_fit import CapacityFit
    from training.measurements import Measurement
    from training.profile_options import EngineOptions

_FILE = click.Path(path_type=Path)
_JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON for machines.")
_F = TypeVar("_F", bound=Callable[..., Any])

_ENGINE_OPTIONS = (
    click.option("--like", metavar="NAME|FILE",
                 help="Start from this profile: gives limits, and what the measurements do not determine."),
    click.option("--name", metavar="NAME", help="Name of the new profile."),
    click.option("--model", metavar="NAME", help="Served model."),
    click.option("--gpu", metavar="NAME", help="GPU type."),
    click.option("--gpus", type=click.IntRange(1, 1024), metavar="N", help="GPUs of a replica."),
    click.option("--kv-cache-tokens", type=click.IntRange(1), metavar="N",
                 help="Tokens that fit the KV cache, as the engine logs at its start."),
    click.option("--max-running", type=click.IntRange(1), metavar="N", help="The engine's max_num_seqs."),
    click.option("--max-batched-tokens", metavar="N|auto",
                 help="The engine's max_num_batched_tokens; auto tries the usual ones.  [default: that of --like, "
                      "else auto]"),
    click.option("--usd-per-gpu-hour", type=click.FloatRange(0.0), metavar="USD", help="Price of a GPU hour."),
)  # fmt: skip


def _with(*options: Callable[[Any], Any]) -> Callable[[_F], _F]:
    """Return a decorator that adds ``options`` in the order given."""

    def decorate(command: _F) -> _F:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


@click.group()
def profile() -> None:
    """Make engine profiles from measurements, and check them."""


@profile.command("list")
@_JSON
def list_profiles(as_json: bool) -> None:
    """List the profiles that come with Foresail."""
    from policies.profile_catalogue import CATALOGUE

    if as_json:
        click.echo(json.dumps([each.model_dump(mode="json") for each in CATALOGUE.values()], indent=2))
        return
    from training.profile_tables import catalogue_table, show

    show(catalogue_table(CATALOGUE.values()))


@profile.command("show")
@click.argument("name", metavar="NAME|FILE")
@_JSON
def show_profile(name: str, as_json: bool) -> None:
    """Print a profile as YAML: to a file, it is one that --profile takes."""
    from simulations.profile_files import profile_of, profile_yaml

    found = profile_of(name, "NAME")
    click.echo(json.dumps(found.model_dump(mode="json"), indent=2) if as_json else profile_yaml(found), nl=as_json)


@profile.command("fit")
@click.option("--input", "paths", type=_FILE, multiple=True, metavar="FILE",
              help="Benchmark result or request log; repeatable.")  # fmt: skip
@click.option("--format", "form", default="auto", show_default=True, metavar="NAME",
              help="auto, vllm, guidellm, aiperf, inference-perf, requests or csv.")  # fmt: skip
@click.option("--prometheus", "url", metavar="URL", help="Fit to the history of live engines in this metrics store.")
@click.option("-c", "--config", type=_FILE, metavar="FILE",
              help="Settings file: its prometheus section says where the store is and who asks.")  # fmt: skip
@click.option("--history-s", type=click.FloatRange(600.0), default=86_400.0, show_default=True, metavar="S",
              help="How far back the store is read.")  # fmt: skip
@_with(*_ENGINE_OPTIONS)
@click.option("--holdout", "holdout_ratio", type=click.FloatRange(0.0, 0.9), default=0.4, show_default=True,
              metavar="R", help="Share that is not fitted but predicted, to tell the errors on it.")  # fmt: skip
@click.option("--length-spread", type=click.FloatRange(0.0, 0.9), default=0.0, show_default=True, metavar="R",
              help="How far lengths vary about their means, where a result tells only those: 0.1 is 10 %.")  # fmt: skip
@click.option("--out", type=_FILE, metavar="FILE", help="Write the profile there as YAML.")
@click.option("--plot", type=_FILE, metavar="FILE", help="Draw measured against fitted times, as PNG.")
@_JSON
def fit(paths: tuple[Path, ...], form: str, out: Path | None, plot: Path | None, as_json: bool, **said: Any) -> int:
    """Fit an engine profile to benchmark results, request logs or a metrics store, and say how far it is off."""
    from simulations.output_places import check_file

    if bool(paths) == bool(said["url"] or said["config"]):
        raise BadInput("give either result files or a metrics store", "--input or --prometheus", "one of them")
    for place, option in ((out, "--out"), (plot, "--plot")):
        if place is not None:
            check_file(place, option)
    engine = _engine_options(said)
    if paths:
        from training.bench_results import FORMATS, read_results

        if form not in FORMATS:
            raise BadInput(f"no format is called {form!r}", "--format", f"known: {', '.join(FORMATS)}")
        read = [one.varied(said["length_spread"]) for path in paths for one in read_results(path, form)]
        return _fit_results(paths, read, engine, said["holdout_ratio"], out, plot, as_json)
    return _fit_history(said, engine, out, as_json)


@profile.command("fidelity")
@click.option("--runs", type=_FILE, required=True, metavar="DIR",
              help="Folder with NAME_requests.jsonl logs, each with its NAME_meta.json, tables of silicon runs as "
                   "Parquet, or both; folders below it too.")  # fmt: skip
@click.option("--holdout", "holdout_ratio", type=click.FloatRange(0.1, 0.9), default=0.4, show_default=True,
              metavar="R", help="Share that is only predicted.")  # fmt: skip
@click.option("--only", default="", metavar="TEXT", help="Only engines whose name has this in it.")
@_JSON
def fidelity(runs: Path, holdout_ratio: float, only: str, as_json: bool) -> int:
    """Say how far the simulated engine is from recorded ones: fitted to a part of each run, asked about the rest."""
    from simulations.progress import progress_bar
    from training.fidelity import measure_fidelity

    with progress_bar("fitting") as show:
        rows = measure_fidelity(runs, holdout_ratio, only, show)
    if as_json:
        click.echo(json.dumps([row.as_json() for row in rows], indent=2, allow_nan=False))
        return 0
    from training.profile_tables import show_fidelity

    show_fidelity(rows)
    return 0


@profile.command("from-aiconfigurator")
@click.option("--model", required=True, metavar="NAME", help="Hugging Face name of the model, such as Qwen/Qwen3-32B.")
@click.option("--system", required=True, metavar="NAME", help="AIConfigurator's name of the GPU, such as h100_sxm.")
@click.option("--gpus", type=click.IntRange(1, 64), default=1, show_default=True, metavar="N",
              help="Tensor parallel size.")  # fmt: skip
@click.option(
    "--weights", metavar="MODE", help="Its name of the weights' precision, such as fp8.  [default: the model's]"
)
@click.option("--kv-cache-tokens", type=click.IntRange(1), required=True, metavar="N",
              help="Tokens that fit the KV cache, as the engine logs at its start.")  # fmt: skip
@click.option("--max-running", type=click.IntRange(1), default=256, show_default=True, metavar="N",
              help="The engine's max_num_seqs.")  # fmt: skip
@click.option("--max-batched-tokens", type=click.IntRange(1), default=2048, show_default=True, metavar="N",
              help="The engine's max_num_batched_tokens.")  # fmt: skip
@click.option("--usd-per-gpu-hour", type=click.FloatRange(0.0), default=0.0, metavar="USD", help="Price of a GPU hour.")
@click.option("--out", type=_FILE, metavar="FILE", help="Write the profile there as YAML.")
@_JSON
def from_aiconfigurator(out: Path | None, as_json: bool, **said: Any) -> int:
    """Make a profile of an engine that was never run, from NVIDIA AIConfigurator's kernel measurements."""
    from simulations.output_places import check_file
    from simulations.progress import progress_bar
    from training.aiconfigurator_profile import Wanted, modelled_profile

    if out is not None:
        check_file(out, "--out")
    with progress_bar("asking AIConfigurator") as show:
        modelled = modelled_profile(Wanted(**said), show)
    facts = {"decode_error": modelled.decode_error, "prefill_error": modelled.prefill_error}
    if out is not None:
        _write(out, modelled.profile, (f"mean error against its grid: {facts}",))
    if as_json:
        click.echo(json.dumps(facts | {"profile": modelled.profile.model_dump(mode="json")}, indent=2))
    else:
        from simulations.profile_files import profile_yaml

        click.echo(profile_yaml(modelled.profile), nl=False)
        click.echo(
            f"mean error of the formula: decode {modelled.decode_error:.1%}, prefill {modelled.prefill_error:.1%}"
        )
    return 0


def _engine_options(said: Mapping[str, Any]) -> EngineOptions:
    from training.profile_options import EngineOptions

    return EngineOptions(**{field.name: said[field.name] for field in fields(EngineOptions)})


def _fit_results(
    paths: Sequence[Path],
    measurements: Sequence[Measurement],
    engine: EngineOptions,
    holdout_ratio: float,
    out: Path | None,
    plot: Path | None,
    as_json: bool,
) -> int:
    from simulations.progress import progress_bar
    from training.capacity_fit import FitSettings, capacity_fit, fit_budget
    from training.fit_errors import fit_errors
    from training.profile_options import start_of, told_by, tries_budgets

    told = told_by(paths)
    start = start_of(engine, measurements, told)
    settings = FitSettings(holdout_ratio) if engine.like is None else FitSettings.near_start(holdout_ratio)
    fits = fit_budget if tries_budgets(engine, told) else capacity_fit
    with progress_bar("fitting") as show:
        fitted = fits(start, measurements, settings, show)
    names = ", ".join(path.name for path in paths)
    fitted = _named(fitted, f"fitted by foresail to {names}")
    if plot is not None:
        from training.profile_plots import write_fit_plot

        write_fit_plot(plot, fitted)
    errors = fit_errors(fitted.parts)
    if out is not None:
        _write(out, fitted.profile, _notes(fitted))
    if as_json:
        from training.profile_tables import fit_facts

        click.echo(json.dumps(fit_facts(fitted, errors), indent=2, allow_nan=False))
    else:
        from training.profile_tables import show_fit

        show_fit(fitted, errors, engine.like, out)
    return 0


def _fit_history(said: Mapping[str, Any], engine: EngineOptions, out: Path | None, as_json: bool) -> int:
    from simulations.progress import progress_bar
    from training.capacity_history import fit_to_history

    if engine.model is None or engine.like is None:
        what = "a metrics store tells neither which model is meant nor everything about its engine"
        raise BadInput(what, "--model and --like", "name the model and a profile to start from")
    with progress_bar("reading the metrics store") as show:
        fitted = fit_to_history(said["url"], said["config"], engine, said["history_s"], show)
    if out is not None:
        _write(out, fitted.profile, (fitted.note,))
    if as_json:
        click.echo(json.dumps(fitted.as_json(), indent=2, allow_nan=False))
    else:
        from training.profile_tables import show_history_fit

        show_history_fit(fitted, out)
    return 0


def _named(fitted: CapacityFit, source: str) -> CapacityFit:
    from dataclasses import replace

    return replace(fitted, profile=fitted.profile.model_copy(update={"source": source}))


def _notes(fitted: CapacityFit) -> list[str]:
    notes = [f"{each.name}: +- {each.error_ratio:.0%}" for each in fitted.coefficients if each.determined]
    kept = fitted.undetermined
    return [*notes, *([f"not determined by the measurements: {', '.join(kept)}"] if kept else [])]


def _write(path: Path, made: EngineProfile, notes: Sequence[str]) -> None:
    from simulations.output_places import refusing
    from simulations.profile_files import profile_yaml

    draft = path.with_name(f".{path.name}.draft")
    with refusing(f"--out {path}", "name a file in a folder with room for it"):
        try:
            draft.write_text(profile_yaml(made, notes))
            draft.replace(path)
        finally:
            draft.unlink(missing_ok=True)
