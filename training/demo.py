"""What does ``foresail demo`` do, step by step? World, forecaster, rivals, live view, table, files.

It lives here because it trains; the world, the replay and the view are in ``simulations``.
"""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import click

from controller.adapters.system_clock import SystemClock

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rich.console import Console

    from simulations.demo import DemoRun, DemoSettings
    from simulations.demo_files import DemoFiles
    from training.demo_forecaster import DemoForecaster

WATCHED_S = 60.0
"""Seconds over which the day is shown on a terminal."""


@click.command()
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("foresail-runs/demo"),
    show_default=True,
    metavar="DIR",
    help="Folder for the model store, the audit log and a picture; an earlier demo's are replaced.",
)
@click.option(
    "--seed",
    type=click.IntRange(0, 2**32 - 1),
    default=7,
    show_default=True,
    metavar="N",
    help="Equal seeds give equal days.",
)
@click.option("--fast", is_flag=True, help="Do not slow the replay down for somebody to watch.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON for machines, and nothing else.")
def demo(out: Path, seed: int, fast: bool, as_json: bool) -> None:
    """Watch the whole closed loop on a simulated fleet, faults included.

    A load forecaster is trained on a generated fortnight. Then the day after it is replayed, an hour of simulated time
    in about a minute, with a burst, a crash and a hang; and once more under two rivals, to compare.
    """  # fmt: skip
    from simulations.demo import DemoSettings

    run_demo(DemoSettings(seed=seed), out, watched_s=0.0 if fast else WATCHED_S, as_json=as_json)


def run_demo(settings: DemoSettings, out: Path, watched_s: float, as_json: bool) -> None:
    """Do all of it.

    Args:
        settings: The world.
        out: Folder for files, made where there is none.
        watched_s: How long the replay takes at least on a terminal, in seconds.
        as_json: Whether machines read standard output.

    Raises:
        BadInput: If ``out`` cannot be written.
    """
    from rich.console import Console

    from simulations.demo_closing import say, tell
    from simulations.demo_files import DemoFiles
    from simulations.demo_report import as_json as outcome
    from simulations.demo_rivals import RivalsBeside
    from simulations.live_screen import only_ascii
    from simulations.progress import progress_bar
    from simulations.report import write_whole

    clock = SystemClock()
    began_s = clock.elapsed()
    files = DemoFiles.prepared(out)
    console = Console(quiet=True, force_terminal=False) if as_json else Console()
    say(
        console, "A simulated fleet lives through a day with a burst, a crash and a hang: one to three minutes.", "bold"
    )
    with RivalsBeside(settings) as rivals:
        forecaster, run, audit_ids = _lived_through(settings, files, console, watched_s, clock)
        with progress_bar("the same day under HPA and a clairvoyant", 0.0) as show:
            others = rivals.wait(show)
    from simulations.demo_plot import write_plot  # matplotlib: a second

    objective = run.result.case.policy.objective
    write_plot(files.picture, run, [(o.scorecard.policy, o.timeline, o.curves) for o in others], objective)
    cards = [run.result.scorecard, *(other.scorecard for other in others)]
    wall_s = clock.elapsed() - began_s
    left = {"audit": files.audit, "model_store": files.registry.store, "picture": files.picture}
    summary = {
        "seed": settings.seed,
        "wall_s": wall_s,
        "forecaster": forecaster.as_json(),
        **outcome(run, cards),
        "files": {name: str(where) for name, where in left.items()},
    }
    text = json.dumps(summary, indent=2, allow_nan=False)
    write_whole({files.summary: text + "\n"})
    if as_json:
        click.echo(text)
        return
    tell(console, only_ascii(console, os.environ), run, cards, files, audit_ids)
    say(console, f"Done in {wall_s:.0f} s. Decisions: {run.result.scorecard.decisions_digest}", "dim")


def _lived_through(
    settings: DemoSettings, files: DemoFiles, console: Console, watched_s: float, clock: SystemClock
) -> tuple[DemoForecaster, DemoRun, Mapping[float, str]]:
    """Make the world, train the forecaster, replay the day before the audience.

    Returns:
        The forecaster, the day, and the id in the audit log of each tick by its instant.
    """
    from simulations.demo import demo_case, demo_world, first_view, replay_day
    from simulations.demo_closing import say
    from simulations.job import forecaster_chain
    from simulations.live_screen import LiveScreen, only_ascii
    from simulations.progress import progress_bar

    with progress_bar("generating load, load-testing a replica", 0.0) as show:
        world = demo_world(settings)
        show(0.3)
        case = demo_case(world)
        show(1.0)
    say(console, f"{settings.history_days} days of load and the day after: generated, not recorded.")
    from training.demo_forecaster import trained_forecaster

    with progress_bar("training the forecaster on the fortnight", 0.0) as show:
        forecaster = trained_forecaster(settings, world, files.registry, show)
    say(console, forecaster.described)
    chain = forecaster_chain(forecaster.folder, world.simulation)
    view = first_view(settings, world, forecaster.words)
    live = LiveScreen(console, only_ascii(console, os.environ), watched_s, clock.elapsed, threading.Event().wait)
    with files.open_audit() as audit, live:
        run = replay_day(case, view, chain, audit, live.show)
    if live.alive:
        console.print(live.drawn(run.view))
    return forecaster, run, audit.ids
