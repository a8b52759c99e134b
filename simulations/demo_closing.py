"""What is said when the demo's day is over: what happened, who did how well, where to look next."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console

from simulations.demo import DemoRun
from simulations.demo_files import DemoFiles
from simulations.demo_report import NOTES, score_table, told, verdict
from simulations.scorecard import Scorecard
from simulations.tables import percent


def tell(
    console: Console,
    ascii_only: bool,
    run: DemoRun,
    cards: Sequence[Scorecard],
    files: DemoFiles,
    audit_ids: Mapping[float, str],
) -> None:
    """Print all of it.

    Args:
        console: Where to.
        ascii_only: Whether it knows nothing but ASCII.
        run: Foresail's day.
        cards: Scorecards of all policies.
        files: What was left behind.
        audit_ids: Id in the audit log of each tick, by its instant.
    """
    say(console, "\nWhat happened", "bold")
    for line in told(run, audit_ids):
        console.print(line)
    band = percent(run.within_band_ratio)
    lead_s = run.view.lead_time_s
    say(console, f"{band} of the time the load came within the 0.1 to 0.9 band forecast {lead_s:.0f} s before.")
    objective = run.result.case.policy.objective
    say(console, f"\nThe day in figures (objective: TTFT {objective.ttft_s:g} s, TPOT {objective.tpot_s:g} s)", "bold")
    console.print(score_table(cards, objective, ascii_only))
    say(console, verdict(cards, objective))
    for note in NOTES:
        say(console, note, "dim")
    for card in cards:
        for violation in card.violations[:5]:
            say(console, f"VIOLATED by {card.policy}: {violation}", "bold red")
    say(console, "\nWhere to look next", "bold")
    for what, where in _next(run, files, audit_ids):
        console.print(f"  {what:<34}{where}", soft_wrap=True, highlight=False, markup=False)


def say(console: Console, words: str, style: str = "") -> None:
    """Print ``words`` as they are."""
    console.print(words, style=style, highlight=False, markup=False)


def _next(run: DemoRun, files: DemoFiles, audit_ids: Mapping[float, str]) -> list[tuple[str, str]]:
    foresail = _this_program()
    worth = next((audit_ids[i.at] for i in run.view.incidents if i.at in audit_ids), "last")
    return [
        ("one tick, with every reason", f"{foresail} explain {worth} --audit {files.audit}"),
        ("the newest decisions", f"{foresail} explain --audit {files.audit}"),
        ("the day as curves", str(files.picture)),
        ("the figures", str(files.summary)),
        ("the forecaster's runs (MLflow)", files.registry.store),
    ]


def _this_program() -> str:
    """Return how to call Foresail from here."""
    if shutil.which("foresail"):
        return "foresail"
    beside = Path(sys.executable).with_name("foresail")
    return os.path.relpath(beside) if beside.exists() else "python -m foresail"
