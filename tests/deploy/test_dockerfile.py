"""Is the image what it should be, as far as its recipe tells: pinned, small, without root, built from what is there?"""

from __future__ import annotations

import fnmatch
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml
from packaging.requirements import Requirement

import foresail
from tests.builders_chart import rendered, the

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILE = ROOT / "deploy" / "Dockerfile"
PACKAGES = ("controller", "forecasting", "policies", "simulations", "training")


class Step(NamedTuple):
    """One instruction, its continued lines joined."""

    word: str
    rest: str


def steps() -> list[Step]:
    text = re.sub(r"^\s*#.*\n", "", DOCKERFILE.read_text(), flags=re.MULTILINE)
    lines = re.sub(r"\\\n\s*", "", text).splitlines()
    return [Step(*line.split(None, 1)) for line in lines if line.strip()]


def stages() -> list[list[Step]]:
    """Return the instructions of each stage, each from its FROM on."""
    found: list[list[Step]] = []
    for step in steps():
        if step.word == "FROM":
            found.append([])
        if found:
            found[-1].append(step)
    return found


def rests(stage: list[Step], word: str) -> list[str]:
    return [step.rest for step in stage if step.word == word]


def arguments() -> dict[str, str]:
    """Return the defaults of build arguments; empty where there is none."""
    named = [step.rest.partition("=") for step in steps() if step.word == "ARG"]
    return {name: default for name, _, default in named}


def ignored(path: str) -> bool:
    """Whether .dockerignore keeps ``path`` out: the last pattern that matches it or a folder above it decides."""
    out = False
    parts = path.split("/")
    above = ["/".join(parts[:length]) for length in range(1, len(parts) + 1)]
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        pattern = line.strip()
        if not pattern or pattern.startswith("#"):
            continue
        keeps, pattern = pattern.startswith("!"), pattern.removeprefix("!")
        anywhere = pattern.removeprefix("**/")
        names = parts if anywhere != pattern else [name for name in above if name.count("/") == pattern.count("/")]
        if any(fnmatch.fnmatchcase(name, anywhere) for name in names):
            out = not keeps
    return out


def test_every_stage_begins_with_one_pinned_image_on_slim_debian() -> None:
    image = arguments()["PYTHON_IMAGE"]
    assert re.fullmatch(r"python:3\.\d+\.\d+-slim-(bookworm|trixie)(@sha256:[0-9a-f]{64})?", image)
    bases = [rest.split()[0] for stage in stages() for rest in rests(stage, "FROM")]
    assert set(bases) == {"${PYTHON_IMAGE}"}
    assert len(bases) > 1
    oldest = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"]
    assert f"python:{oldest.removeprefix('>=')}" <= image


def test_it_runs_as_a_number_that_is_not_root_and_the_chart_knows_it() -> None:
    (user,) = rests(stages()[-1], "USER")
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", user)
    security = the(rendered(), "Deployment")["spec"]["template"]["spec"]["securityContext"]
    assert user == f"{security['runAsUser']}:{security['runAsGroup']}"
    assert stages()[-1][-1].word in {"USER", "ENTRYPOINT", "CMD"}
    after = [step.word for step in stages()[-1]]
    assert "RUN" not in after[after.index("USER") :]


def test_nothing_is_fetched_but_packages() -> None:
    text = DOCKERFILE.read_text()
    assert not any(step.word == "ADD" for step in steps())
    assert "://" not in text
    assert not re.search(r"\b(curl|wget|git clone)\b", text)
    assert arguments()["TORCH_INDEX"] == arguments()["PIP_INDEX_URL"] == ""


def test_what_is_installed_is_what_is_tested() -> None:
    installs = [rest for rest in rests(stages()[0], "RUN") if "pip install" in rest]
    assert len(installs) == 2
    assert all("-c constraints.txt" in rest for rest in installs)
    (torch,) = [line for line in project()["dependencies"] if Requirement(line).name == "torch"]
    assert f'"{torch}"' in installs[0]
    assert "--no-deps" in installs[0]  # of that index, torch alone


def project() -> dict[str, list[str]]:
    found: dict[str, list[str]] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return found


def test_no_tool_that_builds_or_installs_is_left() -> None:
    text = " ".join(step.rest for step in steps())
    assert not re.search(r"\b(apt-get|apt|gcc|g\+\+|make|build-essential|cmake|rustc)\b", text)
    last = " ".join(rests(stages()[-1], "RUN"))
    assert "pip uninstall" in last
    assert "ensurepip" in last
    assert "pip uninstall --yes setuptools pip" in rests(stages()[0], "RUN")[-1]
    assert "pip install" not in last
    assert rests(stages()[-1], "COPY") == ["--from=build /app /app"]


def test_nothing_of_ours_needs_the_build_tool_that_is_taken_away() -> None:
    """Torch asks for setuptools; that it can do without, for what we use of it, is seen by importing all of ours."""
    script = """
import importlib, pkgutil, sys
for name in ("setuptools", "pkg_resources", "_distutils_hack"):
    sys.modules[name] = None
for package in ("controller", "forecasting", "policies", "simulations", "training"):
    for module in pkgutil.walk_packages(importlib.import_module(package).__path__, package + "."):
        importlib.import_module(module.name)
assert "torch" in sys.modules
"""
    ran = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr


def test_the_ports_that_the_chart_opens_are_named() -> None:
    container = the(rendered({"keda": {"enabled": True}}), "Deployment")["spec"]["template"]["spec"]["containers"][0]
    (exposed,) = rests(stages()[-1], "EXPOSE")
    assert exposed.split() == [str(port["containerPort"]) for port in container["ports"]]


def test_it_says_what_it_is() -> None:
    (label,) = rests(stages()[-1], "LABEL")
    prefix = "org.opencontainers.image."
    named = set(re.findall(rf"{re.escape(prefix)}(\w+)=", label))
    assert named == {"title", "description", "licenses", "version", "revision"}
    assert f'licenses="{project()["license"]}"' in label
    assert arguments()["VERSION"] == foresail.__version__


def test_it_writes_where_the_chart_mounts_a_volume() -> None:
    (volumes,) = rests(stages()[-1], "VOLUME")
    container = the(rendered(), "Deployment")["spec"]["template"]["spec"]["containers"][0]
    writable = {mount["mountPath"] for mount in container["volumeMounts"] if not mount.get("readOnly")}
    assert set(yaml.safe_load(volumes)) == writable
    (environment,) = rests(stages()[-1], "ENV")
    places = dict(re.findall(r"(HOME|MPLCONFIGDIR|XDG_CACHE_HOME)=(\S+)", environment))
    assert len(places) == 3
    for place in places.values():
        assert any(place == volume or place.startswith(f"{volume}/") for volume in writable), place
    assert yaml.safe_load(rests(stages()[-1], "CMD")[0]) == container["args"]


def test_what_is_copied_is_there_and_not_ignored() -> None:
    copied = [rest.split() for stage in stages()[:-1] for rest in rests(stage, "COPY")]
    sources = [source for words in copied for source in words[:-1]]
    assert {*PACKAGES, "foresail.py", "pyproject.toml", "constraints.txt"} <= set(sources)
    for source in sources:
        assert (ROOT / source).exists(), source
        assert not ignored(source), source


@pytest.mark.parametrize(
    "path",
    [".git/config", ".venv/bin/python", "foresail-runs/audit.db", "mlruns/0", "tests/conftest.py", "deploy/Dockerfile",
     "docs/live.md", ".env", "controller/__pycache__/loop.pyc", "controller/audit.db", "build/x", ".ci/run"],
)  # fmt: skip
def test_what_does_not_belong_into_an_image_is_ignored(path: str) -> None:
    assert ignored(path)
    assert not ignored("controller/signals/vllm.yaml")


def test_what_is_left_of_the_repository_makes_the_whole_wheel(tmp_path: Path) -> None:
    context = tmp_path / "context"
    for source in (path for path in ROOT.iterdir() if not ignored(path.name)):
        if source.is_dir():
            shutil.copytree(source, context / source.name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            context.mkdir(exist_ok=True)
            shutil.copy(source, context)
    assert {path.name for path in context.iterdir()} >= set(PACKAGES)
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), str(context)]
    subprocess.run(command, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    for package in PACKAGES:
        files = (f for f in (ROOT / package).rglob("*") if f.is_file() and "__pycache__" not in f.parts)
        ours = {str(file.relative_to(ROOT)) for file in files}
        assert ours <= names, package
