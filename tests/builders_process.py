"""A command in a process of its own, as its users run it: what a test run has in memory is not counted."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def foresail_in_a_process(*arguments: str) -> str:
    """Return what the command prints; it must succeed within two minutes."""
    command = [sys.executable, "-m", "foresail", *arguments]
    ended = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False, timeout=120)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout
