"""The command ``foresail bench healing``: every failure in seeded worlds, against two rivals, and its targets."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

import click

from controller.errors import BadInput
from simulations.healing.rivals import FORESAIL, OTHERS, RIVALS

MOST_HOURS = 1e6
"""Longest run at saturation: 780 worlds."""
_FILES = ("healing.json", "healing.png", "healing.txt")


@click.command()
@click.option("--faults", default="all", show_default=True, metavar="A,B",
              help="Which failures: F1, F8, F2-errors ... or fault-free kinds such as saturated; or all.")  # fmt: skip
@click.option("--worlds", type=click.IntRange(1, 10_000), default=20, show_default=True, metavar="N",
              help="Worlds of each failure, from the seed on; of each fault-free kind a quarter more.")  # fmt: skip
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, metavar="N",
              help="Of the first world of each kind.")  # fmt: skip
@click.option("--jobs", type=click.IntRange(1, 256), default=lambda: min(2, os.cpu_count() or 1), metavar="N",
              help="Processes that play.  [default: 2]")  # fmt: skip
@click.option("--rivals", default=",".join(RIVALS), show_default=True, metavar="A,B",
              help=f"Who plays the same worlds: {', '.join(OTHERS)}; none for none.")  # fmt: skip
@click.option("--replica-hours", type=click.FloatRange(0, MOST_HOURS), default=10_000.0, show_default=True,
              metavar="H", help="Length of the long run at saturation; 0 leaves it out.")  # fmt: skip
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), metavar="DIR",
              help="Write every world as JSON, the tables as text, and a picture there.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print JSON for machines.")
def healing(
    faults: str, worlds: int, seed: int, jobs: int, rivals: str, replica_hours: float, out: Path | None, as_json: bool
) -> None:
    """Play every failure of the catalogue that metrics can show in seeded worlds, and worlds in which nothing is wrong.

    Told per failure: whether it was noticed, called by its name, put right, made worse; how long that took, and how
    many requests it cost. The same worlds are played by rivals: `kubelet`, liveness alone, and `naive`, which restarts
    what has requests running and makes no token.
    """
    from rich.console import Console

    from simulations.healing.bench import amiss, kinds_of, play, tasks_of
    from simulations.healing.summary import rows, targets
    from simulations.healing.tables import outcome
    from simulations.output_places import check_folder
    from simulations.progress import progress_bar

    if math.isnan(replica_hours):
        raise BadInput("no number of hours", "--replica-hours nan", f"give 0 to {MOST_HOURS:,.0f}")
    others = _rivals(rivals)
    tasks = tasks_of(kinds_of(faults), worlds, seed, others, replica_hours)
    if not tasks:
        raise BadInput("nothing is to be played", "--replica-hours 0", "name a failure, or give hours")
    if out is not None:
        check_folder(out, "--out", _FILES)
    with progress_bar("fault benchmark") as show:
        runs = play(tasks, jobs, show)
    summed = rows(runs)
    aims = [target for policy in (FORESAIL, *others) for target in targets(runs, policy)]
    said = outcome(summed, aims, amiss(runs))
    if out is not None:
        _write(out, runs, summed, aims, said)
    if as_json:
        click.echo(json.dumps(_as_json(summed, aims), indent=2, allow_nan=False))
    else:
        Console().print(said)


def _rivals(text: str) -> tuple[str, ...]:
    names = () if text in ("", "none") else tuple(dict.fromkeys(text.split(",")))
    for name in names:
        if name not in OTHERS:
            raise BadInput(f"no rival is called {name!r}", "--rivals", f"known: {', '.join(OTHERS)}, none")
    return names


def _write(out: Path, runs: Any, summed: Any, aims: Any, said: Any) -> None:
    from rich.console import Console

    from simulations.healing.pictures import times_picture

    out.mkdir(parents=True, exist_ok=True)
    told = {**_as_json(summed, aims), "worlds": [run.as_json() for run in runs]}
    (out / "healing.json").write_text(json.dumps(told, indent=1, allow_nan=False) + "\n")
    (out / "healing.png").write_bytes(times_picture(runs))
    with (out / "healing.txt").open("w") as file:
        Console(file=file, width=120).print(said)


def _as_json(summed: Any, aims: Any) -> dict[str, Any]:
    from simulations.healing.telling import row_as_json, target_as_json

    return {"failures": [row_as_json(row) for row in summed], "targets": [target_as_json(aim) for aim in aims]}
