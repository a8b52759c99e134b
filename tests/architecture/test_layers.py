"""Do the layers hold, and does asking for help stay instant?"""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LAYERS = ("training", "simulations", "controller", "policies", "forecasting")
HEAVY = ("torch", "pandas", "mlflow", "statsmodels", "numpy", "scipy", "matplotlib", "sqlalchemy", "pydantic", "rich")


def imported_by(file: Path) -> set[str]:
    """Return the modules that ``file`` imports anywhere, also inside functions."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def test_the_contracts_hold() -> None:
    linter = "import sys; from importlinter.cli import lint_imports_command as run; sys.exit(run())"
    run = subprocess.run(
        [sys.executable, "-c", linter, "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stdout + run.stderr


def test_the_contracts_are_those_of_the_design() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    by_type = {contract["name"]: contract for contract in contracts}
    (layers,) = [contract for contract in by_type.values() if contract["type"] == "layers"]
    assert tuple(layers["layers"]) == LAYERS


@pytest.mark.parametrize("layer", LAYERS)
def test_imports_only_go_down(layer: str) -> None:
    """The same as the layers contract, counted by other means: a linter that finds nothing may also look at nothing."""
    above = set(LAYERS[: LAYERS.index(layer)])
    files = list((ROOT / layer).rglob("*.py"))
    assert files
    climbing = {
        str(f.relative_to(ROOT)): up for f in files if (up := {i.split(".")[0] for i in imported_by(f)} & above)
    }
    assert climbing == {}


def test_the_command_line_imports_no_layer_but_the_error_tree() -> None:
    ours = {name for name in imported_by(ROOT / "foresail.py") if name.split(".")[0] in LAYERS}
    assert {name for name in ours if not name.startswith("controller.errors")} == set()


def test_mlflow_is_named_in_two_files_only() -> None:
    files = [f for layer in LAYERS for f in (ROOT / layer).rglob("*.py")]
    users = {str(f.relative_to(ROOT)) for f in files if any(i.split(".")[0] == "mlflow" for i in imported_by(f))}
    assert users <= {"controller/adapters/mlflow_registry.py", "training/tracking.py"}


def test_only_the_system_clock_reads_the_time() -> None:
    files = [ROOT / "foresail.py", *(f for layer in LAYERS for f in (ROOT / layer).rglob("*.py"))]
    users = {str(f.relative_to(ROOT)) for f in files if "time" in imported_by(f)}
    assert users == {"controller/adapters/system_clock.py"}


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["explain", "--help"], ["config", "--help"]])
def test_asking_for_help_imports_nothing_heavy(arguments: list[str]) -> None:
    script = (
        "import sys, foresail\n"
        f"code = foresail.main({arguments!r})\n"
        f"loaded = sorted(set({HEAVY!r}) & set(sys.modules))\n"
        "print(loaded, file=sys.stderr)\n"
        "sys.exit(code or bool(loaded))\n"
    )
    run = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
