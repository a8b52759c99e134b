"""Does the tree keep the house rules that no linter knows?"""

from __future__ import annotations

import ast
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("forecasting", "policies", "controller", "simulations", "training")
CODE = sorted([ROOT / "foresail.py", *(f for package in PACKAGES for f in (ROOT / package).rglob("*.py"))])
TESTS = sorted((ROOT / "tests").rglob("*.py"))
MAX_MODULE_LINES = 450
MAX_TEST_LINES = 800
VAGUE_WORDS = {"utils", "util", "helpers", "helper", "manager", "handler"}
VAGUE_MODULES = VAGUE_WORDS | {"common", "core", "misc", "data", "info"}
SKIPPED_FOLDERS = {".git", ".venv", "__pycache__", "build", "dist", "node_modules", "foresail-runs", "mlruns"}


def relative(file: Path) -> str:
    return str(file.relative_to(ROOT))


def kept_files() -> list[Path]:
    """Return the files that belong to the repository: git's list where there is one, else all but caches."""
    listing = subprocess.run(
        ["/usr/bin/env", "git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if listing.returncode == 0:
        return [f for name in listing.stdout.split("\0") if name and (f := ROOT / name).is_file()]
    found = (f for f in ROOT.rglob("*") if f.is_file())
    return [f for f in found if not SKIPPED_FOLDERS.intersection(p for p in f.relative_to(ROOT).parts)]


def test_a_module_says_which_question_it_answers() -> None:
    mute = []
    for file in CODE:
        docstring = ast.get_docstring(ast.parse(file.read_text())) or ""
        first = (docstring.splitlines() or [""])[0]
        if len(first) < 20 or first[-1] not in ".?:!":
            mute.append(f"{relative(file)}: {first!r}")
    assert mute == []


@pytest.mark.parametrize(("files", "most"), [(CODE, MAX_MODULE_LINES), (TESTS, MAX_TEST_LINES)], ids=["code", "tests"])
def test_a_module_is_short_enough_to_be_read_at_once(files: list[Path], most: int) -> None:
    assert {relative(f): lines for f in files if (lines := len(f.read_text().splitlines())) > most} == {}


def test_names_say_what_a_thing_is() -> None:
    vague = [relative(f) for f in CODE if VAGUE_MODULES.intersection(f.stem.split("_"))]
    for file in CODE:
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                words = re.findall(r"[A-Z]?[a-z0-9]+", node.name)
                if {word.lower() for word in words} & VAGUE_WORDS:
                    vague.append(f"{relative(file)}: {node.name}")
    assert vague == []


def test_public_dataclasses_are_slotted() -> None:
    """A misspelled attribute must not be set without a word."""
    loose = [
        f"{relative(file)}: {node.name}"
        for file in CODE
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_")
        for decorator in map(ast.unparse, node.decorator_list)
        if decorator.startswith("dataclass") and "slots=True" not in decorator
    ]
    assert loose == []


def test_tests_are_sentences() -> None:
    short = [
        f"{relative(file)}: {node.name}"
        for file in TESTS
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_") and node.name.count("_") < 3
    ]
    assert short == []


def test_no_path_of_somebodys_machine_is_in_the_repository() -> None:
    homes = re.compile(rb"(?<![\w.])/(?:home|Users|root|work|opt|mnt)/\w")
    found = []
    for file in kept_files():
        for number, line in enumerate(file.read_bytes().splitlines(), 1):
            if homes.search(line) and b"homes = re.compile" not in line:
                found.append(f"{relative(file)}:{number}: {line.decode(errors='replace').strip()[:120]}")
    assert found == []


def test_no_package_index_is_named() -> None:
    """Where packages come from is the machine's business: pip is told by its own configuration."""
    config = [ROOT / name for name in ("pyproject.toml", "constraints.txt", "Makefile", ".ci/run", "scripts/setup.sh")]
    asked = re.compile(r"index-url|find-links|trusted-host|https?://", re.IGNORECASE)
    assert [relative(f) for f in config if asked.search(f.read_text())] == []


def test_nothing_is_pickled() -> None:
    pickling = re.compile(r"\b(?:pickle|joblib|cloudpickle|dill)\b|allow_pickle=True|torch\.(?:load|save)\(")
    assert [relative(f) for f in CODE if pickling.search(strip_comments(f))] == []


def strip_comments(file: Path) -> str:
    """Return the source without docstrings and comments, which may say what is not done."""
    text = re.sub(r'"""[\s\S]*?"""', '""', file.read_text())
    return re.sub(r"#.*", "", text)


def test_linter_exceptions_carry_a_reason() -> None:
    bare = []
    for file in CODE:
        for number, line in enumerate(file.read_text().splitlines(), 1):
            for mark in (r"# type: ignore\[[\w, -]+\](.*)", r"# noqa: [\w, ]+(.*)"):
                match = re.search(mark, line)
                if match and len(match[1].strip(" -#")) < 8:
                    bare.append(f"{relative(file)}:{number}")
    assert bare == []
