"""Does a sweep try what the catalogue says, and tell the best in hindsight?"""

from __future__ import annotations

import json
from collections.abc import Mapping
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from controller.errors import BadInput
from policies.slo import ServiceObjective
from simulations.comparison import Spread, SummaryRow
from simulations.peers.catalogue import CATALOGUE, part_of, rhythm_of
from simulations.peers.names import POLICIES
from simulations.scenario import for_simulator, laid_over
from simulations.sweep import as_json, best_settings, sweep_table, variants_of, varied
from tests.builders_simulation import quick_settings
from tests.simulations.test_cli_simulate import QUICK, Run, run, trace  # noqa: F401 - fixtures


def row(policy: str, variant: str, attained: float, gpu_hours: float, on: str = "t") -> SummaryRow:
    figures: Mapping[str, float] = {"slo_attainment_ratio": attained, "gpu_hours": gpu_hours}
    spreads = {name: Spread(value, value, value) for name, value in figures.items()}
    return SummaryRow(on, policy, 1, spreads, None, None, 0, variant)


@pytest.mark.parametrize("policy", POLICIES)
def test_every_point_of_every_grid_is_a_setting_of_that_policy_and_differs_from_the_given_one(policy: str) -> None:
    settings = quick_settings()
    variants = variants_of(policy)
    assert next(iter(variants.items())) == ("", "")
    assert len(variants) == len(CATALOGUE[policy].grid) + 1
    tried = [varied(settings, changes) for changes in variants.values()]
    assert len({each.model_dump_json() for each in tried}) == len(tried)
    own = "policy" if policy == "foresail" else part_of(policy)
    for each in tried:
        assert each.model_copy(update={own: getattr(settings, own)}) == settings


def test_a_variant_keeps_what_was_set_before() -> None:
    settings = laid_over(quick_settings(), ["hpa.down_window_s=60"])
    hpa = varied(settings, "hpa.target_ratio=0.8").hpa
    assert (hpa.target_ratio, hpa.down_window_s) == (0.8, 60.0)
    scaling = varied(settings, "policy.scaling.headroom_ratio=0.3").policy.scaling
    assert scaling.headroom_ratio == 0.3


def test_a_variant_that_cannot_be_names_its_setting() -> None:
    with pytest.raises(BadInput, match=r"hpa\.target_ratio"):
        varied(quick_settings(), "hpa.target_ratio=-1")


def test_names_of_variants_say_policy_and_setting() -> None:
    assert variants_of("hpa")["hpa target_ratio=0.8"] == "hpa.target_ratio=0.8"
    assert variants_of("foresail")["foresail headroom_ratio=0.3"] == "policy.scaling.headroom_ratio=0.3"


def test_the_cheapest_that_attains_is_best_and_else_the_nearest() -> None:
    rows = [
        row("hpa", "", 0.995, 10.0),
        row("hpa", "hpa target_ratio=0.8", 0.991, 8.0),
        row("hpa", "hpa target_ratio=0.9", 0.97, 7.0),
        row("wva", "", 0.40, 3.0),
        row("wva", "wva up_window_s=0", 0.90, 6.0),
        row("wva", "wva kv_spare_trigger=0.3", 0.90, 5.0),
    ]
    hpa, wva = best_settings(rows, 0.99)
    assert (hpa.best.variant, hpa.attained, hpa.given.variant) == ("hpa target_ratio=0.8", True, "")
    assert hpa.changes == "hpa.target_ratio=0.8"
    assert (wva.best.variant, wva.attained) == ("wva kv_spare_trigger=0.3", False)


def test_traces_are_told_apart_and_nothing_finished_is_no_attainment() -> None:
    rows = [row("hpa", "", float("nan"), 1.0, on="a"), row("hpa", "", 0.999, 2.0, on="b")]
    first, second = best_settings(rows, 0.99)
    assert (first.attained, second.attained) == (False, True)
    assert as_json([first])[0]["slo_attainment_ratio"] is None


def test_the_table_has_both_and_marks_what_does_not_attain() -> None:
    rows = [row("hpa", "", 0.95, 10.0), row("hpa", "hpa target_ratio=0.5", 0.98, 12.0)]
    console = Console(file=StringIO(), width=100)
    console.print(sweep_table(best_settings(rows, 0.99), ServiceObjective()))
    text = console.file.getvalue()  # type: ignore[attr-defined]  # a StringIO
    assert "95.00%" in text
    assert "- 98.00%" in text
    assert "target_ratio=0.5" in text


# ---- rhythm, names and settings on the command line


def test_each_policy_has_its_own_rhythm_and_an_operator_may_change_it() -> None:
    settings = quick_settings()
    ticks = {name: rhythm_of(name, settings).tick_s for name in POLICIES}
    assert (ticks["knative"], ticks["dynamo-sla"], ticks["skyserve"], ticks["hpa"]) == (2.0, 5.0, 20.0, 15.0)
    assert ticks["foresail"] == ticks["static"] == ticks["clairvoyant"] == settings.policy.tick_s
    faster = laid_over(settings, ["knative.tick_s=1"])
    assert rhythm_of("knative", faster).tick_s == 1.0


def test_a_pipeline_of_its_own_replaces_the_worlds_and_none_leaves_it() -> None:
    settings = quick_settings()
    world = settings.fleet.model_copy(update={"scrape_interval_s": 30.0, "scrape_delay_s": 3.0})
    dynamo, hpa = rhythm_of("dynamo-latency", settings).seen_in(world), rhythm_of("hpa", settings).seen_in(world)
    assert (dynamo.scrape_interval_s, dynamo.scrape_delay_s) == (5.0, 0.0)
    assert hpa == world


def test_every_rivals_settings_are_reached_by_set() -> None:
    for name in POLICIES:
        assert name == "foresail" or for_simulator(f"{part_of(name)}.tick_s=5")


def test_an_unknown_setting_of_a_rival_lists_the_known_ones() -> None:
    with pytest.raises(BadInput, match="there is no such setting") as error:
        laid_over(quick_settings(), ["ray_serve.target=3"])
    assert "ray_serve.target_ongoing_requests" in error.value.remedy


def test_help_names_every_policy(run: Run) -> None:  # noqa: F811 - the fixture
    for command in ("simulate", "compare"):
        code, out, _ = run(command, "--help")
        assert code == 0
        assert all(f"  {name} " in out for name in POLICIES)


def test_an_unknown_policy_lists_all(run: Run, tmp_path: Path) -> None:  # noqa: F811 - the fixture
    code, _, err = run("compare", "--policies", "magic", "--out", tmp_path / "out")
    assert code == 2
    assert "dynamo-sla" in " ".join(err.split())


def test_a_sweep_writes_the_whole_front_and_prints_the_best(run: Run, trace: Path, tmp_path: Path) -> None:  # noqa: F811 - fixtures
    out = tmp_path / "out"
    code, text, err = run(
        "compare", "--trace", trace, "--policies", "static", "--sweep", "--workers", "1", "--out", out, *QUICK
    )
    assert (code, err) == (0, "")
    assert "at best in hindsight" in " ".join(text.split())
    written = json.loads((out / "compare.json").read_text())
    assert [line["variant"] for line in written["summary"]] == list(variants_of("static"))
    assert {run_.get("variant", "") for run_ in written["runs"]} == set(variants_of("static"))
    (best,) = written["best"]
    assert best["policy"] == "static"
    assert best["gpu_hours"] <= max(line["figures"]["gpu_hours"]["mean"] for line in written["summary"])


@pytest.mark.parametrize(
    "overrides",
    [
        ("knative.panic_window_s=90",),
        ("aibrix_kpa.stable_window_s=30",),
        ("dynamo_latency.down_ratio=0.5",),
        ("knative.tick_s=0",),
        ("phpa.seasonal=sometimes",),
    ],
)
def test_settings_of_rivals_that_make_no_sense_are_refused(overrides: tuple[str, ...]) -> None:
    with pytest.raises(BadInput, match=overrides[0].partition(".")[0]):
        laid_over(quick_settings(), overrides)
