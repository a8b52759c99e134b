"""Which figures of each policy are in the tables of a page, and how are they written?"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

from simulations.comparison import BOUND, SummaryRow
from simulations.intervals import Interval
from simulations.ranking import attains, ranked
from simulations.tables import MISSING, count, gpu_hours, number, percent, ratio

Written = Callable[[float], str]


@dataclass(frozen=True, slots=True)
class Column:
    """A column: its title, and the cell of a row as HTML."""

    title: str
    cell: Callable[[SummaryRow], str]


def _figure(title: str, name: str, write: Written, *, interval: bool = False) -> Column:
    def cell(row: SummaryRow) -> str:
        text = escape(write(row.figures[name].mean))
        return text + (_small(row.intervals[name], write) if interval and name in row.intervals else "")

    return Column(title, cell)


def _small(known: Interval, write: Written) -> str:
    if not known.known or known.low == known.high:
        return ""
    return f"\n<small>{escape(write(known.low))} to {escape(write(known.high))}</small>"


def _form(form: str) -> Written:
    return lambda value: number(value, form)


def _capped(value: float) -> str:
    """Return an attainment; an interval may reach beyond what there is."""
    return percent(value if math.isnan(value) else min(max(value, 0.0), 1.0))


def _minutes(seconds: float) -> str:
    return MISSING if math.isnan(seconds) else count(seconds / 60.0)


def _regret(name: str, write: Written) -> Callable[[SummaryRow], str]:
    def cell(row: SummaryRow) -> str:
        if row.regret is None:
            return MISSING
        known: Interval = getattr(row.regret, name)
        return escape(write(known.mean)) + _small(known, write)

    return cell


RESULT = (
    _figure("within\nSLO", "slo_attainment_ratio", _capped, interval=True),
    _figure("missed\nrequests", "missed_requests", _form(",.0f")),
    _figure("GPU\nhours", "gpu_hours", gpu_hours, interval=True),
    Column("times\nHPA", lambda row: ratio(row.gpu_hours_to_hpa)),
    Column("times\nbound", lambda row: ratio(row.gpu_hours_to_clairvoyant)),
    Column("regret,\nGPU hours", _regret("gpu_hours", lambda value: gpu_hours(value, "+"))),
    Column("regret,\nmisses", _regret("missed_requests", _form("+,.0f"))),
    _figure("US$", "cost_usd", _form(",.0f")),
    _figure("goodput\nreq/s", "goodput_requests_per_s", _form(".4g")),
    _figure("TTFT\nP95 s", "ttft_p95_s", _form(".3g")),
    _figure("TTFT\nP99 s", "ttft_p99_s", _form(".3g")),
    _figure("TPOT\nP95 s", "tpot_p95_s", _form(".2g")),
)
"""What a policy gives and what it costs."""

OPERATION = (
    _figure("replicas,\nmean", "mean_replicas", _form(".1f")),
    Column("peak", lambda row: number(row.figures["peak_replicas"].most, ".0f")),
    Column("ups /\ndowns", lambda row: f"{_plain(row, 'scale_ups')} / {_plain(row, 'scale_downs')}"),
    _figure("churn\nper hour", "churn_per_hour", _form(".1f")),
    _figure("unused\nstarts", "unused_starts", count),
    _figure("loading,\nGPU hours", "loading_gpu_hours", gpu_hours),
    _figure("idle,\nGPU hours", "idle_gpu_hours", gpu_hours),
    _figure("both,\nUS$", "unproductive_usd", _form(",.0f")),
    _figure("failed", "failed", count),
    _figure("dropped\nin flight", "dropped_in_flight", count),
    _figure("missed\nspells", "missed_spells", count),
    _figure("longest,\nmin", "time_to_recover_longest_s", _minutes),
    _figure("mean,\nmin", "time_to_recover_mean_s", _minutes),
    _figure("after a\nfault, min", "fault_to_recover_longest_s", _minutes),
)
"""How quietly and how safely it goes about it."""


def _plain(row: SummaryRow, name: str) -> str:
    return count(row.figures[name].mean)


def table(rows: Sequence[SummaryRow], columns: Sequence[Column], caption: str, target_ratio: float) -> str:
    """Return an HTML table of rows of one trace as they rank; those that miss the objective come last and say so."""
    ordered = ranked(rows, target_ratio)
    head = "".join(f"<th scope='col'>{escape(column.title)}</th>" for column in columns)
    body = []
    for row in ordered:
        note = "bound" if row.policy == BOUND else "" if attains(row, target_ratio) else "misses"
        mark = f" <small class='{note}'>{note}</small>" if note else ""
        kind = f" class='{'ours' if row.policy == 'foresail' else note}'"
        cells = "".join(f"<td>{column.cell(row)}</td>" for column in columns)
        body.append(f"<tr{kind}><th scope='row'>{escape(row.name)}{mark}</th>{cells}</tr>")
    return (
        f"<div class='wide' role='region' tabindex='0' aria-label='{escape(caption)}'><table>"
        f"<caption>{escape(caption)}</caption><thead><tr><th scope='col'>policy</th>{head}</tr></thead>"
        f"<tbody>{''.join(body)}</tbody></table></div>"
    )
