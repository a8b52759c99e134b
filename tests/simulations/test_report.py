"""Is the page whole, safe and self-contained, and are tables and JSON complete?"""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import plotly.graph_objects as go
import pytest
from rich.console import Console

from policies.slo import ServiceObjective
from simulations.comparison import as_json, summarised
from simulations.job import RunReport
from simulations.provenance import Provenance, TraceDigest
from simulations.report import in_script, write_whole
from simulations.report_files import FIGURES, PAGE, ReportFiles, file_names, write_files
from simulations.report_pictures import picture_names
from simulations.scorecard import CURVE_LEVELS, Curves
from simulations.tables import comparison_table, scorecard_table
from simulations.timeline import Timeline
from tests.builders_report import a_run, report_on

OBJECTIVE = ServiceObjective()
EVIL = '</script><script>alert(1)</script> & "co" \'s <u>.csv'
ORIGIN = Provenance(
    f"foresail compare --trace '{EVIL}'", {"foresail <u>": "1"}, (TraceDigest(EVIL, None, None),), "cd" * 32
)


class Tags(HTMLParser):
    """Collects what could load or run something, what is said, and checks that tags close."""

    VOID = frozenset({"meta", "br", "link", "img", "hr", "line"})

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []
        self.open: list[str] = []
        self.references: list[str] = []
        self.handlers: list[str] = []
        self.scripts: list[str] = []
        self.words: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)
        if tag not in self.VOID:
            self.open.append(tag)
        self.references += [value or "" for name, value in attrs if name in ("src", "href", "xlink:href", "data")]
        self.handlers += [name for name, _ in attrs if name.startswith("on")]

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        (self.scripts if self.open and self.open[-1] == "script" else self.words).append(data)


def parsed(text: str) -> Tags:
    tags = Tags()
    tags.feed(text)
    tags.close()
    assert tags.open == []
    return tags


def page_of(made: ReportFiles) -> str:
    text = made.contents[PAGE]
    assert isinstance(text, str)
    return text


def figures_of(tags: Tags) -> dict[str, dict[str, object]]:
    """The plots' content as the page's script reads it."""
    loaded: dict[str, dict[str, object]] = json.loads(tags.scripts[0])
    return loaded


@pytest.fixture(scope="module")
def evil() -> Tags:
    """A page of two traces and a policy with hostile names, one of them generated, with violations."""
    runs = [a_run("hpa", trace=EVIL), a_run("foresail", trace=EVIL, violations=("weights <u>do not</u> share",))]
    runs += [a_run(EVIL, trace=EVIL), replace(a_run("hpa", trace="u.csv"), generated=True)]
    return parsed(page_of(report_on(runs, ORIGIN)))


def test_names_from_outside_are_escaped(evil: Tags) -> None:
    assert len(evil.scripts) == 3  # the figures, plotly's and ours
    assert "u" not in evil.seen
    assert evil.handlers == []
    assert EVIL in "".join(evil.words)
    assert "weights <u>do not</u> share" in "".join(evil.words)


def test_names_within_plots_are_escaped_for_plotly_which_reads_tags(evil: Tags) -> None:
    figures = figures_of(evil)
    names = {trace["name"] for figure in figures.values() for trace in figure["data"]}  # type: ignore[attr-defined]
    assert not any("<" in name for name in names)
    assert any("&lt;/script&gt;" in name for name in names)
    hovers = [t for trace in figures["pareto-0"]["data"] for t in trace.get("hovertext", ())]  # type: ignore[attr-defined]
    assert hovers
    assert all(set(re.findall(r"<[^>]*>", text)) <= {"<b>", "</b>", "<br>"} for text in hovers)


def test_no_text_can_end_the_script_element_that_carries_it() -> None:
    hostile = ["</script>", "<!--<script>", "\u2028", "&", "]]>"]
    text = in_script(hostile)
    assert not {"<", ">", "&", "\u2028"} & set(text)
    assert json.loads(text) == hostile


def test_the_page_needs_nothing_from_elsewhere(evil: Tags) -> None:
    assert all(re.fullmatch(r"[\w.-]+\.(png|json)", reference) for reference in evil.references)
    assert not {"link", "img", "iframe", "object", "embed", "base", "form"} & set(evil.seen)


def test_every_trace_has_its_summary_tables_and_plots(evil: Tags) -> None:
    assert set(figures_of(evil)) == {f"{kind}-{i}" for kind in ("pareto", "timeline", "latency") for i in (0, 1)}
    assert evil.seen.count("figure") == 6
    assert evil.seen.count("table") == 5  # two per trace, and one of all runs


def test_plotly_knows_every_property_of_every_plot(evil: Tags) -> None:
    """Its Python side refuses what its script would pass over in silence."""
    for figure in figures_of(evil).values():
        go.Figure(figure)


def test_generated_traces_say_so_and_recorded_ones_do_not() -> None:
    runs = [a_run("hpa", trace="recorded.csv"), replace(a_run("hpa", trace="u.csv"), generated=True)]
    recorded, generated = page_of(report_on(runs)).split("<h2>u.csv</h2>")
    assert "This trace is generated, not recorded" not in recorded
    assert "This trace is generated, not recorded" in generated


def test_a_run_without_any_latency_or_tick_can_be_shown() -> None:
    empty = Curves((0.0,), (math.nan,), (math.nan,), (math.nan,) * len(CURVE_LEVELS))
    made = report_on([replace(a_run("hpa", slo_attainment_ratio=math.nan), curves=empty, timeline=Timeline())])
    figures = figures_of(parsed(page_of(made)))
    assert set(figures) == {"timeline-0", "latency-0"}  # nothing stands anywhere between cost and attainment
    assert all(name in made.contents for name in file_names(["t.csv"]))


def test_a_failed_write_leaves_what_was_there(tmp_path: Path) -> None:
    target, other = tmp_path / "report.html", tmp_path / "compare.json"
    write_whole({target: "first"})
    with pytest.raises(UnicodeEncodeError):
        write_whole({target: "second", other: "second \ud800"})
    assert target.read_text() == "first"
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


def test_a_trace_whose_name_is_no_text_can_be_reported(tmp_path: Path) -> None:
    write_files(tmp_path / "out", report_on([a_run(trace="t\udcff.csv")]))
    assert (tmp_path / "out" / PAGE).read_text().count("t?.csv") > 1
    assert json.loads((tmp_path / "out" / FIGURES).read_text())["traces"][0]["trace"] == "t\udcff.csv"


def variant_run(policy: str, variant: str, **figures: object) -> RunReport:
    return replace(a_run(policy, **figures), variant=f"{policy} {variant}".strip() if variant else "")


def test_variants_are_rows_of_their_own_and_the_best_is_shown_over_time() -> None:
    runs = [
        a_run("foresail", slo_attainment_ratio=0.995, gpu_hours=12.0),
        variant_run("keda", "", slo_attainment_ratio=0.97, gpu_hours=11.0),
        variant_run("keda", "target=2", slo_attainment_ratio=0.999, gpu_hours=11.5),
        variant_run("keda", "target=9", slo_attainment_ratio=0.9, gpu_hours=11.5),
    ]
    rows = {row.name: row for row in summarised(runs)}
    assert [name for name, row in rows.items() if row.on_front] == ["keda", "keda target=2"]
    assert rows["foresail"].on_front is False
    made = report_on(runs)
    assert made.headlines["t.csv"].startswith("Foresail did not win here. Keda target=2 met the objective")
    figures = figures_of(parsed(page_of(made)))
    assert {trace["name"] for trace in figures["latency-0"]["data"]} == {"foresail", "keda target=2"}  # type: ignore[attr-defined]
    content = json.loads(str(made.contents[FIGURES]))
    assert [each["variant"] for each in content["summary"]] == ["", "", "keda target=2", "keda target=9"]


# ---- pictures


def test_pictures_are_pictures_of_the_names_that_were_promised() -> None:
    made = report_on([a_run("foresail"), a_run("hpa"), a_run("hpa", trace="$x^2$ _{.csv")])
    assert sorted(made.contents) == sorted(file_names(["t.csv", "$x^2$ _{.csv"]))
    assert made.pictures == ["pareto.png", "timeline-t.csv.png", "timeline-x-2-_-.csv.png"]
    for name in made.pictures:
        content = made.contents[name]
        assert isinstance(content, bytes)
        assert content.startswith(b"\x89PNG")
        width, height = (int.from_bytes(content[at : at + 4], "big") for at in (16, 20))
        assert width > 800
        assert height > 250


def test_equal_runs_make_equal_files() -> None:
    runs = [a_run("foresail"), a_run("hpa")]
    assert report_on(runs).contents == report_on(runs).contents


def test_file_names_are_safe_and_differ_also_where_case_does_not_count() -> None:
    names = picture_names(["../../etc/passwd", "T.csv", "t.csv", "...", "x" * 300])
    assert len({name.lower() for name in names.values()}) == 5
    assert all(re.fullmatch(r"timeline-[\w.-]{1,90}\.png", name) for name in names.values())
    assert not any(".." in name for name in names.values())


# ---- tables and JSON


def test_several_seeds_are_averaged_with_least_most_and_interval() -> None:
    hours = (10.0, 12.0, 20.0)
    reports = [a_run("hpa", seed, gpu_hours=each) for seed, each in enumerate(hours)]
    (row,) = summarised(reports)
    assert (row.runs, row.figures["gpu_hours"].mean) == (3, 14.0)
    assert (row.figures["gpu_hours"].least, row.figures["gpu_hours"].most) == (10.0, 20.0)
    text = page_of(report_on(reports))
    assert "14.0\n<small>0.86 to 27.1</small>" in text  # 14 ± 4.303 * 5.292 / sqrt(3)
    assert "<td>2 / 1</td>" in text


def test_regret_is_what_was_taken_beyond_the_bound_in_the_same_seeds() -> None:
    reports = [a_run("foresail", seed, gpu_hours=12.0 + seed, missed_requests=9) for seed in range(2)]
    reports += [a_run("clairvoyant", seed, gpu_hours=10.0 + seed, missed_requests=4) for seed in range(2)]
    row, bound = as_json(reports, summarised(reports), {})["summary"]
    assert (row["regret"]["base"], row["regret"]["gpu_hours"]["mean"]) == ("clairvoyant", 2.0)
    assert row["regret"]["missed_requests"]["mean"] == 5.0
    assert (bound["regret"], row["to_hpa"]) == (None, None)


def test_json_is_whole_and_has_no_nan() -> None:
    made = report_on([a_run("foresail"), a_run("hpa")])
    text = made.contents[FIGURES]
    assert isinstance(text, str)
    content = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert list(content)[:4] == ["settings", "traces", "summary", "runs"]
    assert content["summary"][0]["intervals"]["gpu_hours"] == {"mean": 10.0, "low": None, "high": None, "runs": 1}
    assert content["provenance"]["command"].startswith("foresail compare")
    assert content["runs"][0]["variant"] == ""


def test_gpu_hours_are_compared_on_the_same_trace_only() -> None:
    reports = [
        a_run("foresail", gpu_hours=12.0),
        a_run("hpa", gpu_hours=15.0),
        a_run("clairvoyant", gpu_hours=10.0),
        a_run("foresail", trace="u.csv", gpu_hours=99.0),
    ]
    rows = summarised(reports)
    assert [row.gpu_hours_to_clairvoyant for row in rows] == [1.2, 1.5, 1.0, None]
    assert [row.gpu_hours_to_hpa for row in rows] == [0.8, 1.0, pytest.approx(2 / 3), None]


def test_a_figure_that_no_run_has_is_a_dash_and_null() -> None:
    reports = [a_run("hpa", ttft_p95_s=math.nan)]
    rows = summarised(reports)
    content = as_json(reports, rows, {})
    assert content["summary"][0]["figures"]["ttft_p95_s"] == {"mean": None, "least": None, "most": None}
    assert content["runs"][0]["ttft_p95_s"] is None


@pytest.mark.parametrize("width", [80, 200])
def test_tables_are_readable_at_any_width(width: int) -> None:
    reports = [a_run("foresail"), a_run("hpa", trace="[red]u.csv", violations=("too many replicas",) * 7)]
    console = Console(width=width, file=None, record=True, color_system=None)
    with console.capture() as captured:
        console.print(comparison_table(summarised(reports), reports, 0.99))
        console.print(scorecard_table(reports[1], OBJECTIVE))
    text = captured.get()
    assert "97.00%" in text
    assert "[red]u.csv" in text.replace("\n", "")  # brackets in a file's name are no markup
    assert len(re.findall("VIOLATED", text)) == 10
    assert "and 2 more" in text


def test_a_table_of_twenty_policies_puts_those_that_attain_first_and_fits_a_terminal() -> None:
    names = [f"a-policy-with-a-long-name-{i}" for i in range(18)]
    reports: list[RunReport] = [
        a_run(name, seed, slo_attainment_ratio=0.98 + 0.001 * i) for i, name in enumerate(names) for seed in range(3)
    ]
    reports += [a_run("cheap", seed, slo_attainment_ratio=0.99, gpu_hours=1.0) for seed in range(3)]
    console = Console(width=80, color_system=None)
    with console.capture() as captured:
        console.print(comparison_table(summarised(reports), reports, 0.99))
    lines = captured.get().splitlines()
    assert max(map(len, lines)) <= 80
    assert "least" not in captured.get()  # of so many policies only the means
    shares = [float(found[1]) for line in lines if (found := re.search(r"(\d+\.\d\d)%", line))]
    assert shares[0] == 99.0
    assert [share >= 99.0 for share in shares] == sorted((share >= 99.0 for share in shares), reverse=True)
