"""Which files does a comparison leave, and what is in each of them?"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from policies.slo import ServiceObjective
from simulations.comparison import SummaryRow, as_json, summarised
from simulations.job import RunReport
from simulations.output_places import alone_in, refusing
from simulations.provenance import Provenance
from simulations.report import Comparison, html_report, timelines_of, write_whole
from simulations.report_pareto import pareto_plot
from simulations.report_pictures import PARETO, PARETO_SIZE, pareto_picture, picture_names, timeline_picture
from simulations.report_words import trace_words
from simulations.sweep import BestSetting, best_settings
from simulations.sweep import as_json as swept_json

PAGE, FIGURES = "report.html", "compare.json"


@dataclass(frozen=True, slots=True)
class ReportFiles:
    """The outcome of a comparison: rows and words for a terminal, and the files' contents by name."""

    reports: Sequence[RunReport]
    rows: Sequence[SummaryRow]
    target_ratio: float
    headlines: Mapping[str, str]
    json_text: str
    contents: Mapping[str, str | bytes]
    best: Sequence[BestSetting] = ()

    @property
    def pictures(self) -> list[str]:
        """Names of the pictures."""
        return [name for name in self.contents if name.endswith(".png")]


def file_names(traces: Sequence[str]) -> list[str]:
    """Return the names of all files that a comparison over ``traces`` leaves."""
    return [PAGE, FIGURES, PARETO, *picture_names(list(dict.fromkeys(traces))).values()]


def files_of(
    reports: Sequence[RunReport],
    objective: ServiceObjective,
    settings: dict[str, Any],
    origin: Provenance,
    *,
    sweep: bool = False,
) -> ReportFiles:
    """Return everything that there is to say about finished runs; after a ``sweep`` also each policy's best setting."""
    rows = summarised(reports)
    best = best_settings(rows, objective.attainment_ratio) if sweep else []
    names = picture_names(list(dict.fromkeys(row.trace for row in rows)))
    words = {PARETO: "cost against attainment", **{name: f"over time, {trace}" for trace, name in names.items()}}
    told = origin.as_json()
    said = Comparison(reports, rows, objective, settings, told, words)
    said = replace(said, timelines=timelines_of(said))
    headlines = {trace: trace_words(*said.of(trace), objective).headline for trace in said.traces}
    content = as_json(reports, rows, settings, {**told, "wall_s": sum(run.scorecard.wall_s for run in reports)})
    content["headlines"] = headlines
    if sweep:
        content["best"] = swept_json(best)
    text = json.dumps(content, indent=2, allow_nan=False) + "\n"
    contents: dict[str, str | bytes] = {PAGE: html_report(said), FIGURES: text, **_pictures(said, names)}
    return ReportFiles(reports, rows, objective.attainment_ratio, headlines, text, contents, best)


def write_files(folder: Path, made: ReportFiles) -> None:
    """Write all files to ``folder``, which is made if need be: all or none, and none of another command's between.

    Raises:
        BadInput: If they cannot be written.
    """
    with refusing(f"--out {folder}", "name a folder with room for it"):
        folder.mkdir(parents=True, exist_ok=True)
        with alone_in(folder):
            write_whole({folder / name: content for name, content in made.contents.items()})


def _pictures(said: Comparison, names: Mapping[str, str]) -> dict[str, bytes]:
    target = said.objective.attainment_ratio
    plots = {trace: pareto_plot(said.of(trace)[0], target, PARETO_SIZE) for trace in said.traces}
    drawn = {trace: plot for trace, plot in plots.items() if plot is not None}
    pictures = {PARETO: pareto_picture(drawn, said.looks, target)}
    for trace, name in names.items():
        pictures[name] = timeline_picture(trace, said.timelines[trace], said.looks, said.objective)
    return pictures
