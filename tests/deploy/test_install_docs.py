"""Do the instructions say what the chart does, and do their examples work?"""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

import yaml

from tests.builders_chart import CHART, EVERYTHING, FEATURES, IMAGE, of_kind, problems_of, rendered
from tests.builders_metrics_page import published

ROOT = Path(__file__).resolve().parents[2]
DOCS = (ROOT / "docs" / "install.md").read_text()


def rows(heading: str) -> list[list[str]]:
    """Return the cells of the table under a heading, head and rule left out."""
    section = DOCS.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def test_every_feature_is_described_with_its_default() -> None:
    defaults = yaml.safe_load((CHART / "values.yaml").read_text())["features"]
    told = {name.strip("`"): default for name, default, *_ in rows("Features and permissions")}
    assert told == {"(always)": "on"} | {name: "on" if is_on else "off" for name, is_on in defaults.items()}
    assert set(defaults) == set(FEATURES)


def test_every_admission_policy_is_described() -> None:
    policies = of_kind(rendered(EVERYTHING), "ValidatingAdmissionPolicy")
    named = {found["metadata"]["name"].removeprefix("foresail-foresail-") for found in policies}
    told = {name for first, _ in rows("What the admission policy does") for name in re.findall(r"`(\w+)`", first)}
    assert told == named


def test_values_that_are_described_are_there() -> None:
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    for names, *_ in rows("Values"):
        whole = ""
        for name in re.findall(r"`([\w.*]+)`", names):
            whole = whole.split(".", maxsplit=1)[0] + name if name.startswith(".") else name
            inner = values
            for part in whole.removesuffix(".*").split("."):
                assert part in inner, whole
                inner = inner[part]


def blocks(first_words: str) -> str:
    """Return the indented block of YAML that begins with some words."""
    lines = DOCS.splitlines()
    words = first_words.splitlines()
    start = next(
        number
        for number in range(len(lines))
        if all(line.strip().startswith(word) for line, word in zip(lines[number:], words, strict=False))
    )
    end = next(number for number in range(start, len(lines)) if not lines[number].strip())
    return textwrap.dedent("\n".join(lines[start:end]))


def test_the_values_of_the_examples_can_be_installed() -> None:
    begun = yaml.safe_load(blocks("image: {repository"))
    acting = {**IMAGE, "namespaces": begun["namespaces"], **yaml.safe_load(blocks("features: {scale"))}
    several = {**IMAGE, **yaml.safe_load(blocks("namespaces: [serving]\nfeatures"))}
    member = {**several, "replicas": 0, "settings": {}, "secretFiles": []}
    for values in (begun, acting, several, member):
        assert [problem for found in rendered(values) for problem in problems_of(found)] == []


def test_files_that_are_named_are_there() -> None:
    for name in re.findall(r"\b(?:deploy|docs|controller)/[\w./-]+\w", DOCS):
        assert (ROOT / name).exists(), name


def test_every_series_that_is_described_is_published_with_these_labels() -> None:
    page = published()
    told = rows("Watching it")
    assert len(told) > 10
    for names, labels, _ in told:
        for name in re.findall(r"`(\w+)`", names):
            assert page[name] == set(re.findall(r"`(\w+)`", labels)), name
