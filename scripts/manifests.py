"""What does the chart install, as plain manifests for those without Helm? Writes deploy/manifests from deploy/examples.

It also writes the definition of ScalingPolicy into the chart, from the settings models. Run it with ``make manifests``
after a change of either; a test says when that was forgotten.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from controller.adapters.kube.policy_schema import PLURAL, definition

ROOT = Path(__file__).resolve().parents[1]
CHART = ROOT / "deploy" / "chart"
EXAMPLES = ROOT / "deploy" / "examples"
MANIFESTS = ROOT / "deploy" / "manifests"
DEFINITION = CHART / "crds" / f"{PLURAL}.yaml"
RELEASE = NAMESPACE = "foresail"
HEADER = """\
# Written by `make manifests` from deploy/chart with deploy/examples/{name}.yaml; never edited by hand.
# Give the image its place, and the settings theirs: docs/install.md.
"""
_OF_HELM = {"helm.sh/chart", "helm.sh/resource-policy", "app.kubernetes.io/managed-by"}
_FIRST = ("ServiceAccount", "Role", "RoleBinding", "ClusterRole", "ClusterRoleBinding", "ConfigMap")


class _Dumper(yaml.SafeDumper):
    """Writes texts of several lines as they are."""


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _text)


def manifest(name: str) -> str:
    """Return the objects that the values in deploy/examples/``name``.yaml make, without Helm's own marks."""
    import helm_python as helm

    values = yaml.safe_load((EXAMPLES / f"{name}.yaml").read_text())
    with helm.Chart.load(CHART) as chart:
        files = chart.render(values, name=RELEASE, namespace=NAMESPACE)
    texts = [files[template] for template in sorted(files) if template.endswith(".yaml")]
    objects = [_without_helm(found) for text in texts for found in yaml.safe_load_all(text) if found]
    return HEADER.format(name=name) + "---\n".join(_dumped(_in_order(objects)))


def custom_resource() -> str:
    """Return the definition of ScalingPolicy."""
    header = "# Written by `make manifests` from controller/adapters/kube/policy_schema.py; never edited by hand.\n"
    return header + _dumped([definition()])[0]


def _without_helm(found: dict[str, Any]) -> dict[str, Any]:
    metadata = dict(found["metadata"])
    for part in ("labels", "annotations"):
        left = {key: value for key, value in metadata.pop(part, {}).items() if key not in _OF_HELM}
        metadata |= {part: left} if left else {}
    return {**found, "metadata": metadata}


def _in_order(objects: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return what others refer to before what refers to it."""
    ranks = {kind: rank for rank, kind in enumerate(_FIRST)}
    return sorted(objects, key=lambda found: ranks.get(found["kind"], len(ranks)))


def _dumped(objects: Iterable[Mapping[str, Any]]) -> list[str]:
    return [yaml.dump(found, Dumper=_Dumper, sort_keys=False, width=120, allow_unicode=True) for found in objects]


def main() -> None:
    """Write the definition, and a manifest for each example."""
    DEFINITION.write_text(custom_resource())
    for example in sorted(EXAMPLES.glob("*.yaml")):
        (MANIFESTS / example.name).write_text(manifest(example.stem))
        sys.stdout.write(f"deploy/manifests/{example.name} written\n")


if __name__ == "__main__":
    main()
