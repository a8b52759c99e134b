"""Does a browser show what a search of settings found: offline, on a phone, in the dark, with hostile names?"""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from foresail import main
from simulations.tables import percent
from simulations.tuning.command import FRONT, PAGE
from tests.builders_browser import PHONE, Open

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

EVIL = "<img src=x onerror=window.hacked=1>.csv"


def searched(folder: Path, name: str, *options: str) -> Path:
    """Return the folder of a search over HPA's target on six minutes of two waves, from a start that is wasteful."""
    rng = np.random.default_rng(0)
    at_s = np.sort(np.concatenate([rng.uniform(0, 360, 500), rng.uniform(60, 120, 200), rng.uniform(260, 320, 200)]))
    trace = folder / name
    trace.write_text("arrival_s,prompt_tokens,output_tokens\n" + "".join(f"{at:.3f},400,60\n" for at in at_s))
    code = main([
        "tune", "--trace", str(trace), "--policy", "hpa", "--set", "hpa.target_ratio=0.02",
        "--set", "hpa.down_window_s=15", "--tune", "hpa.target_ratio=0.02:2:log", "--initial", "6", "--max", "8",
        "--profile", "llama-3.1-8b-l40s-tp1", "--lead-time-s", "30", "--seeds", "2", "--workers", "1",
        "--search-share", "0.5", "--batch", "4", "--out", str(folder / "out"), *options,
    ])  # fmt: skip
    assert code == 0
    return folder / "out"


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a search that advises something, with trials on both sides of the objective."""
    return searched(tmp_path_factory.mktemp("tuned"), "waves.csv", "--trials", "12", "--ttft-s", "0.3")


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a search on a trace with a hostile name, whose advice is to change nothing."""
    folder = tmp_path_factory.mktemp("hostile")
    return searched(folder, EVIL, "--trials", "4", "--budget-gpu-hours", "0.001")


def front_of(folder: Path) -> Any:
    return json.loads((folder / FRONT).read_text())


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_loads_offline_and_both_parts_are_drawn(opened: Open, tuned: Path, scheme: str) -> None:
    shown = opened(tuned / PAGE, scheme=scheme)
    box = shown.drawn("trials").locator(".main-svg").first.bounding_box()
    assert box["width"] > 900
    assert box["height"] > 400
    found = front_of(tuned)
    for panel, points in (("xy", {0, *(trial["trial"] for trial in found["trials"])}), ("x2y2", {0, *looked(found)})):
        numbers = shown.drawn("trials").locator(f".subplot.{panel} .scatterlayer .trace path.point").count()
        assert numbers >= len(points)
    assert len(found["trials"]) == 12
    ink, paper = (
        shown.page.evaluate(f"getComputedStyle(document.body).{name}") for name in ("color", "backgroundColor")
    )
    assert (brightness(ink) > brightness(paper)) == (scheme == "dark")
    title = shown.drawn("trials").locator(".xtitle")
    assert brightness(title.evaluate("each => getComputedStyle(each).fill")) == brightness(ink)
    assert shown.drawn("trials").get_attribute("role") == "img"
    assert len(shown.drawn("trials").get_attribute("aria-label")) > 40


def looked(found: Any) -> list[int]:
    return [candidate["trial"] for candidate in found["candidates"]]


def brightness(colour: str) -> int:
    return sum(int(each) for each in colour.removeprefix("rgb(").removesuffix(")").split(","))


def test_the_best_settings_and_how_to_get_them_again_are_told(opened: Open, tuned: Path) -> None:
    found = front_of(tuned)
    shown = opened(tuned / PAGE)
    assert found["advice"]["trial"] > 0
    headline = shown.page.locator(".headline").inner_text()
    assert headline == f"Take trial {found['advice']['trial']}: {found['advice']['why']}."
    diff = shown.page.locator("pre.diff").inner_text()
    assert diff == found["advice"]["diff"].rstrip("\n")
    assert f"+  - hpa.target_ratio={found['advice']['values']['hpa.target_ratio']}" in diff
    rows = shown.page.locator("table tbody tr")
    assert rows.locator("th").all_inner_texts() == ["baseline", *map(str, looked(found))]
    chosen = next(one for one in found["candidates"] if one["taken"])
    cells = shown.page.locator("tr.ours td").all_inner_texts()
    assert cells[:4] == [
        text
        for part in ("search", "validation")
        for text in (f"{chosen[part]['gpu_hours']:.4g}", percent(chosen[part]["attainment_ratio"]))
    ]
    words = shlex.split(shown.page.locator("main > pre").inner_text())
    assert words[:2] == ["foresail", "tune"]
    assert "hpa.target_ratio=0.02:2:log" in words
    assert str(tuned) in words
    assert "sha256" in shown.page.locator("dl.facts").inner_text()


def test_the_command_on_the_page_gives_the_page_again(opened: Open, tuned: Path) -> None:
    command = shlex.split(opened(tuned / PAGE).page.locator("main > pre").inner_text())
    before = (tuned / PAGE).read_bytes(), (tuned / FRONT).read_bytes()
    assert main(command[1:]) == 0
    assert ((tuned / PAGE).read_bytes(), (tuned / FRONT).read_bytes()) == before


def test_a_point_tells_its_settings_and_a_name_in_the_legend_hides_its_points(opened: Open, tuned: Path) -> None:
    found = front_of(tuned)
    shown = opened(tuned / PAGE)
    plot = shown.drawn("trials")
    plot.scroll_into_view_if_needed()
    star = plot.locator(".subplot.x2y2 .scatterlayer .trace").filter(has_text=str(found["advice"]["trial"]))
    box = star.locator("path.point").first.bounding_box()
    for off in (2, 0):
        shown.page.mouse.move(box["x"] + box["width"] / 2 + off, box["y"] + box["height"] / 2)
    told = plot.locator(".hoverlayer .hovertext").first
    told.wait_for(timeout=10_000)
    advice = found["advice"]
    assert told.text_content().startswith(f"trial {advice['trial']}: ")
    assert told.text_content().endswith(f"hpa.target_ratio = {advice['values']['hpa.target_ratio']}")
    before = shown.curves("trials")
    legend = plot.locator(".legend .traces").filter(has_text="baseline").locator(".legendtoggle")
    legend.click()
    sync_api.expect(plot.locator(".scatterlayer .trace")).to_have_count(before - 2)  # it is on both parts
    legend.click()
    sync_api.expect(plot.locator(".scatterlayer .trace")).to_have_count(before)


@pytest.mark.parametrize("search", ["tuned", "hostile"])
def test_a_phone_needs_no_scrolling_sideways(opened: Open, search: str, request: pytest.FixtureRequest) -> None:
    shown = opened(request.getfixturevalue(search) / PAGE, PHONE)
    assert shown.page.evaluate("document.scrollingElement.scrollWidth") <= PHONE[0]
    assert shown.drawn("trials").locator(".main-svg").first.bounding_box()["width"] <= PHONE[0]


def test_hostile_names_do_nothing_and_no_better_settings_are_told_as_such(opened: Open, hostile: Path) -> None:
    shown = opened(hostile / PAGE)
    assert shown.page.evaluate("window.hacked") is None
    assert shown.page.locator("img").count() == 0
    assert shown.page.locator("script").count() == 3
    assert EVIL in shown.page.locator("header").inner_text()
    assert EVIL in shown.page.locator("main > pre").inner_text()
    assert shown.page.locator(".headline").inner_text().startswith("Keep the settings as they are: no trial keeps")
    assert shown.page.locator("pre.diff").count() == 0


def test_an_injected_script_would_not_be_run(opened: Open, hostile: Path, tmp_path: Path) -> None:
    """The page's own policy is the second line of defence; without it this test would find the mark."""
    text = (hostile / PAGE).read_text().replace("</main>", "<script>window.hacked=1</script></main>")
    (tmp_path / PAGE).write_text(text)
    shown = opened(tmp_path / PAGE)
    assert shown.page.evaluate("window.hacked") is None
    refusals, shown.trouble[:] = shown.trouble[:], []
    assert any("Content Security Policy" in refusal for refusal in refusals)
