"""Can Foresail be installed from what is in the repository: its wheel, its pins, its two commands, its entry point?"""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

import foresail

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("forecasting", "policies", "controller", "simulations", "training")


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel built with the installed build backend, so without any network."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True)
    (built,) = folder.glob("*.whl")
    return built


def files_of(package: str) -> set[str]:
    """Return a package's files as they are in the working tree, caches aside."""
    found = (ROOT / package).rglob("*")
    return {str(f.relative_to(ROOT)) for f in found if f.is_file() and "__pycache__" not in f.parts}


def test_the_wheel_holds_the_packages_and_the_command_line_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        wheel_names = {name for name in archive.namelist() if not name.endswith("/")}
    metadata = {name for name in wheel_names if name.startswith("foresail-")}
    assert wheel_names - metadata == {"foresail.py"}.union(*(files_of(package) for package in PACKAGES))
    assert any(name.endswith("licenses/LICENSE") for name in metadata)
    assert {"controller/signals/signals.yaml", "controller/signals/vllm.yaml"} <= wheel_names


def test_every_folder_with_modules_is_a_package() -> None:
    folders = {f.parent for package in PACKAGES for f in (ROOT / package).rglob("*.py")}
    assert sorted(str(f.relative_to(ROOT)) for f in folders if not (f / "__init__.py").is_file()) == []


def test_the_entry_point_is_the_command_line(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (listing,) = [name for name in archive.namelist() if name.endswith("entry_points.txt")]
        scripts = archive.read(listing).decode()
    entry = EntryPoint("foresail", dict(re.findall(r"(\w+) = (\S+)", scripts))["foresail"], "console_scripts")
    assert entry.load() is foresail.main


def test_the_version_is_the_one_that_the_changelog_speaks_of(project: dict[str, Any]) -> None:
    assert project["tool"]["hatch"]["version"]["path"] == "foresail.py"
    changelog = (ROOT / "CHANGELOG.md").read_text()
    assert re.search(rf"^## \[(Unreleased|{re.escape(foresail.__version__)})\]", changelog, re.MULTILINE)


def pins() -> dict[str, Version]:
    """Return the pinned version of each package, by canonical name."""
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    found = {}
    for line in lines:
        if line and not line.startswith("#"):
            name, _, version = line.partition("==")
            found[canonicalize_name(name)] = Version(version)
    return found


def requirements(project: dict[str, Any]) -> list[Requirement]:
    extras = project["project"]["optional-dependencies"]
    return [Requirement(line) for lines in (project["project"]["dependencies"], *extras.values()) for line in lines]


def test_every_dependency_is_pinned_within_its_bounds(project: dict[str, Any]) -> None:
    pinned = pins()
    wrong = [
        str(needed)
        for needed in requirements(project)
        if (name := canonicalize_name(needed.name)) not in pinned or pinned[name] not in needed.specifier
    ]
    assert wrong == []


def test_torch_resolves_to_one_version_on_any_machine(project: dict[str, Any]) -> None:
    (torch,) = [needed for needed in requirements(project) if needed.name == "torch"]
    assert str(torch.specifier) == "<2.14,>=2.13"
    assert str(pins()["torch"]) == "2.13.0"


def test_what_is_imported_is_declared(project: dict[str, Any]) -> None:
    """A library that is only there because another one brought it goes away with that one."""
    names = {"PyYAML": "yaml", "grpcio": "grpc", "mlflow-skinny": "mlflow", "protobuf": "google"}
    extras = project["project"]["optional-dependencies"]
    of_extras = (line for name in ("keda", "live", "profiles", "ray") for line in extras[name])
    lines = [*project["project"]["dependencies"], *of_extras]
    declared = {names.get(needed.name, needed.name.lower().replace("-", "_")) for needed in map(Requirement, lines)}
    ours = {*PACKAGES, "foresail"}
    imports = re.compile(r"^\s*(?:from|import) (\w+)", re.MULTILINE)
    files = [ROOT / "foresail.py", *(f for package in PACKAGES for f in (ROOT / package).rglob("*.py"))]
    found = {name for f in files for name in imports.findall(code_of(f))}
    # pydantic_core holds the types of pydantic's own errors, and is released together with it.
    undeclared = found - declared - ours - set(sys.stdlib_module_names) - {"pydantic_core"}
    assert sorted(undeclared) == []


def code_of(file: Path) -> str:
    """Return the source without its docstrings, in which a line may begin with ``from``."""
    return re.sub(r'"""[\s\S]*?"""', '""', file.read_text())


def test_the_readme_gets_going_with_exactly_two_commands() -> None:
    readme = (ROOT / "README.md").read_text()
    assert set(re.findall(r"^\s*(make \w+)", readme, re.MULTILINE)) == {"make demo", "make test"}


def recipe(target: str) -> tuple[list[str], str]:
    """Return the prerequisites and the recipe of a target of the Makefile."""
    text = (ROOT / "Makefile").read_text()
    match = re.search(rf"^{re.escape(target)}:(?!\s*export)([^#\n]*).*\n((?:\t.*\n)*)", text, re.MULTILINE)
    assert match, target
    return match[1].split(), match[2]


def test_make_test_sets_up_checks_and_tests() -> None:
    assert recipe("test")[0] == ["check"]
    assert "pytest" in recipe("test")[1]
    assert recipe("check")[0] == recipe("demo")[0] == recipe("install")[0] == ["$(INSTALLED)"]
    for tool in ("ruff check .", "ruff format --check .", "mypy", "importlinter"):
        assert tool in recipe("check")[1]
    assert "scripts/setup.sh" in recipe("$(INSTALLED)")[1]


def test_the_build_machine_runs_make_test() -> None:
    script = ROOT / ".ci" / "run"
    lines = [line for line in script.read_text().splitlines() if not line.startswith("#")]
    assert lines[0] == "set -euo pipefail"
    assert lines[-1] == "make test"
    assert script.stat().st_mode & 0o111


def test_pre_commit_runs_the_same_checks() -> None:
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    entries = " ".join(hook["entry"] for repo in config["repos"] for hook in repo["hooks"])
    for tool in ("ruff check", "ruff format", "mypy", "lint-imports"):
        assert f".venv/bin/{tool}" in entries
    assert {repo["repo"] for repo in config["repos"]} == {"local"}


@pytest.mark.parametrize("script", ["scripts/setup.sh", ".ci/run"])
def test_shell_scripts_parse_and_stop_at_the_first_error(script: str) -> None:
    subprocess.run(["/bin/bash", "-n", str(ROOT / script)], check=True)
    assert "set -euo pipefail" in (ROOT / script).read_text()
