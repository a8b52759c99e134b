"""Do the examples of docs/keda.md ask for what is published, and get the figure of whoever decides now?"""

from __future__ import annotations

import math
import re
import shutil
import subprocess
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from controller.adapters.kube.ownership import read_autoscaler
from controller.daemon_settings import DaemonSettings
from controller.modes import ModeSettings
from controller.status_server import split_address
from tests.builders_chart import ROOT, problems_of, rendered, the
from tests.builders_metrics_page import published

DOCS = (ROOT / "docs" / "keda.md").read_text()
BLOCKS: list[dict[str, Any]] = [
    yaml.safe_load(textwrap.dedent(found)) for found in re.findall(r"(?:^    .*\n)+", DOCS, re.MULTILINE)
]
OF_SCALED_OBJECTS = {
    "scaleTargetRef", "pollingInterval", "cooldownPeriod", "initialCooldownPeriod", "idleReplicaCount",
    "minReplicaCount", "maxReplicaCount", "advanced", "fallback", "triggers",
}  # fmt: skip
"""Fields of ``spec`` in keda.sh/v1alpha1."""
NEW, OLD = 'instance="10.0.0.2:9464"', 'instance="10.0.0.1:9464"'
TARGET = 'variant_name="llama-a100", namespace="serving", accelerator_type="A100"'


def block(key: str, value: object = None) -> dict[str, Any]:
    (found,) = [one for one in BLOCKS if key in one and value in (None, one[key])]
    return found


def scaled_object(kind: str) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the ScaledObject whose one trigger is of a kind, and the metadata of that."""
    objects = [one for one in BLOCKS if one.get("kind") == "ScaledObject"]
    (found,) = [one for one in objects if [trigger["type"] for trigger in one["spec"]["triggers"]] == [kind]]
    return found, found["spec"]["triggers"][0]["metadata"]


def query_of_keda() -> str:
    return scaled_object("prometheus")[1]["query"]


def query_of_adapter() -> str:
    """Return what the adapter asks Prometheus for where the HPA asks for its metric."""
    (rule,) = block("externalRules")["externalRules"]
    hpa = block("kind", "HorizontalPodAutoscaler")
    metric = hpa["spec"]["metrics"][0]["external"]["metric"]
    matchers = {"namespace": hpa["metadata"]["namespace"], **metric["selector"]["matchLabels"]}
    told = ", ".join(f'{label}="{said}"' for label, said in matchers.items())
    query: str = rule["metricsQuery"]
    return query.replace("<<.Series>>", metric["name"]).replace("<<.LabelMatchers>>", told)


def test_settings_are_settings() -> None:
    told = block("modes")
    ModeSettings.model_validate(told["modes"])
    telemetry = DaemonSettings.model_validate(told["daemon"]).telemetry
    scaled, trigger = scaled_object("external-push")
    assert telemetry.namespace == scaled["metadata"]["namespace"]
    assert telemetry.variants[trigger["pool"]] == scaled["spec"]["scaleTargetRef"]["name"]


def test_the_scaler_is_asked_where_it_listens_and_known_to_follow() -> None:
    (listens,) = [said for one in BLOCKS if (said := DaemonSettings.model_validate(one.get("daemon", {})).keda)]
    scaled, trigger = scaled_object("external-push")
    objects = rendered(block("keda"))
    service = the(objects, "Service", "foresail-keda")
    name, namespace, port = (*(service["metadata"][key] for key in ("name", "namespace")), service["spec"]["ports"][0])
    assert trigger["scalerAddress"] == f"{name}.{namespace}.svc:{port['port']}"
    assert split_address(listens.address)[1] == port["port"]
    settings = yaml.safe_load(the(objects, "ConfigMap")["data"]["foresail.yaml"])
    assert settings["daemon"]["keda"] == listens.model_dump()
    assert "ScaledObject" in settings["platform"]["autoscalers"]
    known = read_autoscaler(scaled, "ScaledObject")
    assert known is not None
    assert known.follows


def test_objects_are_such_as_the_api_server_takes() -> None:
    hpa = block("kind", "HorizontalPodAutoscaler")
    assert not list(problems_of(hpa))
    for kind in ("prometheus", "external-push"):
        scaled, told = scaled_object(kind)
        assert set(scaled["spec"]) <= OF_SCALED_OBJECTS
        behavior = scaled["spec"]["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]
        assert behavior == hpa["spec"]["behavior"]  # checked there
        assert all(isinstance(said, str) for said in told.values())  # KEDA takes text alone there


def test_what_is_asked_for_is_published_with_these_labels() -> None:
    page: Mapping[str, set[str]] = published()
    for query in (query_of_keda(), query_of_adapter()):
        names = re.findall(r"\b((?:wva|foresail)_\w+)", query)
        assert names == ["wva_desired_replicas", "foresail_decision_age_seconds"]
        assert set(re.findall(r'(\w+)="', query)) == {"namespace", "variant_name"} <= page["wva_desired_replicas"]
    described = re.findall(r"^\| `(\w+)` \| (.*?) \|", DOCS, re.MULTILINE)
    assert {name: set(re.findall(r"`(\w+)`", labels)) for name, labels in described} == {
        name: page[name] for name, _ in described
    }


def wanted(figure: float, replicas: int, tolerance: float) -> int:
    """Return what an HPA wants of an external metric with an average to reach, as its controller works it out."""
    (target,) = [metric["external"]["target"] for metric in block("kind", "HorizontalPodAutoscaler")["spec"]["metrics"]]
    assert target["type"] == "AverageValue"
    average = float(target["averageValue"])
    ratio = figure / (average * replicas)
    return replicas if abs(1.0 - ratio) <= tolerance else math.ceil(figure / average)


def test_an_hpa_wants_what_the_figure_says_but_for_its_tolerance() -> None:
    assert [wanted(figure, 5, 0.1) for figure in (2, 4, 5, 6, 9)] == [2, 4, 5, 6, 9]
    assert wanted(21, 20, 0.1) == 20
    assert wanted(21, 20, 0.0) == 21


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed: apt-get install prometheus")
@pytest.mark.parametrize("query", [query_of_keda(), query_of_adapter()], ids=["keda", "adapter"])
def test_the_figure_of_the_newest_decision_counts_and_an_old_one_does_not(query: str, tmp_path: Path) -> None:
    """Two replicas: the old leader has fallen silent, the new one decides from the second minute to the fourth."""
    (tmp_path / "rules.yaml").write_text(
        yaml.safe_dump({"groups": [{"name": "a", "rules": [{"record": "got", "expr": query}]}]})
    )
    series = [
        {"series": f"wva_desired_replicas{{{TARGET}, {OLD}}}", "values": "9 9 9 9 9 9"},
        {"series": f"foresail_decision_age_seconds{{{OLD}}}", "values": "0 60 120 180 240 300"},
        {"series": f"wva_desired_replicas{{{TARGET}, {NEW}}}", "values": "_ _ 4 4 4 4"},
        {"series": f"foresail_decision_age_seconds{{{NEW}}}", "values": "_ _ 5 5 65 125"},
        {
            "series": f'wva_desired_replicas{{variant_name="other", namespace="serving", {NEW}}}',
            "values": "_ _ 7 7 7 7",
        },
    ]
    labels = '{variant_name="llama-a100"}' if "by (variant_name)" in query else ""
    expected = {"0m": 9, "1m": None, "2m": 4, "3m": 4, "4m": None}
    asked = [
        {"expr": "got", "eval_time": at, "exp_samples": [{"labels": f"got{labels}", "value": figure}] if figure else []}
        for at, figure in expected.items()
    ]
    tests = {"rule_files": ["rules.yaml"], "evaluation_interval": "1m",
             "tests": [{"interval": "1m", "input_series": series, "promql_expr_test": asked}]}  # fmt: skip
    (tmp_path / "tests.yaml").write_text(yaml.safe_dump(tests))
    command = ["/usr/bin/env", "promtool", "test", "rules", "tests.yaml"]
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
