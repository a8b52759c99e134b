"""What can be done with traces on the command line: ``trace make``, ``trace show`` and ``scenarios``."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from simulations.trace import Trace

_F = TypeVar("_F", bound=Callable[..., Any])
_FILE = click.Path(path_type=Path)

# What a trace is made of, in the order of the help page.
_SOURCE_OPTIONS = (
    click.option("--scenario", type=_FILE, metavar="NAME|FILE",
                 help="Begin with the load of a scenario, and its steps."),
    click.option("--step", "steps", multiple=True, metavar="SPEC",
                 help="Change it, in order: scale:K, warp:K, slice@S:length=L, shift:S, repeat:N, concat:FILE, "
                      "splice@S:FILE, merge:FILE, crowd@S:peak=K,ramp=R,length=L, outage@S:length=L,retry=SHARE; "
                      "repeatable."),
    click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, metavar="N",
                 help="Equal seeds give equal requests."),
    click.option("--trace-model", "model", metavar="NAME",
                 help="Only requests for this model, load of this column, or this client."),
    click.option("--token-shape", default="chat", show_default=True, metavar="SHAPE",
                 help="Request lengths drawn for rates: a name such as chat, fixed:PROMPT/OUTPUT, "
                      "lognormal:PROMPT/OUTPUT, or a file of requests to take them from."),
    click.option("--arrivals", default="poisson", show_default=True, metavar="NAME",
                 help="How requests drawn from a load series arrive: poisson or gamma (bursty)."),
    click.option("--arrival-cv", type=click.FloatRange(0.05, 30), default=3.0, show_default=True, metavar="CV",
                 help="Burstiness of gamma arrivals."),
    click.option("--json", "as_json", is_flag=True, help="Print JSON for machines."),
)  # fmt: skip


def _with_sources(command: _F) -> _F:
    for option in reversed(_SOURCE_OPTIONS):
        command = option(command)
    return command


@click.group()
def trace() -> None:
    """Make a trace from others, or show what is in one."""


@trace.command()
@click.option("--from", "paths", type=_FILE, multiple=True, metavar="FILE",
              help="Trace, load series or client rates to begin with; several follow each other.")  # fmt: skip
@click.option(
    "--out", type=_FILE, required=True, metavar="FILE", help="Parquet file to write; replaced if it is there."
)
@_with_sources
def make(paths: tuple[Path, ...], out: Path, as_json: bool, **options: Any) -> None:
    """Make a request trace: from files or a scenario, changed step by step."""
    from simulations.progress import progress_bar
    from simulations.trace_writing import write_trace

    made = _composed(paths, options)
    with progress_bar(f"writing {out.name}") as show_share:
        requests = write_trace(made, out, show_share)
    if as_json:
        click.echo(json.dumps({"trace": made.describe(), "out": str(out), "requests": requests}, indent=2))
    else:
        click.echo(f"{out}: {requests:,} requests\n{made.describe()}")


@trace.command()
@click.argument("paths", type=_FILE, nargs=-1, metavar="[FILE]...")
@click.option("--plot", type=_FILE, metavar="FILE", help="Draw the rate over time there, as PNG or SVG.")
@_with_sources
def show(paths: tuple[Path, ...], plot: Path | None, as_json: bool, **options: Any) -> None:
    """Show what somebody should know about a trace before replaying it."""
    from rich.console import Console

    from simulations.output_places import check_file
    from simulations.progress import progress_bar
    from simulations.trace_facts import facts_of
    from simulations.trace_facts_table import facts_table
    from simulations.trace_views import length_of

    shown = _composed(paths, options)
    if plot is not None:
        _check_plot(plot)
        check_file(plot, "--plot")
    length_s = length_of(shown)
    with progress_bar(f"reading {shown.name}") as show_share:
        facts = facts_of(shown, lambda at_s: show_share(min(at_s / length_s, 1.0)) if length_s else None)
    if plot is not None:
        from simulations.trace_plot import write_plot

        write_plot(facts, plot)
    if as_json:
        click.echo(json.dumps(facts.as_json(), indent=2, allow_nan=False))
    else:
        Console().print(facts_table(facts))


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON for machines.")
def scenarios(as_json: bool) -> None:
    """List the scenarios that come with Foresail, for --scenario NAME."""
    from rich.console import Console
    from rich.table import Table

    from simulations.scenario import read_scenario, shipped_scenarios

    lines = {name: read_scenario(Path(name), shipped=True).description for name in shipped_scenarios()}
    if as_json:
        click.echo(json.dumps([{"name": name, "description": line} for name, line in lines.items()], indent=2))
        return
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    for name, line in lines.items():
        table.add_row(name, line)
    Console().print(table)


def _composed(paths: Sequence[Path], options: Mapping[str, Any]) -> Trace:
    """Return the trace that the options ask for.

    Raises:
        BadInput: If there is nothing to begin with or two things, or a file, a scenario or a step cannot be used.
    """
    from controller.errors import BadInput
    from simulations.scenario import read_scenario
    from simulations.trace_files import open_trace
    from simulations.trace_steps import composed
    from simulations.trace_views import sliced

    names = ("seed", "model", "token_shape", "arrivals", "arrival_cv")

    def opened(path: str | Path) -> Trace:
        return open_trace(path, **{name: options[name] for name in names})

    scenario = read_scenario(options["scenario"])
    if paths:
        steps = (*(f"concat:{path}" for path in paths[1:]), *scenario.steps, *options["steps"])
        return composed(opened(paths[0]), steps, options["seed"], opened)
    if scenario.workload is None:
        remedy = "name a file, or a --scenario that brings its own load"
        raise BadInput("there is no trace to begin with", "trace", remedy)
    load = scenario.workload.opened(options["scenario"].stem, options["seed"])
    part = sliced(composed(load, scenario.steps, options["seed"], opened), scenario.start_s or 0.0, scenario.duration_s)
    return composed(part, options["steps"], options["seed"], opened)


def _check_plot(path: Path) -> None:
    from controller.errors import BadInput

    if path.suffix.lower() not in (".png", ".svg"):
        raise BadInput(f"{path.suffix or 'no ending'!r} is no kind of picture", f"--plot {path}", "name a .png or .svg")
