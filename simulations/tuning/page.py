"""How does a finished search look on a page: trials, front, candidates on both parts of the trace, and the advice?"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from html import escape
from typing import Any

from simulations.provenance import Provenance
from simulations.report import whole_page
from simulations.report_origin import command_and_digests
from simulations.tables import percent
from simulations.tuning.advice import UNITS, KeepObjective
from simulations.tuning.outcome import Outcome
from simulations.tuning.search import Trial, front
from simulations.tuning.session import Tuned
from simulations.tuning.settings_file import SettingsFile
from simulations.tuning.space import Knob
from simulations.tuning.tables import changed

# Okabe and Ito's palette stays apart under colour blindness, on light and dark; symbols stay apart without any colour.
_GREY, _BLUE, _ORANGE, _GREEN, _RED = "rgba(128,128,128,0.6)", "#0072B2", "#E69F00", "#009E73", "#D55E00"
_TICKS = (0.5, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.998, 0.999, 0.9999)
_LEAST_MISSED_RATIO = 1e-4

_STYLE = """
.trials { height: 540px; }
td.why { white-space: normal; text-align: left; min-width: 22rem; }
ul.ranges { padding-left: 1.2rem; overflow-wrap: anywhere; }
"""


def tune_page(tuned: Tuned, file: SettingsFile | None, origin: Provenance) -> str:
    """Return the whole page; it needs nothing else. Everything that comes from outside is escaped."""
    advice = tuned.advice
    taken = "Keep the settings as they are" if advice.taken is None else f"Take trial {advice.taken.trial.number}"
    parts = [
        "<header><h1>Settings tuned on recorded load</h1>",
        f"<p class='note'>{escape(_how(tuned))}</p></header><main>",
        f"<section class='summary'><p class='headline'>{taken}: {escape(advice.why)}.</p>",
        "</section>" if file is None else f"<pre class='diff'>{escape(file.diff.rstrip())}</pre></section>",
        "<h2>Trials</h2>",
        f"<div class='plot trials' id='trials' role='img' aria-label='{escape(_described(tuned))}'></div>",
        "<h2>Candidates beside the baseline</h2>",
        f"<div class='wide' role='region' tabindex='0' aria-label='Candidates'>{_table(tuned)}</div>",
        "<h2>What was searched</h2>",
        "<ul class='ranges'>" + "".join(f"<li>{escape(_range(knob))}</li>" for knob in tuned.plan.knobs) + "</ul>",
        "<h2>Get it again</h2>",
        command_and_digests(origin.as_json(), "The same command gives the same trials, with any number of workers."),
        "</main>",
    ]
    figure = json.loads(_figure(tuned).to_json())
    return whole_page("Foresail: settings tuned", "\n".join(parts), {"trials": figure}, _STYLE)


def _how(tuned: Tuned) -> str:
    plan = tuned.plan
    traces = "; ".join(
        f"{choice.name} searched from {first.start_s:g} to {first.stop_s:g} s, validated to {later.stop_s:g} s"
        for choice, (first, later) in zip(plan.choices, tuned.parts.spans, strict=True)
    )
    trials = f"{len(tuned.trials)} trials of {plan.policy}, {plan.seeds} seeds each"
    return f"Looked for {plan.aim}. {traces}. {trials}; trial 0 is the baseline, the settings as they were."


def _described(tuned: Tuned) -> str:
    return (
        f"Two plots of {UNITS[tuned.plan.aim.cost]} against the share of requests within the objective: "
        f"{len(tuned.trials)} trials on the part searched, and the candidates on the later part. "
        "The table below has the figures of the candidates."
    )


def _figure(tuned: Tuned) -> Any:
    """Return two panels side by side: the part searched, and the later part."""
    from plotly.subplots import make_subplots

    plan, advice = tuned.plan, tuned.advice
    figure = make_subplots(
        rows=1, cols=2, shared_yaxes=True, horizontal_spacing=0.03, subplot_titles=("Searched", "Later part")
    )
    points = front(tuned.trials, plan.aim.cost)
    others = [trial for trial in tuned.trials if trial.number and trial not in points]
    taken = None if advice.taken is None else advice.taken.trial.number
    looked = [(judgement.trial, judgement.validation) for judgement in advice.judged]
    base = [(advice.baseline, advice.baseline.outcome)], [(advice.baseline, advice.validation)]
    _add(figure, tuned, 1, "other trials", [(t, t.outcome) for t in others], {"color": _GREY, "size": 7})
    _add(figure, tuned, 1, "front", [(t, t.outcome) for t in points], {"color": _BLUE, "size": 8}, line=True)
    for column in (1, 2):
        first = column == 1
        shown = [(t, t.outcome if first else later) for t, later in looked]
        mark = {"color": _ORANGE, "size": 12, "symbol": "circle-open", "line": {"width": 2}}
        _add(figure, tuned, column, "candidates", [one for one in shown if one[0].number != taken], mark, named=True)
        mark = {"color": _GREEN, "size": 16, "symbol": "star"}
        _add(figure, tuned, column, "advice", [one for one in shown if one[0].number == taken], mark, named=True)
        _add(figure, tuned, column, "baseline", base[column - 1], {"color": _RED, "size": 12, "symbol": "diamond"})
        figure.update_xaxes(title_text=UNITS[plan.aim.cost], row=1, col=column)
    _dress(figure, tuned)
    return figure


def _add(
    figure: Any, tuned: Tuned, column: int, name: str, shown: Sequence[tuple[Trial, Outcome]], mark: dict[str, Any],
    line: bool = False, named: bool = False,
) -> None:  # fmt: skip
    from plotly import graph_objects

    if shown:
        figure.add_trace(
            graph_objects.Scatter(
                x=[outcome.cost(tuned.plan.aim.cost) for _, outcome in shown],
                y=[_missed(outcome) for _, outcome in shown],
                mode="lines+markers" if line else "markers+text" if named else "markers",
                text=[str(trial.number) for trial, _ in shown] if named else None,
                textposition="top center",
                line={"color": mark["color"], "shape": "hv"} if line else None,
                marker=mark,
                name=name,
                legendgroup=name,
                showlegend=not any(trace.name == name for trace in figure.data),
                hovertext=[_hover(tuned, trial, outcome) for trial, outcome in shown],
                hoverinfo="text",
            ),
            row=1,
            col=column,
        )


def _dress(figure: Any, tuned: Tuned) -> None:
    shares = [f"{tick * 100:.4g}%" for tick in _TICKS[:-1]] + [f"≥ {_TICKS[-1]:.2%}"]
    figure.update_yaxes(type="log", autorange="reversed", tickvals=[1.0 - tick for tick in _TICKS], ticktext=shares)
    figure.update_yaxes(title={"text": "within the objective", "standoff": 8}, row=1, col=1)
    aim = tuned.plan.aim
    if isinstance(aim, KeepObjective):
        missed = 1.0 - aim.attainment_ratio
        figure.add_hline(y=missed, line={"color": _GREY, "width": 1.5, "dash": "dash"})
        # Beside shapes, plotly takes the place of a text on a logarithmic axis in logs.
        text = {
            "text": "objective",
            "showarrow": False,
            "xref": "x domain",
            "x": 1.0,
            "xanchor": "right",
            "yanchor": "bottom",
        }
        figure.add_annotation(y=math.log10(missed), yref="y", **text)
    legend = {"orientation": "h", "yanchor": "top", "y": -0.16}
    figure.update_layout(
        template="none", margin={"l": 70, "r": 14, "t": 40, "b": 50}, legend=legend, hovermode="closest"
    )


def _range(knob: Knob) -> str:
    return f"{knob}: {knob.why}" if knob.why else str(knob)


def _missed(outcome: Outcome) -> float:
    return max(1.0 - outcome.attainment_ratio, _LEAST_MISSED_RATIO)


def _hover(tuned: Tuned, trial: Trial, outcome: Outcome) -> str:
    cost = tuned.plan.aim.cost
    said = [f"{escape(key)} = {escape(str(value))}" for key, value in changed(tuned, trial).items()]
    head = f"trial {trial.number}: {outcome.cost(cost):.4g} {UNITS[cost]}, {outcome.attainment_ratio:.3%}"
    return "<br>".join([head, *said])


def _table(tuned: Tuned) -> str:
    advice, cost = tuned.advice, tuned.plan.aim.cost

    def cells(outcome: Outcome) -> str:
        return f"<td>{outcome.cost(cost):.4g}</td><td>{percent(outcome.attainment_ratio)}</td>"

    unit = UNITS[cost]
    titles = ("trial", f"searched:\n{unit}", "within", f"later:\n{unit}", "within", "")
    head = "<tr>" + "".join(f"<th>{title}</th>" for title in titles) + "</tr>"
    rows = [
        f"<tr><th scope='row'>baseline</th>{cells(advice.baseline.outcome)}{cells(advice.validation)}<td></td></tr>"
    ]
    rows += [
        f"<tr class='{'ours' if one.taken else ''}'><th scope='row'>{one.trial.number}</th>"
        f"{cells(one.trial.outcome)}{cells(one.validation)}<td class='why'>{escape(one.why)}</td></tr>"
        for one in advice.judged
    ]
    return f"<table><thead>{head}</thead><tbody>{''.join(rows)}</tbody></table>"
