"""Builders of what the Helm chart renders, checked as the API server would check it."""

from __future__ import annotations

import functools
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

helm = pytest.importorskip("helm_python", reason="the chart is rendered by Helm itself: pip install '.[dev]'")

ROOT = Path(__file__).resolve().parents[1]
CHART = ROOT / "deploy" / "chart"
RELEASE = NAMESPACE = "foresail"
IMAGE = {"image": {"repository": "foresail"}}
FEATURES = (
    "nodes",
    "scale",
    "cordon",
    "restart",
    "delete",
    "rollBack",
    "avoidNodes",
    "route",
    "lease",
    "events",
    "policies",
)
WORKLOADS = [{"namespace": "serving", "kind": "Deployment", "name": "llama-a100", "minReplicas": 2, "maxReplicas": 40}]
EVERYTHING: dict[str, Any] = {
    "namespaces": ["serving", "batch"],
    "features": dict.fromkeys(FEATURES, True),
    "kinds": ["Deployment", "StatefulSet", "LeaderWorkerSet", "Rollout"],
    "customKinds": [{"group": "ray.io", "plural": "rayservices"}],
    "routes": ["HTTPRoute", "VirtualService"],
    "beside": ["InferencePool", "ScaledObject", "VerticalPodAutoscaler"],
    "workloads": WORKLOADS,
    "keda": {"enabled": True},
    "serviceMonitor": {"enabled": True},
    "alertRules": {"enabled": True},
    "dashboards": {"enabled": True},
    "secretFiles": ["prometheus"],
    "postgres": {"passfileSecret": "audit"},
    "priorityClassName": "system-cluster-critical",
    "networkPolicy": {"enginePorts": [8000]},
    "settings": {
        "audit": {"url": "postgresql+psycopg://foresail@db.data.svc/foresail"},
        "registry": {"store": "https://mlflow.ml.svc:5000"},
        "prometheus": {"url": "http://prometheus.monitoring.svc:9090"},
    },
}

Object = dict[str, Any]


@functools.cache
def chart() -> Any:
    """Return the chart, loaded once."""
    return helm.Chart.load(CHART)


@functools.cache
def access_chart() -> Any:
    """Return a chart of the roles alone, whose values are not checked: they are rendered in a tenth of the time."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "chart"
        shutil.copytree(CHART, copy)
        (copy / "values.schema.json").unlink()
        for template in (copy / "templates").iterdir():
            if not template.name.startswith("_") and template.name != "access.yaml":
                template.unlink()
        return helm.Chart.load(copy)


def rendered(values: Mapping[str, Any] | None = None, of: Any = None) -> list[Object]:
    """Return the objects that ``values`` make of the chart; NOTES aside."""
    files = (of or chart()).render({**IMAGE, **(values or {})}, name=RELEASE, namespace=NAMESPACE)
    texts = [files[name] for name in sorted(files) if name.endswith(".yaml")]
    return [found for text in texts for found in yaml.load_all(text, yaml.CSafeLoader) if found is not None]


def rendered_roles(values: Mapping[str, Any]) -> list[Object]:
    """Return the objects of ``access_chart()``, to be read and not changed.

    Thousands of combinations of values make some dozens of different documents, and to parse those takes longest.
    """
    files = access_chart().render({**IMAGE, **values}, name=RELEASE, namespace=NAMESPACE)
    texts = [text for name in sorted(files) if name.endswith(".yaml") for text in files[name].split("\n---\n")]
    return [found for text in texts if (found := _read(text)) is not None]


@functools.lru_cache(maxsize=4096)
def _read(document: str) -> Object | None:
    found: Object | None = yaml.load(document, yaml.CSafeLoader)
    return found


def notes(values: Mapping[str, Any] | None = None) -> str:
    """Return what is told after an installation with ``values``."""
    files: Mapping[str, str] = chart().render({**IMAGE, **(values or {})}, name=RELEASE, namespace=NAMESPACE)
    return files["foresail/templates/NOTES.txt"]


def refusal(values: Mapping[str, Any]) -> str:
    """Return why ``values`` cannot be installed."""
    with pytest.raises(helm.HelmError) as refused:
        chart().render({**IMAGE, **values}, name=RELEASE, namespace=NAMESPACE)
    return str(refused.value)


def of_kind(objects: list[Object], kind: str) -> list[Object]:
    """Return the objects of one kind."""
    return [found for found in objects if found["kind"] == kind]


def the(objects: list[Object], kind: str, name: str = RELEASE) -> Object:
    """Return the one object of a kind and name."""
    (found,) = [found for found in of_kind(objects, kind) if found["metadata"]["name"] == name]
    return found


def problems_of(found: Object) -> Iterator[str]:
    """Yield what the API server would refuse: wrong types, fields that are missing or unknown, names, labels."""
    name = f"{found.get('kind')} {found.get('metadata', {}).get('name')}"
    try:
        _validate(found)
    except ValueError as error:
        yield f"{name}: {error}"
    metadata = found["metadata"]
    if not re.fullmatch(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?", metadata["name"]):
        yield f"{name}: not a name"
    for key, value in metadata.get("labels", {}).items():
        if not re.fullmatch(r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?", value):
            yield f"{name}: label {key}: {value!r}"
        if not re.fullmatch(r"([a-z0-9][-a-z0-9.]*/)?[A-Za-z0-9][-A-Za-z0-9_.]{0,62}", key):
            yield f"{name}: label {key}"


_OPERATOR_FIELDS = {
    "ServiceMonitor": {"selector", "namespaceSelector", "endpoints"},
    "PrometheusRule": {"groups"},
}
"""Of the Prometheus operator, whose schemas no package holds: the fields of ``spec`` that we write."""
_ENDPOINT_FIELDS = {"port", "path", "interval", "honorLabels", "relabelings"}
_RULE_FIELDS = {"alert", "expr", "for", "labels", "annotations"}


def _validate(found: Object) -> None:
    """Check an object against the schema of its kind; raises ValueError."""
    if found["apiVersion"].startswith("monitoring.coreos.com/"):
        _validate_for_operator(found)
        return
    from kubernetes.client import models

    version = found["apiVersion"].rpartition("/")[2]
    model = getattr(models, f"{version.capitalize()}{found['kind']}")
    # By their names in JSON alone: the client's own names of fields are none of the API server's.
    model.model_validate(found, by_alias=True, by_name=False)


def _validate_for_operator(found: Object) -> None:
    spec, kind = found["spec"], found["kind"]
    unknown = set(spec) - _OPERATOR_FIELDS[kind]
    for endpoint in spec.get("endpoints", ()):
        unknown |= set(endpoint) - _ENDPOINT_FIELDS
    for group in spec.get("groups", ()):
        unknown |= set(group) - {"name", "rules", "interval"}
        unknown |= {field for rule in group["rules"] for field in set(rule) - _RULE_FIELDS}
    if unknown:
        raise ValueError(f"unknown fields {sorted(unknown)}")
