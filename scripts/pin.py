"""Which exact versions are tested together: resolves pyproject.toml afresh and writes constraints.txt.

Run it with the project's own interpreter (``.venv/bin/python scripts/pin.py``), then ``make test``, then commit both.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
EXTRAS = "dev,keda,live,postgres,profiles,ray"
HEADER = f"""\
# Every package that .[{EXTRAS}] needs, in the one version that is tested.
# Written by `.venv/bin/python scripts/pin.py`, which resolves pyproject.toml afresh; never edited by hand.
# torch is named without a build suffix, so that a CPU build satisfies it as well as a CUDA build.
"""


def resolved() -> dict[str, str]:
    """Return the versions that pip would install into an empty environment, by package name."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        dry_run = ["install", "--dry-run", "--ignore-installed", "--quiet", "--report", str(report), f".[{EXTRAS}]"]
        subprocess.run([sys.executable, "-m", "pip", *dry_run], cwd=ROOT, check=True)
        found = [entry["metadata"] for entry in json.loads(report.read_text())["install"]]
    return {entry["name"]: entry["version"].split("+")[0] for entry in found if entry["name"] != "foresail"}


def main() -> None:
    """Write constraints.txt."""
    versions = sorted(resolved().items(), key=lambda pin: pin[0].lower())
    lines = "".join(f"{name}=={version}\n" for name, version in versions)
    (ROOT / "constraints.txt").write_text(HEADER + lines)
    sys.stdout.write(f"{len(versions)} packages pinned in constraints.txt\n")


if __name__ == "__main__":
    main()
