"""Is the page whole, safe and self-contained?"""

from __future__ import annotations

import math
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from rich.console import Console

from policies.slo import ServiceObjective
from simulations.comparison import as_json, summarised
from simulations.job import RunReport
from simulations.report import _table, html_report, trace_plots, write_whole
from simulations.scorecard import CURVE_LEVELS, Curves, Scorecard, TimelinePoint
from simulations.tables import comparison_table, scorecard_table

OBJECTIVE = ServiceObjective()
EVIL = '<script>alert(1)</script> & "co".csv'


def report(policy: str, seed: int = 0, trace: str = "t.csv", **figures: object) -> RunReport:
    card = Scorecard(
        policy=policy, requests=100, completed=98, failed=1, dropped_in_flight=1, slo_attainment_ratio=0.97,
        ttft_p50_s=0.2, ttft_p95_s=0.9, ttft_p99_s=1.5, tpot_p50_s=0.03, tpot_p95_s=0.05, goodput_requests_per_s=1.0,
        goodput_tokens_per_s=200.0, gpu_hours=10.0, cost_usd=20.0, mean_replicas=2.5, peak_replicas=4, scale_ups=2,
        scale_downs=1, simulated_s=300.0, wall_s=0.5, decisions_digest="ab" * 32, violations=(),
    )  # fmt: skip
    timeline = tuple(TimelinePoint(15.0 * i, 3, 2, 1, 3, "ets", (("m/p/unified", 2),)) for i in range(20))
    ttft = tuple(0.1 + level for level in CURVE_LEVELS)
    curves = Curves((5.0, 6.0, 7.0, 6.0, 5.0), (0.5, math.nan, 0.7, 0.9, 0.5), (1.0, math.nan, 0.9, 0.9, 1.0), ttft)
    made = replace(card, **figures)  # type: ignore[arg-type]
    return RunReport(trace, f"{trace}: recorded", False, seed, made, timeline, curves, {"m/p/unified": 3.0})


def page(reports: list[RunReport]) -> str:
    return html_report(reports, summarised(reports), OBJECTIVE, {"policies": "hpa", "scale": 2.0})


class Tags(HTMLParser):
    """Collects what could load or run something, and checks that tags close."""

    VOID = frozenset({"meta", "br", "link", "img", "hr"})

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []
        self.open: list[str] = []
        self.references: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)
        if tag not in self.VOID:
            self.open.append(tag)
        self.references += [value or "" for name, value in attrs if name in ("src", "href", "xlink:href", "data")]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def parsed(text: str) -> Tags:
    tags = Tags()
    tags.feed(text)
    tags.close()
    assert tags.open == []
    return tags


@pytest.fixture(scope="module")
def evil_page() -> str:
    """A page of two traces with a hostile name each, one of them generated, with violations."""
    runs = [report("hpa", trace=EVIL), report("foresail", trace=EVIL, violations=("weights <b>do not</b> share",))]
    return page([*runs, replace(report("hpa", trace="u.csv"), generated=True)])


def test_names_from_outside_are_escaped(evil_page: str) -> None:
    assert "<script" not in evil_page
    assert "&lt;script&gt;alert(1)&lt;/script&gt; &amp; &quot;co&quot;.csv" in evil_page
    assert not {"script", "b"} & set(parsed(evil_page).seen)


def test_the_page_needs_nothing_from_elsewhere(evil_page: str) -> None:
    tags = parsed(evil_page)
    assert all(reference.startswith("#") for reference in tags.references)
    assert not {"link", "script", "img", "iframe"} & set(tags.seen)


def test_every_trace_has_its_table_and_plots(evil_page: str) -> None:
    seen = parsed(evil_page).seen
    assert (seen.count("svg"), seen.count("table"), seen.count("h2")) == (2, 2, 2)


def test_generated_traces_say_so_and_recorded_ones_do_not(evil_page: str) -> None:
    recorded, generated = evil_page.split("<h2>u.csv</h2>")
    assert "generated, not recorded" not in recorded
    assert "generated, not recorded" in generated


def test_violations_are_on_the_page(evil_page: str) -> None:
    assert "weights &lt;b&gt;do not&lt;/b&gt; share" in evil_page


def test_the_plots_are_well_formed_and_the_same_each_time() -> None:
    runs = [report(policy) for policy in ("foresail", "hpa", "static", "clairvoyant")]
    svg = trace_plots(runs, OBJECTIVE)
    root = ET.fromstring(svg)  # noqa: S314 - our own text
    words = {element.text for element in root.iter("{http://www.w3.org/2000/svg}text")}
    assert {"foresail", "hpa", "static", "clairvoyant", "requests/s", "replicas", "objective"} <= words
    assert svg == trace_plots(runs, OBJECTIVE)


def test_a_run_without_any_latency_can_be_plotted() -> None:
    empty = Curves((0.0,), (math.nan,), (math.nan,), (math.nan,) * len(CURVE_LEVELS))
    assert trace_plots([replace(report("hpa"), curves=empty, timeline=())], OBJECTIVE).startswith("<svg")


def test_a_failed_write_leaves_what_was_there(tmp_path: Path) -> None:
    target, other = tmp_path / "report.html", tmp_path / "compare.json"
    write_whole({target: "first"})
    with pytest.raises(UnicodeEncodeError):
        write_whole({target: "second", other: "second \ud800"})
    assert target.read_text() == "first"
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


# ---- tables and JSON


def test_several_seeds_are_averaged_with_least_and_most() -> None:
    reports = [report("hpa", seed, gpu_hours=hours, ttft_p95_s=0.9) for seed, hours in enumerate((10.0, 12.0, 20.0))]
    (row,) = summarised([*reports])
    assert (row.runs, row.figures["gpu_hours"].mean) == (3, 14.0)
    assert (row.figures["gpu_hours"].least, row.figures["gpu_hours"].most) == (10.0, 20.0)
    text = _table([row])
    assert "14.0\n<small>10.0\u201320.0</small>" in text
    assert "<td>2 / 1</td>" in text


def test_gpu_hours_are_compared_on_the_same_trace_only() -> None:
    reports = [
        report("foresail", gpu_hours=12.0),
        report("hpa", gpu_hours=15.0),
        report("clairvoyant", gpu_hours=10.0),
        report("foresail", trace="u.csv", gpu_hours=99.0),
    ]
    rows = summarised(reports)
    assert [row.gpu_hours_to_clairvoyant for row in rows] == [1.2, 1.5, 1.0, None]
    assert [row.gpu_hours_to_hpa for row in rows] == [0.8, 1.0, pytest.approx(2 / 3), None]


def test_a_figure_that_no_run_has_is_a_dash_and_null() -> None:
    reports = [report("hpa", ttft_p95_s=math.nan)]
    rows = summarised(reports)
    content = as_json(reports, rows, {})
    assert content["summary"][0]["figures"]["ttft_p95_s"] == {"mean": None, "least": None, "most": None}
    assert content["runs"][0]["ttft_p95_s"] is None


@pytest.mark.parametrize("width", [80, 200])
def test_tables_are_readable_at_any_width(width: int) -> None:
    reports = [report("foresail"), report("hpa", trace="[red]u.csv", violations=("too many replicas",) * 7)]
    console = Console(width=width, file=None, record=True, color_system=None)
    with console.capture() as captured:
        console.print(comparison_table(summarised(reports), reports))
        console.print(scorecard_table(reports[1], OBJECTIVE))
    text = captured.get()
    assert "97.00%" in text
    assert "[red]u.csv" in text.replace("\n", "")  # brackets in a file's name are no markup
    assert len(re.findall("VIOLATED", text)) == 10
    assert "and 2 more" in text
