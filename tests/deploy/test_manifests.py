"""Are the plain manifests what the chart renders today, and can they be applied without Helm?"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
import yaml

import foresail
from tests.builders_chart import chart, problems_of

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = sorted((ROOT / "deploy" / "examples").glob("*.yaml"))


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("manifests", ROOT / "scripts" / "manifests.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_there_is_an_example_that_looks_and_one_that_acts() -> None:
    assert [example.stem for example in EXAMPLES] == ["act", "observe"]


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.stem)
def test_the_manifest_is_what_the_chart_renders(example: Path, script: ModuleType) -> None:
    kept = (ROOT / "deploy" / "manifests" / example.name).read_text()
    assert script.manifest(example.stem) == kept, "the chart changed: run `make manifests`"


def test_the_definition_of_the_custom_resource_is_that_of_the_settings_models(script: ModuleType) -> None:
    assert script.custom_resource() == script.DEFINITION.read_text(), "the settings changed: run `make manifests`"
    (bundled,) = chart().crds
    assert yaml.safe_load(bundled["data"]) == yaml.safe_load(script.custom_resource())


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.stem)
def test_the_manifest_can_be_applied_as_it_is(example: Path) -> None:
    text = (ROOT / "deploy" / "manifests" / example.name).read_text()
    objects = list(yaml.safe_load_all(text))
    assert [problem for found in objects for problem in problems_of(found)] == []
    assert "helm" not in text.lower()
    kinds = [found["kind"] for found in objects]
    assert kinds.index("ServiceAccount") < kinds.index("RoleBinding") < kinds.index("Deployment")


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.stem)
def test_the_settings_in_it_are_accepted(example: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    objects = yaml.safe_load_all((ROOT / "deploy" / "manifests" / example.name).read_text())
    (settings,) = [found["data"]["foresail.yaml"] for found in objects if found["kind"] == "ConfigMap"]
    (tmp_path / "foresail.yaml").write_text(settings)
    assert foresail.main(["config", "validate", str(tmp_path / "foresail.yaml")]) == 0, capsys.readouterr().err
