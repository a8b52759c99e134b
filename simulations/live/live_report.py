"""What came of a live run: what clients got, what it cost, what was done and why, and where to look further."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from policies.slo import ServiceObjective
from simulations.live.load_report import LoadSummary
from simulations.live.platform import PlatformEvent
from simulations.live.stack import LiveFiles
from simulations.live_state import ViewState
from simulations.live_view import clock
from simulations.report import write_whole

MOST_ACTIONS = 12
_EVENTS = ("ready", "failed", "draining", "gone", "fault", "drain deadline", "rolled out", "rolled back", "paused")


@dataclass(frozen=True, slots=True)
class LiveReport:
    """The outcome of one live run."""

    view: ViewState
    load: LoadSummary
    objective: ServiceObjective
    gpu_hours: float
    cost_usd: float
    wall_s: float
    peak_replicas: int
    acts: Counter[tuple[str, str]]
    events: Counter[str]
    notes: Sequence[tuple[float, str]]

    def as_json(self) -> dict[str, Any]:
        """Return it ready for ``json.dumps``; instants are seconds after the beginning."""
        since = self.view.begins_at
        return {
            **self.load.as_json(),
            "gpu_hours": round(self.gpu_hours, 4),
            "cost_usd": round(self.cost_usd, 4),
            "live_wall_s": round(self.wall_s, 1),
            "peak_replicas": self.peak_replicas,
            "acts": {f"{act} {outcome}": count for (act, outcome), count in sorted(self.acts.items())},
            "platform_events": dict(sorted(self.events.items())),
            "decisions": [{"at_s": round(d.at - since, 1), "what": d.what, "why": d.why} for d in self.view.decisions],
            "incidents": [
                {
                    "at_s": round(i.at - since, 1),
                    "since_s": round(i.since_at - since, 1),
                    "over_s": None if i.over_at is None else round(i.over_at - since, 1),
                    "cause": i.cause,
                    "subject": i.subject,
                    "sentence": i.sentence,
                    "done": [{"at_s": round(at - since, 1), "what": words} for at, words in i.steps],
                }
                for i in self.view.incidents
            ],
            "notes": [{"at_s": round(at - since, 1), "what": words} for at, words in self.notes],
        }

    def write(self, files: LiveFiles) -> None:
        """Write it as JSON into the folder of the run."""
        write_whole({files.summary: json.dumps(self.as_json(), indent=2, allow_nan=False) + "\n"})


def counted(events: Sequence[PlatformEvent]) -> Counter[str]:
    """Return how often what happened to replicas."""
    return Counter(event.what for event in events if event.what in _EVENTS)


def tell(console: Console, report: LiveReport, files: LiveFiles) -> None:
    """Print it."""
    load, objective = report.load, report.objective
    table = Table(title=f"Live run, {clock(report.wall_s)}", title_justify="left", show_header=False)
    table.add_column()
    table.add_column(justify="right")
    rows = (
        ("requests sent, completed", f"{load.requests:,}, {load.completed:,}"),
        ("errors that clients saw", ", ".join(f"{n} {kind}" for kind, n in load.errors.items()) or "none"),
        (
            f"within TTFT {objective.ttft_s:g} s and TPOT {objective.tpot_s:g} s",
            _shown(load.slo_attainment_ratio, ".2%"),
        ),
        ("TTFT p50, p95, p99", _seconds(load.ttft_p50_s, load.ttft_p95_s, load.ttft_p99_s)),
        ("TPOT p50, p95", _seconds(load.tpot_p50_s, load.tpot_p95_s)),
        ("GPU hours, cost", f"{report.gpu_hours:.3f}, {report.cost_usd:.2f} USD"),
        ("most replicas at a time", str(report.peak_replicas)),
        ("acts", ", ".join(f"{count} {act} {out}" for (act, out), count in sorted(report.acts.items())) or "none"),
    )
    for row in rows:
        table.add_row(*row)
    console.print(table)
    view, since = report.view, report.view.begins_at
    _list(console, "Decisions", [(d.at - since, f"{d.what}  {d.why}") for d in view.decisions])
    incidents = [
        (
            i.at - since,
            f"{i.cause} {i.subject}: {i.sentence}" + "".join(f"; {clock(at - since)} {w}" for at, w in i.course),
        )
        for i in view.incidents
    ]
    _list(console, "Incidents", incidents)
    _list(console, "Services", [(at - since, words) for at, words in report.notes])
    console.print(Text(f"logs      {files.logs}"), soft_wrap=True)
    console.print(Text(f"figures   {files.summary}"), soft_wrap=True)
    console.print(Text(f"decisions foresail explain --audit {files.audit}"), soft_wrap=True)


def _list(console: Console, title: str, lines: Sequence[tuple[float, str]]) -> None:
    if not lines:
        return
    left_out = len(lines) - MOST_ACTIONS
    console.print(Text(title, "bold"))
    if left_out > 0:
        console.print(Text(f"  ... {left_out} earlier ones", "dim"))
    for at_s, words in lines[-MOST_ACTIONS:]:
        console.print(Text(f"  {clock(at_s)}  {words}"), soft_wrap=True)


def _seconds(*values: float) -> str:
    return ", ".join(_shown(value, ".3f") for value in values) + " s"


def _shown(value: float, form: str) -> str:
    return format(value, form) if math.isfinite(value) else "-"
