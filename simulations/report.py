"""How does a comparison look on a page: one HTML file that needs nothing else, the plots' script included?

The page makes no request: a content security policy forbids it all, and runs the two scripts that it carries by their
digests alone. What comes from outside (names, paths, settings) is escaped in text, in attributes and in scripts' data.
"""

from __future__ import annotations

import json
import os
import tempfile
from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any

from policies.slo import ServiceObjective
from simulations.comparison import SummaryRow
from simulations.job import RunReport
from simulations.ranking import ranked
from simulations.report_curves import Timeline, first_seen, most_points, shown_runs, timeline
from simulations.report_figures import PARETO_SIZE, Figure, latency_figure, pareto_figure, timeline_figure
from simulations.report_glossary import glossary
from simulations.report_looks import Look, looks
from simulations.report_origin import origin
from simulations.report_pareto import pareto_plot
from simulations.report_table import OPERATION, RESULT, table
from simulations.report_tiles import tiles
from simulations.report_words import TraceWords, trace_words


@dataclass(frozen=True, slots=True)
class Comparison:
    """All that a report tells.

    Attributes:
        settings: How it was run, as ``comparison.facts_of`` says it.
        provenance: Where it comes from, as ``provenance.Provenance.as_json`` says it.
        pictures: Names of the pictures beside the page, with what they show.
        timelines: Curves of each trace, made once for page and pictures (``timelines_of``).
    """

    reports: Sequence[RunReport]
    rows: Sequence[SummaryRow]
    objective: ServiceObjective
    settings: Mapping[str, Any]
    provenance: Mapping[str, Any]
    pictures: Mapping[str, str]
    timelines: Mapping[str, Timeline] = field(default_factory=dict)

    @property
    def traces(self) -> list[str]:
        """Names of the traces, in order."""
        return list(dict.fromkeys(row.trace for row in self.rows))

    def of(self, trace: str) -> tuple[list[SummaryRow], list[RunReport]]:
        """Return the rows of a trace, as they rank, and its runs."""
        rows = ranked([row for row in self.rows if row.trace == trace], self.objective.attainment_ratio)
        return rows, [report for report in self.reports if report.trace == trace]

    @property
    def looks(self) -> dict[str, Look]:
        """How each policy is drawn."""
        return looks(sorted({row.policy for row in self.rows}))


def timelines_of(said: Comparison) -> dict[str, Timeline]:
    """Return the curves of each trace, thin enough for all of them to be on one page."""
    shown = {trace: shown_runs(*said.of(trace)) for trace in said.traces}
    most = most_points(sum(map(len, shown.values())))
    return {trace: timeline(runs, most) for trace, runs in shown.items()}


def html_report(said: Comparison) -> str:
    """Return the whole page: what it comes down to, then plots and tables per trace, then how to get it again."""
    figures: dict[str, Figure] = {}
    sections = []
    for number, trace in enumerate(said.traces):
        section, drawn = _section(said, trace, number)
        sections.append(section)
        figures |= drawn
    body = [
        "<header><h1>Autoscaling policies compared</h1>",
        _objective(said.objective),
        "</header><main>",
        *(_summary(said, trace) for trace in said.traces),
        *sections,
        glossary(),
        origin(said.reports, said.settings, said.provenance, said.pictures),
        "</main>",
    ]
    return whole_page("Foresail: policies compared", "\n".join(body), figures)


def write_whole(contents: Mapping[Path, str | bytes]) -> None:
    """Write each content to its path: all of them or none, also when something fails midway.

    Raises:
        OSError: If one cannot be written.
    """
    drafts: dict[Path, Path] = {}
    try:
        for path, content in contents.items():
            descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
            drafts[path] = Path(name)
            with os.fdopen(descriptor, "wb") as file:
                file.write(content.encode() if isinstance(content, str) else content)
            drafts[path].chmod(0o644)
        for path, draft in drafts.items():
            draft.replace(path)
    except BaseException:
        for draft in drafts.values():
            draft.unlink(missing_ok=True)
        raise


def in_script(value: object) -> str:
    r"""Return JSON that cannot end the script element it stands in, nor begin a comment in it.

    >>> print(in_script("</script>"))
    "\u003c/script\u003e"
    """
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def whole_page(title: str, body: str, figures: Mapping[str, Figure], style: str = "") -> str:
    """Return the file: ``figures`` are drawn in the elements of class ``plot`` with their ids.

    What comes from outside must be escaped in ``body``; ``style`` is added to that of all pages.
    """
    # Imported here: only this function needs the 5 MB.
    from plotly.offline import get_plotlyjs

    own = files("simulations")
    style = own.joinpath("report_page.css").read_text(encoding="utf-8") + style
    scripts = [get_plotlyjs(), own.joinpath("report_page.js").read_text(encoding="utf-8")]
    allowed = " ".join(f"'sha256-{b64encode(sha256(script.encode()).digest()).decode()}'" for script in scripts)
    policy = f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data: blob:"
    body = body.encode("utf-8", "replace").decode()  # a file's name need not be text
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{title}</title>\n<style>\n{style}</style></head>\n<body>\n{body}\n"
        f'<script type="application/json" id="figures">{in_script(figures)}</script>\n'
        + "\n".join(f"<script>{script}</script>" for script in scripts)
        + "\n</body></html>\n"
    )


def _objective(objective: ServiceObjective) -> str:
    return (
        f"<p class='note'>A request is in time within TTFT {objective.ttft_s:g} s and TPOT {objective.tpot_s:g} s; "
        f"{objective.attainment_ratio * 100:g}% of all requests are to be. Failed and dropped requests count as "
        "missed. GPU hours and money count loading and draining too, up to the end of the trace.</p>"
    )


def _summary(said: Comparison, trace: str) -> str:
    rows, runs = said.of(trace)
    words: TraceWords = trace_words(rows, runs, said.objective)
    made_up = " <strong>This load is generated, not recorded.</strong>" if runs[0].generated else ""
    items = "".join(f"<li>{escape(each)}</li>" for each in words.sentences)
    title = f"<h3>{escape(trace)}</h3>" if len(said.traces) > 1 else ""
    return (
        f"<section class='summary' aria-label='Summary of {escape(trace)}'>{title}"
        f"<p class='headline'>{escape(words.headline)}{made_up}</p>{tiles(rows, said.objective)}"
        f"<ul>{items}</ul></section>"
    )


def _section(said: Comparison, trace: str, number: int) -> tuple[str, dict[str, Figure]]:
    """Return what is said of one trace, and the figures in it by their element's id."""
    rows, runs = said.of(trace)
    target = said.objective.attainment_ratio
    shown = shown_runs(rows, runs)
    drawn = said.timelines[trace]
    policies = [run.scorecard.policy for run in shown]
    visible = first_seen(policies)
    plot = pareto_plot(rows, target, PARETO_SIZE)
    figures = {
        f"timeline-{number}": timeline_figure(drawn, said.looks, said.objective, visible),
        f"latency-{number}": latency_figure(shown, [r.name for r in drawn.runs], said.looks, said.objective, visible),
    }
    parts = [f"<section><h2>{escape(trace)}</h2>", _described(rows, runs), _violations(runs)]
    if plot is not None:
        figures[f"pareto-{number}"] = pareto_figure(plot, said.looks, target)
        parts += [
            "<h3>Cost against attainment</h3>",
            _figure(f"pareto-{number}", "pareto", number, _pareto_words(rows)),
        ]
    parts += [
        table(rows, RESULT, "What each policy gives and costs; in small print the 95% interval of the mean", target),
        table(rows, OPERATION, "How it went about it; replicas started and stopped, and time to recover", target),
        "<h3>Over time</h3>",
        _chips(policies, said.looks, visible, number),
        _figure(f"timeline-{number}", "timeline", number, _timeline_words(shown, rows)),
        "<h3>Time to first token</h3>",
        _figure(f"latency-{number}", "latency", number, "TTFT by percentile of all requests, spaced by nines."),
        "</section>",
    ]
    return "\n".join(part for part in parts if part), figures


def _figure(name: str, kind: str, number: int, words: str) -> str:
    return (
        f"<figure><div class='plot {kind}' id='{name}' data-trace='{number}' role='img' "
        f"aria-label='{escape(words)}'></div><figcaption>{escape(words)}</figcaption></figure>"
    )


def _chips(policies: Sequence[str], drawn: Mapping[str, Look], visible: set[str], number: int) -> str:
    chips = [
        f"<button type='button' data-policy='{escape(policy)}' aria-pressed='{str(policy in visible).lower()}'>"
        f"{_sample(drawn[policy])}{escape(policy)}</button>"
        for policy in policies
    ]
    chips += [f"<button type='button' data-all='{state}'>{words}</button>" for state, words in _ALL]
    return f"<div class='chips' data-trace='{number}' role='group' aria-label='Policies shown'>{''.join(chips)}</div>"


_ALL = (("on", "all"), ("off", "none"))


def _sample(look: Look) -> str:
    dash = " ".join(f"{length * 2:g}" for length in look.dash) or "none"
    return (
        "<svg width='30' height='8' aria-hidden='true'><line x1='0' y1='4' x2='30' y2='4' "
        f"stroke='{look.colour}' stroke-width='{look.width * 1.3:g}' stroke-dasharray='{dash}'/></svg>"
    )


def _described(rows: Sequence[SummaryRow], runs: Sequence[RunReport]) -> str:
    made_up = " <strong>This trace is generated, not recorded.</strong>" if runs[0].generated else ""
    gone = runs[0].left_out_requests
    left_out = f" {gone:,} requests that failed in the recording are left out." if gone else ""
    most = max(row.runs for row in rows)
    seeds = f"Means over {most} seeds; curves show the first." if most > 1 else "One run of each, so no interval."
    return f"<p class='note'>{escape(runs[0].described)}.{made_up}{left_out} {seeds}</p>"


def _violations(runs: Sequence[RunReport]) -> str:
    broken = [
        f"<li>{escape(run.scorecard.policy)}, seed {run.seed}: {escape(violation)}</li>"
        for run in runs
        for violation in run.scorecard.violations[:5]
    ]
    return f"<p class='bad'>Invariants were violated:</p><ul class='bad'>{''.join(broken)}</ul>" if broken else ""


def _pareto_words(rows: Sequence[SummaryRow]) -> str:
    front = [row for row in rows if row.on_front]
    front.sort(key=lambda row: row.figures["gpu_hours"].mean)
    names = ", ".join(row.name for row in front)
    return (
        "GPU hours against the share of requests in time, spaced by nines; up and left is better. The line joins those "
        f"that nobody beats on both counts: {names}. The clairvoyant bound knows the future and competes with nobody. "
        "Pale points are beaten; bars are 95% intervals. The figures are in the table below."
    )


def _timeline_words(shown: Sequence[RunReport], rows: Sequence[SummaryRow]) -> str:
    several = any(row.variant for row in rows)
    best = " Of a policy with several variants its best one is shown." if several else ""
    return (
        f"Demand with ready capacity, ready replicas, waiting requests, missed requests and TTFT of {len(shown)} "
        f"policies. Switch policies above; drag to zoom in, double-click to see all.{best}"
    )
