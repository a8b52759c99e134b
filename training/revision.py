"""Which code and which libraries fitted this? The git revision where there is one, else the package's version."""

from __future__ import annotations

import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

_LIBRARIES = ("torch", "numpy", "mlflow-skinny")


def code_revision() -> str:
    """Return the git revision of the checkout that this code runs from, ``+changed`` where files differ from it.

    An installed Foresail has no checkout: then it is ``foresail VERSION``, or ``unknown``.
    """
    root = Path(__file__).resolve().parents[1]
    if (root / ".git").exists():
        revision = _git(root, "rev-parse", "--short=12", "HEAD")
        if revision:
            return revision + ("+changed" if _git(root, "status", "--porcelain", "--untracked-files=no") else "")
    try:
        return f"foresail {version('foresail')}"
    except PackageNotFoundError:
        return "unknown"


def environment() -> dict[str, str]:
    """Return the versions of Python and of the libraries that a fit depends on, by name."""
    versions = {"python": platform.python_version(), "platform": platform.platform(terse=True)}
    for library in _LIBRARIES:
        try:
            versions[library] = version(library)
        except PackageNotFoundError:
            versions[library] = "absent"
    return versions


def _git(root: Path, *arguments: str) -> str:
    try:
        done = subprocess.run(  # noqa: S603 - fixed arguments, no shell
            ["git", "-C", str(root), *arguments],  # noqa: S607 - whichever git the user has
            capture_output=True,
            text=True,
            check=False,
            timeout=10,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
