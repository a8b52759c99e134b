"""How does a comparison look on a page: one HTML file that needs nothing else, with plots drawn into it."""

from __future__ import annotations

import io
import math
import os
import tempfile
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from policies.slo import ServiceObjective
from simulations.comparison import SummaryRow
from simulations.job import RunReport
from simulations.scorecard import BIN_S, CURVE_LEVELS
from simulations.tables import FIGURES, RATIOS, number, ratio

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe and Ito's palette stays apart under colour blindness; line styles stay apart without any colour.
_COLOURS = {"foresail": "#0072B2", "hpa": "#D55E00", "static": "#777777", "clairvoyant": "#009E73"}
_DASHES = {"foresail": "-", "hpa": "--", "static": ":", "clairvoyant": "-."}
_MOST_POINTS = 2_000
"""Points per curve; more than a screen has columns only make the file larger."""

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1a1a1a; background: #fff; max-width: 1180px; margin: 2rem auto;
       padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.2rem; margin-top: 2.5rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; } .wide { overflow-x: auto; }
th, td { padding: 0.3rem 0.45rem; text-align: right; border-bottom: 1px solid #ddd; white-space: pre; }
th:first-child, td:first-child { text-align: left; }
th { font-weight: 600; border-bottom: 2px solid #888; vertical-align: bottom; } small { color: #555; }
.note { color: #555; } .bad { color: #a00000; } svg { max-width: 100%; height: auto; }
"""


def html_report(
    reports: Sequence[RunReport],
    rows: Sequence[SummaryRow],
    objective: ServiceObjective,
    settings: Mapping[str, Any],
) -> str:
    """Return the whole page: how it was run, then a table and plots per trace.

    Everything that comes from outside (names, paths, settings) is escaped.
    """
    parts = ["<h1>Autoscaling policies compared</h1>", _facts(settings, objective)]
    for trace in dict.fromkeys(row.trace for row in rows):
        runs = [report for report in reports if report.trace == trace]
        parts.append(_section(runs, [row for row in rows if row.trace == trace], objective))
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>Foresail: policies compared</title><style>{_STYLE}</style></head>\n<body>\n"
        + "\n".join(parts)
        + "\n</body></html>\n"
    )


def write_whole(texts: Mapping[Path, str]) -> None:
    """Write each text to its path: all of them or none, also when something fails midway.

    Raises:
        OSError: If one cannot be written.
    """
    drafts: dict[Path, Path] = {}
    try:
        for path, text in texts.items():
            descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
            drafts[path] = Path(name)
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                file.write(text)
            drafts[path].chmod(0o644)
        for path, draft in drafts.items():
            draft.replace(path)
    except BaseException:
        for draft in drafts.values():
            draft.unlink(missing_ok=True)
        raise


def _facts(settings: Mapping[str, Any], objective: ServiceObjective) -> str:
    target = (
        f"A request counts as served well within TTFT {objective.ttft_s:g} s and TPOT {objective.tpot_s:g} s; "
        f"{objective.attainment_ratio:.1%} of all requests are to be. Failed and dropped requests count as missed. "
        "GPU hours count loading and draining too, up to the end of the trace."
    )
    items = "".join(f"<li>{escape(str(name))}: {escape(str(value))}</li>" for name, value in settings.items())
    return f"<p>{target}</p>\n<ul class='note'>{items}</ul>"


def _section(runs: Sequence[RunReport], rows: Sequence[SummaryRow], objective: ServiceObjective) -> str:
    first = runs[0]
    made_up = " <strong>This trace is generated, not recorded.</strong>" if first.generated else ""
    several = rows[0].runs > 1
    seeds = f"Means over {rows[0].runs} seeds, least to most in small print; the plots show seed {first.seed}."
    broken = [
        f"<li>{escape(run.scorecard.policy)}: {escape(violation)}</li>"
        for run in runs
        for violation in run.scorecard.violations[:5]
    ]
    shown = [run for run in runs if run.seed == first.seed]
    return "\n".join(
        [
            f"<h2>{escape(first.trace)}</h2>",
            f"<p class='note'>{escape(first.described)}.{made_up} {seeds if several else ''}</p>",
            f"<div class='wide'>{_table(rows)}</div>",
            f"<p class='bad'>Invariants were violated:</p><ul class='bad'>{''.join(broken)}</ul>" if broken else "",
            trace_plots(shown, objective),
        ]
    )


def _table(rows: Sequence[SummaryRow]) -> str:
    headings = [title for title, _, _ in FIGURES]
    headings = ["policy", *headings[:2], *RATIOS, *headings[2:], "failed", "dropped", "peak\nrepl.", "ups /\ndowns"]
    head = "".join(f"<th>{escape(heading)}</th>" for heading in headings)
    body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in _cells(row))}</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _cells(row: SummaryRow) -> list[str]:
    """Return the cells of a policy's row as HTML."""
    figures = []
    for _, name, write in FIGURES:
        spread = row.figures[name]
        cell = escape(write(spread.mean))
        if spread.least < spread.most:
            cell += f"\n<small>{escape(write(spread.least))}\u2013{escape(write(spread.most))}</small>"
        figures.append(cell)
    ratios = [escape(ratio(row.gpu_hours_to_clairvoyant)), escape(ratio(row.gpu_hours_to_hpa))]
    means = {name: spread.mean for name, spread in row.figures.items()}
    last = [number(means["failed"], ".4g"), number(means["dropped_in_flight"], ".4g")]
    last.append(number(row.figures["peak_replicas"].most, ".0f"))
    last.append(f"{number(means['scale_ups'], '.3g')} / {number(means['scale_downs'], '.3g')}")
    return [escape(row.policy), *figures[:2], *ratios, *figures[2:], *last]


def trace_plots(runs: Sequence[RunReport], objective: ServiceObjective) -> str:
    """Return one SVG with four plots of the runs of one trace, one line per policy."""
    # Imported here: matplotlib takes a second, and only this function needs it.
    import matplotlib as mpl
    from matplotlib.figure import Figure

    style: Any = {"svg.hashsalt": runs[0].trace, "svg.fonttype": "none", "font.size": 9.0, "font.family": "sans-serif"}
    with mpl.rc_context(style):
        figure = Figure(figsize=(12.0, 8.0), layout="constrained")
        (load, replicas), (over_time, quantiles) = figure.subplots(2, 2)
        _plot_load(load, runs)
        _plot_replicas(replicas, runs)
        _plot_ttft_over_time(over_time, runs, objective)
        _plot_ttft_quantiles(quantiles, runs, objective)
        handles, labels = replicas.get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper center", ncols=len(runs), frameon=False)
        out = io.StringIO()
        figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
    svg = out.getvalue()
    return svg[svg.index("<svg") :]


def _plot_load(axes: Axes, runs: Sequence[RunReport]) -> None:
    load = runs[0].curves.requests_per_s
    minutes = _minutes(len(load) + 1)
    axes.fill_between(minutes, (*load, load[-1]), step="post", color="#cccccc", label="load")
    for run in runs:
        at = [point.at_s / 60.0 for point in run.timeline]
        carried = [
            sum(count * run.replica_requests_per_s[pool] for pool, count in point.ready_in) for point in run.timeline
        ]
        axes.plot(*_thinned(at, carried), **_line(run), drawstyle="steps-post")
    _dress(axes, "Load (grey) and load-tested capacity that is ready", "requests/s")
    axes.set_xlabel("minutes")


def _plot_replicas(axes: Axes, runs: Sequence[RunReport]) -> None:
    for run in runs:
        at = [point.at_s / 60.0 for point in run.timeline]
        ready = [float(point.ready) for point in run.timeline]
        desired = [float(point.desired) for point in run.timeline]
        axes.plot(*_thinned(at, ready), **_line(run), drawstyle="steps-post", label=run.scorecard.policy)
        thin = {**_line(run), "linestyle": "-", "linewidth": 0.6, "alpha": 0.5}
        axes.plot(*_thinned(at, desired), **thin, drawstyle="steps-post")
    _dress(axes, "Replicas: ready (thick) and asked for (thin)", "replicas")
    axes.set_xlabel("minutes")


def _plot_ttft_over_time(axes: Axes, runs: Sequence[RunReport], objective: ServiceObjective) -> None:
    for run in runs:
        p95 = list(run.curves.ttft_p95_s)
        axes.plot(*_thinned(_minutes(len(p95)), p95), **_line(run))
    _mark_objective(axes, objective.ttft_s)
    _dress(axes, "TTFT P95 per minute of arrival", "seconds")
    axes.set_xlabel("minutes")


def _plot_ttft_quantiles(axes: Axes, runs: Sequence[RunReport], objective: ServiceObjective) -> None:
    # Spaced by nines: what happens to the last percent is what an objective is about.
    places = [-math.log10(1.0 - level) for level in CURVE_LEVELS]
    for run in runs:
        axes.plot(places, run.curves.ttft_s, **_line(run))
    ticks = (0.5, 0.9, 0.95, 0.99, 0.999)
    axes.set_xticks([-math.log10(1.0 - level) for level in ticks], [f"P{level * 100:g}" for level in ticks])
    _mark_objective(axes, objective.ttft_s)
    _dress(axes, "TTFT by percentile of requests", "seconds")


def _mark_objective(axes: Axes, ttft_s: float) -> None:
    axes.axhline(ttft_s, color="black", linewidth=0.8)
    axes.annotate("objective", (0.99, ttft_s), xycoords=("axes fraction", "data"), ha="right", va="bottom")
    axes.set_yscale("log")  # a tenth of a second and a minute on one page
    for formatted in (axes.yaxis.set_major_formatter, axes.yaxis.set_minor_formatter):
        formatted(lambda value, _place: f"{value:g}" if f"{value:.0e}"[0] in "125" else "")


def _dress(axes: Axes, title: str, unit: str) -> None:
    axes.set_title(title, loc="left", fontsize=10)
    axes.set_ylabel(unit)
    axes.grid(visible=True, color="#eeeeee")
    axes.spines[["top", "right"]].set_visible(False)
    axes.margins(x=0.01)
    if axes.get_yscale() == "linear":
        axes.set_ylim(bottom=0.0)


def _line(run: RunReport) -> dict[str, Any]:
    policy = run.scorecard.policy
    return {"color": _COLOURS.get(policy), "linestyle": _DASHES.get(policy, "-"), "linewidth": 1.6}


def _minutes(steps: int) -> list[float]:
    return [step * BIN_S / 60.0 for step in range(steps)]


def _thinned(x: Sequence[float], y: Sequence[float]) -> tuple[list[float], list[float]]:
    every = max(1, math.ceil(len(x) / _MOST_POINTS))
    return list(x[::every]), list(y[::every])
