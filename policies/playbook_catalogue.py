"""Which playbooks come with Foresail? The packaged files, read and checked once."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path

import yaml

from policies.playbook import Playbook

_FOLDER = Path(__file__).parent / "playbooks"


@cache
def shipped_playbooks() -> Mapping[str, Playbook]:
    """Return every playbook that comes along, by name."""
    files = sorted(_FOLDER.glob("*.yaml"))
    return {file.stem: Playbook.model_validate(yaml.safe_load(file.read_text(encoding="utf-8"))) for file in files}
