"""What can be asked of the simulator on the command line: ``simulate`` and ``compare``."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from simulations.peers.names import DESCRIBED

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
    click.option("--token-shape", default="chat", show_default=True, metavar="NAME",
                 help="Request lengths drawn for a load series."),
    click.option("--arrivals", default="poisson", show_default=True, metavar="NAME",
                 help="How requests drawn from a load series arrive: poisson or gamma (bursty)."),
    click.option("--arrival-cv", type=float, callback=_positive(), default=3.0, show_default=True, metavar="CV",
                 help="Burstiness of gamma arrivals."),
)  # fmt: skip

# What it is replayed against.
_RUN_OPTIONS = (
    click.option("--profile", "profiles", multiple=True, metavar="NAME",
                 help="Engine profile of the pool; repeat for several pools.  [default: llama-3.1-70b-a100-tp4]"),
    click.option("--lead-time-s", type=float, callback=_positive(_DAY_S, " (a day)"), default=120.0, show_default=True,
                 metavar="S",
                 help="Median time from asking for a replica to READY."),
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
    click.option("--scenario", type=_FILE, metavar="FILE", help="YAML file with faults and settings."),
    click.option("-c", "--config", type=_FILE, metavar="FILE", help="Settings file, as `foresail config` checks it."),
    click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE",
                 help="Lay a setting over the file, such as policy.scaling.burn_rate=4; repeatable. Also reaches the "
                      "simulated world (fleet.gateway_timeout_s=30) and rivals (hpa.target_ratio=0.8)."),
    click.option("--model-dir", type=_FILE, metavar="DIR", help="Folder of a trained model for Foresail to ask first."),
    click.option("--model", metavar="NAME[@ALIAS]", help="The same from the model registry; its champion if no alias."),
)  # fmt: skip

_SEED = click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, metavar="N",
                     help="Equal seeds give equal runs.")  # fmt: skip
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
@click.option("--trace", "path", type=_FILE, default=Path("generated"), metavar="FILE",
              help="Request trace or load series to replay; generated load if not given.")  # fmt: skip
@click.option("--policy", default="foresail", show_default=True, metavar="NAME",
              help="Who decides; listed below.")  # fmt: skip
@_with(*_TRACE_OPTIONS, *_RUN_OPTIONS, _SEED)
@click.option("--audit", type=_FILE, metavar="FILE", help="Record every decision there, for `foresail explain`.")
@_JSON
def simulate(path: Path, policy: str, seed: int, audit: Path | None, as_json: bool, **options: Any) -> None:
    """Replay a trace with one policy and count what happened to every request."""
    from rich.console import Console

    from simulations.options import audit_log, jobs_of
    from simulations.progress import progress_bar
    from simulations.tables import scorecard_table

    (job,) = jobs_of([path], [policy], [seed], options)
    with audit_log(audit) as log, progress_bar(f"{policy} on {path.name}") as show:
        report = job.run(log, lambda tick: show(tick.share))
    if as_json:
        click.echo(json.dumps(report.as_json(), indent=2, allow_nan=False))
    else:
        Console().print(scorecard_table(report, job.settings.policy.objective))


@click.command(epilog=_POLICIES)
@click.option("--trace", "paths", type=_FILE, multiple=True, default=[Path("generated")], metavar="FILE",
              help="Request trace or load series; repeatable; generated load if not given.")  # fmt: skip
@click.option(
    "--policies", default="all", show_default=True, metavar="A,B,C", help="Who decides, or all; listed below."
)
@click.option("--seeds", type=click.IntRange(min=1, max=1000), default=1, show_default=True, metavar="K",
              help="Repeat with K seeds, from --seed on.")  # fmt: skip
@click.option("--out", type=_FILE, required=True, metavar="DIR", help="Folder for compare.json and report.html.")
@click.option("--engine", type=click.Choice(["local"]), default="local", show_default=True, expose_value=False,
              help="Where the runs are done.")  # fmt: skip
@click.option("--workers", type=click.IntRange(min=1, max=256), default=2, show_default=True, metavar="N",
              help="Processes of the local engine.")  # fmt: skip
@_with(*_TRACE_OPTIONS, *_RUN_OPTIONS, _SEED)
@click.option(
    "--sweep",
    is_flag=True,
    help="Run each policy over its grid of settings too, and tell the cheapest that attains the objective.",
)
@_JSON
def compare(
    paths: tuple[Path, ...], policies: str, seeds: int, out: Path, workers: int, seed: int, sweep: bool, as_json: bool,
    **options: Any,
) -> None:  # fmt: skip
    """Replay traces with several policies and write a table, JSON and an HTML report with plots."""
    from rich.console import Console

    from simulations.comparison import as_json as everything
    from simulations.comparison import facts_of, run_all, summarised
    from simulations.options import jobs_of, policies_named
    from simulations.output_places import check_folder, refusing
    from simulations.progress import progress_bar
    from simulations.report import html_report, write_whole
    from simulations.sweep import as_json as swept_json
    from simulations.sweep import best_settings, sweep_table
    from simulations.tables import comparison_table

    jobs = jobs_of(paths, policies_named(policies), range(seed, seed + seeds), options, sweep=sweep)
    check_folder(out, "--out", ("report.html", "compare.json"))
    with progress_bar(f"{len(jobs)} runs") as show:
        reports = run_all(jobs, workers, lambda done: show(done / len(jobs), f"{done} done"))
    rows, facts, objective = summarised(reports), facts_of(jobs), jobs[0].settings.policy.objective
    best = best_settings(rows, objective.attainment_ratio) if sweep else []
    content = everything(reports, rows, facts) | ({"best": swept_json(best)} if sweep else {})
    figures = json.dumps(content, indent=2, allow_nan=False)
    as_given = [report for report in reports if not report.variant], [row for row in rows if not row.variant]
    page = html_report(*as_given, objective, facts)
    with refusing(f"--out {out}", "name a folder with room for it"):
        out.mkdir(parents=True, exist_ok=True)
        write_whole({out / "report.html": page, out / "compare.json": figures + "\n"})
    if as_json:
        click.echo(figures)
    else:
        Console().print(comparison_table(as_given[1], reports))
        if sweep:
            Console().print(sweep_table(best, objective))
        click.echo(f"report: {out / 'report.html'}   figures: {out / 'compare.json'}")
