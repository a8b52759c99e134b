"""Does a reader's browser show the whole report: offline, on a phone, in the dark, with hostile names in it?"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from foresail import main
from simulations.report_files import FIGURES, PAGE, write_files
from simulations.tables import gpu_hours, percent
from tests.builders_browser import PHONE, Open, Shown
from tests.builders_report import TWENTY, a_long_run, a_run, report_on

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

EVIL = "</script><script>window.hacked=1</script><img src=x onerror=window.hacked=1>"


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of a real comparison: two seeds, with a crash."""
    folder = tmp_path_factory.mktemp("real")
    rng = np.random.default_rng(0)
    arrivals = np.sort(rng.uniform(0.0, 600.0, 4_000))
    rows = "\n".join(
        f"{at:.3f},{prompt},60" for at, prompt in zip(arrivals, rng.integers(200, 900, 4_000), strict=True)
    )
    (folder / "load.csv").write_text(f"arrival_s,prompt_tokens,output_tokens\n{rows}\n")
    code = main([
        "compare", "--trace", str(folder / "load.csv"), "--policies", "foresail,hpa,static,clairvoyant", "--seeds", "2",
        "--workers", "1", "--profile", "llama-3.1-8b-l40s-tp1", "--lead-time-s", "60", "--fault", "crash@200",
        "--out", str(folder / "out"),
    ])  # fmt: skip
    assert code == 0
    return folder / "out"


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of policies and traces with hostile names."""
    folder = tmp_path_factory.mktemp("hostile")
    runs = [a_run(policy, trace=trace) for trace in (EVIL, "u.csv") for policy in ("foresail", "hpa", EVIL)]
    write_files(folder, report_on([*runs, a_run("foresail", trace="u.csv", violations=(EVIL,))]))
    return folder


@pytest.fixture(scope="module")
def crowded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of twenty policies over a day."""
    folder = tmp_path_factory.mktemp("crowded")
    rng = np.random.default_rng(3)
    write_files(folder, report_on([a_long_run(policy, 0, "t.csv", 1.0, rng) for policy in TWENTY]))
    return folder


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_loads_offline_and_all_plots_are_drawn(opened: Open, real: Path, scheme: str) -> None:
    shown = opened(real / PAGE, scheme=scheme)
    for kind, curves in (("pareto", 5), ("timeline", 1 + 5 * 4), ("latency", 4)):
        box = shown.drawn(kind).locator(".main-svg").first.bounding_box()
        assert box["width"] > 900
        assert box["height"] > 300
        assert shown.curves(kind) == curves
    ink, paper = (
        shown.page.evaluate(f"getComputedStyle(document.body).{name}") for name in ("color", "backgroundColor")
    )
    assert (sum(_channels(ink)) > sum(_channels(paper))) == (scheme == "dark")
    title = shown.drawn("pareto").locator(".xtitle")
    assert _channels(title.evaluate("each => getComputedStyle(each).fill")) == _channels(ink)


def _channels(colour: str) -> list[int]:
    return [int(each) for each in colour.removeprefix("rgb(").removesuffix(")").split(",")]


def test_summary_and_tables_have_the_figures_of_the_json(opened: Open, real: Path) -> None:
    content = json.loads((real / FIGURES).read_text())
    shown = opened(real / PAGE)
    assert shown.page.locator(".headline").inner_text() == content["headlines"]["load.csv"]
    result = shown.page.locator("table").first
    assert result.locator("tbody tr").count() == len(content["summary"]) == 4
    for row in content["summary"]:
        cells = result.locator("tbody tr").filter(has_text=row["policy"]).locator("td").all_inner_texts()
        attained, hours = row["figures"]["slo_attainment_ratio"]["mean"], row["figures"]["gpu_hours"]["mean"]
        assert cells[0].split()[0] == percent(attained)
        assert cells[1] == f"{row['figures']['missed_requests']['mean']:,.0f}"
        assert cells[2].split()[0] == gpu_hours(hours)
    words = shown.page.locator("main").inner_text()
    assert content["provenance"]["command"] in " ".join(words.split())
    assert content["provenance"]["traces"][0]["sha256"] in words
    shown.page.get_by_text("All 8 runs, with their digests").click()
    digests = shown.page.locator("td.digest").all_inner_texts()
    assert digests == [run["decisions_digest"] for run in content["runs"]]


def test_a_chip_hides_a_policy_and_shows_it_again(opened: Open, real: Path) -> None:
    shown = opened(real / PAGE)
    before = {kind: shown.curves(kind) for kind in ("pareto", "timeline", "latency")}
    chip = shown.page.locator(".chips button[data-policy='hpa']")
    chip.click()
    assert chip.get_attribute("aria-pressed") == "false"
    _await_count(shown, ".latency .trace", 3)
    after = {kind: shown.curves(kind) for kind in before}
    assert after == {"pareto": before["pareto"] - 1, "timeline": before["timeline"] - 5, "latency": 3}
    chip.focus()
    shown.page.keyboard.press("Enter")
    _await_count(shown, ".latency .trace", 4)
    assert {kind: shown.curves(kind) for kind in before} == before


def _await_count(shown: Shown, selector: str, count: int) -> None:
    """Wait until so many elements are there, without a function in the page: its policy forbids to evaluate texts."""
    sync_api.expect(shown.page.locator(selector)).to_have_count(count)


def test_chips_switch_all_at_once_and_outlive_a_change_of_colours(opened: Open, real: Path) -> None:
    shown = opened(real / PAGE)
    shown.page.get_by_role("button", name="none").click()
    _await_count(shown, ".timeline .trace", 1)  # the demand
    shown.page.emulate_media(color_scheme="dark")
    ink = shown.page.evaluate("getComputedStyle(document.body).color")
    sync_api.expect(shown.drawn("pareto").locator(".xtitle")).to_have_css("fill", ink)
    assert shown.curves("timeline") == 1
    shown.page.get_by_role("button", name="all").click()
    _await_count(shown, ".timeline .trace", 21)


def test_a_point_tells_its_figures_when_it_is_pointed_at(opened: Open, tmp_path: Path) -> None:
    apart = {"foresail": (0.995, 80.5), "hpa": (0.98, 90.25), "static": (0.999, 120.75)}
    runs = [a_run(name, slo_attainment_ratio=at, gpu_hours=hours) for name, (at, hours) in apart.items()]
    write_files(tmp_path, report_on(runs))
    shown = opened(tmp_path / PAGE)
    plot = shown.drawn("pareto")
    plot.scroll_into_view_if_needed()
    point = plot.locator(".scatterlayer .trace").filter(has_text="static").locator("path.point").first
    box = point.bounding_box()
    for off in (2, 0):
        shown.page.mouse.move(box["x"] + box["width"] / 2 + off, box["y"] + box["height"] / 2)
    told = plot.locator(".hoverlayer .hovertext").first
    told.wait_for(timeout=10_000)
    assert told.text_content() == "staticwithin the objective 99.90%GPU hours 120.8US$ 20one run, no interval"


@pytest.mark.parametrize("report", ["real", "hostile", "crowded"])
def test_a_phone_needs_no_scrolling_sideways(opened: Open, report: str, request: pytest.FixtureRequest) -> None:
    shown = opened(request.getfixturevalue(report) / PAGE, PHONE)
    assert shown.page.evaluate("document.scrollingElement.scrollWidth") <= PHONE[0]
    assert shown.drawn("timeline").locator(".main-svg").first.bounding_box()["width"] <= PHONE[0]
    assert shown.drawn("pareto").locator(".textpoint").count() == 0  # no room for names
    reach = shown.page.locator(".wide").first.evaluate("each => [each.scrollWidth, each.clientWidth]")
    assert reach[0] > reach[1]  # the table scrolls by itself


def test_hostile_names_are_shown_and_do_nothing(opened: Open, hostile: Path) -> None:
    shown = opened(hostile / PAGE)
    assert shown.page.evaluate("window.hacked") is None
    assert shown.page.locator("img").count() == 0
    assert shown.page.locator("script").count() == 3
    assert shown.page.locator("h2").first.inner_text() == EVIL
    chip = shown.page.locator(".chips button").filter(has_text="onerror").first
    assert chip.inner_text() == EVIL
    before = shown.curves("latency")
    chip.click()
    _await_count(shown, "#latency-0 .trace", before - 1)
    assert shown.drawn("pareto").locator("a, image, foreignObject").count() == 0
    assert shown.page.evaluate("window.hacked") is None


def test_an_injected_script_would_not_be_run(opened: Open, hostile: Path, tmp_path: Path) -> None:
    """The page's own policy is the second line of defence; without it this test would find the mark."""
    text = (hostile / PAGE).read_text().replace("</main>", "<script>window.hacked=1</script></main>")
    (tmp_path / PAGE).write_text(text)
    shown = opened(tmp_path / PAGE)
    assert shown.page.evaluate("window.hacked") is None
    refusals, shown.trouble[:] = shown.trouble[:], []
    assert any("Content Security Policy" in refusal for refusal in refusals)


def test_of_twenty_policies_those_that_matter_are_seen_first(opened: Open, crowded: Path) -> None:
    assert (crowded / PAGE).stat().st_size < 10e6
    shown = opened(crowded / PAGE)
    pressed = shown.page.locator(".chips button[aria-pressed='true']").all_inner_texts()
    assert {"foresail", "hpa", "clairvoyant"} <= set(pressed)
    assert len(pressed) == 5
    assert shown.curves("timeline") == 1 + 5 * 5
    assert shown.curves("pareto") == 21  # all, and the front
    names = shown.drawn("pareto").locator(".textpoint").all_text_contents()
    boxes = [each.bounding_box() for each in shown.drawn("pareto").locator(".textpoint").all()]
    boxes = [box for box, name in zip(boxes, names, strict=True) if name.strip() and box]
    assert len(boxes) > 12
    assert [(a, b) for i, a in enumerate(boxes) for b in boxes[:i] if _overlap(a, b)] == []


def _overlap(one: dict[str, float], other: dict[str, float]) -> bool:
    """Whether two boxes share more than the two pixels by which a font's box is higher than its letters."""
    across = min(one["x"] + one["width"], other["x"] + other["width"]) - max(one["x"], other["x"])
    down = min(one["y"] + one["height"], other["y"] + other["height"]) - max(one["y"], other["y"])
    return across > 2 and down > 2


def test_plots_have_words_for_those_who_do_not_see_them(opened: Open, real: Path) -> None:
    shown = opened(real / PAGE)
    plots = shown.page.locator("[role=img]")
    assert plots.count() == 3
    for plot in plots.all():
        assert len(plot.get_attribute("aria-label")) > 40
    assert shown.page.locator("table th[scope=row]").count() > 8
