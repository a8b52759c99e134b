"""How do scorecards read on a terminal?"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from policies.slo import ServiceObjective
from simulations.comparison import Spread, SummaryRow
from simulations.job import RunReport
from simulations.scorecard import Scorecard

MISSING = "-"
SHOWN_DIGEST_CHARS = 16
"""Enough for people to compare; JSON has all of it."""


def percent(share: float) -> str:
    """Return a share as a percentage; two digits, since targets such as 99 % leave one for the misses."""
    return MISSING if math.isnan(share) else f"{share:.2%}"


def seconds(value: float) -> str:
    """Return seconds with three significant digits."""
    return MISSING if math.isnan(value) else f"{value:.3g} s"


def ratio(value: float | None) -> str:
    """Return how much of something else it is."""
    return MISSING if value is None else f"{value:.2f}"


def number(value: float, form: str) -> str:
    """Return a figure as ``form`` says."""
    return MISSING if math.isnan(value) else format(value, form)


def gpu_hours(value: float, sign: str = "") -> str:
    """Return GPU hours: one digit after the point from ten on, two below; ``sign`` is "+" for differences.

    >>> gpu_hours(1234.56), gpu_hours(9.876), gpu_hours(0.0), gpu_hours(3.0764, "+")
    ('1,234.6', '9.88', '0', '+3.08')
    """
    return number(value, f"{sign},.{1 if abs(value) >= 10 else 2}f") if value else "0"


def count(value: float) -> str:
    """Return a mean of counts: a digit after the point where it is no whole number.

    >>> count(1234.0), count(23.6667), count(0.96)
    ('1,234', '23.7', '1')
    """
    return number(value, ",.1f").removesuffix(".0")


def short_count(value: float) -> str:
    """Return a count in at most five characters.

    >>> short_count(7.333), short_count(9999.0), short_count(867_800.0), short_count(2_662_000.0)
    ('7.333', '9999', '868k', '2.7M')
    """
    if value >= 1e6:
        return f"{value / 1e6:.1f}M"
    return f"{value / 1e3:.0f}k" if value >= 1e4 else number(value, ".4g")


def _short_hours(value: float) -> str:
    return number(value, ",.0f") if value >= 1000 else gpu_hours(value)


def _fixed(form: str) -> Callable[[float], str]:
    return lambda value: number(value, form)


FIGURES: tuple[tuple[str, str, Callable[[float], str]], ...] = (
    ("within\nSLO", "slo_attainment_ratio", percent),
    ("GPU\nhours", "gpu_hours", _short_hours),
    ("TTFT\nP95 s", "ttft_p95_s", _fixed(".3g")),
    ("TTFT\nP99 s", "ttft_p99_s", _fixed(".3g")),
    ("TPOT\nP95 s", "tpot_p95_s", _fixed(".2g")),
    ("mean\nrepl.", "mean_replicas", _fixed(".1f")),
    ("lost", "lost_requests", short_count),
)
"""Columns of a comparison: title, figure of ``SummaryRow.figures``, how it is written. They fit 80 characters."""

RATIOS = ("times\nbound", "times\nHPA")
"""Titles of GPU hours over those of the clairvoyant bound and over HPA's; they follow the second column above."""


def scorecard_table(report: RunReport, objective: ServiceObjective) -> RenderableType:
    """Return one run as rows of words and figures."""
    card = report.scorecard
    table = Table(title=Text(f"{card.policy} on {report.trace}"), title_justify="left", show_header=False, box=None)
    table.add_column(style="dim")
    table.add_column()
    rows = {
        "trace": report.described + (", generated" if report.generated else ""),
        "requests": f"{card.requests:,}: {card.completed:,} completed, {card.failed:,} failed, "
        f"{card.dropped_in_flight:,} dropped in flight" + left_out(report),
        "within the objective": f"{percent(card.slo_attainment_ratio)} "
        f"(TTFT {objective.ttft_s:g} s, TPOT {objective.tpot_s:g} s; target {percent(objective.attainment_ratio)})",
        "TTFT": f"P50 {seconds(card.ttft_p50_s)}, P95 {seconds(card.ttft_p95_s)}, P99 {seconds(card.ttft_p99_s)}",
        "TPOT": f"P50 {seconds(card.tpot_p50_s)}, P95 {seconds(card.tpot_p95_s)}",
        "goodput": f"{card.goodput_requests_per_s:.2f} requests/s, {card.goodput_tokens_per_s:,.0f} tokens/s",
        "GPUs": f"{gpu_hours(card.gpu_hours)} GPU hours, {card.cost_usd:,.0f} US dollars",
        "replicas": f"{card.mean_replicas:.1f} on average, {card.peak_replicas} at most; "
        f"scaled up {card.scale_ups} and down {card.scale_downs} times",
        "churn": f"{card.replicas_started} replicas started, {card.replicas_stopped} stopped: "
        f"{card.churn_per_hour:.1f} per hour; {card.unused_starts} stopped before they could serve",
        "held for nothing": f"{gpu_hours(card.loading_gpu_hours)} GPU hours loading, "
        f"{gpu_hours(card.idle_gpu_hours)} idle",
        "time to recover": recovery(card),
        "time": f"{card.simulated_s:,.0f} s simulated in {card.wall_s:.1f} s",
        "decisions digest": card.decisions_digest[:SHOWN_DIGEST_CHARS],
    }
    for name, text in rows.items():
        table.add_row(name, Text(text))
    return Group(table, *violations([report]))


def recovery(card: Scorecard) -> str:
    """Return how long the objective was missed at a time, and after faults."""
    if not card.missed_spells:
        spells = "the objective was never missed for a while"
    else:
        spells = (
            f"{card.time_to_recover_longest_s / 60:.3g} min at the longest, {card.time_to_recover_mean_s / 60:.3g} on "
            f"average, {card.missed_spells} times" + ("" if card.recovered else "; the last was not over at the end")
        )
    fault_s = card.fault_to_recover_longest_s
    return spells if math.isnan(fault_s) else f"{spells}; {fault_s / 60:.3g} min after a fault"


def left_out(report: RunReport) -> str:
    """Return how many failed requests of the recording are not replayed; nothing when there are none."""
    count = report.left_out_requests
    return f"; {count:,} that failed in the recording (no output tokens) left out" if count else ""


def comparison_table(rows: Sequence[SummaryRow], reports: Sequence[RunReport], target_ratio: float) -> RenderableType:
    """Return a table per trace, a line per policy: those that attain by GPU hours, a rule, then the rest.

    With several seeds a figure is the mean. The least and the most follow where there are few policies; JSON and the
    page have them, and intervals, for any number.
    """
    from simulations.ranking import attains, ranked

    parts: list[RenderableType] = []
    for trace in dict.fromkeys(row.trace for row in rows):
        mine = ranked([row for row in rows if row.trace == trace], target_ratio)
        gone = next((left_out(report) for report in reports if report.trace == trace), "")
        title = Text((f"{trace}, mean of {mine[0].runs} seeds" if mine[0].runs > 1 else trace) + gone)
        table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, show_edge=False, padding=0)
        table.add_column("policy", no_wrap=True, vertical="bottom", min_width=10)
        headings = [heading for heading, _, _ in FIGURES]
        for heading in (*headings[:2], *RATIOS, *headings[2:]):
            table.add_column(heading, justify="right", no_wrap=True)
        for place, row in enumerate(mine):
            _add_policy(table, row, extremes=len(mine) <= FEW_POLICIES)
            if attains(row, target_ratio) and not all(
                attains(each, target_ratio) for each in mine[place + 1 : place + 2]
            ):
                table.add_section()
        parts += [table, Text()]
    return Group(*parts, *violations(reports))


FEW_POLICIES = 6
"""So many still have their extremes on a screen."""


def _add_policy(table: Table, row: SummaryRow, *, extremes: bool) -> None:
    """Add the line of means, and below it those of the extremes where there is more than one run."""
    ratios = (ratio(row.gpu_hours_to_clairvoyant), ratio(row.gpu_hours_to_hpa))

    def line(figure: Callable[[Spread], float]) -> list[Text]:
        return [Text(write(figure(row.figures[name]))) for _, name, write in FIGURES]

    means = line(lambda spread: spread.mean)
    table.add_row(Text(row.name, "bold"), *means[:2], *(Text(each) for each in ratios), *means[2:])
    if row.runs > 1 and extremes:
        least, most = line(lambda spread: spread.least), line(lambda spread: spread.most)
        table.add_row("  least", *least[:2], "", "", *least[2:], style="dim")
        table.add_row("  most", *most[:2], "", "", *most[2:], style="dim")


def violations(reports: Sequence[RunReport]) -> list[RenderableType]:
    """Return a line per broken invariant, a few per run; nothing when all held."""
    lines: list[RenderableType] = []
    for report in reports:
        broken = report.scorecard.violations
        lines += [Text(f"VIOLATED {report.scorecard.policy} on {report.trace}: {v}", "bold red") for v in broken[:5]]
        if len(broken) > 5:
            lines.append(Text(f"... and {len(broken) - 5} more", "bold red"))
    return lines
