"""Do the dashboards and the alert rules ask only for what the daemon really publishes, and do the alerts work?"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml

from controller.adapters.kube.changes import METHODS
from controller.adapters.sql_audit import OUTCOME_KINDS, kind_of
from controller.cluster_figures import CODES, FINE, NO_ANSWER, OTHER
from controller.ports import Outcome, TickPhase
from forecasting.drift import DRIFT_KINDS
from forecasting.series import CHANNELS
from policies.fleet import Phase
from tests.builders_metrics_page import published
from tests.builders_records import blind_tick

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "deploy" / "chart"
RULES = CHART / "rules" / "foresail.yaml"
TESTS = Path(__file__).parent / "alert_tests.yaml"
DASHBOARDS = sorted((CHART / "dashboards").glob("*.json"))
OF_THE_SCRAPE = {"namespace", "shard", "job", "instance", "le"}
"""Labels that Prometheus adds, or that are part of a histogram."""

needs_promtool = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="promtool is not installed: apt-get install prometheus"
)


@pytest.fixture(scope="module")
def page() -> Mapping[str, set[str]]:
    return published()


def alerts() -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]


def targets(dashboard: Path) -> Iterator[dict[str, Any]]:
    for panel in json.loads(dashboard.read_text())["panels"]:
        yield from panel.get("targets", ())  # a row has none


def expressions() -> list[str]:
    queried = [target["expr"] for dashboard in DASHBOARDS for target in targets(dashboard)]
    return [rule["expr"] for rule in alerts()] + queried


METRIC = re.compile(r"\b((?:foresail|wva)_\w+)(?:\{([^}]*)\})?")


def test_there_is_a_dashboard_of_the_fleet_and_one_of_the_controller() -> None:
    assert [dashboard.stem for dashboard in DASHBOARDS] == ["controller", "fleet"]


@pytest.mark.parametrize("expression", expressions())
def test_what_is_asked_for_is_published(expression: str, page: Mapping[str, set[str]]) -> None:
    used = METRIC.findall(expression)
    assert used
    for name, matchers in used:
        assert name in page
        assert set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", matchers)) <= page[name] | OF_THE_SCRAPE
    grouped = re.findall(r"\b(?:by|on|without)\s*\(([^)]*)\)", expression)
    labels = {label.strip() for names in grouped for label in names.split(",") if label.strip()}
    assert labels <= set().union(*(page[name] for name, _ in used)) | OF_THE_SCRAPE


def test_words_in_matchers_are_words_of_the_program() -> None:
    """A misspelled phase or outcome would match nothing, and look like peace."""
    known = {
        "phase": {str(phase) for phase in Phase} | {*get_args(TickPhase), "whole"},
        "kind": set(DRIFT_KINDS),
        "channel": {channel.removesuffix("_per_s") for channel in CHANNELS},
        "outcome": {*get_args(Outcome), *OUTCOME_KINDS, kind_of(blind_tick(0.0))},
        "result": {"done", "nothing", "failed", "told", "refused", "dropped"},
        "code": {*CODES, FINE, NO_ANSWER, OTHER},
        "verb": set(METHODS),
    }
    found = [match for text in expressions() for match in re.findall(r'(\w+)\s*(?:=~|!=|=)\s*"([^"$]*)"', text)]
    assert found
    for label, values in found:
        assert set(values.split("|")) <= known[label], (label, values)


def test_legends_name_labels_that_are_left(page: Mapping[str, set[str]]) -> None:
    for dashboard in DASHBOARDS:
        for target in targets(dashboard):
            (first, *_) = [name for name, _ in METRIC.findall(target["expr"])]
            named = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
            summed = re.search(r"\bby\s*\(([^)]*)\)", target["expr"])
            left = {label.strip() for label in summed[1].split(",")} if summed else page[first] | OF_THE_SCRAPE
            assert named <= left, target


def test_panels_have_places_of_their_own_and_say_where_data_comes_from() -> None:
    for dashboard in DASHBOARDS:
        told = json.loads(dashboard.read_text())
        assert len({panel["id"] for panel in told["panels"]}) == len(told["panels"])
        taken = [
            (x, y)
            for panel in told["panels"]
            for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
            for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
        ]
        assert len(set(taken)) == len(taken)
        assert max(x for x, _ in taken) < 24
        assert {target["datasource"]["uid"] for target in targets(dashboard)} == {"${datasource}"}


def test_every_metric_that_tells_of_trouble_has_an_alert_or_a_panel(page: Mapping[str, set[str]]) -> None:
    shown = {name for text in expressions() for name, _ in METRIC.findall(text)}
    left_out = {"foresail_tick_seconds_count", "foresail_tick_seconds_sum", "wva_desired_ratio"}
    assert set(page) - shown == left_out


# Alerts


def test_every_alert_says_how_bad_it_is_and_what_to_do() -> None:
    names = [rule["alert"] for rule in alerts()]
    assert len(set(names)) == len(names)
    for rule in alerts():
        assert rule["labels"]["severity"] in {"critical", "warning", "info"}
        assert set(rule["annotations"]) == {"summary", "description"}


@needs_promtool
def test_promtool_accepts_the_rules() -> None:
    told = subprocess.run(
        ["/usr/bin/env", "promtool", "check", "rules", RULES], capture_output=True, text=True, check=False
    )
    assert told.returncode == 0, told.stdout + told.stderr
    assert f"{len(alerts())} rules found" in told.stdout


@needs_promtool
def test_promtool_can_read_every_query_of_a_dashboard(tmp_path: Path) -> None:
    queries = [target["expr"] for dashboard in DASHBOARDS for target in targets(dashboard)]
    rules = [{"record": f"panel_{number}", "expr": query} for number, query in enumerate(queries)]
    file = tmp_path / "queries.yaml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": rules}]}))
    told = subprocess.run(
        ["/usr/bin/env", "promtool", "check", "rules", file], capture_output=True, text=True, check=False
    )
    assert told.returncode == 0, told.stdout + told.stderr


def query_of(title: str) -> str:
    """Return the last query of a panel, for every instance."""
    panels = [panel for dashboard in DASHBOARDS for panel in json.loads(dashboard.read_text())["panels"]]
    (panel,) = [panel for panel in panels if panel["title"] == title]
    expression: str = panel["targets"][-1]["expr"]
    return expression.replace("$instance", ".*")


@needs_promtool
@pytest.mark.parametrize(
    ("title", "expected"),
    [
        ("Standing by", {"0m": 1, "90m": 0}),
        ("Leader over time", {"90m": 2, "119m": 0}),
        ("Oldest watch", {"0m": 30, "90m": 120}),
    ],
)
def test_a_panel_shows_what_its_title_says(title: str, expected: dict[str, int], tmp_path: Path) -> None:
    """Two replicas hand the lease over twice; from minute 60 on the one is gone, and the watches of the other age."""
    of = 'namespace="f", job="foresail", instance'
    watch = "foresail_watch_age_seconds"
    series = {
        f'foresail_leader{{{of}="i"}}': "0x40 1x80",
        f'foresail_leader{{{of}="j"}}': "1x40 0x19 stale",
        'foresail_leader{namespace="g", job="foresail", instance="alone"}': "1x120",
        f'foresail_lease_age_seconds{{{of}="i"}}': "1x120",
        f'foresail_lease_age_seconds{{{of}="j"}}': "1x59 stale",
        f'foresail_lease_transitions{{{of}="i"}}': "5x35 7x85",
        f'{watch}{{{of}="i", resource="pods"}}': "30x60 120x60",
        f'{watch}{{{of}="i", resource="nodes"}}': "10x120",
    }
    asked = [
        {
            "expr": f"max({query_of(title)})",
            "eval_time": at,
            "exp_samples": [{"labels": "{}", "value": value}],
        }
        for at, value in expected.items()
    ]
    inputs = [{"series": name, "values": values} for name, values in series.items()]
    tests = {"evaluation_interval": "1m",
             "tests": [{"interval": "1m", "input_series": inputs, "promql_expr_test": asked}]}  # fmt: skip
    (tmp_path / "panels.yaml").write_text(yaml.safe_dump(tests))
    command = ["/usr/bin/env", "promtool", "test", "rules", "panels.yaml"]
    told = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert told.returncode == 0, told.stdout + told.stderr


def promtool_on(rules: str, folder: Path) -> subprocess.CompletedProcess[str]:
    (folder / "foresail.yaml").write_text(rules)
    shutil.copy(TESTS, folder)
    command = ["/usr/bin/env", "promtool", "test", "rules", TESTS.name]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


@needs_promtool
def test_alerts_fire_on_what_they_are_for_and_not_on_what_is_normal(tmp_path: Path) -> None:
    told = promtool_on(RULES.read_text(), tmp_path)
    assert told.returncode == 0, told.stdout + told.stderr


def test_every_alert_is_tried_both_ways() -> None:
    cases = [case for test in yaml.safe_load(TESTS.read_text())["tests"] for case in test["alert_rule_test"]]
    fires = {case["alertname"] for case in cases if case.get("exp_alerts")}
    silent = {case["alertname"] for case in cases if not case.get("exp_alerts")}
    assert fires == silent == {rule["alert"] for rule in alerts()}


@needs_promtool
@pytest.mark.parametrize("name", [rule["alert"] for rule in alerts()])
def test_the_tests_notice_an_alert_that_never_fires(name: str, tmp_path: Path) -> None:
    told = yaml.safe_load(RULES.read_text())
    for group in told["groups"]:
        for rule in group["rules"]:
            if rule["alert"] == name:
                rule["expr"] = f"({rule['expr']}) and vector(0) > 1"
    assert name in promtool_on(yaml.safe_dump(told), tmp_path).stderr
