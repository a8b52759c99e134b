"""What can be asked of the simulator on the command line: ``simulate`` and ``compare``."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from simulations.peers.names import DESCRIBED
from simulations.routings import ROUTINGS

_F = TypeVar("_F", bound=Callable[..., Any])


def _positive(most: float = math.inf, unit: str = "") -> Callable[[click.Context, click.Parameter, Any], float | None]:
    """Return what refuses all but finite numbers above 0 and at most ``most``."""
    upto = "" if math.isinf(most) else f" and at most {most:,g}{unit}"

    def checked(_ctx: click.Context, _option: click.Parameter, value: float | None) -> float | None:
        if value is not None and not (math.isfinite(value) and 0 < value <= most):
            raise click.BadParameter(f"{value:g} is not a finite number more than 0{upto}.")
        return value

    return checked


def _share(_ctx: click.Context, _option: click.Parameter, value: float | None) -> float | None:
    """Refuse what is not between 0 and 1."""
    if value is not None and not 0 < value < 1:
        raise click.BadParameter(f"{value:g} is not a share between 0 and 1, both excluded, such as 0.99.")
    return value


_DAY_S, _HOUR_S = 86400, 3600
_FILE = click.Path(path_type=Path)

# What is replayed, in the order of the help page.
_TRACE_OPTIONS = (
    click.option("--scale", type=float, default=1.0, callback=_positive(), show_default=True, metavar="K",
                 help="Multiply the load by K."),
    click.option("--start", "start_s", type=click.FloatRange(min=0), metavar="S",
                 help="Begin S seconds into the trace; what came before is the load history.  [default: 0; an hour "
                      "before the flash crowd of generated load]"),
    click.option("--duration", "duration_s", type=float, callback=_positive(), metavar="S",
                 help="Replay S seconds; to the end if not given, two hours of generated load."),
    click.option("--trace-model", metavar="NAME",
                 help="Replay only requests for this model (for a load series: the column that counts them)."),
    click.option("--token-shape", default="chat", show_default=True, metavar="SHAPE",
                 help="Request lengths drawn for a load series: a name such as chat, fixed:PROMPT/OUTPUT, "
                      "lognormal:PROMPT/OUTPUT, or a file of requests to take them from."),
    click.option("--arrivals", default="poisson", show_default=True, metavar="NAME",
                 help="How requests drawn from a load series arrive: poisson or gamma (bursty)."),
    click.option("--arrival-cv", type=float, callback=_positive(), default=3.0, show_default=True, metavar="CV",
                 help="Burstiness of gamma arrivals."),
)  # fmt: skip

# What it is replayed against.
_RUN_OPTIONS = (
    click.option("--profile", "profiles", multiple=True, metavar="NAME|FILE[:ROLE]",
                 help="Engine profile of the pool, by name or as a YAML file; repeat for several pools. With the role "
                      "prefill or decode it serves that part of each request.  [default: llama-3.1-70b-a100-tp4]"),
    click.option("--prefix-cache", type=click.Choice(["off", "lru", "lfu"]),
                 help="Which idle prefix engines give up first, where prompts come with hashes.  [default: as the "
                      "profile says]"),
    click.option("--routing", type=click.Choice(ROUTINGS),
                 help="How the gateway chooses a replica of a pool.  [default: least_connections]"),
    click.option("--lead-time-s", type=float, callback=_positive(_DAY_S, " (a day)"), metavar="S",
                 help="Median time from placement of a replica to READY.  [default: 120; that of --startup NAME]"),
    click.option("--ttft-s", type=float, callback=_positive(_DAY_S, " (a day)"), metavar="S",
                 help="Objective for the time to first token.  [default: 2]"),
    click.option("--tpot-s", type=float, callback=_positive(_HOUR_S, " (an hour)"), metavar="S",
                 help="Objective for the time per output token.  [default: 0.1]"),
    click.option("--attainment", "attainment_ratio", type=float, callback=_share, metavar="R",
                 help="Share of requests that must meet both.  [default: 0.99]"),
    click.option("--min", "min_replicas", type=click.IntRange(0, 10_000), metavar="N",
                 help="Fewest replicas of a pool.  [default: 1]"),
    click.option("--max", "max_replicas", type=click.IntRange(1, 10_000), metavar="N",
                 help="Most replicas of a pool.  [default: 64]"),
    click.option("--initial", "initial_replicas", type=click.IntRange(min=0), metavar="N",
                 help="Replicas of a pool at the start; sized for the first five minutes if not given."),
    click.option("--fault", "faults", multiple=True, metavar="SPEC",
                 help="What goes wrong, KIND@SECONDS[:KEY=VALUE,...], such as crash@600; repeatable."),
    click.option("--scenario", type=_FILE, metavar="NAME|FILE",
                 help="Load, fleet, faults and settings together: a name that `foresail scenarios` lists, or a "
                      "YAML file. Options win over it."),
    click.option("-c", "--config", type=_FILE, metavar="FILE", help="Settings file, as `foresail config` checks it."),
    click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE",
                 help="Lay a setting over the file, such as policy.scaling.burn_rate=4; repeatable. Also reaches the "
                      "simulated world (fleet.gateway_timeout_s=30) and rivals (hpa.target_ratio=0.8)."),
    click.option("--model-dir", type=_FILE, metavar="DIR", help="Folder of a trained model for Foresail to ask first."),
    click.option("--model", metavar="NAME[@ALIAS]", help="The same from the model registry; its champion if no alias."),
    click.option("--startup", metavar="NAME",
                 help="How starts scatter, fail and straggle: plain, stragglers, llm-d-32b, cloud-2-7min and others."
                      "  [default: plain]"),
)  # fmt: skip

_SEED = click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, metavar="N",
                     help="Equal seeds give equal runs.")  # fmt: skip
# Who does the runs.
_ENGINE_OPTIONS = (
    click.option("--engine", type=click.Choice(["local", "ray"]), default="local", show_default=True,
                 help="Where the runs are done: in processes of this machine, or as tasks of Ray."),
    click.option("--workers", type=click.IntRange(min=1, max=256), default=2, show_default=True, metavar="N",
                 help="Processes of the local engine, or of a Ray of this machine."),
    click.option("--ray-address", envvar="RAY_ADDRESS", metavar="HOST:PORT",
                 help="Head of the Ray cluster for --engine ray, or auto.  [default: RAY_ADDRESS; else a Ray of this "
                      "machine that ends with the command]"),
    click.option("--fresh", is_flag=True, help="Do every run anew, also those that an earlier command has finished."),
)  # fmt: skip

_JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON for machines.")


def _with(*options: Callable[[Any], Any]) -> Callable[[_F], _F]:
    """Return a decorator that adds ``options`` in the order given."""

    def decorate(command: _F) -> _F:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


_POLICIES = "\b\nPolicies:\n" + "".join(f"  {name:18}{described}\n" for name, described in DESCRIBED.items())


@click.command(epilog=_POLICIES)
@click.option("--trace", "path", type=_FILE, metavar="FILE",
              help="Request trace, load series or client rates to replay; the scenario's load, or generated load, if "
                   "not given.")  # fmt: skip
@click.option("--policy", default="foresail", show_default=True, metavar="NAME",
              help="Who decides; listed below.")  # fmt: skip
@_with(*_TRACE_OPTIONS, *_RUN_OPTIONS, _SEED)
@click.option("--audit", type=_FILE, metavar="FILE", help="Record every decision there, for `foresail explain`.")
@_JSON
def simulate(path: Path | None, policy: str, seed: int, audit: Path | None, as_json: bool, **options: Any) -> None:
    """Replay a trace with one policy and count what happened to every request."""
    from rich.console import Console

    from simulations.options import audit_log, jobs_of
    from simulations.progress import progress_bar
    from simulations.tables import scorecard_table

    (job,) = jobs_of([] if path is None else [path], [policy], [seed], options)
    with audit_log(audit) as log, progress_bar(f"{policy} on {job.trace.path.name}") as show:
        report = job.run(log, lambda tick: show(tick.share))
    if as_json:
        click.echo(json.dumps(report.as_json(), indent=2, allow_nan=False))
    else:
        Console().print(scorecard_table(report, job.settings.policy.objective))


@click.command(epilog=_POLICIES)
@click.option("--trace", "paths", type=_FILE, multiple=True, metavar="FILE",
              help="Request trace, load series or client rates; repeatable; the scenario's load, or generated load, if "
                   "not given.")  # fmt: skip
@click.option(
    "--policies", default="all", show_default=True, metavar="A,B,C", help="Who decides, or all; listed below."
)
@click.option("--seeds", type=click.IntRange(min=1, max=1000), default=1, show_default=True, metavar="K",
              help="Repeat with K seeds, from --seed on.")  # fmt: skip
@click.option(
    "--out", type=_FILE, required=True, metavar="DIR", help="Folder for report.html, compare.json and pictures."
)
@_with(*_ENGINE_OPTIONS, *_TRACE_OPTIONS, *_RUN_OPTIONS, _SEED)
@click.option(
    "--sweep",
    is_flag=True,
    help="Run each policy over its grid of settings too, and tell the cheapest that attains the objective.",
)
@_JSON
def compare(
    paths: tuple[Path, ...], policies: str, seeds: int, out: Path, seed: int, sweep: bool, as_json: bool,
    **options: Any
) -> None:  # fmt: skip
    """Replay traces with several policies and write a table, JSON, an HTML report with plots, and these as PNG.

    Finished runs are kept in DIR/runs: the same command goes on where it was interrupted.
    """
    from rich.console import Console
    from rich.text import Text

    from simulations.comparison import facts_of
    from simulations.execution import WHOLE, check_traces, engine_of, run_all
    from simulations.kept_runs import FOLDER, KeptRuns, bytes_to_keep
    from simulations.options import jobs_of, policies_named
    from simulations.output_places import check_folder, check_room
    from simulations.progress import progress_bar
    from simulations.provenance import command_line, provenance_of
    from simulations.report_files import file_names, files_of, write_files
    from simulations.sweep import sweep_table
    from simulations.tables import comparison_table

    jobs = jobs_of(paths, policies_named(policies), range(seed, seed + seeds), options, sweep=sweep)
    check_folder(out, "--out", file_names([job.trace.name for job in jobs]))
    check_room(out, bytes_to_keep(jobs))
    origin = provenance_of(jobs, command_line(click.get_current_context()))
    kept = KeptRuns(out / FOLDER, WHOLE, options["fresh"])
    with engine_of(options) as engine, progress_bar(f"{len(jobs)} runs") as show:
        check_traces(jobs)
        reports = run_all(WHOLE, jobs, engine, lambda done: show(done / len(jobs), f"{done} done"), kept)
    objective = jobs[0].settings.policy.objective
    made = files_of(reports, objective, facts_of(jobs), origin, sweep=sweep)
    write_files(out, made)
    if as_json:
        click.echo(made.json_text, nl=False)
    else:
        console = Console()
        console.print(comparison_table([row for row in made.rows if not row.variant], reports, made.target_ratio))
        if sweep:
            console.print(sweep_table(made.best, objective))
        for trace, headline in made.headlines.items():
            console.print(Text(f"{trace}: {headline}" if len(made.headlines) > 1 else headline))
        if kept.reused:
            click.echo(
                f"{kept.reused} of {len(jobs)} runs were finished before and are reused (--fresh does them anew)"
            )
        click.echo(f"report: {out / 'report.html'}   figures: {out / 'compare.json'}")
        click.echo(f"pictures: {', '.join(str(out / name) for name in made.pictures)}")


@click.command()
@click.option("--trace", "paths", type=_FILE, multiple=True, default=[Path("generated")], metavar="FILE",
              help="Request trace or load series to tune on; repeatable; generated load if not given.")  # fmt: skip
@click.option("--policy", default="foresail", show_default=True, metavar="NAME", help="Whose settings are tuned.")
@click.option("--trials", type=click.IntRange(2, 100_000), default=96, show_default=True, metavar="N",
              help="Settings to try, the present ones included.")  # fmt: skip
@click.option("--seeds", type=click.IntRange(2, 1000), default=3, show_default=True, metavar="K",
              help="Runs of each trial with other seeds, from --seed on: what differs by less than they do is noise.",
              )  # fmt: skip
@click.option("--tune", "tuned", multiple=True, metavar="KEY=LOW:HIGH[:log]",
              help="Search this setting too, or in this range; KEY=A,B,C for a choice; repeatable.",
              )  # fmt: skip
@click.option("--space", type=_FILE, metavar="FILE", help="YAML file of such ranges, KEY: LOW:HIGH[:log] a line.")
@click.option("--only-named", is_flag=True, help="Search nothing but what --tune and --space name.")
@click.option("--search-share", type=float, callback=_share, default=0.6, show_default=True, metavar="R",
              help="Share of the trace that is searched, from its start; the rest is for validation.")  # fmt: skip
@click.option("--save", "saved", type=click.Choice(["gpu-hours", "usd"]), default="gpu-hours", show_default=True,
              help="What is to be saved while --attainment is kept.")  # fmt: skip
@click.option("--margin-ratio", type=click.FloatRange(0, 1, max_open=True), default=0.2, show_default=True, metavar="R",
              help="Share of the allowed misses that the search leaves unused.")  # fmt: skip
@click.option("--budget-gpu-hours", type=float, callback=_positive(), metavar="H",
              help="Look for the best attainment for so many GPU hours over the whole trace.")  # fmt: skip
@click.option("--budget-usd", type=float, callback=_positive(), metavar="USD", help="The same in US dollars.")
@click.option("--batch", type=click.IntRange(1, 1024), default=8, show_default=True, metavar="N",
              help="Trials asked for at a time; more keep more workers busy and learn less from each other.",
              )  # fmt: skip
@click.option("--out", type=_FILE, required=True, metavar="DIR",
              help="Folder for front.json, tune.html, the tuned settings and their diff.")  # fmt: skip
@_with(*_ENGINE_OPTIONS, *_TRACE_OPTIONS, *_RUN_OPTIONS, _SEED)
@_JSON
def tune(paths: tuple[Path, ...], policy: str, out: Path, as_json: bool, **options: Any) -> None:
    """Search settings that would have done better on recorded load, and validate them on a later part of it.

    Finished runs are kept in DIR/runs: the same command goes on where it was interrupted, or with more --trials.
    """
    from rich.console import Console

    from simulations.tuning.command import FRONT, PAGE, plan_of, run_plan
    from simulations.tuning.tables import as_json as everything
    from simulations.tuning.tables import shown

    found, file = run_plan(plan_of(paths, policy, options), out, options)
    if as_json:
        click.echo(json.dumps(everything(found, file), indent=2, allow_nan=False))
        return
    Console().print(shown(found, file))
    if found.reused_runs:
        click.echo(f"{found.reused_runs} runs were finished before and are reused (--fresh does them anew)")
    settings = "" if file is None else f"   settings: {out / file.name}"
    click.echo(f"page: {out / PAGE}   figures: {out / FRONT}{settings}")
